//! Names of environment variables that a function may have of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, characters.
const LONGEST: usize = 128;

/// Variables that the contract or Stead sets.
const RESERVED: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
];

/// Name of an environment variable: `STRIPE_KEY`. A secret of a stead is called by the variable that it is put into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Variable(String);

/// A text that cannot be the name of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVariable {
    /// It is no name.
    #[error("`{0}` cannot be the name of a variable; use letters, digits and _, beginning with a letter")]
    NoName(String),
    /// The platform sets it.
    #[error("`{0}` cannot be set: the platform sets it; choose another name")]
    Reserved(String),
}

impl Variable {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Variable {
    type Err = BadVariable;
    fn from_str(text: &str) -> Result<Self, BadVariable> {
        let mut bytes = text.bytes();
        let begins = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !begins || text.len() > LONGEST || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(BadVariable::NoName(crate::manifest::shown(text)));
        }
        if RESERVED.contains(&text) || text.starts_with("AWS_LAMBDA_") {
            return Err(BadVariable::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Variable {
    type Error = BadVariable;
    fn try_from(text: String) -> Result<Self, BadVariable> {
        text.parse()
    }
}

impl From<Variable> for String {
    fn from(name: Variable) -> Self {
        name.0
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
