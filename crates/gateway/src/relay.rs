//! The copying loop: bytes from the client to the server and back, until one of them is done.
//!
//! Sessions mostly sit still, so none of them owns a buffer: each thread has one scratch buffer, what is
//! read into it goes out in the same poll, and only what the other side does not take at once is kept
//! aside, by the session, until it is taken. While something is kept aside nothing more is read from that
//! side: that is all the backpressure there is, and it is enough. The server's side runs past a counter
//! of message boundaries (`frames.rs`); nothing else is looked at.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frames::Boundary;
use crate::sleep::Rest;

/// Bytes read at once. A unix socket hands over at most about 200 kB, a TLS record 16 KiB.
const SCRATCH: usize = 64 * 1024;

/// What a client sends last (Terminate) before it closes.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Two streams, joined.
pub(crate) struct Relay<C, S> {
    pub(crate) client: C,
    pub(crate) server: S,
    /// Client to server.
    up: Pipe,
    /// Server to client.
    down: Pipe,
    boundary: Boundary,
    /// The last bytes that the client sent were a Terminate.
    terminated: bool,
    /// The server takes no more.
    server_gone: bool,
    /// Told that the client did something.
    rest: Arc<Rest>,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    /// Read, and not yet taken by the other side.
    kept: BytesMut,
    /// Taken by the other side's buffer, and not yet flushed.
    unflushed: bool,
    read_done: bool,
    /// The writer was told that no more will come.
    closed: bool,
    amount: u64,
}

/// Which side of a direction failed.
enum Broken {
    Reader(io::Error),
    Writer(io::Error),
}

/// How the copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The client closed, in order or not.
    ByClient,
    /// The server closed, after saying why.
    ByServer,
    /// The server closed without a word.
    ServerVanished,
}

impl<C, S> Relay<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Joins two streams. `read` was read from the server already and is to go to the client first.
    pub(crate) fn new(client: C, server: S, read: BytesMut, rest: Arc<Rest>) -> Relay<C, S> {
        let mut boundary = Boundary::default();
        boundary.advance(&read);
        let kept = if read.is_empty() { BytesMut::new() } else { read };
        let down = Pipe { amount: count(kept.len()), kept, ..Pipe::default() };
        let (up, terminated, server_gone) = (Pipe::default(), false, false);
        Relay { client, server, up, down, boundary, terminated, server_gone, rest }
    }

    /// Bytes to the server and to the client so far.
    pub(crate) fn amounts(&self) -> (u64, u64) {
        (self.up.amount, self.down.amount)
    }

    /// Copies until one side is done, or until `interrupt` speaks, which is then handed back.
    pub(crate) async fn run<T>(
        &mut self,
        interrupt: &mut (impl Future<Output = T> + Unpin),
    ) -> io::Result<Result<Stop, T>> {
        poll_fn(|cx| {
            if let Poll::Ready(word) = Pin::new(&mut *interrupt).poll(cx) {
                return Poll::Ready(Ok(Err(word)));
            }
            self.poll_copy(cx).map_ok(Ok)
        })
        .await
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stop>> {
        let Relay { client, server, up, down, boundary, terminated, server_gone, rest } = self;
        let seen = |bytes: &[u8]| {
            *terminated = bytes.ends_with(TERMINATE);
            rest.touch();
        };
        match up.poll(cx, client, server, seen) {
            Poll::Ready(Err(Broken::Reader(error))) => return Poll::Ready(Err(error)),
            // A server that is gone cannot be written to, but may have said why: that is read below.
            Poll::Ready(Err(Broken::Writer(_))) => {
                *server_gone = true;
                up.give_up();
            }
            Poll::Ready(Ok(())) if !up.closed => {
                up.closed = Pin::new(&mut *server).poll_shutdown(cx).is_ready();
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match ready!(down.poll(cx, server, client, |bytes| boundary.advance(bytes))) {
            Err(Broken::Writer(error)) => Poll::Ready(Err(error)),
            _ if up.read_done && !*server_gone => Poll::Ready(Ok(Stop::ByClient)),
            _ if *terminated => Poll::Ready(Ok(Stop::ByClient)),
            // A server that closes with input unread resets the socket: its last word counts all the same.
            Ok(()) | Err(Broken::Reader(_)) if boundary.last_was_error() => Poll::Ready(Ok(Stop::ByServer)),
            Ok(()) | Err(Broken::Reader(_)) => Poll::Ready(Ok(Stop::ServerVanished)),
        }
    }

    /// Passes on what the server still says up to the next message boundary, and nothing of the client.
    /// Whether a boundary was reached.
    pub(crate) async fn drain(&mut self) -> bool {
        poll_fn(|cx| {
            loop {
                if self.boundary.between() && self.down.kept.is_empty() {
                    return Poll::Ready(true);
                }
                let Relay { client, server, down, boundary, .. } = self;
                match down.step(cx, server, client, |bytes| boundary.advance(bytes)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(false),
                }
            }
        })
        .await
    }

    /// Whether a message to the client can be put in now.
    pub(crate) fn between_messages(&self) -> bool {
        self.boundary.between() && self.down.kept.is_empty()
    }
}

impl Pipe {
    /// Copies until there is nothing to do now; ready when the reader has ended and all is written.
    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut seen: impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        while !self.read_done {
            match self.step(cx, reader, writer, &mut seen) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    ready!(self.poll_flush(cx, writer)).map_err(Broken::Writer)?;
                    return Poll::Pending;
                }
            }
        }
        ready!(self.poll_kept(cx, writer)).map_err(Broken::Writer)?;
        self.poll_flush(cx, writer).map_err(Broken::Writer)
    }

    /// Writes what is kept, or else reads once and writes that; false when the reader has ended.
    fn step<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut seen: impl FnMut(&[u8]),
    ) -> Poll<Result<bool, Broken>> {
        ready!(self.poll_kept(cx, writer)).map_err(Broken::Writer)?;
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(reader).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                // A client that leaves without closing TLS has left all the same.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Reader(error))),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = read.filled();
            if bytes.is_empty() {
                self.read_done = true;
                return Poll::Ready(Ok(false));
            }
            self.amount += count(bytes.len());
            seen(bytes);
            self.write(cx, writer, bytes).map_err(Broken::Writer)?;
            Poll::Ready(Ok(true))
        })
    }

    /// Writes what the writer takes now and keeps the rest.
    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => {
                    self.unflushed = true;
                    bytes = &bytes[n..];
                }
                Poll::Pending => {
                    self.kept.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn poll_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, &self.kept))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.kept.advance(n);
            if self.kept.is_empty() {
                // A busy moment must not leave a buffer with an idle session.
                self.kept = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The writer is gone: nothing more is read for it.
    fn give_up(&mut self) {
        self.read_done = true;
        self.closed = true;
        self.unflushed = false;
        self.kept = BytesMut::new();
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
