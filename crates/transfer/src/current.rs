//! A table as it is: a copy of the source's, made anew, and changes merged into it.
//!
//! A merge rewrites the files that hold rows of the keys that changed, and no others. The copy and the changes overlap:
//! what the copy saw is noted beside it, and left out of the merge ([`crate::Visibility`]).

use deltalake::arrow::array::{AsArray, BooleanArray, RecordBatch};
use deltalake::arrow::compute::filter_record_batch;
use deltalake::arrow::datatypes::Int64Type;
use deltalake::kernel::{Add, Remove};
use futures::{TryStreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::cells::{self, Columns};
use crate::change::{Relation, Row};
use crate::fold::Fold;
use crate::lake::{LakeTable, Note, Writer};
use crate::rows::{LSN, ORDER};
use crate::source::Snapshot;
use crate::visibility::Visibility;
use crate::{Error, Lsn, fail_point};

/// Rows of a copy in one batch, and batches in one file.
const ROWS: usize = 16 * 1024;
const BATCHES: usize = 64;

/// What is noted of a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Copied {
    /// What it saw.
    pub(crate) visibility: Visibility,
    /// Whatever is committed behind this it did not see.
    at: u64,
}

/// See above.
pub struct Current {
    lake: LakeTable,
    relation: Relation,
    keys: Vec<usize>,
    /// The last copy, as long as changes may come that it saw.
    copied: Option<(Note, Copied)>,
}

impl Current {
    /// Opens the table, or makes it empty.
    pub async fn open(place: &Url, writer: Writer, relation: Relation) -> Result<Self, Error> {
        let keys: Vec<_> = relation
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.is_key)
            .map(|(at, _)| at)
            .collect();
        let lake = LakeTable::open(place, writer, cells::fields(&relation).collect()).await?;
        let mut current = Self { lake, relation, keys, copied: None };
        current.copied = current.last_copy().await?;
        Ok(current)
    }

    async fn last_copy(&self) -> Result<Option<(Note, Copied)>, Error> {
        let Some((note, text)) = self.lake.note().await? else { return Ok(None) };
        let copied = serde_json::from_slice(&text);
        copied
            .map(|copied| Some((note, copied)))
            .map_err(|error| Error::Strange(format!("a copy's note: {error}")))
    }

    /// Everything before this is in it, or is known to be.
    pub fn position(&self) -> Lsn {
        Lsn::from(self.lake.position().lsn)
    }

    /// Replaces it by a copy; answers how many rows that has.
    pub async fn copy(&mut self, snapshot: &Snapshot<'_>) -> Result<usize, Error> {
        let gone = self.lake.files()?.into_iter().map(|(_, remove)| remove).collect();
        let (mut come, mut count) = (Vec::new(), 0);
        let rows = snapshot.rows(&self.relation).await?;
        pin_mut!(rows);
        let mut file = Vec::new();
        loop {
            let batch = self.batch(&mut rows).await?;
            let is_last = batch.num_rows() < ROWS;
            count += batch.num_rows();
            file.push(batch);
            if is_last || file.len() == BATCHES {
                come.extend(self.lake.write(file.drain(..)).await?);
            }
            if is_last {
                break;
            }
        }
        let copied = Copied { visibility: snapshot.visibility().clone(), at: snapshot.at().into() };
        let text = serde_json::to_vec(&copied);
        let text = text.map_err(|error| Error::Strange(format!("a copy's note: {error}")))?;
        let note = self.lake.take_note(text).await?;
        fail_point!("transfer::current.noted");
        // From the beginning: what a stream was told of a commit, a snapshot of the same moment may not see yet.
        self.lake.put(gone, come, Lsn::from(0), Some(note)).await?;
        self.copied = Some((note, copied));
        Ok(count)
    }

    async fn batch(
        &self,
        rows: &mut (impl futures::Stream<Item = Result<Row, Error>> + Unpin),
    ) -> Result<RecordBatch, Error> {
        let mut columns = Columns::of(&self.relation);
        for _ in 0..ROWS {
            let Some(row) = rows.try_next().await? else { break };
            if row.len() != self.relation.columns.len() {
                return Err(Error::Strange("a row of another width than its table".to_owned()));
            }
            columns.push(&self.relation, Some(&row))?;
        }
        Ok(RecordBatch::try_new(self.lake.schema()?, columns.finish().collect())?)
    }

    /// Whether it was never copied in this epoch: there is nothing that changes could be merged into.
    pub fn waits_for_copy(&self) -> bool {
        self.lake.position().lsn == 0 && self.copied.is_none()
    }

    /// Merges what a table of changes has that is not here yet; answers whether there was anything.
    pub async fn merge(&mut self, changes: &LakeTable) -> Result<bool, Error> {
        if self.keys.is_empty() {
            let why = "nothing identifies its rows; give it a primary key or a replica identity".to_owned();
            return Err(Error::Schema { table: self.relation.full_name(), why });
        }
        let (from, to) = (self.lake.position().lsn, changes.position().lsn);
        if to <= from {
            return Ok(false);
        }
        let mut fold = Fold::new(self.lake.schema()?, self.keys.clone())?;
        let copied = self.copied.clone().filter(|_| !is_blind());
        let is_known = |xid| copied.as_ref().is_some_and(|(_, copied)| copied.visibility.sees(xid));
        for batch in later(changes, from).await? {
            fold.take(batch, is_known)?;
        }
        let (gone, come) =
            if fold.is_empty() { (Vec::new(), Vec::new()) } else { self.rewrite(&fold).await? };
        let copied = self.copied.clone().filter(|(_, copied)| copied.at > to);
        fail_point!("transfer::current.merged");
        self.lake.put(gone, come, Lsn::from(to), copied.as_ref().map(|(note, _)| *note)).await?;
        self.copied = copied;
        Ok(true)
    }

    /// New files in the place of those that hold rows that change.
    async fn rewrite(&self, fold: &Fold) -> Result<(Vec<Remove>, Vec<Add>), Error> {
        let (mut gone, mut come, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for (file, remove) in self.lake.files()? {
            if fold.truncates() {
                gone.push(remove);
                continue;
            }
            let batches = self.lake.read(&file).await?;
            let mut stay = Vec::new();
            let mut any_goes = false;
            for batch in &batches {
                match fold.staying(batch)? {
                    None => stay.push(batch.clone()),
                    Some(stays) => {
                        any_goes = true;
                        stay.push(filter_record_batch(batch, &BooleanArray::from(stays))?);
                        before.push(batch.clone());
                    }
                }
            }
            if any_goes {
                gone.push(remove);
                come.extend(self.lake.write(stay).await?);
            }
        }
        come.extend(self.lake.write([fold.rows(&before)?]).await?);
        Ok((gone, come))
    }
}

/// A control of the tests: what a copy saw is merged into it.
fn is_blind() -> bool {
    fail::fail_point!("transfer::current.blind", |_| true);
    false
}

/// The changes behind a position, in their order.
async fn later(changes: &LakeTable, from: u64) -> Result<Vec<RecordBatch>, Error> {
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let mut later = Vec::new();
    for (file, _) in changes.files()? {
        for batch in changes.read(&file).await? {
            let place = |name: &str| {
                let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
                Some(column.clone())
            };
            let (Some(lsn), Some(order)) = (place(LSN), place(ORDER)) else {
                return Err(Error::Strange("a table of changes without positions".to_owned()));
            };
            let is_later: BooleanArray = lsn.values().iter().map(|lsn| Some(*lsn > from)).collect();
            if let Some(first) = is_later.values().set_indices().next() {
                later.push(((lsn.value(first), order.value(first)), filter_record_batch(&batch, &is_later)?));
            }
        }
    }
    // In a file changes are in their order, and no two files have some of the same transactions but in that order.
    later.sort_by_key(|(first, _)| *first);
    Ok(later.into_iter().map(|(_, batch)| batch).collect())
}
