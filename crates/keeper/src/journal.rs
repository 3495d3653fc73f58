//! What the keeper says: its own log, and the spool from which the control plane imports events.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::Serialize;

use crate::files::{self, Access};
use crate::host::Host;
use crate::wire::{Name, SpoolLine};
use crate::{During, Error};

/// The log is moved away when it is larger, once: at most twice this on the disk.
const LOG_BYTES: u64 = 8 * 1024 * 1024;

/// Lines kept for a spool that cannot be written (a full disk); later ones are dropped.
const WAITING_LINES: usize = 1000;

#[derive(Serialize)]
struct LogLine<'a> {
    at: Timestamp,
    level: &'a str,
    unit: Option<&'a Name>,
    message: &'a str,
}

pub(crate) struct Journal {
    keeper: OwnedFd,
    log: File,
    spool: File,
    waiting: Vec<Vec<u8>>,
}

impl Journal {
    pub(crate) fn open(home: impl AsFd, host: &Host) -> Result<Self, Error> {
        let home = home.as_fd();
        let keeper = files::open_dir(home, "keeper").during(|| "cannot open `keeper`".into())?;
        let log = append(&keeper, "keeper.log", host, host.root().1)
            .during(|| "cannot open `keeper/keeper.log`".into())?;
        let folder = files::open_dir(home, "spool").during(|| "cannot open `spool`".into())?;
        let spool = append(&folder, "keeper.jsonl", host, host.gid())
            .during(|| "cannot open `spool/keeper.jsonl`".into())?;
        Ok(Self { keeper, log, spool, waiting: Vec::new() })
    }

    /// A line for whoever operates the host.
    pub(crate) fn log(&mut self, level: &str, unit: Option<&Name>, message: &str) {
        let line = LogLine { at: Timestamp::now(), level, unit, message };
        let Ok(mut bytes) = serde_json::to_vec(&line) else { return };
        bytes.push(b'\n');
        // Nobody is left to tell when the log itself cannot be written.
        let _ = self.log.write_all(&bytes);
        if self.log.metadata().is_ok_and(|meta| meta.len() > LOG_BYTES) {
            let _ = rustix::fs::renameat(&self.keeper, "keeper.log", &self.keeper, "keeper.log.1");
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
            if let Ok(log) = files::open_file(&self.keeper, "keeper.log", flags, 0o640) {
                self.log = log;
            }
        }
    }

    /// An event for the timeline, and a line of the log.
    pub(crate) fn event(&mut self, unit: Option<&Name>, action: &str, message: impl Into<String>) {
        let message = message.into();
        self.log("info", unit, &format!("{action}: {message}"));
        let line = SpoolLine { at: Timestamp::now(), unit: unit.cloned(), action: action.into(), message };
        let Ok(mut bytes) = serde_json::to_vec(&line) else { return };
        bytes.push(b'\n');
        if self.waiting.len() < WAITING_LINES {
            self.waiting.push(bytes);
        }
        self.flush();
    }

    /// Writes what waits; called again by the timer for as long as something does.
    pub(crate) fn flush(&mut self) {
        while let Some(line) = self.waiting.first() {
            if append_whole(&mut self.spool, line).is_err() {
                return;
            }
            self.waiting.remove(0);
        }
    }
}

/// A line is in the file whole or not at all, so that the importer never meets half of one.
fn append_whole(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write_all(line);
    if written.is_err() {
        file.set_len(before)?;
    }
    written
}

/// Opens a file of the keeper for appending. Others may write to the folder, so that what has the name
/// may be a link they planted: then it is removed.
fn append(dir: &OwnedFd, name: &str, host: &Host, gid: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
    let uid = host.root().0;
    let open = || -> io::Result<File> {
        let file = files::open_file(dir, name, flags, 0o640)?;
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_uid != uid || stat.st_nlink != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the keeper's own"));
        }
        Ok(file)
    };
    let file = open().or_else(|_| {
        files::remove_file(dir, name)?;
        open()
    })?;
    files::set_access(&file, Access { uid, gid, mode: 0o640 })?;
    // What a killed keeper left of a line would spoil the next one.
    let mut file = file;
    let length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0u8];
        rustix::io::pread(&file, &mut last, length - 1)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
