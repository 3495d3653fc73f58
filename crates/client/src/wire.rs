//! What goes over the wire, in the API's own words.

mod query;

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

/// Where clients reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
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
    /// `apply`, `delete`, `rotate`, `move`, `clone` or `swap`.
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

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Which; never given to another.
    pub id: String,
    /// When.
    pub at: String,
    /// Who said it: `postgres`, `gateway`, `keeper`, `archiver` or `stead`.
    pub source: String,
    /// Of which stead, as it was called then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// Of which component, as it was called then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// How grave, in one scale for all: `debug`, `info`, `warning`, `error` or `fatal`.
    pub level: String,
    /// The same in the program's own word: `LOG`, `ERROR`, `FATAL` and so on.
    pub severity: String,
    /// What was said.
    pub message: String,
    /// The line was longer; the rest is not kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// The whole line as it was written; of what is not JSON the text, under `text`.
    #[schema(value_type = Object)]
    pub fields: Value,
}

/// A member of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Identity of the person.
    pub id: Uuid,
    /// What the journal calls them: an e-mail address.
    pub name: String,
    /// `owner`, `developer`, `auditor` or `viewer`.
    pub role: MemberRole,
    /// Whether the company's identity provider says so; it is edited there then.
    pub provided: bool,
    /// Whether they sign in with a second factor of Stead's.
    pub second_factor: bool,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When they last signed in.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub signed_in_at: Option<Timestamp>,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Edits steads, and says who the members are.
    Owner,
    /// Edits steads, reads and writes data.
    Developer,
    /// Reads and exports the record; no data.
    Auditor,
    /// Looks, data included.
    Viewer,
}

/// A member as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with role")]
pub struct MemberRequest {
    /// What they shall be.
    pub role: MemberRole,
}

/// An invitation as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with name and role")]
pub struct InvitationRequest {
    /// Whom: an e-mail address.
    #[schema(min_length = 3, max_length = 200)]
    pub name: String,
    /// What they become.
    pub role: MemberRole,
}

/// An invitation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Identity.
    pub id: Uuid,
    /// Whom.
    pub name: String,
    /// What they become.
    pub role: String,
    /// Who made it.
    pub made_by: String,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// The link, in the answer to its making and never again; whoever has it is let in, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation({} {} {})", self.id, self.name, self.role)
    }
}

/// A person of the platform's own that is invited, or signed in once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with name, role and once")]
pub struct StaffRequest {
    /// Whom: an e-mail address.
    #[schema(min_length = 3, max_length = 200)]
    pub name: String,
    /// What they become.
    pub role: StaffRole,
    /// Whether the link signs in by itself, within minutes, without a password to choose.
    #[serde(default)]
    pub once: bool,
}

/// What the platform's own people may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StaffRole {
    /// Everything, in every tenant.
    Operator,
    /// Looking, in every tenant; no data.
    Support,
}

/// Lines of a log, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// What is on it.
    pub items: Vec<LogLine>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Parts of the store that cannot be read, in words; what was in them is not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// The last line of a stream: it is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEnd {
    /// How it ended.
    pub end: LogSum,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogSum {
    /// Lines in it.
    pub lines: u64,
    /// Parts of the store that cannot be read, in words.
    pub damaged: Vec<String>,
    /// Why it ended before its end, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How many lines there were over time, and what was changed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogHistogram {
    /// Time of each bucket, milliseconds.
    pub width_ms: u64,
    /// One after the other, without gaps.
    pub buckets: Vec<LogBucket>,
    /// Lines in all.
    pub total: u64,
    /// What is on record of the same time, newest first; at most 500.
    pub changes: Vec<LogChange>,
    /// Parts of the store that cannot be read, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// Lines of some time, by how grave they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogBucket {
    /// Its first moment.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Lines for who looks for a mistake in a program.
    pub debug: u64,
    /// What happened.
    pub info: u64,
    /// What may become a trouble.
    pub warning: u64,
    /// What failed.
    pub error: u64,
    /// What ended a session or a server.
    pub fatal: u64,
}

/// A line of the history, as a mark on the axis of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogChange {
    /// Its place in the journal.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What: `component.edited`, `drift.found`.
    pub action: String,
    /// The stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// The component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
}

/// A token as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with name, scope and, but for operators and support, tenant"
)]
pub struct TokenRequest {
    /// What it is called in the journal.
    #[schema(min_length = 1, max_length = 60)]
    pub name: String,
    /// `operator`, `developer` or `viewer`.
    pub scope: TokenScope,
    /// Whose; needed but for operators and support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Days until it ends; left out: it does not end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3650)]
    pub days: Option<u16>,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    /// Everything, in every tenant.
    Operator,
    /// Looking, in every tenant; no data.
    Support,
    /// Everything in one tenant but its quota and its tokens.
    Owner,
    /// Like owner, but for its members.
    Developer,
    /// Looking, in one tenant, and exporting its record; no data.
    Auditor,
    /// Looking, in one tenant, its data included; no passwords.
    Viewer,
}

/// A token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Identity.
    pub id: Uuid,
    /// What it is called in the journal.
    pub name: String,
    /// What it allows.
    pub scope: TokenScope,
    /// Whose.
    pub tenant: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Until when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// The token itself, in the answer to its making and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} {} {:?})", self.id, self.name, self.scope)
    }
}
