//! The page of a transfer's lake, and SQL for it, as far as they go without a lake behind them.

use component::transfer::{Behind, Progress, Table, TableState};
use component::{Kind, Role};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::database_page::{form, visit, visitor};
use crate::rig::{HOST, Rig, send, settled};

const STEAD: &str = "/tenants/acme/steads/shop";
const AT: &str = "/tenants/acme/steads/shop/components/transfer.lake/database";
const API: &str = "/v1/tenants/acme/steads/shop/components";

/// With a stead that has a lake, whose transfer says this of itself.
async fn rig(progress: Option<Progress>) -> Rig {
    rig_of(progress, json!({"from": "postgres.main"})).await
}

/// The same with any transfer.
async fn rig_of(progress: Option<Progress>, transfer: Value) -> Rig {
    let rig = Rig::start().await;
    let body = json!({"postgres": {"main": {}}, "transfer": {"lake": transfer}});
    rig.put("/v1/tenants/acme/steads/shop", &body).await.is(StatusCode::ACCEPTED);
    while let Some(lease) = rig.store.claim(HOST).await.unwrap() {
        let mut record = settled(&lease);
        if lease.component.name.kind == Kind::Transfer {
            record.status.transfer = progress.clone();
        }
        rig.store.record(lease, record).await.unwrap();
    }
    rig
}

fn table(name: &str, state: TableState, why: Option<&str>) -> Table {
    Table {
        name: name.into(),
        state,
        rows: Some(336_776),
        copying: None,
        changes: 1_000,
        why: why.map(str::to_owned),
    }
}

#[tokio::test]
async fn who_may_read_data_asks_the_lake_and_who_may_edit_has_it_copied_anew() {
    let rig = rig(None).await;
    for (role, reads, edits) in [
        (Role::Operator, true, true),
        (Role::Owner, true, true),
        (Role::Developer, true, true),
        (Role::Viewer, true, false),
        (Role::Support, false, false),
        (Role::Auditor, false, false),
    ] {
        let cookie = visitor(&rig, &format!("{role}@example.com"), role).await;
        let stead = visit(&rig, &cookie, STEAD).await.is(StatusCode::OK);
        assert_eq!(stead.body.as_str().unwrap().contains(AT), reads, "{role}");
        let page = visit(&rig, &cookie, AT).await;
        assert_eq!(page.status, if reads { 200 } else { 403 }, "{role}");
        let text = page.body.as_str().unwrap();
        assert_eq!(text.contains("Questions alone"), reads, "{role}: {text}");
        assert_eq!(text.contains("value=\"parquet\""), reads, "{role}: {text}");
        assert_eq!(text.contains("Copy everything anew"), edits, "{role}: {text}");
        assert!(!text.contains("name=\"read_only\""), "{role}: {text}");
        let part = visit(&rig, &cookie, &format!("{AT}/lake")).await;
        assert_eq!(part.status, if reads { 200 } else { 403 }, "{role}");
        let anew = form(&rig, &cookie, &format!("{AT}/resync"), "same-origin", "").send().await.unwrap();
        if edits {
            assert!(anew.url().path().starts_with("/tenants/acme/runs/"), "{role}: {}", anew.url());
            rig.reconcile().await;
        } else {
            assert_eq!(anew.status(), 403, "{role}");
        }
    }
    let asked = rig.history("acme").await;
    let asked = asked.iter().filter(|line| line["action"] == "component.resync_requested");
    assert_eq!(asked.map(|line| line["outcome"].clone()).filter(|outcome| outcome == "refused").count(), 3);
}

#[tokio::test]
async fn a_new_beginning_is_asked_for_on_a_page_of_ours_alone() {
    let rig = rig(None).await;
    let cookie = visitor(&rig, "ann@example.com", Role::Owner).await;
    for site in ["cross-site", "same-site", "none"] {
        let sent = send(form(&rig, &cookie, &format!("{AT}/resync"), site, "")).await;
        assert_eq!(sent.status, 403, "{site}");
    }
    let server = AT.replace("transfer.lake", "postgres.main");
    let sent = send(form(&rig, &cookie, &format!("{server}/resync"), "same-origin", "")).await;
    assert!(sent.body.as_str().unwrap().contains("is no transfer"), "{}", sent.body);
}

/// Who asks for what is in a bucket is told where that is, on the page and by the API.
#[tokio::test]
async fn a_bucket_is_asked_elsewhere() {
    let to = json!({"bucket": "s3://acme-lake/flights", "region": "eu-central-1", "key": "K", "secret": "S"});
    let rig = rig_of(None, json!({"from": "postgres.main", "to": to})).await;
    let cookie = visitor(&rig, "ann@example.com", Role::Owner).await;
    let stead = visit(&rig, &cookie, STEAD).await.is(StatusCode::OK);
    assert!(stead.body.as_str().unwrap().contains("s3://acme-lake/flights"), "{}", stead.body);
    let page = visit(&rig, &cookie, AT).await.is(StatusCode::OK);
    let text = page.body.as_str().unwrap();
    assert!(
        text.contains("<code>s3://acme-lake/flights</code>") && text.contains("Copy everything anew"),
        "{text}"
    );
    assert!(!text.contains("id=\"ask\"") && !text.contains("editor.js"), "{text}");
    assert!(text.contains("<details class=\"card\" hidden><summary><h2>Your queries"), "{text}");
    let told = "the tables of transfer.lake are in s3://acme-lake/flights";
    let credentials = rig.request(Method::GET, &format!("{API}/transfer.lake/credentials"));
    let refused = send(credentials).await.problem(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains(told), "{refused}");
    let sql =
        rig.request(Method::POST, &format!("{API}/transfer.lake/query")).json(&json!({"sql": "select 1"}));
    let refused = send(sql).await.problem(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains(told), "{refused}");
}

#[tokio::test]
async fn the_page_says_how_the_transfer_stands() {
    let tables = vec![
        table("public.flights", TableState::Following, None),
        table("public.<script>alert(1)</script>", TableState::Stopped, Some("it has no <b>key</b>")),
    ];
    let behind = Behind { ms: 90_500, bytes: 3 << 20, kept_bytes: 16 << 20, room_bytes: Some(1 << 30) };
    let progress = Progress {
        at: Timestamp::now(),
        tables,
        behind: Some(behind),
        trouble: Some("the <i>slot</i> is gone".into()),
        stopped: true,
        ..Progress::default()
    };
    let rig = rig(Some(progress)).await;
    let cookie = visitor(&rig, "ann@example.com", Role::Viewer).await;
    for path in [AT.to_owned(), format!("{AT}/lake")] {
        let page = visit(&rig, &cookie, &path).await.is(StatusCode::OK);
        let text = page.body.as_str().unwrap();
        for part in [
            "public.* of postgres.main",
            "stream: every committed change exactly once",
            "91 s, 3.0 MiB of the server&#39;s log",
            "16 MiB; 1.0 GiB more at most",
            "1 stopped, 1 following",
            "it has no &#60;b&#62;key",
            "336,776",
            "the &#60;i&#62;slot",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("<script>alert") && !text.contains(" style="), "{text}");
        // Who needs somebody stands first.
        assert!(text.find("alert(1)").unwrap() < text.find("public.flights").unwrap(), "{text}");
    }
    // The page of a server knows nothing of it.
    let server = AT.replace("transfer.lake", "postgres.main");
    let page = visit(&rig, &cookie, &server).await.is(StatusCode::OK);
    let text = page.body.as_str().unwrap();
    assert!(!text.contains("value=\"parquet\"") && !text.contains("Questions alone"), "{text}");
}

#[tokio::test]
async fn sql_goes_where_it_is_answered() {
    let rig = rig(None).await;
    let ask = async |token: &str, component: &str, accept: &str, body: serde_json::Value| {
        let path = format!("{API}/{component}/query");
        send(rig.request_as(token, Method::POST, &path).header("accept", accept).json(&body)).await
    };
    let sql = json!({"sql": "select 1"});
    let viewer = rig.token("viewer", Role::Viewer, Some("acme")).await;
    let auditor = rig.token("auditor", Role::Auditor, Some("acme")).await;
    ask(&auditor, "transfer.lake", "*/*", sql.clone()).await.problem(403, "forbidden");
    let (arrow, parquet) = ("application/vnd.apache.arrow.stream", "application/vnd.apache.parquet");
    for accept in ["*/*", "text/csv", arrow, parquet] {
        // There is no lake here, but it was tried.
        ask(&viewer, "transfer.lake", accept, sql.clone()).await.problem(503, "unavailable");
    }
    for accept in [arrow, parquet] {
        let refused = ask(&viewer, "postgres.main", accept, sql.clone()).await.problem(422, "invalid");
        assert!(refused["detail"].as_str().unwrap().contains("a transfer's lake has"), "{refused}");
        let rows = json!({"sql": "select 1", "rows": 10});
        let refused = ask(&viewer, "transfer.lake", accept, rows).await.problem(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], "/rows");
    }
    let refused = ask(&rig.operator, "function.none", "*/*", sql).await.problem(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("answers no SQL"), "{refused}");
    let runs = rig.history("acme").await;
    let tried = runs.iter().filter(|line| {
        line["action"] == "sql.run" && line["component"] == "transfer.lake" && line["outcome"] == "done"
    });
    assert_eq!(tried.count(), 4);
}
