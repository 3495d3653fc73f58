//! The lake's service: SQL over a folder of Delta tables, spoken to as PostgreSQL.
//!
//! `<lake>/<schema>/<table>` and `<lake>/<schema>/<table>__changes` are written by a transfer, in another process, while
//! they are read here. Nothing here writes.
//!
//! Whoever asks comes through the gateway, which signs in at the Unix socket as at a PostgreSQL server. What a session
//! goes through, a file a stage:
//!
//! | stage | file |
//! |---|---|
//! | accept, a seat, the messages of a session | `door.rs` |
//! | proof of who it is; the gateway's own question | `signin.rs`, `question.rs` |
//! | a statement: which may be run, and when it is ended | `session.rs`, `cursor.rs`, `parameters.rs`, `settings.rs`, `allowed.rs`, `depth.rs`, `work.rs` |
//! | `flights@v12` | `travel.rs` |
//! | an answer as a file: `COPY … TO STDOUT` | `copy.rs`, `file.rs`, `lines.rs` |
//! | planning and running: DataFusion, one context a statement | `engine.rs`, `catalog.rs` |
//! | a table of the folder, in one version, with its later changes | `tables.rs`, `fresh.rs`, `plain.rs` |
//! | what a client is told when it goes wrong | `refusal.rs` |
//!
//! **A statement sees one version of each table**: the newest at its first mention, however often it names the table. So a
//! context is made for each statement, and a prepared statement is planned again whenever it is run.

mod allowed;
mod catalog;
mod copy;
mod cursor;
mod depth;
mod door;
mod engine;
mod file;
mod fresh;
mod lines;
mod parameters;
mod plain;
mod question;
mod refusal;
mod session;
mod settings;
mod signin;
mod tables;
mod travel;
mod work;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What the service goes by, as its file says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where it listens: at `.s.PGSQL.5432` in this folder.
    pub socket_dir: PathBuf,
    /// The folder of schemas, which are folders of tables.
    pub lake: PathBuf,
    /// The one database there is.
    pub database: String,
    /// Who may sign in, and the SCRAM-SHA-256 verifier of each in PostgreSQL's notation.
    pub verifiers: BTreeMap<String, String>,
    /// The user who may ask for verifiers.
    pub gateway_uid: u32,
    /// What all statements together may keep in memory.
    pub memory_bytes: u64,
    /// How long a statement may work; what its client takes to read is not counted.
    pub timeout_ms: u64,
    /// Sessions at the same time.
    pub sessions: u32,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that it needs.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its settings are not what they should be.
    #[error("{} is not understood: {why}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What about it.
        why: String,
    },
    /// DataFusion could not be set up.
    #[error("cannot make the query engine: {0}")]
    Engine(#[from] datafusion::error::DataFusionError),
}

/// What a thread of the runtime needs of a stack to serve, bytes: statements are planned by functions that call themselves,
/// and a stack that is full ends the process. Memory is taken only as far as it is used.
pub const STACK: usize = 64 << 20;

/// Serves until `stop` speaks, on threads with [`STACK`]; sessions that are left then are ended.
pub async fn serve(settings_file: &Path, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let settings = Settings::read(settings_file)?;
    let service = door::Service::new(settings)?;
    service.serve(stop).await
}

impl Settings {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::File {
            what: "read",
            path: path.to_owned(),
            source,
        })?;
        let wrong = |why: String| Error::Settings { path: path.to_owned(), why };
        let settings: Settings = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        for (role, verifier) in &settings.verifiers {
            // Not the verifier: whoever has it can pretend to be the server.
            if scram::Verifier::parse(verifier).is_none() {
                return Err(wrong(format!("the verifier of `{role}` is none of SCRAM-SHA-256")));
            }
        }
        Ok(settings)
    }
}
