//! Which tables are meant, and what of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Column, Condition, Pattern};

/// What of a table is meant; all where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// These columns, and those that identify the rows; all where there are none.
    pub columns: BTreeSet<Column>,
    /// All columns but these.
    pub without: BTreeSet<Column>,
    /// The rows of which this is true.
    pub rows: Option<Condition>,
}

/// Tables by name, and what of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Item>", into = "Vec<Item>")]
pub struct Tables(BTreeMap<Pattern, Part>);

/// One of them as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Item {
    Whole(Pattern),
    Part(Named),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: Pattern,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    columns: BTreeSet<Column>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    without: BTreeSet<Column>,
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    rows: Option<Condition>,
}

impl Part {
    /// Whether it is all.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }
}

impl Tables {
    /// All tables of the schema `public`.
    #[must_use]
    pub fn public() -> Self {
        "public.*".parse().ok().map(|all| (all, Part::default())).into_iter().collect()
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no table is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which tables.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.0.keys()
    }

    /// What is not whole, in the order in which it counts: of several that mean a table the first does, which is the one
    /// that says most of its name.
    #[must_use]
    pub fn parts(&self) -> Vec<(&Pattern, &Part)> {
        let mut parts: Vec<_> = self.0.iter().filter(|(_, part)| !part.is_whole()).collect();
        parts.sort_by_key(|(pattern, _)| (!pattern.is_one(), Reverse(pattern.to_string().len())));
        parts
    }
}

impl FromIterator<(Pattern, Part)> for Tables {
    fn from_iter<I: IntoIterator<Item = (Pattern, Part)>>(tables: I) -> Self {
        Self(tables.into_iter().collect())
    }
}

impl From<Vec<Item>> for Tables {
    fn from(items: Vec<Item>) -> Self {
        let tables = items.into_iter().map(|item| match item {
            Item::Whole(name) => (name, Part::default()),
            Item::Part(Named { name, columns, without, rows }) => (name, Part { columns, without, rows }),
        });
        tables.collect()
    }
}

impl From<Tables> for Vec<Item> {
    fn from(tables: Tables) -> Self {
        let items = tables.0.into_iter().map(|(name, part)| match part.is_whole() {
            true => Item::Whole(name),
            false => {
                let Part { columns, without, rows } = part;
                Item::Part(Named { name, columns, without, rows })
            }
        });
        items.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_written_as_they_are_read() {
        let written = json!([
            "public.*",
            {"name": "public.customers", "without": ["email"], "where": "\"country\" = 'DE'"},
            {"name": "public.orders", "columns": ["id", "total"]},
        ]);
        let tables: Tables = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(json!(tables), written);
        assert!(serde_json::from_value::<Tables>(json!([{"name": "public.a", "were": "a = 1"}])).is_err());
    }

    #[test]
    fn what_says_most_of_a_name_counts() {
        let part = |name: &str| json!({"name": name, "without": ["email"]});
        let tables = json!([part("*.*"), part("public.*"), part("a.b"), "public.x"]);
        let tables: Tables = serde_json::from_value(tables).unwrap();
        let order: Vec<_> = tables.parts().iter().map(|(pattern, _)| pattern.to_string()).collect();
        assert_eq!(order, ["a.b", "public.*", "*.*"]);
    }
}
