//! A home with log files, and a collector of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use component::TenantId;
use jiff::{SignedDuration, Timestamp};
use logs::{Collector, Label, Line, Options, Owner, Owners, Round, Search, Source, Store};
use serde_json::{Value, json};

pub(crate) const ACME: &str = "00000000000000a1";
pub(crate) const BOLT: &str = "00000000000000b2";

pub(crate) struct Home(pub(crate) tempfile::TempDir);

pub(crate) fn tenant(handle: &str) -> Owner {
    let number = u128::from(u64::from_str_radix(handle, 16).unwrap());
    Owner::Tenant(TenantId(uuid::Uuid::from_u128(number)))
}

pub(crate) fn label(handle: &str) -> Label {
    Label {
        source: Source::Postgres,
        stead: Some("shop".into()),
        component: Some("postgres.main".into()),
        server: Some(handle.to_owned()),
    }
}

pub(crate) fn owners() -> Owners {
    [ACME, BOLT].map(|handle| (handle.to_owned(), Some((tenant(handle), label(handle))))).into()
}

/// A line of PostgreSQL's, so many seconds before now.
pub(crate) fn line(ago: i64, severity: &str, message: &str) -> Value {
    let at = Timestamp::now() - SignedDuration::from_secs(ago);
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string();
    json!({"timestamp": at, "pid": 42, "session_id": format!("{ago:x}.{message:.3}"), "error_severity": severity,
           "message": message, "backend_type": "client backend"})
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        for handle in [ACME, BOLT] {
            std::fs::create_dir_all(home.folder(handle)).unwrap();
        }
        for folder in ["logs", "spool", "control/log"] {
            std::fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The folder of a server's log.
    pub(crate) fn folder(&self, handle: &str) -> PathBuf {
        self.path().join("servers").join(handle).join("log")
    }

    pub(crate) fn file(&self, handle: &str) -> File {
        let path = self.folder(handle).join("postgresql-Sun.json");
        OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    pub(crate) fn write(&self, handle: &str, lines: impl IntoIterator<Item = Value>) {
        let text: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
        self.file(handle).write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn append(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.path().join("logs/store"), Options::default()).unwrap())
    }

    /// A collector that has read everything.
    pub(crate) fn collected(&self) -> (Arc<Store>, Collector) {
        let store = self.store();
        let mut collector = Collector::new(self.path(), Arc::clone(&store));
        look(&mut collector);
        (store, collector)
    }

    /// Runs a collector in a process of its own, with fail points.
    pub(crate) fn run(&self, points: &str) -> ExitStatus {
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/collector");
        let mut command = Command::new(program);
        command.arg(self.path()).env("FAILPOINTS", points);
        // A core of each death would fill the disk.
        command.stderr(std::process::Stdio::null());
        command.status().unwrap()
    }
}

/// Looks until there is nothing more.
pub(crate) fn look(collector: &mut Collector) -> Round {
    let mut sum = Round::default();
    loop {
        let round = collector.round(&owners(), Timestamp::now()).unwrap();
        sum.bytes += round.bytes;
        sum.failed.extend(round.failed);
        if !round.more {
            return sum;
        }
    }
}

pub(crate) fn find(store: &Store, search: &Search) -> Vec<Line> {
    let mut lines = Vec::new();
    let damage = store
        .search(search, usize::MAX, |line| {
            lines.push(line);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(damage, []);
    lines
}

pub(crate) fn asked(handle: &str, query: &str) -> Search {
    Search { query: query.parse().unwrap(), ..Search::all(tenant(handle)) }
}

/// Messages found, newest first.
pub(crate) fn messages(store: &Store, handle: &str, query: &str) -> Vec<String> {
    find(store, &asked(handle, query)).iter().map(|line| line.message().to_owned()).collect()
}

/// How often each message of a tenant is stored.
pub(crate) fn counted(store: &Store, owner: Owner) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in find(store, &Search::all(owner)) {
        *counts.entry(line.message().to_owned()).or_default() += 1;
    }
    counts
}
