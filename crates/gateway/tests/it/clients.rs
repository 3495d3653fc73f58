//! The clients people use, against the oldest and the newest server.

use std::process::Stdio;

use crate::support::clients::{program, psql, result};
use crate::support::home::front_door;
use crate::support::server::Server;

/// Each of PostgreSQL's own programs, as strict as it can be.
#[tokio::test(flavor = "multi_thread")]
async fn psql_15_and_18_connect_with_verify_full_and_channel_binding() {
    for major in [15, 18] {
        let (_server, home, route, gateway) = front_door(major).await;
        for client in [15, 18] {
            assert_eq!(psql(client, &home, &route, "select 6 * 7").unwrap(), "42");
            let log = home.logged("the connection", |line| line["signed_in"] == true).await;
            assert_eq!(log["channel_binding"], true);
            let mut unbound = program(client, "psql", &home, &route);
            unbound.env("PGCHANNELBINDING", "disable").args(["-XAtc", "select 1"]);
            assert_eq!(result(&mut unbound).unwrap(), "1");
            home.logged("a session without binding", |line| line["channel_binding"] == false).await;
        }
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libpq_18_connects_by_direct_tls_and_by_protocol_3_2() {
    let (_server, home, route, gateway) = front_door(18).await;
    let mut direct = program(18, "psql", &home, &route);
    direct.env("PGSSLNEGOTIATION", "direct").args(["-XAtc", "select 1"]);
    assert_eq!(result(&mut direct).unwrap(), "1");
    for version in ["3.0", "3.2", "latest"] {
        let mut newest = program(18, "psql", &home, &route);
        newest.env("PGMAXPROTOCOLVERSION", version).args(["-XAtc", "select 1", "-c", "\\conninfo"]);
        let said = result(&mut newest).unwrap();
        let protocol = said.lines().find(|line| line.starts_with("Protocol Version")).unwrap();
        assert!(protocol.ends_with(if version == "latest" { "3.2" } else { version }), "{said}");
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        let mut tls = program(18, "psql", &home, &route);
        tls.env("PGSSLMAXPROTOCOLVERSION", version).args(["-XAtc", "select 1"]);
        assert_eq!(result(&mut tls).unwrap(), "1");
        home.logged(version, |line| line["tls"] == version).await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_in_every_protocol() {
    for major in [15, 18] {
        let (server, home, route, gateway) = front_door(major).await;
        result(program(major, "pgbench", &home, &route).args(["-i", "-q", "-s", "1"])).unwrap();
        for protocol in ["simple", "extended", "prepared"] {
            let mut bench = program(major, "pgbench", &home, &route);
            bench.args(["-M", protocol, "-n", "-c", "4", "-j", "2", "-t", "50"]);
            let said = result(&mut bench).unwrap();
            assert!(said.contains("number of failed transactions: 0"), "{said}");
            assert!(said.contains("200/200"), "{said}");
        }
        let mut connects = program(major, "pgbench", &home, &route);
        connects.args(["-C", "-S", "-n", "-c", "4", "-j", "2", "-t", "10"]);
        assert!(result(&mut connects).unwrap().contains("40/40"));
        crate::support::eventually("the server's sessions to end", || async {
            (server.sessions().await == 0).then_some(())
        })
        .await;
        gateway.stop().await;
    }
}

/// A pipeline of two programs through two gateways, and what it carried is what was there. Not from Debian's 15: since
/// 15.20 its dumps set `pg_attver` on every column, which other servers do not know.
#[tokio::test(flavor = "multi_thread")]
async fn pg_dump_into_psql() {
    let (_from, home, route, gateway) = front_door(16).await;
    let (_into, there, route_there, gateway_there) = front_door(18).await;
    psql(
        16,
        &home,
        &route,
        "create table t (id int primary key, b bytea, note text); \
         insert into t select n, sha256(n::text::bytea), repeat(chr(200 + n % 500), n % 300) \
         from generate_series(1, 20000) n; select lo_from_bytea(4711, 'a large object')",
    )
    .unwrap();
    let mut dump = program(18, "pg_dump", &home, &route).stdout(Stdio::piped()).spawn().unwrap();
    let mut load = program(18, "psql", &there, &route_there);
    load.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"]).stdin(dump.stdout.take().unwrap());
    result(&mut load).unwrap();
    assert!(dump.wait().unwrap().success());
    let digest = "select count(*), md5(string_agg(t::text, '' order by id)) from t; select lo_get(4711)";
    assert_eq!(psql(16, &home, &route, digest), psql(18, &there, &route_there, digest));
    gateway.stop().await;
    gateway_there.stop().await;
}

/// The password is whatever the server makes of it: the gateway never normalises or sees it.
#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_every_kind_and_rotation_without_delay() {
    let (server, home, route, gateway) = front_door(18).await;
    let admin = server.admin().await;
    for password in ["p", "\u{2168} \u{a0}spaced", "\u{1f511}\u{fb01}", &"long".repeat(200)] {
        admin.execute(&format!("ALTER ROLE flights_owner PASSWORD '{password}'"), &[]).await.unwrap();
        for client in [15, 18] {
            let mut psql = program(client, "psql", &home, &route);
            psql.env("PGPASSWORD", password).args(["-XAtc", "select 1"]);
            assert_eq!(result(&mut psql).as_deref(), Ok("1"), "{password} {client}");
        }
    }
    let old = psql(18, &home, &route, "select 1").unwrap_err();
    assert!(old.contains("password authentication failed for user \"flights_owner\""), "{old}");
    gateway.stop().await;
}

/// A role's own number of iterations is the one that counts (16 and later let it be set).
#[tokio::test(flavor = "multi_thread")]
async fn iterations_come_from_the_verifier() {
    let server = Server::start(18).await;
    let admin = server.admin().await;
    let password = crate::support::PASSWORD.replace('\'', "''");
    let change = format!("SET scram_iterations = 77; ALTER ROLE flights_owner PASSWORD '{password}'");
    admin.batch_execute(&change).await.unwrap();
    let home = crate::support::home::Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let gateway = home.gateway(crate::support::home::limits()).await;
    assert_eq!(psql(15, &home, &route, "select 1").unwrap(), "1");
    gateway.stop().await;
}
