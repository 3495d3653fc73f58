//! Where a lake is, or a part of it: a folder of this machine, or a bucket.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError, Path};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use url::Url;

use crate::Error;
use crate::bucket::{self, Before, Bucket, Failed};
use crate::memory::{Memory, replace};
use crate::wire::Settings;

/// See above.
#[derive(Debug, Clone)]
pub struct Place {
    url: Url,
    /// Nothing where it is a folder.
    bucket: Option<Bucket>,
}

/// A folder.
impl From<Url> for Place {
    fn from(url: Url) -> Self {
        Self { url, bucket: None }
    }
}

impl Place {
    pub(crate) fn in_bucket(url: Url, bucket: Bucket) -> Self {
        Self { url, bucket: Some(bucket) }
    }

    /// Where the lake is that settings say.
    pub(crate) fn of(settings: &Settings) -> Result<Self, Error> {
        if let Some(bucket) = &settings.bucket {
            return bucket::open(bucket);
        }
        let folder = Url::from_directory_path(&settings.lake);
        folder
            .map(Self::from)
            .map_err(|()| Error::Strange(format!("{} is no folder", settings.lake.display())))
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Its folder, where it is one.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        if self.bucket.is_none() { self.url.to_file_path().ok() } else { None }
    }

    /// How often the store under it has failed.
    pub(crate) fn failures(&self) -> u64 {
        self.bucket.as_ref().map_or(0, Bucket::failures)
    }

    /// An error, as that of its bucket where it comes of that.
    pub(crate) fn known(&self, error: Error) -> Error {
        let failed = |bucket: &Bucket| match &error {
            Error::Lake(source) => bucket.failed_in(source),
            _ => None,
        };
        let failed: Option<Failed> = self.bucket.as_ref().and_then(failed);
        failed.map_or(error, Error::Bucket)
    }

    /// What is called so in it.
    #[must_use]
    pub fn below<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut place = self.clone();
        if let Ok(mut parts) = place.url.path_segments_mut() {
            parts.pop_if_empty().extend(names);
        }
        place
    }

    /// What is called so beside it.
    pub(crate) fn beside(&self, name: &str) -> Self {
        let mut place = self.clone();
        if let Ok(mut parts) = place.url.path_segments_mut() {
            parts.pop_if_empty().pop().push(name);
        }
        place
    }

    /// What it is called itself.
    pub(crate) fn name(&self) -> String {
        let mut parts = self.url.path_segments().into_iter().flatten().filter(|part| !part.is_empty());
        let name = parts.next_back().unwrap_or_default();
        percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()
    }

    fn path(&self) -> Result<Path, Error> {
        Path::from_url_path(self.url.path()).map_err(|error| Error::Strange(format!("{}: {error}", self.url)))
    }

    /// The table there, not looked at yet.
    pub(crate) fn table(&self) -> Result<DeltaTable, DeltaTableError> {
        let builder = DeltaTableBuilder::from_url(self.url.clone())?;
        match &self.bucket {
            Some(bucket) => builder.with_storage_backend(bucket.store().clone(), self.url.clone()).build(),
            None => builder.build(),
        }
    }

    /// Whether a table has a log.
    pub(crate) async fn has_log(&self) -> Result<bool, Error> {
        let log = self.below(["_delta_log"]);
        match (&self.bucket, log.folder()) {
            (Some(bucket), _) => {
                let path = log.path()?;
                let first = bucket.store().list(Some(&path)).try_next().await;
                Ok(first.map_err(DeltaTableError::from)?.is_some())
            }
            (None, folder) => Ok(folder.is_some_and(|folder| folder.is_dir())),
        }
    }

    /// Whether there are files of a table, with a log or without.
    pub(crate) async fn has_files(&self) -> Result<bool, Error> {
        if let Some(bucket) = &self.bucket {
            let path = self.path()?;
            let is_file = |path: &Path| path.extension() == Some("parquet");
            let objects = bucket.store().list(Some(&path));
            let mut files = objects.try_filter(|object| std::future::ready(is_file(&object.location)));
            // Of a bucket's objects any number may come before the first that counts.
            return Ok(files.try_next().await.map_err(DeltaTableError::from)?.is_some());
        }
        let entries = self.folder().and_then(|folder| std::fs::read_dir(folder).ok());
        let mut paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        Ok(paths.any(|path| path.extension().is_some_and(|of| of == "parquet")))
    }

    /// Makes sure that it is this transfer's alone, and still what it was; nothing where it is a folder, which is.
    pub(crate) async fn claim(&self, settings: &Settings, memory: &mut Memory) -> Result<(), Error> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let known = memory.claimed && settings.resyncs <= memory.resyncs;
        let before = if known {
            Before::Known
        } else if memory.claimed {
            Before::Own
        } else {
            Before::Nobody
        };
        bucket.claim(&self.path()?, &settings.name, before).await?;
        if !memory.claimed {
            memory.claimed = true;
            memory.write(&settings.memory)?;
        }
        Ok(())
    }

    /// The same while it is written: an error where it was emptied meanwhile, and would be filled from its beginning.
    pub(crate) async fn is_claimed(&self, transfer: &str) -> Result<(), Error> {
        match &self.bucket {
            Some(bucket) => bucket.is_claimed(&self.path()?, transfer).await,
            None => Ok(()),
        }
    }

    /// The text of a file; nothing where there is none.
    pub(crate) async fn read(&self) -> Result<Option<Bytes>, Error> {
        if let Some(bucket) = &self.bucket {
            return bucket.read(&self.path()?).await;
        }
        let Some(path) = self.folder() else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(text.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Writes a file, and what is above it; durable when this returns.
    pub(crate) async fn write(&self, text: Vec<u8>) -> Result<(), Error> {
        if let Some(bucket) = &self.bucket {
            let put = bucket.store().put(&self.path()?, text.into()).await;
            return put.map(drop).map_err(|error| DeltaTableError::from(error).into());
        }
        let Some(path) = self.folder() else { return Ok(()) };
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = made.and_then(|()| replace(&path, &text, true));
        written.map_err(|source| Error::File { path, source })
    }

    /// Removes a file.
    pub(crate) async fn remove(&self) -> Result<(), Error> {
        if let Some(bucket) = &self.bucket {
            let removed = bucket.store().delete(&self.path()?).await;
            return removed.map_err(|error| DeltaTableError::from(error).into());
        }
        let Some(path) = self.folder() else { return Ok(()) };
        std::fs::remove_file(&path).map_err(|source| Error::File { path, source })
    }

    /// Moves everything that is there; none is fine.
    pub(crate) async fn move_to(&self, to: &Self) -> Result<(), Error> {
        if let Some(bucket) = &self.bucket {
            return bucket.move_all(&self.path()?, &to.path()?).await;
        }
        let (Some(from), Some(path)) = (self.folder(), to.folder()) else { return Ok(()) };
        match std::fs::rename(from, &path) {
            Ok(()) => Ok(()),
            // It was moved before, and whoever did so was ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::File { path, source }),
        }
    }
}
