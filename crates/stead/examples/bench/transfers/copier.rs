//! `stead transfer` and `stead lake`, by the files that the keeper's driver writes for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{Client, Config, NoTls};
use transfer::publish;
use transfer::wire::{Mode, Settings};

use super::process::Run;
use super::source::{Server, one};
use crate::stead;

/// Of the copier inside the server, and of whoever asks the lake.
const PASSWORD: &str = "as random as any";
/// What the control plane lets a lake have (`driver-local`).
const LAKE_BYTES: u64 = component::transfer::LAKE_MIB * 1024 * 1024 / 2;

const HOUR_MS: u64 = 3_600_000;

/// What a transfer of one database goes by, and where its lake is.
pub(crate) struct Copier {
    home: PathBuf,
    /// Role, slot and publication.
    pub(crate) name: String,
    database: String,
    settings: Settings,
    verifier: String,
}

/// What a table of the lake says of itself in its log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Rows that were new with version 1 or later, those that are gone again too.
    pub(crate) rows: u64,
    /// Of each commit of changes, the time that its file was written, microseconds since 1970, and the last position in it.
    pub(crate) commits: Vec<(i64, i64)>,
}

impl Copier {
    /// Makes what a transfer of `public.flights` needs inside the server.
    pub(crate) async fn declare(server: &Server, database: &str, mode: Mode, number: u64) -> Self {
        let name = format!("stead_{number:016x}");
        let client = server.client(database).await;
        let tables = [("public".to_owned(), "flights".to_owned())];
        let meant = publish::Meant { mode: &mode, tables: &tables, parts: &[] };
        let script = publish::script(&name.parse().unwrap(), PASSWORD, &meant, "the benchmark's");
        client.batch_execute(&script).await.unwrap();
        let verifier =
            one(&client, &format!("select rolpassword from pg_authid where rolname = '{name}'")).await;
        let home = server.file(&name);
        // As they are where nothing else is said.
        let every_ms = if mode == Mode::Snapshot { HOUR_MS } else { 60_000 };
        let settings = Settings {
            name: "bench".to_owned(),
            mode,
            socket_dir: server.socket_dir(),
            database: database.to_owned(),
            role: name.clone(),
            password: PASSWORD.to_owned().into(),
            elsewhere: None,
            bucket: None,
            lake: home.join("lake"),
            memory: home.join("memory.json"),
            status: home.join("status.json"),
            parts: Vec::new(),
            every_ms,
            keep_ms: 7 * 24 * HOUR_MS,
            keep_changes_ms: None,
            resyncs: 0,
            table_resyncs: BTreeMap::new(),
            asked: 0,
        };
        let copier = Self { home, name, database: database.to_owned(), settings, verifier };
        copier.forget();
        copier
    }

    /// No lake, and nothing to remember.
    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_dir_all(&self.home);
        std::fs::create_dir_all(self.lake().join("public")).unwrap();
        std::fs::create_dir_all(self.home.join("run")).unwrap();
        std::fs::write(self.home.join("transfer.json"), json!(self.settings).to_string()).unwrap();
    }

    pub(crate) fn lake(&self) -> PathBuf {
        self.home.join("lake")
    }

    /// Its folder as it is now is put aside, or comes back.
    pub(crate) fn keep(&self) {
        copy(&self.home, &self.kept());
    }

    pub(crate) fn return_to_kept(&self) {
        std::fs::remove_dir_all(&self.home).unwrap();
        copy(&self.kept(), &self.home);
        let _ = std::fs::remove_file(&self.settings.status);
    }

    fn kept(&self) -> PathBuf {
        self.home.with_extension("kept")
    }

    pub(crate) fn start(&self) -> Run {
        let mut command = Command::new(stead());
        command.arg("transfer").arg(self.home.join("transfer.json")).stdout(Stdio::null());
        command.envs(transfer::wire::ENVIRONMENT);
        Run::start("stead transfer", &mut command, self.home.join("transfer.log"))
    }

    /// Waits until something is reached; what was not, is said.
    pub(crate) async fn until(
        &self,
        run: &Run,
        what: &str,
        limit: Duration,
        mut reached: impl AsyncFnMut() -> bool,
    ) {
        let limit = run.seconds() + limit.as_secs_f64();
        while !reached().await {
            let status = self.status();
            let why = match () {
                () if run.is_over() => "it ended".to_owned(),
                () if status["stopped"] == true => "it stands still".to_owned(),
                () if run.seconds() > limit => format!("{limit:.0} s have passed"),
                () => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            };
            panic!(
                "`stead transfer`: {what} did not happen, {why}; its status: {status}; {}",
                run.complaints()
            );
        }
    }

    /// What the process says of itself.
    pub(crate) fn status(&self) -> Value {
        let text = std::fs::read(&self.settings.status).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Whether it remembers that everything was copied, which it does once that is on the disk.
    pub(crate) fn has_copied(&self) -> bool {
        let text = std::fs::read(&self.settings.memory).unwrap_or_default();
        serde_json::from_slice(&text).is_ok_and(|memory: Value| memory["copied_at"].is_string())
    }

    /// Whether the server has let go of everything up to a position, which is asked for once the lake has it on its disk.
    pub(crate) async fn has_let_go(&self, client: &Client, position: &str) -> bool {
        let ask = format!(
            "select confirmed_flush_lsn > '{position}' from pg_replication_slots where slot_name = '{}'",
            self.name
        );
        one(client, &ask).await == "t"
    }

    /// The log of a table of the lake, read without Stead.
    pub(crate) fn log(&self, table: &str) -> Log {
        let folder = self.lake().join("public").join(table).join("_delta_log");
        let mut log = Log::default();
        for version in 1.. {
            let path = folder.join(format!("{version:020}.json"));
            let Ok(text) = std::fs::read_to_string(&path) else { break };
            let written = std::fs::metadata(&path).unwrap();
            let written = std::os::unix::fs::MetadataExt::mtime(&written) * 1_000_000
                + std::os::unix::fs::MetadataExt::mtime_nsec(&written) / 1_000;
            let actions = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            // Rows that were there in other files before are no news.
            let news = actions.filter(|action| action["add"]["dataChange"] == true);
            let mut last = None;
            for add in news {
                let stats = add["add"]["stats"].as_str().unwrap();
                let stats: Value = serde_json::from_str(stats).unwrap();
                log.rows += stats["numRecords"].as_u64().unwrap();
                last = last.max(stats["maxValues"]["_lsn"].as_i64());
            }
            if let Some(last) = last {
                log.commits.push((written, last));
            }
        }
        log
    }

    /// The service that answers questions about the lake, and a session with it.
    pub(crate) async fn serve(&self) -> (Run, Client) {
        let run = self.home.join("run");
        let settings = json!({
            "socket_dir": run,
            "lake": self.lake(),
            "database": self.database,
            "verifiers": { "owner": self.verifier },
            "gateway_uid": u32::MAX,
            "memory_bytes": LAKE_BYTES,
            "timeout_ms": 60_000,
            "sessions": 20,
        });
        let file = self.home.join("lake.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let mut command = Command::new(stead());
        command.arg("lake").arg(&file).stdout(Stdio::null());
        let service = Run::start("stead lake", &mut command, self.home.join("lake.log"));
        let mut config = Config::new();
        config.host_path(&run).user("owner").password(PASSWORD).dbname(&self.database);
        let client = loop {
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    break client;
                }
                Err(error) => {
                    let waits = service.seconds() < 30.0 && !service.is_over();
                    assert!(waits, "`stead lake` lets nobody in: {error}; {}", service.complaints());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        (service, client)
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}
