//! What a server says of its changes, as this crate speaks of it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::Lsn;

/// A table of the source, as a transaction saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// PostgreSQL's number of it, which stays when it is called otherwise.
    pub oid: u32,
    /// In the source's order.
    pub columns: Vec<Column>,
    /// What only the server's catalog says of it; a stream does not.
    pub catalog: Option<Catalog>,
}

/// What tells whether rows of a table came to be others without a change of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// A column each, in the same order.
    pub columns: Vec<Facts>,
    /// The number of the column that was made last, whether or not it is there or published.
    pub width: i16,
    /// Which of its rows are published, in SQL; all where nothing is said.
    pub filter: Option<String>,
    /// Its file, or those of its partitions.
    pub files: Vec<Storage>,
}

/// What is known of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its number in the table, which stays when it is called otherwise and is never another's.
    pub number: i16,
    /// The transaction that declared it last.
    pub declared: String,
    /// What rows have that are older than it, where the server still keeps that beside them.
    pub before: Option<String>,
}

/// A file of a table's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// The table or partition.
    pub oid: u32,
    /// The file's number, another one after rows were written anew or all went at once.
    pub file: u32,
    /// The partition was a table before, and may have brought rows.
    pub was_attached: bool,
}

/// A column of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// PostgreSQL's number of its type.
    pub type_id: u32,
    /// What the type is declared with (`numeric(10,2)`), as PostgreSQL encodes it; -1 for nothing.
    pub modifier: i32,
    /// It is a part of the replica identity.
    pub is_key: bool,
}

/// A value, in PostgreSQL's text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// SQL's null.
    Null,
    /// The same as before, and too long to be said again.
    Unchanged,
    /// Its text.
    Text(Bytes),
}

/// A row, a cell a column.
pub type Row = Vec<Cell>;

/// What happened to a row, or to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A row is new.
    Insert(Row),
    /// A row is another; `old` is known where its identity changed, or the whole old row is declared as the identity.
    Update {
        /// What identified it.
        old: Option<Row>,
        /// As it is now.
        new: Row,
    },
    /// A row is no more; what identified it.
    Delete(Row),
    /// All rows are no more.
    Truncate,
}

impl Kind {
    /// The same of other rows.
    pub(crate) fn map(self, row: impl Fn(Row) -> Row) -> Self {
        match self {
            Self::Insert(new) => Self::Insert(row(new)),
            Self::Update { old, new } => Self::Update { old: old.map(&row), new: row(new) },
            Self::Delete(old) => Self::Delete(row(old)),
            Self::Truncate => Self::Truncate,
        }
    }
}

/// A change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub relation: Arc<Relation>,
    /// What.
    pub kind: Kind,
}

/// What was committed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its number in the source.
    pub xid: u32,
    /// Where its commit ends in the log: the position after it.
    pub end: Lsn,
    /// When it was committed.
    pub at: Timestamp,
    /// In the order in which they were made.
    pub changes: Vec<Change>,
}

impl Relation {
    /// `schema.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}
