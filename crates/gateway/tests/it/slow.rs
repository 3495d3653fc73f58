//! Clients that send a byte now and then, and never come to the end of what they say.

use std::time::Duration;

use gateway::Limits;
use gateway::route::Route;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::support::clients::{
    SSL_REQUEST, connect, encrypted, message, program, psql, result, startup, tcp, tcp_from,
};
use crate::support::eventually;
use crate::support::home::{Home, free_port, limits};
use crate::support::server::Server;

/// The beginning of a TLS record of 16 kB, and of the hello in it.
const HELLO: [u8; 9] = [0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb];
/// The beginning of a startup packet of 10 kB.
const STARTUP: [u8; 8] = [0, 0, 0x27, 0x10, 0, 3, 0, 0];

/// Says `begun`, then one byte after the other until it is cut off. What it heard.
fn dribble<S>(stream: S, begun: Vec<u8>) -> JoinHandle<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let speaking = async {
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            let mut said = writer.write_all(&begun).await;
            while said.is_ok() {
                pace.tick().await;
                said = async {
                    writer.write_all(b"x").await?;
                    writer.flush().await
                }
                .await;
            }
        };
        let mut heard = Vec::new();
        let hearing = async { while let Ok(1..) = reader.read_buf(&mut heard).await {} };
        tokio::join!(speaking, hearing);
        heard
    })
}

/// At each phase up to the session one such client, from each of some connections.
async fn crowd(home: &Home, route: &Route, each: usize) -> Vec<JoinHandle<Vec<u8>>> {
    let mut crowd = Vec::new();
    for _ in 0..each {
        crowd.push(dribble(tcp(route).await, STARTUP.to_vec()));
        crowd.push(dribble(tcp(route).await, HELLO.to_vec()));
        crowd.push(dribble(tcp(route).await, [&SSL_REQUEST[..], &HELLO].concat()));
        let inside = encrypted(tcp(route).await, home).await.unwrap();
        crowd.push(dribble(inside, STARTUP.to_vec()));
        // As far as the offer, then as far as the challenge.
        for first in [&b""[..], b"p\0\0\0\x24SCRAM-SHA-256\0\0\0\0\x0en,,n=,r=slowly"] {
            let mut signing = encrypted(tcp(route).await, home).await.unwrap();
            let begun = [&startup(b"user\0flights_owner\0\0")[..], first].concat();
            signing.write_all(&begun).await.unwrap();
            for _ in 0..if first.is_empty() { 1 } else { 2 } {
                assert_eq!(message(&mut signing).await.unwrap().0, b'R');
            }
            crowd.push(dribble(signing, b"p\0\0\x10\0".to_vec()));
        }
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_at_any_phase_is_cut_off_and_keeps_nobody_out() {
    let server = Server::start(18).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let patience = Limits { sign_in: Duration::from_secs(6), ..limits() };
    let gateway = home.gateway(patience).await;
    home.refresh(&route.server).await;
    let crowd = crowd(&home, &route, 5).await;
    let size = crowd.len();
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    drop(connect(&home, &route).await.unwrap());
    for slow in crowd {
        slow.await.unwrap();
    }
    let late = || home.log().iter().filter(|line| line["outcome"] == "sign_in_deadline").count();
    eventually("a line for each", || async { (late() == size).then_some(()) }).await;
    assert_eq!(server.sessions().await, 0, "none of them got as far as the server");
    gateway.stop().await;
}

/// Places are few, so they must come back: more slow clients than there are places, one crowd after another.
#[tokio::test(flavor = "multi_thread")]
async fn places_of_slow_clients_come_back() {
    let server = Server::start(15).await;
    let home = Home::new();
    let mut route = home.route(&server);
    route.allow = vec!["127.0.0.1/32".parse().unwrap()];
    home.declare(&route);
    let short = Duration::from_millis(500);
    let few = Limits { sign_in: short, stranger: short, waiting: 4, strangers: 2, ..limits() };
    let gateway = home.gateway(few).await;
    home.refresh(&route.server).await;
    for source in ["127.0.0.1", "127.0.0.2"] {
        let mut crowd = Vec::new();
        for _ in 0..12 {
            crowd.push(dribble(tcp_from(source, &route).await, HELLO.to_vec()));
        }
        for slow in crowd {
            slow.await.unwrap();
        }
        eventually("a place", || async { psql(18, &home, &route, "select 1").ok() }).await;
    }
    let ended = |outcome| home.log().iter().filter(|line| line["outcome"] == outcome).count();
    eventually("every line", || async { (ended("not_allowed") == 12).then_some(()) }).await;
    assert!(ended("too_many_signing_in") > 0, "the control: there were more than places");
    assert!(ended("sign_in_deadline") >= 4);
    gateway.stop().await;
}

/// The same at the port that all servers share, where it takes TLS to know whom a client wants.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_the_shared_port_keep_nobody_out() {
    let server = Server::start(18).await;
    let home = Home::new();
    let route = home.route(&server);
    let shared = Route { port: free_port(), ..route.clone() };
    home.share(shared.port);
    home.declare(&route);
    let short = Limits { stranger: Duration::from_millis(500), waiting: 4, ..limits() };
    let gateway = home.gateway(short).await;
    home.refresh(&route.server).await;
    let come_in = || {
        let mut psql = program(18, "psql", &home, &shared);
        psql.env("PGHOST", format!("{}.stead.localhost", route.server)).env("PGSSLMODE", "require");
        result(psql.args(["-XAtc", "select 1"]))
    };
    assert_eq!(come_in().as_deref(), Ok("1"), "the control");
    let mut crowd = Vec::new();
    for begun in [&STARTUP[..], &HELLO].iter().cycle().take(12) {
        crowd.push(dribble(tcp(&shared).await, begun.to_vec()));
    }
    // Who has a port of his own does not notice.
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    for slow in crowd {
        slow.await.unwrap();
    }
    eventually("a place", || async { come_in().ok() }).await;
    let ended = |outcome| home.log().iter().filter(|line| line["outcome"] == outcome).count();
    assert!(ended("sign_in_deadline") >= 4, "{:?}", home.log());
    assert!(ended("too_many_signing_in") > 0, "the control: there were more than places");
    gateway.stop().await;
}
