//! How the source's table was declared when the table in the lake last looked, and whether what it has become can be
//! followed.
//!
//! A stream says changes of rows. Rows also come to be others without one: a column is added, with a value that all of
//! them have at once; a column's type is changed, and every row is written anew, with `using` as whatever; a partition is
//! attached with its rows, or dropped. What tells is the catalog: the number of a column, which is never another's; the
//! transaction that declared it; and the number of the table's file, which is another one after rows were written anew.
//! Where these say that rows may be others in a way that is not known, the table is copied anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::{Relation, Storage};

/// The property of a table in the lake that holds this.
pub(crate) const SEEN: &str = "stead.seen";

/// See above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    table: u32,
    /// The number of the column that was made last.
    width: i16,
    keys: Vec<String>,
    /// Which of its rows are published.
    filter: Option<String>,
    columns: BTreeMap<String, SeenColumn>,
    /// Tables and partitions, and the file of each.
    files: BTreeMap<u32, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenColumn {
    number: i16,
    declared: String,
    before: Option<String>,
}

impl Seen {
    /// Nothing where the catalog was not asked.
    pub(crate) fn of(relation: &Relation) -> Option<Self> {
        let catalog = relation.catalog.as_ref()?;
        let columns = relation.columns.iter().zip(&catalog.columns);
        let columns = columns.map(|(column, facts)| {
            let (number, declared, before) = (facts.number, facts.declared.clone(), facts.before.clone());
            (column.name.clone(), SeenColumn { number, declared, before })
        });
        let keys = relation.columns.iter().filter(|column| column.is_key);
        Some(Self {
            table: relation.oid,
            width: catalog.width,
            filter: catalog.filter.clone(),
            keys: keys.map(|column| column.name.clone()).collect(),
            columns: columns.collect(),
            files: catalog.files.iter().map(|storage| (storage.oid, storage.file)).collect(),
        })
    }

    /// What rows have in a column that are older than it.
    pub(crate) fn before(&self, column: &str) -> Option<&str> {
        self.columns.get(column)?.before.as_deref()
    }

    /// What is to be remembered where `relation` is what the same table has become; or why that cannot be followed.
    pub(crate) fn followed_by(&self, relation: &Relation) -> Result<Self, String> {
        let (Some(mut now), Some(catalog)) = (Self::of(relation), &relation.catalog) else {
            return Err("its catalog is not known".to_owned());
        };
        if now.table != self.table {
            return Err("another table is called so now".to_owned());
        }
        if now.keys != self.keys {
            return Err(format!("its rows are identified by {} now", now.keys.join(", ")));
        }
        if now.filter != self.filter {
            return Err("other rows of it are published now".to_owned());
        }
        let mut any_declared = false;
        for (name, column) in &mut now.columns {
            match self.columns.get(name) {
                Some(seen) if seen.number == column.number => {
                    any_declared |= seen.declared != column.declared;
                    // The server forgets it when it writes rows anew.
                    column.before = seen.before.clone().or(column.before.take());
                }
                None if column.number > self.width => any_declared = true,
                Some(_) => return Err(format!("its column `{name}` is another one of that name now")),
                None => return Err(format!("its column `{name}` was called otherwise, or not published")),
            }
        }
        let is_one = |files: &BTreeMap<u32, u32>| files.len() == 1 && files.contains_key(&self.table);
        if is_one(&self.files) && is_one(&now.files) {
            // The rows went and came again as they were, or every one was told as gone.
            if now.files != self.files && any_declared {
                return Err("its rows were written anew when a column was declared otherwise".to_owned());
            }
        } else {
            self.partitions_followed_by(&catalog.files)?;
        }
        Ok(now)
    }

    fn partitions_followed_by(&self, now: &[Storage]) -> Result<(), String> {
        let is_there = |(oid, file): (&u32, &u32)| now.iter().any(|now| now.oid == *oid && now.file == *file);
        if !self.files.iter().all(is_there) {
            return Err("a partition of it went, was emptied, or was written anew".to_owned());
        }
        if now.iter().any(|now| now.was_attached && !self.files.contains_key(&now.oid)) {
            return Err("a table was attached to it as a partition".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Catalog, Column, Facts};

    fn table(columns: &[(&str, i16, &str)], width: i16, files: &[(u32, u32, bool)]) -> Relation {
        let column =
            |name: &str| Column { name: name.into(), type_id: 23, modifier: -1, is_key: name == "id" };
        let facts = |number, declared: &str| Facts { number, declared: declared.into(), before: None };
        let storage = |&(oid, file, was_attached): &(u32, u32, bool)| Storage { oid, file, was_attached };
        Relation {
            schema: "public".into(),
            name: "t".into(),
            oid: 7,
            columns: columns.iter().map(|(name, ..)| column(name)).collect(),
            catalog: Some(Catalog {
                columns: columns.iter().map(|(_, number, declared)| facts(*number, declared)).collect(),
                width,
                filter: None,
                files: files.iter().map(storage).collect(),
            }),
        }
    }

    #[test]
    fn what_has_a_reason_to_be_copied_anew_is_told() {
        let plain = table(&[("id", 1, "10"), ("a", 2, "10")], 2, &[(7, 70, false)]);
        let parts = table(&[("id", 1, "10")], 1, &[(8, 80, false), (9, 90, false)]);
        let follows = |from: &Relation, to: Relation| Seen::of(from).unwrap().followed_by(&to).err();
        let one = &[(7, 70, false)];
        for (from, to, why) in [
            (&plain, plain.clone(), ""),
            (&plain, table(&[("id", 1, "10"), ("a", 2, "10")], 2, &[(7, 71, false)]), ""),
            (&plain, table(&[("id", 1, "10"), ("a", 2, "11")], 2, one), ""),
            (&plain, table(&[("id", 1, "10"), ("a", 2, "11")], 2, &[(7, 71, false)]), "written anew"),
            (&plain, table(&[("id", 1, "10"), ("a", 2, "10"), ("b", 3, "11")], 3, one), ""),
            (&plain, table(&[("id", 1, "10"), ("b", 2, "11")], 2, one), "called otherwise"),
            (&plain, table(&[("id", 1, "10"), ("a", 3, "11")], 3, one), "another one of that name"),
            (&plain, table(&[("id", 1, "10")], 2, one), ""),
            (&plain, table(&[("a", 2, "10")], 2, one), "identified by"),
            (&parts, table(&[("id", 1, "10")], 1, &[(8, 80, false), (9, 90, false), (11, 1, false)]), ""),
            (
                &parts,
                table(&[("id", 1, "10")], 1, &[(8, 80, false), (9, 90, false), (11, 1, true)]),
                "attached",
            ),
            (&parts, table(&[("id", 1, "10")], 1, &[(8, 80, false)]), "went"),
            (&parts, table(&[("id", 1, "10")], 1, &[(8, 80, false), (9, 91, false)]), "emptied"),
        ] {
            let said = follows(from, to).unwrap_or_default();
            assert!(if why.is_empty() { said.is_empty() } else { said.contains(why) }, "{said} ({why})");
        }
    }
}
