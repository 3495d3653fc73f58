//! The store as it is written: appending, knowing how far was read, closing segments, telling who follows.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::batch::Batch;
use crate::block::Builder;
use crate::line::{Label, Line, Owner};
use crate::looks::Looks;
use crate::segment::{self, Name};
use crate::{At, Error, fail_point};

const POSITIONS: &str = "positions.json";
/// Compression of small blocks, which are compressed again when they are put together.
const QUICK: i32 = 1;
/// Looks of the collector that one who follows may be behind before lines are lost to him.
const BEHIND: usize = 512;

/// Limits of a store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A segment is closed when it has this many blocks.
    pub blocks: usize,
    /// Or is this long, bytes.
    pub bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { blocks: 512, bytes: 64 * 1024 * 1024 }
    }
}

/// The logs of a host.
pub struct Store {
    pub(crate) root: PathBuf,
    options: Options,
    writer: Mutex<Writer>,
    followers: Mutex<HashMap<Owner, broadcast::Sender<Arc<Vec<Line>>>>>,
    /// One at a time puts segments together or removes them.
    pub(crate) tidying: Mutex<()>,
    pub(crate) looks: Looks,
}

#[derive(Default)]
struct Writer {
    /// Segments that are written to.
    open: BTreeMap<(Owner, Date), Open>,
    /// To which day an owner's last line went.
    latest: HashMap<Owner, Date>,
    /// What open segments have of files, beyond what is known as read.
    ahead: HashMap<(Owner, Label, u64), u64>,
    positions: BTreeMap<u64, Position>,
    /// Something was read since the positions were written.
    moved: bool,
}

struct Open {
    file: File,
    folder: PathBuf,
    number: u64,
    length: u64,
    blocks: usize,
    synced: bool,
}

/// How far a file was read. Files are kept by inode: to look at one costs no opening of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The file by inode and first line.
    pub(crate) file: u64,
    /// Bytes.
    pub(crate) to: u64,
    /// When it was last there, seconds since 1970.
    #[serde(default)]
    pub(crate) seen: i64,
}

impl Store {
    /// Opens the store in this folder, which is made where it is not there. What was being written when its last user
    /// was killed is put right.
    ///
    /// # Errors
    /// When the folder is somebody else's, or cannot be read and written.
    pub fn open(root: &Path, options: Options) -> Result<Self, Error> {
        match std::fs::DirBuilder::new().mode(0o700).create(root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).at("make", root),
            _ => {}
        }
        // Others of Stead's users may make names where this folder is.
        let about = std::fs::symlink_metadata(root).at("look at", root)?;
        if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Foreign(root.to_owned()));
        }
        let mut writer = Writer { positions: read_positions(root)?, ..Writer::default() };
        for (owner, folder) in owners(root)? {
            for (day, folder) in days(&folder)? {
                writer.recover(owner, day, &folder)?;
            }
        }
        let followers = Mutex::default();
        Ok(Self {
            root: root.to_owned(),
            options,
            writer: Mutex::new(writer),
            followers,
            tidying: Mutex::new(()),
            looks: Looks::default(),
        })
    }

    /// Stores lines; those that are stored already are left out. They can be searched when this returns, and those who
    /// follow are told.
    ///
    /// # Errors
    /// When they cannot be written; then the same may be tried again, and what was stored of it is left out.
    pub fn append(&self, batch: &Batch<'_>) -> Result<(), Error> {
        let fresh = self.writer().append(&self.root, batch)?;
        let followers = lock(&self.followers);
        if let Some(sender) = followers.get(&batch.owner).filter(|_| fresh < batch.entries.len()) {
            let label = Arc::new(batch.label.clone());
            let entries = batch.entries.get(fresh..).unwrap_or_default();
            let lines = entries
                .iter()
                .map(|entry| Line::read(&entry.about(batch.file), Arc::clone(&label), entry.text));
            // Nobody follows any more: the channel is removed when the next one asks.
            let _ = sender.send(Arc::new(lines.collect()));
        }
        Ok(())
    }

    /// Whether anybody follows lines as they come.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        let followers = self.followers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        followers.values().any(|sender| sender.receiver_count() > 0)
    }

    /// Lines of an owner from now on, as they are stored.
    pub fn follow(&self, owner: Owner) -> broadcast::Receiver<Arc<Vec<Line>>> {
        let mut followers = lock(&self.followers);
        followers.retain(|_, sender| sender.receiver_count() > 0);
        followers.entry(owner).or_insert_with(|| broadcast::channel(BEHIND).0).subscribe()
    }

    /// From where to read on in the file of this inode.
    pub(crate) fn position(&self, inode: u64) -> Option<Position> {
        self.writer().positions.get(&inode).copied()
    }

    /// All lines before `to` of the file are stored.
    pub(crate) fn advance(&self, inode: u64, position: Position) {
        let mut writer = self.writer();
        let known = writer.positions.insert(inode, position);
        writer.moved |= known.is_none_or(|known| (known.file, known.to) != (position.file, position.to));
        writer.ahead.retain(|(_, _, file), to| *file != position.file || *to > position.to);
    }

    /// Forgets files that were last there before `before`, seconds since 1970.
    pub(crate) fn forget(&self, before: i64) {
        self.writer().positions.retain(|_, position| position.seen >= before);
    }

    /// Brings everything to the disk, then says so in the file of positions; closes what is full, and what is of a day
    /// that is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn checkpoint(&self, now: Timestamp) -> Result<(), Error> {
        let mut writer = self.writer();
        if !writer.moved && writer.open.is_empty() {
            return Ok(());
        }
        for open in writer.open.values_mut().filter(|open| !open.synced) {
            open.sync()?;
        }
        if std::mem::take(&mut writer.moved)
            && let Err(error) = write_positions(&self.root, &writer.positions)
        {
            writer.moved = true;
            return Err(error);
        }
        let today = now.to_zoned(TimeZone::UTC).date();
        let options = self.options;
        // What is ahead of the positions is in open segments alone, and a new start has to find it there.
        let ahead: Vec<Owner> = writer.ahead.keys().map(|(owner, ..)| *owner).collect();
        let full = |(owner, day): &(Owner, Date), open: &Open| {
            let full = open.blocks >= options.blocks || open.length >= options.bytes || *day < today;
            full && !ahead.contains(owner)
        };
        let done: Vec<(Owner, Date)> =
            writer.open.iter().filter(|(key, open)| full(key, open)).map(|(key, _)| *key).collect();
        for key in done {
            if let Some(open) = writer.open.get(&key) {
                open.close()?;
                writer.open.remove(&key);
            }
        }
        Ok(())
    }

    /// The folder of an owner.
    pub(crate) fn folder(&self, owner: Owner) -> PathBuf {
        self.root.join(owner.to_string())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// Nothing more is written to segments of these days.
    pub(crate) fn let_go(&self, owner: Owner, before: Option<Date>) {
        let mut writer = self.writer();
        writer.open.retain(|(whose, day), _| *whose != owner || before.is_some_and(|before| *day >= before));
    }
}

impl Writer {
    /// Writes blocks; answers how many of the entries were stored already.
    fn append(&mut self, root: &Path, batch: &Batch<'_>) -> Result<usize, Error> {
        let key = (batch.owner, batch.label.clone(), batch.file);
        let known = self.ahead.get(&key).copied().unwrap_or(0);
        let stored = batch.entries.partition_point(|entry| entry.offset < known);
        let label = Arc::new(batch.label.clone());
        let mut entries = batch.entries.get(stored..).unwrap_or_default();
        let mut from = batch.from.max(known);
        while let Some(first) = entries.first() {
            let day = day_of(first.at);
            let mut block = Builder::new(Arc::clone(&label));
            block.part(batch.file, from, batch.to);
            let mut taken = 0;
            for entry in entries.iter().take_while(|entry| day_of(entry.at) == day) {
                block.add(entry);
                taken += 1;
                if block.is_full() {
                    break;
                }
            }
            entries = entries.get(taken..).unwrap_or_default();
            let to = entries.first().map_or(batch.to, |next| next.offset);
            block.part(batch.file, from, to);
            self.write(root, batch.owner, day, block)?;
            self.ahead.insert(key.clone(), to);
            from = to;
        }
        Ok(stored)
    }

    fn write(&mut self, root: &Path, owner: Owner, day: Date, block: Builder) -> Result<(), Error> {
        if let Some(latest) = self.latest.insert(owner, day).filter(|latest| *latest != day)
            && let Some(open) = self.open.get_mut(&(owner, latest))
        {
            // A loss of power must not keep what was read later and lose what was read before.
            open.sync()?;
        }
        let open = match self.open.entry((owner, day)) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let folder = root.join(owner.to_string()).join(day.to_string());
                place.insert(Open::create(folder)?)
            }
        };
        let path = open.path();
        let (_, head, body) = block.finish(QUICK).at("compress a block for", &path)?;
        if let Err(error) = open.write(&head, &body) {
            // Whatever came to the disk of it is taken back, so that the next block finds a sound end.
            open.file.set_len(open.length).at("shorten", &path)?;
            return Err(error).at("write", &path);
        }
        Ok(())
    }

    /// Whether everything in a block is known as read.
    fn is_behind(&self, found: &segment::Found) -> bool {
        found.meta.parts.iter().all(|part| {
            let known = self.positions.values().find(|known| known.file == part.file);
            known.is_some_and(|known| known.to >= part.to)
        })
    }

    /// Takes up what the last process left of a day.
    fn recover(&mut self, owner: Owner, day: Date, folder: &Path) -> Result<(), Error> {
        let listing = segment::list(folder)?;
        for name in listing.rubbish {
            let path = folder.join(name);
            std::fs::remove_file(&path).at("remove", &path)?;
        }
        for name in listing.segments.iter().filter(|name| name.open) {
            let path = segment::path(folder, *name);
            let file = OpenOptions::new().read(true).write(true).open(&path).at("open", &path)?;
            let mut walk = segment::walk(&file).at("read", &path)?;
            // A loss of power may have kept the head of a block and not the rest. What positions are behind of was on
            // the disk: if that is not sound, it is damage, and is left for readers to name.
            while let Some(last) = walk.blocks.last().filter(|last| !self.is_behind(last)) {
                if last.read(&file).at("read", &path)?.is_some() {
                    break;
                }
                walk.end = last.offset;
                walk.blocks.pop();
            }
            for found in &walk.blocks {
                for part in &found.meta.parts {
                    let key = (owner, Label::clone(&found.meta.label), part.file);
                    let to = self.ahead.entry(key).or_default();
                    *to = part.to.max(*to);
                }
            }
            if walk.end < walk.length {
                tracing::info!(path = %path.display(), bytes = walk.length - walk.end, "a block was half written");
                file.set_len(walk.end).at("shorten", &path)?;
            }
            let (length, blocks) = (walk.end, walk.blocks.len());
            let open =
                Open { file, folder: folder.to_owned(), number: name.first, length, blocks, synced: false };
            let last = self.open.insert((owner, day), open);
            // There is one; two are the work of somebody who copied files, and both are read.
            drop(last);
            self.latest.insert(owner, day);
        }
        let positions = &self.positions;
        self.ahead.retain(|(_, _, file), to| {
            positions.values().find(|known| known.file == *file).is_none_or(|known| known.to < *to)
        });
        Ok(())
    }
}

impl Open {
    /// The next segment of a day.
    fn create(folder: PathBuf) -> Result<Self, Error> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).at("make", &folder)?;
        let number = segment::list(&folder)?.segments.iter().map(|name| name.last).max().unwrap_or(0) + 1;
        let path = segment::path(&folder, Name::open(number));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).at("make", &path)?;
        for folder in folder.ancestors().take(3) {
            sync_folder(folder)?;
        }
        fail_point!("logs::opened");
        Ok(Self { file, folder, number, length: 0, blocks: 0, synced: true })
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.folder, Name::open(self.number))
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.synced = false;
        self.file.write_all_at(head, self.length)?;
        fail_point!("logs::half-written");
        self.file.write_all_at(body, self.length + crate::wide(head.len()))?;
        fail_point!("logs::written");
        self.length += crate::wide(head.len() + body.len());
        self.blocks += 1;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().at("write", &self.path())?;
        self.synced = true;
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        let path = self.path();
        let closed = segment::path(&self.folder, Name::closed(self.number, self.number));
        std::fs::rename(&path, &closed).at("rename", &path)?;
        fail_point!("logs::closed");
        sync_folder(&self.folder)
    }
}

fn read_positions(root: &Path) -> Result<BTreeMap<u64, Position>, Error> {
    let path = root.join(POSITIONS);
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| Error::Positions { path, why: error.to_string() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).at("read", &path),
    }
}

fn write_positions(root: &Path, positions: &BTreeMap<u64, Position>) -> Result<(), Error> {
    let (path, draft) = (root.join(POSITIONS), root.join("positions.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(positions)?)?;
        file.sync_all()?;
        fail_point!("logs::positions-drafted");
        std::fs::rename(&draft, &path)
    };
    write().at("write", &path)?;
    fail_point!("logs::positions-written");
    sync_folder(root)
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).at("write", folder)
}

/// Folders of owners.
pub(crate) fn owners(root: &Path) -> Result<Vec<(Owner, PathBuf)>, Error> {
    folders(root)
}

/// Folders of days, the earliest first.
pub(crate) fn days(folder: &Path) -> Result<Vec<(Date, PathBuf)>, Error> {
    let mut days: Vec<(Date, PathBuf)> = folders(folder)?;
    days.sort();
    Ok(days)
}

fn folders<T: std::str::FromStr>(folder: &Path) -> Result<Vec<(T, PathBuf)>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", folder)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.at("list", folder)?;
        if let Some(key) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((key, entry.path()));
        }
    }
    Ok(found)
}

/// The day of a moment, in UTC.
pub(crate) fn day_of(at: i64) -> Date {
    let moment = Timestamp::from_microsecond(at).unwrap_or_default();
    moment.to_zoned(TimeZone::UTC).date()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
