//! Collecting the logs of this host into the store of logs, and keeping that store tidy.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use logs::{Collector, Label, Owner, Owners, Round, Source};
use store::Store;
use store::logs::LOG_DAYS;
use tokio::sync::watch;

/// Between two looks at all log files: a line is found within a second.
const LOOK: Duration = Duration::from_millis(300);
/// The same while somebody follows them.
const LOOK_FOLLOWED: Duration = Duration::from_millis(40);
/// Between two looks at what servers are called.
const NAMES: Duration = Duration::from_secs(10);
/// Between two moments at which everything is on the disk; what a loss of power takes is read again.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// A server that is removed waits so long for its last lines to be collected.
const LAST_LOOK: Duration = Duration::from_secs(3);
/// Between two times of putting segments together and removing what is too old.
const TIDY: Duration = Duration::from_secs(60);

/// Opens the store of a home's logs.
pub(super) fn open(home: &Path) -> Result<Arc<logs::Store>, logs::Error> {
    logs::Store::open(&home.join("logs/store"), logs::Options::default()).map(Arc::new)
}

/// Collects until `stop` turns true.
pub(super) async fn collect(
    store: Store,
    logs: Arc<logs::Store>,
    home: PathBuf,
    mut stop: watch::Receiver<bool>,
) {
    let mut collecting = Collecting {
        collector: Some(Collector::new(&home, Arc::clone(&logs))),
        owners: Owners::new(),
        named: None,
        store,
        complained: None,
    };
    let mut checked = Instant::now();
    while !*stop.borrow() {
        let number = logs.look_begins();
        let more = collecting.look().await;
        if !more {
            logs.look_ended(number);
        }
        if checked.elapsed() >= CHECKPOINT {
            checkpoint(&logs).await;
            checked = Instant::now();
        }
        if !more {
            let pause = if logs.is_followed() { LOOK_FOLLOWED } else { LOOK };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = logs.look_asked() => {}
                _ = stop.changed() => {}
            }
        }
    }
    checkpoint(&logs).await;
}

/// Has the collector read all that is there, before something goes; no longer than a moment.
pub(super) async fn last_look(logs: Arc<logs::Store>) {
    if tokio::time::timeout(LAST_LOOK, logs.fresh()).await.is_err() {
        tracing::warn!("logs are collected slowly; the last lines of a server that is removed may be lost");
    }
}

async fn checkpoint(logs: &Arc<logs::Store>) {
    let logs = Arc::clone(logs);
    let done = tokio::task::spawn_blocking(move || logs.checkpoint(Timestamp::now())).await;
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store of logs cannot be brought to the disk; trying again")
        }
        Err(error) => tracing::error!(%error, "bringing logs to the disk failed"),
    }
}

struct Collecting {
    /// `None` while a thread has it.
    collector: Option<Collector>,
    owners: Owners,
    /// When it was last looked what servers are called.
    named: Option<Instant>,
    store: Store,
    /// What was complained of last, so that it is said once.
    complained: Option<String>,
}

impl Collecting {
    /// One look at all files; answers whether there is more at once.
    async fn look(&mut self) -> bool {
        if self.named.is_none_or(|named| named.elapsed() >= NAMES) {
            self.name(&BTreeSet::new()).await;
        }
        let Some(mut collector) = self.collector.take() else { return false };
        let owners = std::mem::take(&mut self.owners);
        let looked = tokio::task::spawn_blocking(move || {
            let round = collector.round(&owners, Timestamp::now());
            (collector, owners, round)
        });
        let round = match looked.await {
            Ok((collector, owners, round)) => {
                (self.collector, self.owners) = (Some(collector), owners);
                round
            }
            Err(error) => {
                tracing::error!(%error, "collecting logs failed; it goes on when `stead server` is started again");
                return false;
            }
        };
        match round {
            Ok(round) => self.seen(round).await,
            Err(error) => {
                let what = if error.is_full() { "the disk is full: " } else { "" };
                self.complain(format!("{what}logs wait in their files: {error}"));
                false
            }
        }
    }

    async fn seen(&mut self, round: Round) -> bool {
        match round.failed.first() {
            Some((path, error)) => self.complain(format!("{} cannot be read: {error}", path.display())),
            None => {
                if self.complained.take().is_some() {
                    tracing::info!("logs are collected again");
                }
            }
        }
        if round.unknown.is_empty() { round.more } else { self.name(&round.unknown).await }
    }

    /// Looks what servers are called; answers whether the database did. Those that are asked for and are nobody's are
    /// known as that from now on.
    async fn name(&mut self, asked: &BTreeSet<String>) -> bool {
        let servers = match self.store.servers().await {
            Ok(servers) => servers,
            Err(error) => {
                self.complain(format!("whose new log lines are cannot be asked, so they wait: {error}"));
                return false;
            }
        };
        let known = servers.into_iter().map(|server| {
            let handle = server.id.handle();
            let label = Label {
                source: Source::Postgres,
                stead: Some(server.stead),
                component: Some(server.component),
                server: Some(handle.clone()),
            };
            (handle, Some((Owner::Tenant(server.tenant), label)))
        });
        // What is gone stays known for what it was: its last lines may still have to be read.
        self.owners.extend(known);
        for handle in asked {
            self.owners.entry(handle.clone()).or_insert(None);
        }
        self.named = Some(Instant::now());
        true
    }

    fn complain(&mut self, what: String) {
        if self.complained.as_ref() != Some(&what) {
            tracing::warn!(why = what, "collecting logs");
            self.complained = Some(what);
        }
    }
}

/// Keeps the store tidy until `stop` turns true.
pub(super) async fn tidy(store: Store, logs: Arc<logs::Store>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        tokio::select! { () = tokio::time::sleep(TIDY) => {}, _ = stop.changed() => return }
        // Listed before the tenants are: whoever has lines and is no tenant then was removed.
        let owners = match logs.owners() {
            Ok(owners) => owners,
            Err(error) => {
                tracing::warn!(%error, "the store of logs cannot be tidied; trying again");
                continue;
            }
        };
        let days: HashMap<_, _> = match store.log_days().await {
            Ok(days) => days.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "how long logs are kept cannot be asked; trying again");
                continue;
            }
        };
        let keep = move |owner: Owner| match owner {
            Owner::Tenant(id) => days.get(&id).copied(),
            Owner::Installation => Some(LOG_DAYS),
        };
        let logs = Arc::clone(&logs);
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        match tokio::task::spawn_blocking(move || logs.tidy(owners, today, keep)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store of logs cannot be tidied; trying again"),
            Err(error) => tracing::error!(%error, "tidying the store of logs failed"),
        }
    }
}
