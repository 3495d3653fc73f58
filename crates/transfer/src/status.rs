//! What the parts of a transfer say of themselves, in one file for others to read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::copy::Tell;
use crate::memory::replace;
use crate::slot::{SlotState, Unpublished};
use crate::wire::{Behind, Copying, Left, Status, TableState, TableStatus};

/// Shared by all parts.
#[derive(Clone)]
pub(crate) struct Board {
    known: Arc<Mutex<Known>>,
    asked: u32,
}

#[derive(Default)]
struct Known {
    tables: BTreeMap<String, TableStatus>,
    /// Those that one of their changes has stopped.
    halted: BTreeSet<String>,
    behind: Option<Behind>,
    /// Since when the lake has not had everything.
    behind_since: Option<Timestamp>,
    /// The moment that all tables are of, where they are read at intervals.
    as_of: Option<Timestamp>,
    trouble: Option<String>,
    stopped: bool,
    remark: Option<String>,
    left: Option<Left>,
}

impl Board {
    pub(crate) fn new(asked: u32) -> Self {
        Self { known: Arc::default(), asked }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn table(&self, name: &str, change: impl FnOnce(&mut TableStatus)) {
        self.with(|known| {
            let table = known.tables.entry(name.to_owned()).or_insert_with(|| TableStatus {
                name: name.to_owned(),
                state: TableState::Waiting,
                rows: None,
                copying: None,
                changes: 0,
                why: None,
            });
            change(table);
        });
    }

    /// A table is somewhere else now.
    pub(crate) fn is(&self, name: &str, state: TableState) {
        if !self.is_halted(name) {
            self.table(name, |table| (table.state, table.copying, table.why) = (state, None, None));
        }
    }

    /// A table waits for something before it is copied.
    pub(crate) fn waits(&self, name: &str, why: &str) {
        self.is(name, TableState::Waiting);
        self.table(name, |table| table.why = Some(why.to_owned()));
    }

    /// A table was stopped by one of its changes, and stays so.
    pub(crate) fn halt(&self, name: &str, why: String) {
        self.with(|known| known.halted.insert(name.to_owned()));
        self.stands(name, why);
    }

    /// Whether it was.
    pub(crate) fn is_halted(&self, name: &str) -> bool {
        self.with(|known| known.halted.contains(name))
    }

    /// A table is being copied; who copies it is to tell how far that has come.
    pub(crate) fn copies(&self, name: &str) -> Tell {
        self.is(name, TableState::Copying);
        let (board, name) = (self.clone(), name.to_owned());
        Arc::new(move |rows, expected| {
            board.table(&name, |table| table.copying = Some(Copying { rows, expected }));
        })
    }

    /// A table was copied.
    pub(crate) fn copied(&self, name: &str, rows: u64, state: TableState) {
        self.is(name, state);
        self.table(name, |table| table.rows = Some(rows));
    }

    /// A table stands still.
    pub(crate) fn stands(&self, name: &str, why: String) {
        self.table(name, |table| {
            (table.state, table.copying, table.why) = (TableState::Stopped, None, Some(why));
        });
    }

    /// Changes of a table were written.
    pub(crate) fn changed(&self, name: &str, rows: usize) {
        self.table(name, |table| table.changes += u64::try_from(rows).unwrap_or_default());
    }

    /// These are all tables that are meant.
    pub(crate) fn all<'t>(&self, published: impl Iterator<Item = &'t str>, unpublished: &[Unpublished]) {
        let mut names: Vec<&str> = published.collect();
        let unpublished: Vec<_> = unpublished.iter().map(|table| (table.full_name(), &table.why)).collect();
        names.extend(unpublished.iter().map(|(name, _)| name.as_str()));
        self.with(|known| known.tables.retain(|name, _| names.contains(&name.as_str())));
        for name in names {
            self.table(name, |_| ());
        }
        for (name, why) in &unpublished {
            self.stands(name, (*why).clone());
        }
    }

    /// How the server's slot stands.
    pub(crate) fn slot(&self, slot: &SlotState, has_everything: bool) {
        self.with(|known| {
            let now = Timestamp::now();
            known.behind_since = if has_everything { None } else { known.behind_since.or(Some(now)) };
            let since = known.behind_since.map_or(0, |since| now.duration_since(since).as_millis());
            known.behind = Some(Behind {
                ms: u64::try_from(since).unwrap_or_default(),
                bytes: if has_everything {
                    0
                } else {
                    u64::from(slot.end).saturating_sub(slot.confirmed.into())
                },
                kept_bytes: slot.kept,
                room_bytes: slot.room,
            });
        });
    }

    /// All tables are as they were then.
    pub(crate) fn as_of(&self, at: Option<Timestamp>) {
        self.with(|known| known.as_of = at);
    }

    /// Nothing goes on.
    pub(crate) fn trouble(&self, why: Option<String>, stopped: bool) {
        self.with(|known| (known.trouble, known.stopped) = (why, stopped));
    }

    /// Something should be otherwise in the server.
    pub(crate) fn remark(&self, remark: Option<String>) {
        self.with(|known| known.remark = remark);
    }

    /// What is left in the server is known.
    pub(crate) fn left(&self, left: Left) {
        self.with(|known| known.left = Some(left));
    }

    fn status(&self) -> Status {
        self.with(|known| Status {
            at: Timestamp::now(),
            tables: known.tables.values().cloned().collect(),
            behind: known.behind,
            as_of: known.as_of,
            trouble: known.trouble.clone(),
            stopped: known.stopped,
            asked: self.asked,
            remark: known.remark.clone(),
            left: known.left.clone(),
        })
    }

    /// Writes it down, again and again; others may read it at any time.
    pub(crate) async fn write_down(self, path: PathBuf) {
        let mut last = None;
        loop {
            let status = self.status();
            let said = Status { at: Timestamp::UNIX_EPOCH, ..status.clone() };
            let is_due = last.as_ref().is_none_or(|(before, at): &(Status, Timestamp)| {
                *before != said || status.at.duration_since(*at) > AT_LEAST
            });
            if is_due {
                if let Err(error) = write(&path, &status) {
                    tracing::warn!(%error, path = %path.display(), "how the transfer stands cannot be written down");
                }
                last = Some((said, status.at));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Between two looks at whether there is anything new to be said.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);
/// What is the same is said again after so long, so that it is known to be so still.
const AT_LEAST: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

fn write(path: &Path, status: &Status) -> std::io::Result<()> {
    replace(path, &serde_json::to_vec(status)?, false)
}
