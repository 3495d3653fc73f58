//! The port that every server shares.

use std::net::Ipv4Addr;

use gateway::Limits;
use gateway::route::Settings;
use tokio::net::TcpStream;

use crate::support::clients::psql;
use crate::support::home::{Home, free_port, front_door, limits};
use crate::support::raw::{first_to_end, sqlstate_of};
use crate::support::server::Server;

fn settings(shared_port: u16) -> Settings {
    Settings { shared_port: Some(shared_port), ..Home::settings() }
}

/// Who is turned away for want of a place is told so, and stands in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_the_shared_port_is_bounded_and_logged() {
    let home = Home::new();
    let port = free_port();
    home.settle(&settings(port));
    let gateway = home.gateway(Limits { waiting: 2, ..limits() }).await;
    home.client().await.refresh().await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..3 {
        crowd.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap());
    }
    assert_eq!(sqlstate_of(&first_to_end(&mut crowd).await).as_deref(), Some("53300"));
    drop(crowd);
    let line = home.logged("the refusal", |line| line["outcome"] == "too_many_signing_in").await;
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert_eq!((&line["event"], &line["server"]), (&"close".into(), &"".into()));
    gateway.stop().await;
}

/// Both kinds of ports are looked after in the same way: one look is enough for a swap, and who has a
/// port is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_and_the_shared_port_can_swap() {
    let server = Server::start(18).await;
    let home = Home::new();
    let mut route = home.route(&server);
    let (own, shared) = (route.port, free_port());
    home.declare(&route);
    home.settle(&settings(shared));
    let gateway = home.gateway(limits()).await;
    let mut client = home.client().await;
    assert_eq!(client.refresh().await.unwrap().refused, []);
    route.port = shared;
    home.declare(&route);
    home.settle(&settings(own));
    let status = client.refresh().await.unwrap();
    assert_eq!((status.refused, &status.routes[0].error), (Vec::new(), &None));
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    // One port for both cannot be.
    home.settle(&settings(shared));
    let status = client.refresh().await.unwrap();
    let refused = format!("{:?}", status.refused);
    assert!(refused.contains("is already the port of route `acme-flights-main`"), "{refused}");
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    // Without the option it closes.
    home.settle(&Home::settings());
    assert_eq!(client.refresh().await.unwrap().refused, []);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, own)).await.is_err());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_wants_the_shared_port_is_told_whose_it_is() {
    let (_server, home, mut route, gateway) = front_door(18).await;
    let shared = free_port();
    home.settle(&settings(shared));
    home.client().await.refresh().await.unwrap();
    route.port = shared;
    home.declare(&route);
    let error = home.refresh(&route.server).await.unwrap().error.unwrap();
    assert!(error.contains("is already the port of every server"), "{error}");
    gateway.stop().await;
}
