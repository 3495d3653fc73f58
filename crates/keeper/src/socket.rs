//! The keeper's socket: who may talk, one line at a time, and no peer can make the loop wait.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::process::Pid;

use crate::declared::invalid;
use crate::fail_point;
use crate::host::Host;
use crate::wire::{Reply, Request};

/// A request is a name or two; that for a worker holds the worker's small files.
const LINE_BYTES: usize = 1024 * 1024;

/// Descriptors that come with a request: as many as a worker takes.
const DESCRIPTORS: usize = 4;

/// With more, one that is idle has to go; with none idle, new ones wait.
const PEERS: usize = 64;

/// A peer that has begun a line, or does not take its answer, is dropped after this long.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Socket {
    listener: UnixListener,
    peers: Vec<Peer>,
    host: Host,
    next: u64,
}

struct Peer {
    id: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Since when it has been in the middle of something.
    busy_since: Option<Instant>,
    /// Waits for an answer that comes later.
    held: bool,
    /// Shall go when the output has been written.
    last: bool,
    rights: Rights,
    /// The process that connected.
    process: Option<Pid>,
    /// Descriptors that came with what has been read.
    fds: Vec<OwnedFd>,
}

/// What a peer may ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    All,
    /// It is the gateway: sleep and waking only.
    Gateway,
    /// It is the function front door: workers only.
    Functions,
    None,
}

/// A request, and the peer to answer.
pub(crate) struct Asked {
    pub(crate) peer: u64,
    pub(crate) request: Request,
    /// The process that asks.
    pub(crate) process: Option<Pid>,
    /// What it sent along.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Socket {
    /// Listens at `keeper/keeper.sock`; the name appears only once the socket has its owner and mode.
    pub(crate) fn listen(home: &Path, host: &Host) -> io::Result<Self> {
        let (path, new) = (home.join("keeper/keeper.sock"), home.join("keeper/.sock.new"));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        listener.set_nonblocking(true)?;
        fail_point!("keeper::socket.bound");
        std::os::unix::fs::chown(&new, Some(host.root().0), Some(host.gid()))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))?;
        std::fs::rename(&new, &path)?;
        fail_point!("keeper::socket.listening");
        Ok(Self { listener, peers: Vec::new(), host: host.clone(), next: 0 })
    }

    /// What to wait for: the listener first, then every peer in order.
    pub(crate) fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let room = self.peers.len() < PEERS || self.idle().is_some();
        let accept = if room { PollFlags::IN } else { PollFlags::empty() };
        let peers = self.peers.iter().map(|peer| {
            let flags = if !peer.output.is_empty() {
                PollFlags::OUT
            } else if peer.held || peer.last {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            (peer.stream.as_fd(), flags)
        });
        std::iter::once((self.listener.as_fd(), accept)).chain(peers).collect()
    }

    /// Goes on with what is ready (in the order of [`Self::interests`]); at most one request a peer.
    pub(crate) fn advance(&mut self, ready: &[PollFlags]) -> Vec<Asked> {
        let mut asked = Vec::new();
        for (peer, ready) in self.peers.iter_mut().zip(ready.iter().skip(1)) {
            if !ready.is_empty() && peer.advance(*ready).is_err() {
                peer.last = true;
                peer.output.clear();
            }
        }
        for peer in &mut self.peers {
            asked.extend(peer.request());
        }
        if ready.first().is_some_and(|flags| flags.contains(PollFlags::IN)) {
            self.accept();
        }
        let now = Instant::now();
        self.peers.retain(|peer| {
            let gone = peer.last && peer.output.is_empty();
            let slow = peer.busy_since.is_some_and(|since| now.duration_since(since) > PATIENCE);
            !gone && !slow
        });
        asked
    }

    /// When the loop must come back although nothing is ready.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let pending = self.peers.iter().any(|peer| peer.has_line());
        let slow = self.peers.iter().filter_map(|peer| peer.busy_since).min().map(|since| since + PATIENCE);
        if pending { Some(Instant::now()) } else { slow }
    }

    /// Answers a peer, if it is still there.
    pub(crate) fn answer(&mut self, peer: u64, reply: &Reply) {
        if let Some(peer) = self.peers.iter_mut().find(|p| p.id == peer) {
            peer.held = false;
            peer.say(reply);
        }
    }

    /// Waits up to a moment for answers to be taken, before the process ends.
    pub(crate) fn flush(&mut self) {
        for peer in &mut self.peers {
            let _ = peer.stream.set_nonblocking(false);
            let _ = peer.stream.set_write_timeout(Some(Duration::from_millis(200)));
            let _ = peer.stream.write_all(&peer.output);
        }
    }

    /// The peer that has been connected longest among those in the middle of nothing.
    fn idle(&self) -> Option<usize> {
        self.peers.iter().position(|peer| !peer.held && peer.input.is_empty() && peer.output.is_empty())
    }

    fn rights(&self, uid: u32) -> Rights {
        match uid {
            uid if uid == 0 || uid == self.host.control_uid() => Rights::All,
            uid if uid == self.host.gateway_uid() => Rights::Gateway,
            uid if uid == self.host.functions_uid() => Rights::Functions,
            _ => Rights::None,
        }
    }

    fn accept(&mut self) {
        while self.peers.len() < PEERS || self.idle().is_some() {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if self.peers.len() >= PEERS
                && let Some(idle) = self.idle()
            {
                self.peers.remove(idle);
            }
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let credentials = rustix::net::sockopt::socket_peercred(&stream).ok();
            let rights = credentials.map_or(Rights::None, |peer| self.rights(peer.uid.as_raw()));
            self.next += 1;
            let mut peer = Peer {
                id: self.next,
                stream,
                input: Vec::new(),
                output: Vec::new(),
                busy_since: None,
                held: false,
                last: false,
                rights,
                process: credentials.map(|peer| peer.pid),
                fds: Vec::new(),
            };
            if rights == Rights::None {
                peer.last = true;
                peer.say(&Reply::Refused(invalid("only Stead's own processes may talk to the keeper")));
            }
            self.peers.push(peer);
        }
    }
}

impl Peer {
    fn advance(&mut self, ready: PollFlags) -> io::Result<()> {
        if !self.output.is_empty() {
            let n = skip_would_block(self.stream.write(&self.output))?;
            self.output.drain(..n);
        } else if ready.contains(PollFlags::IN) {
            match self.read() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => skip_would_block(read.map(|_| 0))?,
            };
        } else if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.note_progress();
        Ok(())
    }

    /// Takes what has come, descriptors too.
    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0u8; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > DESCRIPTORS || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        self.input.extend_from_slice(chunk.get(..received.bytes).unwrap_or_default());
        Ok(received.bytes)
    }

    fn has_line(&self) -> bool {
        self.output.is_empty() && !self.held && !self.last && self.input.contains(&b'\n')
    }

    /// Takes the next request from what has come. What is none is answered here.
    fn request(&mut self) -> Option<Asked> {
        if !self.has_line() {
            if self.input.len() > LINE_BYTES && !self.last {
                self.last = true;
                self.say(&Reply::Refused(invalid(format!("a request is longer than {LINE_BYTES} bytes"))));
            }
            return None;
        }
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        self.note_progress();
        // Whatever the request is, they were sent with it; what takes none closes them.
        let fds = std::mem::take(&mut self.fds);
        match serde_json::from_slice(&line) {
            Ok(request) => match self.rights.forbid(&request) {
                Some(why) => {
                    self.say(&Reply::Refused(invalid(why)));
                    None
                }
                None => {
                    self.held = true;
                    Some(Asked { peer: self.id, request, process: self.process, fds })
                }
            },
            Err(error) => {
                self.say(&Reply::Refused(invalid(format!("not a request: {error}"))));
                None
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        if let Ok(bytes) = serde_json::to_vec(reply) {
            self.output.extend_from_slice(&bytes);
            self.output.push(b'\n');
        }
        // Most answers fit into the socket's buffer: then they are gone before the loop turns.
        if let Ok(n) = self.stream.write(&self.output) {
            self.output.drain(..n);
        }
        self.note_progress();
    }

    fn note_progress(&mut self) {
        let busy = !self.output.is_empty() || (!self.input.is_empty() && !self.input.contains(&b'\n'));
        // A line that comes byte by byte is no progress: the time runs from its first byte.
        self.busy_since = if busy { self.busy_since.or_else(|| Some(Instant::now())) } else { None };
    }
}

impl Rights {
    /// Why a request is none of this peer's.
    fn forbid(self, request: &Request) -> Option<&'static str> {
        use Request::{ClaimWorker, Ready, Sleep, StartWorker, StopWorker, Unit, Wake};
        match (self, request) {
            (Self::All, _) => None,
            (Self::Gateway, Sleep { .. } | Wake { .. } | Ready { .. } | Unit { .. }) => None,
            (Self::Gateway, _) => Some("the gateway may ask for sleep and waking only"),
            (Self::Functions, StartWorker(_) | ClaimWorker(_) | StopWorker { .. }) => None,
            (Self::Functions, _) => Some("the function front door may ask for workers only"),
            (Self::None, _) => Some("only Stead's own processes may talk to the keeper"),
        }
    }
}

fn skip_would_block(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}
