//! The kind `postgres`: a PostgreSQL server of a tenant's own.

mod backup;
mod extension;
mod idle;
mod maintenance;
pub(crate) mod manifest;
mod migrations;
pub(crate) mod network;
mod observed;
mod plan;
mod settings;
mod size;
mod spec;

pub use crate::Seen;
pub(crate) use backup::seconds;
pub use backup::{Backup, BadBackup, Drills, Every, Keep};
pub(crate) use idle::written;
pub use idle::{BadIdle, Idle};
pub use maintenance::{BadMaintenance, MaintenanceWindow};
pub use observed::{Applied, Observed, Role, Route, Session, Unit};
pub use plan::{Step, Wrong, drift, plan, roles};
pub use settings::{Setting, settings};
pub use size::{Limits, Size};
pub(crate) use spec::loopback;
pub use spec::{BadMigrationName, Major, Migration, MigrationName, Origin, Spec, Wish, amend, resolve};

/// The tenant's role in its own server: owns the database, is no superuser.
pub const OWNER_ROLE: &str = "owner";
/// Looks at everything in the tenant's database and writes nothing: for people who may only look. The owner can make no
/// role, so nobody else has the name.
pub const READER_ROLE: &str = "stead_reader";
/// Stead's own superuser inside a server; reached over the Unix socket by the control uid alone.
pub const ADMIN_ROLE: &str = "stead_admin";
/// The gateway's role: reads verifiers, nothing else.
pub const GATEWAY_ROLE: &str = "stead_gateway";
