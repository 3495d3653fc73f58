//! Transfers, each beside what it cannot be faster than and beside others who do the same: a table copied whole, a
//! backlog of changes caught up with, and how soon a commit is seen in the lake.
//!
//! The processes are the product's own, `stead transfer` and `stead lake`, by the files that the control plane would
//! write for them; only their sandbox is missing. The server is a plain PostgreSQL of the newest engine, on the disk that
//! this is run on. What is measured of a process begins with its start.

mod backlog;
mod copier;
mod freshness;
mod peers;
mod process;
mod snapshot;
mod source;

use std::process::Command;
use std::time::Duration;

use peers::Peers;
use process::Used;
use source::Server;

use crate::median;

/// Nothing that is waited for takes this long.
const LIMIT: Duration = Duration::from_secs(900);

/// How much of everything.
struct Amounts {
    /// Runs of each copy, and of everything else.
    copies: usize,
    rounds: usize,
    /// Of a copy; and the two whose memory is compared.
    rows: u64,
    few: u64,
    many: u64,
    /// What is in a table whose changes are followed, and changes of the two backlogs.
    followed: u64,
    single: u64,
    thousands: u64,
    seconds: u64,
}

impl Amounts {
    /// `STEAD_BENCH_TRIAL=1`: a hundredth, to see whether all of it works.
    fn chosen() -> Self {
        let all = Self {
            copies: 5,
            rounds: 3,
            rows: 6_000_000,
            few: 2_000_000,
            many: 20_000_000,
            followed: 1_000_000,
            single: 1_000_000,
            thousands: 1_000_000,
            seconds: 30,
        };
        if !is_trial() {
            return all;
        }
        println!("\nA trial with little data: these are no figures.");
        Self {
            copies: 1,
            rounds: 1,
            rows: all.rows / 100,
            few: all.few / 100,
            many: all.many / 100,
            followed: all.followed / 100,
            single: all.single / 100,
            thousands: all.thousands / 100,
            seconds: 5,
        }
    }
}

fn is_trial() -> bool {
    std::env::var_os("STEAD_BENCH_TRIAL").is_some()
}

/// The parts that are wanted. Whoever interrupts them leaves no server behind.
pub(crate) async fn transfers(wanted: impl Fn(&str) -> bool) {
    tokio::select! {
        () = parts(wanted) => {}
        told = tokio::signal::ctrl_c() => {
            told.unwrap();
            println!("\nInterrupted.");
            std::process::exit(130);
        }
    }
}

async fn parts(wanted: impl Fn(&str) -> bool) {
    let server = Server::start().await;
    let amounts = Amounts::chosen();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("\nTransfers: PostgreSQL {}; load before: {}", server.version().await, load.trim());
    let peers = Peers::find(&server);
    if peers.is_none() {
        println!("\nduckdb and Debezium are not here: script/setup --bench installs them.");
    }
    if wanted("snapshots") {
        snapshot::snapshots(&server, peers.as_ref(), &amounts).await;
    }
    if wanted("backlogs") {
        backlog::backlogs(&server, peers.as_ref(), &amounts).await;
    }
    if wanted("freshness") {
        freshness::freshness(&server, &amounts).await;
    }
}

/// What several runs of one kind have used.
#[derive(Default)]
struct Kind {
    /// Of what is measured, which may begin after the process and end before it.
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
    server_seconds: Vec<f64>,
    peak_mib: Vec<f64>,
    /// Seconds from the first event on, of those that take their time to start.
    from_first: Vec<f64>,
    bytes: u64,
}

impl Kind {
    fn add(&mut self, seconds: f64, used: &Used, server_seconds: f64) {
        self.seconds.push(seconds);
        self.cpu_seconds.push(used.cpu_seconds);
        self.server_seconds.push(server_seconds);
        self.peak_mib.push(used.peak_mib);
    }

    /// Thousands of something a second.
    fn rate(&self, count: u64) -> f64 {
        thousands(count) / median(&self.seconds)
    }

    /// Its line of a table, beside the rate of the one that it is held against.
    fn row(&self, what: &str, count: u64, against: Option<&Kind>) {
        if self.seconds.is_empty() {
            return;
        }
        let quickest = self.seconds.iter().copied().fold(f64::MAX, f64::min);
        let ratio = against.filter(|kind| !kind.seconds.is_empty());
        let ratio = ratio.map_or(String::new(), |kind| format!("{:.2}", self.rate(count) / kind.rate(count)));
        let written = if self.bytes == 0 { String::new() } else { megabytes(self.bytes) };
        println!(
            "| {what} | {} | {:.1} s | {:.0}k | {:.0}k | {ratio} | {:.1} s | {:.1} s | {:.0} MiB | {written} |",
            self.seconds.len(),
            median(&self.seconds),
            self.rate(count),
            thousands(count) / quickest,
            median(&self.cpu_seconds),
            median(&self.server_seconds),
            most(&self.peak_mib),
        );
    }
}

fn thousands(count: u64) -> f64 {
    count as f64 / 1000.0
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", thousands(bytes) / 1000.0)
}

fn most(of: &[f64]) -> f64 {
    of.iter().copied().fold(0.0, f64::max)
}

/// What others have written is on the disk before something is measured.
fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
}
