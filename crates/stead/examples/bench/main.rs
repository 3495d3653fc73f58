//! `script/bench`: what creating, removing and asking cost, each beside its limit, in one run.
//!
//! Everything is measured from outside, with the released binary, as a client would see it. The limit of a
//! creation is what nobody can be faster than: renaming a prepared cluster into place and starting it, by hand.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that fails stops"
)]

mod backups;
mod calls;
mod deploys;
mod door;
mod functions;
mod limit;
mod logs;
mod moves;
mod peers;
mod records;
mod transfers;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Part};
use component::postgres::Size;
use limit::{Hand, Until};
use secrecy::SecretString;
use serde_json::json;
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Samples of each creation; medians need at least twenty.
const SAMPLES: usize = 24;

#[tokio::main]
async fn main() {
    let which: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, port] = which.as_slice()
        && mode == "direct"
    {
        return calls::direct(port.parse().unwrap()).await;
    }
    let wanted = |name: &str| which.is_empty() || which.iter().any(|arg| arg == name);
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!("| what | n | p50 | p99 | limit | ratio |\n|---|---|---|---|---|---|");
    let mut limit = None;
    if wanted("create") {
        // One of each in turn, so that a machine that is now faster and now slower treats them alike.
        let host = Host::start(SAMPLES * 2 + 4).await;
        let mut bare = Hand::prepared(Until::Answer, Size::Nano, SAMPLES).await;
        let mut tenant = Hand::prepared(Until::SignIn, Size::Nano, SAMPLES).await;
        let (mut answers, mut sign_ins, mut warm) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..SAMPLES {
            answers.push(bare.take().await);
            sign_ins.push(tenant.take().await);
            warm.extend(host.create(&format!("warm{number}"), 1).await);
        }
        row("a bare engine by hand: rename, start, first SELECT", &answers, None);
        row("limit: the same with our settings, a new password, its owner signs in", &sign_ins, None);
        limit = Some(median(&sign_ins));
        row("API call -> first SELECT over TLS, spare ready", &warm, limit);
        drop(host);
    }
    if wanted("cold") {
        let host = Host::start(0).await;
        let cold = host.create("cold", SAMPLES).await;
        row("API call -> first SELECT over TLS, no spare", &cold, limit);
        drop(host);
    }
    if wanted("door") {
        door::door().await;
    }
    if wanted("loss") {
        backups::loss().await;
    }
    if wanted("restores") {
        backups::restores().await;
    }
    if wanted("moves") {
        moves::moves().await;
    }
    if wanted("tails") {
        logs::tails().await;
    }
    if wanted("logs") {
        logs::logs();
    }
    if wanted("wake") {
        wake().await;
    }
    if wanted("churn") {
        churn(200).await;
    }
    if wanted("records") {
        records::records().await;
    }
    if wanted("fleet") {
        fleet(500).await;
    }
    if wanted("functions") {
        functions::functions().await;
    }
    if wanted("sleepers") {
        sleepers(1_000, 500).await;
    }
    let wanted = |part: &str| wanted("transfers") || wanted(part);
    if ["snapshots", "backlogs", "freshness"].into_iter().any(wanted) {
        transfers::transfers(wanted).await;
    }
}

/// A home of its own with a control plane, on the disk that this is run on.
struct Host {
    home: PathBuf,
    server: Child,
    client: Client,
    tls: MakeRustlsConnect,
}

fn stead() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("stead")
}

impl Host {
    async fn start(spares: usize) -> Self {
        let home = PathBuf::from(format!("/var/tmp/sb-{:x}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        let log = std::fs::File::create(format!("{}.log", home.display())).unwrap();
        let server = Command::new(stead())
            .args([
                "--home",
                home.to_str().unwrap(),
                "server",
                "--listen",
                "127.0.0.1:0",
                "--ports",
                "20000-29999",
            ])
            .args(["--spares", &spares.to_string()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = until("the server", || {
            let text = std::fs::read(home.join("server.json")).ok()?;
            let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
            Some(value["url"].as_str()?.to_owned())
        })
        .await;
        let token = std::fs::read_to_string(home.join("operator.token")).unwrap();
        let client = Client::new(&url, SecretString::from(token.trim().to_owned())).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let pem = client.ca().await.unwrap();
        use rustls::pki_types::pem::PemObject;
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = Self { home, server, client, tls: MakeRustlsConnect::new(tls) };
        host.spares(spares).await;
        let quota = client::wire::Quota { servers: 10_000, memory_mib: 100_000_000, disk_mib: 100_000_000 };
        host.client
            .put_tenant("bench", &client::wire::TenantRequest { quota: Some(quota), log_days: None })
            .await
            .unwrap();
        host
    }

    /// Waits until so many spares are finished.
    async fn spares(&self, count: usize) {
        until("the spares", || {
            let ready = std::fs::read_dir(self.home.join("spares"))
                .map(|dir| {
                    dir.flatten().filter(|spare| spare.path().join("conf/spare.json").exists()).count()
                })
                .unwrap_or(0);
            (ready >= count).then_some(())
        })
        .await;
    }

    async fn create(&self, prefix: &str, count: usize) -> Vec<f64> {
        let mut times = Vec::new();
        for number in 0..count {
            let began = Instant::now();
            let config = self.make(&format!("{prefix}-{number}"), json!({})).await;
            self.ask(&config).await;
            times.push(ms(began));
        }
        times
    }

    /// A server, and how its owner signs in.
    async fn make(&self, name: &str, more: serde_json::Value) -> Config {
        let mut main = json!({"size": "nano", "protect": false});
        main.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({"postgres": {"main": main}});
        let made = self
            .client
            .put_stead("bench", name, &body, &client::Edit { wait: Some("60s"), ..client::Edit::default() })
            .await
            .unwrap();
        let operation = made.operation.as_ref().unwrap();
        assert_eq!(operation.state, "succeeded", "{:?}", operation.error);
        let credentials = self.client.credentials("bench", name, "postgres.main").await.unwrap();
        let mut config = Config::new();
        config.host(&credentials.host).port(credentials.port).user(&credentials.role);
        config.dbname(&credentials.database).password(&credentials.password);
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        config.channel_binding(tokio_postgres::config::ChannelBinding::Require);
        config
    }

    /// Signs in and asks; the session.
    async fn ask(&self, config: &Config) -> tokio_postgres::Client {
        let (session, connection) = config.connect(self.tls.clone()).await.unwrap();
        tokio::spawn(connection);
        session.query_one("select 1", &[]).await.unwrap();
        session
    }

    /// The tree of the one server that there is.
    fn only_server(&self) -> PathBuf {
        std::fs::read_dir(self.home.join("servers")).unwrap().next().unwrap().unwrap().path()
    }

    /// How many servers have a socket, and so a process.
    fn awake(&self) -> usize {
        let servers = std::fs::read_dir(self.home.join("servers")).unwrap().flatten();
        servers.filter(|server| server.path().join("run/.s.PGSQL.5432").exists()).count()
    }

    async fn remove(&self, prefix: &str, count: usize) -> Vec<f64> {
        let mut times = Vec::new();
        for number in 0..count {
            let began = Instant::now();
            let gone = self
                .client
                .delete_stead("bench", &format!("{prefix}-{number}"), false, None, Some("60s"))
                .await;
            assert_eq!(gone.unwrap().state, "succeeded");
            times.push(ms(began));
        }
        times
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new(stead())
            .args(["--home", self.home.to_str().unwrap(), "server", "stop", "--all"])
            .stdout(Stdio::null())
            .status();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.home);
        let _ = std::fs::remove_file(format!("{}.log", self.home.display()));
    }
}

/// Waking, against a start by hand, in turn.
async fn wake() {
    let host = Host::start(1).await;
    let config = host.make("sleeper", json!({"idle": "1s"})).await;
    let mut hand = Hand::prepared(Until::Wake, Size::Nano, SAMPLES).await;
    let (mut by_hand, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        until("it to sleep", || (host.awake() == 0).then_some(())).await;
        by_hand.push(hand.take().await);
        let began = Instant::now();
        host.ask(&config).await;
        woken.push(ms(began));
    }
    row("limit: start by hand, its owner signs in, first SELECT", &by_hand, None);
    row("a sleeping server: connect over TLS -> first SELECT", &woken, Some(median(&by_hand)));
}

/// Many servers, most of them asleep; then many of them awake at once, each with a session.
async fn sleepers(count: usize, together: usize) {
    let host = Host::start(4).await;
    let mut configs = Vec::new();
    for number in 0..count {
        configs.push(host.make(&format!("sleeper-{number}"), json!({"idle": "20s"})).await);
    }
    until("all to sleep", || (host.awake() == 0).then_some(())).await;
    memory("all asleep");
    let began = Instant::now();
    let (mut times, mut sessions) = (Vec::new(), Vec::new());
    for part in configs[..together].chunks(8) {
        let asked = futures::future::join_all(part.iter().map(|config| async {
            let began = Instant::now();
            let session = host.ask(config).await;
            // An open transaction keeps it awake.
            session.batch_execute("begin").await.unwrap();
            (session, ms(began))
        }));
        for (session, took) in asked.await {
            sessions.push(session);
            times.push(took);
        }
    }
    let took = began.elapsed().as_secs_f64();
    row(&format!("{together} of {count} woken, eight at a time, each"), &times, None);
    println!("| {together} of {count} woken, eight at a time, altogether | 1 | {took:.1} s | | | |");
    assert_eq!(host.awake(), together);
    for session in &sessions {
        session.query_one("select 1", &[]).await.unwrap();
    }
    memory(&format!("{together} awake"));
}

fn memory(when: &str) {
    let used = Command::new("free").arg("-m").output().unwrap();
    println!("\n{when}:\n```\n{}```\n", String::from_utf8_lossy(&used.stdout));
}

/// Many created in a row, then removed.
async fn churn(count: usize) {
    let host = Host::start(4).await;
    let began = Instant::now();
    let made = host.create("churn", count).await;
    row(&format!("{count} created in a row (4 spares at the start), each"), &made, None);
    println!("| {count} created in a row, altogether | 1 | {:.1} s | | | |", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let gone = host.remove("churn", count).await;
    row(&format!("{count} removed in a row, each"), &gone, None);
    println!("| {count} removed in a row, altogether | 1 | {:.1} s | | | |", began.elapsed().as_secs_f64());
    let left = std::fs::read_dir(host.home.join("servers")).unwrap().count();
    assert_eq!(left, 0, "every tree is gone");
}

/// The API while many servers are awake.
async fn fleet(count: usize) {
    let host = Host::start(4).await;
    host.create("fleet", count).await;
    let mut one = Vec::new();
    for number in 0..200 {
        let began = Instant::now();
        host.client.stead("bench", &format!("fleet-{}", number % count)).await.unwrap().unwrap();
        one.push(ms(began));
    }
    row(&format!("GET of one stead, {count} servers awake"), &one, None);
    let mut page = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        host.client.steads("bench", &Part { limit: Some(100), ..Part::default() }).await.unwrap();
        page.push(ms(began));
    }
    row(&format!("GET of a page of 100 steads, {count} servers awake"), &page, None);
    memory(&format!("{count} awake"));
    for server in (0..count).map(|number| format!("fleet-{number}")) {
        host.client.delete_stead("bench", &server, false, None, None).await.unwrap();
    }
    until("the servers to be gone", || {
        (std::fs::read_dir(host.home.join("servers")).unwrap().count() == 0).then_some(())
    })
    .await;
}

/// Waits on a condition.
async fn until<T>(what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(600);
    loop {
        if let Some(value) = reached() {
            return value;
        }
        assert!(Instant::now() < limit, "waited ten minutes for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn median(times: &[f64]) -> f64 {
    quantile(times, 50)
}

fn quantile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    *sorted.get((sorted.len() * percent / 100).min(sorted.len() - 1)).expect("samples")
}

fn row(what: &str, times: &[f64], limit: Option<f64>) {
    let p50 = median(times);
    let (limit, ratio) = limit.map_or((String::new(), String::new()), |limit| {
        (format!("{limit:.0} ms"), format!("{:.2}", p50 / limit))
    });
    println!(
        "| {what} | {} | {p50:.1} ms | {:.1} ms | {limit} | {ratio} |",
        times.len(),
        quantile(times, 99)
    );
}
