//! The object store: a folder, or a bucket that speaks S3.
//!
//! What [`Objects::put`] has answered is on stable storage as far as the store can be believed: a folder's file and
//! every folder above it are synced, S3 answers when it has stored. An object is whole or not there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::path::{Path, PathPart};
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::Error;

/// How long one request may take, its repetitions not counted.
const REQUEST: Duration = Duration::from_secs(60);
/// How long a request is repeated before its failure is told.
const RETRY: Duration = Duration::from_secs(20);
/// Objects that are deleted at once.
const AT_ONCE: usize = 16;

/// Where the store is, as the operator says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// `file:///…` or `s3://bucket/prefix`.
    pub url: Url,
    /// What else S3 takes, by the names of its environment variables: `aws_access_key_id`, `aws_endpoint`.
    #[serde(default, serialize_with = "exposed")]
    pub options: BTreeMap<String, SecretString>,
}

/// Only ever into a file that the control plane alone reads.
fn exposed<S: serde::Serializer>(
    options: &BTreeMap<String, SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(options.iter().map(|(name, value)| (name, value.expose_secret())))
}

impl Location {
    /// Reads a folder's path or a URL.
    ///
    /// # Errors
    /// In words, with what would be right.
    pub fn parse(text: &str, options: BTreeMap<String, SecretString>) -> Result<Self, String> {
        let url = if text.starts_with('/') { Url::from_file_path(text).ok() } else { Url::parse(text).ok() };
        let wrong =
            || format!("`{text}` is no place for backups; give a folder from / on, or s3://bucket/prefix");
        let url = url.ok_or_else(wrong)?;
        let fits = match url.scheme() {
            "file" => url.to_file_path().is_ok(),
            "s3" => url.host_str().is_some_and(|bucket| !bucket.is_empty()),
            _ => false,
        };
        if fits { Ok(Self { url, options }) } else { Err(wrong()) }
    }
}

/// An open store.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The folder, where it is one.
    folder: Option<PathBuf>,
    shown: String,
}

/// An object as a listing tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name below the place that was listed.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Objects {
    /// Opens a store; a folder is made where it is not there.
    ///
    /// # Errors
    /// [`Error::Store`] where the location makes no sense, or the folder cannot be made.
    pub fn open(location: &Location) -> Result<Self, Error> {
        let shown = location.url.to_string();
        let failed = |why: String| Error::Store { store: shown.clone(), why };
        if location.url.scheme() == "file" {
            let folder = location.url.to_file_path().map_err(|()| failed("it is no folder".to_owned()))?;
            std::fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
            let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| failed(told(&error)))?;
            let shown = folder.display().to_string();
            return Ok(Self { store: Arc::new(store), prefix: Path::default(), folder: Some(folder), shown });
        }
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 8, retry_timeout: RETRY };
        // An endpoint in the clear is the operator's own word in the options.
        let allow_http =
            location.options.get("aws_endpoint").is_some_and(|url| url.expose_secret().starts_with("http:"));
        let client = ClientOptions::new().with_timeout(REQUEST).with_allow_http(allow_http);
        let mut builder =
            AmazonS3Builder::new().with_url(shown.clone()).with_retry(retry).with_client_options(client);
        for (name, value) in &location.options {
            let key = name.parse().map_err(|error: object_store::Error| failed(told(&error)))?;
            builder = builder.with_config(key, value.expose_secret());
        }
        let store = builder.build().map_err(|error| failed(told(&error)))?;
        let prefix = Path::from_url_path(location.url.path()).map_err(|error| failed(error.to_string()))?;
        Ok(Self { store: Arc::new(store), prefix, folder: None, shown })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    fn at(&self, name: &str) -> Path {
        self.prefix.parts().chain(name.split('/').map(PathPart::from)).collect()
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        Error::Store { store: self.shown.clone(), why: told(error) }
    }

    /// Stores an object, in place of an earlier one of that name.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = self.at(name);
        self.store.put(&path, PutPayload::from(bytes)).await.map_err(|error| self.failed(&error))?;
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let name = name.to_owned();
        let synced = tokio::task::spawn_blocking(move || sync(&folder, &name)).await;
        match synced {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Store { store: self.shown.clone(), why: error.to_string() }),
            Err(error) => Err(Error::Store { store: self.shown.clone(), why: error.to_string() }),
        }
    }

    /// Reads an object; `None` where there is none of that name.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let reading = async { self.store.get(&self.at(name)).await?.bytes().await };
        match reading.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Everything below a name, in the order of names; from `after` on where given, exclusively.
    pub(crate) async fn list(&self, below: &str, after: Option<&str>) -> Result<Vec<Listed>, Error> {
        let base = self.at(below);
        let listing = match after {
            Some(after) => self.store.list_with_offset(Some(&base), &self.at(&format!("{below}/{after}"))),
            None => self.store.list(Some(&base)),
        };
        let found: Vec<_> = listing.try_collect().await.map_err(|error| self.failed(&error))?;
        let mut found: Vec<Listed> = found
            .into_iter()
            .filter_map(|meta| {
                let parts: Vec<_> =
                    meta.location.prefix_match(&base)?.map(|p| p.as_ref().to_owned()).collect();
                Some(Listed { name: parts.join("/"), bytes: meta.size })
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The folders directly below a name.
    pub(crate) async fn folders(&self, below: &str) -> Result<Vec<String>, Error> {
        let found = self.store.list_with_delimiter(Some(&self.at(below))).await;
        let found = found.map_err(|error| self.failed(&error))?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Deletes objects; what is not there is fine.
    pub(crate) async fn delete(&self, names: Vec<String>) -> Result<(), Error> {
        let gone = |name: String| async move {
            match self.store.delete(&self.at(&name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed(&error)),
            }
        };
        let (mut left, mut going) = (names.into_iter(), FuturesUnordered::new());
        loop {
            going.extend(left.by_ref().take(AT_ONCE - going.len()).map(gone));
            match going.next().await {
                Some(gone) => gone?,
                None => return Ok(()),
            }
        }
    }
}

/// The file, and every folder from it up to the store's own.
fn sync(folder: &std::path::Path, name: &str) -> std::io::Result<()> {
    let file = folder.join(name);
    std::fs::File::open(&file)?.sync_all()?;
    for above in file.ancestors().skip(1).take_while(|above| above.starts_with(folder)) {
        std::fs::File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// An error of the store with its causes, each once.
fn told(error: &object_store::Error) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests;
