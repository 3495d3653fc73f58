//! Limits of one address and of one tenant: who has used his up is told so, all others notice nothing.

use std::time::Duration;

use gateway::Limits;
use gateway::route::Route;
use tokio::net::TcpStream;

use crate::support::clients::{config, connect, connect_with, encrypted, sqlstate, tcp, tcp_from};
use crate::support::eventually;
use crate::support::home::{Gateway, Home, free_port, limits};
use crate::support::raw::{first_to_end, sqlstate_of};
use crate::support::server::Server;

/// Three ways to one server: two of a tenant, and one of another.
async fn three_doors(limits: Limits) -> (Server, Home, [Route; 3], Gateway) {
    let server = Server::start(18).await;
    let home = Home::new();
    let route = |name: &str, tenant: &str| Route {
        server: name.to_owned(),
        tenant: tenant.to_owned(),
        port: free_port(),
        ..home.route(&server)
    };
    let routes = [route("one", "acme"), route("two", "acme"), route("three", "globex")];
    routes.iter().for_each(|route| home.declare(route));
    let gateway = home.gateway(limits).await;
    home.client().await.refresh().await.unwrap();
    (server, home, routes, gateway)
}

type Signed = Result<
    (tokio_postgres::Client, tokio::sync::mpsc::UnboundedReceiver<tokio_postgres::AsyncMessage>),
    tokio_postgres::Error,
>;

async fn sign_in(home: &Home, from: &str, route: &Route, password: &str) -> Signed {
    let stream = encrypted(tcp_from(from, route).await, home).await.unwrap();
    connect_with(config().password(password), stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_takes_so_many_places_and_no_more() {
    let (_server, home, [one, two, _], gateway) =
        three_doors(Limits { waiting_per_address: 3, ..limits() }).await;
    let mut crowd: Vec<TcpStream> = Vec::new();
    for route in [&one, &two, &one, &two] {
        crowd.push(tcp_from("127.0.0.2", route).await);
    }
    assert_eq!(sqlstate_of(&first_to_end(&mut crowd).await).as_deref(), Some("53300"));
    let line = home.logged("the refusal", |l| l["outcome"] == "too_many_signing_in_of_address").await;
    assert!(line["message"].as_str().unwrap().contains("127.0.0.2") && line["server"] == "", "{line}");
    // Other addresses notice nothing, and sessions do not count.
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(connect(&home, &one).await.unwrap());
    }
    drop(crowd);
    eventually("a place", || async {
        let stream = encrypted(tcp_from("127.0.0.2", &one).await, &home).await.ok()?;
        connect_with(&config(), stream).await.ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_sessions_and_no_more() {
    let (_server, home, [one, two, _], gateway) =
        three_doors(Limits { sessions_per_address: 2, ..limits() }).await;
    let first = connect(&home, &one).await.unwrap();
    let _second = connect(&home, &two).await.unwrap();
    let error = connect(&home, &two).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("53300"));
    assert!(error.as_db_error().unwrap().message().starts_with("all 2 sessions that one address may have"));
    home.logged("the refusal", |line| line["outcome"] == "too_many_sessions_of_address").await;
    let password = crate::support::PASSWORD;
    assert!(sign_in(&home, "127.0.0.2", &two, password).await.is_ok(), "another address");
    drop(first);
    eventually("a session less", || async { connect(&home, &two).await.ok() }).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_takes_so_many_places_and_no_more() {
    let (_server, home, [one, two, three], gateway) =
        three_doors(Limits { waiting_per_tenant: 2, ..limits() }).await;
    let mut crowd = vec![tcp(&one).await, tcp(&two).await, tcp(&one).await];
    assert_eq!(sqlstate_of(&first_to_end(&mut crowd).await).as_deref(), Some("53300"));
    let line = home.logged("the refusal", |line| line["outcome"] == "too_many_signing_in").await;
    assert_eq!(line["tenant"], "acme");
    assert!(connect(&home, &three).await.is_ok(), "another tenant");
    drop(crowd);
    eventually("a place", || async {
        let stream = encrypted(tcp(&two).await, &home).await.ok()?;
        connect_with(&config(), stream).await.ok()
    })
    .await;
    gateway.stop().await;
}

/// Who guesses has to wait, with a right password too; nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow() {
    let refill = Duration::from_secs(3600);
    let (_server, home, [one, two, _], gateway) =
        three_doors(Limits { failures: 3, failure_refill: refill, ..limits() }).await;
    let right = crate::support::PASSWORD;
    let session = connect(&home, &one).await.unwrap();
    for n in 0..10 {
        assert!(
            sign_in(&home, "127.0.0.1", &one, right).await.is_ok(),
            "the control, {n}: right ones are free"
        );
    }
    for _ in 0..3 {
        let error = sign_in(&home, "127.0.0.1", &one, "wrong").await.err().unwrap();
        assert_eq!(sqlstate(&error), Some("28P01"));
    }
    for password in ["wrong", right] {
        let error = sign_in(&home, "127.0.0.1", &one, password).await.err().unwrap();
        assert_eq!(sqlstate(&error), Some("28000"));
        let said = error.as_db_error().unwrap().message();
        assert!(said.starts_with("too many wrong passwords came from 127.0.0.1; retry in 3"), "{said}");
    }
    home.logged("the refusal", |line| line["outcome"] == "too_many_wrong_passwords").await;
    assert!(sign_in(&home, "127.0.0.2", &one, right).await.is_ok(), "another address");
    assert!(sign_in(&home, "127.0.0.1", &two, right).await.is_ok(), "another server");
    assert!(session.0.simple_query("select 1").await.is_ok(), "who is in stays in");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guessed_may_try_again_after_a_while() {
    let refill = Duration::from_millis(400);
    let (_server, home, [one, ..], gateway) =
        three_doors(Limits { failures: 1, failure_refill: refill, ..limits() }).await;
    assert!(sign_in(&home, "127.0.0.1", &one, "wrong").await.is_err());
    eventually("a token", || async { connect(&home, &one).await.ok() }).await;
    gateway.stop().await;
}
