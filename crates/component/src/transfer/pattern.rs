//! Which tables are meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatchPattern;

use crate::manifest::{shown, unfit};

/// The longest, bytes: two names of PostgreSQL's, and the dot.
const LONGEST: usize = 127;

/// Tables by name, `schema.table`; `*` stands for any number of characters of either name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    schema: String,
    table: String,
}

/// A text that names no tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no tables; write schema and table, like public.orders or public.*")]
pub struct BadPattern(String);

impl Pattern {
    /// Whether a table is meant.
    #[must_use]
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        fits(&self.schema, schema) && fits(&self.table, table)
    }

    /// Whether it is one table.
    #[must_use]
    pub fn is_one(&self) -> bool {
        !self.schema.contains('*') && !self.table.contains('*')
    }

    /// The names of schema and table, with `*` for any number of characters.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.schema, &self.table)
    }

    /// Patterns of SQL's `like` for schema and table, with `\` before what stands for itself.
    #[must_use]
    pub fn like(&self) -> (String, String) {
        (like(&self.schema), like(&self.table))
    }
}

fn like(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len());
    for c in pattern.chars() {
        match c {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', c]),
            c => like.push(c),
        }
    }
    like
}

fn fits(pattern: &str, name: &str) -> bool {
    // No name has the character that would stand for any other.
    WildMatchPattern::<'*', '\0'>::new(pattern).matches(name)
}

impl FromStr for Pattern {
    type Err = BadPattern;
    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern(shown(text));
        let (schema, table) = text.split_once('.').ok_or_else(bad)?;
        let is_name = |name: &str| !name.is_empty() && !name.contains(['.', '"', '\'']);
        let fits = text.len() <= LONGEST && !text.chars().any(unfit) && is_name(schema) && is_name(table);
        if fits { Ok(Self { schema: schema.to_owned(), table: table.to_owned() }) } else { Err(bad()) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.schema, self.table))
    }
}

impl TryFrom<String> for Pattern {
    type Error = BadPattern;
    fn try_from(text: String) -> Result<Self, BadPattern> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_number_of_characters() {
        let fits = |pattern: &str, table: &str| pattern.parse::<Pattern>().unwrap().matches("public", table);
        assert!(fits("public.*", "orders") && fits("public.orders", "orders") && fits("*.*", ""));
        assert!(fits("pub*.o*d*s", "orders") && fits("public.*rs", "orders") && fits("public.o*", "o"));
        assert!(!fits("public.order", "orders") && !fits("sales.*", "orders"));
        assert!(!fits("public.o*x*s", "orders") && !fits("public.ord*ders", "orders"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "orders", ".orders", "public.", "a.b.c", "public.\"x\"", "public.o'x", "public.a\nb"]
        {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        assert_eq!("public.a_*%".parse::<Pattern>().unwrap().like(), ("public".into(), "a\\_%\\%".into()));
    }
}
