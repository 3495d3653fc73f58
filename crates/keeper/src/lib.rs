//! The one process of a host that is root: starts, stops, restarts, limits and reaps declared units.
//!
//! # Shape
//! One thread, one `poll` loop ([`run`]), no runtime. That is a decision, not thrift: a process with one
//! thread may `fork` and go on in the child with everything Rust offers, so the launcher ([`launch`],
//! [`sandbox`]) is ordinary code. Whatever could block for long (deleting a tree) is done by a forked
//! child; whatever a peer could make slow (its socket) is non-blocking and bounded.
//!
//! # What survives what
//! The keeper may be killed between any two effects. It never *remembers* what it can look up again:
//! what shall run is in `units/`, what does run is found by pid, start time and boot id from
//! `keeper/state/`, a free uid is one that no tree's folders have. A process is launched in two steps:
//! cloned, it makes its sandbox and then waits for a byte from the keeper, who writes it only after the
//! record. So a process that was never recorded never runs anything, and a recorded one can be found.
//! The lock on `<tree>/lock`, which every process of a tree inherits, is the second line: nothing starts
//! on a tree as long as anything that ran there lives.
//!
//! # Who is trusted
//! Root alone. The control plane (uid "stead-control") names trees, engines and arguments, but owns the
//! folders that trees lie in, so every path below them is opened without following links. Tenants'
//! processes own `data`, `run` and `log` of their tree, so nothing there is opened by root in a way that
//! a planted link, device or pipe could misuse. What runs in a worker ([`workers`]) is nobody's: the function front
//! door (uid "stead-functions") may have workers made and ended and nothing else, and names no file of the host but a
//! package by its digest and a runtime of root's.

mod cgroup;
mod client;
mod declared;
mod engine;
mod files;
mod guard;
mod host;
mod journal;
mod keeper;
mod launch;
mod layers;
mod layout;
mod open;
mod plan;
mod program;
mod ready;
mod record;
mod sandbox;
mod sleep;
mod socket;
mod supervise;
mod sys;
mod trash;
mod trees;
mod units;
pub mod wire;
mod workers;

use std::io;
use std::path::PathBuf;

pub use client::{Client, ClientError};
pub use guard::Watermarks;
pub use host::{Host, ensure_host, tree_dir};
pub use program::own_program;

/// Kills this process where it stands when the named fail point is configured with `return`.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| $crate::sys::die())
    };
}
pub(crate) use fail_point;

/// How a keeper is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// `$STEAD_HOME`: absolute, at most 60 bytes (Unix socket paths are short).
    pub home: PathBuf,
    /// The `stead` binary that is run as gateway; opened once, when the keeper starts.
    pub program: PathBuf,
    /// Folders of engines (`<folder>/<major>/bin`) besides Debian's and `$STEAD_HOME/engines`.
    pub engine_dirs: Vec<PathBuf>,
    /// Folders of interpreters for workers (`<folder>/<name>`) besides `$STEAD_HOME/runtimes`.
    pub runtime_dirs: Vec<PathBuf>,
    /// When servers are made read-only; by default from the size of the disk.
    pub watermarks: Option<Watermarks>,
}

impl Options {
    /// Options with the defaults of a host.
    pub fn new(home: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Self {
        let runtime_dirs = ["/usr/local/lib/stead/runtimes", "/var/lib/stead/runtimes"];
        Self {
            home: home.into(),
            program: program.into(),
            engine_dirs: Vec::new(),
            runtime_dirs: runtime_dirs.map(PathBuf::from).to_vec(),
            watermarks: None,
        }
    }
}

/// Why a keeper did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `$STEAD_HOME` cannot be one.
    #[error("`{home}` cannot be the home of Stead: {why}")]
    Home {
        /// As given.
        home: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Another keeper has the lock.
    #[error("a keeper (process {pid}) already runs for `{home}`; use that one, or stop it first")]
    AlreadyRunning {
        /// What the lock file says.
        pid: String,
        /// The home.
        home: PathBuf,
    },
    /// The calling process has threads, so the keeper could not fork safely.
    #[error("the keeper was started in a process with {0} threads; call it before any runtime is made")]
    Threads(usize),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to what.
        what: String,
        /// What it said.
        source: io::Error,
    },
}

/// Says what was being done when the operating system refused.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}

/// Runs the keeper of a home until it is told to end. Units it started live on, unless told otherwise.
///
/// Must be called in a process with one thread.
pub fn run(options: &Options) -> Result<(), Error> {
    keeper::Keeper::open(options)?.run()
}
