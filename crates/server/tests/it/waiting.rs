//! Waiting for operations, and being told how they ended.

use std::time::{Duration, Instant};

use component::Phase;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use store::lease::Record;

use crate::rig::{HOST, Rig, send, settled};

const FLIGHTS: &str = "/v1/tenants/acme/steads/flights";

#[tokio::test]
async fn a_wait_ends_with_the_operation() {
    let rig = Rig::start().await;
    let waiting = tokio::spawn(send(rig.request(Method::PUT, &format!("{FLIGHTS}?wait=1m"))));
    let mut wakes = rig.store.listen(store::WAKE_CHANNEL).await.unwrap();
    let lease = loop {
        match rig.store.claim(HOST).await.unwrap() {
            Some(lease) => break lease,
            None => drop(wakes.recv().await.unwrap()),
        }
    };
    assert!(!waiting.is_finished());
    let begun = Instant::now();
    rig.settle(lease).await;
    waiting.await.unwrap().is(StatusCode::CREATED);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it was told, and did not wait for its time to be over"
    );
}

#[tokio::test]
async fn a_wait_that_is_over_answers_with_what_is() {
    let rig = Rig::start().await;
    let made = send(rig.request(Method::PUT, &format!("{FLIGHTS}?wait=20ms"))).await.is(StatusCode::ACCEPTED);
    let id = made.body["operation"]["id"].as_str().unwrap();
    let still = rig.get(&format!("/v1/tenants/acme/operations/{id}?wait=20ms")).await.is(StatusCode::OK);
    assert_eq!(still.body["state"], "running");
}

#[tokio::test]
async fn a_failed_operation_is_told_in_the_body() {
    let rig = Rig::start().await;
    let waiting = tokio::spawn(send(rig.request(Method::PUT, &format!("{FLIGHTS}?wait=1m"))));
    let mut wakes = rig.store.listen(store::WAKE_CHANNEL).await.unwrap();
    let lease = loop {
        match rig.store.claim(HOST).await.unwrap() {
            Some(lease) => break lease,
            None => drop(wakes.recv().await.unwrap()),
        }
    };
    let mut record = Record {
        settled: false,
        fail_operation: Some("migration 0001.sql failed".into()),
        ..settled(&lease)
    };
    record.status.phase = Phase::Blocked;
    rig.store.record(lease, record).await.unwrap();
    let made = waiting.await.unwrap().is(StatusCode::CREATED);
    assert_eq!(made.body["operation"]["state"], "failed");
    assert_eq!(made.body["operation"]["error"], "postgres.main: migration 0001.sql failed");
    assert_eq!(made.body["components"][0]["phase"], "blocked");
}

#[tokio::test]
async fn many_wait_on_one_connection() {
    let rig = Rig::start().await;
    let made = send(rig.request(Method::PUT, FLIGHTS)).await.is(StatusCode::ACCEPTED);
    let id = made.body["operation"]["id"].as_str().unwrap();
    let path = format!("/v1/tenants/acme/operations/{id}?wait=1m");
    let waiting: Vec<_> = (0..100).map(|_| tokio::spawn(send(rig.request(Method::GET, &path)))).collect();
    // More wait than the store has connections, and it still answers.
    rig.flights_of_somebody_else().await;
    let client = rig.db.connect().await;
    let count = "select count(*) from pg_stat_activity where datname = current_database()";
    let connections: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    assert!(connections <= 20, "{connections} connections");
    rig.reconcile().await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().is(StatusCode::OK).body["state"], "succeeded");
    }
}

impl Rig {
    async fn flights_of_somebody_else(&self) -> Value {
        self.put("/v1/tenants/globex/steads/flights", &json!({})).await.is(StatusCode::CREATED).body
    }
}

#[tokio::test]
async fn a_broken_listener_is_made_good() {
    let rig = Rig::start().await;
    let made = send(rig.request(Method::PUT, FLIGHTS)).await.is(StatusCode::ACCEPTED);
    let id = made.body["operation"]["id"].as_str().unwrap();
    let client = rig.db.connect().await;
    let others = "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()";
    client.execute(others, &[]).await.unwrap();
    let path = format!("/v1/tenants/acme/operations/{id}?wait=1m");
    let waiting = tokio::spawn(send(rig.request(Method::GET, &path)));
    rig.reconcile().await;
    assert_eq!(waiting.await.unwrap().is(StatusCode::OK).body["state"], "succeeded");
}

#[tokio::test]
async fn a_server_that_stops_lets_nobody_wait() {
    let rig = Rig::start().await;
    let begun = Instant::now();
    let waiting = tokio::spawn(send(rig.request(Method::PUT, &format!("{FLIGHTS}?wait=1m"))));
    let mut wakes = rig.store.listen(store::WAKE_CHANNEL).await.unwrap();
    while rig.store.next_due_ms(HOST).await.unwrap().is_none() {
        let _ = tokio::time::timeout(Duration::from_millis(50), wakes.recv()).await;
    }
    rig.stop().await;
    waiting.await.unwrap().is(StatusCode::ACCEPTED);
    assert!(begun.elapsed() < Duration::from_secs(20));
}
