//! A stream: every committed change of the published tables, in order, into `<table>__changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use crate::change::{Change, Kind, Relation, Transaction};
use crate::decode::Decoder;
use crate::lake::{LakeTable, Writer};
use crate::rows::Rows;
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
}

/// A stream under way.
pub struct Stream {
    source: Source,
    settings: Settings,
    tables: BTreeMap<(String, String), LakeTable>,
}

impl Stream {
    /// Goes on where the lake's tables say that it was.
    pub fn new(source: Source, settings: Settings) -> Self {
        Self { source, settings, tables: BTreeMap::new() }
    }

    /// Takes what the slot has next, writes it, and lets the source forget it.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let messages = self.source.peek(BATCH).await?;
        let mut decoder = Decoder::new();
        let mut transactions = Vec::new();
        for message in messages {
            transactions.extend(decoder.take(message)?);
        }
        let Some(end) = transactions.last().map(|last| last.end) else { return Ok(Step::default()) };
        let mut step = Step { transactions: transactions.len(), ..Step::default() };
        for (relation, changes) in by_table(&transactions)? {
            let rows = self.write(&relation, &changes, end).await?;
            step.rows += rows;
            step.tables.push((relation.full_name(), rows));
        }
        fail_point!("transfer::stream.written");
        // Every table has everything before it: those that are not named in it had nothing to be written.
        self.source.advance(end).await?;
        fail_point!("transfer::stream.advanced");
        Ok(step)
    }

    /// Lets the source forget everything before a position that it said before a step that found nothing.
    pub async fn let_go(&self, before: Lsn) -> Result<(), Error> {
        self.source.advance(before).await
    }

    async fn write(
        &mut self,
        relation: &Arc<Relation>,
        changes: &[Placed<'_>],
        end: Lsn,
    ) -> Result<usize, Error> {
        let table = self.table(relation).await?;
        let schema = table.schema()?;
        let mut rows = Rows::new(relation.clone(), &schema);
        let from = table.position().lsn;
        // What the table has came before: the writer was ended between that and the slot's being told.
        for (transaction, place, kind) in changes.iter().filter(|(of, ..)| u64::from(of.end) > from) {
            rows.push(transaction, *place, kind)?;
        }
        let count = rows.count();
        if count > 0 {
            table.append(rows.finish(schema)?, end).await?;
        }
        Ok(count)
    }

    async fn table(&mut self, relation: &Relation) -> Result<&mut LakeTable, Error> {
        use std::collections::btree_map::Entry;
        let Settings { transfer, epoch, lake } = &self.settings;
        match self.tables.entry((relation.schema.clone(), relation.name.clone())) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut place = lake.clone();
                if let Ok(mut parts) = place.path_segments_mut() {
                    parts.pop_if_empty().extend([&relation.schema, &format!("{}__changes", relation.name)]);
                }
                let name = format!("{transfer}/{}", relation.full_name());
                let writer = Writer { name, epoch: epoch.clone() };
                Ok(entry.insert(LakeTable::open_changes(&place, writer, relation).await?))
            }
        }
    }
}

/// A change, with its transaction and its place there.
type Placed<'t> = (&'t Transaction, usize, &'t Kind);

/// A table, and its changes in their order.
type Changed<'t> = (Arc<Relation>, Vec<Placed<'t>>);

/// Changes by the table that they change. One whose columns change in the middle stops here.
fn by_table(transactions: &[Transaction]) -> Result<Vec<Changed<'_>>, Error> {
    let mut found: BTreeMap<(&str, &str), Changed<'_>> = BTreeMap::new();
    for transaction in transactions {
        for (place, Change { relation, kind }) in transaction.changes.iter().enumerate() {
            let table = (relation.schema.as_str(), relation.name.as_str());
            let (of, changes) = found.entry(table).or_insert_with(|| (relation.clone(), Vec::new()));
            if !Arc::ptr_eq(of, relation) && of != relation {
                let why = "they were changed while rows were".to_owned();
                return Err(Error::Schema { table: relation.full_name(), why });
            }
            changes.push((transaction, place, kind));
        }
    }
    Ok(found.into_values().collect())
}
