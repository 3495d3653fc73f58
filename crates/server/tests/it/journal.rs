//! What is on record: every refusal, and nothing that was not tried.

use component::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, send};

const FLIGHTS: &str = "/v1/tenants/acme/steads/flights";

/// The newest line of a tenant: action, outcome and reason.
async fn newest(rig: &Rig) -> (Value, Value, String) {
    let line = rig.history("acme").await.remove(0);
    (line["action"].clone(), line["outcome"].clone(), line["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn every_refused_edit_is_on_record() {
    let rig = Rig::start().await;
    let viewer = rig.token("v", Role::Viewer, Some("acme")).await;
    rig.put(FLIGHTS, &json!({"postgres": {"main": {}}})).await.is(StatusCode::ACCEPTED);
    rig.reconcile().await;
    let rotate = format!("{FLIGHTS}/components/postgres.main/rotate");
    let show = format!("{FLIGHTS}/components/postgres.main/credentials");
    let large = json!({"postgres": {"a": {"size": "large"}, "b": {"size": "large"}, "c": {"size": "large"}}});
    let tries: Vec<(reqwest::RequestBuilder, u16, &str)> = vec![
        (rig.request(Method::PUT, FLIGHTS).json(&json!({"x": 1})), 422, "stead.edited"),
        (
            rig.request(Method::PUT, FLIGHTS).json(&json!({"postgres": {"main": {"engine": 15}}})),
            422,
            "stead.edited",
        ),
        (rig.request(Method::PUT, FLIGHTS).json(&json!({})), 409, "stead.edited"),
        (rig.request(Method::PUT, FLIGHTS).header("if-match", "\"7\"").json(&json!({})), 412, "stead.edited"),
        (rig.request(Method::PUT, "/v1/tenants/acme/steads/other").json(&large), 409, "stead.edited"),
        (rig.request_as(&viewer, Method::PUT, FLIGHTS).json(&json!({})), 403, "stead.edited"),
        (rig.request(Method::DELETE, FLIGHTS), 409, "stead.removed"),
        (rig.request_as(&viewer, Method::DELETE, FLIGHTS), 403, "stead.removed"),
        (rig.request_as(&viewer, Method::POST, &rotate), 403, "password.rotated"),
        (rig.request_as(&viewer, Method::GET, &show), 403, "credentials.shown"),
        (rig.request_as(&viewer, Method::PUT, "/v1/tenants/acme").json(&json!({})), 403, "tenant.edited"),
        (rig.request(Method::PUT, "/v1/tenants/acme").json(&json!({"quota": 1})), 422, "tenant.edited"),
        (rig.request(Method::DELETE, "/v1/tenants/acme"), 409, "tenant.removed"),
        (rig.request_as(&viewer, Method::DELETE, "/v1/tenants/acme"), 403, "tenant.removed"),
        (rig.request_as(&viewer, Method::POST, "/v1/tokens").json(&json!({})), 403, "token.created"),
        (
            rig.request_as(&viewer, Method::DELETE, "/v1/tokens/00000000-0000-4000-8000-000000000000"),
            403,
            "token.revoked",
        ),
    ];
    for (request, status, action) in tries {
        let before = rig.history("acme").await.len();
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{action}: {}", answer.body);
        assert_eq!(rig.history("acme").await.len(), before + 1, "{action} {status}");
        let (newest, outcome, reason) = newest(&rig).await;
        assert_eq!((newest, outcome), (json!(action), json!("refused")));
        assert_eq!(reason, answer.body["detail"].as_str().unwrap());
    }
    // The stead is as it was.
    assert_eq!(rig.get(FLIGHTS).await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn what_was_not_understood_is_no_edit() {
    let rig = Rig::start().await;
    rig.flights().await;
    let before = rig.history("acme").await.len();
    send(rig.request(Method::PUT, FLIGHTS).header("content-type", "application/json").body("{"))
        .await
        .problem(400, "bad-request");
    send(rig.request(Method::PUT, FLIGHTS).body("{}")).await.problem(415, "unsupported-media-type");
    rig.put(&format!("{FLIGHTS}?wait=x"), &json!({})).await.problem(400, "bad-request");
    rig.delete("/v1/tenants/acme/steads/none").await.problem(404, "not-found");
    assert_eq!(rig.history("acme").await.len(), before);
}

#[tokio::test]
async fn a_refusal_keeps_what_was_wanted_but_no_sql() {
    let rig = Rig::start().await;
    rig.flights().await;
    let schema = json!([{"name": "1.sql", "sql": "create role x password 's3cret'"}]);
    let body = json!({"postgres": {"main": {"size": "hu\u{0}ge", "schema": schema}}});
    rig.put(FLIGHTS, &body).await.problem(422, "invalid");
    let line = rig.history("acme").await.remove(0);
    assert!(!line.to_string().contains("s3cret"), "{line}");
    let wanted = &line["differences"][0];
    assert_eq!(wanted["field"], "postgres.main.schema");
    assert_eq!(wanted["after"], json!([{"name": "1.sql"}]));
    // A long one is refused all the same, and on record without what was wanted.
    let body = json!({"postgres": {"main": {"owner": "x".repeat(100_000)}}});
    rig.put(FLIGHTS, &body).await.problem(422, "invalid");
    let line = rig.history("acme").await.remove(0);
    assert_eq!((&line["outcome"], &line["differences"]), (&json!("refused"), &json!([])));
}

#[tokio::test]
async fn a_refusal_in_a_tenant_that_is_not_there_names_it() {
    let rig = Rig::start().await;
    rig.put("/v1/tenants/fresh/steads/x", &json!({"y": 1})).await.problem(422, "invalid");
    let line = rig.get("/v1/history?limit=1").await.is(StatusCode::OK).body["items"][0].clone();
    assert_eq!((&line["outcome"], &line["tenant"]), (&json!("refused"), &json!(null)));
    assert!(line["reason"].as_str().unwrap().starts_with("in tenant `fresh`"), "{line}");
    rig.get("/v1/tenants/fresh").await.problem(404, "not-found");
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_on_record_all_the_same() {
    let rig = Rig::start().await;
    rig.flights().await;
    let before = rig.history("acme").await.len();
    // The tenant's row is held, so that the edit has to wait while its caller goes.
    let mut client = rig.db.connect().await;
    let held = client.transaction().await.unwrap();
    held.execute("select from tenants where name = 'acme' for update", &[]).await.unwrap();
    let call = tokio::spawn(send(rig.request(Method::PUT, FLIGHTS).json(&json!({"postgres": {"main": {}}}))));
    let watcher = rig.db.connect().await;
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    while watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    held.rollback().await.unwrap();
    while rig.history("acme").await.len() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.history("acme").await[0]["action"], "component.edited");
}
