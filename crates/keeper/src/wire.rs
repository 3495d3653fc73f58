//! What the keeper is told and what it answers: unit files and the messages of its socket.
//!
//! A unit is *declared* by a file, `units/<unit>.json`, and *applied* by a message; the file is what a
//! restart of the keeper, or of the machine, goes by. The vocabulary is narrow on purpose: whoever may
//! write a unit file can name a tree, a program of a known kind and its arguments, but no uid, no
//! mount and no other executable, so that writing unit files is not a way to become root.

mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use worker::{
    DNS, EGRESS_NETWORK, Group, POSTGRES, RUNTIME_API, WorkerClaim, WorkerLimits, WorkerMessage, WorkerOrder,
    WorkerStart,
};

/// Name of a unit or of a tree: 1 to 48 of `a-z 0-9 -`, starting with a letter or digit. Never a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A name that is none: the text that was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name; use 1 to 48 of a-z, 0-9 and -, starting with a letter or digit")]
pub struct BadName(String);

impl Name {
    /// Parses a name.
    pub fn parse(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let fits = (1..=48).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text)) } else { Err(BadName(text)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// Where a tree lives below `$STEAD_HOME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tree {
    /// `servers/<name>`: somebody's server.
    Servers(Name),
    /// `spares/<name>`: prepared, not yet anybody's.
    Spares(Name),
    /// `control`: the control plane's own server; runs as the control uid.
    Control,
}

impl Tree {
    /// Its name, where it has one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Servers(name) | Self::Spares(name) => Some(name),
            Self::Control => None,
        }
    }
}

/// What the process of a unit is, and so as whom and in which sandbox it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// A program of a PostgreSQL engine, as the uid of its tree, inside the sandbox: nothing but the
    /// engine, the system's libraries (read-only) and the tree at `/stead`, an empty network namespace.
    Engine {
        /// The tree it works on.
        tree: Tree,
        /// The engine's `bin` folder: Debian's `/usr/lib/postgresql/<major>/bin`, or below an engines folder.
        bin: PathBuf,
        /// The program inside `bin`: `postgres` or `initdb`.
        program: EngineProgram,
    },
    /// A tool of Stead's own on a tree: this same binary as `stead tool <tool>`, as the uid of the tree and in the
    /// sandbox of an engine's program; runs once.
    Tool {
        /// The tree it works on.
        tree: Tree,
        /// Which.
        tool: Tool,
    },
    /// This same binary as `stead transfer`, as the uid of its tree and besides in the group "stead", in the sandbox of
    /// an engine's program. The folder with the socket of the server that it reads is at [`SOURCE`].
    Transfer {
        /// The tree that it works on.
        tree: Tree,
        /// That of the server.
        from: Tree,
        /// Whether it writes to a place outside: then at [`TARGET`] is the folder `relay/sockets/<tree>-to` with the socket
        /// of a way there, and the sandbox shows which authorities the host trusts.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        outside: bool,
    },
    /// The same, but the server is elsewhere: at [`SOURCE`] is the folder `relay/sockets/<tree>` with the socket of a way to
    /// it, and the sandbox shows which authorities the host trusts.
    TransferElsewhere {
        /// The tree that it works on.
        tree: Tree,
        /// See [`Runs::Transfer`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        outside: bool,
    },
    /// This same binary as `stead lake`, in the same way, with the data of its tree to be read only. The tree may be one
    /// that a transfer works on meanwhile.
    Lake {
        /// The tree that it reads.
        tree: Tree,
    },
    /// This same binary as `stead gateway --home $STEAD_HOME`, as the gateway uid, in the host's network.
    Gateway,
    /// This same binary as `stead archiver --home $STEAD_HOME`, as the control plane's uid, in the host's network.
    Archiver,
    /// This same binary as `stead functions --home $STEAD_HOME`, as a user and group of its own and besides in the group
    /// "stead", in the host's network. Only it may ask for workers.
    Functions,
    /// This same binary as `stead relay --home $STEAD_HOME`, as a user and group of its own and in no other, in the host's
    /// network.
    Relay,
}

/// Where a transfer finds the socket of the server that it reads; where the keeper is not root, the server's own folder
/// `run` is the place.
pub const SOURCE: &str = "/source";

/// Where one finds the socket of the way to the place outside that it writes to.
pub const TARGET: &str = "/target";

/// The engine programs that a unit may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineProgram {
    /// The server itself.
    Postgres,
    /// Makes a new cluster. This and all that follow run once: a unit of them is `restart: never`.
    Initdb,
    /// Gives a cluster that was stopped in order a new, empty log.
    #[serde(rename = "pg_resetwal")]
    Resetwal,
    /// Compares a data directory with the manifest of the backup that it was unpacked from.
    #[serde(rename = "pg_verifybackup")]
    Verifybackup,
}

/// Stead's own tools that a unit may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// Unpacks the tar that it is sent into an empty data directory.
    Unpack,
    /// Gives a cluster that was stopped in order a system identifier of its own.
    Identify,
}

impl Tool {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unpack => "unpack",
            Self::Identify => "identify",
        }
    }
}

/// A unit as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its name; the file is `units/<name>.json`.
    pub name: Name,
    /// Counts declarations; a running process whose generation differs is restarted when `apply` says so.
    pub generation: u64,
    /// Whether it shall run.
    pub wanted: Wanted,
    /// What it runs.
    pub runs: Runs,
    /// Arguments after the program's name. An engine program finds its tree at `/stead`, so that paths are
    /// given as `/stead/data`; where the keeper is not root there is no sandbox, and the keeper puts the
    /// tree's real folder in place of `/stead` wherever a path in an argument or variable begins with it.
    #[serde(default)]
    pub args: Vec<String>,
    /// The whole environment (nothing is inherited).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Limits enforced by the kernel where the host has the controllers.
    #[serde(default)]
    pub limits: Limits,
    /// How it is stopped.
    #[serde(default)]
    pub stop: Stop,
    /// Whether it is started again when it ends by itself.
    #[serde(default)]
    pub restart: Restart,
    /// Whether the gateway may put it to sleep while nobody uses it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sleeps: bool,
}

/// Whether a unit shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// It shall run.
    Running,
    /// It shall not.
    Stopped,
    /// What runs is left to end by itself, and nothing is started: another unit has taken its work over.
    Retired,
}

/// Kernel limits of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory (page cache included, as the memory controller counts).
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// How a unit is stopped: `signal`, then after `timeout_ms` SIGQUIT, then SIGKILL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The polite signal; PostgreSQL's fast shutdown is `int`.
    pub signal: StopSignal,
    /// Milliseconds until the next, harder signal.
    pub timeout_ms: u64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: StopSignal::Int, timeout_ms: 30_000 }
    }
}

/// A polite stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// SIGINT.
    Int,
    /// SIGTERM.
    Term,
}

/// Whether a unit that ended by itself is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// Always, with back-off from 100 ms doubling to 30 s; back to 100 ms after 60 s of running.
    #[default]
    Always,
    /// Never: a job that runs once. It has `Exited` when done.
    Never,
}

/// A request on the keeper's socket, one JSON object a line; each is answered by one [`Reply`] line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Read `units/<unit>.json` and bring it about: start, or begin to stop, or restart when the
    /// generation differs from the one in force. Answers when a start has been made (not when ready).
    Apply { unit: Name },
    /// State of one unit.
    Unit { unit: Name },
    /// Whether a unit's server takes sessions, by its own word; other units are ready when they run.
    Ready { unit: Name },
    /// State of the host and of every unit.
    Host,
    /// Nobody uses a unit that is wanted running: it has no process until it is woken. Answers when its
    /// process has been told to stop. Also the gateway may ask this and the next.
    Sleep {
        /// Which.
        unit: Name,
        /// For the record.
        why: String,
    },
    /// Somebody needs a unit that sleeps: it is started. Awake already: fine. Answers like `Apply`.
    Wake {
        /// Which.
        unit: Name,
        /// For the record.
        why: String,
    },
    /// SIGHUP to the unit's main process.
    Reload { unit: Name },
    /// Forget a unit: its file, record and cgroup. Refused with `busy` while its process lives.
    RemoveUnit { unit: Name },
    /// Make a tree with an own uid. Doing it twice finds the first one's work.
    CreateTree { tree: Tree },
    /// Move a spare to be a server. Done already (source gone, target there): fine.
    RenameTree { from: Tree, to: Tree },
    /// Remove a tree and everything in it. Refused with `busy` while a unit of it lives. Absent: fine.
    RemoveTree { tree: Tree },
    /// Make a worker; with the descriptors that [`WorkerOrder`] names. Answers when its process has been made; the
    /// rest is said on its control socket. This and the next two only the function front door may ask.
    StartWorker(WorkerOrder),
    /// Give a worker its package and its limits. Answers when the package is in place. Refused with `busy` until the
    /// worker is ready.
    ClaimWorker(WorkerClaim),
    /// End a worker at once, with everything it started. No such worker: fine.
    StopWorker {
        /// Which.
        worker: Name,
    },
    /// End the keeper; with `units` stop every unit first (they stay declared and start again with the keeper).
    Shutdown { units: bool },
}

/// Answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// State of a unit; `None` where no such unit is declared or known.
    Unit(Option<UnitStatus>),
    /// Whether the unit is ready.
    Ready(bool),
    /// State of the host.
    Host(HostStatus),
    /// Refused or failed.
    Refused(Refusal),
}

/// Why the keeper did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal, for programs.
    pub reason: Reason,
    /// What happened and what to do, for people.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The request or the unit file is not valid.
    Invalid,
    /// No such unit or tree.
    Absent,
    /// A process still lives; try again when it has ended.
    Busy,
    /// The disk is full.
    DiskFull,
    /// The operating system said no; the message says what.
    System,
}

/// State of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub unit: Name,
    /// Generation of the running (or last) process.
    pub generation: u64,
    /// What it does now.
    pub state: UnitState,
    /// How many times it ended by itself and was started again since it was last applied.
    pub restarts: u64,
    /// Main process id in the host's namespace, while it lives.
    pub pid: Option<i32>,
    /// When the process was started.
    pub started_at: Option<jiff::Timestamp>,
}

/// What a unit does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum UnitState {
    /// No process, none wanted.
    Stopped,
    /// Wanted running, and without a process until somebody needs it.
    Asleep,
    /// The process lives.
    Running,
    /// Told to stop, still living.
    Stopping,
    /// Ended by itself and shall not be started again (`restart: never`).
    Exited {
        /// Exit code; absent when a signal ended it or the keeper was not its parent.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
    },
    /// Ended by itself; starts again at a moment.
    Backoff {
        /// When it is started again.
        until: jiff::Timestamp,
        /// The end of what it wrote to stderr, or the launcher's error.
        last_error: String,
    },
}

/// State of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The keeper's own process id.
    pub pid: i32,
    /// Version of the binary that runs as keeper.
    pub version: String,
    /// Which binary it would start as gateway (as [`crate::own_program`] says it); empty from a keeper that does not say.
    #[serde(default)]
    pub program: String,
    /// Whether servers have uids, namespaces and limits of their own (the keeper is root).
    pub isolated: bool,
    /// The disk that `$STEAD_HOME` is on.
    pub disk: DiskStatus,
    /// Every unit.
    pub units: Vec<UnitStatus>,
}

/// The disk and its guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Size, bytes.
    pub total_bytes: u64,
    /// Free for Stead (reserve file not counted), bytes.
    pub free_bytes: u64,
    /// Whether the guard has made the servers read-only.
    pub read_only: bool,
}

/// A line of `spool/keeper.jsonl`: what the keeper did by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolLine {
    /// When.
    pub at: jiff::Timestamp,
    /// The unit, where it is about one.
    pub unit: Option<Name>,
    /// `unit.started`, `unit.exited`, `unit.restarted`, `unit.killed`, `unit.asleep`, `unit.woken`, `disk.read_only`, `disk.writable`,
    /// `keeper.started`, `keeper.repaired` (a wrong owner or mode was put right).
    pub action: String,
    /// In words.
    pub message: String,
}
