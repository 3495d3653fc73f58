//! The files of a table: Parquet, and what Delta's log says of each.
//!
//! A file is bounded by bytes and rows, and goes to where it is kept in parts, while it is made: what is held in memory
//! of one is a group of rows and two parts.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::Path;
use deltalake::arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch};
use deltalake::arrow::compute::{max, min};
use deltalake::arrow::datatypes::{
    DataType, Date32Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use deltalake::kernel::{Add, Remove};
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake::parquet::arrow::{ArrowWriter, ProjectionMask};
use deltalake::parquet::basic::Compression;
use deltalake::parquet::file::properties::WriterProperties;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::{Error, fail_point, moments};

/// A file has about so many bytes at most, unless one batch has more,
const FILE_BYTES: usize = 64 * 1024 * 1024;
/// and about so many rows.
const FILE_ROWS: usize = 1024 * 1024;
/// Bytes and rows of a group, which is held in memory until it is full.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
const GROUP_ROWS: usize = 256 * 1024;
/// Rows that are read at once.
const BATCH_ROWS: usize = 8 * 1024;
/// Bytes that are stored at once, and how many of these may be under way; a store like S3 takes none below 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
const PARTS: usize = 2;

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

/// Files under way, none of which is a part of the table yet.
pub(crate) struct Files {
    store: Arc<dyn ObjectStore>,
    open: Option<(File, BufWriter)>,
    written: Vec<Add>,
}

impl Files {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, open: None, written: Vec::new() }
    }

    /// Takes rows. Those of one file have the same columns: rows with others begin another.
    pub(crate) async fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.open.as_ref().is_some_and(|(file, _)| file.schema != batch.schema()) {
            self.close().await?;
        }
        let (mut file, mut upload) = match self.open.take() {
            Some(open) => open,
            None => {
                let file = File::new(batch.schema())?;
                let upload =
                    BufWriter::with_capacity(self.store.clone(), Path::from(file.path.as_str()), PART_BYTES);
                (file, upload.with_max_concurrency(PARTS))
            }
        };
        file.push(batch)?;
        let bytes = file.drain();
        if !bytes.is_empty() {
            upload.put(bytes).await.map_err(DeltaTableError::from)?;
        }
        let is_full = file.is_full();
        self.open = Some((file, upload));
        if is_full { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<(), Error> {
        let Some((file, mut upload)) = self.open.take() else { return Ok(()) };
        let (add, bytes) = file.finish()?;
        upload.put(bytes).await.map_err(DeltaTableError::from)?;
        upload.shutdown().await.map_err(DeltaTableError::from)?;
        fail_point!("transfer::lake.written");
        self.written.push(add);
        Ok(())
    }

    /// What the log is to say of all of them.
    pub(crate) async fn finish(mut self) -> Result<Vec<Add>, Error> {
        self.close().await?;
        Ok(self.written)
    }

    /// None of them will be a part of the table.
    pub(crate) async fn discard(mut self) {
        if let Some((_, mut upload)) = self.open.take() {
            // Nobody knows its name, and a store forgets by itself what never came to its end.
            let _ = upload.abort().await;
        }
        for add in &self.written {
            let _ = object_store::ObjectStoreExt::delete(&self.store, &Path::from(add.path.as_str())).await;
        }
    }
}

/// A file under way. It has the columns that its rows have, which may be fewer than the table's: to a reader the others
/// are null.
struct File {
    path: String,
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    stats: Stats,
}

impl File {
    fn new(schema: SchemaRef) -> Result<Self, Error> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties));
        Ok(Self {
            path: format!("part-{:032x}.parquet", rand::random::<u128>()),
            schema,
            writer: writer.map_err(DeltaTableError::from)?,
            stats: Stats::default(),
        })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.stats.take(batch);
        Ok(self.writer.write(batch).map_err(DeltaTableError::from)?)
    }

    fn is_full(&self) -> bool {
        let bytes = self.writer.bytes_written() + self.writer.in_progress_size();
        bytes >= FILE_BYTES || self.stats.rows >= FILE_ROWS
    }

    /// Those of its bytes that are known since it was asked last: the writer only counts what it has written.
    fn drain(&mut self) -> Bytes {
        std::mem::take(self.writer.inner_mut()).into()
    }

    /// The rest of its bytes, and what the log is to say of it.
    fn finish(mut self) -> Result<(Add, Bytes), Error> {
        self.writer.finish().map_err(DeltaTableError::from)?;
        let add = Add {
            path: self.path,
            size: i64::try_from(self.writer.bytes_written()).unwrap_or(i64::MAX),
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
        Ok((add, std::mem::take(self.writer.inner_mut()).into()))
    }
}

/// The rows of a file, with the columns that it has. They are read as they are asked for.
pub(crate) struct FileRows {
    path: Path,
    bytes: Bytes,
}

impl FileRows {
    pub(crate) fn new(path: Path, bytes: Bytes) -> Self {
        Self { path, bytes }
    }

    pub(crate) fn all(&self) -> Result<impl Iterator<Item = Result<RecordBatch, Error>>, Error> {
        self.batches(|_| ProjectionMask::all())
    }

    /// Those of these columns that it has, in as many batches.
    pub(crate) fn only(
        &self,
        columns: &[&str],
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Error>>, Error> {
        self.batches(|builder| ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()))
    }

    fn batches(
        &self,
        columns: impl FnOnce(&ParquetRecordBatchReaderBuilder<Bytes>) -> ProjectionMask,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Error>>, Error> {
        let path = self.path.clone();
        let damaged = move |error: &dyn std::error::Error| Error::Damaged { why: format!("{path}: {error}") };
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(self.bytes.clone()).map_err(|error| damaged(&error))?;
        let columns = columns(&builder);
        let batches = builder
            .with_projection(columns)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| damaged(&error))?;
        Ok(batches.map(move |batch| batch.map_err(|error| damaged(&error))))
    }
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
