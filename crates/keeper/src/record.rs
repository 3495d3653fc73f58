//! What the keeper writes down about a unit's process, and how it finds that process again.
//!
//! A process is known by its pid, its start time and the boot it belongs to: a pid alone is given away
//! again. The record says what was launched; `<tree>/lock` says by whom the tree is held, and, once the
//! launcher is about to hand over to the program, that it really ran.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::wire::{Name, Unit};
use crate::{fail_point, files};

/// Which process it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Clock ticks after the boot (field 22 of `/proc/<pid>/stat`).
    pub(crate) start: u64,
    pub(crate) boot: String,
}

/// How a process ended, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// `keeper/state/<unit>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The unit as it was launched.
    pub(crate) unit: Unit,
    pub(crate) identity: Identity,
    pub(crate) started_at: Timestamp,
    pub(crate) restarts: u64,
    /// Set when the process has ended by itself and shall not be started again.
    pub(crate) outcome: Option<Outcome>,
}

/// The line in a lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) unit: Name,
    pub(crate) generation: u64,
    pub(crate) identity: Identity,
}

/// What the launcher adds to the lock file right before the program takes over.
pub(crate) const RAN: &[u8] = b"ran\n";

impl Record {
    pub(crate) fn write(&self, state: impl AsFd) -> io::Result<()> {
        let name = format!("{}.json", self.unit.name);
        files::write_atomic(state, &name, &serde_json::to_vec(self)?, 0o600)
    }

    /// All records; unreadable ones (a machine that lost power) are none.
    pub(crate) fn all(state: impl AsFd) -> io::Result<Vec<(String, Option<Self>)>> {
        let state = state.as_fd();
        let names = files::list(state)?;
        Ok(names
            .into_iter()
            .map(|name| {
                let bytes = files::read(state, &name, 1024 * 1024).ok();
                let record: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                let record = record.filter(|record| name == format!("{}.json", record.unit.name));
                (name, record)
            })
            .collect())
    }
}

impl Holder {
    /// Says in a lock file who holds it; the lock itself must be held.
    pub(crate) fn write(&self, file: impl AsFd) -> io::Result<()> {
        let file = file.as_fd();
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        rustix::fs::ftruncate(file, 0)?;
        fail_point!("keeper::record.lock_emptied");
        rustix::io::pwrite(file, &line, 0)?;
        Ok(())
    }

    /// Who holds, or last held, a lock file, and whether the program ran.
    pub(crate) fn read(file: impl AsFd) -> Option<(Self, bool)> {
        let mut bytes = [0u8; 4096];
        let n = rustix::io::pread(file, &mut bytes, 0).ok()?;
        let text = bytes.get(..n)?;
        let end = text.iter().position(|b| *b == b'\n')?;
        let holder = serde_json::from_slice(text.get(..end)?).ok()?;
        Some((holder, text.get(end + 1..) == Some(RAN)))
    }
}

impl Identity {
    /// Of a process that lives and whose pid cannot be reused meanwhile (a child, or one held by a pidfd).
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let (_, start) = stat(pid)?;
        Ok(Self { pid: pid.as_raw_nonzero().get(), start, boot: boot()? })
    }

    /// The very process, if it still lives.
    pub(crate) fn find(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot != boot()? {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after the descriptor was opened, so that both are of one process.
        match stat(pid) {
            Ok((state, start)) if start == self.start && !matches!(state, 'Z' | 'X') => Ok(Some(pidfd)),
            _ => Ok(None),
        }
    }

    /// How long ago it was started.
    pub(crate) fn age(&self) -> std::time::Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let started = std::time::Duration::from_millis(self.start.saturating_mul(1000) / ticks);
        let now = std::time::Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
        now.saturating_sub(started)
    }
}

/// State and start time of a process.
fn stat(pid: Pid) -> io::Result<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    parse_stat(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown form of /proc/<pid>/stat"))
}

/// The program's name is in parentheses and may hold anything, so fields are counted from its end.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_strange_name() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1";
        assert_eq!(parse_stat(text), Some(('S', 987_654)));
    }

    #[test]
    fn only_the_very_process_is_found() {
        let me = Identity::of(rustix::process::getpid()).unwrap();
        assert!(me.find().unwrap().is_some());
        let reused = Identity { start: me.start + 1, ..me.clone() };
        assert!(reused.find().unwrap().is_none(), "a pid that was given away again");
        let earlier = Identity { boot: "another".into(), ..me };
        assert!(earlier.find().unwrap().is_none(), "a pid of an earlier boot");
    }
}
