//! Files say what is served; what is malformed takes nothing away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway::route::Route;

use crate::support::clients::{connect, psql, sqlstate};
use crate::support::eventually;
use crate::support::home::{Home, free_port, front_door, limits};
use crate::support::server::Server;

async fn reachable(port: u16) -> bool {
    tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_appears_moves_and_goes_by_its_file_alone() {
    let (_server, home, mut route, gateway) = front_door(18).await;
    let (old, port) = (route.port, free_port());
    let (client, _messages) = connect(&home, &route).await.unwrap();
    route.port = port;
    route.generation = 2;
    home.declare(&route);
    // Nobody tells the gateway: it watches.
    eventually("the new port", || async { reachable(port).await.then_some(()) }).await;
    eventually("the old port to close", || async { (!reachable(old).await).then_some(()) }).await;
    assert_eq!(home.client().await.status().await.unwrap().routes[0].generation, 2);
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    // A session that came by the old port stays.
    assert_eq!(client.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    home.undeclare(&route.server);
    eventually("the port to close", || async { (!reachable(port).await).then_some(()) }).await;
    eventually("the session to end", || async { client.is_closed().then_some(()) }).await;
    home.logged("the reason", |line| line["outcome"] == "route_removed").await;
    assert_eq!(home.refresh(&route.server).await, None);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_an_edit_no_longer_allows_end_and_their_statements_too() {
    let (server, home, mut route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let running = tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
    eventually("the statement", || async { (server.sessions().await == 1).then_some(()) }).await;
    route.generation += 1;
    home.declare(&route);
    home.refresh(&route.server).await;
    assert!(!running.is_finished(), "the control: an edit of something else ends nobody");
    route.allow = vec!["10.0.0.0/8".parse().unwrap()];
    home.declare(&route);
    home.refresh(&route.server).await;
    let error = running.await.unwrap().unwrap_err();
    // The statement is cancelled first; which of the two the client sees last is the session's end.
    assert!(matches!(sqlstate(&error), Some("57014" | "57P01")), "{error}");
    eventually("the server's session to end", || async { (server.sessions().await == 0).then_some(()) })
        .await;
    home.logged("the reason", |line| line["outcome"] == "no_longer_allowed").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_told_why_it_ends() {
    let (_server, home, mut route, gateway) = front_door(15).await;
    let stream = crate::support::clients::encrypted(crate::support::clients::tcp(&route).await, &home);
    let mut stream = crate::support::clients::signed_in(stream.await.unwrap()).await;
    route.allow.clear();
    home.declare(&route);
    home.refresh(&route.server).await;
    let (kind, body) = crate::support::clients::message(&mut stream).await.unwrap();
    let body = String::from_utf8(body).unwrap();
    assert_eq!(kind, b'E');
    assert!(body.contains("C57P01\0") && body.contains("no longer on the allow-list"), "{body}");
    assert!(crate::support::clients::message(&mut stream).await.is_err(), "and closed");
    gateway.stop().await;
}

/// Every way a file can be wrong is named, and what was in force stays in force.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_files_are_refused_by_name() {
    let (_server, home, route, gateway) = front_door(18).await;
    let file = format!("{}.json", route.server);
    let path = format!("gateway/routes/{file}");
    let good = serde_json::to_value(&route).unwrap();
    let edit = |key: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        bad[key] = value;
        bad.to_string()
    };
    for (text, reason) in [
        (String::new(), "is malformed: EOF"),
        ("{".to_owned(), "is malformed"),
        (edit("port", 0.into()), "`port` is 0"),
        (edit("port", 70_000.into()), "is malformed: invalid value: integer `70000`"),
        (edit("server", "other".into()), "`server` is `other`"),
        (edit("socket_dir", "run".into()), "`socket_dir` is not absolute"),
        (edit("socket_dir", format!("/{}", "x".repeat(100)).into()), "`socket_dir` is too long"),
        (edit("allow", serde_json::json!(["10.0.0.0/40"])), "is malformed"),
        (edit("surprise", 1.into()), "unknown field `surprise`"),
    ] {
        home.write(&path, &text);
        let status = home.client().await.refresh().await.unwrap();
        let refused: Vec<_> = status.refused.iter().filter(|(name, _)| *name == file).collect();
        assert!(refused.len() == 1 && refused[0].1.contains(reason), "{text}: {:?}", status.refused);
        assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1", "the last good state serves");
    }
    home.write("gateway/gateway.json", "not json");
    assert!(home.client().await.refresh().await.unwrap().refused.iter().any(|(n, _)| n == "gateway.json"));
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    home.listen(&[Ipv4Addr::LOCALHOST.into()]);
    home.declare(&route);
    assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
    // A folder that is gone is no wish to serve nobody.
    let routes = home.path().join("gateway/routes");
    std::fs::rename(&routes, home.path().join("aside")).unwrap();
    let status = home.client().await.refresh().await.unwrap();
    assert_eq!((status.routes.len(), status.refused[0].0.as_str()), (1, "routes"));
    std::fs::rename(home.path().join("aside"), &routes).unwrap();
    assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
    // A file that is being written is none.
    home.write("gateway/routes/.other.json", "half");
    assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_and_tried_again() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    let squatter = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, route.port)).await.unwrap();
    home.declare(&route);
    let gateway = home.gateway(limits()).await;
    let error = home.refresh(&route.server).await.unwrap().error.unwrap();
    let named = format!("port {} on 127.0.0.1 is taken by another program", route.port);
    assert!(error.contains(&named), "{error}");
    // A second route with the same port is told whose it is.
    drop(squatter);
    eventually("the port to open by itself", || async { psql(15, &home, &route, "select 1").ok() }).await;
    let second = Route { server: "other".to_owned(), ..route.clone() };
    home.declare(&second);
    let error = home.refresh("other").await.unwrap().error.unwrap();
    assert!(error.contains("is already the port of route `acme-flights-main`"), "{error}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routes_can_swap_ports() {
    let (server, home, mut one, gateway) = front_door(18).await;
    let mut two = Route { server: "two".to_owned(), port: free_port(), max_sessions: 0, ..one.clone() };
    home.declare(&two);
    let _ = server;
    assert_eq!(home.refresh("two").await.unwrap().error, None);
    std::mem::swap(&mut one.port, &mut two.port);
    home.declare(&one);
    home.declare(&two);
    let status = home.client().await.refresh().await.unwrap();
    assert!(status.routes.iter().all(|route| route.error.is_none()), "{status:?}");
    assert_eq!(psql(18, &home, &one, "select 1").unwrap(), "1");
    assert!(psql(18, &home, &two, "select 1").unwrap_err().contains("all 0 sessions"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_where_it_is_told_to() {
    let (_server, home, route, gateway) = front_door(18).await;
    let v6 = home.path().join("gateway/gateway.json");
    // Without settings: both loopbacks.
    std::fs::remove_file(&v6).unwrap();
    let status = home.client().await.refresh().await.unwrap();
    assert_eq!(status.routes[0].error, None);
    let has_v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let over_v6 = tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, route.port)).await.is_ok();
    assert_eq!(over_v6, has_v6);
    // Everywhere, v4 and v6 side by side; a client over v4 has its v4 address on the allow-list.
    home.listen(&[Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
    let status = home.client().await.refresh().await.unwrap();
    assert_eq!(status.routes[0].error, None, "{status:?}");
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    // An address that the host does not have is named; the other serves.
    home.listen(&[Ipv4Addr::LOCALHOST.into(), "192.0.2.1".parse::<IpAddr>().unwrap()]);
    let status = home.client().await.refresh().await.unwrap();
    let error = status.routes[0].error.clone().unwrap();
    assert!(error.contains("this host has no address 192.0.2.1"), "{error}");
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_counts_at_once_and_a_broken_one_never() {
    let (_server, home, route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let until = home.client().await.status().await.unwrap().certificate_until.unwrap();
    assert!(until > jiff::Timestamp::now());
    let serial = || {
        let output = std::process::Command::new("openssl")
            .args(["s_client", "-starttls", "postgres", "-connect", &format!("127.0.0.1:{}", route.port)])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let start = text.find("-----BEGIN CERTIFICATE").expect("a certificate");
        text[start..text.find("-----END CERTIFICATE").unwrap()].to_owned()
    };
    let first = serial();
    // Another kind of key, and another hash for the channel binding.
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P256_SHA256] {
        home.certify(&rcgen::KeyPair::generate_for(algorithm).unwrap());
        eventually("the new certificate", || async { (serial() != first).then_some(()) }).await;
        home.client().await.refresh().await.unwrap();
        assert_eq!(psql(15, &home, &route, "select 1").unwrap(), "1");
    }
    let good = serial();
    for (file, text) in [("key", "junk"), ("cert", "junk"), ("cert", "")] {
        home.write(&format!("gateway/tls/{file}.pem"), text);
        let status = home.client().await.refresh().await.unwrap();
        assert_eq!(status.refused.len(), 1, "{status:?}");
        assert_eq!(serial(), good);
    }
    // A key that belongs to another certificate.
    home.certify(&rcgen::KeyPair::generate().unwrap());
    home.write("gateway/tls/key.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let refused = home.client().await.refresh().await.unwrap().refused;
    assert!(refused[0].1.contains("cannot be used together"), "{refused:?}");
    std::fs::remove_file(home.path().join("gateway/tls/key.pem")).unwrap();
    let refused = home.client().await.refresh().await.unwrap().refused;
    assert!(refused[0].1.contains("key.pem"), "{refused:?}");
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    assert!(!client.is_closed(), "sessions do not notice");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_it_starts_and_says_so() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    std::fs::remove_file(home.path().join("gateway/tls/cert.pem")).unwrap();
    let gateway = home.gateway(limits()).await;
    home.refresh(&route.server).await;
    let status = home.client().await.status().await.unwrap();
    assert_eq!((status.certificate_until, status.refused.len()), (None, 1));
    assert!(psql(15, &home, &route, "select 1").is_err());
    home.certify(&rcgen::KeyPair::generate().unwrap());
    eventually("the certificate", || async { psql(15, &home, &route, "select 1").ok() }).await;
    gateway.stop().await;
}

/// The hash that a client binds to depends on how its certificate was signed; libpq is the judge.
#[tokio::test(flavor = "multi_thread")]
async fn channel_binding_works_with_every_kind_of_signature() {
    let (_server, home, route, gateway) = front_door(18).await;
    let elliptic =
        |curve| ["-newkey".into(), "ec".into(), "-pkeyopt".into(), format!("ec_paramgen_curve:{curve}")];
    let rsa = || ["-newkey".into(), "rsa:2048".into(), "-sigopt".into(), "rsa_padding_mode:pkcs1".into()];
    let pss = || ["-newkey".into(), "rsa:2048".into(), "-sigopt".into(), "rsa_padding_mode:pss".into()];
    for (key, hash, clients) in [
        (elliptic("P-256"), "-sha256", &[15, 18][..]),
        (elliptic("P-384"), "-sha384", &[15, 18]),
        (elliptic("P-256"), "-sha512", &[15, 18]),
        (rsa(), "-sha1", &[15, 18]),
        (rsa(), "-sha256", &[15, 18]),
        (rsa(), "-sha512", &[15, 18]),
        // libpq knows PSS from 16 on.
        (pss(), "-sha384", &[18]),
    ] {
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost", hash])
            .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "ca.pem"])
            .args(&key)
            .current_dir(home.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        home.write("gateway/tls/key.pem", &text("key.pem"));
        home.write("gateway/tls/cert.pem", &text("ca.pem"));
        assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
        for client in clients {
            let said = psql(*client, &home, &route, "select 1");
            assert_eq!(said.as_deref(), Ok("1"), "{key:?} {hash} psql {client}");
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_socket_is_for_the_group_and_takes_lines_only() {
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let home = Home::new();
    let gateway = home.gateway(limits()).await;
    let socket = home.path().join("gateway/gateway.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let mut stream = BufReader::new(tokio::net::UnixStream::connect(&socket).await.unwrap());
    let mut answers = Vec::new();
    for line in ["nonsense", r#"{"op":"status"}"#, r#"{"op":"route","server":"../tls/key"}"#] {
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        answers.push(answer);
    }
    assert!(answers[0].starts_with(r#"{"error":"not a request"#), "{answers:?}");
    assert!(answers[1].contains(&format!("\"pid\":{}", std::process::id())), "{answers:?}");
    assert_eq!(answers[2], "null\n");
    // A line without an end is not waited for for ever.
    stream.write_all(&[b'x'; 10_000]).await.unwrap_or_default();
    assert_eq!(stream.read_line(&mut String::new()).await.unwrap_or(0), 0);
    gateway.stop().await;
}
