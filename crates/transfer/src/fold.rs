//! What becomes of the rows of a table by changes, one after the other.
//!
//! Of each key that is named only the last state counts. A value that the source did not say again, being long and the
//! same as before, is that of an earlier change, or else of the table as it was.

use std::collections::{HashMap, HashSet};

use deltalake::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use deltalake::arrow::compute::interleave;
use deltalake::arrow::datatypes::{Int64Type, SchemaRef};
use deltalake::arrow::row::{OwnedRow, RowConverter, SortField};

use crate::Error;
use crate::rows::{OP, UNCHANGED, XID};

/// Where a value is: a row of a batch.
type Spot = (usize, usize);

/// Where a value of a row comes from.
#[derive(Debug, Clone)]
enum Value {
    /// A change.
    Said(Spot),
    /// The row of this key, as the table was.
    Before(OwnedRow),
}

/// What a row is in the end.
#[derive(Debug, Clone)]
enum Last {
    Gone,
    /// A value a column.
    Row(Vec<Value>),
}

/// Changes, folded.
pub(crate) struct Fold {
    schema: SchemaRef,
    keys: Keys,
    batches: Vec<RecordBatch>,
    last: HashMap<OwnedRow, Last>,
    /// All rows that were there before have gone.
    truncated: bool,
    /// The row that went with the change before.
    went: Option<(OwnedRow, Option<Last>)>,
}

/// The columns that identify a row.
pub(crate) struct Keys {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl Keys {
    pub(crate) fn new(schema: &SchemaRef, columns: Vec<usize>) -> Result<Self, Error> {
        let types = columns.iter().map(|column| SortField::new(schema.field(*column).data_type().clone()));
        let converter = RowConverter::new(types.collect())?;
        Ok(Self { columns, converter })
    }

    /// The keys of a batch whose own columns begin behind `skip` others.
    fn of(&self, batch: &RecordBatch, skip: usize) -> Result<Vec<OwnedRow>, Error> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| batch.column(column + skip).clone()).collect();
        let rows = self.converter.convert_columns(&columns)?;
        Ok(rows.iter().map(|row| row.owned()).collect())
    }
}

impl Fold {
    /// Nothing yet; `schema` and `columns` of keys are the current table's.
    pub(crate) fn new(schema: SchemaRef, keys: Vec<usize>) -> Result<Self, Error> {
        let keys = Keys::new(&schema, keys)?;
        let (batches, last) = (Vec::new(), HashMap::new());
        Ok(Self { schema, keys, batches, last, truncated: false, went: None })
    }

    /// Takes changes in their order; those of a transaction that `is_known` already are left out.
    pub(crate) fn take(&mut self, batch: RecordBatch, is_known: impl Fn(u32) -> bool) -> Result<(), Error> {
        let skip = batch.num_columns() - self.schema.fields().len();
        let keys = self.keys.of(&batch, skip)?;
        let strange = |what: &str| Error::Strange(format!("a table of changes without {what}"));
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| strange(name)).cloned();
        let (op, unchanged, xid) = (column(OP)?, column(UNCHANGED)?, column(XID)?);
        let op = op.as_string_opt::<i32>().ok_or_else(|| strange(OP))?;
        let unchanged = unchanged.as_list_opt::<i32>().ok_or_else(|| strange(UNCHANGED))?;
        let xid = xid.as_primitive_opt::<Int64Type>().ok_or_else(|| strange(XID))?;
        let at = self.batches.len();
        for (row, key) in keys.into_iter().enumerate() {
            // The stream says 32 bits of it.
            if is_known(u32::try_from(xid.value(row)).unwrap_or_default()) {
                continue;
            }
            let names = unchanged.is_valid(row).then(|| unchanged.value(row));
            let names = names.as_ref().and_then(|names| names.as_string_opt::<i32>());
            self.change(op.value(row), key, (at, row), names);
        }
        self.batches.push(batch);
        Ok(())
    }

    fn change(&mut self, op: &str, key: OwnedRow, spot: Spot, unchanged: Option<&StringArray>) {
        match op {
            "truncate" => {
                self.last.clear();
                self.truncated = true;
                self.went = None;
            }
            "delete" => {
                let before = self.last.insert(key.clone(), Last::Gone);
                self.went = Some((key, before));
            }
            _ => {
                let mut values = vec![Value::Said(spot); self.schema.fields().len()];
                if let Some(names) = unchanged {
                    // A row whose key changes is one that goes and one that comes directly behind it.
                    let (source, before) = match self.went.take().filter(|_| op == "insert") {
                        Some((went, before)) => (went, before),
                        None => (key.clone(), self.last.get(&key).cloned()),
                    };
                    for name in names.iter().flatten() {
                        let Ok(column) = self.schema.index_of(name) else { continue };
                        let said = match &before {
                            Some(Last::Row(values)) => values.get(column).cloned(),
                            Some(Last::Gone) | None => None,
                        };
                        if let Some(value) = values.get_mut(column) {
                            *value = said.unwrap_or_else(|| Value::Before(source.clone()));
                        }
                    }
                }
                self.went = None;
                self.last.insert(key, Last::Row(values));
            }
        }
    }

    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty() && !self.truncated
    }

    /// Whether every row of the table as it was goes.
    pub(crate) fn truncates(&self) -> bool {
        self.truncated
    }

    /// Which rows of a batch of the table, as it was, stay; nothing where all do.
    pub(crate) fn staying(&self, batch: &RecordBatch) -> Result<Option<Vec<bool>>, Error> {
        let stays: Vec<bool> =
            self.keys.of(batch, 0)?.iter().map(|key| !self.last.contains_key(key)).collect();
        Ok(stays.contains(&false).then_some(stays))
    }

    /// The rows as they are in the end. `before` are batches of the table as it was that hold every row whose values
    /// are needed.
    pub(crate) fn rows(&self, before: &[RecordBatch]) -> Result<RecordBatch, Error> {
        let mut needed = HashSet::new();
        let rows: Vec<&Vec<Value>> = self
            .last
            .values()
            .filter_map(|last| match last {
                Last::Row(values) => Some(values),
                Last::Gone => None,
            })
            .collect();
        for value in rows.iter().flat_map(|values| values.iter()) {
            if let Value::Before(key) = value {
                needed.insert(key);
            }
        }
        let mut found: HashMap<OwnedRow, Spot> = HashMap::new();
        for (at, batch) in before.iter().enumerate() {
            for (row, key) in self.keys.of(batch, 0)?.into_iter().enumerate() {
                if needed.contains(&key) {
                    found.insert(key, (self.batches.len() + at, row));
                }
            }
        }
        let lost = || Error::Strange("a value that was not said again is nowhere in the lake".to_owned());
        let mut columns = Vec::new();
        for column in 0..self.schema.fields().len() {
            let said = self.batches.iter();
            let said =
                said.map(|batch| batch.column(column + batch.num_columns() - self.schema.fields().len()));
            let arrays: Vec<&dyn Array> =
                said.chain(before.iter().map(|batch| batch.column(column))).map(AsRef::as_ref).collect();
            let spots = rows.iter().map(|values| match values.get(column) {
                Some(Value::Said(spot)) => Ok(*spot),
                Some(Value::Before(key)) => found.get(key).copied().ok_or_else(lost),
                None => Err(lost()),
            });
            let spots = spots.collect::<Result<Vec<_>, _>>()?;
            columns.push(if spots.is_empty() {
                deltalake::arrow::array::new_empty_array(self.schema.field(column).data_type())
            } else {
                interleave(&arrays, &spots)?
            });
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}
