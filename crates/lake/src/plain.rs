//! Batches in the types that are written and read everywhere: DataFusion itself reads texts and bytes as views.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::error::Result;

/// The same columns, without views.
pub(crate) fn schema(of: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = of.fields().iter().map(field).collect();
    Arc::new(Schema::new(fields))
}

fn field(of: &FieldRef) -> FieldRef {
    Arc::new(of.as_ref().clone().with_data_type(form(of.data_type())))
}

fn form(of: &DataType) -> DataType {
    match of {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(element) => DataType::List(field(element)),
        DataType::LargeList(element) => DataType::LargeList(field(element)),
        DataType::FixedSizeList(element, length) => DataType::FixedSizeList(field(element), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        other => other.clone(),
    }
}

/// The same rows, in the types of these columns.
pub(crate) fn as_columns(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch> {
    let both = batch.columns().iter().zip(columns.fields());
    let cast: Result<Vec<ArrayRef>> =
        both.map(|(column, field)| Ok(cast(column, field.data_type())?)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(columns.clone(), cast?, &options)?)
}
