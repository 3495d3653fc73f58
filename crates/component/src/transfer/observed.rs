//! What a driver saw of a transfer.

use super::Progress;
use crate::function::Variable;
use crate::postgres::{Route, Unit};
use crate::{Condition, ConditionKind, Seen};

/// A transfer as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether its tree, with the lake in it, is there.
    pub tree: bool,
    /// The server that it reads.
    pub server: Server,
    /// What of it is inside that server; absent where nobody could look.
    pub inside: Option<Inside>,
    /// Its files, against what the spec renders to.
    pub files: Seen,
    /// The process that copies.
    pub copier: Process,
    /// The process that answers questions about the lake.
    pub lake: Process,
    /// The way to that.
    pub route: Route,
    /// What the copier says.
    pub progress: Option<Progress>,
    /// Why it is not known where a server elsewhere is.
    pub unknown: Option<Unknown>,
    /// Whether the copier has taken away what is of it at a server elsewhere.
    pub leaving: Leaving,
}

/// Why it is not known where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// The secret that says so was never set.
    Unset(Variable),
    /// What it holds is of no use; why not, without a word of it.
    Unfit(Variable, String),
}

impl Unknown {
    /// What a person should know.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let message = match self {
            Self::Unset(name) => format!("there is no secret {name}; set it with `stead secret set {name}`"),
            Self::Unfit(name, why) => {
                format!("the secret {name} {why}; set it again with `stead secret set {name}`")
            }
        };
        Condition { kind: ConditionKind::SecretMissing, message }
    }
}

/// How far the copier of a transfer that goes has come with what is of it at a server elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leaving {
    /// It was not told to take anything away.
    #[default]
    Unasked,
    /// It was, and has not answered.
    UnderWay,
    /// Nothing is left there.
    Done,
    /// It could not: what is left, and what has to be done by somebody else.
    Remains(String),
}

/// The server that a transfer reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Server {
    /// It is not there, or on its way out.
    #[default]
    Gone,
    /// It does not answer, or not yet.
    Down,
    /// It sleeps until somebody needs it.
    Asleep,
    /// It answers.
    Up,
    /// It is no part of the stead: what is known of it the copier says.
    Elsewhere,
}

/// What of a transfer is inside its server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inside {
    /// The role that it signs in with, and what that may do, against what they should be.
    pub role: Seen,
    /// Whether the server keeps changes for it.
    pub slot: bool,
}

/// A process of a transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its unit's declaration, against what the spec renders to.
    pub declared: Seen,
    /// The process itself.
    pub unit: Unit,
}
