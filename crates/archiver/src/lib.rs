//! Keeps what servers hold in an object store: base backups, and the write-ahead log as it is written; and brings
//! it back.
//!
//! **The process** (`stead archiver`) is a data plane: told by files, it goes on while the control plane is down. To
//! every server that runs it has one session in replication mode. The log that comes is stored piece by piece, every
//! few seconds; a slot keeps it at the server until then, so nothing is lost with this process, and nothing is
//! written to the host's disk twice. When a base backup is due the server is asked for one over a second session. What
//! no moment that is kept needs is removed after each.
//!
//! It runs as the control plane's user, which no tenant's server is: a tenant can neither read nor remove backups, and
//! this process can only add to them what it cannot read again: of each archive's key it has the public half.
//!
//! **Bringing back** ([`restore`]) is the driver's, who has the private halves: which base backup and which stretch of
//! the log a moment takes, and then these, checked, as a tar and as segments.

mod archive;
mod base;
mod inventory;
mod keeping;
mod lsn;
mod objects;
mod process;
mod replication;
pub mod restore;
mod seal;
mod stream;
mod sweep;
pub mod tool;
pub mod wire;

pub use archive::{About, ArchiveId, Base, FORMAT, Part, Piece, Whose};
pub use lsn::{BadLsn, Lsn};
pub use objects::{Location, Objects};
pub use process::{Client, Folder, run};
pub use seal::{Wrapping, new_key};

/// Kills the process here when the named fail point is set to `return`; compiled away without the feature.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| {
            std::process::abort();
        });
    };
}
pub(crate) use fail_point;

/// Why something could not be stored or brought back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object store.
    #[error("the store of backups {store} does not do it: {why}")]
    Store {
        /// Where it is.
        store: String,
        /// What it said.
        why: String,
    },
    /// An object is not what was stored.
    #[error("`{object}` in the store of backups is damaged: {why}")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server.
    #[error("{0}")]
    Server(String),
    /// The store takes the log more slowly than the server writes it.
    #[error(
        "the store of backups is too slow for what the server writes; the server keeps its log until it is stored"
    )]
    Slow,
    /// An archive of another cluster.
    #[error(
        "archive {archive} is of the cluster {of}, and the server is {is}; it needs an archive of its own"
    )]
    OtherServer {
        /// Which archive.
        archive: ArchiveId,
        /// The cluster that it is of.
        of: String,
        /// The cluster that the server is.
        is: String,
    },
    /// The installation key is not the one that sealed this archive's.
    #[error("archive {archive} was sealed with another installation key; put the right one in place")]
    OtherKey {
        /// Which archive.
        archive: ArchiveId,
    },
    /// There is no such archive.
    #[error("archive {archive} is not in {store}; start `stead server` with the --backups that it is in")]
    NoArchive {
        /// Which.
        archive: ArchiveId,
        /// The store.
        store: String,
    },
    /// A moment that cannot be brought back.
    #[error(transparent)]
    Refused(#[from] restore::Refused),
    /// Something is not there that must be.
    #[error("{0} is not there")]
    Gone(String),
    /// The machine.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<replication::Failed> for Error {
    fn from(error: replication::Failed) -> Self {
        Self::Server(error.to_string())
    }
}
