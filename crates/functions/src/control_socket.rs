//! The socket on which keeper and launcher say what becomes of a worker: one message a packet, some with descriptors.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use keeper::wire::WorkerMessage;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::Interest;
use tokio::net::{TcpListener, UnixDatagram};

/// Longest message, bytes: the names of some ports, or why something failed.
const LONGEST: usize = 16 * 1024;

/// Our end. It keeps packets apart like a datagram socket, so tokio's type for those serves.
pub(crate) struct ControlSocket(UnixDatagram);

impl ControlSocket {
    /// Of a socket that does not block.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        UnixDatagram::from_std(socket.into()).map(Self)
    }

    /// The next message; `None` when nobody is left who could say something.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<(WorkerMessage, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<Option<(WorkerMessage, Vec<OwnedFd>)>> {
    let mut bytes = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = match rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        // What the other side had not read when it went.
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let bytes = bytes.get(..received.bytes).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(None);
    }
    let message = serde_json::from_slice(bytes).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not a worker's message: {error}"))
    })?;
    Ok(Some((message, fds)))
}

/// A listener that was opened elsewhere.
pub(crate) fn tcp(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
