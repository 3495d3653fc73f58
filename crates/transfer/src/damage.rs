//! A table of the lake that cannot be read: its log is damaged, or a file is gone that it names.
//!
//! Nothing can be written into such a table, not even that it stands still. So this is noted beside it, and the others go
//! on. Once it is asked for, or everything is, what is left of it is put aside for whoever wants to look into it, and it
//! begins anew: a table by a copy, a table of changes by a row which says that all before is not there.

use std::io;

use deltalake::DeltaTableError;
use serde::{Deserialize, Serialize};

use crate::place::Place;
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
    table: Place,
    folder: Place,
    note: Place,
}

impl Beside {
    pub(crate) fn of(place: &Place) -> Self {
        let folder = place.beside(FOLDER);
        let note = folder.below([format!("{}.json", place.name()).as_str()]);
        Self { table: place.clone(), folder, note }
    }

    /// What is noted.
    pub(crate) async fn damage(&self) -> Result<Option<Damage>, Error> {
        let Some(text) = self.note.read().await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| self.strange(&error))
    }

    /// Notes it; durable when this returns.
    pub(crate) async fn is_damaged(&self, damage: &Damage) -> Result<(), Error> {
        self.note.write(serde_json::to_vec(damage).map_err(|error| self.strange(&error))?).await
    }

    fn strange(&self, error: &serde_json::Error) -> Error {
        Error::Strange(format!("{}: {error}", self.note.url()))
    }

    /// Puts aside what is left of the table.
    pub(crate) async fn put_aside(&self) -> Result<(), Error> {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.fZ");
        let aside = format!("{}-{now}", self.table.name());
        self.table.move_to(&self.folder.below([aside.as_str()])).await
    }

    /// The table has begun anew.
    pub(crate) async fn is_whole(&self) -> Result<(), Error> {
        self.note.remove().await
    }
}

/// Opens a table that begins anew by itself when it was damaged and is asked for.
pub(crate) async fn open<T>(
    place: &Place,
    asked: &Asked,
    open: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let beside = Beside::of(place);
    if let Some(damage) = beside.damage().await? {
        if damage.asked == *asked {
            return Err(Error::Damaged { why: damage.why });
        }
        beside.put_aside().await?;
        beside.is_whole().await?;
    }
    let opened = open.await;
    if let Err(Error::Damaged { why }) = &opened {
        beside.is_damaged(&Damage { why: why.clone(), asked: asked.clone() }).await?;
    }
    opened
}

/// A look at what there is of a table. What cannot be read is damaged, unless the system refuses it, or a bucket did not do
/// what it was asked meanwhile.
pub(crate) struct Look<'p> {
    place: &'p Place,
    failures: u64,
}

impl<'p> Look<'p> {
    pub(crate) fn at(place: &'p Place) -> Self {
        Self { place, failures: place.failures() }
    }

    /// Why it could not be read.
    pub(crate) fn found(&self, error: DeltaTableError) -> Error {
        let is_refused =
            explain::io_error(&error).is_some_and(|error| error.kind() != io::ErrorKind::NotFound);
        if is_refused || self.place.failures() != self.failures {
            return error.into();
        }
        Error::Damaged { why: error.to_string() }
    }
}
