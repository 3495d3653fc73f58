//! A server that is moved while pgbench works: transactions that failed, and the longest that one took.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Config;

use crate::door::Way;
use crate::{Host, median};

/// Moves of each kind; and runs without one, beside them.
const RUNS: usize = 20;
const CONTROLS: usize = 5;
/// Its places for sessions are enough for the most clients.
const SIZE: &str = "medium";
/// Seconds of each run of pgbench; the move comes in its middle.
const SECONDS: u64 = 2;

pub(crate) async fn moves() {
    let host = Host::start(1).await;
    let config = host.make("moves", json!({"size": SIZE})).await;
    let way = way(&config);
    let made = way.command("pgbench").args(["-i", "-q", "-s", "20"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    println!(
        "\n| pgbench (TPC-B) while its server is moved | moves | transactions | failed | longest of a run, p50 | p99 | without a move, p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for clients in ["8", "64"] {
        for protocol in ["simple", "extended", "prepared"] {
            let (mut moved, mut rested, mut done, mut failed) = (Vec::new(), Vec::new(), 0, 0);
            for number in 0..RUNS {
                let (longest, transactions, wrong) = run(&host, &way, clients, protocol, true).await;
                moved.push(longest);
                done += transactions;
                failed += wrong;
                if number < CONTROLS {
                    rested.push(run(&host, &way, clients, protocol, false).await.0);
                }
            }
            println!(
                "| {clients} clients, {protocol} | {RUNS} | {done} | {failed} | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} ms |",
                median(&moved),
                worst(&moved),
                median(&rested),
                worst(&rested),
            );
        }
    }
}

/// Of twenty, the 99th percentile is the worst.
fn worst(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

/// The longest transaction, milliseconds; how many there were, and how many failed.
async fn run(host: &Host, way: &Way, clients: &str, protocol: &str, moving: bool) -> (f64, u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = way.command("pgbench");
    command.args(["-n", "-l", "-j", "2", "-c", clients, "-M", protocol, "-T", &SECONDS.to_string()]);
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
    let all = number("number of transactions actually processed").unwrap();
    let failed = number("number of failed transactions").unwrap();
    let failed = failed + u64::from(!done.status.success());
    let mut longest: f64 = 0.0;
    for log in std::fs::read_dir(folder.path()).unwrap().flatten() {
        let text = std::fs::read_to_string(log.path()).unwrap();
        // Each client's first connects nobody, but pgbench counts the wait for the others in it.
        let micros = text.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let first = fields.nth(1)? == "0";
            (!first).then(|| fields.next()?.parse::<f64>().ok())?
        });
        longest = micros.fold(longest, |longest, micros| longest.max(micros / 1000.0));
    }
    (longest, all, failed)
}

fn way(config: &Config) -> Way {
    let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
    Way {
        name: "gateway",
        env: vec![
            ("PGHOST", "localhost".to_owned()),
            ("PGPORT", config.get_ports()[0].to_string()),
            ("PGSSLMODE", "require".to_owned()),
            ("PGUSER", "owner".to_owned()),
            ("PGDATABASE", "main".to_owned()),
            ("PGPASSWORD", password),
        ],
    }
}
