//! What is told of a component: where it stands, where it is reached, and what a person should know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Difference;

/// Where a component stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being made; never was ready.
    #[default]
    Creating,
    /// As wanted.
    Ready,
    /// On its way to what is wanted, having been ready before.
    Updating,
    /// Cannot go on by itself; a condition says why.
    Blocked,
    /// Being removed.
    Deleting,
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Updating => "updating",
            Self::Blocked => "blocked",
            Self::Deleting => "deleting",
        }
    }
}

/// What is observed of a component, as stored and shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// Where clients reach it, once it is reachable.
    pub endpoint: Option<Endpoint>,
    /// What runs: `18.6`.
    pub version: Option<String>,
    /// The release of a function that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
    /// The release that is tried on a share of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<crate::function::Canary>,
    /// How far a transfer has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<crate::transfer::Progress>,
    /// What a person should know; empty when all is well.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Differences found on the last look that nobody asked for (they are being put right).
    #[serde(default)]
    pub drift: Vec<Difference>,
    /// Whether it sleeps until a client needs it.
    #[serde(default)]
    pub asleep: bool,
    /// Whether it has yet to be moved to its other place.
    #[serde(default)]
    pub elsewhere: bool,
    /// Bytes on disk, when last measured.
    pub disk_bytes: Option<u64>,
    /// How its backups stand, when last known.
    #[serde(default)]
    pub backups: Option<Backups>,
    /// The last drill of its backups.
    #[serde(default)]
    pub drill: Option<Drill>,
    /// When it was first real: what is missing after that is lost, not new.
    pub provisioned_at: Option<Timestamp>,
    /// When it was first ready.
    pub ready_at: Option<Timestamp>,
    /// When a driver last looked.
    pub observed_at: Option<Timestamp>,
}

/// How the backups of a server stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backups {
    /// The archive, as the driver calls it.
    pub archive: String,
    /// The oldest moment that can be restored; none before the first backup is complete.
    pub oldest: Option<Timestamp>,
    /// The newest.
    pub newest: Option<Timestamp>,
    /// Base backups.
    pub count: u32,
    /// When the last of them was complete.
    pub last: Option<Timestamp>,
    /// Bytes in the store.
    pub bytes: u64,
    /// Bytes that were written and are not in the store yet.
    pub behind_bytes: u64,
    /// What has kept them from going on for a while.
    pub trouble: Option<String>,
}

/// A drill: the newest backup was restored, checked and thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// When it was begun.
    pub at: Timestamp,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Up to when what was restored reached: the recovery point. None where it failed.
    pub reached: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Where clients reach a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database, of a server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub database: String,
    /// The tenant's role, in a server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
}

/// Something a person should know of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which kind of thing.
    pub kind: ConditionKind,
    /// What happened and what to do.
    pub message: String,
}

/// Kinds of condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// Its data are gone from where they were.
    DataLost,
    /// Its process ends again and again.
    Crashing,
    /// It does not answer.
    Unreachable,
    /// A migration failed and was rolled back.
    MigrationFailed,
    /// A migration was edited or taken away after it ran.
    MigrationEdited,
    /// An extension is not to be had on this engine.
    ExtensionMissing,
    /// Its engine is not on its host.
    EngineMissing,
    /// Its port is in use by another program.
    PortTaken,
    /// The disk, or its share of it, is nearly full; it is read-only.
    DiskFull,
    /// What is written does not get into its backups.
    BackupsBehind,
    /// The last drill of its backups failed: they do not bring back all that they should.
    DrillFailed,
    /// The newest version of a function does not start; the one before it goes on.
    FunctionBroken,
    /// The runtime that a function wants is not on its host.
    RuntimeMissing,
    /// A secret that a function wants was never set.
    SecretMissing,
    /// A release that was tried on a share of the calls failed too many of them, and gets none any more.
    CanaryReturned,
    /// A transfer stands still until somebody repairs it.
    TransferStopped,
    /// The same of a table of one, whose others go on.
    TableStopped,
    /// It could not be brought back from its backups.
    RestoreFailed,
    /// What drives it is not there or refuses.
    DriverFailed,
}
