//! The kind `transfer`: what is in a server, of the stead or elsewhere, and every change of it, in a lake of its own or a
//! bucket.

pub mod advice;
mod bucket;
mod column;
mod condition;
pub(crate) mod manifest;
mod observed;
mod origin;
mod overlap;
mod pattern;
mod plan;
mod progress;
mod spec;
mod tables;

pub use crate::Seen;
pub use bucket::{BadEndpoint, BadLocation, BadRegion, Bucket, Endpoint, Location, Reached, Region};
pub use column::{BadColumn, Column};
pub use condition::{BadCondition, Condition};
pub use observed::{Inside, Leaving, Observed, Process, Server, Unknown};
pub use origin::{Elsewhere, Origin};
pub use overlap::{BadOverlap, Overlap};
pub use pattern::{BadPattern, Pattern};
pub use plan::{Step, drift, plan};
pub use progress::{Behind, Copying, Progress, Table, TableState};
pub use spec::{Asked, BadEvery, BadKept, Every, Kept, Mode, NoTable, Spec, Wish, amend, resolve};
pub(crate) use spec::{reads_what_is_there, writes_alone};
pub use tables::{Part, Tables};

/// Memory of a transfer's two processes, MiB: the one that copies, and the one that answers questions about the lake.
pub const COPIER_MIB: u64 = 512;
/// See [`COPIER_MIB`].
pub const LAKE_MIB: u64 = 512;
/// Both.
pub const MEMORY_MIB: u64 = COPIER_MIB + LAKE_MIB;
