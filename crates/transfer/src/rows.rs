//! The changes of a table as rows of `<table>__changes`.
//!
//! Before the table's own columns stand those that say what happened. A change of a row's identity is two rows, one
//! directly after the other: the old one goes, the new one comes.

use std::sync::Arc;

use deltalake::arrow::array::{
    Int64Builder, ListBuilder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::kernel::{ArrayType, DataType, StructField};

use crate::Error;
use crate::cells::{Cells, form};
use crate::change::{Cell, Kind, Relation, Row, Transaction};

/// What happened: `insert`, `update`, `delete` or `truncate`.
pub(crate) const OP: &str = "_op";
/// Where the transaction's commit ends in the source's log.
pub(crate) const LSN: &str = "_lsn";
/// The place within the transaction.
pub(crate) const ORDER: &str = "_order";
/// The transaction's number in the source.
pub(crate) const XID: &str = "_xid";
/// When it was committed.
const COMMITTED_AT: &str = "_committed_at";
/// Columns whose value is that of before, and was too long to be said again.
pub(crate) const UNCHANGED: &str = "_unchanged_columns";

/// The columns of a table of changes.
pub(crate) fn fields(relation: &Relation) -> Vec<StructField> {
    let names = DataType::Array(Box::new(ArrayType::new(DataType::STRING, false)));
    let mut fields = vec![
        StructField::not_null(OP, DataType::STRING),
        StructField::not_null(LSN, DataType::LONG),
        StructField::not_null(ORDER, DataType::LONG),
        StructField::not_null(XID, DataType::LONG),
        StructField::not_null(COMMITTED_AT, DataType::TIMESTAMP),
        StructField::nullable(UNCHANGED, names),
    ];
    let own = relation.columns.iter();
    fields.extend(
        own.map(|column| StructField::nullable(column.name.clone(), form(column.type_id, column.modifier))),
    );
    fields
}

/// Rows under way.
pub(crate) struct Rows {
    relation: Arc<Relation>,
    op: StringBuilder,
    lsn: Int64Builder,
    order: Int64Builder,
    xid: Int64Builder,
    committed_at: TimestampMicrosecondBuilder,
    unchanged: ListBuilder<StringBuilder>,
    cells: Vec<Cells>,
}

impl Rows {
    pub(crate) fn new(relation: Arc<Relation>, schema: &SchemaRef) -> Self {
        let names = schema.field_with_name(UNCHANGED).map(|field| field.data_type().clone());
        let unchanged = ListBuilder::new(StringBuilder::new());
        let unchanged = match names {
            Ok(deltalake::arrow::datatypes::DataType::List(field)) => unchanged.with_field(field),
            _ => unchanged,
        };
        let cells = relation.columns.iter();
        let cells = cells.map(|column| Cells::of(&form(column.type_id, column.modifier))).collect();
        Self {
            relation,
            op: StringBuilder::new(),
            lsn: Int64Builder::new(),
            order: Int64Builder::new(),
            xid: Int64Builder::new(),
            committed_at: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            unchanged,
            cells,
        }
    }

    /// Takes a change; answers how many rows it made.
    pub(crate) fn push(&mut self, of: &Transaction, order: usize, kind: &Kind) -> Result<usize, Error> {
        match kind {
            Kind::Insert(row) => self.row("insert", of, order, Some(row))?,
            Kind::Delete(row) => self.row("delete", of, order, Some(row))?,
            Kind::Truncate => self.row("truncate", of, order, None)?,
            Kind::Update { old, new } => match old.as_ref().filter(|old| self.is_another(old, new)) {
                Some(old) => {
                    self.row("delete", of, order, Some(old))?;
                    self.row("insert", of, order + 1, Some(new))?;
                    return Ok(2);
                }
                None => self.row("update", of, order, Some(new))?,
            },
        }
        Ok(1)
    }

    /// Whether an update changed what identifies the row.
    fn is_another(&self, old: &Row, new: &Row) -> bool {
        let columns = self.relation.columns.iter().zip(old.iter().zip(new));
        columns
            .filter(|(column, _)| column.is_key)
            .any(|(_, (old, new))| *new != Cell::Unchanged && old != new)
    }

    fn row(&mut self, op: &str, of: &Transaction, order: usize, row: Option<&Row>) -> Result<(), Error> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.op.append_value(op);
        self.lsn.append_value(number(of.end.into()));
        self.order.append_value(i64::try_from(order).unwrap_or(i64::MAX));
        self.xid.append_value(i64::from(of.xid));
        self.committed_at.append_value(of.at.as_microsecond());
        let mut any_unchanged = false;
        for (at, (column, cells)) in self.relation.columns.iter().zip(&mut self.cells).enumerate() {
            let text = match row.and_then(|row| row.get(at)) {
                Some(Cell::Text(text)) => Some(text.as_ref()),
                Some(Cell::Unchanged) => {
                    self.unchanged.values().append_value(&column.name);
                    any_unchanged = true;
                    None
                }
                Some(Cell::Null) | None => None,
            };
            cells.push(text).map_err(|why| Error::Value {
                table: self.relation.full_name(),
                column: column.name.clone(),
                why,
            })?;
        }
        self.unchanged.append(any_unchanged);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.op.values_slice().is_empty()
    }

    pub(crate) fn finish(mut self, schema: SchemaRef) -> Result<RecordBatch, Error> {
        let mut columns: Vec<deltalake::arrow::array::ArrayRef> = vec![
            Arc::new(self.op.finish()),
            Arc::new(self.lsn.finish()),
            Arc::new(self.order.finish()),
            Arc::new(self.xid.finish()),
            Arc::new(self.committed_at.finish()),
            Arc::new(self.unchanged.finish()),
        ];
        columns.extend(self.cells.into_iter().map(Cells::finish));
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}
