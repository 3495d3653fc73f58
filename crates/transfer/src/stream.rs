//! A stream: every committed change of the published tables, in order, into `<table>__changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use crate::change::{Change, Relation, Transaction};
use crate::changes::{Changes, Segment};
use crate::decode::Decoder;
use crate::lake::{Writer, place_of_changes};
use crate::upkeep::Keep;
use crate::{Error, Lsn, Source, fail_point};

/// Rows that are taken at once, at least, where there are so many.
const BATCH: u32 = 50_000;

/// What a stream is called, and where it goes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The transfer.
    pub transfer: String,
    /// See [`crate::lake`].
    pub epoch: String,
    /// The lake's folder or bucket: a URL that ends with a slash.
    pub lake: Url,
    /// How often tables were asked for, by `schema.table`: one that is stopped goes on when this is another number than before.
    pub asked: BTreeMap<String, u32>,
}

/// What a step has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Transactions that the slot had.
    pub transactions: usize,
    /// Rows that were written for them; those that were there already are not among them.
    pub rows: usize,
    /// The same by table.
    pub tables: Vec<(String, usize)>,
    /// Tables that had changes which were not written.
    pub stopped: Vec<Stopped>,
}

/// A table that cannot go on, until [`Stream::resume`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Where the first transaction ended that was not written.
    pub since: Lsn,
    /// Why, and what to do.
    pub why: String,
}

/// A stream under way.
pub struct Stream {
    source: Source,
    settings: Settings,
    tables: BTreeMap<(String, String), Changes>,
}

impl Stream {
    /// Goes on where the lake's tables say that it was.
    pub fn new(source: Source, settings: Settings) -> Self {
        Self { source, settings, tables: BTreeMap::new() }
    }

    /// Takes what the slot has next, writes it, and lets the source forget it.
    ///
    /// A table that cannot hold what comes is stopped, and told among what the step has done; the others go on. What is
    /// wrong with the lake itself is an error of the step, after which the source keeps everything.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let messages = self.source.peek(BATCH).await?;
        let mut decoder = Decoder::new(self.source.texts());
        let mut transactions = Vec::new();
        for message in messages {
            transactions.extend(decoder.take(message)?);
        }
        let Some(end) = transactions.last().map(|last| last.end) else { return Ok(Step::default()) };
        let mut step = Step { transactions: transactions.len(), ..Step::default() };
        let mut skipped = Vec::new();
        for ((schema, name), segments) in by_table(&transactions) {
            let Some((first, _)) = segments.first() else { continue };
            // Somebody else's publication may tell of more.
            if self.source.meant.as_ref().is_some_and(|meant| !meant.has(schema, name)) {
                continue;
            }
            let table = self.table(first).await?;
            let rows = table.take(&segments, end).await?;
            step.rows += rows;
            step.tables.push((first.full_name(), rows));
            if let Some(stop) = table.stop() {
                let xids = segments.iter().flat_map(|(_, changes)| changes).map(|(of, ..)| of.xid);
                skipped.extend(xids);
                step.stopped.push(Stopped {
                    schema: schema.to_owned(),
                    table: name.to_owned(),
                    since: Lsn::from(stop.since),
                    why: stop.why.clone(),
                });
            }
        }
        fail_point!("transfer::stream.written");
        // A copy that is made after this holds what was not written.
        self.source.sees(&skipped).await?;
        // Every table has everything before it: those that are not named in it had nothing to be written.
        self.source.advance(end).await?;
        fail_point!("transfer::stream.advanced");
        Ok(step)
    }

    /// Lets the source forget everything before a position that it said before a step that found nothing.
    pub async fn let_go(&self, before: Lsn) -> Result<(), Error> {
        self.source.advance(before).await
    }

    /// Why a table is stopped, if it is.
    pub async fn stopped(&mut self, relation: &Relation) -> Result<Option<String>, Error> {
        Ok(self.table(relation).await?.stop().map(|stop| stop.why.clone()))
    }

    /// Keeps the files of its tables good to read; `merged` is the position of a table up to which its changes are in it.
    pub async fn tidy(&mut self, keep: Keep, merged: impl Fn(&str) -> Lsn) -> Result<(), Error> {
        for ((schema, name), changes) in &mut self.tables {
            changes.tidy(keep, merged(&format!("{schema}.{name}"))).await?;
        }
        Ok(())
    }

    /// Lets tables go on that were stopped in an earlier epoch, or were asked for since.
    pub async fn begin(&mut self, relations: &[Relation]) -> Result<(), Error> {
        for relation in relations {
            let asked = self.asked(relation);
            let table = self.table(relation).await?;
            let is_asked = table.is_asked(asked).await?;
            if table.is_of_before() || (is_asked && table.stop().is_some()) {
                self.resume(relation).await?;
            }
        }
        Ok(())
    }

    fn asked(&self, relation: &Relation) -> u32 {
        self.settings.asked.get(&relation.full_name()).copied().unwrap_or_default()
    }

    /// Lets a table go on that was stopped, with the columns that it has now. What came in between is in its changes only
    /// as a gap, so it has to be copied after this ([`crate::current::Current::copy`]).
    pub async fn resume(&mut self, relation: &Relation) -> Result<(), Error> {
        let at = self.source.let_go_of().await?;
        let asked = self.asked(relation);
        self.table(relation).await?.resume(relation, at, asked).await
    }

    async fn table(&mut self, relation: &Relation) -> Result<&mut Changes, Error> {
        use std::collections::btree_map::Entry;
        let Settings { transfer, epoch, lake, .. } = &self.settings;
        match self.tables.entry((relation.schema.clone(), relation.name.clone())) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let place = place_of_changes(lake, &relation.schema, &relation.name);
                let name = format!("{transfer}/{}", relation.full_name());
                let writer = Writer { name, epoch: epoch.clone() };
                Ok(entry.insert(Changes::open(&place, writer, relation).await?))
            }
        }
    }
}

/// Changes by the table that they change, and by how it was declared then.
fn by_table(transactions: &[Transaction]) -> BTreeMap<(&str, &str), Vec<Segment<'_>>> {
    let mut found: BTreeMap<(&str, &str), Vec<Segment<'_>>> = BTreeMap::new();
    for transaction in transactions {
        for (place, Change { relation, kind }) in transaction.changes.iter().enumerate() {
            let segments = found.entry((relation.schema.as_str(), relation.name.as_str())).or_default();
            let change = (transaction, place, kind);
            match segments.last_mut().filter(|(of, _)| Arc::ptr_eq(of, relation) || of == relation) {
                Some((_, changes)) => changes.push(change),
                None => segments.push((relation.clone(), vec![change])),
            }
        }
    }
    found
}
