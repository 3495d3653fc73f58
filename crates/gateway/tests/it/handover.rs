//! One gateway takes the place of another: nobody is refused, nobody is lost, whoever is killed meanwhile.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use gateway::Limits;
use gateway::route::Settings;
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use crate::endings::{POINTS, spawn_of_rank};
use crate::support::clients::{connect, encrypted, message, program, psql, result, signed_in, sqlstate, tcp};
use crate::support::eventually;
use crate::support::home::{Home, free_port, front_door, limits};
use crate::support::server::Server;

/// Points that the old gateway passes.
const OLD: [&str; 4] =
    ["gateway::descriptors_sent", "gateway::accepts_no_more", "gateway::handed_over", "gateway::drains"];
/// Points that the new one passes; from `gateway::took_over` on the place is its own.
const NEW: [&str; 4] =
    ["gateway::offer_received", "gateway::took_over", "gateway::locked", "gateway::serves"];
/// Points of sleep, which takes a keeper; see the command's own tests.
const SLEEP: [&str; 3] = ["gateway::frozen", "gateway::asleep", "gateway::woken"];

/// Points of a hold; see its own tests.
const HOLD: [&str; 2] = ["gateway::held", "gateway::arrived"];

/// No end, but a refusal.
const REFUSE: [&str; 1] = ["gateway::may_not"];

/// Every fail point of the gateway is in a list: a new one cannot be forgotten.
#[test]
fn every_fail_point_is_driven() {
    fn collect(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                collect(&entry.path(), found);
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let names = text.split("fail_point!(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
            found.extend(names.map(str::to_owned));
        }
    }
    let mut found = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let lists: [&[&str]; 6] = [&POINTS, &OLD, &NEW, &SLEEP, &HOLD, &REFUSE];
    assert_eq!(found, lists.concat().into_iter().map(str::to_owned).collect());
}

/// Work through the gateway for some seconds.
fn pgbench(home: &Home, route: &gateway::route::Route, who: &str, more: &[&str]) -> Child {
    let mut command = program(18, "pgbench", home, route);
    command.env("PGAPPNAME", who);
    command.args(["-n", "-T", "8", "-M", "prepared"]).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn without_a_failure(child: Child) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hand_overs_fail_no_transaction_and_refuse_no_connection() {
    let (server, home, route, first) = front_door(18).await;
    result(program(18, "pgbench", &home, &route).args(["-i", "-q", "-s", "1"])).unwrap();
    let mut working = pgbench(&home, &route, "working", &["-c", "8", "-j", "2"]);
    let mut coming = pgbench(&home, &route, "coming", &["-C", "-S", "-c", "2"]);
    let mut gateways = vec![first];
    let admin = server.admin().await;
    let question = "select count(*) from pg_stat_activity where application_name = 'working'";
    eventually("eight at work", async || {
        (admin.query_one(question, &[]).await.unwrap().get::<_, i64>(0) == 8).then_some(())
    })
    .await;
    for rank in 2..=4 {
        eventually("clients to come to this one", async || {
            (home.client().await.status().await.ok()?.routes.first()?.sessions > 0).then_some(())
        })
        .await;
        gateways.push(home.gateway_of_rank(rank, limits()).await);
    }
    assert!(working.try_wait().unwrap().is_none() && coming.try_wait().unwrap().is_none(), "too late");
    let draining = home.serves(4).await.draining;
    assert_eq!(draining.first().map(|draining| (draining.rank, draining.sessions)), Some((1, 8)));
    tokio::task::spawn_blocking(|| [working, coming].map(without_a_failure)).await.unwrap();
    let last = gateways.pop().unwrap();
    for gateway in gateways {
        gateway.drained().await;
    }
    assert_eq!(home.serves(4).await.draining, []);
    last.stop().await;
}

async fn number(client: &Client) -> i32 {
    client.query_one("select 1", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_and_the_old_gateway_ends_with_the_last() {
    let (_server, home, route, old) = front_door(15).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    client.batch_execute("create temporary table kept as select 1 as a").await.unwrap();
    let new = home.gateway_of_rank(2, limits()).await;
    assert_eq!(client.query_one("select a from kept", &[]).await.unwrap().get::<_, i32>(0), 1);
    let status = home.serves(2).await;
    assert_eq!((status.draining.len(), status.routes[0].sessions), (1, 0));
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(!old.is_done());
    drop(client);
    old.drained().await;
    psql(15, &home, &route, "select 1").unwrap();
    new.stop().await;
    assert!(psql(15, &home, &route, "select 1").is_err());
    // What is left is what any gateway leaves.
    let left: BTreeSet<_> =
        std::fs::read_dir(home.path().join("gateway")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["asleep", "gateway.json", "gateway.lock", "routes", "tls"].map(Into::into).into());
}

/// At the port of the server, in TLS and in the clear, and at the shared port.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_finds_its_session_in_a_gateway_that_drains() {
    let (server, home, mut route, old) = front_door(18).await;
    let shared_port = free_port();
    home.settle(&Settings { shared_port: Some(shared_port), ..Home::settings() });
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let (client, _messages) = connect(&home, &route).await.unwrap();
        let token = client.cancel_token();
        let slow = tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
        sessions.push((token, slow));
    }
    let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    let admin = server.admin().await;
    eventually("the statements to run", async || {
        (admin.query_one(asleep, &[]).await.unwrap().get::<_, i64>(0) == 3).then_some(())
    })
    .await;
    let middle = home.gateway_of_rank(2, limits()).await;
    let new = home.gateway_of_rank(3, limits()).await;
    middle.drained().await;
    let own_port = route.clone();
    for (number, (token, slow)) in sessions.into_iter().enumerate() {
        assert!(!slow.is_finished());
        match number {
            0 => {
                let stream = encrypted(tcp(&own_port).await, &home).await.unwrap();
                token.cancel_query_raw(stream, NoTls).await.unwrap();
            }
            1 => token.cancel_query_raw(tcp(&own_port).await, NoTls).await.unwrap(),
            _ => {
                route.port = shared_port;
                token.cancel_query_raw(tcp(&route).await, NoTls).await.unwrap();
            }
        }
        assert_eq!(sqlstate(&slow.await.unwrap().unwrap_err()), Some("57014"), "{number}");
    }
    old.drained().await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_ends_sessions_of_a_gateway_that_drains() {
    let (_server, home, mut route, old) = front_door(15).await;
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let new = home.gateway_of_rank(2, limits()).await;
    route.allow = vec!["127.0.0.2/32".parse().unwrap()];
    home.declare(&route);
    let (kind, body) = message(&mut idle).await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(kind == b'E' && body.contains("C57P01\0") && body.contains("allow-list"), "{body}");
    old.drained().await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_drain_is_limited_and_may_be_cut_short() {
    let (_server, home, route, old) = front_door(15).await;
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    home.settle(&Settings { drain_ms: Some(1), ..Home::settings() });
    let new = home.gateway_of_rank(2, limits()).await;
    let (kind, body) = message(&mut idle).await.unwrap();
    assert!(kind == b'E' && String::from_utf8_lossy(&body).contains("C57P01\0"));
    old.drained().await;
    // Told to stop, one that drains does so at once.
    home.settle(&Home::settings());
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let newest = home.gateway_of_rank(3, limits()).await;
    new.stop().await;
    let (kind, body) = message(&mut idle).await.unwrap();
    assert!(kind == b'E' && String::from_utf8_lossy(&body).contains("C57P01\0"));
    newest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_higher_rank_takes_over() {
    let (_server, home, route, first) = front_door(15).await;
    let second = home.gateway_of_rank(2, limits()).await;
    first.drained().await;
    let options = |rank| gateway::Options { home: home.path().to_owned(), rank };
    let refused = gateway::serve(options(2), limits(), std::future::pending()).await.unwrap_err().to_string();
    assert!(refused.contains("a gateway of rank 2 serves already, this one is of rank 2"), "{refused}");
    let refused = gateway::serve(options(1), limits(), std::future::pending()).await.unwrap_err().to_string();
    assert!(refused.contains("another gateway serves"), "{refused}");
    psql(15, &home, &route, "select 1").unwrap();
    second.stop().await;
}

/// A gateway that stands still, or is of a version that knows no hand-over, keeps its place.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_answer_is_left_alone() {
    let (_server, home, route, first) = front_door(15).await;
    first.stop().await;
    let mut still = spawn_of_rank(1, &home, "");
    home.serves(1).await;
    let pid = Pid::from_raw(still.id().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let limits = Limits { hand_over: Duration::from_millis(200), ..limits() };
    let options = gateway::Options { home: home.path().to_owned(), rank: 2 };
    let refused = gateway::serve(options, limits, std::future::pending()).await.unwrap_err().to_string();
    assert!(refused.contains("it does not answer"), "{refused}");
    kill_process(pid, Signal::CONT).unwrap();
    eventually("it to serve on", async || psql(15, &home, &route, "select 1").ok()).await;
    assert_eq!(home.serves(1).await.pid, still.id());
    still.kill().unwrap();
    still.wait().unwrap();
}

/// A moment at which the place cannot be given away is waited out, for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_is_refused_and_tried_again() {
    let (_server, home, route, first) = front_door(15).await;
    first.stop().await;
    let old = spawn_of_rank(1, &home, "gateway::may_not=return");
    home.serves(1).await;
    let options = gateway::Options { home: home.path().to_owned(), rank: 2 };
    let few = Limits { hand_over: Duration::from_millis(300), ..limits() };
    let refused = gateway::serve(options, few, std::future::pending()).await.unwrap_err().to_string();
    assert_eq!(refused, "the gateway in force did not hand over: this is not the moment");
    psql(15, &home, &route, "select 1").unwrap();
    end(old);
    let mut old = spawn_of_rank(1, &home, "gateway::may_not=3*return");
    home.serves(1).await;
    let new = home.gateway_of_rank(2, limits()).await;
    assert!(eventually("the old one to end", async || old.try_wait().unwrap()).await.success());
    psql(15, &home, &route, "select 1").unwrap();
    new.stop().await;
}

/// Who takes everything and goes before it is told to has taken nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lent_comes_back() {
    let (_server, home, route, first) = front_door(15).await;
    first.stop().await;
    let old = spawn_of_rank(1, &home, "gateway::accepts_no_more=1*sleep(1000)");
    home.serves(1).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    // Not tokio's: a read that ends where descriptors do is to tokio the end of what there is.
    let mut other = UnixStream::connect(home.path().join("gateway/gateway.sock")).unwrap();
    writeln!(other, r#"{{"op":"hand_over","rank":2}}"#).unwrap();
    let mut offer = String::new();
    BufReader::new(&mut other).read_line(&mut offer).unwrap();
    assert_eq!(offer.trim(), r#"{"offer":3}"#, "the lock, the status socket, one port");
    writeln!(other, "taken").unwrap();
    drop(other);
    // Comes while nobody accepts, and waits.
    psql(15, &home, &route, "select 1").unwrap();
    let status = home.serves(1).await;
    assert_eq!((status.pid, status.draining), (old.id(), Vec::new()));
    assert_eq!(number(&client).await, 1);
    let new = home.gateway_of_rank(2, limits()).await;
    assert_eq!(number(&client).await, 1);
    psql(15, &home, &route, "select 1").unwrap();
    new.stop().await;
    end(old);
}

/// Ends a process that did not end by itself.
fn end(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

/// Waits for the kill that a fail point is.
async fn died(process: &mut Child, point: &str) {
    use std::os::unix::process::ExitStatusExt;
    let status = eventually(point, async || process.try_wait().unwrap()).await;
    assert_eq!(status.signal(), Some(9), "{point}");
}

/// One serves, and only one: it has the lock, the status socket and every port.
async fn is_whole(home: &Home, route: &gateway::route::Route, server: &Server, rank: u64, point: &str) {
    let status = home.serves(rank).await;
    assert_eq!(status.refused, [], "{point}");
    assert_eq!(status.routes[0].error, None, "{point}");
    psql(18, home, route, "select 1").unwrap_or_else(|why| panic!("{point}: {why}"));
    // The next takes over from it as from any other.
    let next = home.gateway_of_rank(9, limits()).await;
    psql(18, home, route, "select 1").unwrap_or_else(|why| panic!("{point}: {why}"));
    next.stop().await;
    eventually("no session left", async || (server.sessions().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_one_killed_at_any_point_leaves_the_new_one() {
    let server = Server::start(18).await;
    for point in OLD {
        let home = Home::new();
        let route = home.route(&server);
        home.declare(&route);
        let mut old = spawn_of_rank(1, &home, &format!("{point}=return"));
        home.serves(1).await;
        let (client, _messages) = connect(&home, &route).await.unwrap();
        let new = spawn_of_rank(2, &home, "");
        died(&mut old, point).await;
        eventually("the client to notice", async || client.is_closed().then_some(())).await;
        is_whole(&home, &route, &server, 2, point).await;
        end(new);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_one_killed_at_any_point_leaves_one() {
    let server = Server::start(18).await;
    for point in NEW {
        let home = Home::new();
        let route = home.route(&server);
        home.declare(&route);
        let mut old = spawn_of_rank(1, &home, "");
        home.serves(1).await;
        let (client, _messages) = connect(&home, &route).await.unwrap();
        let mut new = spawn_of_rank(2, &home, &format!("{point}=return"));
        died(&mut new, point).await;
        assert_eq!(number(&client).await, 1, "{point}: a session of the old one goes on");
        if point == "gateway::offer_received" {
            assert_eq!(home.serves(1).await.pid, old.id(), "it did not give its place away");
            psql(18, &home, &route, "select 1").unwrap();
        }
        // As the keeper does.
        let again = spawn_of_rank(2, &home, "");
        let status = home.serves(2).await;
        assert_eq!(status.draining.len(), 1, "{point}: it finds the one that drains");
        let (token, sleeping) =
            (client.cancel_token(), async { client.batch_execute("select pg_sleep(600)").await });
        let cancelling = async {
            eventually("the statement to run", async || server.sleeps().await.then_some(())).await;
            token.cancel_query_raw(tcp(&route).await, NoTls).await.unwrap();
        };
        let (ended, ()) = tokio::join!(sleeping, cancelling);
        assert_eq!(sqlstate(&ended.unwrap_err()), Some("57014"), "{point}");
        drop(client);
        assert!(
            eventually("the old one to end", async || old.try_wait().unwrap()).await.success(),
            "{point}"
        );
        is_whole(&home, &route, &server, 2, point).await;
        end(again);
    }
}

/// What is killed while it drains takes its sessions along, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn one_killed_while_it_drains_is_forgotten() {
    let (_server, home, route, first) = front_door(15).await;
    first.stop().await;
    let old = spawn_of_rank(1, &home, "");
    home.serves(1).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let token = client.cancel_token();
    let new = home.gateway_of_rank(2, limits()).await;
    assert_eq!(home.serves(2).await.draining.len(), 1);
    end(old);
    eventually("the client to notice", async || client.is_closed().then_some(())).await;
    assert_eq!(home.serves(2).await.draining, []);
    token.cancel_query_raw(tcp(&route).await, NoTls).await.unwrap();
    home.logged("the request", |line| line["outcome"] == "cancel_unknown").await;
    psql(15, &home, &route, "select 1").unwrap();
    new.stop().await;
}
