//! The changes of a table as rows of `<table>__changes`.
//!
//! Before the table's own columns stand those that say what happened. A change of a row's identity is two rows, one
//! directly after the other: the old one goes, the new one comes.

use std::sync::Arc;

use deltalake::arrow::array::{
    Int64Builder, ListBuilder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::{ArrayType, DataType, StructField};

use crate::cells::Columns;
use crate::change::{Cell, Kind, Relation, Row, Transaction};
use crate::{Error, Lsn, forms};

/// What happened: `insert`, `update`, `delete` or `truncate`; or `gap`, where changes were not written.
pub(crate) const OP: &str = "_op";
/// Where the transaction's commit ends in the source's log.
pub const LSN: &str = "_lsn";
/// The place within the transaction.
pub const ORDER: &str = "_order";
/// The transaction's number in the source.
pub(crate) const XID: &str = "_xid";
/// When it was committed.
pub(crate) const COMMITTED_AT: &str = "_committed_at";
/// Of a gap: where the first transaction ended that was not written; the last is at [`LSN`] or before.
const FROM: &str = "_from_lsn";
/// Columns whose value is that of before, and was too long to be said again.
pub(crate) const UNCHANGED: &str = "_unchanged_columns";

/// All of these.
pub(crate) const FIXED: [&str; 7] = [OP, LSN, ORDER, XID, COMMITTED_AT, FROM, UNCHANGED];

/// The columns of a table of changes that say what happened.
pub(crate) fn fixed() -> Vec<StructField> {
    let names = DataType::Array(Box::new(ArrayType::new(DataType::STRING, false)));
    vec![
        StructField::not_null(OP, DataType::STRING),
        StructField::not_null(LSN, DataType::LONG),
        StructField::not_null(ORDER, DataType::LONG),
        StructField::not_null(XID, DataType::LONG),
        StructField::not_null(COMMITTED_AT, DataType::TIMESTAMP),
        StructField::nullable(FROM, DataType::LONG),
        StructField::nullable(UNCHANGED, names),
    ]
}

/// The columns of a table of changes.
pub(crate) fn fields(relation: &Relation) -> Vec<StructField> {
    fixed().into_iter().chain(forms::fields(relation)).collect()
}

/// The part of a table's columns that rows of this relation have. A file says by it how the source's table was declared:
/// what is not in the file was not in the table.
pub(crate) fn part(lake: &Schema, relation: &Relation) -> Result<SchemaRef, Error> {
    let names = FIXED.into_iter().chain(relation.columns.iter().map(|column| column.name.as_str()));
    let fields = names.map(|name| Ok(lake.field_with_name(name)?.clone()));
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, Error>>()?)))
}

/// Rows under way.
pub(crate) struct Rows {
    relation: Arc<Relation>,
    schema: SchemaRef,
    op: StringBuilder,
    lsn: Int64Builder,
    order: Int64Builder,
    xid: Int64Builder,
    committed_at: TimestampMicrosecondBuilder,
    from: Int64Builder,
    unchanged: ListBuilder<StringBuilder>,
    columns: Columns,
}

impl Rows {
    /// None yet; `lake` are the columns of the table that they are for.
    pub(crate) fn new(relation: Arc<Relation>, lake: &Schema) -> Result<Self, Error> {
        let schema = part(lake, &relation)?;
        let unchanged = ListBuilder::new(StringBuilder::new());
        let unchanged = match schema.field_with_name(UNCHANGED)?.data_type() {
            deltalake::arrow::datatypes::DataType::List(field) => unchanged.with_field(field.clone()),
            _ => unchanged,
        };
        Ok(Self {
            columns: Columns::of(&relation, &schema)?,
            relation,
            schema,
            op: StringBuilder::new(),
            lsn: Int64Builder::new(),
            order: Int64Builder::new(),
            xid: Int64Builder::new(),
            committed_at: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            from: Int64Builder::new(),
            unchanged,
        })
    }

    /// A row that says that transactions were not written: those that ended from here to there.
    pub(crate) fn gap(&mut self, from: Lsn, to: Lsn) -> Result<(), Error> {
        let at = jiff::Timestamp::now();
        let of = Transaction { xid: 0, end: to, at, changes: Vec::new() };
        self.row("gap", &of, 0, None, Some(from))
    }

    /// Takes the change at a place of its transaction, of which it has two.
    pub(crate) fn push(&mut self, of: &Transaction, place: usize, kind: &Kind) -> Result<(), Error> {
        let order = place * 2;
        match kind {
            Kind::Insert(row) => self.row("insert", of, order, Some(row), None),
            Kind::Delete(row) => self.row("delete", of, order, Some(row), None),
            Kind::Truncate => self.row("truncate", of, order, None, None),
            Kind::Update { old: None, new } => self.row("update", of, order, Some(new), None),
            Kind::Update { old: Some(old), new } => {
                let new = &self.whole(old, new);
                if self.is_another(old, new) {
                    self.row("delete", of, order, Some(old), None)?;
                    self.row("insert", of, order + 1, Some(new), None)
                } else {
                    self.row("update", of, order, Some(new), None)
                }
            }
        }
    }

    /// The new row, with what was not said again where the whole old one is known.
    fn whole(&self, old: &Row, new: &Row) -> Row {
        let is_known = self.relation.columns.iter().all(|column| column.is_key);
        let cells = old.iter().zip(new);
        cells.map(|(old, new)| if is_known && *new == Cell::Unchanged { old } else { new }).cloned().collect()
    }

    /// Whether an update changed what identifies the row.
    fn is_another(&self, old: &Row, new: &Row) -> bool {
        let columns = self.relation.columns.iter().zip(old.iter().zip(new));
        columns
            .filter(|(column, _)| column.is_key)
            .any(|(_, (old, new))| *new != Cell::Unchanged && old != new)
    }

    fn row(
        &mut self,
        op: &str,
        of: &Transaction,
        order: usize,
        row: Option<&Row>,
        from: Option<Lsn>,
    ) -> Result<(), Error> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.op.append_value(op);
        self.lsn.append_value(number(of.end.into()));
        self.order.append_value(i64::try_from(order).unwrap_or(i64::MAX));
        self.xid.append_value(i64::from(of.xid));
        self.committed_at.append_value(of.at.as_microsecond());
        self.from.append_option(from.map(|from| number(from.into())));
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

    pub(crate) fn finish(mut self) -> Result<RecordBatch, Error> {
        let mut columns: Vec<deltalake::arrow::array::ArrayRef> = vec![
            Arc::new(self.op.finish()),
            Arc::new(self.lsn.finish()),
            Arc::new(self.order.finish()),
            Arc::new(self.xid.finish()),
            Arc::new(self.committed_at.finish()),
            Arc::new(self.from.finish()),
            Arc::new(self.unchanged.finish()),
        ];
        columns.extend(self.columns.finish()?);
        Ok(RecordBatch::try_new(self.schema, columns)?)
    }
}
