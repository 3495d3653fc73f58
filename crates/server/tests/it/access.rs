//! What is told to whom: operations of others, what needs no token, and what went wrong inside.

use component::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, send};

#[tokio::test]
async fn an_operation_of_another_tenant_is_not_found() {
    let rig = Rig::with_flights().await;
    let theirs =
        rig.get("/v1/tenants/globex/operations").await.body["items"][0]["id"].as_str().unwrap().to_owned();
    let token = rig.token("d", Role::Developer, Some("acme")).await;
    for path in
        [format!("/v1/tenants/globex/operations/{theirs}"), format!("/v1/tenants/acme/operations/{theirs}")]
    {
        send(rig.request_as(&token, Method::GET, &path)).await.problem(404, "not-found");
    }
    // A cursor of one list is of no use in another tenant's.
    let cursor = rig.get("/v1/steads?limit=1").await.body["next"].as_str().unwrap().to_owned();
    let path = format!("/v1/steads?cursor={cursor}");
    let rest = send(rig.request_as(&token, Method::GET, &path)).await.is(StatusCode::OK);
    assert_eq!(rest.body["items"], json!([]));
}

#[tokio::test]
async fn the_certificate_and_the_health_need_no_token() {
    let rig = Rig::start().await;
    send(rig.anonymous(Method::GET, "/v1/ca")).await.problem(404, "not-found");
    std::fs::write(rig.folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let ca = send(rig.anonymous(Method::GET, "/v1/ca")).await.is(StatusCode::OK);
    assert_eq!(ca.header("content-type"), "application/x-pem-file");
    assert_eq!(ca.body, Value::String("-----BEGIN CERTIFICATE-----\n".into()));
    let health = send(rig.anonymous(Method::GET, "/v1/health")).await.is(StatusCode::OK);
    assert_eq!(health.body, json!({"status": "ok", "version": "0.0.0-test"}));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_said_to_be_unavailable() {
    let rig = Rig::start().await;
    rig.store.close().await;
    for path in ["/v1/health", "/v1/tenants"] {
        let answer = rig.get(path).await;
        assert_eq!(answer.header("retry-after"), "1");
        answer.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn what_is_broken_inside_is_not_told_outside() {
    let rig = Rig::start().await;
    rig.db.connect().await.batch_execute("alter table steads rename column app to ppa").await.unwrap();
    let answer = rig.get("/v1/steads").await;
    assert!(!answer.header("x-request-id").is_empty());
    let problem = answer.problem(500, "internal");
    let text = problem.to_string();
    assert!(!text.contains("app") && !text.contains("column"), "{text}");
}
