//! What is known of those who want data, and of the server that has them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::super::Pattern;
use crate::ComponentName;
use crate::manifest::shown;
use crate::postgres::{seconds, written};

/// What is known; whatever is absent is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Situation {
    /// The server, where it is one of a stead: Stead operates it, and can make whatever a transfer needs in it.
    pub from: Option<ComponentName>,
    /// Which tables are wanted; all of `public` where nothing is said.
    pub patterns: BTreeSet<Pattern>,
    /// How old rows may be when they are read.
    pub fresh: Option<Freshness>,
    /// Whether every change is wanted, also one that the next has overwritten.
    pub history: Option<bool>,
    /// Who decides on the tables.
    pub owner: Option<Team>,
    /// Who runs the server.
    pub operator: Option<Team>,
    /// How much there is.
    pub volume: Volume,
    /// How much of it changes.
    pub changes: Changes,
    /// Tables of which nothing identifies a row, as `schema.table`.
    pub keyless: Option<BTreeSet<String>>,
    /// By which column rows that are new can be told.
    pub cursor: Cursors,
    /// What the server is, and lets one do.
    pub server: Server,
}

/// How much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Tables, count.
    pub tables: Option<u64>,
    /// Rows of all of them.
    pub rows: Option<u64>,
    /// Bytes of all of them, without indexes.
    pub bytes: Option<u64>,
    /// The largest of them.
    pub largest: Option<Largest>,
}

/// The largest table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Largest {
    /// `schema.table`.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes, without indexes.
    pub bytes: u64,
}

/// How much of it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Rows inserted, updated and deleted a day.
    pub rows_a_day: Option<u64>,
    /// Bytes of the server's log a day.
    pub log_a_day: Option<u64>,
    /// Whether rows are updated.
    pub updates: Option<bool>,
    /// Whether rows are deleted.
    pub deletes: Option<bool>,
}

/// What the server is, and lets one do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Server {
    /// PostgreSQL's major version.
    pub engine: Option<u32>,
    /// How much it writes into its log.
    pub wal_level: Option<WalLevel>,
    /// Replication slots that are not taken.
    pub slots_free: Option<u32>,
    /// Whether a role that may make a slot is to be had.
    pub may_replicate: Option<bool>,
    /// Whether it is stopped while nobody uses it.
    pub sleeps: Option<bool>,
    /// Bytes of its log that it keeps for a reader at most; absent where there is no limit, or none is known.
    pub log_room: Option<u64>,
}

/// PostgreSQL's `wal_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalLevel {
    /// What a crash needs.
    Minimal,
    /// What a copy of the whole server needs.
    Replica,
    /// What a reader of changes needs.
    Logical,
}

impl WalLevel {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        }
    }
}

/// Who somebody is to those who want the data; the farther, the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Team {
    /// They are the same people.
    Same,
    /// Another team of the company.
    Other,
    /// Another company.
    Outside,
}

impl Team {
    /// How they are called in a sentence.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Same => "the same team",
            Self::Other => "another team",
            Self::Outside => "another company",
        }
    }
}

/// By which column rows that are new can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cursors {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// No table has one.
    Absent,
    /// By this one.
    Column(Cursor),
}

/// A column that grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cursor {
    /// Its name, the same in every table.
    pub column: String,
    /// What makes it grow.
    pub grows: Grows,
    /// Tables that have no such column, as `schema.table`.
    pub without: BTreeSet<String>,
    /// Tables in which no index begins with it.
    pub unindexed: BTreeSet<String>,
}

/// What makes a column grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grows {
    /// Every change of a row: the moment of its last one.
    WithUpdates,
    /// Every new row, and nothing afterwards: a number that is counted up, the moment at which it was made.
    WithInserts,
}

/// How old rows may be when they are read: whole seconds, from a second to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Freshness(u32);

/// A text that is no such time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not say how old rows may be; write it like 1s, 5m, 1h or 1d, from 1s to 30d")]
pub struct BadFreshness(String);

/// The oldest, seconds: as long as there may be between two copies.
const OLDEST: u32 = 30 * 24 * 60 * 60;

impl Freshness {
    /// What is taken where nothing was said.
    pub const HOUR: Self = Self(60 * 60);

    /// Seconds.
    #[must_use]
    pub fn as_secs(self) -> u32 {
        self.0
    }
}

impl FromStr for Freshness {
    type Err = BadFreshness;
    fn from_str(text: &str) -> Result<Self, BadFreshness> {
        seconds(text, 1..=OLDEST).map(Self).ok_or_else(|| BadFreshness(shown(text)))
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&written(self.0))
    }
}

impl TryFrom<String> for Freshness {
    type Error = BadFreshness;
    fn try_from(text: String) -> Result<Self, BadFreshness> {
        text.parse()
    }
}

impl From<Freshness> for String {
    fn from(fresh: Freshness) -> Self {
        fresh.to_string()
    }
}
