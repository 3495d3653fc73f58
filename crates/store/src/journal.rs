//! The journal: who did what, when, from where, from what to what, why. Append-only; the database itself
//! refuses updates and deletions of lines. Reading it is [`search`]'s.

use component::{OperationId, TenantId};
use jiff::Timestamp;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::{Error, Store};

pub mod search;

/// Who acts, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Name of the token, or `stead` for the control plane itself.
    pub name: String,
    /// Address and program: `127.0.0.1 stead/0.1.0`.
    pub source: String,
}

impl Actor {
    /// The control plane itself.
    #[must_use]
    pub fn stead() -> Self {
        Self { name: "stead".into(), source: "reconciler".into() }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused; nothing changed.
    Refused,
    /// It was seen to happen.
    Noted,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Done, Self::Refused, Self::Noted];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Noted => "noted",
        }
    }
}

/// A line to write.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose: identity and name.
    pub tenant: Option<(TenantId, String)>,
    /// The stead.
    pub stead: Option<String>,
    /// The component.
    pub component: Option<String>,
    /// Who.
    pub actor: Actor,
    /// What: `component.edited`, `drift.found`.
    pub action: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// Why, in the actor's words; or why it was refused.
    pub reason: Option<String>,
    /// Part of which operation.
    pub operation: Option<OperationId>,
    /// What it was.
    pub before: Value,
    /// What it became.
    pub after: Value,
}

impl Entry {
    /// A line of an actor about nothing in particular yet.
    #[must_use]
    pub fn new(actor: &Actor, action: &'static str, outcome: Outcome) -> Self {
        Self {
            tenant: None,
            stead: None,
            component: None,
            actor: actor.clone(),
            action,
            outcome,
            reason: None,
            operation: None,
            before: Value::Null,
            after: Value::Null,
        }
    }
}

/// A line as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Grows with every line.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Whose.
    pub tenant: Option<String>,
    /// The stead.
    pub stead: Option<String>,
    /// The component.
    pub component: Option<String>,
    /// Who.
    pub actor: String,
    /// From where.
    pub source: String,
    /// What.
    pub action: String,
    /// `done`, `refused` or `noted`.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
    /// Part of which operation.
    pub operation: Option<OperationId>,
    /// What it was; `null` also where the payload was erased.
    pub before: Value,
    /// What it became.
    pub after: Value,
    /// SHA-256 of salt and payload, in hexadecimal.
    pub payload_hash: String,
}

impl Line {
    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> search::Position {
        search::Position { at: self.at, id: self.id }
    }
}

/// Writes a line inside the caller's transaction.
pub(crate) async fn write(conn: &mut PgConnection, entry: &Entry) -> Result<i64, Error> {
    let payload = serde_json::json!({ "before": entry.before, "after": entry.after });
    let salt: [u8; 16] = rand::rng().random();
    let hash = Sha256::new().chain_update(salt).chain_update(payload.to_string()).finalize();
    let tenant = entry.tenant.as_ref();
    let id = sqlx::query_scalar!(
        "with line as (
             insert into journal (tenant_id, tenant, stead, component, actor, source, action, outcome, reason,
                                  operation_id, salt, payload_hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) returning id
         )
         insert into journal_payloads (journal_id, payload) select id, $13 from line returning journal_id",
        tenant.map(|(id, _)| id.0),
        tenant.map(|(_, name)| name.as_str()),
        entry.stead,
        entry.component,
        entry.actor.name,
        entry.actor.source,
        entry.action,
        entry.outcome.as_str(),
        entry.reason,
        entry.operation.map(|id| id.0),
        &salt[..],
        &hash[..],
        payload,
    )
    .fetch_one(&mut *conn)
    .await?;
    announce(conn, tenant.map(|(id, name)| (*id, name.as_str())), entry.stead.as_deref()).await?;
    Ok(id)
}

/// Tells those who listen that something was recorded, once the transaction commits: `<tenant id> <tenant> <stead>`.
pub(crate) async fn announce(
    conn: &mut PgConnection,
    tenant: Option<(TenantId, &str)>,
    stead: Option<&str>,
) -> Result<(), Error> {
    let (id, name) = tenant.map(|(id, name)| (id.0.to_string(), name)).unwrap_or_default();
    let text = format!("{id} {name} {}", stead.unwrap_or_default());
    sqlx::query!("select pg_notify($1, $2)", crate::SEEN_CHANNEL, text).fetch_one(conn).await?;
    Ok(())
}

impl Store {
    /// Writes a line in a transaction of its own: for refused edits and for what happened by itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn journal(&self, entry: &Entry) -> Result<i64, Error> {
        let mut tx = self.pool.begin().await?;
        let id = write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(id)
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    at: jiff_sqlx::Timestamp,
    tenant: Option<String>,
    stead: Option<String>,
    component: Option<String>,
    actor: String,
    source: String,
    action: String,
    outcome: String,
    reason: Option<String>,
    operation_id: Option<uuid::Uuid>,
    payload: Option<Value>,
    payload_hash: Vec<u8>,
}

impl From<Row> for Line {
    fn from(row: Row) -> Self {
        let mut payload = row.payload.unwrap_or(Value::Null);
        let mut part = |name: &str| payload.get_mut(name).map(Value::take).unwrap_or_default();
        Self {
            id: row.id,
            at: row.at.to_jiff(),
            tenant: row.tenant,
            stead: row.stead,
            component: row.component,
            actor: row.actor,
            source: row.source,
            action: row.action,
            outcome: row.outcome,
            reason: row.reason,
            operation: row.operation_id.map(OperationId),
            before: part("before"),
            after: part("after"),
            payload_hash: row.payload_hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}
