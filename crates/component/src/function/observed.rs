//! What a driver saw of a function.

use std::collections::BTreeSet;

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
    /// Its newest release.
    pub newest: u64,
    /// The release that the engine is told to answer with.
    pub live: Option<u64>,
    /// Releases that the engine is told of.
    pub known: BTreeSet<u64>,
    /// The engine.
    pub engine: Engine,
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
