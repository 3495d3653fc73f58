//! What can go wrong in the store.

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not answer or refused.
    #[error("the control database does not answer: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the control database cannot be brought up to this version: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A stored value is not what this version writes.
    #[error("the control database holds a {what} that this version of Stead cannot read: {source}")]
    Unreadable {
        /// Which value.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A stored name or number is not what this version writes.
    #[error("the control database holds a {0} that this version of Stead cannot read")]
    BadName(&'static str),
    /// A sealed secret does not open.
    #[error("a sealed secret does not open: the installation key is not the one that it was sealed with")]
    Sealed,
    /// The installation key is another than the one that this state was sealed with.
    #[error(
        "the installation key is not the one that the passwords in the control database were sealed with; \
         put the right file back (hosts that share a state need the same key)"
    )]
    WrongKey,
    /// The installation key could not be read or made.
    #[error("the installation key {path}: {source}")]
    Key {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The lease ran out and another worker has the component.
    #[error("the lease on the component ran out; another worker has it")]
    Fenced,
}

impl Error {
    /// Whether trying again may help: the database is not there, is busy, or chose this transaction to give
    /// way to another. What it refuses for good (a constraint, a value it cannot hold) stays refused.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Fenced => true,
            Self::Database(sqlx::Error::Database(refused)) => {
                // SQLSTATE classes: connection, rollback, resources, operator intervention; and lock_not_available.
                refused.code().is_some_and(|code| {
                    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03"
                })
            }
            Self::Database(error) => matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
                    | sqlx::Error::BeginFailed
            ),
            _ => false,
        }
    }
}

/// Names what could not be read.
pub(crate) fn unreadable(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |source| Error::Unreadable { what, source }
}
