//! How sessions end when it is not the client who ends them; and what a killed gateway leaves.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::clients::{connect, encrypted, message, psql, signed_in, sqlstate, tcp};
use crate::support::eventually;
use crate::support::home::{Home, front_door, limits};
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_says_so_to_every_session() {
    let (server, home, route, gateway) = front_door(18).await;
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let (busy, _messages) = connect(&home, &route).await.unwrap();
    let busy = tokio::spawn(async move { busy.batch_execute("select pg_sleep(600)").await });
    eventually("both sessions", || async { (server.sessions().await == 2).then_some(()) }).await;
    // A cancel that came before its statement would cancel nothing.
    eventually("the statement to run", || async { server.sleeps().await.then_some(()) }).await;
    gateway.stop().await;
    let (kind, body) = message(&mut idle).await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(kind, b'E');
    assert!(body.contains("C57P01\0") && body.contains("the gateway is restarting"), "{body}");
    let error = busy.await.unwrap().unwrap_err();
    assert!(matches!(sqlstate(&error), Some("57014" | "57P01")), "{error}");
    eventually("the server's sessions to end", || async { (server.sessions().await == 0).then_some(()) })
        .await;
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", route.port)).await.is_err());
    assert!(!home.path().join("gateway/gateway.sock").exists());
    let stopping = home.log().iter().filter(|line| line["outcome"] == "gateway_stopping").count();
    assert_eq!(stopping, 2, "the log is complete when it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopping_server_says_arrives() {
    let (mut server, home, route, gateway) = front_door(15).await;
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    server.stop();
    let (kind, body) = message(&mut idle).await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(kind, b'E');
    assert!(body.contains("C57P01\0") && body.contains("administrator command"), "{body}");
    assert!(message(&mut idle).await.is_err(), "one last word, not two");
    home.logged("the end", |line| line["outcome"] == "closed_by_server").await;
    gateway.stop().await;
}

/// A backend that is killed says nothing: the gateway says it instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_vanishes_is_spoken_for() {
    let (server, home, route, gateway) = front_door(18).await;
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let pid = home_pid(&server).await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let (kind, body) = message(&mut idle).await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(kind, b'E');
    assert!(body.contains("C57P01\0") && body.contains("ended the session without a word"), "{body}");
    home.logged("the end", |line| line["outcome"] == "server_vanished").await;
    gateway.stop().await;
}

/// The backend of the one session by hand.
async fn home_pid(server: &Server) -> i32 {
    let question = "select pid from pg_stat_activity where application_name = 'by hand'";
    server.admin().await.query_one(question, &[]).await.unwrap().get(0)
}

/// A client that is killed leaves no session behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing() {
    let (server, home, route, gateway) = front_door(18).await;
    let stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    assert_eq!(server.sessions().await, 1);
    // A reset, without a goodbye of TLS or PostgreSQL.
    let (tcp, _) = stream.into_inner();
    rustix::net::sockopt::set_socket_linger(&tcp, Some(Duration::ZERO)).unwrap();
    drop(tcp);
    eventually("the server's session to end", || async { (server.sessions().await == 0).then_some(()) })
        .await;
    let status = || async { home.client().await.status().await.unwrap().routes[0].sessions };
    eventually("the seat", || async { (status().await == 0).then_some(()) }).await;
    gateway.stop().await;
}

/// Nothing comes from a machine that lost its power: the kernel asks whether it is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_is_asked_whether_it_lives() {
    let (_server, home, route, gateway) = front_door(18).await;
    let stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let client = stream.get_ref().0.local_addr().unwrap().port();
    let (ours, theirs) = (format!("0100007F:{:04X}", route.port), format!("0100007F:{client:04X}"));
    // Which timer runs (2 is keepalive) and when it is up, in hundredths of a second.
    let timer = || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut line = line.filter(|line| line[1] == ours && line[2] == theirs);
        line.next().map(|line| line[5].to_owned()).unwrap()
    };
    let left = eventually("keepalive", || async { timer().strip_prefix("02:").map(str::to_owned) }).await;
    assert!(u32::from_str_radix(&left, 16).unwrap() <= 60 * 100, "{left}: not the kernel's own two hours");
    drop(stream);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_a_home() {
    let home = Home::new();
    let gateway = home.gateway(limits()).await;
    let options = gateway::Options { home: home.path().to_owned(), rank: gateway::FIRST_RANK };
    let second = gateway::serve(options, limits(), std::future::pending()).await;
    let said = second.unwrap_err().to_string();
    assert!(said.contains("another gateway serves"), "{said}");
    assert_eq!(home.client().await.status().await.unwrap().pid, std::process::id());
    gateway.stop().await;
}

/// Not a test of its own: the gateway as a process, started by the tests below.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_process() {
    let Some(home) = std::env::var_os("STEAD_TEST_GATEWAY_HOME") else { return };
    let scenario = fail::FailScenario::setup();
    let rank = std::env::var("STEAD_TEST_GATEWAY_RANK").unwrap().parse().unwrap();
    gateway::run(gateway::Options { home: home.into(), rank }).await.unwrap();
    scenario.teardown();
}

fn spawn(home: &Home, failpoints: &str) -> Child {
    spawn_of_rank(gateway::FIRST_RANK, home, failpoints)
}

pub(crate) fn spawn_of_rank(rank: u64, home: &Home, failpoints: &str) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig=KILL"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "endings::gateway_process", "--nocapture"])
        .env("STEAD_TEST_GATEWAY_HOME", home.path())
        .env("STEAD_TEST_GATEWAY_RANK", rank.to_string())
        .env("FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn pid_of(home: &Home) -> u32 {
    home.client().await.status().await.unwrap().pid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_is_simply_started_again() {
    let server = Server::start(15).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let mut first = spawn(&home, "");
    assert_eq!(pid_of(&home).await, first.id());
    let (client, _messages) = connect(&home, &route).await.unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    eventually("the client to notice", || async { client.is_closed().then_some(()) }).await;
    eventually("the server's session to end", || async { (server.sessions().await == 0).then_some(()) })
        .await;
    let mut second = spawn(&home, "");
    eventually("the port", || async { psql(15, &home, &route, "select 1").ok() }).await;
    // And SIGTERM is a graceful end.
    let mut idle = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    kill_process(Pid::from_raw(second.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(message(&mut idle).await.unwrap().0, b'E');
    assert!(second.wait().unwrap().success());
}

/// What a gateway by itself passes.
pub(crate) const POINTS: [&str; 8] = [
    "gateway::locked",
    "gateway::socket_bound",
    "gateway::serves",
    "gateway::signed_in",
    "gateway::logged_in",
    "gateway::route_swapped",
    "gateway::ports_closed",
    "gateway::port_opened",
];

/// Killed between any two effects, it is whole again after the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_fail_point_leaves_nothing_to_repair() {
    let server = Server::start(18).await;
    for point in POINTS {
        let home = Home::new();
        let mut route = home.route(&server);
        home.declare(&route);
        let mut doomed = spawn(&home, &format!("{point}=return"));
        // Each step that can reach one of the points, as far as there is a gateway to take it.
        // One that answers has opened its ports.
        let answered = async { home.client().await.status().await };
        let _ = tokio::time::timeout(Duration::from_secs(2), answered).await;
        let _ = psql(18, &home, &route, "select 1");
        route.max_sessions += 1;
        home.declare(&route);
        let died = eventually("the kill", async || {
            if let Ok(mut client) = gateway::Client::connect(home.path()).await {
                let _ = client.refresh().await;
                if point == "gateway::ports_closed" && home.path().join(file(&route)).exists() {
                    home.undeclare(&route.server);
                }
            }
            doomed.try_wait().unwrap()
        });
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(died.await.signal(), Some(9), "{point}");
        home.declare(&route);
        let mut whole = spawn(&home, "");
        eventually(point, || async { psql(18, &home, &route, "select 1").ok() }).await;
        whole.kill().unwrap();
        whole.wait().unwrap();
        eventually("no session left", || async { (server.sessions().await == 0).then_some(()) }).await;
    }
}

fn file(route: &gateway::route::Route) -> String {
    format!("gateway/routes/{}.json", route.server)
}
