//! Rows brought into the columns of a table that has more than they have, or wider ones.

use std::collections::HashMap;

use deltalake::arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use deltalake::arrow::compute::{CastOptions, cast_with_options, take};
use deltalake::arrow::datatypes::{DataType, Field, SchemaRef};
use deltalake::arrow::row::{RowConverter, SortField};

use crate::Error;
use crate::cells::Columns;
use crate::change::{Cell, Column, Relation};

/// The columns of a table.
#[derive(Clone)]
pub(crate) struct Shape {
    table: String,
    schema: SchemaRef,
    /// What rows have that are without a column: a value each; null where there is none.
    missing: HashMap<String, ArrayRef>,
}

impl Shape {
    pub(crate) fn new(table: String, schema: SchemaRef) -> Self {
        Self { table, schema, missing: HashMap::new() }
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What makes rows of it comparable, with all their values.
    pub(crate) fn whole_rows(&self) -> Result<RowConverter, Error> {
        let fields = self.schema.fields().iter();
        Ok(RowConverter::new(fields.map(|field| SortField::new(field.data_type().clone())).collect())?)
    }

    /// Rows that are without this column have this value there.
    pub(crate) fn with(mut self, column: &Column, text: &str) -> Result<Self, Error> {
        let relation = Relation {
            schema: String::new(),
            name: self.table.clone(),
            oid: 0,
            columns: vec![column.clone()],
            catalog: None,
        };
        let mut columns = Columns::of(&relation, &self.schema)?;
        columns.push(&relation, Some(&vec![Cell::Text(text.to_owned().into())]))?;
        self.missing.extend(columns.finish()?.pop().map(|value| (column.name.clone(), value)));
        Ok(self)
    }

    /// One of these columns of rows.
    pub(crate) fn column(&self, batch: &RecordBatch, field: &Field) -> Result<ArrayRef, Error> {
        let (name, wanted) = (field.name(), field.data_type());
        match (batch.column_by_name(name), self.missing.get(name)) {
            (Some(column), _) if column.data_type() == wanted => Ok(column.clone()),
            (Some(column), _) if can_grow(column.data_type(), wanted) => {
                let options = CastOptions { safe: false, ..CastOptions::default() };
                Ok(cast_with_options(column, wanted, &options)?)
            }
            (Some(column), _) => {
                let why = format!("its column `{name}` was {} and is {wanted}", column.data_type());
                Err(Error::CopyAnew { table: self.table.clone(), why })
            }
            (None, Some(value)) => Ok(take(value, &UInt32Array::from(vec![0; batch.num_rows()]), None)?),
            (None, None) => Ok(new_null_array(wanted, batch.num_rows())),
        }
    }

    /// The same rows with these columns; what else they have is left out.
    pub(crate) fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let columns = self.schema.fields().iter().map(|field| self.column(batch, field));
        Ok(RecordBatch::try_new(self.schema.clone(), columns.collect::<Result<_, Error>>()?)?)
    }
}

/// Whether every value of a type is one of another; the same in two ways of naming a list's elements, too.
fn can_grow(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::List(from), DataType::List(to)) => from.data_type() == to.data_type(),
        (DataType::Float32, DataType::Float64) | (DataType::Decimal128(..), DataType::Decimal128(..)) => true,
        _ => from.is_signed_integer() && to.is_signed_integer(),
    }
}
