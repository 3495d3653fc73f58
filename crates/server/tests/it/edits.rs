//! Making, editing, planning and removing steads.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, send};

const FLIGHTS: &str = "/v1/tenants/acme/steads/flights";

#[tokio::test]
async fn one_call_makes_tenant_stead_and_server() {
    let rig = Rig::start().await;
    let _reconciling = rig.reconciling();
    let made = send(rig.request(Method::PUT, &format!("{FLIGHTS}?wait=30s"))).await.is(StatusCode::CREATED);
    assert_eq!(made.header("etag"), "\"1\"");
    assert_eq!(made.body["operation"]["state"], "succeeded");
    assert_eq!(made.body["app"], "flights");
    let server = &made.body["components"][0];
    assert_eq!((&server["name"], &server["phase"]), (&json!("postgres.main"), &json!("ready")));
    assert_eq!(server["endpoint"]["port"], 30_000);
    assert_eq!((&server["spec"]["engine"], &server["spec"]["size"]), (&json!(18), &json!("small")));

    let again = send(rig.request(Method::PUT, &format!("{FLIGHTS}?wait=30s"))).await.is(StatusCode::OK);
    assert_eq!(again.header("etag"), "\"1\"");
    assert_eq!(again.body.get("operation"), None, "nothing was left to be done");

    let body = json!({"app": "air", "postgres": {"main": {"size": "nano", "maintenance": "sun 03:00-05:00 Asia/Tokyo"}}});
    let edited = rig.put(&format!("{FLIGHTS}?wait=30s&reason=smaller"), &body).await.is(StatusCode::OK);
    assert_eq!(edited.header("etag"), "\"2\"");
    assert_eq!(edited.body["app"], "air");
    assert!(edited.body["components"][0]["maintenance_at"].is_string());
    let line = &rig.history("acme").await[0];
    assert_eq!((&line["action"], &line["reason"]), (&json!("component.edited"), &json!("smaller")));
    assert!(line["source"].as_str().unwrap().starts_with("127.0.0.1 test/1"), "{line}");
    let fields: Vec<_> = line["differences"].as_array().unwrap().iter().map(|d| d["field"].clone()).collect();
    assert_eq!(fields, ["maintenance", "size"]);
}

#[tokio::test]
async fn without_waiting_the_answer_is_that_it_runs() {
    let rig = Rig::start().await;
    let made = send(rig.request(Method::PUT, FLIGHTS)).await.is(StatusCode::ACCEPTED);
    assert_eq!(made.body["operation"]["state"], "running");
    assert_eq!(made.body["operation"]["targets"][0]["component"], "postgres.main");
    // Who repeats the call while it runs hears of the operation that runs.
    let again = send(rig.request(Method::PUT, FLIGHTS)).await.is(StatusCode::ACCEPTED);
    assert_eq!(again.body["operation"]["id"], made.body["operation"]["id"]);
    rig.reconcile().await;
    let id = made.body["operation"]["id"].as_str().unwrap();
    let ended = rig.get(&format!("/v1/tenants/acme/operations/{id}")).await.is(StatusCode::OK);
    assert_eq!(ended.body["state"], "succeeded");
}

#[tokio::test]
async fn a_stead_may_be_empty() {
    let rig = Rig::start().await;
    let made = rig.put(FLIGHTS, &json!({})).await.is(StatusCode::CREATED);
    assert_eq!(made.body["components"], json!([]));
    let gone = rig.delete(FLIGHTS).await.is(StatusCode::OK);
    assert_eq!(gone.body["state"], "succeeded");
    rig.get(FLIGHTS).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_plan_is_what_the_edit_then_does() {
    let rig = Rig::start().await;
    let plan = |body: Value| {
        let rig = &rig;
        async move { rig.post(&format!("{FLIGHTS}/plan"), &body).await.is(StatusCode::OK).body }
    };
    let wanted = json!({"postgres": {"main": {"protect": false}}});
    let first = plan(wanted.clone()).await;
    assert_eq!((&first["generation"], &first["changes"][0]["action"]), (&json!(0), &json!("create")));
    assert_eq!(first["changes"][0]["restarts"], false);
    rig.get("/v1/tenants/acme").await.problem(404, "not-found");
    rig.flights().await;
    let same = plan(wanted).await;
    assert_eq!((&same["generation"], &same["changes"][0]["action"]), (&json!(1), &json!("keep")));

    let bigger = json!({"postgres": {"main": {"protect": false, "size": "medium"}, "other": {}}});
    let planned = plan(bigger.clone()).await;
    assert_eq!(planned["generation"], 1);
    let of = |name: &str| {
        planned["changes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|change| change["component"] == name)
            .unwrap()
            .clone()
    };
    let main = of("postgres.main");
    assert_eq!((&main["action"], &main["restarts"]), (&json!("update"), &json!(true)));
    assert_eq!(main["differences"], json!([{"field": "size", "before": "small", "after": "medium"}]));
    assert_eq!(of("postgres.other")["action"], "create");
    let allowed = plan(json!({"postgres": {"main": {"protect": false, "allow": ["10.0.0.0/8"]}}})).await;
    assert_eq!(allowed["changes"][0]["restarts"], false);
    // A plan changed nothing, not even the number of the next edit.
    assert_eq!(rig.put(FLIGHTS, &bigger).await.is(StatusCode::ACCEPTED).body["generation"], 2);
    let removal = plan(json!({"postgres": {"other": {}}})).await;
    assert_eq!(removal["changes"][1]["action"], "delete");
    rig.post(&format!("{FLIGHTS}/plan"), &json!({})).await.problem(409, "protected");
}

#[tokio::test]
async fn an_edit_insists_on_what_its_author_saw() {
    let rig = Rig::start().await;
    let put = |header: &'static str, tag: &'static str, size: &'static str| {
        let body = json!({"postgres": {"main": {"size": size}}});
        send(rig.request(Method::PUT, FLIGHTS).header(header, tag).json(&body))
    };
    put("if-match", "\"1\"", "nano").await.problem(412, "moved");
    put("if-match", "*", "nano").await.problem(412, "moved");
    put("if-none-match", "*", "nano").await.is(StatusCode::ACCEPTED);
    put("if-none-match", "*", "small").await.problem(412, "moved");
    put("if-match", "\"1\"", "small").await.is(StatusCode::ACCEPTED);
    let moved = put("if-match", "\"1\"", "medium").await.problem(412, "moved");
    assert!(moved["detail"].as_str().unwrap().contains("generation 2"), "{moved}");
    put("if-match", "W/\"2\"", "medium").await.problem(412, "moved");
    put("if-match", "*", "medium").await.is(StatusCode::ACCEPTED);
    put("if-none-match", "\"3\"", "large").await.problem(400, "bad-request");
    let delete = |tag: &'static str| {
        send(rig.request(Method::DELETE, &format!("{FLIGHTS}?unprotect=true")).header("if-match", tag))
    };
    delete("\"2\"").await.problem(412, "moved");
    delete("\"3\"").await.is(StatusCode::ACCEPTED);
}

#[tokio::test]
async fn wrong_fields_are_told_at_once_with_their_place() {
    let rig = Rig::start().await;
    let body = json!({"postgres": {"main": {"size": "huge", "engine": 9, "allow": ["10.0.0.1/8"]}, "Ü": {}}, "x": 1});
    let problem = rig.put(FLIGHTS, &body).await.problem(422, "invalid");
    let mut pointers: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    pointers.sort_unstable();
    let wrong =
        ["/postgres/main/allow/0", "/postgres/main/engine", "/postgres/main/size", "/postgres/Ü", "/x"];
    assert_eq!(pointers, wrong);
    // What only the world can tell has the same form.
    let body = json!({"postgres": {"main": {"engine": 17}}});
    let problem = rig.put(FLIGHTS, &body).await.problem(422, "invalid");
    assert_eq!(problem["errors"][0]["pointer"], "/postgres/main/engine");
    assert!(problem["detail"].as_str().unwrap().contains("installed are 15, 18"), "{problem}");
    rig.flights().await;
    let body = json!({"postgres": {"main": {"engine": 15}}});
    let problem = rig.put(FLIGHTS, &body).await.problem(422, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("downgrade"), "{problem}");
}

#[tokio::test]
async fn a_quota_names_the_number_and_the_limit() {
    let rig = Rig::start().await;
    let quota = json!({"quota": {"servers": 2, "memory_mib": 4096, "disk_mib": 30_000}});
    let tenant = rig.put("/v1/tenants/acme", &quota).await.is(StatusCode::CREATED);
    assert_eq!(tenant.body["quota"], quota["quota"]);
    rig.flights().await;
    let three = json!({"postgres": {"main": {"protect": false}, "b": {}, "c": {}}});
    let problem = rig.put(FLIGHTS, &three).await.problem(409, "quota-exceeded");
    assert!(
        problem["detail"].as_str().unwrap().contains("may have 2 servers, and this would make it 3"),
        "{problem}"
    );
    let large = json!({"postgres": {"main": {"size": "large"}}});
    let problem = rig.put(FLIGHTS, &large).await.problem(409, "quota-exceeded");
    assert!(problem["detail"].as_str().unwrap().contains("4096 MiB of memory"), "{problem}");
    // Another stead of the tenant counts too.
    let two = json!({"postgres": {"a": {}, "b": {}}});
    rig.put("/v1/tenants/acme/steads/other", &two).await.problem(409, "quota-exceeded");
    // Who is over a lowered quota may still shrink.
    let low = json!({"quota": {"servers": 0, "memory_mib": 0, "disk_mib": 0}});
    rig.put("/v1/tenants/acme", &low).await.is(StatusCode::OK);
    let nano = json!({"postgres": {"main": {"size": "nano", "protect": false}}});
    rig.put(FLIGHTS, &nano).await.is(StatusCode::ACCEPTED);
}

#[tokio::test]
async fn what_is_protected_is_not_removed_by_accident() {
    let rig = Rig::start().await;
    let one = json!({"postgres": {"main": {}}});
    rig.put(FLIGHTS, &one).await.is(StatusCode::ACCEPTED);
    rig.reconcile().await;
    rig.put(FLIGHTS, &json!({})).await.problem(409, "protected");
    rig.delete(FLIGHTS).await.problem(409, "protected");
    let _reconciling = rig.reconciling();
    let gone = rig.delete(&format!("{FLIGHTS}?unprotect=true&wait=30s&reason=over")).await.is(StatusCode::OK);
    assert_eq!((&gone.body["kind"], &gone.body["state"]), (&json!("delete"), &json!("succeeded")));
    rig.get(FLIGHTS).await.problem(404, "not-found");
    rig.delete(FLIGHTS).await.problem(404, "not-found");
    let history = rig.history("acme").await;
    let actions: Vec<_> = history.iter().map(|line| line["action"].as_str().unwrap()).collect();
    let done = [
        "component.removed",
        "component.deletion_requested",
        "component.edited",
        "stead.removed",
        "stead.edited",
    ];
    assert_eq!(actions[..5], done);
    assert_eq!(history[2]["differences"], json!([{"field": "protect", "before": true, "after": false}]));
}

#[tokio::test]
async fn removing_what_is_being_removed_is_fine() {
    let rig = Rig::start().await;
    rig.flights().await;
    let first = rig.delete(FLIGHTS).await.is(StatusCode::ACCEPTED);
    assert_eq!(rig.get(FLIGHTS).await.body["components"][0]["phase"], "deleting");
    let second = rig.delete(FLIGHTS).await.is(StatusCode::ACCEPTED);
    assert_ne!(first.body["id"], second.body["id"]);
    let one = json!({"postgres": {"main": {}}});
    rig.put(FLIGHTS, &one).await.problem(409, "deleting");
    let rotate = format!("{FLIGHTS}/components/postgres.main/rotate");
    send(rig.request(Method::POST, &rotate)).await.problem(409, "deleting");
    rig.reconcile().await;
    for operation in [first, second] {
        let id = operation.body["id"].as_str().unwrap();
        let ended = rig.get(&format!("/v1/tenants/acme/operations/{id}")).await;
        assert_eq!(ended.body["state"], "succeeded");
    }
    // Its name is free again, and so is its port.
    assert_eq!(rig.flights().await["components"][0]["endpoint"]["port"], 30_000);
}

#[tokio::test]
async fn a_component_is_seen_and_its_password_shown_and_rotated() {
    let rig = Rig::start().await;
    rig.put(FLIGHTS, &json!({"postgres": {"main": {}}})).await.is(StatusCode::ACCEPTED);
    let at = format!("{FLIGHTS}/components/postgres.main");
    rig.get(&format!("{at}/credentials")).await.problem(409, "not-ready");
    rig.reconcile().await;
    assert_eq!(rig.get(&at).await.is(StatusCode::OK).body["version"], "18.6");
    let first = rig.get(&format!("{at}/credentials")).await.is(StatusCode::OK);
    assert_eq!(first.header("cache-control"), "no-store");
    assert_eq!((&first.body["database"], &first.body["role"]), (&json!("main"), &json!("owner")));
    assert_eq!(first.body["password"].as_str().unwrap().len(), 32);

    let running = send(rig.request(Method::POST, &format!("{at}/rotate"))).await.is(StatusCode::ACCEPTED);
    assert_eq!(running.body["kind"], "rotate");
    let _reconciling = rig.reconciling();
    let ended = send(rig.request(Method::POST, &format!("{at}/rotate?wait=30s&reason=leak")))
        .await
        .is(StatusCode::OK);
    assert_eq!(ended.body["state"], "succeeded");
    let second = rig.get(&format!("{at}/credentials")).await.is(StatusCode::OK);
    assert_ne!(first.body["password"], second.body["password"]);

    let history = rig.history("acme").await;
    assert_eq!(history[0]["action"], "credentials.shown");
    assert_eq!((&history[1]["action"], &history[1]["reason"]), (&json!("password.rotated"), &json!("leak")));
    assert_eq!(history[1]["differences"], json!([{"field": "version", "before": 2, "after": 3}]));
    let text = json!(history).to_string();
    for answer in [&first, &second] {
        assert!(!text.contains(answer.body["password"].as_str().unwrap()), "a password is in the history");
    }
    for (path, status) in [("postgres.none", 404), ("mysql.main", 400), ("postgres", 400)] {
        assert_eq!(rig.get(&format!("{FLIGHTS}/components/{path}")).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn nothing_is_made_without_a_host_or_a_port() {
    let rig = Rig::without_host().await;
    let answer = rig.put(FLIGHTS, &json!({})).await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.problem(503, "unavailable");
    rig.put_host(true).await;
    rig.db.connect().await.batch_execute("update hosts set port_last = port_first").await.unwrap();
    let two = json!({"postgres": {"a": {}, "b": {}}});
    let problem = rig.put(FLIGHTS, &two).await.problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("--ports"), "{problem}");
}

#[tokio::test]
async fn a_host_that_cannot_keep_tenants_apart_takes_one() {
    let rig = Rig::without_host().await;
    rig.put_host(false).await;
    rig.flights().await;
    let problem = rig.put("/v1/tenants/globex/steads/x", &json!({})).await.problem(409, "in-use");
    assert!(problem["detail"].as_str().unwrap().contains("acme"), "{problem}");
}

#[tokio::test]
async fn migrations_come_with_the_body_and_are_found_by_hash() {
    let rig = Rig::start().await;
    let sql = "create table airports (faa text primary key)";
    let body = json!({"postgres": {"main": {"schema": [{"name": "0001_tables.sql", "sql": sql}]}}});
    let made = rig.put(FLIGHTS, &body).await.is(StatusCode::ACCEPTED);
    assert_eq!(made.body["components"][0]["spec"]["schema"][0]["name"], "0001_tables.sql");
    let lease = rig.store.claim(crate::rig::HOST).await.unwrap().unwrap();
    let component::Spec::Postgres(spec) = &lease.target.spec else { panic!("a server") };
    assert_eq!(lease.target.files.read(&spec.schema[0].sha256).await.unwrap(), sql);
    assert!(lease.target.files.read("00").await.is_err());
}
