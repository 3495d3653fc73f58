//! What a driver saw of a transfer.

use super::Progress;
use crate::Seen;
use crate::postgres::{Route, Unit};

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
