//! Lists: pages and filters.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::rig::Rig;

/// Every item of a list, read page by page; and how many pages that took.
async fn all(rig: &Rig, path: &str) -> (Vec<Value>, usize) {
    let (mut items, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = rig.get(&format!("{path}{cursor}")).await.is(StatusCode::OK).body;
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (items, pages),
        }
    }
}

fn names(items: &[Value], field: &str) -> Vec<String> {
    items.iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_hold_everything_once_in_order() {
    let rig = Rig::start().await;
    for tenant in ["a", "b"] {
        for stead in ["x", "y", "z"] {
            rig.put(&format!("/v1/tenants/{tenant}/steads/{stead}"), &json!({}))
                .await
                .is(StatusCode::CREATED);
        }
    }
    let (steads, pages) = all(&rig, "/v1/steads?limit=4").await;
    assert_eq!((names(&steads, "name").join(""), pages), ("xyzxyz".into(), 2));
    assert_eq!(names(&steads, "tenant").join(""), "aaabbb");
    let (steads, pages) = all(&rig, "/v1/tenants/b/steads?limit=1").await;
    assert_eq!((names(&steads, "name").join(""), pages), ("xyz".into(), 3));
    let (tenants, pages) = all(&rig, "/v1/tenants?limit=1").await;
    assert_eq!((names(&tenants, "name").join(""), pages), ("ab".into(), 2));
    let (operations, pages) = all(&rig, "/v1/tenants/a/operations?limit=2").await;
    assert_eq!((names(&operations, "stead").join(""), pages), ("zyx".into(), 2));
    let (operations, _) = all(&rig, "/v1/tenants/a/operations?stead=y&limit=1").await;
    assert_eq!(names(&operations, "stead").join(""), "y");
    for name in ["one", "two", "three"] {
        let wanted = json!({"name": name, "scope": "operator"});
        rig.post("/v1/tokens", &wanted).await.is(StatusCode::CREATED);
    }
    let (tokens, pages) = all(&rig, "/v1/tokens?limit=2").await;
    assert_eq!(
        (names(&tokens, "name"), pages),
        (["root", "one", "two", "three"].map(String::from).to_vec(), 2)
    );
}

#[tokio::test]
async fn history_is_filtered_and_paged_newest_first() {
    let rig = Rig::start().await;
    let two = json!({"postgres": {"a": {}, "b": {}}});
    rig.put("/v1/tenants/acme/steads/flights", &two).await.is(StatusCode::ACCEPTED);
    rig.put("/v1/tenants/acme/steads/other", &two).await.is(StatusCode::ACCEPTED);
    let (whole, pages) = all(&rig, "/v1/tenants/acme/history?limit=2").await;
    assert_eq!((whole.len(), pages), (5, 3));
    assert!(whole.windows(2).all(|pair| pair[0]["id"].as_i64() > pair[1]["id"].as_i64()));
    let of = |query: &'static str| {
        let rig = &rig;
        async move { all(rig, &format!("/v1/tenants/acme/history?{query}")).await.0.len() }
    };
    assert_eq!(of("stead=flights").await, 2);
    assert_eq!(of("stead=flights&component=postgres.b").await, 1);
    assert_eq!(of("component=postgres.b").await, 2);
    assert_eq!(of("since=1h").await, 5);
    assert_eq!(of("since=2099-01-01T00:00:00Z").await, 0);
    assert_eq!(of("since=-009999-01-02T01:59:59Z").await, 5);
    assert_eq!(of("since=9999-12-30T22:00:00Z").await, 0);
    let line = &whole[0];
    assert_eq!(line["payload_hash"].as_str().unwrap().len(), 64);
    assert_eq!((&line["actor"], &line["outcome"]), (&json!("root"), &json!("done")));
    // The whole journal also holds what belongs to no tenant.
    assert!(all(&rig, "/v1/history?limit=3").await.0.len() > 5);
}

#[tokio::test]
async fn a_part_that_is_none_is_refused() {
    let rig = Rig::start().await;
    rig.flights().await;
    for list in ["/v1/tenants", "/v1/steads", "/v1/tokens", "/v1/history", "/v1/tenants/acme/steads"] {
        for part in [
            "limit=0",
            "limit=501",
            "limit=x",
            "limit=",
            "limit=1&limit=2",
            "cursor=x",
            "cursor=bnVsbA",
            "cursor=",
        ] {
            rig.get(&format!("{list}?{part}")).await.problem(400, "bad-request");
        }
        rig.get(&format!("{list}?whatever=1")).await.is(StatusCode::OK);
    }
    for part in ["stead=..", "component=main", "since=yesterday", "since=", "cursor=WyJhIl0"] {
        rig.get(&format!("/v1/tenants/acme/history?{part}")).await.problem(400, "bad-request");
    }
    // A cursor with a NUL inside is no name.
    rig.get("/v1/steads?cursor=WyJhXHUwMDAwIiwiYiJd").await.problem(400, "bad-request");
}
