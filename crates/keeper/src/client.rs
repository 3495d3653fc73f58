//! A client of the keeper: what the local driver uses. Blocking, a connection a call.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::wire::{
    HostStatus, Name, Refusal, Reply, Request, Tree, Unit, UnitStatus, WorkerClaim, WorkerOrder,
};

/// An answer is at most the state of some thousand units.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Talks to the keeper of a home.
#[derive(Debug, Clone)]
pub struct Client {
    home: PathBuf,
    connect: Duration,
    answer: Duration,
}

/// Why a call did not come back with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No keeper listens.
    #[error("no keeper answers for `{home}`: {source}; start one with `stead keeper`")]
    Unreachable {
        /// The home.
        home: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The connection broke, or the answer took too long: the keeper may have done it or not, so ask again.
    #[error("the keeper did not answer: {0}; try again")]
    Broken(io::Error),
    /// The keeper said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The keeper answered something else; its version differs too much.
    #[error("the keeper's answer is not understood; run keeper and control plane of one version")]
    Strange,
}

impl Client {
    /// A client of the keeper of `home`.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into(), connect: Duration::from_secs(2), answer: Duration::from_secs(30) }
    }

    /// Waits this long for a connection, and this long for an answer.
    #[must_use]
    pub fn with_timeouts(self, connect: Duration, answer: Duration) -> Self {
        Self { connect, answer, ..self }
    }

    /// The home whose keeper this talks to.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Writes a unit's declaration, whole or not at all; [`Self::apply`] makes it true.
    pub fn declare(&self, unit: &Unit) -> io::Result<()> {
        let folder = self.home.join("units");
        // One control plane writes here. Always the same name, so that what one that was killed left behind
        // is overwritten by the next.
        let new = folder.join(format!(".{}.new", unit.name));
        let mut file = std::fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(unit)?)?;
        file.sync_all()?;
        std::fs::rename(&new, folder.join(format!("{}.json", unit.name)))
    }

    /// Brings the declaration of a unit about.
    pub fn apply(&self, unit: &Name) -> Result<UnitStatus, ClientError> {
        self.status(&Request::Apply { unit: unit.clone() })
    }

    /// State of a unit.
    pub fn unit(&self, unit: &Name) -> Result<Option<UnitStatus>, ClientError> {
        match self.call(&Request::Unit { unit: unit.clone() })? {
            Reply::Unit(status) => Ok(status),
            _ => Err(ClientError::Strange),
        }
    }

    /// Whether a unit's server takes sessions, by its own word.
    pub fn ready(&self, unit: &Name) -> Result<bool, ClientError> {
        match self.call(&Request::Ready { unit: unit.clone() })? {
            Reply::Ready(ready) => Ok(ready),
            _ => Err(ClientError::Strange),
        }
    }

    /// State of the host and of every unit.
    pub fn host(&self) -> Result<HostStatus, ClientError> {
        match self.call(&Request::Host)? {
            Reply::Host(status) => Ok(status),
            _ => Err(ClientError::Strange),
        }
    }

    /// Has a unit sleep until it is woken.
    pub fn sleep(&self, unit: &Name, why: &str) -> Result<UnitStatus, ClientError> {
        self.status(&Request::Sleep { unit: unit.clone(), why: why.to_owned() })
    }

    /// Wakes a unit.
    pub fn wake(&self, unit: &Name, why: &str) -> Result<UnitStatus, ClientError> {
        self.status(&Request::Wake { unit: unit.clone(), why: why.to_owned() })
    }

    /// Lets a unit read its configuration again.
    pub fn reload(&self, unit: &Name) -> Result<(), ClientError> {
        self.done(&Request::Reload { unit: unit.clone() })
    }

    /// Forgets a unit that has ended.
    pub fn remove_unit(&self, unit: &Name) -> Result<(), ClientError> {
        self.done(&Request::RemoveUnit { unit: unit.clone() })
    }

    /// Makes a tree.
    pub fn create_tree(&self, tree: &Tree) -> Result<(), ClientError> {
        self.done(&Request::CreateTree { tree: tree.clone() })
    }

    /// Moves a tree to another name.
    pub fn rename_tree(&self, from: &Tree, to: &Tree) -> Result<(), ClientError> {
        self.done(&Request::RenameTree { from: from.clone(), to: to.clone() })
    }

    /// Removes a tree and everything in it.
    pub fn remove_tree(&self, tree: &Tree) -> Result<(), ClientError> {
        self.done(&Request::RemoveTree { tree: tree.clone() })
    }

    /// Makes a worker. The descriptors are the keeper's end of the control socket, standard input, output and error,
    /// and can be closed here afterwards; the worker ends with the process that calls this.
    pub fn start_worker(&self, order: &WorkerOrder, fds: [BorrowedFd<'_>; 4]) -> Result<(), ClientError> {
        match self.call_with(&Request::StartWorker(order.clone()), &fds)? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Strange),
        }
    }

    /// Gives a worker its package, limits and doors.
    pub fn claim_worker(&self, claim: &WorkerClaim) -> Result<(), ClientError> {
        self.done(&Request::ClaimWorker(claim.clone()))
    }

    /// Ends a worker at once.
    pub fn stop_worker(&self, worker: &Name) -> Result<(), ClientError> {
        self.done(&Request::StopWorker { worker: worker.clone() })
    }

    /// Ends the keeper; with `units` once every unit has been stopped.
    pub fn shutdown(&self, units: bool) -> Result<(), ClientError> {
        self.done(&Request::Shutdown { units })
    }

    fn status(&self, request: &Request) -> Result<UnitStatus, ClientError> {
        match self.call(request)? {
            Reply::Unit(Some(status)) => Ok(status),
            _ => Err(ClientError::Strange),
        }
    }

    fn done(&self, request: &Request) -> Result<(), ClientError> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Strange),
        }
    }

    /// One request, one answer; a refusal is an error.
    pub fn call(&self, request: &Request) -> Result<Reply, ClientError> {
        self.call_with(request, &[])
    }

    fn call_with(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ClientError> {
        let unreachable = |source| ClientError::Unreachable { home: self.home.clone(), source };
        let stream = self.open().map_err(unreachable)?;
        let answer = (|| {
            stream.set_read_timeout(Some(self.answer))?;
            stream.set_write_timeout(Some(self.answer))?;
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            // The keeper may refuse and go before it has read; its answer tells.
            let written = send(&stream, &line, fds);
            let mut answer = Vec::new();
            BufReader::new((&stream).take(ANSWER_BYTES)).read_until(b'\n', &mut answer)?;
            if answer.last() != Some(&b'\n') {
                written?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(answer)
        })()
        .map_err(ClientError::Broken)?;
        match serde_json::from_slice(&answer).map_err(|_| ClientError::Strange)? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }

    fn open(&self) -> io::Result<UnixStream> {
        let address = SocketAddrUnix::new(self.home.join("keeper/keeper.sock"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let deadline = Instant::now() + self.connect;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                // The keeper's queue is full: it has much to do, or hangs.
                Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                    let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                    rustix::event::poll(&mut [], Some(&pause))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

/// Writes a line; descriptors go with its first bytes.
fn send(mut stream: &UnixStream, line: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.is_empty() {
        return stream.write_all(line);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(line.get(sent..).unwrap_or_default())
}
