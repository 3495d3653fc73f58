//! What the keeper writes down about a worker: `keeper/workers/<name>.json`. Not flushed to the disk, since none
//! outlives the machine.

use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::files;
use crate::record::Identity;
use crate::wire::Name;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) worker: Name,
    pub(crate) identity: Identity,
    pub(crate) uid: u32,
    /// The process that asked for it, with which it ends.
    pub(crate) owner: Identity,
}

/// Name of the file.
pub(crate) fn file(worker: &Name) -> String {
    format!("{worker}.json")
}

impl Record {
    pub(crate) fn write(&self, folder: impl AsFd) -> io::Result<()> {
        files::write_atomic(folder, &file(&self.worker), &serde_json::to_vec(self)?, 0o600)
    }

    /// All records by file; what is none (half of one, of a keeper that was killed) is `None`.
    pub(crate) fn all(folder: impl AsFd) -> io::Result<Vec<(String, Option<Self>)>> {
        let folder = folder.as_fd();
        let read = |name: &String| {
            let record: Self = serde_json::from_slice(&files::read(folder, name, 64 * 1024).ok()?).ok()?;
            (*name == file(&record.worker)).then_some(record)
        };
        Ok(files::list(folder)?.into_iter().map(|name| (name.clone(), read(&name))).collect())
    }
}
