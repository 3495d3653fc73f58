//! A table as it is: a copy of the source's, made anew, and changes merged into it.
//!
//! A merge rewrites the files that hold rows of the keys that changed, and no others. The copy and the changes overlap:
//! what the copy saw is noted beside it, and left out of the merge ([`crate::Visibility`]).

mod newer;

use std::sync::Arc;

use deltalake::arrow::array::{AsArray, BooleanArray, RecordBatch};
use deltalake::arrow::compute::filter_record_batch;
use deltalake::arrow::datatypes::Int64Type;
use deltalake::kernel::{Add, Remove, StructField, StructType};
use serde::{Deserialize, Serialize};

use crate::change::Relation;
use crate::changes::ASKED;
use crate::copy::Tell;
use crate::files::Files;
use crate::fold::{Fold, only};
use crate::lake::{LakeTable, Note, Writer};
use crate::place::Place;
use crate::query::Reached;
use crate::rows::{LSN, ORDER};
use crate::seen::{SEEN, Seen};
use crate::shape::Shape;
use crate::source::Snapshot;
use crate::upkeep::Keep;
use crate::visibility::Visibility;
use crate::{Error, Lsn, fail_point, forms};

pub use newer::Newer;

/// Changes that are merged at once, about, and bytes of them: they are held in memory.
const AT_ONCE: usize = 400_000;
const BYTES_AT_ONCE: usize = 64 * 1024 * 1024;

/// What is noted of a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Copied {
    /// What it saw.
    pub(crate) visibility: Visibility,
    /// Whatever is committed behind this it did not see.
    pub(crate) at: u64,
}

impl Copied {
    /// Whether it holds what a change says.
    pub(crate) fn holds(&self, op: &str, xid: u32, lsn: i64) -> bool {
        match op {
            // What was not written, the copy holds.
            "gap" => u64::try_from(lsn).is_ok_and(|lsn| lsn <= self.at),
            _ => self.visibility.sees(xid),
        }
    }
}

/// What is noted beside a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Noted {
    Copied(Copied),
    Reached(Reached),
}

/// See above.
pub struct Current {
    lake: LakeTable,
    relation: Relation,
    keys: Vec<String>,
    /// The last copy, as long as changes may come that it saw.
    copied: Option<(Note, Copied)>,
    /// How far its rows were read, where they are asked for.
    reached: Option<(Note, Reached)>,
    /// How often it was asked for, where it is copied because of that.
    asked: Option<u32>,
    /// What the table has become since the lake's was made or merged; or why that cannot be followed.
    followed: Result<Followed, String>,
    tell: Tell,
}

/// How the source's table was declared, and what that means for the files of the lake's.
struct Followed {
    seen: Seen,
    /// Columns that rows are without, and have a value in all the same.
    filled: Vec<String>,
    /// There are new columns, or wider ones.
    grows: bool,
    /// No file can stay as it is.
    rewrites: bool,
}

impl Current {
    /// Opens the table, or makes it empty. `relation` is what [`crate::Source::tables`] says of it after the changes
    /// were looked at that are to be merged.
    pub async fn open(place: &Place, writer: Writer, relation: Relation) -> Result<Self, Error> {
        let keys = keys(&relation);
        let lake = LakeTable::open(place, writer, forms::fields(&relation).collect()).await?;
        let followed = Err(String::new());
        let mut current = Self {
            lake,
            relation,
            keys,
            copied: None,
            reached: None,
            asked: None,
            followed,
            tell: Arc::new(|_, _| ()),
        };
        if let Some((note, text)) = current.lake.note().await? {
            match serde_json::from_slice(&text).map_err(strange)? {
                Noted::Copied(copied) => current.copied = Some((note, copied)),
                Noted::Reached(reached) => current.reached = Some((note, reached)),
            }
        }
        current.followed = current.follow()?;
        Ok(current)
    }

    /// Whether it was never copied, or not in this epoch: there is nothing that changes could be merged into.
    pub fn was_never_copied(&self) -> Result<bool, Error> {
        Ok(self.lake.property(SEEN)?.is_none() || self.lake.position().is_new)
    }

    /// Has it copied where it was asked for since it was; answers whether it was.
    pub fn ask(&mut self, asked: u32) -> Result<bool, Error> {
        let known = self.lake.property(ASKED)?.and_then(|text| text.parse().ok());
        self.asked = (known.unwrap_or(0) != asked).then_some(asked);
        Ok(self.asked.is_some())
    }

    /// Why it has to be copied before changes can be merged, if it has to.
    pub fn must_be_copied(&self) -> Option<&str> {
        self.followed.as_ref().err().map(String::as_str)
    }

    /// Plans the columns that the source's table has now.
    fn follow(&mut self) -> Result<Result<Followed, String>, Error> {
        let Some(seen) = self.lake.property(SEEN)? else { return Ok(Err("it never was".to_owned())) };
        let before: Seen = serde_json::from_str(&seen).map_err(strange)?;
        let seen = match before.followed_by(&self.relation) {
            Ok(seen) => seen,
            Err(why) => return Ok(Err(why)),
        };
        let mut followed = Followed { seen, filled: Vec::new(), grows: false, rewrites: false };
        let held = self.lake.columns()?;
        let mut fields: Vec<StructField> = held.fields().cloned().collect();
        for column in &self.relation.columns {
            let wanted = forms::field(column);
            let Some(field) = fields.iter_mut().find(|field| *field.name() == column.name) else {
                followed.grows = true;
                if followed.seen.before(&column.name).is_some() {
                    followed.rewrites = true;
                    followed.filled.push(column.name.clone());
                }
                fields.push(wanted);
                continue;
            };
            let Some(form) = forms::widened(field.data_type(), wanted.data_type()) else {
                let (name, was, is) = (&column.name, field.data_type(), wanted.data_type());
                return Ok(Err(format!("its column `{name}` was {was} and is {is}")));
            };
            if form != *field.data_type() {
                (followed.grows, followed.rewrites) = (true, true);
                field.data_type = form;
            }
        }
        let columns = match StructType::try_new(fields) {
            Ok(columns) => columns,
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.lake.plan(columns, SEEN, serde_json::to_string(&followed.seen).map_err(strange)?);
        Ok(Ok(followed))
    }

    fn full_name(&self) -> String {
        self.relation.full_name()
    }

    /// Everything before this is in it, or is known to be.
    pub fn position(&self) -> Lsn {
        Lsn::from(self.lake.position().lsn)
    }

    /// Has somebody told how far a copy has come.
    pub fn tell(&mut self, tell: Tell) {
        self.tell = tell;
    }

    /// Replaces it by a copy, rows and columns at once; answers how many rows that has.
    pub async fn copy(&mut self, snapshot: &Snapshot<'_>) -> Result<u64, Error> {
        let copied = Copied { visibility: snapshot.visibility().clone(), at: snapshot.at().into() };
        self.copy_noting(snapshot, Noted::Copied(copied)).await
    }

    async fn copy_noting(&mut self, snapshot: &Snapshot<'_>, noted: Noted) -> Result<u64, Error> {
        let is_this =
            |table: &&Relation| (&table.schema, &table.name) == (&self.relation.schema, &self.relation.name);
        let relation = snapshot.tables().iter().find(is_this).cloned();
        let table = self.full_name();
        let gone = || Error::Schema { table: table.clone(), why: "it is not published any more".to_owned() };
        self.relation = relation.ok_or_else(gone)?;
        self.keys = keys(&self.relation);
        let columns = StructType::try_new(forms::fields(&self.relation))
            .map_err(|error| Error::Schema { table, why: error.to_string() })?;
        let seen =
            Seen::of(&self.relation).ok_or_else(|| Error::Strange("a copy without a catalog".into()))?;
        if let Some(asked) = self.asked.take() {
            self.lake.plan(columns.clone(), ASKED, asked.to_string());
        }
        self.lake.plan(columns, SEEN, serde_json::to_string(&seen).map_err(strange)?);
        let gone = self.lake.files()?.into_iter().map(|part| part.remove).collect();
        let (come, count) = snapshot.copy(&self.relation, &self.lake, self.tell.clone()).await?;
        let note = self.lake.take_note(serde_json::to_vec(&noted).map_err(strange)?).await?;
        fail_point!("transfer::current.noted");
        // From the beginning: what a stream was told of a commit, a snapshot of the same moment may not see yet.
        self.lake.put(gone, come, Lsn::from(0), Some(note)).await?;
        match noted {
            Noted::Copied(copied) => self.copied = Some((note, copied)),
            Noted::Reached(reached) => self.reached = Some((note, reached)),
        }
        self.followed = Ok(Followed { seen, filled: Vec::new(), grows: false, rewrites: false });
        Ok(count)
    }

    /// Merges what a table of changes has that is not here yet, or the first of it where that is much; answers whether
    /// there was anything. [`Self::position`] says how far it is.
    ///
    /// Where the source's table has become what changes cannot make of this one, [`Error::CopyAnew`].
    pub async fn merge(&mut self, changes: &LakeTable) -> Result<bool, Error> {
        if self.keys.is_empty() {
            return Err(Error::NoKey { table: self.full_name() });
        }
        let followed = self.followed()?;
        let (grows, rewrites) = (followed.grows, followed.rewrites);
        let (from, to) = (self.lake.position().lsn, changes.position().lsn);
        if to <= from && !grows {
            return Ok(false);
        }
        let [of_changes, of_files] = self.shapes()?;
        let mut fold = self.fold(of_changes)?;
        let copied = self.copied.clone().filter(|_| !is_blind());
        let is_known = |op: &str, xid, lsn| copied.as_ref().is_some_and(|(_, it)| it.holds(op, xid, lsn));
        let (batches, until) = later(changes, from).await?;
        for batch in batches {
            fold.take(&batch, is_known)?;
        }
        let (gone, come) = if fold.is_empty() && !rewrites {
            (Vec::new(), Vec::new())
        } else {
            self.rewrite(&fold, &of_files, rewrites).await?
        };
        let to = until.unwrap_or(to).max(from);
        let copied = self.copied.clone().filter(|(_, copied)| copied.at > to);
        fail_point!("transfer::current.merged");
        self.lake.put(gone, come, Lsn::from(to), copied.as_ref().map(|(note, _)| *note)).await?;
        self.copied = copied;
        self.has_grown();
        Ok(true)
    }

    /// Keeps its files good to read.
    pub async fn tidy(&mut self, keep: Keep) -> Result<(), Error> {
        self.lake.declare_kept(keep.versions).await?;
        self.lake.compact().await.map(drop)
    }

    /// Removes files that no version needs that is kept.
    pub async fn vacuum(&self, keep: Keep) -> Result<usize, Error> {
        self.lake.vacuum(keep.versions).await
    }

    fn followed(&self) -> Result<&Followed, Error> {
        let anew = |why: &String| Error::CopyAnew { table: self.full_name(), why: why.clone() };
        self.followed.as_ref().map_err(anew)
    }

    /// The table is what its source has become.
    fn has_grown(&mut self) {
        if let Ok(followed) = &mut self.followed {
            (followed.grows, followed.rewrites) = (false, false);
            followed.filled.clear();
        }
    }

    /// The table's columns, for changes and for files: a change is without a column that was added later, whether or not
    /// the table has that already.
    fn shapes(&self) -> Result<[Shape; 2], Error> {
        let followed = self.followed()?;
        let shape = Shape::new(self.full_name(), self.lake.schema()?);
        let (mut of_changes, mut of_files) = (shape.clone(), shape);
        for column in &self.relation.columns {
            let Some(text) = followed.seen.before(&column.name) else { continue };
            of_changes = of_changes.with(column, text)?;
            if followed.filled.contains(&column.name) {
                of_files = of_files.with(column, text)?;
            }
        }
        Ok([of_changes, of_files])
    }

    fn fold(&self, shape: Shape) -> Result<Fold, Error> {
        let keys: Result<_, _> = self.keys.iter().map(|key| shape.schema().index_of(key)).collect();
        Fold::new(shape, keys?)
    }

    /// New files in the place of those that hold rows that change, or of all.
    async fn rewrite(&self, fold: &Fold, shape: &Shape, all: bool) -> Result<(Vec<Remove>, Vec<Add>), Error> {
        let (mut gone, mut come, mut before) = (Vec::new(), Vec::new(), Vec::new());
        let needed = fold.needed();
        for part in self.lake.files()? {
            if fold.truncates() {
                gone.push(part.remove);
                continue;
            }
            if !all && !fold.may_concern(&part) {
                continue;
            }
            let file = self.lake.rows(&part.path).await?;
            // Its keys say whether it has to be read at all.
            let stays: Vec<_> =
                file.only(&fold.key_names())?.map(|batch| fold.staying(&batch?)).collect::<Result<_, _>>()?;
            if !all && stays.iter().all(Option::is_none) {
                continue;
            }
            gone.push(part.remove);
            let mut files = Files::new(self.lake.store());
            for (batch, stays) in file.all()?.zip(stays) {
                let batch = shape.fit(&batch?)?;
                before.extend(needed.of(&batch)?);
                match stays {
                    None => files.push(&batch).await?,
                    Some(stays) => files.push(&filter_record_batch(&batch, &stays)?).await?,
                }
            }
            come.extend(files.finish().await?);
        }
        come.extend(self.lake.write([fold.rows(&before)?]).await?);
        Ok((gone, come))
    }
}

/// What identifies the rows of a table; nothing where it can only be copied.
fn keys(relation: &Relation) -> Vec<String> {
    let keys = relation.columns.iter().filter(|column| column.is_key);
    keys.map(|column| column.name.clone()).collect()
}

fn strange(error: serde_json::Error) -> Error {
    Error::Strange(format!("what is noted of a copy: {error}"))
}

/// A control of the tests: what a copy saw is merged into it.
fn is_blind() -> bool {
    fail::fail_point!("transfer::current.blind", |_| true);
    false
}

/// The changes behind a position, in their order; all of them, or so many files that the next begins behind the position
/// that comes with them.
async fn later(changes: &LakeTable, from: u64) -> Result<(Vec<RecordBatch>, Option<u64>), Error> {
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let parts = changes.files()?.into_iter().map(|part| (part.bounds(LSN), part));
    let mut parts: Vec<_> = parts.filter(|(bounds, _)| bounds.is_none_or(|(_, last)| last > from)).collect();
    parts.sort_by_key(|(bounds, _)| *bounds);
    let (mut later, mut rows, mut bytes, mut reached, mut until) = (Vec::new(), 0, 0, from, None);
    for (bounds, part) in parts {
        let is_much = rows >= AT_ONCE || bytes >= BYTES_AT_ONCE;
        if is_much && bounds.is_some_and(|(first, _)| first > reached) {
            until = u64::try_from(reached).ok();
            break;
        }
        for batch in changes.read(&part.path).await? {
            let place = |name: &str| {
                let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
                Some(column.clone())
            };
            let (Some(lsn), Some(order)) = (place(LSN), place(ORDER)) else {
                return Err(Error::Strange("a table of changes without positions".to_owned()));
            };
            let is_later: BooleanArray = lsn.values().iter().map(|lsn| Some(*lsn > from)).collect();
            rows += batch.num_rows();
            bytes += batch.get_array_memory_size();
            reached = lsn.values().iter().copied().fold(reached, i64::max);
            if let Some(first) = is_later.values().set_indices().next() {
                later.push(((lsn.value(first), order.value(first)), only(batch, &is_later)?));
            }
        }
    }
    // In a file changes are in their order, and no two files have some of the same transactions but in that order.
    later.sort_by_key(|(first, _)| *first);
    Ok((later.into_iter().map(|(_, batch)| batch).collect(), until))
}
