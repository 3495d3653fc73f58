//! A table of the lake that cannot be read: its log is damaged, or a file is gone that it names.
//!
//! Nothing can be written into such a table, not even that it stands still. So this is noted beside it, and the others go
//! on. Once it is asked for, or everything is, what is left of it is put aside for whoever wants to look into it, and it
//! begins anew: a table by a copy, a table of changes by a row which says that all before is not there.

use std::io;
use std::path::{Path, PathBuf};

use deltalake::DeltaTableError;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::memory::replace;
use crate::{Error, explain};

/// Where notes are and what was put aside, in a schema's folder; the lake shows nothing that is called so.
const FOLDER: &str = "_damaged";

/// What a table is asked for by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// See [`crate::lake`].
    pub(crate) epoch: String,
    /// How often the table was asked for.
    pub(crate) count: u32,
}

/// What is noted of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Damage {
    /// What is wrong with it.
    pub(crate) why: String,
    /// As it was when this was found. Once it is something else the table begins anew.
    pub(crate) asked: Asked,
}

/// A table of the lake, and what is beside it.
pub(crate) struct Beside {
    table: PathBuf,
    folder: PathBuf,
    name: String,
}

impl Beside {
    /// Nothing where the lake is no folder.
    pub(crate) fn of(place: &Url) -> Option<Self> {
        let table = place.to_file_path().ok()?;
        let name = table.file_name()?.to_str()?.to_owned();
        Some(Self { folder: table.parent()?.join(FOLDER), table, name })
    }

    fn note(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    /// What is noted.
    pub(crate) fn damage(&self) -> Result<Option<Damage>, Error> {
        let path = self.note();
        match std::fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(damage) => Ok(Some(damage)),
                Err(error) => Err(Error::File { path, source: error.into() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Notes it; durable when this returns.
    pub(crate) fn is_damaged(&self, damage: &Damage) -> Result<(), Error> {
        let path = self.note();
        let wrong = |source| Error::File { path: path.clone(), source };
        let text = serde_json::to_vec(damage).map_err(|error| wrong(error.into()))?;
        let made = std::fs::create_dir_all(&self.folder);
        made.and_then(|()| replace(&path, &text, true)).map_err(wrong)
    }

    /// Puts aside what is left of the table.
    pub(crate) fn put_aside(&self) -> Result<(), Error> {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.fZ");
        let aside = self.folder.join(format!("{}-{now}", self.name));
        match std::fs::rename(&self.table, &aside) {
            Ok(()) => Ok(()),
            // It was put aside before, and whoever did so was ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::File { path: aside, source }),
        }
    }

    /// The table has begun anew.
    pub(crate) fn is_whole(&self) -> Result<(), Error> {
        let path = self.note();
        std::fs::remove_file(&path).map_err(|source| Error::File { path, source })
    }
}

/// Opens a table that begins anew by itself when it was damaged and is asked for.
pub(crate) async fn open<T>(
    place: &Url,
    asked: &Asked,
    open: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(beside) = Beside::of(place) else { return open.await };
    if let Some(damage) = beside.damage()? {
        if damage.asked == *asked {
            return Err(Error::Damaged { why: damage.why });
        }
        beside.put_aside()?;
        beside.is_whole()?;
    }
    let opened = open.await;
    if let Err(Error::Damaged { why }) = &opened {
        beside.is_damaged(&Damage { why: why.clone(), asked: asked.clone() })?;
    }
    opened
}

/// Why a table could not be read: because of what is in it, unless the system refused.
pub(crate) fn found(error: DeltaTableError) -> Error {
    if explain::io_error(&error).is_some_and(|error| error.kind() != io::ErrorKind::NotFound) {
        return error.into();
    }
    Error::Damaged { why: error.to_string() }
}

/// Whether a folder without a log has files of a table all the same.
pub(crate) fn has_files(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|of| of == "parquet"))
}
