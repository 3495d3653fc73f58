//! Transfers: what is in a PostgreSQL server, and every change of it, in Delta tables.
//!
//! A *stream* pulls committed transactions from a logical replication slot, in order, and appends their changes to
//! `<table>__changes`. Each is there exactly once, whatever is killed when, because three things hold:
//!
//! 1. How far a table has come is written by the same commit that writes the changes ([`lake`]), and changes at or before
//!    that are left out when they come again.
//! 2. A commit is the successor of the version whose position was read, or there is none: of two writers one wins, and
//!    the other finds a position that is not his and stops.
//! 3. The slot lets go of a change only when every table has it on its disk ([`stream`]).
//!
//! Nothing here knows the control plane.

pub mod address;
mod ahead;
mod binary;
pub mod bucket;
mod catalog;
mod cells;
pub mod change;
mod changes;
mod copy;
pub mod current;
mod damage;
mod decode;
mod elsewhere;
mod explain;
mod files;
mod fold;
mod forms;
mod http;
pub mod lake;
pub mod later;
mod lists;
mod memory;
mod moments;
mod numeric;
mod parts;
mod place;
pub mod publish;
mod query;
mod relay;
mod rows;
pub mod run;
mod seen;
mod settling;
mod shape;
mod slot;
mod source;
mod status;
pub mod stream;
mod tls;
mod upkeep;
mod visibility;
mod way;
pub mod wire;

pub use copy::Tell;
pub use place::Place;
pub use postgres_types::PgLsn as Lsn;
pub use source::{BadName, Publication, Slot, Snapshot, Source};
pub use upkeep::Keep;
pub use visibility::Visibility;
pub use way::Way;

/// Why a transfer stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused something, or cannot be reached.
    #[error("the source: {0}")]
    Source(#[from] tokio_postgres::Error),
    /// There is no way to the server.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody has to do something in the server before it can be read.
    #[error("the server cannot be read like this: {0}")]
    Unready(String),
    /// What the server said of its changes is not understood.
    #[error("the source's changes are not understood: {0}")]
    Strange(String),
    /// A value that the lake has no form for.
    #[error(
        "{table}.{column} cannot be held by the lake: {why}; have the column held as text, and the table copied anew"
    )]
    Value {
        /// The source's table.
        table: String,
        /// Its column.
        column: String,
        /// Why not.
        why: String,
    },
    /// The columns of a table are others than the lake's.
    #[error("{table} is not what its table in the lake is: {why}; have the table copied anew")]
    Schema {
        /// The source's table.
        table: String,
        /// The difference.
        why: String,
    },
    /// Newer rows of a table cannot be told.
    #[error("newer rows of {table} cannot be told: {why}")]
    Cursor {
        /// The source's table.
        table: String,
        /// Why not, and what to do.
        why: String,
    },
    /// Nothing identifies the rows of a table, so that there can be no table of them as they are.
    #[error(
        "nothing identifies the rows of {table}: give it a primary key, or a replica identity by a unique index; \
         its changes alone can be had without"
    )]
    NoKey {
        /// The source's table.
        table: String,
    },
    /// The table in the lake cannot become the source's by changes.
    #[error("{table} has to be copied anew: {why}")]
    CopyAnew {
        /// The source's table.
        table: String,
        /// Why.
        why: String,
    },
    /// What the lake has of a table cannot be read.
    #[error("what the lake has of it is damaged: {why}")]
    Damaged {
        /// What is wrong with it.
        why: String,
    },
    /// Somebody else writes the same table.
    #[error("{table} in the lake is written by somebody else: its batch is {found}, not {expected}")]
    Fenced {
        /// The lake's table.
        table: String,
        /// The number of the last batch as this writer knew it.
        expected: i64,
        /// As it is.
        found: i64,
    },
    /// The lake's own files.
    #[error("the lake: {0}")]
    Lake(#[from] deltalake::DeltaTableError),
    /// The same.
    #[error("the lake: {0}")]
    Arrow(#[from] deltalake::arrow::error::ArrowError),
    /// The bucket under it.
    #[error("{0}")]
    Bucket(bucket::Failed),
    /// The disk under it.
    #[error("cannot make {path} durable: {source}")]
    Disk {
        /// Which file or folder.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Nothing goes on by itself: a person has to decide.
    #[error("{0}")]
    Stopped(String),
    /// A file of the process's own.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A fail point of a test.
    #[error("ended by the fail point {0}")]
    Ended(&'static str),
}

/// Marks a place between two effects where a test can end the writer.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| Err(crate::Error::Ended($name)))
    };
}
pub(crate) use fail_point;
