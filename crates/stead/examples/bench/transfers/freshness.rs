//! From a commit until it is seen in the lake, while a thousand transactions a second are committed; and what that costs
//! the server, beside the same load with no transfer.
//!
//! Of every transaction it is known when it was committed: the server writes that into its log, and the lake has it. The
//! server, the lake and whoever asks have one clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Client;
use transfer::wire::Mode;

use super::copier::{Copier, Log};
use super::process::Run;
use super::source::{KEY, Server, one, rows};
use super::{Amounts, LIMIT, most, settle};
use crate::{median, quantile};

/// Transactions a second.
const RATE: &str = "1000";
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(10);
/// Until the last transaction has to be in an answer.
const LAST: Duration = Duration::from_secs(60);

/// What is measured with the load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    Copied,
    /// And somebody asks the lake all the while.
    Asked,
}

/// Of one kind, all rounds.
#[derive(Default)]
struct Figures {
    server_cpu: Vec<f64>,
    /// Transactions a second that there were.
    rates: Vec<f64>,
    /// Of transactions, milliseconds.
    latencies: Vec<f64>,
    copier_cpu: Vec<f64>,
    copier_mib: Vec<f64>,
    lake_cpu: Vec<f64>,
    lake_mib: Vec<f64>,
    /// From a commit to its place in Delta's log, milliseconds.
    written: Vec<f64>,
    /// To the end of the first answer that has it.
    answered: Vec<f64>,
    /// How long a question took.
    questions: Vec<f64>,
}

/// A transaction as the lake has it; microseconds since 1970.
struct Seen {
    committed: i64,
    position: i64,
    answered: i64,
}

pub(crate) async fn freshness(server: &Server, amounts: &Amounts) {
    server.fill("fresh", amounts.followed, KEY).await;
    let copier = Copier::declare(server, "fresh", Mode::Stream, 21).await;
    let scene = Scene { server, copier, client: server.client("fresh").await, amounts };
    let mut kinds = [Figures::default(), Figures::default(), Figures::default()];
    let ways = [Way::Alone, Way::Copied, Way::Asked];
    for round in 0..amounts.rounds {
        // Each comes first in its turn.
        for place in 0..ways.len() {
            let number = (round + place) % ways.len();
            scene.measure(ways[number], &mut kinds[number]).await;
        }
    }
    scene.copier.forget();
    show(&kinds, amounts);
    let Scene { client, .. } = scene;
    drop(client);
    server.drop_database("fresh").await;
}

struct Scene<'s> {
    server: &'s Server,
    copier: Copier,
    client: Client,
    amounts: &'s Amounts,
}

impl Scene<'_> {
    async fn measure(&self, way: Way, figures: &mut Figures) {
        if way == Way::Alone {
            settle();
            self.load(figures).await;
            return;
        }
        let copier = &self.copier;
        copier.forget();
        let run = copier.start();
        let is_followed = async || copier.status()["tables"][0]["state"] == "following";
        copier.until(&run, "the first copy", LIMIT, is_followed).await;
        settle();
        let from = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
        let from: i64 = one(&self.client, from).await.parse().unwrap();
        let (cpu, expected) = (run.cpu_seconds(), Cell::new(None));
        let load = async {
            let count = self.load(figures).await;
            expected.set(Some(count));
            run.cpu_seconds() - cpu
        };
        let (seen, spent) = match way {
            Way::Asked => {
                let (lake, session) = copier.serve().await;
                let before = lake.cpu_seconds();
                let mut questions = Vec::new();
                let (spent, seen) = tokio::join!(load, ask(&session, from, &expected, &mut questions));
                figures.lake_cpu.push(lake.cpu_seconds() - before);
                figures.lake_mib.push(lake.peak_mib());
                figures.questions.extend(questions);
                figures.answered.extend(seen.iter().map(|seen| ms(seen.answered - seen.committed)));
                lake.stop().await;
                (seen, spent)
            }
            _ => {
                let spent = load.await;
                let (lake, session) = copier.serve().await;
                let seen = ask(&session, from, &expected, &mut Vec::new()).await;
                lake.stop().await;
                (seen, spent)
            }
        };
        figures.copier_cpu.push(spent);
        figures.copier_mib.push(run.peak_mib());
        figures.written.extend(written(&seen, &copier.log("flights__changes")));
        run.stop().await;
        self.drop_slot().await;
    }

    /// Works at the server; how many transactions there were.
    async fn load(&self, figures: &mut Figures) -> usize {
        let folder = self.server.file("pgbench");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let (rows, seconds) = (self.amounts.followed, self.amounts.seconds.to_string());
        let script = format!(
            "\\set i random(1, {rows})\n\\set delay random(-15, 80)\n\
             update flights f set dep_delay = :delay, arr_delay = :delay - 5 from made(:i, :i) m \
             where f.day = m.day and f.origin = m.origin and f.carrier = m.carrier and f.flight = m.flight;\n"
        );
        let file = folder.join("update.sql");
        std::fs::write(&file, script).unwrap();
        let mut pgbench = self.server.tool("pgbench", "fresh");
        pgbench.args(["-n", "-c", "8", "-j", "1", "-R", RATE, "-T", &seconds, "-l", "-f"]).arg(&file);
        let before = self.server.cpu_seconds();
        let run = Run::start("pgbench", pgbench.current_dir(&folder), self.server.file("pgbench.log"));
        run.ended(LIMIT).await.unwrap_or_else(|why| panic!("{why}"));
        figures.server_cpu.push(self.server.cpu_seconds() - before);
        let before = figures.latencies.len();
        for log in std::fs::read_dir(&folder).unwrap().flatten() {
            if log.file_name().to_string_lossy().starts_with("pgbench_log.") {
                let text = std::fs::read_to_string(log.path()).unwrap();
                let micros = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
                figures.latencies.extend(micros.map(|micros| micros / 1000.0));
            }
        }
        let count = figures.latencies.len() - before;
        figures.rates.push(count as f64 / self.amounts.seconds as f64);
        count
    }

    async fn drop_slot(&self) {
        let name = &self.copier.name;
        let began = Instant::now();
        let drop = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{name}'"
        );
        // Its last session may take a moment to notice.
        while self.client.batch_execute(&drop).await.is_err() {
            assert!(began.elapsed() < LAST, "the slot {name} could not be dropped for a minute");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Asks for what is new again and again, until as many transactions were answered as are expected.
async fn ask(
    session: &Client,
    from: i64,
    expected: &Cell<Option<usize>>,
    questions: &mut Vec<f64>,
) -> Vec<Seen> {
    let (mut seen, mut last, mut over): (Vec<Seen>, _, Option<Instant>) = (Vec::new(), from, None);
    loop {
        let sql = format!(
            "select _lsn, cast(_committed_at as bigint) from public.flights__changes where _lsn > {last}"
        );
        let began = Instant::now();
        let answer = rows(session, &sql).await;
        questions.push(crate::ms(began));
        let answered = Timestamp::now().as_microsecond();
        seen.extend(answer.iter().map(|row| Seen {
            position: row[0].parse().unwrap(),
            committed: row[1].parse().unwrap(),
            answered,
        }));
        last = seen.iter().map(|seen| seen.position).fold(last, i64::max);
        if let Some(expected) = expected.get() {
            if seen.len() >= expected {
                assert_eq!(seen.len(), expected, "the lake has transactions that there were not");
                return seen;
            }
            let over = over.get_or_insert_with(Instant::now);
            let (there, waits) = (seen.len(), over.elapsed() < LAST);
            assert!(waits, "a minute after the last commit the lake has {there} of {expected} transactions");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// From each commit to when the version of the lake was written that has it, milliseconds.
fn written(seen: &[Seen], log: &Log) -> Vec<f64> {
    let times = seen.iter().map(|seen| {
        let version = log.commits.partition_point(|(_, last)| *last < seen.position);
        ms(log.commits[version].0 - seen.committed)
    });
    times.collect()
}

fn ms(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

fn show([alone, copied, asked]: &[Figures; 3], amounts: &Amounts) {
    println!(
        "\n| {RATE} transactions a second, from commit until | transactions | p50 | p99 | longest |\n|---|---|---|---|---|"
    );
    for (what, times) in [
        ("it is in Delta's log, nobody asks", &copied.written),
        ("it is in Delta's log, the lake is asked all the while", &asked.written),
        ("`stead lake` has answered with it", &asked.answered),
    ] {
        let (p50, p99) = (median(times), quantile(times, 99));
        println!("| {what} | {} | {p50:.0} ms | {p99:.0} ms | {:.0} ms |", times.len(), most(times));
    }
    println!(
        "\nQuestions, {} ms after the answer before: {} of p50 {:.0} ms, p99 {:.0} ms.",
        PAUSE.as_millis(),
        asked.questions.len(),
        median(&asked.questions),
        quantile(&asked.questions, 99)
    );
    println!(
        "\n| {RATE} transactions a second for {} s | n | reached | the server's CPU | a transaction, p50 | p99 | `stead \
         transfer`: CPU | memory, most | `stead lake`: CPU | memory, most |\n|---|---|---|---|---|---|---|---|---|---|",
        amounts.seconds
    );
    for (what, kind) in
        [("no transfer", alone), ("a transfer", copied), ("a transfer, its lake asked all the while", asked)]
    {
        println!(
            "| {what} | {} | {:.0} | {:.1} s | {:.2} ms | {:.2} ms | {} | {} |",
            kind.rates.len(),
            median(&kind.rates),
            median(&kind.server_cpu),
            median(&kind.latencies),
            quantile(&kind.latencies, 99),
            process(&kind.copier_cpu, &kind.copier_mib),
            process(&kind.lake_cpu, &kind.lake_mib),
        );
    }
}

fn process(cpu: &[f64], mib: &[f64]) -> String {
    if cpu.is_empty() {
        return " | ".to_owned();
    }
    format!("{:.1} s | {:.0} MiB", median(cpu), most(mib))
}
