//! What comes before a session and is TLS's own: in which order, which protocol, which version, until when.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use gateway::Limits;
use rcgen::KeyPair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::clients::{
    GSS_REQUEST, SSL_REQUEST, encrypted, program, psql, result, signed_in, startup, tcp, tls_asking_for,
};
use crate::support::home::{Home, front_door, limits};
use crate::support::raw::{rest, sqlstate_of};
use crate::support::server::Server;

/// Encryption is asked for once, in any order; after a refusal only TLS or nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn requests_for_encryption_in_every_order() {
    let (_server, home, route, gateway) = front_door(18).await;
    let who = startup(b"user\0flights_owner\0\0");
    for (asked, code) in [
        ([&GSS_REQUEST[..], &who].concat(), "28000"),
        ([&GSS_REQUEST[..], &GSS_REQUEST].concat(), "08P01"),
        // Direct TLS has to be the first thing that is said.
        ([&GSS_REQUEST[..], &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]].concat(), "08P01"),
    ] {
        let mut stream = tcp(&route).await;
        stream.write_all(&asked).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'N');
        assert_eq!(sqlstate_of(&rest(&mut stream).await).as_deref(), Some(code), "{asked:?}");
    }
    for request in [SSL_REQUEST, GSS_REQUEST] {
        let mut inside = encrypted(tcp(&route).await, &home).await.unwrap();
        inside.write_all(&request).await.unwrap();
        assert_eq!(sqlstate_of(&rest(&mut inside).await).as_deref(), Some("08P01"));
    }
    // The control: the same with nothing too much.
    let mut stream = tcp(&route).await;
    stream.write_all(&GSS_REQUEST).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
    drop(signed_in(encrypted(stream, &home).await.unwrap()).await);
    gateway.stop().await;
}

/// Without a request TLS must say that it carries PostgreSQL: else a browser could be made to speak to a
/// server (ALPACA). With one, it need not; but who says something else is refused in both.
#[tokio::test(flavor = "multi_thread")]
async fn direct_tls_needs_its_protocol_and_no_other_is_taken() {
    let (_server, home, route, gateway) = front_door(18).await;
    let ask = async |direct: bool, protocols: &[&[u8]]| {
        let mut stream = tcp(&route).await;
        if !direct {
            stream.write_all(&SSL_REQUEST).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'S');
        }
        tls_asking_for(protocols, &home.ca()).connect("localhost".try_into().unwrap(), stream).await
    };
    for (direct, protocols) in [
        (true, &[&b"postgresql"[..]][..]),
        (true, &[b"http/1.1", b"postgresql"]),
        (false, &[b"postgresql"]),
        (false, &[]),
    ] {
        drop(signed_in(ask(direct, protocols).await.unwrap()).await);
    }
    for direct in [true, false] {
        let refused = ask(direct, &[b"http/1.1"]).await.unwrap_err().to_string();
        assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    }
    let mut unsaid = ask(true, &[]).await.unwrap();
    let said = rest(&mut unsaid).await;
    assert_eq!(sqlstate_of(&said).as_deref(), Some("08P01"));
    assert!(String::from_utf8_lossy(&said).contains("direct TLS needs ALPN `postgresql`"));
    home.logged("the handshakes", |line| line["outcome"] == "tls_failed").await;
    gateway.stop().await;
}

/// `openssl s_client`, which speaks what rustls and libpq would not: types a line once it is connected, and
/// waits for the gateway to close. What it said.
fn s_client(route: &gateway::route::Route, options: &[&str], typed: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-starttls", "postgres", "-connect", &format!("127.0.0.1:{}", route.port)])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut said = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    while output.read_line(&mut said).unwrap() > 0 {
        // The end of its report on the handshake.
        if said.ends_with("---\n") && (said.contains("SSL-Session") || said.contains("Early data")) {
            let _ = input.write_all(typed.as_bytes());
            break;
        }
    }
    output.read_to_string(&mut said).unwrap();
    said + &String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_and_nothing_older_resumed_renegotiated_or_early() {
    let server = Server::start(18).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let gateway = home.gateway(Limits { sign_in: Duration::from_secs(1), ..limits() }).await;
    home.refresh(&route.server).await;
    for old in ["-tls1", "-tls1_1"] {
        let said = s_client(&route, &[old, "-cipher", "DEFAULT@SECLEVEL=0"], "");
        assert!(said.contains("SSL alert number") && said.contains("Cipher is (NONE)"), "{said}");
    }
    for (version, name) in [("-tls1_2", "New, TLSv1.2"), ("-tls1_3", "New, TLSv1.3")] {
        // Without a session that a client could take up again there is no early data either.
        let said = s_client(&route, &[version, "-reconnect"], "");
        assert!(said.contains(name) && !said.contains("Reused"), "{said}");
        assert!(!said.contains("New Session Ticket") && !said.contains("TLS session ticket"), "{said}");
    }
    let said = s_client(&route, &["-tls1_2"], "R\n");
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    gateway.stop().await;
}

/// A renewal that went wrong in time (an old file copied back, a clock that was wrong where it was made) must
/// not take away what clients accept. Where there is nothing else, it serves, and is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_time_takes_no_others_place() {
    let (_server, home, route, gateway) = front_door(18).await;
    let until = async || home.client().await.refresh().await.unwrap().certificate_until.unwrap();
    let good = until().await;
    let key = KeyPair::generate().unwrap();
    for (from, to) in [(2001, 2002), (4001, 4002)] {
        home.certify_for(&key, from, to);
        let refused = home.client().await.refresh().await.unwrap().refused;
        assert!(refused.len() == 1 && refused[0].1.contains("valid from"), "{refused:?}");
        assert_eq!(until().await, good);
        assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1", "verify-full, so it is the good one");
    }
    home.certify_for(&key, 2001, 4002);
    assert_eq!(home.client().await.refresh().await.unwrap().refused, [], "the control");
    assert_ne!(until().await, good);
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_serves_where_there_is_no_other_and_is_said() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    home.certify_for(&KeyPair::generate().unwrap(), 2001, 2002);
    let gateway = home.gateway(limits()).await;
    for _ in 0..2 {
        let refused = home.client().await.refresh().await.unwrap().refused;
        assert!(refused.len() == 1 && refused[0].1.contains("to 2002-01-01T00:00:00Z only"), "{refused:?}");
    }
    let said = psql(18, &home, &route, "select 1").unwrap_err();
    assert!(said.contains("certificate verify failed"), "{said}");
    let mut trusting = program(18, "psql", &home, &route);
    trusting.env("PGSSLMODE", "require").env_remove("PGSSLROOTCERT").args(["-XAtc", "select 1"]);
    assert_eq!(result(&mut trusting).as_deref(), Ok("1"));
    home.certify(&KeyPair::generate().unwrap());
    assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}
