//! The files of a table: Parquet, and what Delta's log says of each.

use std::collections::HashMap;

use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::Path;
use deltalake::arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch};
use deltalake::arrow::compute::{max, min};
use deltalake::arrow::datatypes::{
    DataType, Date32Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use deltalake::kernel::{Add, Remove};
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake::parquet::basic::Compression;
use deltalake::parquet::file::properties::WriterProperties;
use serde_json::{Map, Value, json};

use crate::{Error, moments};

/// A file that is a part of a table.
pub(crate) struct Part {
    pub(crate) path: Path,
    /// What takes it away.
    pub(crate) remove: Remove,
    /// What the log says of it.
    pub(crate) stats: Option<String>,
    /// Its size, bytes.
    pub(crate) bytes: u64,
}

impl Part {
    /// The least and the most of a column of whole numbers, days or moments, where the log says so; those of moments may
    /// be a millisecond wider.
    pub(crate) fn bounds(&self, column: &str) -> Option<(i64, i64)> {
        let stats = self.stats()?;
        let side = |name: &str| match stats.get(name)?.get(column)? {
            Value::String(text) => moments::heard(text),
            number => number.as_i64(),
        };
        Some((side("minValues")?, side("maxValues")?))
    }

    /// Whether a column has no value in some of its rows, as far as the log says.
    pub(crate) fn may_have_nulls(&self, column: &str) -> bool {
        let count = || self.stats()?.get("nullCount")?.get(column)?.as_u64();
        count() != Some(0)
    }

    /// How many rows it has, where the log says so.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.stats()?.get("numRecords")?.as_u64()
    }

    fn stats(&self) -> Option<Value> {
        serde_json::from_str(self.stats.as_deref()?).ok()
    }
}

/// A file under way. It has the columns that its rows have, which may be fewer than the table's: to a reader the others
/// are null.
pub(crate) struct File {
    writer: ArrowWriter<Vec<u8>>,
    stats: Stats,
}

impl File {
    pub(crate) fn new(schema: SchemaRef) -> Result<Self, Error> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties));
        Ok(Self { writer: writer.map_err(DeltaTableError::from)?, stats: Stats::default() })
    }

    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.stats.take(batch);
        Ok(self.writer.write(batch).map_err(DeltaTableError::from)?)
    }

    /// Its bytes, and what the log is to say of it; nothing where it has no row.
    pub(crate) fn finish(self) -> Result<Option<(Add, Bytes)>, Error> {
        if self.stats.rows == 0 {
            return Ok(None);
        }
        let bytes = Bytes::from(self.writer.into_inner().map_err(DeltaTableError::from)?);
        let add = Add {
            path: format!("part-{:032x}.parquet", rand::random::<u128>()),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            modification_time: jiff::Timestamp::now().as_millisecond(),
            data_change: true,
            stats: Some(self.stats.text()),
            partition_values: HashMap::new(),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        Ok(Some((add, bytes)))
    }
}

/// The rows of a file, with the columns that it has.
pub(crate) fn read(bytes: Bytes) -> Result<Vec<RecordBatch>, Error> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(DeltaTableError::from)?;
    let batches = reader.build().map_err(DeltaTableError::from)?;
    Ok(batches.collect::<Result<_, _>>()?)
}

/// The path of a file, as the log has it.
pub(crate) fn path(add: &Add) -> Path {
    Path::from(add.path.as_str())
}

/// What is said of a file so that readers can leave it out: bounds of whole numbers, days and moments. Where one is
/// infinite none are said, as that has no form there that every reader understands.
#[derive(Default)]
struct Stats {
    rows: usize,
    nulls: Map<String, Value>,
    bounds: HashMap<String, (DataType, i64, i64)>,
}

impl Stats {
    fn take(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let bounds = match field.data_type() {
                DataType::Int16 => bounds::<Int16Type>(column),
                DataType::Int32 => bounds::<Int32Type>(column),
                DataType::Int64 => bounds::<Int64Type>(column),
                DataType::Date32 => bounds::<Date32Type>(column),
                DataType::Timestamp(TimeUnit::Microsecond, _) => bounds::<TimestampMicrosecondType>(column),
                _ => continue,
            };
            let nulls = self.nulls.entry(field.name()).or_insert(json!(0));
            *nulls = json!(nulls.as_u64().unwrap_or_default() + column.null_count() as u64);
            if let Some((least, most)) = bounds {
                let of = || (field.data_type().clone(), least, most);
                let known = self.bounds.entry(field.name().clone()).or_insert_with(of);
                (known.1, known.2) = (known.1.min(least), known.2.max(most));
            }
        }
    }

    fn text(self) -> String {
        let (mut least, mut most) = (Map::new(), Map::new());
        for (name, (form, from, to)) in self.bounds {
            let said = |value, up| match &form {
                DataType::Date32 => moments::day_said(value).map(Value::from),
                DataType::Timestamp(_, zone) => {
                    moments::moment_said(value, up, zone.is_some()).map(Value::from)
                }
                _ => Some(json!(value)),
            };
            if let (Some(from), Some(to)) = (said(from, false), said(to, true)) {
                least.insert(name.clone(), from);
                most.insert(name, to);
            }
        }
        json!({
            "numRecords": self.rows,
            "minValues": least,
            "maxValues": most,
            "nullCount": self.nulls,
        })
        .to_string()
    }
}

fn bounds<T: ArrowPrimitiveType>(column: &dyn Array) -> Option<(i64, i64)>
where
    T::Native: Into<i64>,
{
    let column = column.as_primitive_opt::<T>()?;
    Some((min(column)?.into(), max(column)?.into()))
}
