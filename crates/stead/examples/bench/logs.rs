//! What logs cost: collecting, searching beside ripgrep and zstdgrep on the same files, and two hundred who follow.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use client::{LogNext, LogPart};
use component::TenantId;
use jiff::Timestamp;
use logs::{Collector, Label, Options, Owner, Owners, Search, Source, Store};
use rand::{RngExt, SeedableRng};

use crate::{Host, ms, row};

/// Size of the logs, MB, where `STEAD_BENCH_LOG_MB` does not say otherwise.
const SIZE: u64 = 2048;
/// Servers that wrote them.
const SERVERS: u64 = 4;
/// Files of each.
const FILES: u64 = 4;
/// Repetitions of each search.
const TIMES: usize = 5;
/// Followers at once.
const FOLLOWERS: usize = 200;

/// Collecting and searching.
pub(super) fn logs() {
    let megabytes = std::env::var("STEAD_BENCH_LOG_MB").ok().and_then(|n| n.parse().ok()).unwrap_or(SIZE);
    let home = PathBuf::from(format!("/var/tmp/sb-logs-{:x}", std::process::id()));
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(home.join("logs")).unwrap();
    let (files, bytes) = generate(&home, megabytes);
    let store = Arc::new(Store::open(&home.join("logs/store"), Options::default()).unwrap());
    println!("\n| logs: {} MB in {} files | time | rate |\n|---|---|---|", bytes / 1_000_000, files.len());
    ingest(&home, &store, bytes);
    let packed = pack(&home, &files);
    println!(
        "\n| what is looked for | first 100, ms | all counted, ms | rg first 100 | rg counts | zstdgrep counts |"
    );
    println!("|---|---|---|---|---|---|");
    for (query, pattern) in [
        ("severity:error", "\"error_severity\":\"ERROR\""),
        ("\"duplicate key value\"", "duplicate key value"),
        ("\"token 77777\"", "token 77777\\b"),
        ("/deadlock|canceling statement/", "deadlock|canceling statement"),
        ("nowhere", "\\bnowhere\\b"),
    ] {
        compare(&store, query, pattern, &files, &packed);
    }
    let all = Search { since: 0, until: i64::MAX / 2, ..Search::all(owner()) };
    let day = 86_400_000_000;
    let now = Timestamp::now().as_microsecond();
    let took = best(|| {
        let counts = store.histogram(&Search { since: now - day, until: now, ..all.clone() }, 100).unwrap();
        assert!(counts.total() > 0 && counts.damage.is_empty());
    });
    println!("| everything, by severity in 100 parts of the day | | {took:.0} | | | |");
    std::fs::remove_dir_all(&home).unwrap();
}

fn owner() -> Owner {
    Owner::Tenant(TenantId(uuid::Uuid::from_u128(1)))
}

fn ingest(home: &Path, store: &Arc<Store>, bytes: u64) {
    let owners: Owners = (0..SERVERS)
        .map(|n| {
            let handle = format!("{n:016x}");
            let (stead, component) = (Some("shop".into()), Some(format!("postgres.s{n}")));
            let label = Label { source: Source::Postgres, stead, component, server: Some(handle.clone()) };
            (handle, Some((owner(), label)))
        })
        .collect();
    let mut collector = Collector::new(home, Arc::clone(store));
    let (started, cpu) = (Instant::now(), cpu_seconds());
    while collector.round(&owners, Timestamp::now()).unwrap().more {
        store.checkpoint(Timestamp::now()).unwrap();
    }
    store.checkpoint(Timestamp::now()).unwrap();
    rate("collected, checksummed, on the disk", bytes, started, cpu);
    let (started, cpu) = (Instant::now(), cpu_seconds());
    store.checkpoint(Timestamp::now() + jiff::SignedDuration::from_hours(48)).unwrap();
    let day =
        (Timestamp::now() + jiff::SignedDuration::from_hours(48)).to_zoned(jiff::tz::TimeZone::UTC).date();
    store.tidy(vec![owner()], day, |_| Some(365)).unwrap();
    rate("put together", bytes, started, cpu);
    let size = du(&home.join("logs/store"));
    println!("| size of the store: {} MB, 1/{:.1} | | |", size / 1_000_000, ratio(bytes, size));
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn ratio(left: u64, right: u64) -> f64 {
    left as f64 / right.max(1) as f64
}

fn rate(what: &str, bytes: u64, started: Instant, cpu: f64) {
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let megabytes = ratio(bytes, 1_000_000);
    // Less than a tick or two is no measurement: there was nothing to do.
    let rate = if cpu < 0.05 { "-".to_owned() } else { format!("{:.0} MB/s/core", megabytes / cpu) };
    println!("| {what} | {wall:.1} s, {cpu:.1} s of CPU | {rate} |");
}

/// Seconds of CPU that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().unwrap()).sum();
    ratio(ticks, 100)
}

fn du(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            about if about.is_dir() => du(&entry.path()),
            about => about.len(),
        })
        .sum()
}

/// Compresses a copy of each file, for zstdgrep.
fn pack(home: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let folder = home.join("packed");
    std::fs::create_dir_all(&folder).unwrap();
    let mut packed = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let to = folder.join(format!("{n}.zst"));
        let done = Command::new("zstd").args(["-q", "-3", "-T2"]).arg(file).arg("-o").arg(&to).status();
        if done.is_ok_and(|done| done.success()) {
            packed.push(to);
        }
    }
    packed
}

fn compare(store: &Store, query: &str, pattern: &str, files: &[PathBuf], packed: &[PathBuf]) {
    let search = Search { query: query.parse().unwrap(), ..Search::all(owner()) };
    let mut found = 0;
    let first = best(|| {
        found = 0;
        store
            .search(&search, 100, |_| {
                found += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
    });
    let now = Timestamp::now().as_microsecond();
    let range = Search { since: now - 2 * 86_400_000_000, until: now, ..search };
    let mut total = 0;
    let all = best(|| total = store.histogram(&range, 100).unwrap().total());
    let rg = std::env::var("STEAD_BENCH_RG").unwrap_or_else(|_| "rg".into());
    let rg_first = best_of(|| {
        let mut child = Command::new(&rg);
        child.args(["-i", "-N", "--no-filename", "-m", "100", pattern]).args(files);
        child
    });
    let rg_count = best_of(|| {
        let mut child = Command::new(&rg);
        child.args(["-i", "-c", pattern]).args(files);
        child
    });
    let zstdgrep = best_of(|| {
        let mut child = Command::new("zstdgrep");
        child.args(["-i", "-E", "-c", pattern]).args(packed);
        child
    });
    println!(
        "| `{query}` ({total} lines, {found} shown) | {first:.1} | {all:.0} | {rg_first} | {rg_count} | {zstdgrep} |"
    );
}

/// The best of some tries, ms.
fn best(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..TIMES {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_secs_f64() * 1000.0);
    }
    best
}

/// The same of a program; a dash where there is none.
fn best_of(command: impl Fn() -> Command) -> String {
    let mut best = f64::MAX;
    // The slowest of them takes many seconds; the files are in memory either way.
    for _ in 0..2 {
        let started = Instant::now();
        let done = command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if done.is_err() {
            return "-".into();
        }
        best = best.min(started.elapsed().as_secs_f64() * 1000.0);
    }
    format!("{best:.0}")
}

/// Logs as PostgreSQL writes them under a busy application, of the last hours.
fn generate(home: &Path, megabytes: u64) -> (Vec<PathBuf>, u64) {
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let each = megabytes * 1_000_000 / (SERVERS * FILES);
    let (mut files, mut bytes) = (Vec::new(), 0);
    for server in 0..SERVERS {
        let folder = home.join("servers").join(format!("{server:016x}")).join("log");
        std::fs::create_dir_all(&folder).unwrap();
        let span = jiff::SignedDuration::from_hours(20);
        let mut at = Timestamp::now() - span;
        // About 420 bytes a line.
        let step = span / i32::try_from(each * FILES / 420).unwrap().max(1);
        for file in 0..FILES {
            let path = folder.join(format!("postgresql-{file}.json"));
            let mut out = BufWriter::new(File::create(&path).unwrap());
            let mut written = 0;
            while written < each {
                at += step;
                let line = line(&mut random, at);
                out.write_all(line.as_bytes()).unwrap();
                written += u64::try_from(line.len()).unwrap();
            }
            out.flush().unwrap();
            bytes += written;
            files.push(path);
        }
    }
    (files, bytes)
}

fn line(random: &mut rand::rngs::StdRng, at: Timestamp) -> String {
    let time = at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC");
    let (pid, session) = (random.random_range(1000..9000_u32), random.random::<u32>());
    let id = random.random_range(0..10_000_000_u32);
    let (severity, code, said, rest) = match random.random_range(0..1000) {
        0..600 => (
            "LOG",
            "",
            format!(
                "duration: {}.{} ms  execute s{}: select o.id, o.total, c.name from orders o join customers c on c.id = o.customer_id where o.id = $1 and o.state = any($2) order by o.created_at desc limit 50",
                id % 5000,
                id % 1000,
                id % 40
            ),
            String::new(),
        ),
        600..800 => (
            "LOG",
            "",
            format!(
                "connection authorized: user=owner database=main application_name=web-{} SSL enabled (protocol=TLSv1.3, cipher=TLS_AES_256_GCM_SHA384, bits=256) token {id}",
                id % 16
            ),
            String::new(),
        ),
        800..950 => (
            "LOG",
            "",
            format!(
                "disconnection: session time: 0:00:{:02}.{:03} user=owner database=main host=[local]",
                id % 60,
                id % 1000
            ),
            String::new(),
        ),
        950..980 => (
            "LOG",
            "",
            format!(
                "checkpoint complete: wrote {} buffers ({}.2%); 0 WAL file(s) added, 0 removed, 1 recycled; write={}.01 s, sync=0.004 s, total=12.1 s",
                id % 9000,
                id % 30,
                id % 20
            ),
            String::new(),
        ),
        980..992 => (
            "ERROR",
            "23505",
            "duplicate key value violates unique constraint \\\"people_email_key\\\"".into(),
            format!(
                ",\"detail\":\"Key (email)=(user{id}@example.com) already exists.\",\"statement\":\"insert into people (email, name) values ('user{id}@example.com', 'A')\""
            ),
        ),
        992..997 => (
            "ERROR",
            "57014",
            "canceling statement due to statement timeout".into(),
            ",\"statement\":\"select count(*) from events\"".into(),
        ),
        997 => (
            "ERROR",
            "40P01",
            "deadlock detected".into(),
            format!(
                ",\"detail\":\"Process {pid} waits for ShareLock on transaction {id}; blocked by process {}.\"",
                pid + 1
            ),
        ),
        998 => ("FATAL", "53300", "sorry, too many clients already".into(), String::new()),
        _ => ("WARNING", "01000", "there is no transaction in progress".into(), String::new()),
    };
    let code = if code.is_empty() { String::new() } else { format!(",\"state_code\":\"{code}\"") };
    format!(
        "{{\"timestamp\":\"{time}\",\"user\":\"owner\",\"dbname\":\"main\",\"pid\":{pid},\"remote_host\":\"[local]\",\"session_id\":\"{session:x}.{pid:x}\",\"line_num\":{},\"ps\":\"SELECT\",\"session_start\":\"{time}\",\"vxid\":\"{}/{}\",\"txid\":0,\"error_severity\":\"{severity}\"{code},\"message\":\"{said}\"{rest},\"application_name\":\"web\",\"backend_type\":\"client backend\",\"query_id\":{}}}\n",
        id % 90,
        id % 20,
        id % 7000,
        random.random::<u64>() >> 1
    )
}

/// From a line in a server's log to the last of two hundred who follow it over HTTP.
pub(super) async fn tails() {
    let host = Host::start(1).await;
    let wanted = serde_json::json!({"app": "tail", "postgres": {"main": {"size": "nano", "protect": false}}});
    host.client
        .put_stead(
            "bench",
            "tail",
            &wanted,
            &client::Edit { generation: Some(0), wait: Some("60s"), ..client::Edit::default() },
        )
        .await
        .unwrap();
    let credentials = host.client.credentials("bench", "tail", "postgres.main").await.unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("localhost").port(credentials.port).dbname(&credentials.database).user(&credentials.role);
    config.password(&credentials.password).ssl_mode(tokio_postgres::config::SslMode::Require);
    let (session, connection) = config.connect(host.tls.clone()).await.unwrap();
    tokio::spawn(connection);
    let part = LogPart { q: Some("\"no such moment\"".into()), ..LogPart::default() };
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        followers.push(host.client.follow_logs(Some("bench"), &part).await.unwrap());
    }
    let mut times: Vec<f64> = Vec::new();
    for n in 0..24 {
        let started = Instant::now();
        session
            .batch_execute(&format!("do $$ begin raise warning 'no such moment {n}'; end $$"))
            .await
            .unwrap();
        let heard = futures::future::join_all(followers.iter_mut().map(async |follower| {
            loop {
                if let Some(LogNext::Line(_)) = follower.next().await.unwrap() {
                    return ms(started);
                }
            }
        }))
        .await;
        times.push(heard.into_iter().fold(0.0, f64::max));
    }
    row("a line in a server's log -> the last of 200 who follow it", &times, None);
    drop(host);
}
