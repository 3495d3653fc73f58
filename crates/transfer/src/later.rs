//! Reading a table before its changes are merged into it.
//!
//! A merge comes at intervals; a reader need not wait for it. What it would do to the rows of the table is known from
//! the two tables alone: which changes come behind the table's position, which of them its copy saw, and what they make of
//! each key. So whoever reads has [`Since`] tell where to begin, folds the changes behind that ([`Later`]), leaves out the
//! rows whose keys they name, and adds those that they make.

use std::sync::Arc;

use deltalake::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use deltalake::arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::MetadataValue;
use deltalake::logstore::LogStore;
use deltalake::{DeltaTable, DeltaTableError};
use object_store::ObjectStoreExt;
use serde::Deserialize;

use crate::Error;
use crate::current::Copied;
use crate::fold::Fold;
use crate::lake::{Note, Writer};
use crate::rows::UNCHANGED;
use crate::shape::Shape;

pub use crate::rows::{LSN, ORDER};

pub(crate) use crate::forms::KEY;

/// From where on changes are not in a table yet.
#[derive(Debug, Clone)]
pub struct Since {
    /// Those of transactions that end behind it, in the changes' column [`LSN`].
    pub lsn: i64,
    copied: Option<Copied>,
}

impl Since {
    /// Compares a table with its changes, which must have been opened after it: so they have all that it has. Nothing
    /// where no change was ever written.
    pub async fn of(current: &DeltaTable, changes: &DeltaTable) -> Result<Option<Self>, Error> {
        let Some(writer) = writer(changes).await? else { return Ok(None) };
        let (log, state) = (current.log_store(), current.snapshot()?);
        let said = async |what: &str| {
            state.transaction_version(log.as_ref(), format!("{}/{what}", writer.name)).await
        };
        let lsn = said(&writer.epoch).await?.unwrap_or_default();
        let copied = match said("note").await?.filter(|note| *note != 0) {
            Some(note) => {
                let found = current.object_store().get(&Note(note).path()).await;
                let text =
                    found.map_err(DeltaTableError::from)?.bytes().await.map_err(DeltaTableError::from)?;
                let copied = serde_json::from_slice(&text);
                Some(copied.map_err(|error| Error::Strange(format!("a copy's note: {error}")))?)
            }
            None => None,
        };
        Ok(Some(Self { lsn, copied }))
    }
}

/// The columns that identify the rows of a table; none where it does not say.
pub fn keys(table: &DeltaTable) -> Result<Vec<usize>, Error> {
    let schema = table.snapshot()?.snapshot().schema();
    let is_key = |value: Option<&MetadataValue>| match value {
        Some(MetadataValue::Boolean(is_key)) => *is_key,
        Some(MetadataValue::String(text)) => text == "true",
        _ => false,
    };
    let fields = schema.fields().enumerate();
    Ok(fields.filter(|(_, field)| is_key(field.metadata.get(KEY))).map(|(at, _)| at).collect())
}

/// Changes that are not in their table yet, folded.
pub struct Later {
    fold: Fold,
    since: Since,
    schema: SchemaRef,
    keys: Vec<usize>,
    needs_before: bool,
}

impl Later {
    /// None yet, of a table with these columns and keys.
    pub fn new(schema: SchemaRef, keys: Vec<usize>, since: Since) -> Result<Self, Error> {
        let fold = Fold::new(Shape::new("the table".to_owned(), schema.clone()), keys.clone())?;
        Ok(Self { fold, since, schema, keys, needs_before: false })
    }

    /// Takes changes behind the position, in the order of [`LSN`] and [`ORDER`], with all their columns.
    pub fn take(&mut self, batch: RecordBatch) -> Result<(), Error> {
        let unchanged = batch.column_by_name(UNCHANGED);
        self.needs_before |= unchanged.is_none_or(|column| column.null_count() < column.len());
        let copied = self.since.copied.as_ref();
        let is_known = |op: &str, xid, lsn| copied.is_some_and(|copied| copied.holds(op, xid, lsn));
        self.fold.take(&batch, is_known)
    }

    /// Whether the table is as it was.
    pub fn is_empty(&self) -> bool {
        self.fold.is_empty()
    }

    /// Whether no row of the table stays.
    pub fn truncates(&self) -> bool {
        self.fold.truncates()
    }

    /// Whether [`Self::rows`] may need values of the table as it was.
    pub fn needs_before(&self) -> bool {
        self.needs_before
    }

    /// Which rows of the table stay, given the columns that identify them, in their order.
    pub fn staying(&self, keys: &[ArrayRef]) -> Result<BooleanArray, Error> {
        let count = keys.first().map_or(0, |key| key.len());
        let fields = self.keys.iter().map(|key| self.schema.field(*key).clone());
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), keys.to_vec())?;
        Ok(self.fold.staying(&batch)?.unwrap_or_else(|| vec![true; count].into()))
    }

    /// The rows that come in the place of those that do not stay. `before` has these, with all columns, where
    /// [`Self::needs_before`].
    pub fn rows(&self, before: &[RecordBatch]) -> Result<RecordBatch, Error> {
        self.fold.rows(before)
    }
}

/// Who wrote a table last: each of a writer's commits says so.
async fn writer(table: &DeltaTable) -> Result<Option<Writer>, Error> {
    let log = table.log_store();
    for version in (0..=table.version().unwrap_or_default()).rev() {
        let commit = log.read_commit_entry(version).await?;
        // Not to be taken for a table that was never written.
        let lost = || Error::Strange(format!("version {version} of a table of changes is gone from its log"));
        let commit = commit.ok_or_else(lost)?;
        if let Some(writer) = writer_in(&commit) {
            return Ok(Some(writer));
        }
    }
    Ok(None)
}

fn writer_in(commit: &[u8]) -> Option<Writer> {
    #[derive(Deserialize)]
    struct Action {
        txn: Option<Txn>,
    }
    #[derive(Deserialize)]
    struct Txn {
        #[serde(rename = "appId")]
        app: String,
    }
    let actions = commit.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let apps: Vec<String> = actions.filter_map(|action: Action| action.txn.map(|txn| txn.app)).collect();
    let name = apps.iter().find_map(|app| app.strip_suffix("/seq"))?;
    let mut others = apps.iter().filter_map(|app| app.strip_prefix(name)?.strip_prefix('/'));
    let epoch = others.find(|other| !["seq", "note"].contains(other))?;
    Some(Writer { name: name.to_owned(), epoch: epoch.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_says_who_made_it() {
        let said = br#"{"add":{"path":"x"}}
{"txn":{"appId":"main/public.items/seq","version":3}}
{"txn":{"appId":"main/public.items/7-1-lake","version":77}}
{"txn":{"appId":"main/public.items/note","version":0}}
{"commitInfo":{}}"#;
        let writer = writer_in(said).unwrap();
        assert_eq!((writer.name.as_str(), writer.epoch.as_str()), ("main/public.items", "7-1-lake"));
        assert!(writer_in(b"{\"commitInfo\":{}}").is_none());
    }
}
