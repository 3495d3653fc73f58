//! An answer as a file: what is written, as rows come.
//!
//! Text, CSV and PostgreSQL's binary form have the values that a `select` sends. Arrow and Parquet have them in their own
//! types. Of a Parquet file a group of rows is kept until it is whole, within the memory that all statements share.

use std::sync::Arc;

use arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::data::DataRow;
use pgwire::types::format::FormatOptions;

use crate::lines::{BINARY_BEGIN, BINARY_END, Lines, binary};
use crate::plain;

/// What a group of rows of a Parquet file may take in memory, bytes: some 100,000 rows, as readers like them. It counts
/// as memory of all statements; where there is less of that the groups are smaller.
const GROUP: usize = 16 << 20;
/// What is sent at once, bytes.
const PIECE: usize = 64 << 10;

/// How the rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// A row a line.
    Lines(Lines),
    /// PostgreSQL's own binary form.
    Binary,
    /// Arrow's stream of batches.
    Arrow,
    Parquet,
}

/// A file that is being written.
pub(crate) enum File {
    Lines(Arc<Vec<FieldInfo>>, Lines),
    Binary(Arc<Vec<FieldInfo>>),
    Arrow(Box<StreamWriter<Vec<u8>>>, SchemaRef),
    Parquet(Box<ArrowWriter<Vec<u8>>>, SchemaRef, MemoryReservation),
}

/// Parts of it, each to be sent as one.
pub(crate) type Pieces<'f> = Box<dyn Iterator<Item = PgWireResult<Bytes>> + Send + 'f>;

impl File {
    /// Of these columns; `memory` is for what is kept of it.
    pub(crate) fn new(
        form: &Form,
        schema: &SchemaRef,
        options: FormatOptions,
        memory: MemoryReservation,
    ) -> PgWireResult<Self> {
        let fields =
            |format| arrow_schema_to_pg_fields(schema, &format, Some(Arc::new(options))).map(Arc::new);
        let plain = plain::schema(schema);
        Ok(match form {
            Form::Lines(lines) => Self::Lines(fields(Format::UnifiedText)?, lines.clone()),
            Form::Binary => Self::Binary(fields(Format::UnifiedBinary)?),
            Form::Arrow => {
                let writer = StreamWriter::try_new(Vec::new(), &plain).map_err(failed)?;
                Self::Arrow(Box::new(writer), plain)
            }
            Form::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                let writer = ArrowWriter::try_new(Vec::new(), plain.clone(), Some(properties));
                Self::Parquet(Box::new(writer.map_err(failed)?), plain, memory)
            }
        })
    }

    /// Whether it is bytes rather than text, as a client is told.
    pub(crate) fn is_binary(&self) -> bool {
        !matches!(self, Self::Lines(..))
    }

    /// What comes before the first row.
    pub(crate) fn begin(&mut self) -> Pieces<'_> {
        match self {
            Self::Lines(fields, lines) if lines.header => {
                one(lines.names(fields.iter().map(FieldInfo::name)).into())
            }
            Self::Lines(..) => Box::new(std::iter::empty()),
            Self::Binary(_) => one(Bytes::from_static(BINARY_BEGIN)),
            Self::Arrow(writer, _) => written(writer.get_mut()),
            Self::Parquet(writer, ..) => written(writer.inner_mut()),
        }
    }

    /// What these rows add to it.
    pub(crate) fn rows(&mut self, batch: RecordBatch) -> PgWireResult<Pieces<'_>> {
        Ok(match self {
            Self::Lines(fields, lines) => {
                let rows = encode_recordbatch(fields.clone(), batch);
                Box::new(rows.map(|row: PgWireResult<DataRow>| Ok(lines.row(&row?).into())))
            }
            Self::Binary(fields) => {
                let rows = encode_recordbatch(fields.clone(), batch);
                Box::new(rows.map(|row: PgWireResult<DataRow>| Ok(binary(&row?).into())))
            }
            Self::Arrow(writer, schema) => {
                let batch = plain::as_columns(&batch, schema).map_err(failed)?;
                writer.write(&batch).map_err(failed)?;
                written(writer.get_mut())
            }
            Self::Parquet(writer, schema, memory) => {
                let batch = plain::as_columns(&batch, schema).map_err(failed)?;
                writer.write(&batch).map_err(failed)?;
                let held = writer.memory_size();
                // Where there is no memory for a large group a small one does. What was kept of it is given back with
                // the next rows, when it is sent.
                if memory.try_resize(held).is_err() || held > GROUP {
                    writer.flush().map_err(failed)?;
                }
                written(writer.inner_mut())
            }
        })
    }

    /// What comes behind the last row.
    pub(crate) fn end(&mut self) -> PgWireResult<Pieces<'_>> {
        Ok(match self {
            Self::Lines(..) => Box::new(std::iter::empty()),
            Self::Binary(_) => one(Bytes::from_static(BINARY_END)),
            Self::Arrow(writer, _) => {
                writer.finish().map_err(failed)?;
                written(writer.get_mut())
            }
            Self::Parquet(writer, ..) => {
                writer.finish().map_err(failed)?;
                written(writer.inner_mut())
            }
        })
    }
}

fn one(piece: Bytes) -> Pieces<'static> {
    Box::new(std::iter::once(Ok(piece)))
}

/// What was written and not sent yet.
fn written(buffer: &mut Vec<u8>) -> Pieces<'static> {
    let mut rest = Bytes::from(std::mem::take(buffer));
    Box::new(std::iter::from_fn(move || {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some(Ok(piece))
    }))
}

fn failed(error: impl Into<DataFusionError>) -> PgWireError {
    PgWireError::ApiError(Box::new(error.into()))
}
