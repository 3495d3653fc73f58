//! The tables of the folder.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use jiff::Timestamp;
use url::Url;

use crate::travel::At;

/// Why a table cannot be read as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    #[error("{0}")]
    NoTime(String),
    #[error("{table} has no version {wanted}: its versions are {first} to {last}")]
    NoVersion { table: String, wanted: u64, first: u64, last: u64 },
    #[error("{table} was not there at {wanted}: its oldest version is of {first}")]
    TooEarly { table: String, wanted: Timestamp, first: Timestamp },
    #[error("{wanted} is not over yet: what {table} will be then nobody knows")]
    TooLate { table: String, wanted: Timestamp },
    #[error("{table} of the lake cannot be read: {why}")]
    Broken { table: String, why: String },
}

impl TableError {
    /// PostgreSQL's code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            TableError::NoTime(_) => "42602",
            TableError::NoVersion { .. } | TableError::TooEarly { .. } | TableError::TooLate { .. } => {
                "22023"
            }
            TableError::Broken { .. } => "XX001",
        }
    }
}

/// What tells a log from another at the same place: a table may be made anew, and the number of a folder is given again.
type LogId = (u64, u64, Option<Timestamp>);

/// The folder. A table that was read is kept, so that the next look reads only what was committed since.
#[derive(Debug)]
pub(crate) struct Tables {
    folder: PathBuf,
    known: Mutex<HashMap<PathBuf, (LogId, DeltaTable)>>,
}

impl Tables {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, known: Mutex::default() }
    }

    /// The schemas that are there.
    pub(crate) fn schemas(&self) -> Vec<String> {
        folders(&self.folder, |_| true)
    }

    /// The tables of a schema.
    pub(crate) fn names(&self, schema: &str) -> Vec<String> {
        if !is_name(schema) {
            return Vec::new();
        }
        folders(&self.folder.join(schema), |folder| folder.join("_delta_log").is_dir())
    }

    /// Opens a table; nothing where there is none of this name.
    pub(crate) async fn open(
        &self,
        schema: &str,
        table: &str,
        at: At,
    ) -> Result<Option<DeltaTable>, TableError> {
        if !is_name(schema) || !is_name(table) {
            return Ok(None);
        }
        let folder = self.folder.join(schema).join(table);
        let Ok(log) = std::fs::metadata(folder.join("_delta_log")) else {
            self.forget(&folder);
            return Ok(None);
        };
        let broken = |why: String| TableError::Broken { table: format!("{schema}.{table}"), why };
        let newest = self.newest(&folder, &log).await.map_err(|error| broken(error.to_string()))?;
        let wanted = match at {
            At::Now => return Ok(Some(newest)),
            At::Version(version) => version,
            At::Moment(moment) => {
                let versions = versions(&folder).map_err(|error| broken(error.to_string()))?;
                version_at(table, &versions, moment)?
            }
        };
        let last = newest.version().unwrap_or_default();
        if wanted > last {
            let first = versions(&folder).ok().and_then(|all| all.first().map(|(first, _)| *first));
            let (table, first) = (table.to_owned(), first.unwrap_or_default());
            return Err(TableError::NoVersion { table, wanted, first, last });
        }
        let mut old = build(&folder).map_err(|error| broken(error.to_string()))?;
        match old.load_version(wanted).await {
            Ok(()) => Ok(Some(old)),
            Err(error) => match versions(&folder).ok().and_then(|all| all.first().copied()) {
                // Its log was cut.
                Some((first, _)) if wanted < first => {
                    Err(TableError::NoVersion { table: table.to_owned(), wanted, first, last })
                }
                _ => Err(broken(error.to_string())),
            },
        }
    }

    async fn newest(&self, folder: &Path, log: &Metadata) -> Result<DeltaTable, DeltaTableError> {
        let made = log.created().ok().and_then(|made| Timestamp::try_from(made).ok());
        let id = (log.dev(), log.ino(), made);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(folder).cloned();
        let mut table = match known {
            Some((of, table)) if of == id => table,
            _ => build(folder)?,
        };
        if table.update_state().await.is_err() {
            // What was known does not go with what is there.
            table = build(folder)?;
            table.load().await?;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(folder.to_owned(), (id, table.clone()));
        Ok(table)
    }

    fn forget(&self, folder: &Path) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    }
}

fn build(folder: &Path) -> Result<DeltaTable, DeltaTableError> {
    let place = Url::from_directory_path(folder)
        .map_err(|()| DeltaTableError::InvalidTableLocation(folder.display().to_string()))?;
    DeltaTableBuilder::from_url(place)?.build()
}

/// What becomes a part of a path.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['.', '_']) && !name.contains(['/', '\0'])
}

fn folders(folder: &Path, is_one: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().is_dir() && is_one(&entry.path()));
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_name(name)).collect();
    names.sort();
    names
}

/// The versions whose commits are there, and when they were made: as Delta has it, when their files were written.
fn versions(folder: &Path) -> std::io::Result<Vec<(u64, Timestamp)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("_delta_log"))? {
        let entry = entry?;
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|n| n.parse().ok());
        if let Some(version) = version {
            let written = Timestamp::try_from(entry.metadata()?.modified()?).unwrap_or(Timestamp::MIN);
            found.push((version, written));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The newest version of a moment.
fn version_at(table: &str, versions: &[(u64, Timestamp)], wanted: Timestamp) -> Result<u64, TableError> {
    let table = table.to_owned();
    if wanted > Timestamp::now() {
        return Err(TableError::TooLate { table, wanted });
    }
    let before = versions.iter().take_while(|(_, written)| *written <= wanted).last();
    match (before, versions.first()) {
        (Some((version, _)), _) => Ok(*version),
        (None, Some((_, first))) => Err(TableError::TooEarly { table, wanted, first: *first }),
        (None, None) => Err(TableError::Broken { table, why: "its log has no commit".to_owned() }),
    }
}
