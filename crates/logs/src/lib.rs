//! What every process of a host logged: kept compressed per tenant and day, searched, followed.
//!
//! **Where lines come from.** Processes write their logs to files of their own, as they always did; a [`Collector`]
//! reads on in each of them, again and again, and appends what is new to the [`Store`]. So nobody who logs waits for
//! this crate, and while nobody collects nothing is lost that its writer has not taken away itself.
//!
//! **The store** is a folder: `<tenant id>/<day>/<first>-<last>.seg`, and `installation` in place of a tenant's id for
//! what belongs to none. A *segment* is a run of *blocks* ([`block`]); each block is compressed by itself, has a
//! checksum, and begins with what a reader has to know to leave it alone: the time it spans, whose lines they are, how
//! many of each severity, and a filter of the words in it. There is one segment a day that is written to, `<n>.open`.
//! Each look of the collector appends one block to it, however small, so that a line can be found a moment after it was
//! written; once there are many they are put together into big ones ([`tidy`]).
//!
//! **Exactly once.** A block says which bytes of which file its lines came from, so that what is stored and how far was
//! read are one write. `positions.json` says from where to read on; it is written only after everything before those
//! positions is on the disk, and so may be behind but never ahead. What is behind it is read again, and whatever an open
//! segment has already is left out. Only open segments have to be looked through for that: a segment is closed (renamed)
//! right after the positions behind it were written. Putting segments together is one rename as well: a segment
//! `3-9` makes `3-3` to `9-9` void, whether or not they are deleted already.
//!
//! **A file** is known by its inode and its first line, because PostgreSQL empties and reuses its files and others
//! rename theirs. Files lie where a server that was taken over may put anything: they are read without following links,
//! a line is stored up to [`LONGEST_LINE`] and marked where it was cut, and a time that cannot be is replaced.
//!
//! **Room for an index.** A segment that is closed never changes and is known by its name; a full-text index of it is a
//! file beside it, and one without is scanned. A line's id, file and offset, survives every rewriting.

mod batch;
pub mod block;
mod collect;
mod filter;
mod histogram;
mod line;
mod looks;
mod parts;
mod query;
mod search;
mod segment;
mod source;
mod store;
pub mod tidy;
mod withheld;

use std::io;
use std::path::{Path, PathBuf};

pub use batch::{Batch, Entry};
pub use collect::{Collector, Owners, Round};
pub use histogram::{Bucket, Histogram};
pub use line::{Label, Line, LineId, Owner, Severity, Source};
pub use query::{Query, QueryError};
pub use search::{Damage, Search};
pub use source::LONGEST_LINE;
pub use store::{Options, Store};
pub use withheld::View;

/// Kills the process here when the named fail point is set to `return`; compiled away without the feature.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| {
            std::process::abort();
        });
    };
}
pub(crate) use fail_point;

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the store.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder is somebody else's.
    #[error("{0} is not a folder of this user's; move it away, and the store of logs is made anew")]
    Foreign(PathBuf),
    /// The file of positions makes no sense.
    #[error(
        "{path} cannot be understood ({why}); without it, what is still in the log files would be stored a second \
         time. Bring the file back, or move the folder it is in away to begin anew"
    )]
    Positions {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Error {
    /// Whether there was no room on the disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File { source, .. } if matches!(source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Puts the name of a file to its error.
pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::File { what, path: path.to_owned(), source })
    }
}

/// A size or an offset as 64 bits.
pub(crate) fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// An offset in memory.
pub(crate) fn narrow(n: impl TryInto<usize>) -> usize {
    n.try_into().unwrap_or(usize::MAX)
}
