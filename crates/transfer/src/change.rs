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
    /// In the source's order.
    pub columns: Vec<Column>,
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
