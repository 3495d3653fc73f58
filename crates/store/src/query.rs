//! SQL that people ran in the console.
//!
//! Two records are kept of each. The **journal** has a line that it was run: who, as which role, where, for how long, how
//! many rows, how it ended, and a keyed hash of the text. It is for auditors, so the text is not in it: texts hold
//! passwords and people's data, and the journal is for ever. With the hash it can be proved later that a text is the
//! one that was run; without the installation key nobody can try texts against it.
//!
//! The **history** has the text, sealed, for its author alone, and for a while.
//!
//! A query is on record before it begins. One whose process ended under it is closed as `lost` when it must be over.

use component::{ComponentName, SteadName, TenantId};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use sha2::Sha256;
use uuid::Uuid;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store};

/// Of a text so much is kept, bytes.
const KEPT_TEXT: usize = 64 * 1024;
/// So many queries are kept of one person in one tenant.
const KEPT: i64 = 500;
/// And for so long, days.
const KEPT_DAYS: i32 = 90;
/// Lost ones that are closed in one go.
const BATCH: i64 = 100;

/// A query that is about to run.
pub struct NewQuery<'a> {
    /// Identity.
    pub id: Uuid,
    /// Whose database.
    pub tenant: TenantId,
    /// Which stead.
    pub stead: &'a SteadName,
    /// Which component.
    pub component: &'a ComponentName,
    /// Who, as the history knows them.
    pub person: &'a str,
    /// Who, as the journal knows them.
    pub actor: &'a Actor,
    /// As which role of the database.
    pub role: &'a str,
    /// Whether it was to change nothing.
    pub read_only: bool,
    /// The text.
    pub sql: &'a str,
    /// By when it is over, seconds from now.
    pub within_seconds: f64,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It came to its end.
    Done,
    /// The database refused it, or was lost.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// A limit ended it.
    CutOff,
}

impl End {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::CutOff => "cut_off",
        }
    }
}

/// What came of a query.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How.
    pub end: End,
    /// What the database called it, where it refused.
    pub sqlstate: Option<String>,
    /// How long it took, milliseconds.
    pub duration_ms: i64,
    /// Rows that came back.
    pub rows: i64,
    /// Bytes that came back.
    pub bytes: i64,
}

/// A query of the history.
#[derive(Debug, Clone)]
pub struct Query {
    /// Identity.
    pub id: Uuid,
    /// Which stead.
    pub stead: String,
    /// Which component.
    pub component: String,
    /// As which role.
    pub role: String,
    /// Whether it was to change nothing.
    pub read_only: bool,
    /// When.
    pub started_at: Timestamp,
    /// How it ended; `None` while it runs.
    pub outcome: Option<String>,
    /// What the database called it, where it refused.
    pub sqlstate: Option<String>,
    /// How long it took, milliseconds.
    pub duration_ms: Option<i64>,
    /// Rows that came back.
    pub rows: Option<i64>,
    /// Its text, or the beginning of it.
    pub sql: SecretString,
    /// Whether it is only the beginning.
    pub cut: bool,
}

/// Which queries.
pub struct Wanted<'a> {
    /// In which tenant.
    pub tenant: TenantId,
    /// Whose.
    pub person: &'a str,
    /// At which component.
    pub at: (&'a SteadName, &'a ComponentName),
    /// Only those before this one, by moment and identity (the cursor).
    pub before: Option<(Timestamp, Uuid)>,
    /// At most so many.
    pub limit: i64,
}

fn whose(id: Uuid) -> String {
    format!("query/{id}")
}

/// As much of a text as is kept, and whether that is not all.
fn kept(sql: &str) -> (&str, bool) {
    let end = (0..=KEPT_TEXT.min(sql.len())).rev().find(|end| sql.is_char_boundary(*end)).unwrap_or(0);
    (sql.get(..end).unwrap_or_default(), end < sql.len())
}

impl Store {
    /// Puts a query on record that is about to run.
    ///
    /// # Errors
    /// When the database does not answer; it must not run then.
    pub async fn begin_query(&self, query: &NewQuery<'_>) -> Result<(), Error> {
        let (text, cut) = kept(query.sql);
        let sealed = self.key.seal(&whose(query.id), &SecretString::from(text))?;
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "insert into queries (id, tenant_id, stead, component, person, actor, source, role, read_only, ends_by,
                                  sealed, cut, text_hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10), $11, $12, $13)",
            query.id,
            query.tenant.0,
            query.stead.as_str(),
            query.component.to_string(),
            query.person,
            query.actor.name,
            query.actor.source,
            query.role,
            query.read_only,
            query.within_seconds,
            sealed,
            cut,
            self.text_hash(query.sql),
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "delete from queries where outcome is not null and id in (
                 select id from queries where tenant_id = $1 and person = $2
                 order by started_at desc, id desc offset $3)",
            query.tenant.0,
            query.person,
            KEPT,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes how a query ended, and writes its line of the journal. A second end changes nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_query(&self, id: Uuid, ended: &Ended) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        close(&mut tx, id, ended.end.as_str(), Some(ended)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Closes queries that must be over and whose end nobody noted, and forgets old ones.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn settle_queries(&self) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let lost = sqlx::query_scalar!(
            "select id from queries where outcome is null and ends_by < now() limit $1 for update skip locked",
            BATCH
        )
        .fetch_all(&mut *tx)
        .await?;
        for id in lost {
            close(&mut tx, id, "lost", None).await?;
        }
        sqlx::query!("delete from queries where started_at < now() - make_interval(days => $1)", KEPT_DAYS)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// A person's own queries, newest first.
    ///
    /// # Errors
    /// When the database does not answer; [`Error::Sealed`] when the key is not the one they were sealed with.
    pub async fn queries(&self, wanted: &Wanted<'_>) -> Result<Vec<Query>, Error> {
        let (at, id) = wanted.before.map_or((None, Uuid::max()), |(at, id)| (Some(at), id));
        let rows = sqlx::query!(
            r#"select id, stead, component, role, read_only, started_at as "started_at: jiff_sqlx::Timestamp", outcome,
                      sqlstate, duration_ms, rows, sealed, cut
               from queries
               where tenant_id = $1 and person = $2 and stead = $3 and component = $4
                 and (started_at, id) < (coalesce($5, 'infinity'::timestamptz), $6)
               order by started_at desc, id desc limit $7"#,
            wanted.tenant.0,
            wanted.person,
            wanted.at.0.as_str(),
            wanted.at.1.to_string(),
            at.map(jiff_sqlx::Timestamp::from) as _,
            id,
            wanted.limit,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Query {
                    sql: self.key.open(&whose(row.id), &row.sealed)?,
                    id: row.id,
                    stead: row.stead,
                    component: row.component,
                    role: row.role,
                    read_only: row.read_only,
                    started_at: row.started_at.to_jiff(),
                    outcome: row.outcome,
                    sqlstate: row.sqlstate,
                    duration_ms: row.duration_ms,
                    rows: row.rows,
                    cut: row.cut,
                })
            })
            .collect()
    }

    /// HMAC-SHA-256 of a text, in hexadecimal, with a key that follows from the installation key.
    #[must_use]
    pub fn text_hash(&self, sql: &str) -> String {
        let key = self.key.derived("the texts of queries");
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
        mac.update(sql.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

async fn close(
    tx: &mut sqlx::PgConnection,
    id: Uuid,
    outcome: &str,
    ended: Option<&Ended>,
) -> Result<(), Error> {
    let row = sqlx::query!(
        r#"update queries q set outcome = $2, sqlstate = $3, duration_ms = $4, rows = $5, bytes = $6
           from tenants t
           where q.id = $1 and q.outcome is null and t.id = q.tenant_id
           returning q.tenant_id, t.name as tenant, q.stead, q.component, q.actor, q.source, q.role, q.read_only,
                     q.text_hash"#,
        id,
        outcome,
        ended.and_then(|ended| ended.sqlstate.as_deref()),
        ended.map(|ended| ended.duration_ms),
        ended.map(|ended| ended.rows),
        ended.map(|ended| ended.bytes),
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let actor = Actor { name: row.actor, source: row.source };
    let entry = Entry {
        tenant: Some((TenantId(row.tenant_id), row.tenant)),
        stead: Some(row.stead),
        component: Some(row.component),
        after: json!({
            "query": id,
            "role": row.role,
            "read_only": row.read_only,
            "outcome": outcome,
            "sqlstate": ended.and_then(|ended| ended.sqlstate.as_deref()),
            "duration_ms": ended.map(|ended| ended.duration_ms),
            "rows": ended.map(|ended| ended.rows),
            "bytes": ended.map(|ended| ended.bytes),
            "text_hash": row.text_hash,
        }),
        ..Entry::new(&actor, "sql.run", Outcome::Done)
    };
    journal::write(tx, &entry).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(kept("select 1"), ("select 1", false));
        let long = "ä".repeat(KEPT_TEXT);
        let text = format!("x{long}");
        let (begin, cut) = kept(&text);
        assert!(cut && begin.len() == KEPT_TEXT - 1 && text.starts_with(begin));
    }
}
