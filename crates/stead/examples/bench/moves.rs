//! A server that is moved while pgbench works: transactions that failed, and how long clients waited.
//!
//! Two waits are shown. The **stall** is the longest time in which no transaction of anybody ended: for so long
//! the server was away. The **longest** is the longest transaction of any client: it is also one without a move,
//! and with many clients it has in it that each needs a new process at the server.

use std::process::Stdio;
use std::time::Duration;

use component::postgres::Size;
use serde_json::json;

use crate::door::Way;
use crate::limit::{Hand, Until};
use crate::{Host, median};

/// Moves of each kind; and runs without one, beside them.
const RUNS: usize = 20;
const CONTROLS: usize = 5;
/// Clients, and the smallest size that has places for them.
const CLIENTS: [(usize, Size, &str); 2] = [(8, Size::Small, "small"), (64, Size::Medium, "medium")];
/// pgbench's: not less than clients, or else they wait for one another more than for the server.
const SCALE: &str = "64";
/// Seconds of each run of pgbench; the move comes in its middle.
const SECONDS: u64 = 2;

pub(crate) async fn moves() {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    println!("\nhuge pages for shared memory: {}", setting.as_deref().unwrap_or("none").trim());
    println!(
        "\n| by hand: stop, rename, start, all sign in and commit | n | first p50 | p99 | last p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|");
    for (clients, size, name) in CLIENTS {
        let mut hand = Hand::prepared(Until::Wake, size, 1).await;
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (one, all) = hand.relocate(clients).await;
            first.push(one);
            last.push(all);
        }
        println!("| {clients} clients, `{name}` | {RUNS} | {} | {} |", shown(&first), shown(&last));
    }
    println!(
        "\n| pgbench (TPC-B) while its server is moved | moves | transactions | failed | stall p50 | p99 | longest p50 | p99 | without a move: stall p50 | p99 | longest p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (clients, _, size) in CLIENTS {
        let host = Host::start(1).await;
        let way = Way::gateway(&host.make("moves", json!({"size": size})).await);
        way.fill(SCALE);
        for protocol in ["simple", "extended", "prepared"] {
            let (mut moved, mut rested) = (Runs::default(), Runs::default());
            for number in 0..RUNS {
                moved.add(run(&host, &way, clients, protocol, true).await);
                if number < CONTROLS {
                    rested.add(run(&host, &way, clients, protocol, false).await);
                }
            }
            let Runs { transactions, failed, .. } = moved;
            println!(
                "| {clients} clients, `{size}`, {protocol} | {RUNS} | {transactions} | {failed} | {} | {} | {} | {} |",
                shown(&moved.stall),
                shown(&moved.longest),
                shown(&rested.stall),
                shown(&rested.longest),
            );
        }
    }
}

/// Of twenty, the 99th percentile is the worst.
fn shown(times: &[f64]) -> String {
    let worst = times.iter().copied().fold(0.0, f64::max);
    format!("{:.0} ms | {worst:.0} ms", median(times))
}

/// What runs of one kind came to.
#[derive(Default)]
struct Runs {
    stall: Vec<f64>,
    longest: Vec<f64>,
    transactions: u64,
    failed: u64,
}

impl Runs {
    fn add(&mut self, run: Run) {
        self.stall.push(run.stall);
        self.longest.push(run.longest);
        self.transactions += run.transactions;
        self.failed += run.failed;
    }
}

/// What one run came to; times in milliseconds.
struct Run {
    stall: f64,
    longest: f64,
    transactions: u64,
    failed: u64,
}

async fn run(host: &Host, way: &Way, clients: usize, protocol: &str, moving: bool) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let mut command = way.command("pgbench");
    let (clients, seconds) = (clients.to_string(), SECONDS.to_string());
    command.args(["-n", "-l", "-j", "2", "-c", &clients, "-M", protocol, "-T", &seconds]);
    let bench =
        command.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if moving {
        // Past the first transactions, in which each client prepares, one after the other.
        tokio::time::sleep(Duration::from_millis(SECONDS * 500)).await;
        let moved = host.client.move_component("bench", "moves", "postgres.main", None, Some("20s")).await;
        assert_eq!(moved.unwrap().state, "succeeded");
    }
    let done = tokio::task::spawn_blocking(|| bench.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let number = |what: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(what))?;
        line.trim_start_matches([':', ' ']).split([' ', '/']).next()?.parse::<u64>().ok()
    };
    let transactions = number("number of transactions actually processed").unwrap();
    let failed = number("number of failed transactions").unwrap();
    let failed = failed + u64::from(!done.status.success());
    let (mut longest, mut ends): (f64, Vec<f64>) = (0.0, Vec::new());
    for log in std::fs::read_dir(folder.path()).unwrap().flatten() {
        let text = std::fs::read_to_string(log.path()).unwrap();
        for line in text.lines() {
            // client, its how manieth, microseconds, script, and when it ended: seconds and microseconds.
            let fields: Vec<f64> = line.split(' ').map(|field| field.parse().unwrap()).collect();
            // Each client's first connects nobody, but pgbench counts the wait for the others in it.
            if fields[1] > 0.0 {
                longest = longest.max(fields[2] / 1000.0);
                ends.push(fields[4] * 1000.0 + fields[5] / 1000.0);
            }
        }
    }
    ends.sort_by(f64::total_cmp);
    let stall = ends.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Run { stall, longest, transactions, failed }
}
