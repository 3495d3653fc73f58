//! The connection log.

use std::time::Duration;

use gateway::Limits;

use crate::support::clients::{connect, psql};
use crate::support::home::{Home, front_door, limits};
use crate::support::server::Server;
use crate::support::{PASSWORD, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_who_came_from_where_and_how_it_ended() {
    let (_server, home, route, gateway) = front_door(18).await;
    psql(18, &home, &route, "select repeat('x', 10000)").unwrap();
    let line = home.logged("the session", |line| line["signed_in"] == true).await;
    for (key, value) in [
        ("event", "close"),
        ("tenant", "acme"),
        ("stead", "flights"),
        ("component", "postgres.main"),
        ("server", "acme-flights-main"),
        ("user", "flights_owner"),
        ("database", "flights"),
        ("application_name", "psql"),
        ("tls", "TLSv1.3"),
        ("outcome", "closed_by_client"),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(line["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert!(line["backend_pid"].as_u64().unwrap() > 1);
    assert!(line["bytes_out"].as_u64().unwrap() > 10_000 && line["bytes_in"].as_u64().unwrap() > 20);
    gateway.stop().await;
}

/// Not even what was said in a session that failed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_in_the_log() {
    let (server, home, route, gateway) = front_door(18).await;
    psql(18, &home, &route, "select 'a statement'").unwrap();
    psql(18, &home, &route, "alter role flights_owner password 'changed'").unwrap();
    assert!(psql(18, &home, &route, "select 1").is_err());
    home.logged("the failure", |line| line["outcome"] == "bad_password").await;
    let verifier: String = server
        .admin()
        .await
        .query_one("select rolpassword from pg_authid where rolname = 'flights_owner'", &[])
        .await
        .unwrap()
        .get(0);
    let log = std::fs::read_to_string(home.path().join("logs/gateway.jsonl")).unwrap();
    for secret in [PASSWORD, "statement", "changed", "SCRAM", verifier.rsplit(':').next().unwrap()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lasts_is_in_the_log_before_it_ends() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let gateway = home.gateway(Limits { long_session: Duration::from_millis(50), ..limits() }).await;
    home.refresh(&route.server).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let open = home.logged("the line of a session that is open", |line| line["event"] == "open").await;
    assert_eq!(client.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    drop(client);
    let close = home.logged("its end", |line| line["event"] == "close").await;
    assert_eq!(open["connection"], close["connection"]);
    assert_eq!(home.log().len(), 2, "one line each");
    gateway.stop().await;
}

/// One that drains writes where the gateway in force does, and leaves it to that one to rotate.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_gateway_that_drains_follows_the_rotation() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let old = home.gateway(Limits { rotate_at: 1, ..limits() }).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let new = home.gateway_of_rank(2, Limits { rotate_at: 1000, ..limits() }).await;
    eventually("a rotated file", || async {
        drop(tokio::net::TcpStream::connect(("127.0.0.1", route.port)).await.unwrap());
        home.path().join("logs/gateway.jsonl.1").exists().then_some(())
    })
    .await;
    drop(client);
    old.drained().await;
    assert!(home.log().iter().any(|line| line["signed_in"] == true), "{:?}", home.log());
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_rotated_by_size_and_four_are_kept() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    // A log of an earlier run is continued.
    let gateway = home.gateway(Limits { rotate_at: 1000, ..limits() }).await;
    home.refresh(&route.server).await;
    let log = home.path().join("logs/gateway.jsonl");
    let old = |n: u32| home.path().join(format!("logs/gateway.jsonl.{n}"));
    eventually("four rotated files", || async {
        drop(tokio::net::TcpStream::connect(("127.0.0.1", route.port)).await.unwrap());
        old(4).exists().then_some(())
    })
    .await;
    gateway.stop().await;
    assert!(!old(5).exists());
    for path in [old(1), old(4), log] {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(old(1)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}
