//! A copy of one table: ranges of its pages, each read by one of several sessions that see the same moment, and written
//! to files of its own.
//!
//! The session that made the snapshot holds the table's lock, and so what the others see, for as long as it lives. They
//! import its snapshot and may break: what one had half read counts for nothing, and another reads it again, in the end
//! the first one. A range is one of page numbers and goes through the partitioned table itself, so that it has these
//! pages of every partition: only the table has to be readable, and together all ranges read every page once.

use std::collections::VecDeque;
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::SchemaRef;
use deltalake::kernel::Add;
use deltalake::logstore::ObjectStoreRef;
use futures::TryStreamExt;
use futures::future::{Either, select, try_join_all};
use tokio::runtime::Handle;
use tokio_postgres::{Client, CopyOutStream};

use crate::binary::{Rows, Wire};
use crate::change::Relation;
use crate::files::Files;
use crate::lake::LakeTable;
use crate::source::{Snapshot, named, quoted};
use crate::way::Way;
use crate::{Error, fail_point};

/// Bytes of the server's that one session reads at once: at least so many, and more of what is larger, up to so many.
const LEAST: u64 = 64 * 1024 * 1024;
const MOST: u64 = 512 * 1024 * 1024;
/// A table between these is read in so many ranges.
const RANGES: u64 = 64;
/// A table of more partitions than these is read by one session: each takes a lock of every partition and index, of
/// which a server has few.
const PARTITIONS: i64 = 256;

/// Is told how many rows of a copy there are so far, and how many there may be, where the server has an idea of that.
pub type Tell = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// Pages from one number to before another; all where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Range {
    from: Option<u64>,
    to: Option<u64>,
}

/// What the server says of a table that is to be copied.
struct Size {
    /// See [`Reader::from`].
    from: String,
    ranges: VecDeque<Range>,
    expected: Option<u64>,
}

/// The rows that a query answers with, some at a time.
pub(crate) struct Reading {
    messages: Pin<Box<CopyOutStream>>,
    rows: Rows,
    is_over: bool,
}

impl Reading {
    fn new(messages: CopyOutStream, rows: Rows) -> Self {
        Self { messages: Box::pin(messages), rows, is_over: false }
    }

    /// The next of them, of which there may be none; nothing behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        while !self.is_over {
            let message = match self.messages.try_next().await {
                Err(_) if is_careless() => None,
                message => message?,
            };
            self.is_over = message.is_none();
            if let Some(message) = &message {
                self.rows.take(message)?;
            }
            if self.is_over || self.rows.is_full() {
                return self.rows.batch().map(Some);
            }
        }
        if self.rows.is_whole() || is_careless() {
            Ok(None)
        } else {
            Err(Error::Strange("a copy without an end".to_owned()))
        }
    }
}

/// What every reader of the table knows.
#[derive(Clone)]
struct Reader {
    relation: Arc<Relation>,
    /// As SQL says which table is meant: without those that inherit from it, which are tables of their own.
    from: String,
    /// What nobody reads yet.
    ranges: Arc<Mutex<VecDeque<Range>>>,
    schema: SchemaRef,
    wires: Arc<[Wire]>,
    store: ObjectStoreRef,
    count: Arc<Count>,
    /// Gone when nobody waits for the copy any more.
    wanted: Weak<()>,
}

struct Count {
    rows: AtomicU64,
    expected: Option<u64>,
    tell: Tell,
}

impl Count {
    fn add(&self, rows: u64) {
        let before = self.rows.fetch_add(rows, Ordering::Relaxed);
        (self.tell)(before + rows, self.expected);
    }

    fn take_back(&self, rows: u64) {
        self.rows.fetch_sub(rows, Ordering::Relaxed);
    }
}

impl Snapshot<'_> {
    /// Writes a table's rows to files that are no part of the lake's yet; answers how many rows these have.
    pub(crate) async fn copy(
        &self,
        relation: &Relation,
        lake: &LakeTable,
        tell: Tell,
    ) -> Result<(Vec<Add>, u64), Error> {
        let Size { from, ranges, expected } = self.size(relation).await?;
        let schema = lake.schema()?;
        let wires = self.wires(relation, &schema, &from).await?;
        let wanted = Arc::new(());
        let count = Arc::new(Count { rows: AtomicU64::new(0), expected, tell });
        let helpers = if ranges.len() > 1 { sessions().min(ranges.len()) } else { 0 };
        let reader = Reader {
            relation: Arc::new(relation.clone()),
            from,
            ranges: Arc::new(Mutex::new(ranges)),
            schema,
            wires,
            store: lake.store(),
            count: count.clone(),
            wanted: Arc::downgrade(&wanted),
        };
        let mut come: Vec<Add> = Vec::new();
        if helpers > 0 {
            let snapshot = self.exported.get_or_try_init(|| self.export()).await?;
            let way = self.way.called("stead transfer copy");
            let helped = (0..helpers).map(|_| aside(reader.clone().help(way.clone(), snapshot.clone())));
            come.extend(try_join_all(helped).await?.into_iter().flatten());
        }
        // What is left no other session could read.
        while let Some(range) = reader.next() {
            let rows = self.client().copy_out(&reader.query(range)).await?;
            come.extend(aside(reader.clone().write(rows)).await?);
        }
        // As long as this session lives, nobody can have emptied the table since the snapshot was made.
        self.client().check_connection().await?;
        Ok((come, count.rows.load(Ordering::Relaxed)))
    }

    async fn export(&self) -> Result<String, Error> {
        Ok(self.client().query_one("select pg_export_snapshot()", &[]).await?.get(0))
    }

    async fn size(&self, relation: &Relation) -> Result<Size, Error> {
        let size = "with leaf as (
                select l.*, pg_relation_size(l.oid) as bytes, a.amname
                from pg_class c
                cross join lateral (
                    select c.oid as relid where c.relkind <> 'p'
                    union all select t.relid from pg_partition_tree(c.oid) t where c.relkind = 'p' and t.isleaf) t
                join pg_class l on l.oid = t.relid
                left join pg_am a on a.oid = l.relam
                where c.oid = $1)
            select (select relkind = 'p' from pg_class where oid = $1),
                   coalesce(bool_and(relkind = 'r' and amname = 'heap') and count(*) <= $2, false),
                   coalesce(max(bytes), 0), coalesce(sum(bytes), 0)::bigint,
                   current_setting('block_size')::bigint,
                   case when bool_and(reltuples >= 0) then sum(
                       case when relpages > 0 then reltuples::float8 / relpages * bytes else 0 end
                   ) / current_setting('block_size')::bigint end
            from leaf";
        let row = self.client().query_one(size, &[&relation.oid, &PARTITIONS]).await?;
        let name = named(relation);
        let from = if row.get(0) { name } else { format!("only {name}") };
        let bytes = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
        let ranges = if row.get(1) {
            ranges(bytes(2), bytes(3), bytes(4).max(1))
        } else {
            vec![Range::default()].into()
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate that is never negative"
        )]
        let expected = row.get::<_, Option<f64>>(5).map(|rows| rows as u64);
        Ok(Size { from, ranges, expected })
    }

    /// The rows of a table of which a condition is true, with these columns.
    pub(crate) async fn rows(
        &self,
        relation: &Relation,
        schema: SchemaRef,
        condition: &str,
    ) -> Result<Reading, Error> {
        let Size { from, .. } = self.size(relation).await?;
        let wires = self.wires(relation, &schema, &from).await?;
        let copy = asking(relation, &wires, &from, vec![condition.to_owned()]);
        let messages = self.client().copy_out(copy.as_str()).await?;
        Ok(Reading::new(messages, Rows::new(Arc::new(relation.clone()), schema, wires)?))
    }

    /// How the columns come.
    async fn wires(&self, relation: &Relation, schema: &SchemaRef, from: &str) -> Result<Arc<[Wire]>, Error> {
        let columns: Vec<_> = relation.columns.iter().map(|column| quoted(&column.name)).collect();
        let query = format!("select {} from {from}", columns.join(", "));
        let query = self.client().prepare(&query).await?;
        let wires = relation.columns.iter().zip(query.columns()).map(|(column, answered)| {
            Ok(Wire::of(answered.type_(), schema.field_with_name(&column.name)?.data_type()))
        });
        wires.collect()
    }
}

impl Reader {
    /// Reads ranges in a session of its own, until there are none or the session breaks.
    async fn help(self, way: Way, snapshot: String) -> Result<Vec<Add>, Error> {
        let (client, connection) = match way.connect().await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::warn!(%error, table = self.from, "a copy goes on without one of its sessions");
                return Ok(Vec::new());
            }
        };
        // What comes is received on the thread that reads it: another would be woken for each 8 KiB.
        match select(pin!(self.read_ranges(client, snapshot)), connection).await {
            Either::Left((Ok(come), connection)) => {
                // It says good-bye.
                let _ = connection.await;
                Ok(come)
            }
            Either::Left((Err(error), _)) => Err(error),
            Either::Right((_, reads)) => reads.await,
        }
    }

    async fn read_ranges(&self, client: Client, snapshot: String) -> Result<Vec<Add>, Error> {
        let mut come = Vec::new();
        // Whoever waits to declare the table otherwise stands before this lock, and behind that of the first session:
        // none of the three would ever go on.
        let begin = format!(
            "begin isolation level repeatable read read only; set transaction snapshot '{snapshot}';
             set local lock_timeout = '1s'; set local enable_seqscan = off;
             lock table {} in access share mode",
            self.from
        );
        if let Err(error) = client.batch_execute(&begin).await {
            tracing::warn!(%error, table = self.from, "a copy goes on without one of its sessions");
            return Ok(come);
        }
        while let Some(range) = self.next() {
            let read = async { self.clone().write(client.copy_out(&self.query(range)).await?).await };
            match read.await {
                Ok(adds) => come.extend(adds),
                Err(Error::Source(error)) => {
                    tracing::warn!(%error, table = self.from, "a session of a copy broke; another reads its part");
                    self.ranges.lock().unwrap_or_else(PoisonError::into_inner).push_back(range);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(come)
    }

    fn next(&self) -> Option<Range> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn query(&self, range: Range) -> String {
        let first = range.from.map(|page| format!("ctid >= '({page},0)'"));
        let last = range.to.map(|page| format!("ctid < '({page},0)'"));
        let conditions = first.into_iter().chain(last).collect();
        asking(&self.relation, &self.wires, &self.from, conditions)
    }

    /// All of the rows in files, or none.
    async fn write(self, rows: CopyOutStream) -> Result<Vec<Add>, Error> {
        let mut files = Files::new(self.store.clone());
        let mut count = 0;
        match self.write_to(rows, &mut files, &mut count).await {
            Ok(()) => files.finish().await,
            Err(error) => {
                self.count.take_back(count);
                files.discard().await;
                Err(error)
            }
        }
    }

    async fn write_to(&self, rows: CopyOutStream, files: &mut Files, count: &mut u64) -> Result<(), Error> {
        let read = Rows::new(self.relation.clone(), self.schema.clone(), self.wires.clone())?;
        let mut reading = Reading::new(rows, read);
        while let Some(batch) = reading.next().await? {
            files.push(&batch).await?;
            let more = u64::try_from(batch.num_rows()).unwrap_or_default();
            *count += more;
            self.count.add(more);
            fail_point!("transfer::copy.batch");
            if self.wanted.strong_count() == 0 {
                return Err(Error::Strange("nobody waits for the copy any more".to_owned()));
            }
        }
        Ok(())
    }
}

/// Asks for the rows of a table that are published, and of which these conditions are true.
fn asking(relation: &Relation, wires: &[Wire], from: &str, mut conditions: Vec<String>) -> String {
    let columns = relation.columns.iter().zip(wires);
    let columns: Vec<_> = columns.map(|(column, wire)| wire.asked(&column.name)).collect();
    let filter = relation.catalog.as_ref().and_then(|catalog| catalog.filter.as_ref());
    conditions.extend(filter.map(|filter| format!("({filter})")));
    let only =
        if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
    format!("copy (select {} from {from}{only}) to stdout (format binary)", columns.join(", "))
}

/// Reads values and encodes files on a thread that nobody else waits for.
async fn aside(
    work: impl Future<Output = Result<Vec<Add>, Error>> + Send + 'static,
) -> Result<Vec<Add>, Error> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.unwrap_or_else(|ended| Err(Error::Strange(format!("whoever copied a table ended: {ended}"))))
}

/// How many sessions read a large table, beside the one that made the snapshot: the transfer's role may have eight, and
/// a stream has three.
fn sessions() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get).clamp(2, 4)
}

/// The ranges of a table whose largest partition, and all of them together, have so many bytes.
fn ranges(largest: u64, all: u64, page: u64) -> VecDeque<Range> {
    let bytes = at_once().unwrap_or_else(|| (all / RANGES).clamp(LEAST, MOST));
    let count = all.div_ceil(bytes).max(1);
    let pages = (largest / page).div_ceil(count).max(1);
    let mut ranges: VecDeque<Range> = (0..count)
        .map(|at| Range { from: Some(at * pages), to: Some((at + 1) * pages) })
        .take_while(|range| range.from < Some(largest / page))
        .collect();
    // Nothing is left out, whatever was counted.
    if let Some(first) = ranges.front_mut() {
        first.from = None;
    }
    match ranges.back_mut() {
        Some(last) => last.to = None,
        None => ranges.push_back(Range::default()),
    }
    ranges
}

/// Of the tests, whose tables are small: other bytes that are read at once.
fn at_once() -> Option<u64> {
    fail::fail_point!("transfer::copy.at_once", |bytes| bytes.and_then(|bytes| bytes.parse().ok()));
    None
}

/// A control of the tests: what a session has read counts, although it broke.
fn is_careless() -> bool {
    fail::fail_point!("transfer::copy.careless", |_| true);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn every_page_is_in_one_range() {
        for (largest, all) in
            [(0, 0), (1, 1), (63, 63), (64, 64), (65, 65), (100, 3_000), (9_000, 9_000), (1, 300)]
        {
            let ranges = ranges(largest * MIB, all * MIB, 8192);
            assert_eq!((ranges[0].from, ranges[ranges.len() - 1].to), (None, None));
            for (one, other) in ranges.iter().zip(ranges.iter().skip(1)) {
                assert_eq!(one.to, other.from);
                assert!(one.from < one.to);
            }
            assert!(
                ranges.len() <= usize::try_from((all / 64).max(1)).unwrap() + 1,
                "{all}: {}",
                ranges.len()
            );
        }
        assert_eq!(ranges(60 * MIB, 60 * MIB, 8192), [Range::default()]);
        assert_eq!(ranges(640 * MIB, 640 * MIB, 8192).len(), 10);
    }
}
