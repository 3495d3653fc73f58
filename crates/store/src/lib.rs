//! All SQL of the control plane.
//!
//! **What do we store?** Desired state: tenants, their steads, and one row a component with its spec and
//! generation. What was last observed of each. The record of every edit, which the database itself keeps
//! append-only and without which it refuses an edit. Tokens, as hashes; passwords, sealed with a key that
//! is not in the database. Nothing else: what runs where, which files exist, who is connected is asked of
//! the outside world each time.
//!
//! **Rules.** One file a noun. An edit writes the change, the new spec and the wake-up in one transaction
//! ([`edit`]). No transaction waits on the outside world. Time is the database's. All queries are checked
//! against the schema when compiled (but those of [`journal::search`], which says why); `script/sqlx` refreshes the
//! stored descriptions.

pub mod edit;
mod error;
mod health;
pub mod host;
pub mod idempotency;
pub mod invitation;
pub mod journal;
pub mod lease;
pub mod logs;
pub mod operation;
pub mod package;
pub mod person;
pub mod query;
mod recover;
pub mod release;
pub mod secret;
pub mod session;
pub mod spool;
pub mod stead;
pub mod tenant;
pub mod token;

use std::sync::Arc;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

pub use error::Error;
pub use secret::InstallationKey;

/// Kills the process here when the named fail point is set to `return`; compiled away without the feature.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| {
            std::process::abort();
        });
    };
}
pub(crate) use fail_point;

/// Channel on which due work is announced.
pub const WAKE_CHANNEL: &str = "stead_wake";
/// Channel on which finished operations, new status and lines of the journal are announced.
pub const SEEN_CHANNEL: &str = "stead_seen";

/// The pattern of `like` for whatever contains a text.
pub(crate) fn containing(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// The control plane's database.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// Sessions whose commits do not wait for the disk: for leases, of which a crash may lose the last.
    relaxed: PgPool,
    /// Sessions that read the journal: of their own, so that no number of searches keeps an edit waiting.
    searching: PgPool,
    key: Arc<InstallationKey>,
}

impl Store {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// When the database does not answer, or was written by a newer Stead.
    pub async fn open(options: PgConnectOptions, key: InstallationKey) -> Result<Self, Error> {
        let relaxed = options.clone().options([("synchronous_commit", "off")]);
        let searching = options.clone().options(journal::search::SETTINGS);
        let pool = PgPoolOptions::new().max_connections(16).connect_with(options).await?;
        sqlx::migrate!().run(&pool).await.map_err(Error::Migrate)?;
        let relaxed = PgPoolOptions::new().max_connections(8).connect_with(relaxed).await?;
        let searching = PgPoolOptions::new().max_connections(6).connect_lazy_with(searching);
        health::tell_all(&mut *pool.acquire().await?).await?;
        Ok(Self { pool, relaxed, searching, key: Arc::new(key) })
    }

    /// Listens on one of the channels above. Listen before you query.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn listen(&self, channel: &str) -> Result<PgListener, Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(channel).await?;
        Ok(listener)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
        self.relaxed.close().await;
        self.searching.close().await;
    }
}
