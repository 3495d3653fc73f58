//! The collector: reads on in every log file of a host.
//!
//! Where lines are, and whose:
//!
//! | files | whose |
//! |---|---|
//! | `servers/<handle>/log/*.json` | all of them the tenant's of that server, by its folder |
//! | `control/log/*.json` | the installation's |
//! | `logs/function-<handle>.jsonl` | all of them the tenant's of that function, by its name |
//! | `logs/gateway.jsonl`, `spool/keeper.jsonl` | each line the tenant's of the server that it names; others the installation's |
//! | `logs/gateway.log`, `logs/archiver.log`, `logs/server.log`, `logs/functions.log`, `relay/run/relay.log` | the installation's |
//!
//! Whose a server is the collector is told ([`Owners`]); a line of a server that it was not told of waits, and everything
//! behind it in its file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::DirEntry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::batch::{Batch, Entry};
use crate::line::{Head, Label, Owner, Source, handle_of};
use crate::source::{self, Part};
use crate::store::Position;
use crate::{Error, Store};

/// Of a server's log folder the newest files are read, at most so many: it has one a day of the week.
const FILES: usize = 16;
/// Older lines than this are not believed, nor those of a later time than a moment ahead.
const OLDEST: SignedDuration = SignedDuration::from_hours(40 * 24);
const AHEAD: SignedDuration = SignedDuration::from_mins(10);
/// A file that was not there for so long is forgotten.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(24);
/// After so many looks it is seen to files that are gone.
const SELDOM: u32 = 1024;

/// Whose a server is and what it is called; `None` for one that is nobody's.
pub type Owners = HashMap<String, Option<(Owner, Label)>>;

/// What one look at all files came to.
#[derive(Debug, Default)]
pub struct Round {
    /// Bytes that were read and are stored now.
    pub bytes: u64,
    /// Handles of servers whose owner has to be told before more can be read.
    pub unknown: BTreeSet<String>,
    /// There is more to be read at once.
    pub more: bool,
    /// Files that could not be read, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Whose the lines of a file are.
#[derive(Clone)]
enum Whose {
    /// A server's, by its handle.
    Server(String),
    /// A function's, by its handle.
    Function(String),
    /// Each line says.
    Each(Source),
    /// The installation's.
    Own(Label),
}

/// Reads logs into a store.
pub struct Collector {
    home: PathBuf,
    store: Arc<Store>,
    /// Length and time of change of each file when it was last read to its end, by inode.
    quiet: HashMap<u64, (u64, i64, i64)>,
    rounds: u32,
}

impl Collector {
    /// Of the host whose home this is.
    #[must_use]
    pub fn new(home: &Path, store: Arc<Store>) -> Self {
        Self { home: home.to_owned(), store, quiet: HashMap::new(), rounds: 0 }
    }

    /// Looks at every file once, and stores what is new.
    ///
    /// # Errors
    /// When the store cannot be written; nothing of what was read is lost, and the next look tries again.
    pub fn round(&mut self, owners: &Owners, now: Timestamp) -> Result<Round, Error> {
        let mut round = Round::default();
        for (name, folder) in folders(&self.home.join("servers")) {
            let Some(handle) = handle_of(&name) else { continue };
            if !owners.contains_key(handle) {
                round.unknown.insert(handle.to_owned());
                continue;
            }
            self.folder(&folder.join("log"), &Whose::Server(handle.to_owned()), owners, now, &mut round)?;
        }
        let own = |source, component: Option<&str>| {
            let component = component.map(str::to_owned);
            Whose::Own(Label { source, stead: None, component, server: None })
        };
        let control = own(Source::Postgres, Some("control"));
        self.folder(&self.home.join("control/log"), &control, owners, now, &mut round)?;
        for (folder, prefix, whose) in [
            ("logs", "gateway.jsonl", Whose::Each(Source::Gateway)),
            ("spool", "keeper.jsonl", Whose::Each(Source::Keeper)),
            ("logs", "gateway.log", own(Source::Gateway, None)),
            ("logs", "archiver.log", own(Source::Archiver, None)),
            ("logs", "server.log", own(Source::Stead, None)),
            ("logs", "functions.log", own(Source::Engine, None)),
            ("relay/run", "relay.log", own(Source::Stead, None)),
        ] {
            let is = |entry: &DirEntry| {
                let name = entry.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            self.files(&self.home.join(folder), is, &whose, owners, now, &mut round)?;
        }
        self.functions(owners, now, &mut round)?;
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(SELDOM) {
            self.store.forget((now - FORGOTTEN).as_second());
        }
        Ok(round)
    }

    /// What functions wrote: of each its own files, in a folder of all.
    fn functions(&mut self, owners: &Owners, now: Timestamp, round: &mut Round) -> Result<(), Error> {
        let folder = self.home.join("logs");
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        let mut files: BTreeMap<String, Vec<DirEntry>> = BTreeMap::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let handle = name.to_str().and_then(|name| name.strip_prefix("function-")?.split('.').next());
            if let Some(handle) = handle.and_then(handle_of) {
                files.entry(handle.to_owned()).or_default().push(entry);
            }
        }
        for (handle, entries) in files {
            self.entries(&folder, entries, &Whose::Function(handle), owners, now, round)?;
        }
        Ok(())
    }

    fn folder(
        &mut self,
        folder: &Path,
        whose: &Whose,
        owners: &Owners,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), Error> {
        let is_json =
            |entry: &DirEntry| Path::new(&entry.file_name()).extension().is_some_and(|e| e == "json");
        self.files(folder, is_json, whose, owners, now, round)
    }

    fn files(
        &mut self,
        folder: &Path,
        wanted: impl Fn(&DirEntry) -> bool,
        whose: &Whose,
        owners: &Owners,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), Error> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
        let entries = entries.flatten().filter(|entry| wanted(entry)).collect();
        self.entries(folder, entries, whose, owners, now, round)
    }

    fn entries(
        &mut self,
        folder: &Path,
        entries: Vec<DirEntry>,
        whose: &Whose,
        owners: &Owners,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<(), Error> {
        let mut files = Vec::new();
        for entry in entries {
            // Of the name itself, not of what it may lead to.
            if let Ok(about) = entry.metadata().as_ref()
                && about.is_file()
            {
                let state = (about.len(), about.mtime(), about.mtime_nsec());
                files.push((about.mtime(), about.mtime_nsec(), entry.file_name(), about.ino(), state));
            }
        }
        // The oldest first, so that lines come in their order; of too many the newest.
        files.sort();
        let too_many = files.len().saturating_sub(FILES);
        for (_, _, name, inode, state) in files.into_iter().skip(too_many) {
            if self.quiet.get(&inode) == Some(&state) {
                continue;
            }
            let known = self.store.position(inode);
            match self.file(folder, &name, known, (whose, owners), now, round) {
                Ok(true) => drop(self.quiet.insert(inode, state)),
                Ok(false) => {}
                Err(Trouble::Store(error)) => return Err(error),
                // It was renamed or removed since it was listed; or it is no file of ours.
                Err(Trouble::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Trouble::Read(error)) => round.failed.push((folder.join(name), error)),
            }
        }
        Ok(())
    }

    /// Reads on in one file; answers whether its end was reached.
    fn file(
        &mut self,
        folder: &Path,
        name: &OsString,
        known: Option<Position>,
        (whose, owners): (&Whose, &Owners),
        now: Timestamp,
        round: &mut Round,
    ) -> Result<bool, Trouble> {
        let Some((file, inode, length)) = source::open(&folder.join(name))? else { return Ok(true) };
        let Some(id) = source::identity(&file, inode)? else { return Ok(true) };
        // Another first line: the file was emptied, or its inode is another file's now.
        let from = known.filter(|known| known.file == id).map_or(0, |known| known.to);
        let seen = now.as_second();
        self.store.advance(inode, Position { file: id, to: from, seen });
        let part = Part::read(&file, from, length)?;
        let (lines, to) = part.lines(from > 0 && source::is_inside(&file, from)?, false);
        let (batches, to) = sort(&lines, whose, owners, (id, from, to), now, &mut round.unknown);
        for batch in &batches {
            self.store.append(batch).map_err(Trouble::Store)?;
        }
        self.store.advance(inode, Position { file: id, to, seen });
        round.bytes += to - from;
        // What waits for an owner, or for the end of its line, is no reason to look again at once.
        let end = to >= length;
        round.more |= !end && to > from;
        Ok(end)
    }
}

/// Sorts lines by whose they are, up to the first whose owner is not known; answers where that stands.
fn sort<'a>(
    lines: &[source::Text<'a>],
    whose: &Whose,
    owners: &Owners,
    (file, from, mut to): (u64, u64, u64),
    now: Timestamp,
    unknown: &mut BTreeSet<String>,
) -> (Vec<Batch<'a>>, u64) {
    let within = (now - OLDEST).as_microsecond()..(now + AHEAD).as_microsecond();
    let mut sorted: BTreeMap<(Owner, Label), Vec<Entry<'a>>> = BTreeMap::new();
    let mut before = now.as_microsecond();
    for line in lines {
        let head = Head::of(line.1);
        let entry = Entry::new(*line, head.as_ref(), before, &within);
        let key = match whose {
            Whose::Own(label) => Ok((Owner::Installation, label.clone())),
            Whose::Server(handle) => owner(owners, handle, Source::Postgres),
            Whose::Function(handle) => owner(owners, handle, Source::Function),
            Whose::Each(source) => match head.as_ref().and_then(Head::server) {
                Some(handle) => owner(owners, handle, *source),
                None => Ok(nobodys(*source, None)),
            },
        };
        match key {
            Ok(key) => sorted.entry(key).or_default().push(entry),
            Err(handle) => {
                unknown.insert(handle);
                to = line.0;
                break;
            }
        }
        before = entry.at;
    }
    let batch = |((owner, label), entries)| Batch { owner, label, file, from, to, entries };
    (sorted.into_iter().map(batch).collect(), to)
}

fn owner(owners: &Owners, handle: &str, source: Source) -> Result<(Owner, Label), String> {
    match owners.get(handle) {
        Some(Some((owner, label))) => Ok((*owner, Label { source, ..label.clone() })),
        Some(None) => Ok(nobodys(source, Some(handle))),
        None => Err(handle.to_owned()),
    }
}

/// Of a server that is gone, or never was anybody's.
fn nobodys(source: Source, handle: Option<&str>) -> (Owner, Label) {
    let server = handle.map(str::to_owned);
    (Owner::Installation, Label { source, stead: None, component: None, server })
}

/// Why a file was not read on.
enum Trouble {
    Store(Error),
    Read(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

fn folders(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}
