//! A stream: every committed change of the published tables, in order, into `<table>__changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ahead::{self, Ahead};
use crate::change::{Change, Relation, Transaction};
use crate::changes::{Changes, Segment, Stop};
use crate::damage::{Asked, Beside, Damage};
use crate::lake::{LakeTable, Writer, place_of_changes};
use crate::place::Place;
use crate::slot::Unpublished;
use crate::source::Messages;
use crate::upkeep::Keep;
use crate::{Error, Lsn, Source, fail_point};

/// Rows that are held and written at once, about, and bytes of them.
const AT_ONCE: usize = 50_000;
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;

/// What a stream is called, and where it goes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The transfer.
    pub transfer: String,
    /// See [`crate::lake`].
    pub epoch: String,
    /// The lake.
    pub lake: Place,
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
    /// The slot may have more.
    pub has_more: bool,
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
    tables: BTreeMap<(String, String), Table>,
    /// Messages that the slot is asked for next.
    most: u32,
    ahead: Option<Ahead>,
    /// The slot may be far behind.
    is_behind: bool,
    /// Nobody can read ahead of it.
    is_alone: bool,
    /// What the slot was told last that it can let go of.
    let_go_of: Lsn,
}

/// A table of changes, and what it is asked for by.
struct Table {
    place: Place,
    writer: Writer,
    asked: Asked,
    held: Held,
}

/// What the lake has of it.
enum Held {
    Whole(Box<Changes>),
    /// It cannot be read, and so cannot go on; what it was asked for by when that was found.
    Damaged(Stop, Asked),
}

impl Table {
    async fn open(place: Place, writer: Writer, relation: &Relation, asked: Asked) -> Result<Self, Error> {
        let held = match Beside::of(&place).damage().await? {
            Some(Damage { why, asked }) => Held::Damaged(Stop::of_all(why), asked),
            None => match Changes::open(&place, writer.clone(), relation).await {
                Err(Error::Damaged { why }) => Held::found_damaged(&place, why, &asked).await?,
                opened => Held::Whole(Box::new(opened?)),
            },
        };
        Ok(Self { place, writer, asked, held })
    }

    /// Does something with a table that can be read; nothing is done, from then on, with one that cannot.
    async fn whole<T>(
        &mut self,
        act: impl AsyncFnOnce(&mut Changes) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let Held::Whole(changes) = &mut self.held else { return Ok(None) };
        match act(changes).await {
            Err(Error::Damaged { why }) => {
                self.held = Held::found_damaged(&self.place, why, &self.asked).await?;
                Ok(None)
            }
            done => done.map(Some),
        }
    }

    fn stop(&self) -> Option<&Stop> {
        match &self.held {
            Held::Whole(changes) => changes.stop(),
            Held::Damaged(stop, _) => Some(stop),
        }
    }

    /// Whether it was stopped in an earlier epoch, or was asked for since.
    async fn is_to_go_on(&mut self) -> Result<bool, Error> {
        match &mut self.held {
            Held::Whole(changes) => {
                let is_asked = changes.is_asked(self.asked.count).await?;
                Ok(changes.is_of_before() || (is_asked && changes.stop().is_some()))
            }
            Held::Damaged(_, noted) => Ok(*noted != self.asked),
        }
    }

    async fn resume(&mut self, relation: &Relation, at: Lsn) -> Result<(), Error> {
        let count = self.asked.count;
        match &mut self.held {
            Held::Whole(changes) => changes.resume(relation, at, count).await,
            Held::Damaged(stop, _) => {
                let beside = Beside::of(&self.place);
                beside.put_aside().await?;
                fail_point!("transfer::stream.put-aside");
                let (writer, stop) = (self.writer.clone(), stop.clone());
                let mut changes = Changes::begin_anew(&self.place, writer, relation, stop).await?;
                changes.resume(relation, at, count).await?;
                fail_point!("transfer::stream.begun-anew");
                beside.is_whole().await?;
                self.held = Held::Whole(Box::new(changes));
                Ok(())
            }
        }
    }
}

impl Held {
    /// Notes it. Its old changes are none of the new one's.
    async fn found_damaged(place: &Place, why: String, asked: &Asked) -> Result<Self, Error> {
        Beside::of(place).is_damaged(&Damage { why: why.clone(), asked: asked.clone() }).await?;
        Ok(Self::Damaged(Stop::of_all(why), asked.clone()))
    }
}

impl Stream {
    /// Goes on where the lake's tables say that it was.
    pub fn new(source: Source, settings: Settings) -> Self {
        Self {
            source,
            settings,
            tables: BTreeMap::new(),
            most: ahead::first(),
            ahead: None,
            is_behind: true,
            is_alone: false,
            let_go_of: Lsn::from(0),
        }
    }

    /// Takes what the slot has next, writes it, and lets the source forget it.
    ///
    /// A table that cannot hold what comes is stopped, and told among what the step has done; the others go on. What is
    /// wrong with the lake itself is an error of the step, after which the source keeps everything.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let mut messages = self.messages().await?;
        let mut decoder = self.source.decoder();
        let (mut step, mut skipped, mut end) = (Step::default(), Vec::new(), None);
        let (mut count, mut transactions, mut rows, mut bytes) = (0, Vec::new(), 0, 0);
        loop {
            let message = messages.next().await?;
            let is_last = message.is_none();
            if let Some(message) = message {
                count += 1;
                bytes += message.len();
                if let Some(transaction) = decoder.take(message)? {
                    rows += transaction.changes.len();
                    transactions.push(transaction);
                }
            }
            if is_last || rows >= AT_ONCE || bytes >= BYTES_AT_ONCE {
                end = self.write(&transactions, &mut step, &mut skipped).await?.or(end);
                transactions.clear();
                (rows, bytes) = (0, 0);
            }
            if is_last {
                break;
            }
        }
        self.is_behind = count >= messages.most();
        if self.is_behind {
            self.most = ahead::more(messages.most());
        } else {
            (self.most, self.ahead, self.is_alone) = (ahead::first(), None, false);
        }
        step.has_more = self.is_behind;
        let Some(end) = end else { return Ok(step) };
        fail_point!("transfer::stream.written");
        // A copy that is made after this holds what was not written.
        self.source.sees(&skipped).await?;
        // Every table has everything before it: those that are not named in it had nothing to be written.
        self.source.advance(end).await?;
        self.let_go_of = end;
        fail_point!("transfer::stream.advanced");
        Ok(step)
    }

    /// What the slot has next, from whoever reads ahead of it where there is much.
    async fn messages(&mut self) -> Result<Messages, Error> {
        let may_begin = self.is_behind && !self.is_alone && self.ahead.is_none();
        if may_begin && ahead::is_much(self.source.behind().await?) {
            match Ahead::begin(&self.source, self.most).await {
                Ok(ahead) => self.ahead = Some(ahead),
                // It would only be quicker.
                Err(error) => {
                    tracing::info!(%error, "nobody reads ahead of the slot");
                    self.is_alone = true;
                }
            }
        }
        if let Some(ahead) = &mut self.ahead {
            match ahead.next().await {
                Ok(Some(messages)) => return Ok(messages),
                Ok(None) => {}
                Err(error) => {
                    tracing::info!(%error, "nobody reads ahead of the slot any more");
                    self.is_alone = true;
                }
            }
            // The slot itself is where the lake is.
            self.ahead = None;
        }
        self.source.peek(self.most).await
    }

    /// Writes transactions; answers where the last one ends. Those of which something was not written are added to
    /// `skipped`.
    async fn write(
        &mut self,
        transactions: &[Transaction],
        step: &mut Step,
        skipped: &mut Vec<u32>,
    ) -> Result<Option<Lsn>, Error> {
        let Some(end) = transactions.last().map(|last| last.end) else { return Ok(None) };
        step.transactions += transactions.len();
        for ((schema, name), segments) in by_table(transactions) {
            let Some((first, _)) = segments.first() else { continue };
            // Somebody else's publication may tell of more.
            if self.source.meant.as_ref().is_some_and(|meant| !meant.has(schema, name)) {
                continue;
            }
            let table = self.table(first).await?;
            let rows = table.whole(async |changes| changes.take(&segments, end).await).await?;
            let rows = rows.unwrap_or_default();
            step.rows += rows;
            step.tables.push((first.full_name(), rows));
            if let Some(stop) = table.stop() {
                let xids = segments.iter().flat_map(|(_, changes)| changes).map(|(of, ..)| of.xid);
                skipped.extend(xids);
                step.stopped.extend(stop.told(schema, name));
            }
        }
        Ok(Some(end))
    }

    /// Lets the source forget everything before a position that it said before a step that found nothing.
    pub async fn let_go(&self, before: Lsn) -> Result<(), Error> {
        // A slot goes forward alone, and what was said before a step may lie behind that.
        if before <= self.let_go_of { Ok(()) } else { self.source.advance(before).await }
    }

    /// Why a table is stopped until somebody asks for it, if it is.
    pub async fn stopped(&mut self, relation: &Relation) -> Result<Option<String>, Error> {
        let stop = self.table(relation).await?.stop();
        Ok(stop.filter(|stop| !stop.is_unpublished).map(|stop| stop.why.clone()))
    }

    /// The server does not say the changes of these tables any more.
    pub(crate) async fn withhold(&mut self, tables: &[Unpublished]) -> Result<(), Error> {
        for Unpublished { schema, name, why } in tables {
            let (schema, name) = (schema.clone(), name.clone());
            let relation = Relation { schema, name, oid: 0, columns: Vec::new(), catalog: None };
            if LakeTable::is_there(&self.place(&relation)).await? {
                let table = self.table(&relation).await?;
                table.whole(async |changes| changes.withhold(why).await).await?;
            }
        }
        Ok(())
    }

    /// Whether the server did not say the changes of a table, which it says now.
    pub(crate) async fn is_withheld(&mut self, relation: &Relation) -> Result<bool, Error> {
        Ok(self.table(relation).await?.stop().is_some_and(|stop| stop.is_unpublished))
    }

    /// Keeps the files of its tables good to read; `merged` is the position of a table up to which its changes are in it.
    /// Answers those that stand still, which they may do since this has found them damaged.
    pub async fn tidy(
        &mut self,
        keep: Keep,
        relations: &[Relation],
        merged: impl Fn(&str) -> Lsn,
    ) -> Result<Vec<Stopped>, Error> {
        let mut stopped = Vec::new();
        for relation in relations {
            let merged = merged(&relation.full_name());
            let table = self.table(relation).await?;
            table.whole(async |changes| changes.tidy(keep, merged).await).await?;
            let stop = table.stop();
            stopped.extend(stop.and_then(|stop| stop.told(&relation.schema, &relation.name)));
        }
        Ok(stopped)
    }

    /// Lets tables go on that were stopped in an earlier epoch, or were asked for since.
    pub async fn begin(&mut self, relations: &[Relation]) -> Result<(), Error> {
        for relation in relations {
            if self.table(relation).await?.is_to_go_on().await? {
                self.resume(relation).await?;
            }
        }
        Ok(())
    }

    fn place(&self, relation: &Relation) -> Place {
        place_of_changes(&self.settings.lake, &relation.schema, &relation.name)
    }

    /// Lets a table go on that was stopped, with the columns that it has now. What came in between is in its changes only
    /// as a gap, so it has to be copied after this ([`crate::current::Current::copy`]).
    pub async fn resume(&mut self, relation: &Relation) -> Result<(), Error> {
        let at = self.source.let_go_of().await?;
        self.resume_at(relation, at).await
    }

    /// The same, with what comes behind a position.
    pub(crate) async fn resume_at(&mut self, relation: &Relation, at: Lsn) -> Result<(), Error> {
        self.table(relation).await?.resume(relation, at).await
    }

    async fn table(&mut self, relation: &Relation) -> Result<&mut Table, Error> {
        use std::collections::btree_map::Entry;
        let place = self.place(relation);
        let Settings { transfer, epoch, asked, .. } = &self.settings;
        match self.tables.entry((relation.schema.clone(), relation.name.clone())) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let name = relation.full_name();
                let count = asked.get(&name).copied().unwrap_or_default();
                let asked = Asked { epoch: epoch.clone(), count };
                let writer = Writer { name: format!("{transfer}/{name}"), epoch: epoch.clone() };
                Ok(entry.insert(Table::open(place, writer, relation, asked).await?))
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
