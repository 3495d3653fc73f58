//! The kind `function`: code of a tenant's own that answers calls, by AWS Lambda's contract.

mod egress;
pub(crate) mod manifest;
mod observed;
mod package;
mod plan;
mod runtime;
mod schedule;
mod spec;
mod variable;

pub use crate::Seen;
pub use egress::{BadEgress, Egress};
pub use observed::{Canary, Engine, Observed};
pub use package::{BadDigest, Digest, LARGEST_UNPACKED, LARGEST_ZIP};
pub use plan::{Step, drift, plan};
pub use runtime::{RUNTIMES, Runtime, RuntimeFacts, UnknownRuntime};
pub use schedule::{BadSchedule, Missed, Schedule};
pub(crate) use spec::uses_what_is_there;
pub use spec::{Access, Spec, Wish, amend, resolve};
pub use variable::{BadVariable, Variable};
