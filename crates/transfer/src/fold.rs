//! What becomes of the rows of a table by changes, one after the other.
//!
//! Of each key that is named only the last state counts. A value that the source did not say again, being long and the
//! same as before, is that of an earlier change, or else of the table as it was.

use std::collections::{BTreeSet, HashMap, HashSet};

use deltalake::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, StringArray,
};
use deltalake::arrow::compute::{cast, filter_record_batch, interleave};
use deltalake::arrow::datatypes::{DataType, Int64Type, SchemaRef};
use deltalake::arrow::row::{RowConverter, Rows, SortField};
use foldhash::fast::RandomState;

use crate::Error;
use crate::files::Part;
use crate::rows::{LSN, OP, UNCHANGED, XID};
use crate::shape::Shape;

/// Where a value is: a row of a batch.
type Spot = (usize, usize);

/// What identifies a row, as bytes that are the same where that is.
type Key = Box<[u8]>;

/// Where a value of a row comes from.
#[derive(Debug, Clone)]
enum Value {
    /// A change.
    Said(Spot),
    /// The row of this key, as the table was.
    Before(Key),
}

/// What a row is in the end.
#[derive(Debug, Clone)]
enum Last {
    Gone,
    /// A change says all of it.
    Said(Spot),
    /// A value a column.
    Row(Vec<Value>),
}

impl Last {
    fn value(&self, column: usize) -> Option<Value> {
        match self {
            Self::Gone => None,
            Self::Said(spot) => Some(Value::Said(*spot)),
            Self::Row(values) => values.get(column).cloned(),
        }
    }
}

/// Changes, folded.
pub(crate) struct Fold {
    shape: Shape,
    keys: Keys,
    batches: Vec<RecordBatch>,
    last: HashMap<Key, Last, RandomState>,
    /// What the first column of the keys is in them, where it is of whole numbers.
    firsts: Option<BTreeSet<i64>>,
    /// All rows that were there before have gone.
    truncated: bool,
    /// The row that went with the change before.
    went: Option<(Key, Option<Last>)>,
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

    /// The first of them, where it is of whole numbers.
    fn first(&self, schema: &SchemaRef) -> Option<usize> {
        self.columns.first().copied().filter(|first| schema.field(*first).data_type().is_signed_integer())
    }

    /// The keys of rows that have at least these columns of a table.
    fn of(&self, batch: &RecordBatch, shape: &Shape) -> Result<Rows, Error> {
        let columns = self.columns.iter().map(|column| shape.column(batch, shape.schema().field(*column)));
        Ok(self.converter.convert_columns(&columns.collect::<Result<Vec<ArrayRef>, _>>()?)?)
    }
}

impl Fold {
    /// Nothing yet; the shape and the places of keys are the current table's.
    pub(crate) fn new(shape: Shape, keys: Vec<usize>) -> Result<Self, Error> {
        let keys = Keys::new(shape.schema(), keys)?;
        let (batches, last) = (Vec::new(), HashMap::default());
        let firsts = keys.first(shape.schema()).map(|_| BTreeSet::new());
        Ok(Self { shape, keys, batches, last, firsts, truncated: false, went: None })
    }

    /// Takes changes in their order; those of a transaction that `is_known` already are left out. Each is asked for its
    /// number and its position.
    pub(crate) fn take(
        &mut self,
        batch: &RecordBatch,
        is_known: impl Fn(&str, u32, i64) -> bool,
    ) -> Result<(), Error> {
        let told = Told::of(batch)?;
        let is_new: BooleanArray = (0..batch.num_rows())
            // The stream says 32 bits of a transaction's number.
            .map(|row| {
                let xid = u32::try_from(told.xid.value(row)).unwrap_or_default();
                Some(!is_known(told.op.value(row), xid, told.lsn.value(row)))
            })
            .collect();
        let batch = only(batch.clone(), &is_new)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let told = Told::of(&batch)?;
        let own = self.shape.fit(&batch)?;
        self.name_keys(&own)?;
        let at = self.batches.len();
        for (row, key) in self.keys.of(&own, &self.shape)?.iter().enumerate() {
            let key = Box::from(key.as_ref());
            let names = told.unchanged.is_valid(row).then(|| told.unchanged.value(row));
            let names = names.as_ref().and_then(|names| names.as_string_opt::<i32>());
            self.change(told.op.value(row), key, (at, row), names)?;
        }
        self.batches.push(own);
        Ok(())
    }

    /// Takes rows as they are, each in the place of whatever has its key.
    pub(crate) fn put(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let own = self.shape.fit(rows)?;
        self.name_keys(&own)?;
        let at = self.batches.len();
        let keys = self.keys.of(&own, &self.shape)?;
        let keys = keys.iter().enumerate();
        self.last.extend(keys.map(|(row, key)| (Key::from(key.as_ref()), Last::Said((at, row)))));
        self.batches.push(own);
        Ok(())
    }

    /// Forgets the rows that a batch of the table, as it was, has just so.
    pub(crate) fn forget_same(&mut self, was: &RecordBatch) -> Result<(), Error> {
        let (mut keys, mut before, mut now) = (Vec::new(), Vec::new(), Vec::new());
        for (row, key) in self.keys.of(was, &self.shape)?.iter().enumerate() {
            if let Some(Last::Said(spot)) = self.last.get(key.as_ref()) {
                before.push((0, row));
                now.push(*spot);
                keys.push(Key::from(key.as_ref()));
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let converter = self.shape.whole_rows()?;
        let before = converter.convert_columns(&gather(&[was], &before)?)?;
        let own: Vec<&RecordBatch> = self.batches.iter().collect();
        let now = converter.convert_columns(&gather(&own, &now)?)?;
        for (key, (before, now)) in keys.into_iter().zip(before.iter().zip(now.iter())) {
            if before == now {
                self.last.remove(&key);
            }
        }
        Ok(())
    }

    fn name_keys(&mut self, own: &RecordBatch) -> Result<(), Error> {
        let first = self.keys.first(self.shape.schema());
        if let (Some(firsts), Some(first)) = (&mut self.firsts, first) {
            let values = cast(own.column(first), &DataType::Int64)?;
            firsts.extend(values.as_primitive::<Int64Type>().iter().flatten());
        }
        Ok(())
    }

    /// How many rows are named.
    pub(crate) fn len(&self) -> usize {
        self.last.len()
    }

    fn change(
        &mut self,
        op: &str,
        key: Key,
        spot: Spot,
        unchanged: Option<&StringArray>,
    ) -> Result<(), Error> {
        match op {
            "gap" => {
                let why = "changes of it were not written for a time".to_owned();
                return Err(Error::CopyAnew { table: self.shape.table().to_owned(), why });
            }
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
                let mut last = Last::Said(spot);
                if let Some(names) = unchanged {
                    let mut values = vec![Value::Said(spot); self.shape.schema().fields().len()];
                    // A row whose key changes is one that goes and one that comes directly behind it.
                    let (source, before) = match self.went.take().filter(|_| op == "insert") {
                        Some((went, before)) => (went, before),
                        None => (key.clone(), self.last.get(&key).cloned()),
                    };
                    for name in names.iter().flatten() {
                        let Ok(column) = self.shape.schema().index_of(name) else { continue };
                        let said = before.as_ref().and_then(|before| before.value(column));
                        if let Some(value) = values.get_mut(column) {
                            *value = said.unwrap_or_else(|| Value::Before(source.clone()));
                        }
                    }
                    last = Last::Row(values);
                }
                self.went = None;
                self.last.insert(key, last);
            }
        }
        Ok(())
    }

    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty() && !self.truncated
    }

    /// Whether every row of the table as it was goes.
    pub(crate) fn truncates(&self) -> bool {
        self.truncated
    }

    /// Whether a file of the table, as it was, can have a row of a key that changes.
    pub(crate) fn may_concern(&self, part: &Part) -> bool {
        let schema = self.shape.schema();
        let bounds = self.keys.first(schema).and_then(|first| part.bounds(schema.field(first).name()));
        match (&self.firsts, bounds) {
            (Some(firsts), Some((least, most))) => firsts.range(least..=most).next().is_some(),
            _ => true,
        }
    }

    /// The names of the columns that identify a row.
    pub(crate) fn key_names(&self) -> Vec<&str> {
        let schema = self.shape.schema();
        self.keys.columns.iter().map(|column| schema.field(*column).name().as_str()).collect()
    }

    /// Which rows of a batch of the table, as it was, stay; nothing where all do. Columns that identify a row are enough.
    pub(crate) fn staying(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>, Error> {
        let keys = self.keys.of(batch, &self.shape)?;
        let stays: Vec<bool> = keys.iter().map(|key| !self.last.contains_key(key.as_ref())).collect();
        Ok(stays.contains(&false).then(|| stays.into()))
    }

    /// The keys of rows of the table, as it was, whose values are needed.
    pub(crate) fn needed(&self) -> Needed<'_> {
        let rows = self.last.values().filter_map(|last| match last {
            Last::Row(values) => Some(values),
            Last::Gone | Last::Said(_) => None,
        });
        let keys = rows.flatten().filter_map(|value| match value {
            Value::Before(key) => Some(key.as_ref()),
            Value::Said(_) => None,
        });
        Needed { fold: self, keys: keys.collect() }
    }

    /// The rows as they are in the end. `before` are batches of the table as it was that hold every row whose values
    /// are needed.
    pub(crate) fn rows(&self, before: &[RecordBatch]) -> Result<RecordBatch, Error> {
        let rows: Vec<&Last> = self.last.values().filter(|last| !matches!(last, Last::Gone)).collect();
        let needed = self.needed().keys;
        let mut found: HashMap<Key, Spot, RandomState> = HashMap::default();
        for (at, batch) in before.iter().enumerate() {
            for (row, key) in self.keys.of(batch, &self.shape)?.iter().enumerate() {
                if needed.contains(key.as_ref()) {
                    found.insert(key.as_ref().into(), (self.batches.len() + at, row));
                }
            }
        }
        let lost = || Error::Strange("a value that was not said again is nowhere in the lake".to_owned());
        let mut columns = Vec::new();
        let schema = self.shape.schema();
        for column in 0..schema.fields().len() {
            let all = self.batches.iter().chain(before);
            let arrays: Vec<&dyn Array> = all.map(|batch| batch.column(column).as_ref()).collect();
            let spots = rows.iter().map(|last| match last.value(column) {
                Some(Value::Said(spot)) => Ok(spot),
                Some(Value::Before(key)) => found.get(&key).copied().ok_or_else(lost),
                None => Err(lost()),
            });
            let spots = spots.collect::<Result<Vec<_>, _>>()?;
            columns.push(if spots.is_empty() {
                deltalake::arrow::array::new_empty_array(schema.field(column).data_type())
            } else {
                interleave(&arrays, &spots)?
            });
        }
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

/// See [`Fold::needed`].
pub(crate) struct Needed<'f> {
    fold: &'f Fold,
    keys: HashSet<&'f [u8], RandomState>,
}

impl Needed<'_> {
    /// Those rows of a batch of the table; nothing where there is none.
    pub(crate) fn of(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>, Error> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let keys = self.fold.keys.of(batch, &self.fold.shape)?;
        let are_needed: Vec<bool> = keys.iter().map(|key| self.keys.contains(key.as_ref())).collect();
        if !are_needed.contains(&true) {
            return Ok(None);
        }
        Ok(Some(only(batch.clone(), &are_needed.into())?))
    }
}

/// These rows of a batch, which is not copied where they are all.
pub(crate) fn only(batch: RecordBatch, rows: &BooleanArray) -> Result<RecordBatch, Error> {
    if rows.true_count() == batch.num_rows() { Ok(batch) } else { Ok(filter_record_batch(&batch, rows)?) }
}

/// Rows of batches, column by column.
fn gather(batches: &[&RecordBatch], spots: &[Spot]) -> Result<Vec<ArrayRef>, Error> {
    let columns = batches.first().map_or(0, |batch| batch.num_columns());
    let gathered = (0..columns).map(|column| {
        let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        Ok(interleave(&arrays, spots)?)
    });
    gathered.collect()
}

/// The columns of changes that say what happened.
struct Told {
    op: StringArray,
    lsn: Int64Array,
    xid: Int64Array,
    unchanged: ListArray,
}

impl Told {
    fn of(batch: &RecordBatch) -> Result<Self, Error> {
        let column = |name| batch.column_by_name(name);
        let told = || {
            Some(Self {
                op: column(OP)?.as_string_opt::<i32>()?.clone(),
                lsn: column(LSN)?.as_primitive_opt::<Int64Type>()?.clone(),
                xid: column(XID)?.as_primitive_opt::<Int64Type>()?.clone(),
                unchanged: column(UNCHANGED)?.as_list_opt::<i32>()?.clone(),
            })
        };
        told().ok_or_else(|| Error::Strange("a table of changes that does not say what happened".to_owned()))
    }
}
