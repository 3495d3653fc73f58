//! `<table>__changes` under way: rows of several declarations of its table one after the other, and what happens to it
//! when one comes that it cannot hold.
//!
//! The table in the lake follows the source's: a new column is new there too, one that was dropped stays and is null from
//! then on, one that was renamed is both, and a wider type makes the column wider, for which its files are written anew.
//! Each file has the columns that the source's table had, no others: so it can be told what was null from what was not
//! there.
//!
//! What cannot be followed stops the table, and nothing else: what came before is written, and from which position on
//! changes are not is noted with it. Once it goes on ([`Changes::resume`]) a row of op `gap` says so for good. Where its
//! columns cannot hold what the source's table has become, it begins anew; what it was is an older version of it.

use std::collections::HashMap;
use std::sync::Arc;

use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::compute::cast;
use deltalake::arrow::datatypes::{Field, Schema};
use deltalake::kernel::{Add, Remove, StructField, StructType};
use serde::{Deserialize, Serialize};

use crate::change::{Kind, Relation, Transaction};
use crate::files::Part;
use crate::forms::{self, widened};
use crate::lake::{LakeTable, Writer};
use crate::place::Place;
use crate::rows::{self, FIXED, Rows};
use crate::stream::Stopped;
use crate::upkeep::Keep;
use crate::{Error, Lsn};

/// The property that says which table of the source it is.
const SOURCE: &str = "stead.source";
/// The property that says how often the table was asked for.
pub(crate) const ASKED: &str = "stead.asked";

/// A change, with its transaction and its place there.
pub(crate) type Placed<'t> = (&'t Transaction, usize, &'t Kind);

/// Changes under one declaration of their table, in their order.
pub(crate) type Segment<'t> = (Arc<Relation>, Vec<Placed<'t>>);

/// Since when changes of a table are not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// Where the first transaction ended that was not.
    pub(crate) since: u64,
    pub(crate) why: String,
    /// The server does not say them: it goes on by itself once that does.
    #[serde(default)]
    pub(crate) is_unpublished: bool,
}

impl Stop {
    /// Nothing of it is there.
    pub(crate) fn of_all(why: String) -> Self {
        Self { since: 1, why, is_unpublished: false }
    }

    /// The same to somebody who may ask for the table; nothing where it goes on by itself.
    pub(crate) fn told(&self, schema: &str, table: &str) -> Option<Stopped> {
        let (schema, table) = (schema.to_owned(), table.to_owned());
        let stopped = Stopped { schema, table, since: Lsn::from(self.since), why: self.why.clone() };
        (!self.is_unpublished).then_some(stopped)
    }
}

/// See above.
pub(crate) struct Changes {
    lake: LakeTable,
    stop: Option<Stop>,
}

impl Changes {
    pub(crate) async fn open(place: &Place, writer: Writer, relation: &Relation) -> Result<Self, Error> {
        let lake = LakeTable::open_changes(place, writer, relation).await?;
        let stop = match lake.note().await? {
            Some((_, text)) => Some(serde_json::from_slice(&text).map_err(strange)?),
            None => None,
        };
        Ok(Self { lake, stop })
    }

    /// Begins it anew in the place of one that was damaged: it stands still until [`Self::resume`], which says that
    /// nothing from before is there.
    pub(crate) async fn begin_anew(
        place: &Place,
        writer: Writer,
        relation: &Relation,
        stop: Stop,
    ) -> Result<Self, Error> {
        let lake = LakeTable::begin_changes(place, writer, relation).await?;
        Ok(Self { lake, stop: Some(stop) })
    }

    pub(crate) fn stop(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// Whether it was stopped in an earlier epoch: what keeps it is over.
    pub(crate) fn is_of_before(&self) -> bool {
        self.stop.is_some() && self.lake.position().is_new
    }

    /// Keeps its files good to read, and no changes longer than they are wanted: those before `merged` are in their table.
    pub(crate) async fn tidy(&mut self, keep: Keep, merged: Lsn) -> Result<(), Error> {
        self.lake.declare_kept(keep.versions).await?;
        if let Some(older) = keep.changes {
            self.lake.forget_changes(older, merged).await?;
        }
        self.lake.compact().await.map(drop)
    }

    /// Takes changes, with which it has everything before `end`; answers how many rows are new.
    pub(crate) async fn take(&mut self, segments: &[Segment<'_>], end: Lsn) -> Result<usize, Error> {
        if self.stop.is_some() {
            return Ok(0);
        }
        // Transactions that ended from there on are left out.
        let (mut until, mut stop) = (u64::MAX, None);
        let (batches, widens) = loop {
            match self.batches(segments, until) {
                Ok(made) => break made,
                Err((at, error @ (Error::Value { .. } | Error::Schema { .. }))) if at < until => {
                    until = at;
                    stop = Some(Stop { since: at, why: error.to_string(), is_unpublished: false });
                }
                Err((_, error)) => return Err(error),
            }
        };
        let count = batches.iter().map(RecordBatch::num_rows).sum();
        if count == 0 && stop.is_none() {
            return Ok(0);
        }
        let (gone, mut come) = if widens { self.widen().await? } else { (Vec::new(), Vec::new()) };
        for batch in batches {
            come.extend(self.lake.write([batch]).await?);
        }
        let (to, note) = match &stop {
            Some(stop) => {
                let text = serde_json::to_vec(stop).map_err(strange)?;
                (Lsn::from(stop.since - 1), Some(self.lake.take_note(text).await?))
            }
            None => (end, None),
        };
        self.lake.put(gone, come, to, note).await?;
        self.stop = stop;
        Ok(count)
    }

    /// Notes that changes are missing from now on, or since its last one: the server does not say them any more.
    pub(crate) async fn withhold(&mut self, why: &str) -> Result<(), Error> {
        if self.stop.is_some() {
            return Ok(());
        }
        let last = self.lake.position().lsn;
        let stop = Stop { since: last + 1, why: why.to_owned(), is_unpublished: true };
        let note = self.lake.take_note(serde_json::to_vec(&stop).map_err(strange)?).await?;
        self.lake.forget_plan();
        self.lake.put(Vec::new(), Vec::new(), Lsn::from(last), Some(note)).await?;
        self.stop = Some(stop);
        Ok(())
    }

    /// Rows of what the table does not have yet, a batch a declaration, and whether a column becomes wider. Fails with
    /// the end of the transaction in which it does.
    fn batches(
        &mut self,
        segments: &[Segment<'_>],
        until: u64,
    ) -> Result<(Vec<RecordBatch>, bool), (u64, Error)> {
        self.lake.forget_plan();
        let from = self.lake.position().lsn;
        let mut widens = false;
        let mut wanted = Vec::new();
        for (relation, changes) in segments {
            // What the table has came before: the writer was ended between that and the slot's being told.
            let new = |of: &Transaction| (from + 1..until).contains(&u64::from(of.end));
            let changes: Vec<_> = changes.iter().filter(|(of, ..)| new(of)).collect();
            let Some((first, ..)) = changes.first() else { continue };
            widens |= self.follow(relation).map_err(|error| (u64::from(first.end), error))?;
            wanted.push((relation, changes));
        }
        let schema = self.lake.schema().map_err(|error| (u64::MAX, error))?;
        let mut batches = Vec::new();
        for (relation, changes) in wanted {
            let mut rows = Rows::new(relation.clone(), &schema).map_err(|error| (u64::MAX, error))?;
            for (transaction, place, kind) in changes {
                let pushed = rows.push(transaction, *place, kind);
                pushed.map_err(|error| (u64::from(transaction.end), error))?;
            }
            batches.push(rows.finish().map_err(|error| (u64::MAX, error))?);
        }
        Ok((batches, widens))
    }

    /// Plans the columns that a declaration of its table needs; answers whether one becomes wider.
    fn follow(&mut self, relation: &Relation) -> Result<bool, Error> {
        let table = || relation.full_name();
        let source = relation.oid.to_string();
        if self.lake.property(SOURCE)?.is_some_and(|known| known != source) {
            let why = "another table is called so now".to_owned();
            return Err(Error::Schema { table: table(), why });
        }
        let is_fixed = |name: &&str| FIXED.iter().any(|fixed| fixed.eq_ignore_ascii_case(name));
        if let Some(name) = relation.columns.iter().map(|column| column.name.as_str()).find(is_fixed) {
            let why = format!("its column `{name}` is called like one that says what happened");
            return Err(Error::Schema { table: table(), why });
        }
        let mut widens = false;
        let mut fields = Vec::new();
        let lake = self.lake.columns()?;
        let mut wanted: HashMap<&str, StructField> =
            relation.columns.iter().map(|column| (column.name.as_str(), forms::field(column))).collect();
        for held in lake.fields() {
            let Some(wanted) = wanted.remove(held.name().as_str()) else {
                fields.push(held.clone());
                continue;
            };
            let form = widened(held.data_type(), wanted.data_type());
            let form = form.ok_or_else(|| {
                let (name, is, was) = (held.name(), wanted.data_type(), held.data_type());
                Error::Schema {
                    table: table(),
                    why: format!("its column `{name}` is {is} now, and was {was}"),
                }
            })?;
            widens |= form != *held.data_type();
            fields.push(StructField { data_type: form, ..wanted });
        }
        fields.extend(relation.columns.iter().filter_map(|column| wanted.remove(column.name.as_str())));
        let columns = columns(relation, fields)?;
        self.lake.plan(columns, SOURCE, source);
        Ok(widens)
    }

    /// Its files with the planned columns, in the place of those that have them narrower.
    async fn widen(&self) -> Result<(Vec<Remove>, Vec<Add>), Error> {
        let schema = self.lake.schema()?;
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for Part { path, remove, .. } in self.lake.files()? {
            let batches = self.lake.read(&path).await?;
            let wide = batches.iter().map(|batch| wider(batch, &schema)).collect::<Result<Vec<_>, _>>()?;
            if wide.iter().zip(&batches).any(|(wide, batch)| wide.schema() != batch.schema()) {
                gone.push(remove);
                come.extend(self.lake.write(wide).await?);
            }
        }
        Ok((gone, come))
    }

    /// Notes how often it was asked for; answers whether that is more than it knew.
    pub(crate) async fn is_asked(&mut self, asked: u32) -> Result<bool, Error> {
        let is_new = self.asked()? != asked;
        if is_new && self.stop.is_none() && !self.lake.position().is_new {
            let columns = self.lake.columns()?;
            self.lake.plan(columns, ASKED, asked.to_string());
            self.lake.put_again(Vec::new(), Vec::new()).await?;
        }
        Ok(is_new)
    }

    fn asked(&self) -> Result<u32, Error> {
        Ok(self.lake.property(ASKED)?.and_then(|text| text.parse().ok()).unwrap_or_default())
    }

    /// Goes on after a stop. `at` is what the source has let go of: what came from the stop to there is not in the table,
    /// which a row says. The table as it is has to be copied after this.
    pub(crate) async fn resume(&mut self, relation: &Relation, at: Lsn, asked: u32) -> Result<(), Error> {
        let Some(stop) = self.stop.clone() else { return Ok(()) };
        self.lake.forget_plan();
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        match self.follow(relation) {
            Ok(true) => (gone, come) = self.widen().await?,
            Ok(false) => {}
            Err(Error::Schema { .. }) => {
                gone = self.lake.files()?.into_iter().map(|part| part.remove).collect();
                let columns = columns(relation, rows::fields(relation))?;
                self.lake.plan(columns, SOURCE, relation.oid.to_string());
            }
            Err(error) => return Err(error),
        }
        let columns = self.lake.columns()?;
        self.lake.plan(columns, ASKED, asked.to_string());
        let to = u64::from(at).max(stop.since - 1);
        if to >= stop.since {
            let mut rows = Rows::new(Arc::new(relation.clone()), self.lake.schema()?.as_ref())?;
            rows.gap(Lsn::from(stop.since), Lsn::from(to))?;
            come.extend(self.lake.write([rows.finish()?]).await?);
        }
        self.lake.put(gone, come, Lsn::from(to), None).await?;
        self.stop = None;
        Ok(())
    }
}

fn columns(relation: &Relation, fields: Vec<StructField>) -> Result<StructType, Error> {
    StructType::try_new(fields)
        .map_err(|error| Error::Schema { table: relation.full_name(), why: error.to_string() })
}

/// Rows with the columns that they have, each as wide as a table's.
fn wider(batch: &RecordBatch, table: &Schema) -> Result<RecordBatch, Error> {
    let (mut fields, mut columns): (Vec<Field>, Vec<_>) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let wide = table.field_with_name(field.name())?;
        columns.push(cast(column, wide.data_type())?);
        fields.push(field.as_ref().clone().with_data_type(wide.data_type().clone()));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn strange(error: serde_json::Error) -> Error {
    Error::Strange(format!("a note of a stop: {error}"))
}
