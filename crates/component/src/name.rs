//! Names that people choose, parsed once at the edge so that no `String` stands for a name inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::shown;

/// A text that is no name, and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a {what}; use 1 to {max} lower-case letters, digits and -, starting with a letter and not ending with -"
)]
pub struct BadName {
    /// What was given, shortened for display.
    pub text: String,
    /// Which name it should have been.
    pub what: &'static str,
    /// The longest allowed.
    pub max: usize,
}

fn check(text: &str, what: &'static str, max: usize) -> Result<(), BadName> {
    let bytes = text.as_bytes();
    let fits = (1..=max).contains(&bytes.len())
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last() != Some(&b'-')
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if fits {
        return Ok(());
    }
    Err(BadName { text: shown(text), what, max })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest allowed, bytes.
            pub const MAX: usize = $max;

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                check(text, $what, $max).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// Name of a tenant: `acme`.
    TenantName, "tenant name", 40
);
name!(
    /// Name of a stead within its tenant, and of an app: `flights`.
    SteadName, "stead name", 40
);
name!(
    /// What a component is called within its kind: the `main` of `postgres.main`. Also the name of a
    /// server's database.
    LocalName, "component name", 40
);

/// A kind of component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A PostgreSQL server.
    Postgres,
    /// Code that answers calls.
    Function,
    /// A server's data and changes in a lake.
    Transfer,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Function, Self::Transfer];

    /// The word for it, as in manifests and routes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Function => "function",
            Self::Transfer => "transfer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Full name of a component within its stead: `postgres.main`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentName {
    /// Its kind.
    pub kind: Kind,
    /// Its name within the kind.
    pub local: LocalName,
}

/// A text that names no component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadComponentName {
    /// It has no dot.
    #[error("`{0}` does not name a component; write kind.name, like postgres.main")]
    NoDot(String),
    /// The part before the dot is no kind.
    #[error("`{0}` is not a kind of component; the kinds are: postgres, function, transfer")]
    Kind(String),
    /// The part after the dot is no name.
    #[error(transparent)]
    Local(#[from] BadName),
}

impl FromStr for ComponentName {
    type Err = BadComponentName;
    fn from_str(text: &str) -> Result<Self, BadComponentName> {
        let Some((kind, local)) = text.split_once('.') else {
            return Err(BadComponentName::NoDot(shown(text)));
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| BadComponentName::Kind(shown(kind)))?;
        Ok(Self { kind, local: local.parse()? })
    }
}

impl TryFrom<String> for ComponentName {
    type Error = BadComponentName;
    fn try_from(text: String) -> Result<Self, BadComponentName> {
        text.parse()
    }
}

impl From<ComponentName> for String {
    fn from(name: ComponentName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.kind, self.local))
    }
}
