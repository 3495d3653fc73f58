//! Cancel requests find their own session and no other.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;

use crate::support::clients::{connect, encrypted, program, sqlstate, tcp, tcp_from};
use crate::support::eventually;
use crate::support::home::front_door;
use crate::support::server::Server;

/// Until a statement that sleeps is under way.
async fn asleep(server: &Server, sessions: i64) {
    let admin = server.admin().await;
    let question = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    eventually("the statement to run", || async {
        let running: i64 = admin.query_one(question, &[]).await.unwrap().get(0);
        (running == sessions).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_its_own_statement_only() {
    let (server, home, route, gateway) = front_door(15).await;
    let (one, _a) = connect(&home, &route).await.unwrap();
    let (two, _b) = connect(&home, &route).await.unwrap();
    let (key_one, key_two) = (one.cancel_token(), two.cancel_token());
    let slow = |client: tokio_postgres::Client| {
        tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await })
    };
    let (one, two) = (slow(one), slow(two));
    asleep(&server, 2).await;
    // In TLS, as libpq 17 can.
    let stream = encrypted(tcp(&route).await, &home).await.unwrap();
    key_one.cancel_query_raw(stream, NoTls).await.unwrap();
    assert_eq!(sqlstate(&one.await.unwrap().unwrap_err()), Some("57014"));
    asleep(&server, 1).await;
    // In the clear, as everybody else does.
    key_two.cancel_query_raw(tcp(&route).await, NoTls).await.unwrap();
    assert_eq!(sqlstate(&two.await.unwrap().unwrap_err()), Some("57014"));
    // Inside TLS the answer is an orderly close: some clients take a torn one for a failure.
    let mut stream = encrypted(tcp(&route).await, &home).await.unwrap();
    stream.write_all(&packet(1, b"none")).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    home.logged("the request in the log", |line| line["outcome"] == "cancel_forwarded").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_cancels_on_interrupt() {
    for (client, protocol) in [(15, "3.0"), (18, "3.0"), (18, "3.2")] {
        let (server, home, route, gateway) = front_door(18).await;
        let mut command = program(client, "psql", &home, &route);
        command.env("PGMAXPROTOCOLVERSION", protocol).args(["-XAtc", "select pg_sleep(600)"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        asleep(&server, 1).await;
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("canceling statement due to user request"), "psql {client}: {said}");
        gateway.stop().await;
    }
}

fn packet(pid: i32, key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(12 + key.len()).unwrap();
    [&length.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &pid.to_be_bytes(), key].concat()
}

/// A raw cancel request; it is answered by a close, whatever it did.
async fn request(mut stream: tokio::net::TcpStream, pid: i32, key: &[u8]) {
    stream.write_all(&packet(pid, key)).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_or_a_wrong_place_cancels_nothing() {
    let (server, home, mut route, gateway) = front_door(18).await;
    route.allow = vec!["127.0.0.1/32".parse().unwrap()];
    home.declare(&route);
    home.refresh(&route.server).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let key = client.cancel_token();
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let running = tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
    asleep(&server, 1).await;
    for guess in [&[0_u8; 4][..], &[0; 32], &[255; 256]] {
        request(tcp(&route).await, pid, guess).await;
    }
    // The right key from an address that is not allowed.
    let elsewhere = tcp_from("127.0.0.2", &route).await;
    let _ = key.clone().cancel_query_raw(elsewhere, NoTls).await;
    home.logged("the stranger", |line| {
        line["outcome"] == "not_allowed" && line["client"].as_str().unwrap().starts_with("127.0.0.2:")
    })
    .await;
    asleep(&server, 1).await;
    assert!(!running.is_finished());
    // The control: the same key from the right place.
    key.cancel_query_raw(tcp(&route).await, NoTls).await.unwrap();
    assert!(running.await.unwrap().is_err());
    gateway.stop().await;
}
