//! A stream: every committed change of the published tables, in order, into `<table>__changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use crate::change::{Relation, Transaction};
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Transactions that the slot had.
    pub transactions: usize,
    /// Rows that were written for them; those that were there already are not among them.
    pub rows: usize,
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
        let mut step = Step { transactions: transactions.len(), rows: 0 };
        for relation in relations(&transactions)? {
            step.rows += self.write(&relation, &transactions, end).await?;
        }
        fail_point!("transfer::stream.written");
        // Every table has everything before it: those that are not named in it had nothing to be written.
        self.source.advance(end).await?;
        fail_point!("transfer::stream.advanced");
        Ok(step)
    }

    async fn write(
        &mut self,
        relation: &Arc<Relation>,
        transactions: &[Transaction],
        end: Lsn,
    ) -> Result<usize, Error> {
        let table = self.table(relation).await?;
        let schema = table.schema()?;
        let mut rows = Rows::new(relation.clone(), &schema);
        let from = table.position().lsn;
        let mut count = 0;
        // What the table has came before: the writer was ended between that and the slot's being told.
        for transaction in transactions.iter().filter(|transaction| u64::from(transaction.end) > from) {
            let mut order = 0;
            for change in &transaction.changes {
                if is_same(&change.relation, relation) {
                    let made = rows.push(transaction, order, &change.kind)?;
                    order += made;
                    count += made;
                } else {
                    order += 2;
                }
            }
        }
        if !rows.is_empty() {
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

/// The tables that transactions change, each once. One whose columns change in the middle stops here.
fn relations(transactions: &[Transaction]) -> Result<Vec<Arc<Relation>>, Error> {
    let mut found: Vec<Arc<Relation>> = Vec::new();
    for change in transactions.iter().flat_map(|transaction| &transaction.changes) {
        match found.iter().find(|other| is_same(other, &change.relation)) {
            None => found.push(change.relation.clone()),
            Some(other) if Arc::ptr_eq(other, &change.relation) || *other == change.relation => {}
            Some(other) => {
                let why = "they were changed while rows were".to_owned();
                return Err(Error::Schema { table: other.full_name(), why });
            }
        }
    }
    Ok(found)
}

fn is_same(one: &Relation, other: &Relation) -> bool {
    std::ptr::eq(one, other) || (one.schema == other.schema && one.name == other.name)
}
