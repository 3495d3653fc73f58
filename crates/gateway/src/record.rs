//! The connection log: one line a connection, when it ends, and one more when a session has lasted for
//! a while, so that those who are in can be seen too.
//!
//! Lines are written by a thread of their own: a slow disk must not slow a session. If it cannot keep
//! up, lines are dropped, and counted in the next one that is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::caller::Caller;

/// Lines waiting to be written; about 4 MB.
const WAITING: usize = 8192;
/// Rotated files kept beside the current one.
const KEEP: u32 = 4;

/// One line. Holds nothing secret: no password, key, statement or parameter ever comes here.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// When the line was written.
    pub(crate) at: Timestamp,
    /// `open` (a session that lasts) or `close`.
    pub(crate) event: &'static str,
    /// Counts connections of this run of the gateway; with `gateway_pid` it joins `open` and `close`.
    pub(crate) connection: u64,
    pub(crate) gateway_pid: u32,
    pub(crate) tenant: String,
    pub(crate) stead: String,
    pub(crate) component: String,
    pub(crate) server: String,
    /// The client's address and port.
    pub(crate) client: String,
    /// Those of the load balancer that said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) application_name: Option<String>,
    /// `TLSv1.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<String>,
    pub(crate) channel_binding: bool,
    /// The server's process id of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend_pid: Option<u32>,
    pub(crate) signed_in: bool,
    /// From accept to now.
    pub(crate) duration_ms: u64,
    /// Bytes of the session from the client to the server, TLS not counted.
    pub(crate) bytes_in: u64,
    /// And back.
    pub(crate) bytes_out: u64,
    /// One word: how it ended.
    pub(crate) outcome: &'static str,
    /// What the client was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// How often the session was brought to another server, or to the same one after it slept.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) moves: u64,
    /// Its line that it lasts was written.
    #[serde(skip)]
    pub(crate) announced: bool,
    /// Lines that were lost before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) lines_dropped: u64,
}

impl Record {
    /// Of a connection of which nothing is known yet but where it comes from.
    pub(crate) fn of_nobody(caller: &Caller) -> Record {
        Record {
            at: Timestamp::now(),
            event: "close",
            connection: caller.number,
            gateway_pid: std::process::id(),
            tenant: String::new(),
            stead: String::new(),
            component: String::new(),
            server: String::new(),
            client: caller.client.to_string(),
            via: caller.via.map(|balancer| balancer.to_string()),
            user: None,
            database: None,
            application_name: None,
            tls: None,
            channel_binding: false,
            backend_pid: None,
            signed_in: false,
            duration_ms: 0,
            bytes_in: 0,
            bytes_out: 0,
            outcome: "",
            message: None,
            moves: 0,
            announced: false,
            lines_dropped: 0,
        }
    }

    /// The line as it stands now, of a connection that was accepted at `started`.
    pub(crate) fn said(
        mut self,
        event: &'static str,
        started: Instant,
        (outcome, message): (&'static str, Option<String>),
    ) -> Record {
        let now = Timestamp::now();
        self.at = now.round(jiff::Unit::Millisecond).unwrap_or(now);
        (self.event, self.outcome, self.message) = (event, outcome, message);
        self.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Where lines go.
pub(crate) struct Log {
    lines: Mutex<Option<SyncSender<Record>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Lines lost since the last one that was written.
    dropped: Arc<AtomicU64>,
    dropped_ever: AtomicU64,
    /// Another process rotates the file.
    followed: Arc<AtomicBool>,
}

impl Log {
    /// Opens (and creates) the file.
    pub(crate) fn open(path: &Path, rotate_at: u64) -> io::Result<Log> {
        let followed = Arc::<AtomicBool>::default();
        let mut file = LogFile::open(path, rotate_at, followed.clone())?;
        let (lines, inbox) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let writer = std::thread::Builder::new()
            .name("connection-log".into())
            .spawn(move || file.write_all_of(&inbox, &lost))?;
        Ok(Log {
            lines: Mutex::new(Some(lines)),
            writer: Mutex::new(Some(writer)),
            dropped,
            dropped_ever: AtomicU64::new(0),
            followed,
        })
    }

    /// From now on the file is another process's to rotate.
    pub(crate) fn follow(&self) {
        self.followed.store(true, Ordering::Relaxed);
    }

    /// Never waits.
    pub(crate) fn write(&self, record: Record) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.as_ref().is_none_or(|lines| lines.try_send(record).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.dropped_ever.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost in this run of the gateway.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped_ever.load(Ordering::Relaxed)
    }

    /// Writes what is waiting, and ends.
    pub(crate) fn close(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the connection log failed");
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    rotate_at: u64,
    followed: Arc<AtomicBool>,
}

impl LogFile {
    fn open(path: &Path, rotate_at: u64, followed: Arc<AtomicBool>) -> io::Result<LogFile> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, size, rotate_at, followed })
    }

    fn write_all_of(&mut self, inbox: &Receiver<Record>, dropped: &AtomicU64) {
        while let Ok(first) = inbox.recv() {
            // As many lines as have come, in one write.
            let mut batch = Vec::with_capacity(512);
            for mut record in std::iter::once(first).chain(inbox.try_iter().take(256)) {
                record.lines_dropped = dropped.swap(0, Ordering::Relaxed);
                if serde_json::to_writer(&mut batch, &record).is_ok() {
                    batch.push(b'\n');
                }
            }
            if let Err(error) = self.append(&batch) {
                tracing::error!(%error, path = %self.path.display(), "cannot write the connection log");
            }
        }
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.followed.load(Ordering::Relaxed) {
            // Wherever the other one has got to.
            self.file = open(&self.path)?;
        } else if self.size >= self.rotate_at {
            self.rotate()?;
        }
        self.file.write_all(batch)?;
        self.size += u64::try_from(batch.len()).unwrap_or(0);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
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
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
