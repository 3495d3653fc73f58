//! Lines of logs, and how many there are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Which; never given to another.
    pub id: String,
    /// When.
    pub at: String,
    /// Who said it: `postgres`, `gateway`, `keeper`, `archiver` or `stead`.
    pub source: String,
    /// Of which stead, as it was called then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// Of which component, as it was called then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// How grave, in one scale for all: `debug`, `info`, `warning`, `error` or `fatal`.
    pub level: String,
    /// The same in the program's own word: `LOG`, `ERROR`, `FATAL` and so on.
    pub severity: String,
    /// What was said.
    pub message: String,
    /// The line was longer; the rest is not kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// The whole line as it was written; of what is not JSON the text, under `text`.
    #[schema(value_type = Object)]
    pub fields: Value,
}

/// Lines of a log, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// What is on it.
    pub items: Vec<LogLine>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Parts of the store that cannot be read, in words; what was in them is not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// The last line of a stream: it is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEnd {
    /// How it ended.
    pub end: LogSum,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogSum {
    /// Lines in it.
    pub lines: u64,
    /// Parts of the store that cannot be read, in words.
    pub damaged: Vec<String>,
    /// Why it ended before its end, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How many lines there were over time, and what was changed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogHistogram {
    /// Time of each bucket, milliseconds.
    pub width_ms: u64,
    /// One after the other, without gaps.
    pub buckets: Vec<LogBucket>,
    /// Lines in all.
    pub total: u64,
    /// What is on record of the same time, newest first; at most 500.
    pub changes: Vec<LogChange>,
    /// Parts of the store that cannot be read, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// Lines of some time, by how grave they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogBucket {
    /// Its first moment.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Lines for who looks for a mistake in a program.
    pub debug: u64,
    /// What happened.
    pub info: u64,
    /// What may become a trouble.
    pub warning: u64,
    /// What failed.
    pub error: u64,
    /// What ended a session or a server.
    pub fatal: u64,
}

/// A line of the history, as a mark on the axis of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogChange {
    /// Its place in the journal.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What: `component.edited`, `drift.found`.
    pub action: String,
    /// The stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// The component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
}
