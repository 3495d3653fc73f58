//! A column by its name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::{shown, unfit};

/// The longest name of a column, bytes: PostgreSQL's.
const LONGEST: usize = 63;

/// The name of a column, as PostgreSQL has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Column(String);

/// A text that is no name of a column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a column; write it as PostgreSQL has it, like updated_at")]
pub struct BadColumn(String);

impl Column {
    /// The name, as PostgreSQL has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Column {
    type Err = BadColumn;
    fn from_str(text: &str) -> Result<Self, BadColumn> {
        let fits = (1..=LONGEST).contains(&text.len()) && !text.chars().any(unfit);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadColumn(shown(text))) }
    }
}

impl TryFrom<String> for Column {
    type Error = BadColumn;
    fn try_from(text: String) -> Result<Self, BadColumn> {
        text.parse()
    }
}

impl From<Column> for String {
    fn from(column: Column) -> Self {
        column.0
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_a_name_of_one_line() {
        assert_eq!("Updated At".parse::<Column>().unwrap().as_str(), "Updated At");
        for bad in ["", "a\nb", &"x".repeat(64)] {
            assert!(bad.parse::<Column>().is_err(), "{bad}");
        }
    }
}
