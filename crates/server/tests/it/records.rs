//! What happened, looked through; and the fleet, by name and health.

use component::Role;
use component::{Condition, ConditionKind, Phase, Status};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, ends_compressed, send, settled};

fn actions(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|line| line["action"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn history_is_looked_through() {
    let rig = Rig::start().await;
    rig.flights().await;
    let ann = rig.token("ann", Role::Developer, Some("acme")).await;
    let main = "/v1/tenants/acme/steads/flights/components/postgres.main";
    send(rig.request_as(&ann, Method::GET, &format!("{main}/credentials"))).await.is(StatusCode::OK);
    let rotate = format!("{main}/rotate?reason=Ticket%2017%25");
    let operation = send(rig.request_as(&ann, Method::POST, &rotate)).await.is(StatusCode::ACCEPTED).body;
    let bad = json!({"postgres": {"main": {"engine": 17}}});
    send(rig.request_as(&ann, Method::PUT, "/v1/tenants/acme/steads/flights").json(&bad))
        .await
        .is(StatusCode::UNPROCESSABLE_ENTITY);
    let find = async |query: &str| {
        rig.get(&format!("/v1/tenants/acme/history?{query}")).await.is(StatusCode::OK).body
    };
    assert_eq!(actions(&find("actor=ann").await), ["stead.edited", "password.rotated", "credentials.shown"]);
    assert_eq!(actions(&find("actor=ann&category=access").await), ["credentials.shown"]);
    assert_eq!(actions(&find("action=password.rotated").await), ["password.rotated"]);
    assert_eq!(actions(&find("outcome=refused").await), ["stead.edited"]);
    assert_eq!(actions(&find("q=TICKET%20rotated").await), ["password.rotated"]);
    assert_eq!(actions(&find("q=17%25").await), ["password.rotated"]);
    assert_eq!(actions(&find("q=17_").await), [""; 0]);
    assert_eq!(actions(&find("category=sign_in").await), [""; 0]);
    let id = operation["id"].as_str().unwrap();
    assert_eq!(actions(&find(&format!("operation={id}")).await), ["password.rotated"]);
    assert_eq!(actions(&find("until=1h").await), [""; 0]);
    assert_eq!(find("until=2099-01-01T00:00:00Z").await, find("").await);

    // A page leads both ways, and each line has a place of its own.
    let whole = find("").await;
    let newest = find("limit=1").await;
    let older = find(&format!("limit=1&cursor={}", newest["next"].as_str().unwrap())).await;
    assert_eq!(older["items"][0], whole["items"][1]);
    let back = find(&format!("limit=1&cursor={}", older["newer"].as_str().unwrap())).await;
    assert_eq!(back["items"], newest["items"]);
    let none = find(&format!("cursor={}", back["newer"].as_str().unwrap())).await;
    assert_eq!((&none["items"], &none["newer"]), (&json!([]), &back["newer"]));
    let line = &whole["items"][2];
    let at = format!("/v1/tenants/acme/history/{}", line["id"]);
    assert_eq!(rig.get(&at).await.is(StatusCode::OK).body, *line);
    rig.put("/v1/tenants/globex", &json!({})).await.is(StatusCode::CREATED);
    rig.get(&at.replace("acme", "globex")).await.problem(404, "not-found");
    for line in ["0", "-1", "9223372036854775807"] {
        rig.get(&format!("/v1/tenants/acme/history/{line}")).await.problem(404, "not-found");
    }
    rig.get("/v1/tenants/acme/history/x").await.problem(400, "bad-request");
    for query in [
        "category=all",
        "outcome=",
        "actor=",
        "q=%00",
        "q=a%20b%20c%20d%20e%20f%20g%20h%20i%20j%20k",
        "operation=1",
        "until=soon",
        "cursor=WzEsMl0",
    ] {
        rig.get(&format!("/v1/tenants/acme/history?{query}")).await.problem(400, "bad-request");
    }
}

#[tokio::test]
async fn history_is_exported_whole() {
    let rig = Rig::start().await;
    rig.flights().await;
    let reason = "%3Dcmd%7C%27%20%2FC%20calc%27!A0%2C%20%22quoted%22";
    rig.post(
        &format!("/v1/tenants/acme/steads/flights/components/postgres.main/rotate?reason={reason}"),
        &json!({}),
    )
    .await
    .is(StatusCode::ACCEPTED);
    // More than is read at once.
    rig.db
        .connect()
        .await
        .batch_execute(
            "insert into journal (tenant_id, tenant, actor, source, action, outcome, salt, payload_hash)
             select id, name, '@sum(A1)', 'test', 'server.woken', 'noted', '', ''
             from tenants, generate_series(1, 2500)",
        )
        .await
        .unwrap();
    let lines = rig.get("/v1/tenants/acme/history?limit=500").await.body["items"].clone();
    let export = "/v1/tenants/acme/history-export";
    let answer = rig.get(export).await.is(StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"acme-history.ndjson\"");
    let text = answer.body.as_str().unwrap();
    let exported: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(exported.len() > 2_500);
    assert_eq!(exported[..500], lines.as_array().unwrap()[..]);
    let mut ids: Vec<i64> = exported.iter().map(|line| line["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), exported.len(), "each line once");

    let answer = rig.get(&format!("{export}?format=csv")).await.is(StatusCode::OK);
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    let text = answer.body.as_str().unwrap().to_owned();
    assert!(text.starts_with("id,at,tenant,stead,component,category,action,outcome,actor,"));
    assert_eq!(text.lines().count(), exported.len() + 1);
    assert!(text.contains(",'@sum(A1),test,") && !text.contains(",@sum"), "no cell is a formula");
    assert!(text.contains("\"'=cmd|' /C calc'!A0, \"\"quoted\"\"\""), "{}", &text[text.len() - 2_000..]);
    let one = rig.get(&format!("{export}?format=csv&action=password.rotated")).await.is(StatusCode::OK);
    assert_eq!(one.body.as_str().unwrap().lines().count(), 2);
    ends_compressed(rig.request(Method::GET, export)).await;
    rig.get(&format!("{export}?format=xlsx")).await.problem(400, "bad-request");
    rig.get("/v1/tenants/nobody/history-export").await.problem(404, "not-found");
}

#[tokio::test]
async fn the_fleet_is_looked_through_by_name_and_health() {
    let rig = Rig::start().await;
    for (tenant, stead, app) in
        [("acme", "shop", "store"), ("acme", "blog", "blog"), ("globex", "shop", "x-y")]
    {
        let body = json!({"app": app, "postgres": {"main": {"protect": false}}});
        rig.put(&format!("/v1/tenants/{tenant}/steads/{stead}"), &body).await.is(StatusCode::ACCEPTED);
    }
    let names = async |path: &str| {
        let page = rig.get(path).await.is(StatusCode::OK).body;
        let steads = page["items"].as_array().unwrap().iter();
        let name = |stead: &Value| {
            format!("{}/{}", stead["tenant"].as_str().unwrap(), stead["name"].as_str().unwrap())
        };
        steads.map(name).collect::<Vec<_>>()
    };
    for (q, found) in [
        ("shop", &["acme/shop", "globex/shop"][..]),
        ("ACME", &["acme/blog", "acme/shop"]),
        ("acme%20shop", &["acme/shop"]),
        ("acme/s", &["acme/shop"]),
        ("store", &["acme/shop"]),
        ("x-y", &["globex/shop"]),
        ("x_y", &[]),
        ("x%25y", &[]),
        ("%20", &["acme/blog", "acme/shop", "globex/shop"]),
    ] {
        assert_eq!(names(&format!("/v1/steads?q={q}")).await, found, "{q}");
    }
    assert_eq!(names("/v1/tenants/acme/steads?q=shop").await, ["acme/shop"]);

    // Each of them is doing otherwise, and what is told of one stead is what they are looked through by.
    let health =
        async |query: &str| rig.get(&format!("/v1/steads/health{query}")).await.is(StatusCode::OK).body;
    let counts = |asleep: i64, ready: i64, busy: i64, deleting: i64, attention: i64| {
        json!({"steads": asleep + ready + busy + deleting + attention, "asleep": asleep, "ready": ready,
               "busy": busy, "deleting": deleting, "attention": attention})
    };
    assert_eq!(health("").await, counts(0, 0, 3, 0, 0));
    while let Some(lease) = rig.store.claim(crate::rig::HOST).await.unwrap() {
        let mut record = settled(&lease);
        match (lease.tenant.1.as_str(), lease.stead.as_str()) {
            ("acme", "shop") => record.status.asleep = true,
            ("acme", _) => {
                let message = "the disk is nearly full".to_owned();
                record.status.conditions = vec![Condition { kind: ConditionKind::DiskFull, message }];
            }
            _ => {}
        }
        rig.store.record(lease, record).await.unwrap();
    }
    assert_eq!(health("").await, counts(1, 1, 0, 0, 1));
    assert_eq!(health("?tenant=acme").await, counts(1, 0, 0, 0, 1));
    assert_eq!(health("?q=shop").await, counts(1, 1, 0, 0, 0));
    assert_eq!(names("/v1/steads?health=asleep").await, ["acme/shop"]);
    assert_eq!(names("/v1/steads?health=ready").await, ["globex/shop"]);
    assert_eq!(names("/v1/steads?health=attention&q=blog").await, ["acme/blog"]);
    assert_eq!(names("/v1/steads?health=attention&limit=1").await, ["acme/blog"]);
    assert_eq!(rig.get("/v1/tenants/acme/steads/shop").await.body["health"], "asleep");
    rig.delete("/v1/tenants/globex/steads/shop").await.is(StatusCode::ACCEPTED);
    assert_eq!(health("").await, counts(1, 0, 0, 1, 1));
    // A look that fails, at what is being removed or not, is somebody's business.
    while let Some(lease) = rig.store.claim(crate::rig::HOST).await.unwrap() {
        let mut record = settled(&lease);
        record.status = Status { phase: Phase::Deleting, ..Status::default() };
        (record.settled, record.error) = (false, Some("the keeper does not answer".into()));
        rig.store.record(lease, record).await.unwrap();
    }
    assert_eq!(names("/v1/steads?health=attention").await, ["acme/blog", "globex/shop"]);

    let viewer = rig.token("v", Role::Viewer, Some("acme")).await;
    let own = send(rig.request_as(&viewer, Method::GET, "/v1/steads/health")).await.is(StatusCode::OK);
    assert_eq!(own.body, counts(1, 0, 0, 0, 1));
    let path = "/v1/steads/health?tenant=globex";
    send(rig.request_as(&viewer, Method::GET, path)).await.problem(404, "not-found");
    rig.get("/v1/steads/health?tenant=nobody").await.problem(404, "not-found");
    for query in ["health=fine", "health=", "q=", "q=%00"] {
        rig.get(&format!("/v1/steads?{query}")).await.problem(400, "bad-request");
    }
}

#[tokio::test]
async fn components_from_before_there_was_a_health_get_one() {
    let rig = Rig::start().await;
    rig.flights().await;
    let sql = rig.db.connect().await;
    sql.batch_execute("update components set health = null").await.unwrap();
    rig.db.store().await.close().await;
    let health: String = sql.query_one("select health::text from components", &[]).await.unwrap().get(0);
    assert_eq!(health, "ready");
    // And what is worse in the one order is worse in the other.
    let rows = sql.query("select unnest(enum_range(null::health))::text", &[]).await.unwrap();
    let order: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(order, component::Health::ALL.map(component::Health::as_str));
}
