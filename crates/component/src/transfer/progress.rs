//! How far a transfer has come, as its process says it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a transfer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When this was said; what it says may be older.
    pub at: Timestamp,
    /// Its tables, by name.
    pub tables: Vec<Table>,
    /// How far the lake is behind, where the server's log is read; absent where the server was not asked.
    pub behind: Option<Behind>,
    /// The moment that all tables are of, where they are read at intervals.
    #[serde(default)]
    pub as_of: Option<Timestamp>,
    /// Why nothing goes on at all.
    pub trouble: Option<String>,
    /// Whether only a person can go on: nothing is tried again by itself.
    #[serde(default)]
    pub stopped: bool,
    /// The spec's `asked` that it went by: what was asked for since is not in this.
    #[serde(default)]
    pub asked: u32,
    /// Something that should be otherwise in the server, though all goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// How far the lake is behind the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Milliseconds since the lake had everything; 0 where it has.
    pub ms: u64,
    /// Bytes of the server's log that were not looked at yet.
    pub bytes: u64,
    /// Bytes of its log that the server keeps for this transfer.
    pub kept_bytes: u64,
    /// Bytes that it may still keep until it lets go of them and the transfer has to begin anew.
    pub room_bytes: Option<u64>,
}

/// A table of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `public.flights`.
    pub name: String,
    /// Where it stands.
    pub state: TableState,
    /// Rows of the last copy.
    pub rows: Option<u64>,
    /// How far the one under way has come.
    #[serde(default)]
    pub copying: Option<Copying>,
    /// Changes, or newer rows, that were written since this process began.
    pub changes: u64,
    /// Why it stands still, and what to do.
    pub why: Option<String>,
}

/// How far a copy under way has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// Rows so far.
    pub rows: u64,
    /// Rows that there may be, where the server has an idea of that.
    pub expected: Option<u64>,
}

/// Where a table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Waits for its copy.
    Waiting,
    /// Is being copied.
    Copying,
    /// Is in the lake, and its changes follow.
    Following,
    /// Is in the lake as of the last copy.
    Copied,
    /// Stands still until somebody does something.
    Stopped,
}

impl TableState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Copied => "copied",
            Self::Stopped => "stopped",
        }
    }
}
