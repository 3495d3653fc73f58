//! A table with the changes that are not merged into it yet.
//!
//! Changes come to `<table>__changes` within a second, and into `<table>` by a merge, every minute or so. A scan of the
//! table does in memory what the merge is going to do in files: rows whose keys the later changes name are left out, and
//! the rows that those changes make come beside. Where nothing is later the scan is the table's own.
//!
//! The table is opened before its changes, so whatever the one has the other has too, and both stay as they were when the
//! statement first named the table.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{
    SortColumn, cast, concat_batches, filter_record_batch, lexsort_to_indices, not, take_record_batch,
};
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TableProviderFilterPushDown, TableType, Volatility,
};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{col, lit};
use deltalake::DeltaTable;
use futures::TryStreamExt;
use transfer::later::{LSN, Later, ORDER, Since, keys};

use crate::plain::{self, as_columns};

/// What a change costs in memory beside its values, at most, bytes: its key, and where each value is.
const EACH: usize = 512;

/// See above.
#[derive(Debug)]
pub(crate) struct Fresh {
    table: DeltaTable,
    provider: Arc<dyn TableProvider>,
    keys: Vec<usize>,
    changes: Arc<dyn TableProvider>,
    since: Since,
}

impl Fresh {
    /// The table alone where it has no changes, or does not say what identifies its rows.
    pub(crate) async fn of(table: DeltaTable, changes: Option<DeltaTable>) -> Result<Arc<dyn TableProvider>> {
        let provider: Arc<dyn TableProvider> = table.table_provider().await?;
        let keys = keys(&table).map_err(external)?;
        let Some(changes) = changes.filter(|_| !keys.is_empty() && !is_stale()) else { return Ok(provider) };
        let Some(since) = Since::of(&table, &changes).await.map_err(external)? else { return Ok(provider) };
        let changes = changes.table_provider().await?;
        Ok(Arc::new(Self { table, provider, keys, changes, since }))
    }

    /// The columns of the table's files.
    fn columns(&self) -> Result<SchemaRef> {
        Ok(self.table.snapshot()?.snapshot().arrow_schema())
    }

    async fn later(&self, session: &dyn Session, memory: &MemoryReservation) -> Result<Later> {
        let mut later =
            Later::new(self.columns()?, self.keys.clone(), self.since.clone()).map_err(external)?;
        // Files without such changes are left out; of the others not every row is meant.
        let is_later = col(LSN).gt(lit(self.since.lsn));
        let plan = self.changes.scan(session, None, &[is_later], None).await?;
        let schema = plan.schema();
        let mut batches = Vec::new();
        let mut rows = execute_stream(plan, session.task_ctx())?;
        while let Some(batch) = rows.try_next().await? {
            let batch = behind(&batch, self.since.lsn)?;
            memory.try_grow(batch.get_array_memory_size() * 2 + batch.num_rows() * EACH)?;
            batches.push(batch);
        }
        let all = in_order(&concat_batches(&schema, &batches)?)?;
        later.take(as_columns(&all, &plain::schema(&all.schema()))?).map_err(external)?;
        Ok(later)
    }

    /// The rows that do not stay, as they were.
    async fn before(
        &self,
        session: &dyn Session,
        later: &Later,
        memory: &MemoryReservation,
    ) -> Result<Vec<RecordBatch>> {
        if !later.needs_before() || later.truncates() {
            return Ok(Vec::new());
        }
        let plan = self.provider.scan(session, None, &[], None).await?;
        let mut rows = execute_stream(plan, session.task_ctx())?;
        let mut before = Vec::new();
        while let Some(batch) = rows.try_next().await? {
            let stays = stays(later, &self.columns()?, &self.keys, |key| batch.column(key).clone())?;
            let batch = filter_record_batch(&batch, &not(&stays)?)?;
            if batch.num_rows() > 0 {
                memory.try_grow(batch.get_array_memory_size() + batch.num_rows() * EACH)?;
                before.push(as_columns(&batch, &self.columns()?)?);
            }
        }
        Ok(before)
    }
}

#[async_trait]
impl TableProvider for Fresh {
    fn schema(&self) -> SchemaRef {
        self.provider.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// What leaves out files, or rows, of the table does not do so with rows of later changes.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        use TableProviderFilterPushDown::{Exact, Inexact};
        let supported = self.provider.supports_filters_pushdown(filters)?;
        Ok(supported.into_iter().map(|one| if one == Exact { Inexact } else { one }).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let memory = MemoryConsumer::new("later changes").register(&session.runtime_env().memory_pool);
        let later = self.later(session, &memory).await?;
        if later.is_empty() {
            return self.provider.scan(session, projection, filters, limit).await;
        }
        let wanted: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema().fields().len()).collect(),
        };
        let before = self.before(session, &later, &memory).await?;
        let rows = later.rows(&before).map_err(external)?.project(&wanted)?;
        let mut with_keys = wanted.clone();
        with_keys.extend(self.keys.iter().filter(|key| !wanted.contains(key)));
        let table = self.provider.scan(session, Some(&with_keys), filters, None).await?;
        let places = self.keys.iter().filter_map(|key| with_keys.iter().position(|at| at == key));
        let names = table.schema();
        let arguments = places.map(|at| Arc::new(Column::new(names.field(at).name(), at)) as _);
        let arguments: Vec<Arc<dyn PhysicalExpr>> = arguments.collect();
        let truncates = later.truncates();
        let stays = Stays::new(Arc::new(later), self.columns()?, self.keys.clone(), memory);
        let config = session.config().options().clone();
        let stays = ScalarFunctionExpr::try_new(Arc::new(ScalarUDF::from(stays)), arguments, &names, config)?;
        let staying = FilterExecBuilder::new(Arc::new(stays), table);
        let staying = staying.apply_projection(Some((0..wanted.len()).collect()))?.build()?;
        let schema = staying.schema();
        let rows = as_columns(&rows, &schema)?;
        let rows = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?;
        if truncates {
            return Ok(rows);
        }
        UnionExec::try_new(vec![Arc::new(staying), rows])
    }
}

/// Whether a row of the table stays, asked with its keys.
#[derive(Clone)]
struct Stays {
    later: Arc<Later>,
    columns: SchemaRef,
    keys: Vec<usize>,
    signature: Signature,
    _memory: Arc<MemoryReservation>,
}

impl Stays {
    fn new(later: Arc<Later>, columns: SchemaRef, keys: Vec<usize>, memory: MemoryReservation) -> Self {
        let signature = Signature::any(keys.len(), Volatility::Immutable);
        Self { later, columns, keys, signature, _memory: Arc::new(memory) }
    }
}

impl std::fmt::Debug for Stays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stays").finish_non_exhaustive()
    }
}

/// Two are the same where they go by the same changes.
impl PartialEq for Stays {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.later, &other.later)
    }
}

impl Eq for Stays {}

impl Hash for Stays {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.later).cast::<u8>().hash(state);
    }
}

impl ScalarUDFImpl for Stays {
    fn name(&self) -> &'static str {
        "stays"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let keys = ColumnarValue::values_to_arrays(&arguments.args)?;
        let mut keys = keys.into_iter();
        let next = |_| keys.next().unwrap_or_else(|| Arc::new(BooleanArray::new_null(0)));
        let stays = stays(&self.later, &self.columns, &self.keys, next)?;
        Ok(ColumnarValue::Array(Arc::new(stays)))
    }
}

/// The answer of the changes, which know the columns of the files.
fn stays(
    later: &Later,
    columns: &SchemaRef,
    keys: &[usize],
    mut column: impl FnMut(usize) -> ArrayRef,
) -> Result<BooleanArray> {
    let keys: Result<Vec<ArrayRef>> =
        keys.iter().map(|key| Ok(cast(&column(*key), columns.field(*key).data_type())?)).collect();
    later.staying(&keys?).map_err(external)
}

/// The rows of changes that are behind a position.
fn behind(batch: &RecordBatch, lsn: i64) -> Result<RecordBatch> {
    let of = number(batch, LSN)?;
    let is_later: BooleanArray =
        of.as_primitive::<Int64Type>().values().iter().map(|of| Some(*of > lsn)).collect();
    Ok(filter_record_batch(batch, &is_later)?)
}

fn in_order(changes: &RecordBatch) -> Result<RecordBatch> {
    let by = |name| Ok::<_, DataFusionError>(SortColumn { values: number(changes, name)?, options: None });
    let order = lexsort_to_indices(&[by(LSN)?, by(ORDER)?], None)?;
    Ok(take_record_batch(changes, &order)?)
}

fn number(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let column = batch.column_by_name(name).filter(|column| *column.data_type() == DataType::Int64);
    column.cloned().ok_or_else(|| DataFusionError::Execution(format!("a table of changes without {name}")))
}

fn external(error: transfer::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A control of the tests: a table is what was merged.
fn is_stale() -> bool {
    fail::fail_point!("lake::fresh.stale", |_| true);
    false
}
