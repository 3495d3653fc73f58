//! Which server a transfer reads.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ComponentName;
use crate::function::Variable;

/// The server that a transfer reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// One of the same stead.
    Server(ComponentName),
    /// Any other.
    Elsewhere(Elsewhere),
}

/// A server that is no part of the stead: where it is, and who signs in to it, a secret of the stead says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elsewhere {
    /// The secret that holds its URL.
    pub secret: Variable,
    /// The secret that holds the certificate of the authority that its certificate is of, in PEM; the authorities that the
    /// host trusts where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Variable>,
}

impl Origin {
    /// The server of the stead, where it is one.
    #[must_use]
    pub fn server(&self) -> Option<&ComponentName> {
        match self {
            Self::Server(name) => Some(name),
            Self::Elsewhere(_) => None,
        }
    }

    /// What is elsewhere.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Elsewhere> {
        match self {
            Self::Server(_) => None,
            Self::Elsewhere(elsewhere) => Some(elsewhere),
        }
    }

    /// Secrets that say where it is.
    pub fn secrets(&self) -> impl Iterator<Item = &Variable> {
        self.elsewhere()
            .into_iter()
            .flat_map(|elsewhere| std::iter::once(&elsewhere.secret).chain(&elsewhere.ca))
    }

    /// Whether both name the same server, as far as names tell.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Server(one), Self::Server(other)) => one == other,
            (Self::Elsewhere(one), Self::Elsewhere(other)) => one.secret == other.secret,
            _ => false,
        }
    }
}

impl From<ComponentName> for Origin {
    fn from(name: ComponentName) -> Self {
        Self::Server(name)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(name) => name.fmt(f),
            Self::Elsewhere(Elsewhere { secret, .. }) => write!(f, "the server at {secret}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_stead_is_written_by_its_name_and_another_by_its_secret() {
        let ca = Elsewhere { secret: "URL".parse().unwrap(), ca: "CA".parse().ok() };
        for (text, origin) in [
            ("\"postgres.main\"", Origin::Server("postgres.main".parse().unwrap())),
            ("{\"secret\":\"URL\"}", Origin::Elsewhere(Elsewhere { ca: None, ..ca.clone() })),
            ("{\"secret\":\"URL\",\"ca\":\"CA\"}", Origin::Elsewhere(ca)),
        ] {
            assert_eq!(serde_json::from_str::<Origin>(text).unwrap(), origin);
            assert_eq!(serde_json::to_string(&origin).unwrap(), text);
        }
        assert!(serde_json::from_str::<Origin>("{\"secret\":\"URL\",\"url\":\"x\"}").is_err());
    }
}
