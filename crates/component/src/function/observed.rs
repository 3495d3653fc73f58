//! What a driver saw of a function.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Variable;
use crate::Seen;

/// A function as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether the interpreter that its release wants is on the host; true for those that want none.
    pub runtime_present: bool,
    /// Whether the package of its newest release is unpacked on the host.
    pub unpacked: bool,
    /// What the engine is told of it, against what it should be; which release is live is another question.
    pub declared: Seen,
    /// Secrets that it uses and that were never set.
    pub unset: BTreeSet<Variable>,
    /// The release that shall answer.
    pub wanted: u64,
    /// The release that shall be tried, and its share of the calls.
    pub wanted_canary: Option<(u64, u8)>,
    /// The release that the engine is told to answer with.
    pub live: Option<u64>,
    /// The release that it is told to try.
    pub canary: Option<Canary>,
    /// Why the engine has stopped trying that, by itself; until it is told so.
    pub returned: Option<String>,
    /// Releases that the engine is told of.
    pub known: BTreeSet<u64>,
    /// The engine.
    pub engine: Engine,
}

/// A release that is tried on a share of the calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Which.
    pub release: u64,
    /// Per cent of the calls, 1 to 99.
    pub percent: u8,
    /// Why it gets none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<String>,
}

/// What the engine says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Engine {
    /// Nothing: it does not run, or does not answer.
    #[default]
    Down,
    /// It serves what it is told.
    Serves,
    /// It cannot open the function's port.
    NoPort(String),
}
