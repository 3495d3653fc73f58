//! What functions print, and what is said of their invocations: a file a function, `logs/function-<handle>.jsonl`, a JSON
//! object a line.
//!
//! It is bounded twice. A function may write so many bytes a second, and what is beyond that is dropped and counted in a
//! line of its own; and a file is renamed away at a size, of which a few are kept. So one that prints without end fills
//! no disk and slows nobody else's log. Lines are written by a thread of its own: a slow disk slows no invocation.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::files::Share;
use crate::route::Route;

/// Lines waiting to be written.
const WAITING: usize = 16 * 1024;
/// Lines that are written at once, at most.
const MOST_AT_ONCE: usize = 4096;
/// After a write the next lines are gathered for so long: to be woken for each costs the call that wrote it more than
/// writing it does.
const GATHER: Duration = Duration::from_millis(2);
/// Rotated files kept beside the current one.
const KEEP: u32 = 4;

/// Bounds of one function's log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes a second, in the long run.
    pub(crate) rate: u64,
    /// Bytes at once.
    pub(crate) burst: u64,
    /// A file is renamed away at this size, bytes.
    pub(crate) rotate_at: u64,
}

/// Who says a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    /// The function, on standard output.
    Stdout,
    /// The function, on standard error.
    Stderr,
    /// The engine, about it.
    Platform,
}

/// The numbers of Lambda's REPORT line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) duration_ms: f64,
    pub(crate) billed_ms: u64,
    pub(crate) memory_mib: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_memory_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_type: Option<String>,
}

/// A line.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) level: &'static str,
    pub(crate) version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    pub(crate) stream: Stream,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<Report>,
}

/// Whose lines they are.
#[derive(Serialize)]
struct Owner {
    function: String,
    tenant: String,
    stead: String,
    component: String,
}

/// A line as it is written.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    line: &'a Line,
    #[serde(flatten)]
    owner: &'a Owner,
}

/// What waits to be written.
type Written = (Arc<Owner>, Line);

/// Where lines go.
pub(crate) struct Log {
    lines: Mutex<Option<SyncSender<Written>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    bounds: Bounds,
}

impl Log {
    /// Begins the thread that writes into a folder.
    pub(crate) fn open(folder: &Path, share: Share, bounds: Bounds) -> io::Result<Arc<Self>> {
        let (lines, inbox) = sync_channel(WAITING);
        let (folder, rotate_at) = (folder.to_owned(), bounds.rotate_at);
        let mut files = Files { folder, share, rotate_at, open: HashMap::new() };
        let writer = std::thread::Builder::new()
            .name("function-log".into())
            .spawn(move || files.write_all_of(&inbox))?;
        Ok(Arc::new(Self { lines: Mutex::new(Some(lines)), writer: Mutex::new(Some(writer)), bounds }))
    }

    /// The log of one function.
    pub(crate) fn of(self: &Arc<Self>, route: &Route) -> FunctionLog {
        FunctionLog {
            log: self.clone(),
            owner: Arc::new(Owner {
                function: route.function.clone(),
                tenant: route.tenant.clone(),
                stead: route.stead.clone(),
                component: route.component.clone(),
            }),
            bucket: Mutex::new(Bucket { left: self.bounds.burst, since: Instant::now() }),
            dropped_lines: AtomicU64::new(0),
            dropped_bytes: AtomicU64::new(0),
        }
    }

    /// Writes what waits, and ends.
    pub(crate) fn close(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of functions' logs failed");
        }
    }

    /// Answers whether there was room.
    fn send(&self, owner: &Arc<Owner>, line: Line) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.as_ref().is_some_and(|lines| lines.try_send((owner.clone(), line)).is_ok())
    }
}

impl Line {
    /// About how long it is as it is written, bytes.
    fn length(&self) -> u64 {
        u64::try_from(self.message.len()).unwrap_or(u64::MAX).saturating_add(200)
    }
}

/// One function's log.
pub(crate) struct FunctionLog {
    log: Arc<Log>,
    owner: Arc<Owner>,
    bucket: Mutex<Bucket>,
    dropped_lines: AtomicU64,
    dropped_bytes: AtomicU64,
}

struct Bucket {
    left: u64,
    since: Instant,
}

impl FunctionLog {
    /// Never waits.
    pub(crate) fn write(&self, line: Line) {
        let length = line.length();
        // What the engine says is short, rare, and what tells about the rest.
        if line.stream != Stream::Platform && !self.may(length) {
            return self.drop(length);
        }
        self.tell_of_dropped(line.version);
        self.append(line);
    }

    /// Says how much was dropped, if anything was.
    fn tell_of_dropped(&self, version: Option<u64>) {
        if self.dropped_lines.load(Ordering::Relaxed) == 0 {
            return;
        }
        let lines = self.dropped_lines.swap(0, Ordering::Relaxed);
        let bytes = self.dropped_bytes.swap(0, Ordering::Relaxed);
        let rate = self.log.bounds.rate;
        self.append(Line {
            at: Timestamp::now(),
            level: "warning",
            version,
            request_id: None,
            stream: Stream::Platform,
            message: format!(
                "{lines} lines of about {bytes} bytes were dropped here: a function may log {rate} bytes a second"
            ),
            report: None,
        });
    }

    fn append(&self, line: Line) {
        let length = line.length();
        if !self.log.send(&self.owner, line) {
            self.drop(length);
        }
    }

    fn drop(&self, length: u64) {
        self.dropped_lines.fetch_add(1, Ordering::Relaxed);
        self.dropped_bytes.fetch_add(length, Ordering::Relaxed);
    }

    fn may(&self, length: u64) -> bool {
        let Bounds { rate, burst, .. } = self.log.bounds;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let micros = u64::try_from(now.duration_since(bucket.since).as_micros()).unwrap_or(u64::MAX);
        let filled = micros.saturating_mul(rate) / 1_000_000;
        if filled > 0 {
            bucket.left = bucket.left.saturating_add(filled).min(burst);
            bucket.since = now;
        }
        let may = bucket.left >= length;
        if may {
            bucket.left -= length;
        }
        may
    }
}

/// The open files.
struct Files {
    folder: PathBuf,
    share: Share,
    rotate_at: u64,
    open: HashMap<String, LogFile>,
}

struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    batch: Vec<u8>,
}

impl Files {
    /// Files open at once; of more, all are closed and opened again as they are needed.
    const MOST: usize = 256;

    fn write_all_of(&mut self, inbox: &Receiver<Written>) {
        while let Ok(first) = inbox.recv() {
            // As many lines as have come, in one write a file.
            for (owner, line) in std::iter::once(first).chain(inbox.try_iter().take(MOST_AT_ONCE)) {
                if let Err(error) = self.gather(&Whole { line: &line, owner: &owner }) {
                    tracing::error!(%error, owner.function, "cannot open a function's log");
                }
            }
            for (function, file) in &mut self.open {
                if let Err(error) = file.flush(self.rotate_at, self.share) {
                    tracing::error!(%error, %function, "cannot write a function's log");
                }
            }
            if self.open.len() > Self::MOST {
                self.open.clear();
            }
            std::thread::park_timeout(GATHER);
        }
    }

    fn gather(&mut self, line: &Whole<'_>) -> io::Result<()> {
        let function = &line.owner.function;
        if !self.open.contains_key(function) {
            let path = self.folder.join(format!("function-{function}.jsonl"));
            let file = open(&path, self.share)?;
            let size = file.metadata()?.len();
            self.open.insert(function.clone(), LogFile { path, file, size, batch: Vec::new() });
        }
        if let Some(file) = self.open.get_mut(function) {
            serde_json::to_writer(&mut file.batch, line)?;
            file.batch.push(b'\n');
        }
        Ok(())
    }
}

impl LogFile {
    fn flush(&mut self, rotate_at: u64, share: Share) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.size >= rotate_at {
            self.rotate(share)?;
        }
        let written = self.file.write_all(&self.batch);
        self.size += u64::try_from(self.batch.len()).unwrap_or(0);
        self.batch.clear();
        self.batch.shrink_to(64 * 1024);
        written
    }

    fn rotate(&mut self, share: Share) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..KEEP).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        self.file = open(&self.path, share)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path, share: Share) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    share.file(&file)?;
    Ok(file)
}
