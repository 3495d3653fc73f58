//! Who does not get in, and what he is told.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::clients::{
    config, connect, connect_with, encrypted, program, psql, result, sqlstate, tcp, tcp_from,
};
use crate::support::eventually;
use crate::support::home::{Home, free_port, front_door, limits};
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_role_that_is_not_there_look_the_same() {
    let (server, home, route, gateway) = front_door(18).await;
    let before = server.log();
    for client in [15, 18] {
        for (user, password) in [("flights_owner", "wrong"), ("nobody_here", "wrong"), ("stead_gateway", "")]
        {
            let mut psql = program(client, "psql", &home, &route);
            psql.env("PGUSER", user).env("PGPASSWORD", format!("{password}x")).args(["-XAtc", "select 1"]);
            let said = result(&mut psql).unwrap_err();
            assert!(said.contains(&format!("password authentication failed for user \"{user}\"")), "{said}");
            home.logged("the refusal", |l| l["outcome"] == "bad_password" && l["user"] == user).await;
        }
    }
    assert_eq!(server.sessions().await, 0);
    assert_eq!(server.log(), before, "the server itself saw nobody fail");
    gateway.stop().await;
}

/// Superusers have no verifier here, and a role that pg_hba.conf lets in without a proof cannot use that.
#[tokio::test(flavor = "multi_thread")]
async fn superusers_and_trusted_roles_cannot_come_in() {
    let (server, home, route, gateway) = front_door(15).await;
    let mut superuser = program(15, "psql", &home, &route);
    superuser.env("PGUSER", "stead_admin").env("PGPASSWORD", "admin").args(["-XAtc", "select 1"]);
    let said = result(&mut superuser).unwrap_err();
    assert!(said.contains("password authentication failed for user \"stead_admin\""), "{said}");
    // The control: the same role with the same password, no longer a superuser.
    server.admin().await.batch_execute("CREATE ROLE boss LOGIN PASSWORD 'admin' SUPERUSER").await.unwrap();
    let boss = |home: &Home| {
        let mut boss = program(15, "psql", home, &route);
        result(boss.env("PGUSER", "boss").env("PGPASSWORD", "admin").args(["-XAtc", "select 1"]))
    };
    assert!(boss(&home).is_err());
    server.admin().await.batch_execute("ALTER ROLE boss NOSUPERUSER").await.unwrap();
    assert_eq!(boss(&home).unwrap(), "1");
    server.admin().await.batch_execute("ALTER ROLE boss VALID UNTIL '2001-01-01'").await.unwrap();
    assert!(boss(&home).is_err());

    let mut trusted = program(15, "psql", &home, &route);
    trusted.env("PGUSER", "trusted").env("PGPASSWORD", "trusted").args(["-XAtc", "select 1"]);
    let said = result(&mut trusted).unwrap_err();
    assert!(said.contains("the server cannot check a sign-in now"), "{said}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_passed_on_word_for_word() {
    let (server, home, route, gateway) = front_door(18).await;
    let mut nowhere = program(18, "psql", &home, &route);
    let said = result(nowhere.env("PGDATABASE", "nowhere").args(["-XAtc", "select 1"])).unwrap_err();
    assert!(said.contains("database \"nowhere\" does not exist"), "{said}");
    home.logged("the refusal", |l| l["outcome"] == "server_refused" && l["database"] == "nowhere").await;
    server.admin().await.batch_execute("ALTER ROLE flights_owner CONNECTION LIMIT 0").await.unwrap();
    let said = psql(15, &home, &route, "select 1").unwrap_err();
    assert!(said.contains("too many connections for role \"flights_owner\""), "{said}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_and_the_number_is_named() {
    let (_server, home, mut route, gateway) = front_door(15).await;
    route.max_sessions = 2;
    home.declare(&route);
    home.refresh(&route.server).await;
    let first = connect(&home, &route).await.unwrap();
    let _second = connect(&home, &route).await.unwrap();
    let error = connect(&home, &route).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("53300"));
    let said = psql(18, &home, &route, "select 1").unwrap_err();
    assert!(said.contains("all 2 sessions of postgres.main of acme/flights are in use"), "{said}");
    assert_eq!(home.client().await.status().await.unwrap().routes[0].sessions, 2);
    drop(first);
    eventually("a place", || async { connect(&home, &route).await.ok() }).await;
    gateway.stop().await;
}

/// A refused client is told why, by a name of nothing but its own address, and the server sees nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_allow_list_comes_first() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    route.allow = vec!["127.0.0.2/32".parse().unwrap()];
    home.declare(&route);
    home.refresh(&route.server).await;
    // Not even its being down can be seen from outside.
    server.stop();
    for client in [15, 18] {
        for mode in ["verify-full", "disable"] {
            let mut psql = program(client, "psql", &home, &route);
            psql.env("PGSSLMODE", mode).env("PGCHANNELBINDING", "prefer").args(["-XAtc", "select 1"]);
            let said = result(&mut psql).unwrap_err();
            assert!(said.contains("address 127.0.0.1 is not on the allow-list of this server"), "{said}");
            assert!(!said.contains("acme") && !said.contains("flights\""), "{said}");
        }
    }
    home.logged("the refusal", |l| l["outcome"] == "not_allowed" && l["tenant"] == "acme").await;
    // The control: from an address on the list, the server's absence shows.
    let stream = encrypted(tcp_from("127.0.0.2", &route).await, &home).await.unwrap();
    let error = connect_with(&config(), stream).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("57P03"));
    server.boot().await;
    let stream = encrypted(tcp_from("127.0.0.2", &route).await, &home).await.unwrap();
    let (client, _messages) = connect_with(&config(), stream).await.unwrap();
    assert_eq!(server.sessions().await, 1);
    drop(client);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_the_clear_is_refused() {
    let (_server, home, route, gateway) = front_door(15).await;
    for client in [15, 18] {
        let mut psql = program(client, "psql", &home, &route);
        psql.env("PGSSLMODE", "disable").env("PGCHANNELBINDING", "prefer").args(["-XAtc", "select 1"]);
        let said = result(&mut psql).unwrap_err();
        assert!(said.contains("connect with sslmode=require"), "{said}");
    }
    home.logged("the refusal", |l| l["outcome"] == "not_encrypted").await;
    gateway.stop().await;
}

/// Somebody with a certificate that the client trusts sits in the middle. Without binding he is not
/// noticed (the control); with it he is.
#[tokio::test(flavor = "multi_thread")]
async fn a_man_in_the_middle_is_found_out_by_channel_binding() {
    let (_server, home, route, gateway) = front_door(18).await;
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = home.sign(&key);
    let acceptor = acceptor(&certificate, &key);
    let (target, ca) = (route.clone(), home.ca());
    let relay = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (acceptor, target, ca) = (acceptor.clone(), target.clone(), ca.clone());
            tokio::spawn(async move {
                let _ = middle_man(client, acceptor, &target, &ca).await;
            });
        }
    });
    let through = |binding: &str| {
        let mut psql = program(18, "psql", &home, &route);
        psql.env("PGPORT", port.to_string()).env("PGCHANNELBINDING", binding).args(["-XAtc", "select 1"]);
        result(&mut psql)
    };
    assert_eq!(through("disable").as_deref(), Ok("1"), "the control");
    for binding in ["prefer", "require"] {
        let said = through(binding).unwrap_err();
        assert!(said.contains("SCRAM channel binding check failed"), "{said}");
    }
    home.logged("the attack", |l| l["outcome"] == "channel_binding").await;
    relay.abort();
    gateway.stop().await;
}

fn acceptor(certificate: &str, key: &rcgen::KeyPair) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config))
}

async fn middle_man(
    mut client: TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
    route: &gateway::route::Route,
    ca: &std::path::Path,
) -> io::Result<()> {
    // SSLRequest, preceded by a GSSENCRequest where libpq has it.
    let mut request = [0; 8];
    client.read_exact(&mut request).await?;
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await?;
    let mut server = tcp(route).await;
    server.write_all(&request).await?;
    assert_eq!(server.read_u8().await?, b'S');
    let name = "localhost".try_into().unwrap();
    let mut server = crate::support::clients::tls(ca).connect(name, server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_said_to_be() {
    let (mut server, home, route, gateway) = front_door(18).await;
    server.stop();
    for client in [15, 18] {
        let said = psql(client, &home, &route, "select 1").unwrap_err();
        assert!(said.contains("the server is starting or stopped; retry in a few seconds"), "{said}");
    }
    home.logged("the refusal", |l| l["outcome"] == "server_down").await;
    server.boot().await;
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    // Once more, with the gateway's own connection to it still open.
    server.stop_at_once();
    assert!(psql(18, &home, &route, "select 1").unwrap_err().contains("starting or stopped"));
    server.boot().await;
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}

/// A server without the function that the driver provides.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_asked_is_said_to_be_unready() {
    let server = Server::start(15).await;
    server.admin().await.batch_execute("DROP SCHEMA stead CASCADE").await.unwrap();
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let gateway = home.gateway(limits()).await;
    let error = connect(&home, &route).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("57P03"));
    gateway.stop().await;
}

/// What a killed server left behind is a server that is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_nobody_listens_on_is_a_server_that_is_down() {
    let (_server, home, mut route, gateway) = front_door(15).await;
    let folder = home.path().join("left");
    std::fs::create_dir(&folder).unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap());
    route.socket_dir = folder;
    home.declare(&route);
    home.refresh(&route.server).await;
    let error = connect(&home, &route).await.err().unwrap();
    assert_eq!(sqlstate(&error), Some("57P03"));
    gateway.stop().await;
}
