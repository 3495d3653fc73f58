//! By which column rows that are new can be told, from the columns that there are.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cursor, Cursors, Grows};

/// A column that might do: never null, and a moment or a whole number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The table, as `schema.table`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it is a moment; a number otherwise.
    pub is_moment: bool,
    /// Whether it is counted up by itself: an identity, or the next number of a sequence.
    pub counts_up: bool,
    /// Whether an index begins with it.
    pub indexed: bool,
}

/// Names that people give to the moment of a row's last change.
const OF_CHANGES: [&str; 16] = [
    "updated_at",
    "updated",
    "updated_on",
    "update_time",
    "update_date",
    "updatedat",
    "last_updated",
    "last_update",
    "modified_at",
    "modified",
    "modified_on",
    "last_modified",
    "changed_at",
    "changed",
    "row_updated_at",
    "mtime",
];

impl Column {
    /// What makes it grow, going by type and name; `None` where nothing says that it grows.
    fn grows(&self) -> Option<Grows> {
        let name = self.name.to_ascii_lowercase();
        match (self.is_moment, self.counts_up) {
            (true, _) if OF_CHANGES.contains(&name.as_str()) => Some(Grows::WithUpdates),
            (true, _) if name.starts_with("created") || name.starts_with("inserted") => {
                Some(Grows::WithInserts)
            }
            (false, true) => Some(Grows::WithInserts),
            _ => None,
        }
    }
}

/// The column that serves the most of these tables; one that grows with updates before any other.
#[must_use]
pub fn cursor(tables: &BTreeSet<String>, columns: &[Column]) -> Cursors {
    let mut by_name: BTreeMap<(&str, Grows), Vec<&Column>> = BTreeMap::new();
    // One of several lines is a name to PostgreSQL, and none to a manifest.
    let can_be_named = |column: &&Column| column.name.parse::<crate::transfer::Column>().is_ok();
    for column in columns.iter().filter(|column| tables.contains(&column.table)).filter(can_be_named) {
        if let Some(grows) = column.grows() {
            by_name.entry((&column.name, grows)).or_default().push(column);
        }
    }
    // The last of those that are equal would be taken: names are looked at backwards.
    let best = by_name.into_iter().rev().max_by_key(|((_, grows), of)| {
        let indexed = of.iter().filter(|column| column.indexed).count();
        (*grows == Grows::WithUpdates, of.len(), indexed)
    });
    let Some(((name, grows), of)) = best else { return Cursors::Absent };
    let has: BTreeSet<&String> = of.iter().map(|column| &column.table).collect();
    Cursors::Column(Cursor {
        column: name.to_owned(),
        grows,
        without: tables.iter().filter(|table| !has.contains(table)).cloned().collect(),
        unindexed: of.iter().filter(|column| !column.indexed).map(|column| column.table.clone()).collect(),
    })
}
