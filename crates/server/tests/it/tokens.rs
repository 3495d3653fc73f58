//! Tokens: made, listed, ended, expired.

use client::wire::{TokenRequest, TokenScope};
use component::Role;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::rig::{Rig, send};

#[tokio::test]
async fn a_token_works_until_it_is_ended() {
    let rig = Rig::start().await;
    rig.flights().await;
    let wanted = json!({"name": "ci", "scope": "viewer", "tenant": "acme", "days": 30});
    let made = rig.post("/v1/tokens", &wanted).await.is(StatusCode::CREATED).body;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("stead_") && made["expires_at"].is_string(), "{made}");
    send(rig.request_as(&secret, Method::GET, "/v1/tenants/acme")).await.is(StatusCode::OK);

    let listed = rig.get("/v1/tokens").await.is(StatusCode::OK).body;
    let names: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|token| token["name"].clone()).collect();
    assert_eq!(names, ["root", "ci"]);
    assert!(!listed.to_string().contains("secret"));
    let own = send(rig.request_as(&secret, Method::GET, "/v1/tokens")).await.is(StatusCode::OK).body;
    assert_eq!(own["items"].as_array().unwrap().len(), 1);

    let at = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    rig.delete(&at).await.is(StatusCode::NO_CONTENT);
    send(rig.request_as(&secret, Method::GET, "/v1/tenants/acme")).await.problem(401, "unauthenticated");
    rig.delete(&at).await.problem(404, "not-found");

    let history = rig.history("acme").await;
    assert_eq!(
        (&history[0]["action"], &history[1]["action"]),
        (&json!("token.revoked"), &json!("token.created"))
    );
    assert!(!json!(history).to_string().contains(&secret));
    let client = rig.db.connect().await;
    let dump = "select string_agg(t::text, ' ') from tokens t";
    let dump: String = client.query_one(dump, &[]).await.unwrap().get(0);
    assert!(!dump.contains(&secret), "only a hash of it is stored");
}

#[tokio::test]
async fn a_token_that_has_expired_is_none() {
    let rig = Rig::start().await;
    let secret = rig.token("short", Role::Viewer, Some("acme")).await;
    send(rig.request_as(&secret, Method::GET, "/v1/tenants")).await.is(StatusCode::OK);
    let client = rig.db.connect().await;
    client.execute("update tokens set expires_at = now() where name = 'short'", &[]).await.unwrap();
    send(rig.request_as(&secret, Method::GET, "/v1/tenants")).await.problem(401, "unauthenticated");
    assert!(!rig.get("/v1/tokens").await.body.to_string().contains("short"));
}

#[tokio::test]
async fn tokens_end_with_their_tenant() {
    let rig = Rig::start().await;
    let secret = rig.token("d", Role::Developer, Some("acme")).await;
    rig.delete("/v1/tenants/acme").await.is(StatusCode::NO_CONTENT);
    send(rig.request_as(&secret, Method::GET, "/v1/tenants")).await.problem(401, "unauthenticated");
    // A new tenant of the name is another tenant: it has neither the tokens nor the history.
    rig.put("/v1/tenants/acme", &json!({})).await.is(StatusCode::CREATED);
    send(rig.request_as(&secret, Method::GET, "/v1/tenants")).await.problem(401, "unauthenticated");
    assert_eq!(rig.history("acme").await.len(), 1);
    let whole = rig.get("/v1/history").await.is(StatusCode::OK).body.to_string();
    assert!(whole.contains("tenant.removed"), "{whole}");
}

#[tokio::test]
async fn wishes_that_make_no_sense_are_refused() {
    let rig = Rig::start().await;
    rig.put("/v1/tenants/acme", &json!({})).await.is(StatusCode::CREATED);
    for (wish, pointer) in [
        (json!({"name": "", "scope": "viewer", "tenant": "acme"}), "/name"),
        (json!({"name": "a\nb", "scope": "viewer", "tenant": "acme"}), "/name"),
        (json!({"name": "x".repeat(61), "scope": "viewer", "tenant": "acme"}), "/name"),
        (json!({"name": "Stead", "scope": "viewer", "tenant": "acme"}), "/name"),
        (json!({"name": "x", "scope": "viewer"}), "/tenant"),
        (json!({"name": "x", "scope": "viewer", "tenant": "../x"}), "/tenant"),
        (json!({"name": "x", "scope": "operator", "tenant": "acme"}), "/tenant"),
        (json!({"name": "x", "scope": "admin", "tenant": "acme"}), "/scope"),
        (json!({"name": "x", "scope": "support", "tenant": "acme"}), "/tenant"),
        (json!({"name": "ann@acme.example", "scope": "viewer", "tenant": "acme"}), "/name"),
        (json!({"name": "x", "scope": "viewer", "tenant": "acme", "days": 0}), "/days"),
        (json!({"name": "x", "scope": "viewer", "tenant": "acme", "days": 70_000}), "/days"),
        (json!({"scope": "operator"}), ""),
        (json!({"name": "x", "scope": "operator", "more": 1}), "/more"),
        (json!("x"), ""),
    ] {
        let problem = rig.post("/v1/tokens", &wish).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{wish}: {problem}");
    }
    let wish = json!({"name": "x", "scope": "viewer", "tenant": "nobody"});
    rig.post("/v1/tokens", &wish).await.problem(404, "not-found");
}

#[tokio::test]
async fn nobody_locks_themselves_out() {
    let rig = Rig::start().await;
    let client = rig.client(&rig.operator);
    let own = client.tokens().await.unwrap().items[0].id;
    let refused = client.revoke_token(own).await.unwrap_err();
    assert_eq!(refused.problem().unwrap().kind, "in-use");
    let wanted =
        TokenRequest { name: "second".into(), scope: TokenScope::Operator, tenant: None, days: None };
    let second = client.create_token(&wanted).await.unwrap();
    rig.client(&second.secret.unwrap()).revoke_token(own).await.unwrap();
    rig.get("/v1/tenants").await.problem(401, "unauthenticated");
}
