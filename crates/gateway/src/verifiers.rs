//! Asking a server for a role's verifier.
//!
//! As PgBouncer's `auth_query`: a role of the gateway's own (`stead_gateway`, let in by its OS user) may
//! call one function, `stead.verifier(name)`, and nothing else. Verifiers are never kept, so that a
//! rotated password counts at once; the connection is, for some seconds after its last use, so that a
//! client that connects often does not cost a second process each time and a quiet server has none.
//!
//! What the server must have in its database `postgres` (made by the driver, and by the tests):
//!
//! ```sql
//! CREATE ROLE stead_gateway LOGIN;
//! CREATE SCHEMA stead;
//! CREATE FUNCTION stead.verifier(name text, OUT verifier text) RETURNS SETOF text
//!   LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
//!     SELECT rolpassword FROM pg_catalog.pg_authid
//!     WHERE rolname = $1::name AND octet_length($1) < 64 AND rolcanlogin AND NOT rolsuper
//!       AND rolpassword IS NOT NULL
//!       AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now()) $$;
//! REVOKE ALL ON SCHEMA stead FROM PUBLIC;
//! REVOKE ALL ON FUNCTION stead.verifier(text) FROM PUBLIC;
//! GRANT USAGE ON SCHEMA stead TO stead_gateway;
//! GRANT EXECUTE ON FUNCTION stead.verifier(text) TO stead_gateway;
//! ```
//!
//! Where servers sleep, of the same owner and rights: `stead.verifiers()`, all of them as `(name, verifier)`,
//! and `stead.at_rest()`, whether every client's session is idle.
//!
//! And in `pg_hba.conf`, `stead_gateway` by peer before everybody else by SCRAM. For peer the server
//! looks the gateway's uid up in its own `/etc/passwd`.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, Statement};

use crate::backend;
use crate::limited::Limited;
use crate::refusal::Refusal;
use scram::Verifier;

const ROLE: &str = "stead_gateway";
const DATABASE: &str = "postgres";
/// What one connection may be told in all, bytes: some ten thousand answers, or every verifier of as many
/// roles. Then there is a new one.
const MOST: usize = 8 << 20;
const QUESTION: &str = "SELECT verifier FROM stead.verifier($1)";

/// One server's verifiers.
pub(crate) struct Verifiers {
    idle: Duration,
    slot: Arc<Mutex<Option<Arc<Asker>>>>,
}

/// An open connection that can ask.
struct Asker {
    folder: PathBuf,
    client: Client,
    question: Statement,
    last_used: std::sync::Mutex<Instant>,
}

impl Verifiers {
    /// Not connected yet; connections are given up after `idle` without a question.
    pub(crate) fn new(idle: Duration) -> Verifiers {
        Verifiers { idle, slot: Arc::default() }
    }

    /// The verifier of a role that may sign in through the gateway.
    pub(crate) async fn get(&self, folder: &Path, user: &[u8]) -> Result<Option<Verifier>, Refusal> {
        // PostgreSQL compares bytes; a name that is no UTF-8 cannot be asked for, and nobody has one.
        let Ok(user) = std::str::from_utf8(user) else { return Ok(None) };
        match self.ask(folder, user).await {
            // A kept connection may be of a server before its restart, or of a role that was made anew since:
            // once more, with a new connection.
            Err(Unanswered::Said(_)) => {
                *self.slot.lock().await = None;
                self.ask(folder, user).await.map_err(refusal)
            }
            other => other.map_err(refusal),
        }
    }

    /// Every verifier that may be asked for, by role.
    pub(crate) async fn all(&self, folder: &Path) -> Result<BTreeMap<String, String>, Refusal> {
        let rows =
            self.query(folder, "SELECT name, verifier FROM stead.verifiers()").await.map_err(refusal)?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(|error| refusal(error.into()))
    }

    /// Whether no session of a client has a statement or a transaction under way.
    pub(crate) async fn at_rest(&self, folder: &Path) -> Result<bool, Refusal> {
        let rows = self.query(folder, "SELECT stead.at_rest()").await.map_err(refusal)?;
        Ok(rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)))
    }

    /// Closes the connection.
    pub(crate) async fn hang_up(&self) {
        *self.slot.lock().await = None;
    }

    async fn query(&self, folder: &Path, sql: &str) -> Result<Vec<tokio_postgres::Row>, Unanswered> {
        let asker = self.asker(folder).await?;
        let answer = asker.client.query(sql, &[]).await;
        if answer.is_err() {
            self.hang_up().await;
        }
        Ok(answer?)
    }

    async fn ask(&self, folder: &Path, user: &str) -> Result<Option<Verifier>, Unanswered> {
        let asker = self.asker(folder).await?;
        let row = asker.client.query_opt(&asker.question, &[&user]).await?;
        asker.touch();
        let Some(row) = row else { return Ok(None) };
        let text = row.try_get::<_, Option<String>>(0)?;
        let verifier = text.as_deref().and_then(Verifier::parse);
        if text.is_some() && verifier.is_none() {
            tracing::error!(user, "the role's password is not stored as SCRAM-SHA-256; set it again");
        }
        Ok(verifier)
    }

    async fn asker(&self, folder: &Path) -> Result<Arc<Asker>, Unanswered> {
        let mut slot = self.slot.lock().await;
        if let Some(asker) = slot.as_ref()
            && asker.folder == folder
            && !asker.client.is_closed()
        {
            asker.touch();
            return Ok(asker.clone());
        }
        let stream = backend::connect(folder).await?;
        let (client, connection) = tokio_postgres::Config::new()
            .user(ROLE)
            .dbname(DATABASE)
            .application_name("stead gateway")
            .connect_raw(Limited::new(stream, MOST), NoTls)
            .await?;
        let driver = tokio::spawn(connection);
        let question = client.prepare_typed(QUESTION, &[Type::TEXT]).await?;
        let asker = Arc::new(Asker {
            folder: folder.to_owned(),
            client,
            question,
            last_used: std::sync::Mutex::new(Instant::now()),
        });
        *slot = Some(asker.clone());
        tokio::spawn(give_up_when_idle(self.slot.clone(), asker.clone(), self.idle, driver));
        Ok(asker)
    }
}

impl Asker {
    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle_at(&self, idle: Duration) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) + idle
    }
}

async fn give_up_when_idle<T>(
    slot: Arc<Mutex<Option<Arc<Asker>>>>,
    asker: Arc<Asker>,
    idle: Duration,
    mut driver: tokio::task::JoinHandle<T>,
) {
    loop {
        let until = asker.idle_at(idle);
        tokio::select! {
            _ = &mut driver => break,
            () = tokio::time::sleep_until(until) => if asker.idle_at(idle) <= Instant::now() { break },
        }
    }
    let mut slot = slot.lock().await;
    if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, &asker)) {
        *slot = None;
    }
}

/// Why a question got no answer.
enum Unanswered {
    /// There is no way to the server.
    NoWay(io::Error),
    /// The connection failed, or the server said something else.
    Said(tokio_postgres::Error),
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Self::NoWay(error)
    }
}

impl From<tokio_postgres::Error> for Unanswered {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Said(error)
    }
}

fn refusal(unanswered: Unanswered) -> Refusal {
    let error = match unanswered {
        Unanswered::NoWay(error) => return backend::down(&error),
        Unanswered::Said(error) => error,
    };
    match error.as_db_error() {
        Some(said) if *said.code() == SqlState::CANNOT_CONNECT_NOW => {
            Refusal::Starting(said.message().to_owned())
        }
        Some(said) if *said.code() == SqlState::TOO_MANY_CONNECTIONS => Refusal::ServerFull,
        Some(said) => {
            tracing::error!(error = %said, "the server does not answer the gateway's question");
            Refusal::Unready
        }
        None => match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(error) => backend::down(error),
            None => backend::down(&io::Error::other(error)),
        },
    }
}
