//! The process of a transfer, as the product starts it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres_types::PgLsn;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use transfer::Error;
use transfer::publish::{self, Meant};
use transfer::wire::{Mode, Part, Settings};

use crate::site::Site;

/// See above.
pub(crate) struct Process {
    /// The folder whose files are the lake's.
    pub(crate) lake: PathBuf,
    status: PathBuf,
    task: JoinHandle<Result<(), Error>>,
    stop: oneshot::Sender<()>,
}

/// Role, slot and publication.
pub(crate) const ROLE: &str = "stead_tested";
const PASSWORD: &str = "as random as any";

impl Process {
    pub(crate) async fn start(site: &Site, beside: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        let Host::Unix(socket_dir) = site.cluster.config("postgres").get_hosts()[0].clone() else {
            panic!("a socket")
        };
        let status = beside.join("status.json");
        let _ = std::fs::remove_file(&status);
        let mut settings = Settings {
            name: "test".to_owned(),
            mode: Mode::Stream,
            socket_dir,
            database: "postgres".to_owned(),
            role: ROLE.to_owned(),
            password: PASSWORD.to_owned().into(),
            elsewhere: None,
            lake: site.lake.path().to_owned(),
            bucket: None,
            memory: beside.join("memory.json"),
            status: status.clone(),
            parts: Vec::new(),
            every_ms: 1_000,
            keep_ms: 7 * 24 * 3_600_000,
            keep_changes_ms: None,
            resyncs: 0,
            table_resyncs: BTreeMap::new(),
            asked: 0,
        };
        change(&mut settings);
        let file = beside.join("transfer.json");
        std::fs::write(&file, serde_json::to_string(&settings).unwrap()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = async move { transfer::run::run(&file, async move { drop(stopped.await) }).await };
        Self { lake: site.lake.path().to_owned(), status, task: tokio::spawn(running), stop }
    }

    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }

    /// Ends it where it is.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until what is committed now is in these tables.
    pub(crate) async fn has_merged(&self, site: &Site, tables: &[&str]) {
        let now: PgLsn =
            site.client.query_one("select pg_current_wal_flush_lsn()", &[]).await.unwrap().get(0);
        let slot = format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{ROLE}'");
        let lake = self.lake.join("public");
        let is_merged =
            |table: &&str| position(&lake.join(table)) >= position(&lake.join(format!("{table}__changes")));
        while site.client.query_one(&slot, &[]).await.unwrap().get::<_, PgLsn>(0) < now
            || !tables.iter().all(is_merged)
        {
            assert!(!self.task.is_finished(), "it ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it says something of itself.
    pub(crate) async fn says(&self, what: &str, is_said: impl Fn(&Value) -> bool) -> Value {
        loop {
            let text = std::fs::read(&self.status).unwrap_or_default();
            let status: Value = serde_json::from_slice(&text).unwrap_or_default();
            if is_said(&status) {
                return status;
            }
            assert!(!self.task.is_finished(), "{what}: it ended: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How far a table has come, as its log says.
fn position(table: &Path) -> i64 {
    let mut position = 0;
    for version in 0.. {
        let Ok(text) = std::fs::read_to_string(table.join(format!("_delta_log/{version:020}.json"))) else {
            return position;
        };
        for line in text.lines() {
            let action: Value = serde_json::from_str(line).unwrap_or_default();
            let app = action["txn"]["appId"].as_str().unwrap_or("/seq");
            if !app.ends_with("/seq") && !app.ends_with("/note") {
                position = action["txn"]["version"].as_i64().unwrap();
            }
        }
    }
    position
}

pub(crate) fn table<'s>(status: &'s Value, name: &str) -> &'s Value {
    let tables = status["tables"].as_array().into_iter().flatten();
    tables.into_iter().find(|table| table["name"] == name).unwrap_or(&Value::Null)
}

pub(crate) fn is(status: &Value, name: &str, state: &str) -> bool {
    table(status, name)["state"] == state
}

/// Makes what a stream of all tables needs inside the server.
pub(crate) async fn publish(site: &Site, parts: &[Part]) {
    let tables = [("public".to_owned(), "%".to_owned())];
    let meant = Meant { mode: &Mode::Stream, tables: &tables, parts };
    site.sql(&publish::script(&ROLE.parse().unwrap(), PASSWORD, &meant, "a test's")).await;
}
