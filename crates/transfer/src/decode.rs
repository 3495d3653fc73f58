//! The messages of `pgoutput`, gathered into transactions.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use pg_walstream::{ColumnData, LogicalReplicationMessage as Message, LogicalReplicationParser, TupleData};

use crate::change::{Cell, Change, Column, Kind, Relation, Row, Transaction};
use crate::parts::{Kept, Parts};
use crate::source::Texts;
use crate::{Error, Lsn, forms};

/// Microseconds from 1970 to 2000, where PostgreSQL begins to count.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// Reads messages in the order in which the server says them.
pub(crate) struct Decoder {
    parser: LogicalReplicationParser,
    relations: HashMap<u32, Described>,
    /// Base types of domains.
    bases: HashMap<u32, u32>,
    texts: Texts,
    parts: Parts,
    open: Option<Open>,
}

/// A table as it was described last.
struct Described {
    /// How many columns its rows have, also those that are not meant.
    width: usize,
    kept: Option<Kept>,
    relation: Arc<Relation>,
}

struct Open {
    xid: u32,
    changes: Vec<Change>,
}

impl Decoder {
    pub(crate) fn new(texts: Texts, parts: Parts) -> Self {
        let parser = LogicalReplicationParser::with_protocol_version(1);
        Self { parser, relations: HashMap::new(), bases: HashMap::new(), texts, parts, open: None }
    }

    /// Takes a message; a transaction where that was its last.
    pub(crate) fn take(&mut self, message: Bytes) -> Result<Option<Transaction>, Error> {
        let parsed =
            self.parser.parse_wal_message_bytes(message).map_err(|error| strange(error.to_string()))?;
        match parsed.message {
            Message::Begin { xid, .. } => self.open = Some(Open { xid, changes: Vec::new() }),
            Message::Commit { end_lsn, timestamp, .. } => {
                let Open { xid, changes } = self.open.take().ok_or_else(|| strange("a commit of nothing"))?;
                let at = timestamp.checked_add(EPOCH_2000).map(Timestamp::from_microsecond);
                let at = at.and_then(Result::ok).ok_or_else(|| strange("a commit at no time"))?;
                return Ok(Some(Transaction { xid, end: Lsn::from(end_lsn), at, changes }));
            }
            Message::Relation { relation_id, namespace, relation_name, columns, .. } => {
                let columns = columns.into_iter().map(|column| Column {
                    is_key: column.is_key(),
                    name: column.name.to_string(),
                    type_id: self.bases.get(&column.type_id).copied().unwrap_or(column.type_id),
                    modifier: column.type_modifier,
                });
                let mut relation = Relation {
                    schema: namespace.to_string(),
                    name: relation_name.to_string(),
                    oid: relation_id,
                    columns: columns.collect(),
                    catalog: None,
                };
                self.texts.apply(&mut relation);
                let width = relation.columns.len();
                let kept = self.parts.apply(&mut relation);
                self.relations.insert(relation_id, Described { width, kept, relation: Arc::new(relation) });
            }
            Message::Insert { relation_id, tuple } => self.change(relation_id, Kind::Insert(row(tuple)))?,
            Message::Update { relation_id, old_tuple, new_tuple, .. } => {
                let kind = Kind::Update { old: old_tuple.map(row), new: row(new_tuple) };
                self.change(relation_id, kind)?;
            }
            Message::Delete { relation_id, old_tuple, .. } => {
                self.change(relation_id, Kind::Delete(row(old_tuple)))?;
            }
            Message::Truncate { relation_ids, .. } => {
                for relation_id in relation_ids {
                    self.change(relation_id, Kind::Truncate)?;
                }
            }
            // Of a domain this is said before its table: what its base type is called. The own schema has no name here.
            Message::Type { type_id, namespace, type_name }
                if namespace.is_empty() || namespace == "pg_catalog" =>
            {
                self.bases.extend(forms::built_in(&type_name).map(|base| (type_id, base)));
            }
            // Where a transaction comes from is of no interest yet.
            Message::Type { .. } | Message::Origin { .. } | Message::Message { .. } => {}
            other => return Err(strange(format!("a message that was not asked for: {other:?}"))),
        }
        Ok(None)
    }

    fn change(&mut self, relation_id: u32, kind: Kind) -> Result<(), Error> {
        let Described { width, kept, relation } =
            self.relations.get(&relation_id).ok_or_else(|| strange("a table without a description"))?;
        let rows = match &kind {
            Kind::Insert(row) | Kind::Delete(row) => [Some(row), None],
            Kind::Update { old, new } => [old.as_ref(), Some(new)],
            Kind::Truncate => [None, None],
        };
        if rows.into_iter().flatten().any(|row| row.len() != *width) {
            return Err(strange("a row of another width than its table"));
        }
        let open = self.open.as_mut().ok_or_else(|| strange("a change outside a transaction"))?;
        let kind = match kept {
            Some(kept) => kind.map(|row| kept.of(row)),
            None => kind,
        };
        open.changes.push(Change { relation: relation.clone(), kind });
        Ok(())
    }
}

fn row(tuple: TupleData) -> Row {
    tuple.columns.into_iter().map(cell).collect()
}

fn cell(column: ColumnData) -> Cell {
    if column.is_null() {
        Cell::Null
    } else if column.is_unchanged() {
        Cell::Unchanged
    } else {
        Cell::Text(column.into_bytes())
    }
}

fn strange(why: impl Into<String>) -> Error {
    Error::Strange(why.into())
}
