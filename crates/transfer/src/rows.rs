//! The changes of a table as rows of `<table>__changes`.
//!
//! Before the table's own columns stand those that say what happened. A change of a row's identity is two rows, one
//! directly after the other: the old one goes, the new one comes.

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayBuilder, Int64Builder, ListBuilder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::kernel::{ArrayType, DataType, StructField};

use crate::Error;
use crate::cells::{self, Columns};
use crate::change::{Cell, Kind, Relation, Row, Transaction};

/// What happened: `insert`, `update`, `delete` or `truncate`.
pub(crate) const OP: &str = "_op";
/// Where the transaction's commit ends in the source's log.
pub const LSN: &str = "_lsn";
/// The place within the transaction.
pub const ORDER: &str = "_order";
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
    fields.extend(cells::fields(relation));
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
    columns: Columns,
}

impl Rows {
    pub(crate) fn new(relation: Arc<Relation>, schema: &SchemaRef) -> Self {
        let names = schema.field_with_name(UNCHANGED).map(|field| field.data_type().clone());
        let unchanged = ListBuilder::new(StringBuilder::new());
        let unchanged = match names {
            Ok(deltalake::arrow::datatypes::DataType::List(field)) => unchanged.with_field(field),
            _ => unchanged,
        };
        Self {
            columns: Columns::of(&relation),
            relation,
            op: StringBuilder::new(),
            lsn: Int64Builder::new(),
            order: Int64Builder::new(),
            xid: Int64Builder::new(),
            committed_at: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            unchanged,
        }
    }

    /// Takes the change at a place of its transaction, of which it has two.
    pub(crate) fn push(&mut self, of: &Transaction, place: usize, kind: &Kind) -> Result<(), Error> {
        let order = place * 2;
        match kind {
            Kind::Insert(row) => self.row("insert", of, order, Some(row)),
            Kind::Delete(row) => self.row("delete", of, order, Some(row)),
            Kind::Truncate => self.row("truncate", of, order, None),
            Kind::Update { old, new } => match old.as_ref().filter(|old| self.is_another(old, new)) {
                Some(old) => {
                    self.row("delete", of, order, Some(old))?;
                    self.row("insert", of, order + 1, Some(new))
                }
                None => self.row("update", of, order, Some(new)),
            },
        }
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
        self.columns.push(&self.relation, row)?;
        let cells = self.relation.columns.iter().zip(row.into_iter().flatten());
        let mut any_unchanged = false;
        for (column, _) in cells.filter(|(_, cell)| **cell == Cell::Unchanged) {
            self.unchanged.values().append_value(&column.name);
            any_unchanged = true;
        }
        self.unchanged.append(any_unchanged);
        Ok(())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.op.len()
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
        columns.extend(self.columns.finish());
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}
