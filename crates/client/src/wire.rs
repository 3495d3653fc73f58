//! What goes over the wire, in the API's own words.

mod logs;
mod people;
mod query;

pub use logs::*;
pub use people::*;
pub use query::*;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// An error, as RFC 9457 has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem, for programs: `quota-exceeded`, `not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened and what to do.
    pub detail: String,
    /// Fields of the request that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}

/// A field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// JSON pointer to it: `/postgres/main/size`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Whether the control plane can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of Stead.
    pub version: String,
}

/// What a tenant may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object of the numbers servers, memory_mib and disk_mib")]
pub struct Quota {
    /// Servers, count.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub servers: i64,
    /// Sum of their memory limits, MiB.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub memory_mib: i64,
    /// Sum of their disk limits, MiB.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub disk_mib: i64,
}

/// A tenant as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object, which may have a quota and log_days")]
pub struct TenantRequest {
    /// What it may use; left out: the default for a new one, unchanged for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Days that its log lines are kept; left out: 30 for a new one, unchanged for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3650)]
    pub log_days: Option<u16>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// What it may use.
    pub quota: Quota,
    /// Days that its log lines are kept.
    pub log_days: u16,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A stead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stead {
    /// Whose.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// The app it is an installation of.
    pub app: String,
    /// Counts edits; the `ETag`.
    pub generation: i64,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// How it is doing, as its worst component: `asleep`, `ready`, `busy`, `deleting` or `attention`.
    pub health: String,
    /// Its components.
    pub components: Vec<Component>,
    /// The operation that brings the last edit about, in an answer to that edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// How many steads are doing how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetHealth {
    /// All of them.
    pub steads: i64,
    /// Asleep until a client needs them.
    pub asleep: i64,
    /// As wanted.
    pub ready: i64,
    /// Being made or changed.
    pub busy: i64,
    /// Being removed.
    pub deleting: i64,
    /// A person should look.
    pub attention: i64,
}

/// A component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    /// Its name: `postgres.main`.
    pub name: String,
    /// `creating`, `ready`, `updating`, `blocked` or `deleting`.
    pub phase: String,
    /// How it is doing: `asleep`, `ready`, `busy` (being made or changed), `deleting`, or `attention`: blocked, failing,
    /// drifted, or with a condition.
    pub health: String,
    /// Whether it sleeps until a client needs it.
    pub asleep: bool,
    /// What is wanted.
    #[schema(value_type = Object)]
    pub spec: Value,
    /// Counts edits.
    pub generation: i64,
    /// The last generation that was brought about.
    pub observed_generation: i64,
    /// What runs: `18.6`.
    pub version: Option<String>,
    /// The release of a function that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
    /// The release that is tried on a share of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// How far a transfer has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// Where clients reach it.
    pub endpoint: Option<Endpoint>,
    /// What a person should know; empty when all is well.
    pub conditions: Vec<Condition>,
    /// What differs though nobody asked for it; it is being put right.
    pub drift: Vec<Difference>,
    /// What is being done.
    pub step: Option<String>,
    /// Why the last attempt failed; it is tried again.
    pub last_error: Option<String>,
    /// Bytes on disk, when last measured.
    pub disk_bytes: Option<u64>,
    /// How its backups stand.
    pub backups: Option<Backups>,
    /// When its next maintenance window opens.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub maintenance_at: Option<Timestamp>,
    /// When it was last looked at.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
}

/// How far a transfer has come, as it said itself when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transfer {
    /// When it said so.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What its mode promises, and what it does not.
    pub promise: String,
    /// Its tables, by name.
    pub tables: Vec<TransferTable>,
    /// Milliseconds since the lake had everything, 0 where it has; absent where the server was not asked. Of tables that
    /// are read at intervals: since they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
    /// Bytes of the server's log that were not looked at yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_bytes: Option<u64>,
    /// Bytes of its log that the server keeps for the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_bytes: Option<u64>,
    /// Bytes that it may still keep; then it lets go of them, and the transfer stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_bytes: Option<u64>,
    /// Why nothing goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Something that should be otherwise in the server, though all goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// A table of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferTable {
    /// `public.flights`.
    pub name: String,
    /// `waiting`, `copying`, `following`, `copied` or `stopped`.
    pub state: String,
    /// Rows of the last copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Rows so far of the copy under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying_rows: Option<u64>,
    /// Rows that it may come to have, where the server has an idea of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_rows: Option<u64>,
    /// Changes, or newer rows, that were written since its process began.
    pub changes: u64,
    /// Why it stands still, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl TransferTable {
    /// How far the copy under way has come, as people say it.
    pub fn copying(&self) -> Option<String> {
        let expected = |of| format!(" of about {of}");
        let of = self.expected_rows.map(expected).unwrap_or_default();
        self.copying_rows.map(|rows| format!("{rows}{of} rows so far"))
    }
}

/// A release that is tried on a share of the calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Canary {
    /// Which.
    pub release: u64,
    /// Per cent of the calls; who got it once gets it again.
    #[schema(minimum = 1, maximum = 99)]
    pub percent: u8,
    /// Why it gets none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<String>,
}

/// A secret of a stead. Its value is never told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Its name, which is that of the variable in a function's environment.
    pub name: String,
    /// Counts the values that it had.
    pub version: i64,
    /// Who set it last.
    pub set_by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub set_at: Timestamp,
    /// The components that use it.
    pub used_by: Vec<String>,
}

/// The value of a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with value")]
pub struct SecretRequest {
    /// What functions find in the variable.
    #[schema(min_length = 1, max_length = 4096, pattern = "^[^\\x00]*$")]
    pub value: String,
}

impl std::fmt::Debug for SecretRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretRequest").finish_non_exhaustive()
    }
}

/// A release of a function: as it was, and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Its number: the generation of the component that brought it.
    pub number: i64,
    /// Whether it answers.
    pub live: bool,
    /// Per cent of the calls that it gets, while it is tried beside the one that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_percent: Option<u8>,
    /// Who made it.
    pub actor: String,
    /// The release that it brought back, where it was a rollback.
    pub brings_back: Option<i64>,
    /// What it runs.
    #[schema(value_type = Object)]
    pub spec: Value,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invocation {
    /// Its identity, as in the function's log.
    pub request_id: String,
    /// The release that answered; none where the event was only taken.
    pub release: Option<i64>,
    /// `Unhandled` where the handler failed; `payload` then says how.
    pub error: Option<String>,
    /// The handler's answer.
    #[schema(value_type = Value)]
    pub payload: Value,
    /// The end of what it wrote, at most 4 KiB.
    pub log: String,
}

/// A package that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Package {
    /// SHA-256 of the zip, in hexadecimal.
    pub sha256: String,
}

/// How the backups of a server stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backups {
    /// The oldest moment that can be restored; none before the first backup is complete.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Option<Timestamp>,
    /// The newest, when it was last looked at.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub newest: Option<Timestamp>,
    /// Base backups that are kept.
    pub count: u32,
    /// When the last of them was complete.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<Timestamp>,
    /// Bytes that they and the log take in the store.
    pub bytes: u64,
    /// Bytes of log that were written and are not in the store yet.
    pub behind_bytes: u64,
    /// The last drill.
    pub drill: Option<Drill>,
}

/// A drill: the newest backup was restored, checked and thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drill {
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Up to when what was restored reached; none where it failed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub reached: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Where clients reach a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database; empty for a function.
    pub database: String,
    /// Role; empty for a function.
    pub role: String,
}

/// Something a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// Which kind of thing: `migration_failed`.
    pub kind: String,
    /// What happened and what to do.
    pub message: String,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Which field.
    pub field: String,
    /// What it was.
    #[schema(value_type = Value)]
    pub before: Value,
    /// What it is or shall be.
    #[schema(value_type = Value)]
    pub after: Value,
}

/// What an edit would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Generation of the stead that the plan was made for; 0 where it is not there yet.
    pub generation: i64,
    /// By component.
    pub changes: Vec<ComponentChange>,
}

/// What an edit does to one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComponentChange {
    /// Which.
    pub component: String,
    /// `create`, `update`, `delete` or `keep`.
    pub action: String,
    /// Whether clients notice: the server restarts.
    pub restarts: bool,
    /// The fields that differ.
    pub differences: Vec<Difference>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Identity.
    pub id: Uuid,
    /// On which stead.
    pub stead: String,
    /// `apply`, `delete`, `rotate`, `move`, `clone`, `swap` or `rollback`.
    pub kind: String,
    /// `running`, `succeeded` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Who asked.
    pub actor: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// How far each of its components is.
    pub targets: Vec<OperationTarget>,
}

/// A component that an operation works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationTarget {
    /// Its name.
    pub component: String,
    /// `running`, `succeeded` or `failed`.
    pub state: String,
    /// What is being done.
    pub step: Option<String>,
}

/// How to sign in to a server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credentials {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// Password.
    pub password: String,
    /// The other way in: the port that every server shares, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedAddress>,
}

/// A server at the port that every server shares: by its host name it is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedAddress {
    /// Host name; clients have to send it in TLS (SNI), as nearly all do.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}@{}:{}/{})", self.role, self.host, self.port, self.database)
    }
}

/// A page of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// The lines, newest first.
    pub items: Vec<HistoryLine>,
    /// Give it as `cursor` for older lines; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Give it as `cursor` for newer lines, which may come to be only later; absent where there is no line to begin at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer: Option<String>,
    /// The search ended at this moment because it had looked at as many lines as it may for one page: there may be
    /// more beyond, also where this page is empty. Go on by the cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub looked_to: Option<Timestamp>,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryLine {
    /// Grows with every line.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whose.
    pub tenant: Option<String>,
    /// Which stead.
    pub stead: Option<String>,
    /// Which component.
    pub component: Option<String>,
    /// Who.
    pub actor: String,
    /// From where, by which program.
    pub source: String,
    /// What: `component.edited`.
    pub action: String,
    /// What sort of thing: `change`, `operation`, `engine`, `sign_in` or `access`.
    pub category: String,
    /// `done`, `refused` or `noted`.
    pub outcome: String,
    /// Why, or why it was refused.
    pub reason: Option<String>,
    /// Part of which operation.
    pub operation: Option<Uuid>,
    /// The fields that changed, from what to what.
    pub differences: Vec<Difference>,
    /// SHA-256 of the salted payload, in hexadecimal.
    pub payload_hash: String,
}

/// What a connection becomes that begins an inspection of a function, or that belongs to one.
pub const INSPECTION_PROTOCOL: &str = "stead-inspection";
/// Header of the answer: which inspection.
pub const INSPECTION_ID: &str = "stead-inspection";
