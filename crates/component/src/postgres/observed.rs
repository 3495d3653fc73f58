//! What a driver saw of a server.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Migration;
use crate::Seen;
use crate::status::Backups;

/// A server as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether its engine is on the host.
    pub engine_present: bool,
    /// Whether its tree (data and all) is at one of its places. All else here was seen there.
    pub tree: bool,
    /// Whether that is its other place: it has to be moved.
    pub elsewhere: bool,
    /// Whether something is left of it at the place that it is not at.
    pub leftovers: bool,
    /// Whether the data directory inside the tree is there.
    pub data: bool,
    /// Its configuration files, against what the spec renders to.
    pub files: Seen,
    /// Its unit's declaration, against what the spec renders to.
    pub declared: Seen,
    /// Its process.
    pub unit: Unit,
    /// What it says itself, where it answers.
    pub session: Option<Session>,
    /// Why it does not answer though its process runs.
    pub unreachable: Option<String>,
    /// What the archiver is told of it, against what it should be.
    pub archive: Seen,
    /// How its backups stand, where somebody says.
    pub backups: Option<Backups>,
    /// Whether its host is busy with a drill, of this server's backups or another's.
    pub drilling: bool,
    /// Its front door.
    pub route: Route,
}

/// The process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Unit {
    /// Nothing is known of it.
    #[default]
    Absent,
    /// It does not run.
    Stopped,
    /// It sleeps until a client needs it.
    Asleep,
    /// It runs.
    Running,
    /// It is on its way down.
    Stopping,
    /// It ended by itself and is tried again; what it said last.
    Failing(String),
}

/// What the server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// `server_version`: `18.6`.
    pub version: String,
    /// Values of the settings that the spec owns, every one of them, as PostgreSQL shows them in the database
    /// `postgres`: in its own database the owner may say `alter database … set`, which no reload undoes.
    pub settings: BTreeMap<String, String>,
    /// Whether a setting waits for a restart.
    pub pending_restart: bool,
    /// Whether the configuration files hold an error, other than that a setting waits for a restart (which
    /// `pg_file_settings` reports as one too).
    pub config_error: Option<String>,
    /// Every role that is not PostgreSQL's own, by name.
    pub roles: BTreeMap<String, Role>,
    /// Whether the verifiers of owner and reader are those that Stead keeps.
    pub password_set: bool,
    /// Whether the server's own helpers (schema `stead`) are in place.
    pub helpers: bool,
    /// Databases, but for templates and `postgres`, with the role that owns each.
    pub databases: BTreeMap<String, String>,
    /// Extensions of the tenant's database.
    pub extensions: Vec<String>,
    /// Migrations that ran, in the order they ran.
    pub applied: Vec<Applied>,
    /// Bytes of all databases.
    pub disk_bytes: u64,
}

/// A role's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are PostgreSQL's own columns")]
pub struct Role {
    /// May do anything.
    pub superuser: bool,
    /// May sign in.
    pub login: bool,
    /// May create roles.
    pub createrole: bool,
    /// May create databases.
    pub createdb: bool,
    /// May stream WAL.
    pub replication: bool,
    /// Is not bound by row security.
    pub bypassrls: bool,
    /// Roles it is a member of, sorted.
    pub member_of: Vec<String>,
}

/// A migration that ran.
pub type Applied = Migration;

/// The front door as the gateway has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// The route file against what the spec renders to.
    pub declared: Seen,
    /// Who may connect as the file has it.
    pub allow: Vec<IpNet>,
    /// Whether the gateway has it in force.
    pub in_force: bool,
    /// Why the gateway cannot serve it.
    pub error: Option<String>,
}
