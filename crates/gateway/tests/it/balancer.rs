//! Behind a load balancer that says whose connection it brings (PROXY protocol, version 2).

use std::net::{Ipv4Addr, SocketAddr};

use gateway::Limits;
use gateway::route::{Route, Settings};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::clients::{config, connect, connect_with, encrypted, psql, sqlstate, tcp, tcp_from, tls};
use crate::support::home::{Gateway, Home, free_port, limits};
use crate::support::raw::{first_to_end, rest, sqlstate_of};
use crate::support::server::Server;

/// Where the balancer of these tests is.
const BALANCER: &str = "127.0.0.9";

/// A header of version 2 for a client over TCP and IPv4.
fn header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let SocketAddr::V4(client) = client else { panic!("an IPv4 address") };
    let to = Ipv4Addr::new(198, 51, 100, 1).octets();
    let ports = [client.port().to_be_bytes(), 5432_u16.to_be_bytes()].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &client.ip().octets()[..], &to, &ports].concat()
}

/// LOCAL: the balancer looks whether somebody answers.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn through(route: &Route, header: &[u8]) -> TcpStream {
    let mut stream = tcp_from(BALANCER, route).await;
    stream.write_all(header).await.unwrap();
    stream
}

/// A gateway that trusts the balancer, and a route for clients of 203.0.113.0/24.
async fn behind_a_balancer(limits: Limits) -> (Server, Home, Route, Gateway) {
    let server = Server::start(18).await;
    let home = Home::new();
    let mut route = home.route(&server);
    route.allow = vec!["203.0.113.0/24".parse().unwrap()];
    home.declare(&route);
    home.settle(&trusting(None));
    let gateway = home.gateway(limits).await;
    home.client().await.refresh().await.unwrap();
    (server, home, route, gateway)
}

fn trusting(shared_port: Option<u16>) -> Settings {
    let balancers = vec![format!("{BALANCER}/32").parse().unwrap()];
    Settings { shared_port, proxy_protocol_from: balancers, ..Home::settings() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_in_the_header_is_the_one_that_counts() {
    let (_server, home, mut route, gateway) = behind_a_balancer(limits()).await;
    let stream = encrypted(through(&route, &header("203.0.113.7:40000")).await, &home).await.unwrap();
    let (client, _messages) = connect_with(&config(), stream).await.unwrap();
    assert_eq!(client.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    // Another client of the same balancer is not allowed, and its own address is named.
    let stream = encrypted(through(&route, &header("192.0.2.7:40000")).await, &home).await.unwrap();
    let error = connect_with(&config(), stream).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("28000"));
    assert!(error.as_db_error().unwrap().message().contains("address 192.0.2.7 is not on the allow-list"));
    let line = home.logged("the refusal", |line| line["outcome"] == "not_allowed").await;
    assert_eq!(line["client"], "192.0.2.7:40000");
    // An edit of the list ends sessions by the same address.
    route.allow = vec!["192.0.2.0/24".parse().unwrap()];
    home.declare(&route);
    home.refresh(&route.server).await;
    let line = home.logged("the session", |line| line["outcome"] == "no_longer_allowed").await;
    assert_eq!(line["client"], "203.0.113.7:40000");
    assert!(line["via"].as_str().unwrap().starts_with("127.0.0.9:"), "{line}");
    gateway.stop().await;
}

/// Nobody gives himself an address.
#[tokio::test(flavor = "multi_thread")]
async fn from_anybody_else_a_header_is_garbage() {
    let (_server, home, mut route, gateway) = behind_a_balancer(limits()).await;
    route.allow.push("127.0.0.1/32".parse().unwrap());
    home.declare(&route);
    home.refresh(&route.server).await;
    let mut liar = tcp(&route).await;
    liar.write_all(&header("203.0.113.7:40000")).await.unwrap();
    assert_eq!(sqlstate_of(&rest(&mut liar).await).as_deref(), Some("08P01"));
    let line = home.logged("the refusal", |line| line["outcome"] == "bad_protocol").await;
    assert!(
        line["client"].as_str().unwrap().starts_with("127.0.0.1:") && line.get("via").is_none(),
        "{line}"
    );
    // Who comes past the balancer needs none.
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    assert!(home.log().iter().all(|line| line["client"] != "203.0.113.7:40000"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_sends_no_usable_header_is_told_so() {
    let (_server, home, route, gateway) = behind_a_balancer(limits()).await;
    let mut long = header("203.0.113.7:40000");
    long[14] = 0xff;
    for (bytes, said) in [
        (&[0, 0, 0, 8, 4, 210, 22, 47][..], "sent none; have it send version 2"),
        (b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 5432\r\n", "sent version 1; have it send version 2"),
        (&long, "longer than 4096 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0", "names no TCP client"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02??", "malformed"),
    ] {
        let answer = rest(&mut through(&route, bytes).await).await;
        assert_eq!(sqlstate_of(&answer).as_deref(), Some("08P01"), "{bytes:?}");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(said) && !answer.contains("acme"), "{answer}");
        let line = home.logged(said, |line| line["message"].as_str().is_some_and(|m| m.contains(said))).await;
        assert_eq!((&line["outcome"], &line["server"]), (&"bad_proxy_header".into(), &"".into()));
    }
    // One that ends in the middle.
    drop(through(&route, &header("203.0.113.7:40000")[..20]).await);
    home.logged("the end", |line| line["outcome"] == "left_before_sign_in").await;
    gateway.stop().await;
}

/// The balancer's own look: its own address counts, and nothing is said to somebody who only looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_the_balancers_own_connection() {
    let (_server, home, mut route, gateway) = behind_a_balancer(limits()).await;
    drop(through(&route, LOCAL).await);
    let line = home.logged("the look", |line| line["outcome"] == "not_allowed").await;
    assert!(
        line["client"].as_str().unwrap().starts_with("127.0.0.9:") && line.get("via").is_none(),
        "{line}"
    );
    // Where it is allowed it may even sign in.
    route.allow.push("127.0.0.9/32".parse().unwrap());
    home.declare(&route);
    home.refresh(&route.server).await;
    let stream = encrypted(through(&route, LOCAL).await, &home).await.unwrap();
    assert!(connect_with(&config(), stream).await.is_ok());
    gateway.stop().await;
}

/// Those who keep a header back take places and time of strangers only.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let limits = Limits { stranger: std::time::Duration::from_millis(300), waiting: 2, ..limits() };
    let (_server, home, mut route, gateway) = behind_a_balancer(limits).await;
    let mut crowd = Vec::new();
    for _ in 0..3 {
        crowd.push(through(&route, &header("203.0.113.7:1")[..15]).await);
    }
    assert_eq!(sqlstate_of(&first_to_end(&mut crowd).await).as_deref(), Some("53300"));
    home.logged("too many", |line| line["outcome"] == "too_many_signing_in").await;
    route.allow.push("127.0.0.1/32".parse().unwrap());
    home.declare(&route);
    home.refresh(&route.server).await;
    assert!(connect(&home, &route).await.is_ok(), "past the balancer nobody notices");
    home.logged("the deadline", |line| line["outcome"] == "sign_in_deadline").await;
    drop(crowd);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_port_hears_the_balancer_too() {
    let (_server, home, route, gateway) = behind_a_balancer(limits()).await;
    let port = free_port();
    home.settle(&trusting(Some(port)));
    home.client().await.refresh().await.unwrap();
    let shared = Route { port, ..route.clone() };
    for (client, outcome) in [("203.0.113.7:40001", "closed_by_client"), ("192.0.2.7:40002", "not_allowed")] {
        let mut stream = through(&shared, &header(client)).await;
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap(), b'S');
        let name = format!("{}.stead.localhost", route.server).try_into().unwrap();
        let stream = tls(&home.ca()).connect(name, stream).await.unwrap();
        let signed_in = connect_with(&config(), stream).await;
        assert_eq!(signed_in.is_ok(), outcome == "closed_by_client");
        drop(signed_in);
        let line = home.logged(outcome, |line| line["client"] == client).await;
        assert_eq!((&line["outcome"], &line["server"]), (&outcome.into(), &"acme-flights-main".into()));
    }
    gateway.stop().await;
}

/// Without the option nothing is different, and it can be taken back while the gateway runs.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_option_a_balancer_is_anybody() {
    let (_server, home, mut route, gateway) = behind_a_balancer(limits()).await;
    route.allow = vec!["127.0.0.0/8".parse().unwrap()];
    home.declare(&route);
    home.settle(&Home::settings());
    home.client().await.refresh().await.unwrap();
    let mut stream = through(&route, &header("203.0.113.7:40000")).await;
    assert_eq!(sqlstate_of(&rest(&mut stream).await).as_deref(), Some("08P01"));
    home.logged("the refusal", |line| line["outcome"] == "bad_protocol").await;
    let stream = encrypted(tcp_from(BALANCER, &route).await, &home).await.unwrap();
    assert!(connect_with(&config(), stream).await.is_ok());
    gateway.stop().await;
}
