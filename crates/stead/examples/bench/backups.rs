//! Backups: what following a busy server costs it, how far the store is behind, and a backup and a restore of 2 GB
//! beside pgBackRest and pg_basebackup.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use archiver::wire::Status;
use jiff::Timestamp;
use keeper::wire::Name;
use serde_json::json;

use crate::door::{BIN, Way, tps};
use crate::limit::{as_nobody, stop};
use crate::{Host, median, ms, quantile, until};

/// Pairs of runs with the archive and without, and seconds of each: two rounds of fetching are in one.
const PAIRS: usize = 12;
const SECONDS: &str = "10";
/// Samples of how far the store is behind, and between two of them.
const SAMPLES: usize = 600;
const SAMPLE: Duration = Duration::from_millis(100);
/// Backups and restores of each kind.
const ROUNDS: usize = 3;
/// pgbench's: 2 GB.
const SCALE: &str = "140";

/// The archive of the one server of a host.
struct Archive {
    client: archiver::Client,
    name: Name,
    declaration: PathBuf,
}

impl Archive {
    fn of(host: &Host) -> Self {
        let declared = std::fs::read_dir(host.home.join("archiver/servers")).unwrap().flatten();
        let (name, declaration) = declared
            .map(|entry| (entry.file_name().into_string().unwrap().replace(".json", ""), entry.path()))
            .find(|(name, _)| !name.starts_with("spare-") && name != "control")
            .unwrap();
        Self { client: archiver::Client::new(&host.home), name: Name::parse(name).unwrap(), declaration }
    }

    async fn status(&self) -> Option<Status> {
        self.client.server(&self.name).await.unwrap()
    }

    async fn until<T>(&self, what: &str, reached: impl Fn(Status) -> Option<T>) -> T {
        let limit = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(value) = self.status().await.and_then(&reached) {
                return value;
            }
            assert!(Instant::now() < limit, "waited ten minutes for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn caught_up(&self) {
        self.until("the archive", |status| (status.streaming && status.behind_bytes == 0).then_some(()))
            .await;
    }
}

/// Transactions a second with the archive and without, in turn, and how far the store is behind meanwhile.
pub(crate) async fn loss() {
    let host = Host::start(1).await;
    let way = Way::gateway(&host.make("loss", json!({"size": "medium"})).await);
    way.fill("20");
    let archive = Archive::of(&host);
    let aside = archive.declaration.with_extension("aside");
    let (mut with, mut without, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..PAIRS {
        let (mut on, mut off) = (0.0, 0.0);
        // Each first in its turn.
        for archived in if number % 2 == 0 { [true, false] } else { [false, true] } {
            if archived {
                archive.caught_up().await;
            } else {
                std::fs::rename(&archive.declaration, &aside).unwrap();
                assert!(archive.status().await.is_none());
            }
            *(if archived { &mut on } else { &mut off }) = work(&way);
            if !archived {
                std::fs::rename(&aside, &archive.declaration).unwrap();
            }
        }
        with.push(on);
        without.push(off);
        pairs.push(on / off);
    }
    println!("\n| pgbench, 8 clients | pairs | archived | not archived | of each pair, median | quartiles |");
    println!("|---|---|---|---|---|---|");
    println!(
        "| TPC-B, {SECONDS} s each | {PAIRS} | {:.0} tps | {:.0} tps | {:.3} | {:.3} to {:.3} |",
        median(&with),
        median(&without),
        median(&pairs),
        quantile(&pairs, 25),
        quantile(&pairs, 75),
    );
    println!("\n| what would be lost with the server's disk | samples | p50 | p99 | longest |");
    println!("|---|---|---|---|---|");
    for (what, clients, rate) in
        [("8 clients, as fast as they can", "8", None), ("1 client, twice a second", "1", Some("2"))]
    {
        archive.caught_up().await;
        let mut load = pgbench(&way, clients, "90");
        load.args(rate.map(|rate| format!("--rate={rate}")));
        let mut load = load.stdout(Stdio::null()).spawn().unwrap();
        // The first piece of the load.
        let began = Timestamp::now();
        archive.until("a piece", |status| (status.stored_at > Some(began)).then_some(())).await;
        let mut behind = Vec::new();
        for _ in 0..SAMPLES {
            let stored = archive.status().await.unwrap().stored_at.unwrap();
            behind.push(Timestamp::now().duration_since(stored).as_secs_f64());
            tokio::time::sleep(SAMPLE).await;
        }
        assert!(load.try_wait().unwrap().is_none(), "the load ended too early");
        let _ = load.kill();
        let _ = load.wait();
        let longest = behind.iter().copied().fold(0.0, f64::max);
        println!(
            "| {what} | {SAMPLES} | {:.1} s | {:.1} s | {longest:.1} s |",
            median(&behind),
            quantile(&behind, 99)
        );
    }
}

fn pgbench(way: &Way, clients: &str, seconds: &str) -> Command {
    let mut command = way.command("pgbench");
    command.args(["-n", "-c", clients, "-j", "2", "-T", seconds]).stderr(Stdio::null());
    if clients == "1" {
        command.args(["-j", "1"]);
    }
    command
}

/// Transactions a second.
fn work(way: &Way) -> f64 {
    let _ = way.command("psql").args(["-Xqc", "checkpoint"]).output();
    let done = pgbench(way, "8", SECONDS).output().unwrap();
    tps(&String::from_utf8_lossy(&done.stdout))
}

/// Seconds of work of all processors, whoever worked: servers, tools, and the kernel for them.
fn processors() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|field| field.parse().unwrap()).collect();
    // All but idle and waiting for the disk.
    fields
        .iter()
        .enumerate()
        .filter(|(number, _)| !matches!(number, 3 | 4 | 8 | 9))
        .map(|(_, ticks)| ticks)
        .sum::<f64>()
        / 100.0
}

/// Times, processor time, and bytes of one kind.
#[derive(Default)]
struct Kind {
    seconds: Vec<f64>,
    processors: Vec<f64>,
    bytes: u64,
}

impl Kind {
    async fn add(&mut self, doing: impl Future<Output = u64>) {
        let (began, before) = (Instant::now(), processors());
        self.bytes = doing.await;
        self.seconds.push(ms(began) / 1000.0);
        self.processors.push(processors() - before);
    }

    fn row(&self, what: &str) {
        let mib = match self.bytes {
            0 => String::new(),
            bytes => format!("{} MiB", bytes >> 20),
        };
        println!(
            "| {what} | {} | {:.1} s | {:.1} s | {mib} |",
            self.seconds.len(),
            median(&self.seconds),
            median(&self.processors)
        );
    }
}

/// A backup and a restore of the same data, by each.
pub(crate) async fn restores() {
    let Some(pgbackrest) =
        std::env::var_os("STEAD_BENCH_PGBACKREST").map(PathBuf::from).filter(|path| path.exists())
    else {
        println!("\npgBackRest is not here: script/setup --bench unpacks it.\n");
        return;
    };
    let host = Host::start(1).await;
    // All that are compared can do this engine, and pgBackRest 2.45 no newer one.
    let way = Way::gateway(&host.make("kept", json!({"size": "large", "engine": 15})).await);
    way.fill(SCALE);
    let archive = Archive::of(&host);
    archive.caught_up().await;
    let hand = ByHand::start(&pgbackrest).await;
    hand.fill();
    let (mut ours, mut basebackup, mut backrest) = (Kind::default(), Kind::default(), Kind::default());
    let settle = || assert!(Command::new("sync").status().unwrap().success());
    for _ in 0..ROUNDS {
        settle();
        ours.add(async {
            let before = archive.client.backup(&archive.name).await.unwrap().unwrap().bases.len();
            // It counts once the log that was written meanwhile is stored.
            let counts = |status: Status| {
                let newest = status.bases.last().filter(|_| status.bases.len() > before)?;
                (status.complete_to >= Some(newest.stopped_at)).then_some(newest.bytes)
            };
            archive.until("a backup", counts).await
        })
        .await;
        settle();
        basebackup.add(async { hand.basebackup() }).await;
        settle();
        backrest.add(async { hand.backrest_backup() }).await;
    }
    println!("\n| a backup of 2 GB, engine 15 | n | time | processors | stored |\n|---|---|---|---|---|");
    ours.row("Stead: zstd, encrypted, checked");
    basebackup.row("pg_basebackup: tar, zstd, not encrypted");
    backrest.row("pgBackRest: zstd, encrypted, two processes");
    let (mut ours, mut basebackup, mut backrest) = (Kind::default(), Kind::default(), Kind::default());
    for _ in 0..ROUNDS {
        settle();
        ours.add(async {
            let asked = [("as", Some("postgres.copy"))];
            let made =
                host.client.clone_component("bench", "kept", "postgres.main", &asked, Some("300s")).await;
            let made = made.unwrap();
            assert_eq!(made.state, "succeeded", "{:?}", made.error);
            0
        })
        .await;
        let gone = host.client.remove_component("bench", "kept", "postgres.copy", None).await.unwrap();
        let removed = || std::fs::read_dir(host.home.join("servers")).unwrap().count() == 1;
        until(&gone.state, || removed().then_some(())).await;
        settle();
        basebackup.add(hand.basebackup_restore()).await;
        settle();
        backrest.add(hand.backrest_restore()).await;
    }
    println!("\n| a restore of 2 GB, to its first answer | n | time | processors | |\n|---|---|---|---|---|");
    ours.row("Stead: `clone`; every file checked, own identity, the newest moment");
    basebackup.row("pg_basebackup: tar, on the disk; the moment of the backup");
    backrest.row("pgBackRest: two processes; the newest moment");
}

/// A server by hand, and what backs it up.
struct ByHand {
    root: PathBuf,
    pgbackrest: PathBuf,
    server: Child,
}

impl ByHand {
    async fn start(pgbackrest: &Path) -> Self {
        let root = PathBuf::from(format!("/var/tmp/sr-{}", std::process::id()));
        for folder in ["repo", "log", "lock", "spool", "sockets", "restored"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        // Where it was unpacked it is root's alone.
        let copy = root.join("pgbackrest");
        std::fs::copy(pgbackrest, &copy).unwrap();
        let (pgbackrest, shown) = (copy, root.display());
        let config = format!(
            "[global]\nrepo1-path={shown}/repo\nrepo1-retention-full=1\nrepo1-cipher-type=aes-256-cbc\n\
             repo1-cipher-pass=as-random-as-any\ncompress-type=zst\ncompress-level=1\nprocess-max=2\nstart-fast=y\n\
             log-path={shown}/log\nlock-path={shown}/lock\nspool-path={shown}/spool\nlog-level-console=warn\n\
             [h]\npg1-path={shown}/data\npg1-socket-path={shown}/sockets\npg1-user=postgres\n"
        );
        std::fs::write(root.join("pgbackrest.conf"), config).unwrap();
        assert!(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(&root).status().unwrap().success());
        let data = root.join("data");
        run(as_nobody(&PathBuf::from(BIN).join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-k"]));
        let push =
            format!("{} --config={shown}/pgbackrest.conf --stanza=h archive-push %p", pgbackrest.display());
        let conf = format!(
            "listen_addresses = ''\nshared_buffers = '512MB'\nmax_wal_size = '4GB'\narchive_mode = on\narchive_command = '{push}'\n"
        );
        let mut file = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        std::io::Write::write_all(&mut file, conf.as_bytes()).unwrap();
        let server = serve(&data, &root.join("sockets")).await;
        let hand = Self { root, pgbackrest, server };
        hand.backrest(&["stanza-create"]);
        hand
    }

    fn fill(&self) {
        let mut command = as_nobody(&PathBuf::from(BIN).join("pgbench"));
        run(command
            .args(["-i", "-q", "-s", SCALE, "-U", "postgres", "-h"])
            .arg(self.root.join("sockets"))
            .arg("postgres"));
    }

    fn backrest(&self, args: &[&str]) {
        let mut command = as_nobody(&self.pgbackrest);
        run(command
            .arg(format!("--config={}/pgbackrest.conf", self.root.display()))
            .arg("--stanza=h")
            .args(args));
    }

    fn backrest_backup(&self) -> u64 {
        self.backrest(&["backup", "--type=full"]);
        bytes_in(&self.root.join("repo/backup/h/latest/"))
    }

    async fn backrest_restore(&self) -> u64 {
        self.restored(|to| self.backrest(&["restore", &format!("--pg1-path={}", to.display())])).await
    }

    fn basebackup(&self) -> u64 {
        let to = self.root.join("base");
        let _ = std::fs::remove_dir_all(&to);
        let mut command = as_nobody(&PathBuf::from(BIN).join("pg_basebackup"));
        command.args(["-U", "postgres", "-h"]).arg(self.root.join("sockets"));
        run(command.args(["-Ft", "--compress=server-zstd:1", "-c", "fast", "-D"]).arg(&to));
        bytes_in(&to)
    }

    async fn basebackup_restore(&self) -> u64 {
        self.restored(|to| {
            for (tar, into) in [("base.tar.zst", to.to_owned()), ("pg_wal.tar", to.join("pg_wal"))] {
                let tar = self.root.join("base").join(tar);
                run(as_nobody(Path::new("tar")).arg("-xf").arg(tar).arg("-C").arg(into));
            }
        })
        .await
    }

    /// Has a new folder filled, and a server of it answer; nothing stays.
    async fn restored(&self, restore: impl FnOnce(&Path)) -> u64 {
        let to = self.root.join("restored/data");
        run(as_nobody(Path::new("mkdir")).args(["-m", "700"]).arg(&to));
        restore(&to);
        let mut conf = std::fs::OpenOptions::new().append(true).open(to.join("postgresql.conf")).unwrap();
        std::io::Write::write_all(&mut conf, b"archive_mode = off\n").unwrap();
        let server = serve(&to, &self.root.join("restored")).await;
        stop(server);
        std::fs::remove_dir_all(&to).unwrap();
        let _ = std::fs::remove_dir_all(self.root.join("restored/.s.PGSQL.5432"));
        0
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn run(command: &mut Command) {
    let done = command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Starts a server, and waits until it answers.
async fn serve(data: &Path, sockets: &Path) -> Child {
    let mut server = as_nobody(&PathBuf::from(BIN).join("postgres"));
    server.arg("-D").arg(data).arg("-c").arg(format!("unix_socket_directories={}", sockets.display()));
    let server = server.current_dir("/").stderr(Stdio::null()).spawn().unwrap();
    let answers = || {
        let mut asked = Command::new("psql");
        asked.args(["-XAtqc", "select 1", "-U", "postgres", "-d", "postgres", "-h"]).arg(sockets);
        asked.output().unwrap().status.success().then_some(())
    };
    until("a server to answer", answers).await;
    server
}

fn bytes_in(folder: &Path) -> u64 {
    let said = Command::new("du").args(["-sb", "--dereference-args"]).arg(folder).output().unwrap();
    String::from_utf8_lossy(&said.stdout).split_whitespace().next().unwrap().parse().unwrap()
}
