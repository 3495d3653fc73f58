//! Whoever can reach a port: garbage, silence, too much, too many. The door stays open for the others.

use std::time::Duration;

use gateway::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::clients::{
    Encrypted, GSS_REQUEST, SSL_REQUEST, connect, encrypted, message, psql, signed_in, sqlstate, startup,
    tcp, tcp_from,
};
use crate::support::home::{Home, front_door, limits};
use crate::support::raw::{first_to_end, rest, sqlstate_of};
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn broken_packets_get_an_error_and_the_door_stays_open() {
    let (_server, home, route, gateway) = front_door(18).await;
    let long = startup(&[b"user\0me\0options\0".as_slice(), &[b'x'; 20_000], b"\0\0"].concat());
    for (packet, code) in [
        (&[0, 0, 0, 0, 0, 0, 0, 0][..], Some("08P01")),
        (&[255; 64][..], Some("08P01")),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Some("08P01")),
        (&long, Some("08P01")),
        (&[0, 0, 0, 8, 0, 2, 0, 0], Some("0A000")),
        (&[0, 0, 0, 9, 0, 3, 0, 0, 0], Some("28000")),
        (&startup(b"user\0me\0\0"), Some("28000")),
        (&[GSS_REQUEST, GSS_REQUEST].concat(), None),
    ] {
        let mut stream = tcp(&route).await;
        stream.write_all(packet).await.unwrap();
        let answer = rest(&mut stream).await;
        assert_eq!(sqlstate_of(&answer).as_deref(), code, "{packet:?} -> {answer:?}");
    }
    // A client with Kerberos asks for that first.
    let mut stream = tcp(&route).await;
    stream.write_all(&GSS_REQUEST).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
    drop(signed_in(encrypted(stream, &home).await.unwrap()).await);
    // Half a packet, and gone.
    for end in 0..SSL_REQUEST.len() {
        let mut stream = tcp(&route).await;
        stream.write_all(&SSL_REQUEST[..end]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"");
    }
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

/// What is sent behind the request in the clear must never count as sent inside TLS (CVE-2021-23214).
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_behind_the_request_for_tls_is_not_taken() {
    let (_server, home, route, gateway) = front_door(18).await;
    let mut stream = tcp(&route).await;
    stream.write_all(&[&SSL_REQUEST[..], &startup(b"user\0me\0\0")].concat()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert_eq!(answer[0], b'S');
    assert_ne!(answer.get(1), Some(&b'R'), "{answer:?}");
    home.logged("the failure", |line| line["outcome"] == "tls_failed").await;
    gateway.stop().await;
}

/// Inside TLS, at each step of sign-in.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_during_sign_in_ends_that_sign_in() {
    let (_server, home, route, gateway) = front_door(15).await;
    let sasl = |body: &[u8]| [b"p", &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat();
    for answer in [
        &sasl(b"")[..],
        &sasl(b"SCRAM-SHA-256"),
        &sasl(b"SCRAM-SHA-256\0"),
        &sasl(b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
        &sasl(b"SCRAM-SHA-256\0\0\0\0\x05n,,n"),
        &sasl(b"SCRAM-SHA-256\0\0\0\0\x04n,,n"),
        &sasl(b"SCRAM-SHA-1\0\0\0\0\x09n,,n=,r=x"),
        &sasl(b"plain password\0"),
        b"p\0\0\0\x03",
        b"p\xff\xff\xff\xff",
        b"Q\0\0\0\x0dselect 1\0",
    ] {
        let mut stream = encrypted(tcp(&route).await, &home).await.unwrap();
        stream.write_all(&startup(b"user\0flights_owner\0\0")).await.unwrap();
        let mut offer = [0; 5];
        stream.read_exact(&mut offer).await.unwrap();
        let mut offer = vec![0; usize::from(offer[4]) - 4];
        stream.read_exact(&mut offer).await.unwrap();
        stream.write_all(answer).await.unwrap();
        let said = rest(&mut stream).await;
        assert_eq!(sqlstate_of(&said).as_deref(), Some("08P01"), "{answer:?} -> {said:?}");
    }
    assert_eq!(psql(15, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

/// A client that asks for a newer protocol, or for options nobody knows, is told what there is instead.
#[tokio::test(flavor = "multi_thread")]
async fn newer_protocols_are_negotiated_down() {
    let (_server, home, route, gateway) = front_door(18).await;
    for (minor, option, newest, unknown) in [
        (9999, &b"_pq_.shiny\0on\0"[..], 2_u8, &b"\0\0\0\x01_pq_.shiny\0"[..]),
        (0, b"_pq_.shiny\0on\0", 0, b"\0\0\0\x01_pq_.shiny\0"),
        (3, b"", 2, b"\0\0\0\0"),
    ] {
        let mut stream = encrypted(tcp(&route).await, &home).await.unwrap();
        let mut packet = startup(&[b"user\0flights_owner\0", option, b"\0"].concat());
        packet[6..8].copy_from_slice(&u16::to_be_bytes(minor));
        stream.write_all(&packet).await.unwrap();
        let (kind, body) = message(&mut stream).await.unwrap();
        assert_eq!((kind, &body[..]), (b'v', &[&[0, 3, 0, newest][..], unknown].concat()[..]));
        assert_eq!(message(&mut stream).await.unwrap().0, b'R', "and sign-in goes on");
    }
    gateway.stop().await;
}

/// Bytes at random at every stage; afterwards the door serves as before, and nobody is left waiting.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_hurt_nobody() {
    let (_server, home, route, gateway) = front_door(18).await;
    let noise = || (0..rand::random_range(1..400)).map(|_| rand::random::<u8>()).collect::<Vec<u8>>();
    for round in 0..120 {
        let mut plain = tcp(&route).await;
        let _ = match round % 4 {
            0 => plain.write_all(&noise()).await,
            1 => plain.write_all(&[&SSL_REQUEST[..], &noise()].concat()).await,
            2 => plain.write_all(&[&[0x16, 3, 1][..], &noise()].concat()).await,
            _ => {
                let mut inside = encrypted(plain, &home).await.unwrap();
                let bytes = if round % 8 == 3 { noise() } else { startup(b"user\0me\0\0") };
                let _ = inside.write_all(&[bytes, noise()].concat()).await;
                let _ = inside.shutdown().await;
                rest(&mut inside).await;
                continue;
            }
        };
        let _ = plain.shutdown().await;
        rest(&mut plain).await;
    }
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

/// After sign-in the server is asked to make sense of it, as if the client had come directly.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_session_ends_that_session() {
    let (server, home, route, gateway) = front_door(18).await;
    for (garbage, code) in [
        (&b"\xff\xff\xff\xff\xffgarbage"[..], "08P01"),
        // Of a length that cannot be, the server tells its log only, and closes.
        (b"Q\x7f\xff\xff\xffselect 1\0", "57P01"),
        (b"Q\xff\xff\xff\xffselect 1\0", "57P01"),
        (b"Q\0\0\0\x03select 1\0", "57P01"),
    ] {
        let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
        stream.write_all(garbage).await.unwrap();
        let said = rest(&mut stream).await;
        assert_eq!(sqlstate_of(&said).as_deref(), Some(code), "{garbage:?} -> {said:?}");
    }
    // Half a statement, and gone.
    let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    stream.write_all(b"Q\x10\0\0\0select").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    crate::support::eventually("its session to end", || async {
        (server.sessions().await == 0).then_some(())
    })
    .await;
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

/// Who is slow is sent away at the deadline, at whatever stage, and holds up nobody meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_meets_a_deadline() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let patience = Duration::from_millis(400);
    let gateway = home.gateway(Limits { sign_in: patience, ..limits() }).await;
    home.refresh(&route.server).await;
    let mut silent = tcp(&route).await;
    let mut half = tcp(&route).await;
    half.write_all(&SSL_REQUEST[..5]).await.unwrap();
    let mut handshake = tcp(&route).await;
    handshake.write_all(&SSL_REQUEST).await.unwrap();
    let mut inside: Encrypted = encrypted(tcp(&route).await, &home).await.unwrap();
    inside.write_all(&startup(b"user\0flights_owner\0\0")).await.unwrap();
    assert_eq!(sqlstate_of(&rest(&mut silent).await).as_deref(), Some("57014"));
    assert_eq!(sqlstate_of(&rest(&mut half).await).as_deref(), Some("57014"));
    assert_eq!(rest(&mut handshake).await, b"S");
    let said = rest(&mut inside).await;
    let offer = usize::from(said[4]) + 1;
    assert_eq!(sqlstate_of(&said[offer..]).as_deref(), Some("57014"));
    home.logged("the deadline", |line| line["outcome"] == "sign_in_deadline").await;
    gateway.stop().await;
}

/// A server that hangs does not hang its clients for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_meets_the_deadline_too() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let gateway = home.gateway(Limits { sign_in: Duration::from_millis(600), ..limits() }).await;
    home.refresh(&route.server).await;
    server.freeze(true);
    let error = connect(&home, &route).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("57014"));
    server.freeze(false);
    // The same route, at once.
    crate::support::eventually("a session", || async { connect(&home, &route).await.ok() }).await;
    gateway.stop().await;
}

/// Those who wait to sign in, and those who are not allowed, have a number of places each.
#[tokio::test(flavor = "multi_thread")]
async fn crowds_are_bounded() {
    let server = Server::start(15).await;
    let home = Home::new();
    let mut route = home.route(&server);
    route.allow = vec!["127.0.0.1/32".parse().unwrap()];
    home.declare(&route);
    let gateway = home.gateway(Limits { waiting: 3, strangers: 2, ..limits() }).await;
    home.refresh(&route.server).await;
    // One too many: who of them is last is a matter of threads.
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(tcp_from("127.0.0.2", &route).await);
    }
    assert_eq!(first_to_end(&mut strangers).await, b"", "without a place, without a word");
    // Those who are allowed do not suffer from them.
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(tcp(&route).await);
    }
    assert_eq!(sqlstate_of(&first_to_end(&mut waiting).await).as_deref(), Some("53300"));
    drop(waiting);
    crate::support::eventually("a place", || async { psql(18, &home, &route, "select 1").ok() }).await;
    drop(strangers);
    gateway.stop().await;
}
