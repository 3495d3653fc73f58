//! What is counted, asked for as Prometheus does.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use gateway::Limits;
use gateway::route::{Route, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::clients::{connect, psql, tcp};
use crate::support::eventually;
use crate::support::home::{Gateway, Home, free_port, limits};
use crate::support::open_metrics::{Series, read};
use crate::support::server::Server;

struct Scraped {
    _server: Server,
    home: Home,
    route: Route,
    gateway: Gateway,
    at: SocketAddr,
}

impl Scraped {
    async fn start(limits: Limits) -> Scraped {
        let server = Server::start(18).await;
        let home = Home::new();
        // A name that has to be written with care.
        let route = Route { stead: "fli\"ghts\\\n".to_owned(), ..home.route(&server) };
        home.declare(&route);
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port());
        home.settle(&Settings { metrics: Some(at), ..Home::settings() });
        let gateway = home.gateway(limits).await;
        assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
        Scraped { _server: server, home, route, gateway, at }
    }

    async fn series(&self) -> Series {
        let answer = ask(self.at, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(head.to_ascii_lowercase().contains(kind), "{head}");
        read(body)
    }

    /// The value of a series of the server, with more labels perhaps.
    async fn of_server(&self, name: &str, more: &str) -> Option<f64> {
        let labels =
            r#"tenant="acme",stead="fli\"ghts\\\n",component="postgres.main",server="acme-flights-main""#;
        self.series().await.get(&format!("{name}{{{labels}{more}}}")).copied()
    }
}

/// All that is answered until the connection is closed.
async fn ask(at: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut answer = Vec::new();
    // A reset is a close too.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted() {
    let scraped = Scraped::start(limits()).await;
    let (home, route) = (&scraped.home, &scraped.route);
    assert_eq!(
        scraped.of_server("stead_gateway_sessions_opened_total", "").await,
        Some(0.0),
        "from the first"
    );
    psql(18, home, route, "select repeat('x', 100000)").unwrap();
    let mut wrong = crate::support::clients::program(18, "psql", home, route);
    crate::support::clients::result(wrong.env("PGPASSWORD", "wrong").args(["-XAtc", "select 1"]))
        .unwrap_err();
    let (client, _messages) = connect(home, route).await.unwrap();
    let waiting = tcp(route).await;
    let signing_in = eventually("who signs in", || async {
        scraped.of_server("stead_gateway_signing_in", "").await.filter(|n| *n > 0.0)
    });
    assert_eq!(signing_in.await, 1.0);
    drop(waiting);
    eventually("its end", || async {
        scraped.of_server("stead_gateway_refused_total", ",outcome=\"left_before_sign_in\"").await
    })
    .await;
    for (name, more, value) in [
        ("sessions", "", 1.0),
        ("sessions_limit", "", 40.0),
        ("sessions_opened_total", "", 2.0),
        ("sessions_ended_total", ",outcome=\"closed_by_client\"", 1.0),
        ("refused_total", ",outcome=\"bad_password\"", 1.0),
        ("sign_in_failures_total", "", 1.0),
        ("sleeps_total", "", 0.0),
        ("wakes_failed_total", "", 0.0),
        ("wake_seconds_count", "", 0.0),
    ] {
        // The last of a connection is counted when its client has long gone.
        eventually(name, || async {
            let found = scraped.of_server(&format!("stead_gateway_{name}"), more).await;
            (found == Some(value)).then_some(())
        })
        .await;
    }
    let sent = scraped.of_server("stead_gateway_sent_bytes_total", "").await.unwrap();
    assert!((100_000.0..110_000.0).contains(&sent), "of the session that ended: {sent}");
    assert!(scraped.of_server("stead_gateway_received_bytes_total", "").await.unwrap() > 20.0);

    let series = scraped.series().await;
    assert_eq!(series["stead_gateway_routes"], 1.0);
    assert_eq!(series["stead_gateway_faults"], 0.0);
    assert_eq!(series["stead_gateway_connections_total"], 4.0, "questions for metrics are none");
    assert_eq!(series["stead_gateway_sign_in_seconds_count"], 2.0);
    assert_eq!(series["stead_gateway_log_lines_dropped_total"], 0.0);
    let until = home.client().await.status().await.unwrap().certificate_until.unwrap();
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let until = until.as_second() as f64;
    assert_eq!(series["stead_gateway_certificate_expiry_seconds"], until);
    assert!(series["process_open_fds"] > 5.0 && series["process_open_fds"] < series["process_max_fds"]);
    assert!(series["process_resident_memory_bytes"] > 1e6);
    drop(client);
    scraped.gateway.stop().await;
}

/// A session that lasts for weeks is seen long before it ends.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_session_are_counted_while_it_lasts() {
    let often = Duration::from_millis(50);
    let scraped = Scraped::start(Limits { long_session: often, counted_every: often, ..limits() }).await;
    let (client, _messages) = connect(&scraped.home, &scraped.route).await.unwrap();
    for n in 1..=3 {
        client.query_one("select repeat('x', 100000)", &[]).await.unwrap();
        let wanted = f64::from(n) * 100_000.0;
        let sent = eventually("the bytes", || async {
            scraped.of_server("stead_gateway_sent_bytes_total", "").await.filter(|sent| *sent > wanted)
        });
        assert!(sent.await < wanted + 10_000.0, "none twice");
    }
    assert_eq!(scraped.of_server("stead_gateway_sessions_ended_total", ",outcome=\"x\"").await, None);
    drop(client);
    let ended = || scraped.of_server("stead_gateway_sessions_ended_total", ",outcome=\"closed_by_client\"");
    eventually("the end", ended).await;
    let sent = scraped.of_server("stead_gateway_sent_bytes_total", "").await.unwrap();
    assert!((300_000.0..310_000.0).contains(&sent), "{sent}");
    assert_eq!(
        scraped.home.log().iter().filter(|line| line["event"] == "open").count(),
        1,
        "one line all the same"
    );
    scraped.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn series_come_and_go_with_routes() {
    let scraped = Scraped::start(limits()).await;
    let home = &scraped.home;
    let second = Route { server: "second".to_owned(), port: free_port(), ..scraped.route.clone() };
    home.declare(&second);
    home.refresh("second").await;
    let of_second = |series: &Series| series.keys().filter(|id| id.contains("server=\"second\"")).count();
    let series = scraped.series().await;
    assert!(of_second(&series) > 10);
    psql(18, home, &second, "select 1").unwrap();
    home.undeclare("second");
    home.refresh("second").await;
    let series = scraped.series().await;
    assert_eq!((of_second(&series), series["stead_gateway_routes"]), (0, 1.0));
    // A file that makes no sense is a fault.
    home.write("gateway/routes/bad.json", "{");
    home.client().await.refresh().await.unwrap();
    assert_eq!(scraped.series().await["stead_gateway_faults"], 1.0);
    scraped.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_is_answered_and_nothing_else() {
    let scraped = Scraped::start(limits()).await;
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (request, answer) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404"),
        ("GET /metrics/x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405"),
        ("GET /metrics HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
        ("\0\0\0\x08\0\0\0\0", "HTTP/1.1 400"),
        (&long, "HTTP/1.1 431"),
    ] {
        let said = ask(scraped.at, request).await;
        assert!(said.starts_with(answer), "{}: {said}", &request[..20.min(request.len())]);
        assert!(answer.ends_with("200") || !said.contains("acme"), "{said}");
    }
    // Two questions in one connection: one answer.
    let twice = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    assert_eq!(ask(scraped.at, &twice).await.matches("# EOF").count(), 1);
    // Those who only sit there are few, and sessions do not mind them.
    let mut idle = Vec::new();
    eventually("no place", async || {
        // A place that was not given back yet may have cost one of these its own: one more each time.
        idle.push(TcpStream::connect(scraped.at).await.unwrap());
        let said = ask(scraped.at, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        said.is_empty().then_some(())
    })
    .await;
    assert!(idle.len() >= 8);
    assert_eq!(psql(18, &scraped.home, &scraped.route, "select 1").unwrap(), "1");
    drop(idle);
    eventually("a place", || async {
        let said = ask(scraped.at, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        said.ends_with("# EOF\n").then_some(())
    })
    .await;
    scraped.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_is_opened_moved_and_closed_with_the_settings() {
    let scraped = Scraped::start(limits()).await;
    let home = &scraped.home;
    let squatter = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).await.unwrap();
    let taken = squatter.local_addr().unwrap();
    home.settle(&Settings { metrics: Some(taken), ..Home::settings() });
    let refused = home.client().await.refresh().await.unwrap().refused;
    assert!(refused[0].0 == "metrics" && refused[0].1.contains("is taken by another program"), "{refused:?}");
    assert!(TcpStream::connect(scraped.at).await.is_err(), "the old one is closed");
    // That of a route is told apart from a stranger's.
    let port = scraped.route.port;
    home.settle(&Settings { metrics: Some((Ipv4Addr::LOCALHOST, port).into()), ..Home::settings() });
    let refused = home.client().await.refresh().await.unwrap().refused;
    assert!(refused[0].1.contains("is already the port of route `acme-flights-main`"), "{refused:?}");
    home.settle(&Home::settings());
    assert_eq!(home.client().await.refresh().await.unwrap().refused, []);
    assert_eq!(psql(18, home, &scraped.route, "select 1").unwrap(), "1");
    scraped.gateway.stop().await;
}
