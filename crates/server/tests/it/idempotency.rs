//! `Idempotency-Key`: a request that is sent again is done once.

use component::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Answer, Rig, send};

const FLIGHTS: &str = "/v1/tenants/acme/steads/flights";

async fn keyed(rig: &Rig, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
    let request = rig.request(method, path).header("idempotency-key", key);
    send(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

#[tokio::test]
async fn the_first_answer_is_given_again() {
    let rig = Rig::start().await;
    rig.flights().await;
    let rotate = format!("{FLIGHTS}/components/postgres.main/rotate");
    let first = keyed(&rig, "k1", Method::POST, &rotate, None).await.is(StatusCode::ACCEPTED);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let again = keyed(&rig, "k1", Method::POST, &rotate, None).await.is(StatusCode::ACCEPTED);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.header("content-type"), "application/json");
    assert_eq!(first.body, again.body);
    let other = keyed(&rig, "k2", Method::POST, &rotate, None).await.is(StatusCode::ACCEPTED);
    assert_ne!(first.body["id"], other.body["id"]);
    let rotations =
        rig.history("acme").await.iter().filter(|line| line["action"] == "password.rotated").count();
    assert_eq!(rotations, 2);
}

#[tokio::test]
async fn an_edit_is_replayed_with_its_tag_and_a_refusal_with_its_reason() {
    let rig = Rig::start().await;
    let one = json!({"postgres": {"main": {}}});
    let first = keyed(&rig, "k", Method::PUT, FLIGHTS, Some(one.clone())).await.is(StatusCode::ACCEPTED);
    rig.put(FLIGHTS, &json!({"postgres": {"main": {"size": "nano"}}})).await.is(StatusCode::ACCEPTED);
    let again = keyed(&rig, "k", Method::PUT, FLIGHTS, Some(one)).await.is(StatusCode::ACCEPTED);
    assert_eq!((again.header("etag"), &again.body), ("\"1\"", &first.body));
    assert_eq!(rig.get(FLIGHTS).await.header("etag"), "\"2\"");

    keyed(&rig, "d", Method::DELETE, FLIGHTS, None).await.problem(409, "protected");
    let lines = rig.history("acme").await.len();
    keyed(&rig, "d", Method::DELETE, FLIGHTS, None).await.problem(409, "protected");
    assert_eq!(rig.history("acme").await.len(), lines, "it was tried once");

    let token = json!({"name": "x", "scope": "operator"});
    let made =
        keyed(&rig, "t", Method::POST, "/v1/tokens", Some(token.clone())).await.is(StatusCode::CREATED);
    let again = keyed(&rig, "t", Method::POST, "/v1/tokens", Some(token)).await.is(StatusCode::CREATED);
    assert_eq!(made.body["secret"], again.body["secret"]);
    // What is kept for that is sealed.
    let client = rig.db.connect().await;
    let dump = "select string_agg(k::text, ' ') from idempotency_keys k";
    let dump: String = client.query_one(dump, &[]).await.unwrap().get(0);
    assert!(!dump.contains(made.body["secret"].as_str().unwrap()) && !dump.contains("operator"), "{dump}");

    let gone = format!("/v1/tokens/{}", made.body["id"].as_str().unwrap());
    keyed(&rig, "g", Method::DELETE, &gone, None).await.is(StatusCode::NO_CONTENT);
    keyed(&rig, "g", Method::DELETE, &gone, None).await.is(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_token() {
    let rig = Rig::start().await;
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(json!({}))).await.is(StatusCode::CREATED);
    let other = json!({"postgres": {"main": {}}});
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(other)).await.problem(422, "key-reused");
    let path = format!("{FLIGHTS}?wait=1s");
    keyed(&rig, "k", Method::PUT, &path, Some(json!({}))).await.problem(422, "key-reused");
    keyed(&rig, "k", Method::DELETE, FLIGHTS, None).await.problem(422, "key-reused");
    let somebody = rig.token("other", Role::Operator, None).await;
    let request = rig.request_as(&somebody, Method::DELETE, FLIGHTS).header("idempotency-key", "k");
    send(request).await.is(StatusCode::OK);
    // A look has no key to keep.
    keyed(&rig, "k", Method::GET, "/v1/tenants/acme", None).await.is(StatusCode::OK);
}

#[tokio::test]
async fn two_at_once_are_one() {
    let rig = Rig::start().await;
    let path = format!("{FLIGHTS}?wait=30s");
    let first = tokio::spawn(send(rig.request(Method::PUT, &path).header("idempotency-key", "k")));
    let mut wakes = rig.store.listen(store::WAKE_CHANNEL).await.unwrap();
    let lease = loop {
        match rig.store.claim(crate::rig::HOST).await.unwrap() {
            Some(lease) => break lease,
            None => drop(wakes.recv().await.unwrap()),
        }
    };
    keyed(&rig, "k", Method::PUT, &path, None).await.problem(409, "request-running");
    rig.settle(lease).await;
    let first = first.await.unwrap().is(StatusCode::CREATED);
    let again = keyed(&rig, "k", Method::PUT, &path, None).await.is(StatusCode::CREATED);
    assert_eq!(first.body, again.body);
}

#[tokio::test]
async fn what_may_work_later_is_not_kept() {
    let rig = Rig::without_host().await;
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(json!({}))).await.problem(503, "unavailable");
    rig.put_host(true).await;
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(json!({}))).await.is(StatusCode::CREATED);
}

#[tokio::test]
async fn a_request_that_was_cut_off_may_be_done_again() {
    let rig = Rig::start().await;
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(json!({}))).await.is(StatusCode::CREATED);
    let client = rig.db.connect().await;
    client.execute("update idempotency_keys set status = null, response = null", &[]).await.unwrap();
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(json!({}))).await.problem(409, "request-running");
    client
        .execute("update idempotency_keys set created_at = now() - interval '3 minutes'", &[])
        .await
        .unwrap();
    keyed(&rig, "k", Method::PUT, FLIGHTS, Some(json!({}))).await.is(StatusCode::OK);
}

#[tokio::test]
async fn keys_that_are_none_are_refused() {
    let rig = Rig::start().await;
    for key in ["", "a b", &"x".repeat(201), "\u{e4}"] {
        keyed(&rig, key, Method::PUT, FLIGHTS, Some(json!({}))).await.problem(400, "bad-request");
    }
}
