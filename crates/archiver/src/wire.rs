//! What the archiver is told and what it answers.
//!
//! It is told by files below `$STEAD_HOME/archiver`: `archiver.json` says where the store is, `servers/<name>.json`
//! declares a server. It answers on a Unix socket beside them, a JSON object a line.

use std::path::PathBuf;

use jiff::Timestamp;
use keeper::wire::Name;
use serde::{Deserialize, Serialize};

use crate::archive::Whose;
use crate::{ArchiveId, Location, Lsn};

/// `archiver.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the store is.
    pub store: Location,
    /// The host that writes, as the control plane names it.
    pub host: String,
    /// How long written log may wait before it is stored, milliseconds: the recovery point.
    pub piece_ms: u64,
}

/// How long backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Every moment of so many seconds back can be restored.
    Seconds(u64),
    /// So many base backups, and every moment since the oldest of them.
    Backups(u32),
}

/// `servers/<name>.json`: a server whose log and data are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where to.
    pub archive: ArchiveId,
    /// Folder of its Unix socket.
    pub socket_dir: PathBuf,
    /// Its unit, which the keeper is asked about before a session is tried.
    pub unit: Name,
    /// Role of the session; peer authentication knows the control plane by it.
    pub user: String,
    /// Its engine's major version.
    pub engine: u16,
    /// The archive's public key.
    pub recipient: String,
    /// Its private key, sealed, to be stored with it.
    pub sealed_key: String,
    /// Seconds between two base backups.
    pub every_s: u64,
    /// How long they are kept.
    pub keep: Keep,
    /// Whose it is.
    pub whose: Option<Whose>,
    /// Whether it is the control plane's own.
    #[serde(default)]
    pub control: bool,
}

/// How an archive stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which.
    pub archive: ArchiveId,
    /// Whether the server's log arrives.
    pub streaming: bool,
    /// Whether all that the server has written is stored, and it writes no more until it is started again.
    pub drained: bool,
    /// The log is stored up to here.
    pub stored: Lsn,
    /// When the newest of it came.
    pub stored_at: Option<Timestamp>,
    /// All that was committed up to this moment is stored, for certain. It is found out when somebody asks for a flush.
    pub complete_to: Option<Timestamp>,
    /// Bytes of log that the server has written and that are not stored.
    pub behind_bytes: u64,
    /// Base backups, oldest first.
    pub bases: Vec<BaseStatus>,
    /// The oldest moment that can be restored.
    pub oldest: Option<Timestamp>,
    /// Bytes in the store.
    pub bytes: u64,
    /// What is wrong, and since when.
    pub trouble: Option<Trouble>,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseStatus {
    /// Where in the log it begins.
    pub start: Lsn,
    /// When it was complete.
    pub stopped_at: Timestamp,
    /// Bytes in the store.
    pub bytes: u64,
}

/// What keeps an archive from going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// In words.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// A question on the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Reads the declarations now, and tells how a server's archive stands; `None` for one that is not declared.
    Server {
        /// The name of its file.
        name: Name,
    },
    /// Has what has come from a server stored now; answered at once.
    Flush {
        /// The name of its file.
        name: Name,
    },
    /// Has a base backup made now; answered at once.
    Backup {
        /// The name of its file.
        name: Name,
    },
    /// Has all stored that every server has written by now, before all of them are stopped.
    Finish,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How it stands.
    Server(Option<Status>),
    /// So many servers keep log that is not stored, which took too long.
    Finished {
        /// How many.
        left: usize,
    },
    /// The question is not understood.
    Refused(String),
}
