//! Events as files: written whole or not at all, and on the disk before anybody is told so.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fail_point;

/// Of events that failed for good, the newest so many are kept, a function.
const KEPT: usize = 1000;
/// A file with this before its name is being written.
const NEW: &str = ".new-";

/// An event without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// The request's id, the same in every attempt.
    pub(crate) id: String,
    /// The function's handle.
    pub(crate) function: String,
    pub(crate) qualifier: Option<u64>,
    pub(crate) accepted_at: Timestamp,
    /// Failures so far.
    pub(crate) attempts: u32,
    /// When it is tried next.
    pub(crate) due: Timestamp,
    pub(crate) trace: String,
    pub(crate) client_context: Option<String>,
    pub(crate) origin: Origin,
}

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// The Invoke API.
    Invoke,
    /// The clock.
    Schedule,
    /// Another function failed for good.
    DeadLetter,
}

/// The folder.
pub(crate) struct Spool {
    events: PathBuf,
    dead: PathBuf,
}

impl Spool {
    /// Opens `functions/spool`.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let (events, dead) = (folder.join("events"), folder.join("dead"));
        std::fs::create_dir_all(&events)?;
        std::fs::create_dir_all(&dead)?;
        Ok(Self { events, dead })
    }

    /// Every event that waits. What was being written when its writer was killed nobody was told of: it goes.
    pub(super) fn all(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        for folder in std::fs::read_dir(&self.events)? {
            for entry in std::fs::read_dir(folder?.path())? {
                let path = entry?.path();
                if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(NEW)) {
                    std::fs::remove_file(&path)?;
                    continue;
                }
                match read(&path) {
                    Ok((event, _)) => events.push(event),
                    Err(error) => tracing::error!(%error, path = %path.display(), "an event cannot be read"),
                }
            }
        }
        Ok(events)
    }

    /// Puts an event on the disk.
    pub(super) fn write(&self, event: &Event, payload: &[u8]) -> io::Result<()> {
        let folder = self.events.join(&event.function);
        if !folder.exists() {
            std::fs::create_dir_all(&folder)?;
            File::open(&self.events)?.sync_all()?;
        }
        let new = self.put(event, payload)?;
        File::open(&new)?.sync_all()?;
        fail_point!("functions::event.written");
        std::fs::rename(&new, self.path(event))?;
        File::open(&folder)?.sync_all()
    }

    /// The same of one that is there, with what is new about it. Lost with the power, it is tried once more than it
    /// should.
    pub(super) fn write_again(&self, event: &Event, payload: &[u8]) -> io::Result<()> {
        std::fs::rename(self.put(event, payload)?, self.path(event))
    }

    fn put(&self, event: &Event, payload: &[u8]) -> io::Result<PathBuf> {
        let new = self.events.join(&event.function).join(format!("{NEW}{}", event.id));
        let mut head = serde_json::to_vec(event)?;
        head.push(b'\n');
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&head)?;
        file.write_all(payload)?;
        Ok(new)
    }

    /// What the function gets.
    pub(super) fn payload(&self, event: &Event) -> io::Result<Bytes> {
        let (_, mut rest) = read(&self.path(event))?;
        let mut payload = Vec::new();
        rest.read_to_end(&mut payload)?;
        Ok(payload.into())
    }

    /// Its time here has ended.
    pub(super) fn remove(&self, event: &Event) -> io::Result<()> {
        match std::fs::remove_file(self.path(event)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps the record of one that failed for good.
    pub(super) fn keep(&self, event: &Event, record: &[u8]) -> io::Result<()> {
        let folder = self.dead.join(&event.function);
        std::fs::create_dir_all(&folder)?;
        // By when it was accepted, so that the oldest goes first; and the same again for the same event.
        let name = format!("{:015}-{}.json", event.accepted_at.as_millisecond(), event.id);
        let new = folder.join(format!("{NEW}{}", event.id));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(record)?;
        file.sync_all()?;
        std::fs::rename(&new, folder.join(name))?;
        File::open(&folder)?.sync_all()?;
        let mut names: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
        names.sort();
        for old in names.iter().take(names.len().saturating_sub(KEPT)) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }

    fn path(&self, event: &Event) -> PathBuf {
        self.events.join(&event.function).join(&event.id)
    }
}

fn read(path: &Path) -> io::Result<(Event, BufReader<File>)> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    Ok((serde_json::from_str(&head)?, reader))
}
