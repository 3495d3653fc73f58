//! The gateway beside PgBouncer in session mode and beside no proxy at all: one server of ours, reached in
//! three ways, in turn. Clients of both proxies speak TLS and sign in by SCRAM; the direct way is the
//! server's Unix socket, in the clear, which nobody can be faster than.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tokio_postgres::Config;

use crate::{Host, median, ms, until};

/// Debian's, with which every engine can be driven.
pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Rounds of pgbench, each of every way, and the seconds of each; the median is shown.
const ROUNDS: (usize, &str) = (5, "4");
/// The same for one client alone: where the kernel puts three processes on two cores changes a round by a tenth.
const ALONE: (usize, &str) = (15, "2");
/// The same of COPY.
const COPIES: usize = 5;
/// Idle sessions whose memory is counted; and those before them, with which comes what all share.
const IDLE: usize = 180;
const BEFORE: usize = 20;

/// A way to the server: what libpq is told.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Way {
    fn new(name: &'static str, host: String, port: String, ssl: &str, config: &Config) -> Way {
        let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
        let env = vec![
            ("PGHOST", host),
            ("PGPORT", port),
            ("PGSSLMODE", ssl.to_owned()),
            ("PGUSER", "owner".to_owned()),
            ("PGDATABASE", "main".to_owned()),
            ("PGPASSWORD", password),
        ];
        Way { name, env }
    }

    /// The way of everybody.
    pub(crate) fn gateway(config: &Config) -> Way {
        let port = config.get_ports()[0].to_string();
        Way::new("gateway", "localhost".to_owned(), port, "require", config)
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/{program}"));
        command.envs(self.env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    fn sql(&self, sql: &str) -> String {
        let done = self.command("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap();
        assert!(done.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// Tables of pgbench.
    pub(crate) fn fill(&self, scale: &str) {
        let made = self.command("pgbench").args(["-i", "-q", "-s", scale]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Sessions of the owner at the server, this question's own included.
    fn sessions(&self) -> usize {
        self.sql("select count(*) from pg_stat_activity where usename = 'owner'").parse().unwrap()
    }

    /// Transactions a second, and how long each took, milliseconds.
    fn pgbench(&self, seconds: &str, args: &[&str]) -> (f64, Vec<f64>) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = self.command("pgbench");
        command.args(["-n", "-S", "-T", seconds, "-l", "--sampling-rate=0.2"]).args(args);
        let done = command.current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&done.stderr));
        let tps = tps(&said);
        let mut times = Vec::new();
        for log in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let text = std::fs::read_to_string(log.path()).unwrap();
            let micros = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
            times.extend(micros.map(|micros| micros / 1000.0));
        }
        (tps, times)
    }
}

/// Transactions a second, as pgbench says them.
pub(crate) fn tps(said: &str) -> f64 {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
    line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap()
}

/// Compares them.
pub(crate) async fn door() {
    let Some(program) = std::env::var_os("STEAD_BENCH_PGBOUNCER").map(PathBuf::from).filter(|p| p.exists())
    else {
        println!("\nPgBouncer is not here: script/setup --bench unpacks it.\n");
        return;
    };
    let host = Host::start(1).await;
    let config = host.make("door", json!({"size": "large"})).await;
    let bouncer = Bouncer::start(&host, &program, &config).await;
    let ways = ways(&host, &config, &bouncer);
    // First, because what a busy proxy has taken it keeps, and uses for idle sessions later.
    println!("\n| {IDLE} idle sessions, memory of the proxy each | |\n|---|---|");
    let gateway = gateway::Client::connect(&host.home).await.unwrap().status().await.unwrap().pid;
    for (name, pid, way) in [("PgBouncer", bouncer.process.id(), 1), ("gateway", gateway, 2)] {
        println!("| {name} | {:.1} KiB |", idle(&host, &ways[way], pid).await);
    }
    let made = ways[0].command("pgbench").args(["-i", "-q", "-s", "20"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    println!("\n| pgbench -S | direct tps | PgBouncer tps | gateway tps | of PgBouncer | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|---|");
    compare("1 client", &ways, ALONE, &["-c", "1"]).await;
    for clients in ["16", "64", "256"] {
        compare(&format!("{clients} clients"), &ways, ROUNDS, &["-c", clients, "-j", "2"]).await;
    }
    compare("8 clients, prepared", &ways, ROUNDS, &["-c", "8", "-j", "2", "-M", "prepared"]).await;
    compare("8 clients, a connection a transaction", &ways, ROUNDS, &["-c", "8", "-j", "2", "-C"]).await;

    println!(
        "\n| COPY of 1 GB | direct | PgBouncer | gateway | PgBouncer / gateway |\n|---|---|---|---|---|"
    );
    copy(&ways);
    drop(bouncer);
}

async fn compare(what: &str, ways: &[Way; 3], (rounds, seconds): (usize, &str), args: &[&str]) {
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        // Each way comes first in a third of the rounds.
        for number in (0..3).map(|place| (place + round) % 3) {
            let way = &ways[number];
            // PgBouncer keeps its sessions for a while, and the server has places for one way at a time.
            until("the last sessions to go", || (ways[0].sessions() <= 1).then_some(())).await;
            let (tps, took) = way.pgbench(seconds, args);
            rates[number].push(tps);
            times[number].extend(took);
        }
    }
    let rate = rates.map(|rates| median(&rates));
    let at = |times: &mut Vec<f64>, part: f64| {
        times.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = (times.len() as f64 * part) as usize;
        times[index.min(times.len() - 1)]
    };
    let mut shown = |part: f64| times.each_mut().map(|times| format!("{:.2}", at(times, part))).join(" / ");
    let (p50, p99) = (shown(0.5), shown(0.99));
    println!(
        "| {what} | {:.0} | {:.0} | {:.0} | {:.2} | {p50} | {p99} |",
        rate[0],
        rate[1],
        rate[2],
        rate[2] / rate[1]
    );
}

fn copy(ways: &[Way; 3]) {
    ways[0].sql("create unlogged table big (line text)");
    let out = "copy (select repeat('x', 99) from generate_series(1, 10000000)) to stdout";
    let mut took: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..COPIES {
        for (number, way) in ways.iter().enumerate() {
            let began = Instant::now();
            let done = way.command("psql").args(["-Xq", "-c", out]).stdout(Stdio::null()).status().unwrap();
            assert!(done.success(), "{}", way.name);
            took[number][0].push(ms(began) / 1000.0);
            way.sql("truncate big");
            let began = Instant::now();
            let mut lines = Command::new("sh");
            lines.args(["-c", "yes $(printf %99s | tr ' ' x) | head -c 1000000000"]);
            let mut lines = lines.stdout(Stdio::piped()).spawn().unwrap();
            let mut psql = way.command("psql");
            psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-c", "copy big from stdin"]);
            assert!(psql.stdin(lines.stdout.take().unwrap()).status().unwrap().success(), "{}", way.name);
            lines.wait().unwrap();
            took[number][1].push(ms(began) / 1000.0);
        }
    }
    for (number, what) in ["out", "in"].into_iter().enumerate() {
        let time = took.each_ref().map(|took| median(&took[number]));
        println!(
            "| {what} | {:.2} s | {:.2} s | {:.2} s | {:.2} |",
            time[0],
            time[1],
            time[2],
            time[1] / time[2]
        );
    }
}

/// Memory that is the proxy's alone, for each of many sessions that rest, KiB.
async fn idle(host: &Host, way: &Way, pid: u32) -> f64 {
    let value = |name: &str| way.env.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    let mut config = Config::new();
    config.host("localhost").port(value("PGPORT").parse().unwrap()).user("owner");
    config.dbname(value("PGDATABASE")).password(value("PGPASSWORD"));
    config.ssl_mode(tokio_postgres::config::SslMode::Require);
    let (mut before, mut sessions) = (0, Vec::new());
    for number in 0..BEFORE + IDLE {
        if number == BEFORE {
            before = resident(pid);
        }
        let (session, connection) = config.connect(host.tls.clone()).await.unwrap();
        tokio::spawn(connection);
        session.query_one("select 1", &[]).await.unwrap();
        sessions.push(session);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let each = (resident(pid) - before) as f64 / IDLE as f64;
    each
}

/// KiB of a process that no other shares.
fn resident(pid: u32) -> i64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()).sum()
}

fn ways(host: &Host, config: &Config, bouncer: &Bouncer) -> [Way; 3] {
    let socket = host.only_server().join("run").display().to_string();
    [
        Way::new("direct", socket, "5432".to_owned(), "disable", config),
        Way::new("PgBouncer", "localhost".to_owned(), bouncer.port.to_string(), "require", config),
        Way::gateway(config),
    ]
}

/// PgBouncer in front of the same server, in session mode, as the user that may use the server's socket.
struct Bouncer {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Bouncer {
    async fn start(host: &Host, program: &PathBuf, config: &Config) -> Self {
        let folder = tempfile::Builder::new().prefix("sp-").tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
        std::fs::write(at("users"), format!("\"owner\" \"{password}\"\n")).unwrap();
        let server = host.only_server().join("run");
        let conf = format!(
            "[databases]\nmain = host={} port=5432 dbname=main\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             pool_mode = session\nserver_idle_timeout = 1\nmax_client_conn = 1000\ndefault_pool_size = 300\n\
             client_tls_sslmode = require\nclient_tls_key_file = {}\nclient_tls_cert_file = {}\n\
             ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n",
            server.display(),
            at("users"),
            host.home.join("gateway/tls/key.pem").display(),
            host.home.join("gateway/tls/cert.pem").display(),
        );
        std::fs::write(at("conf"), conf).unwrap();
        let text = std::fs::read(host.home.join("host.json")).unwrap();
        let uid = serde_json::from_slice::<serde_json::Value>(&text).unwrap()["uid_first"].to_string();
        assert!(Command::new("chown").args(["-R", &uid]).arg(folder.path()).status().unwrap().success());
        let process = Command::new("setpriv")
            .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"])
            .arg(program)
            .arg(at("conf"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("PgBouncer", || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
        Self { process, port, folder }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(self.folder.path());
    }
}
