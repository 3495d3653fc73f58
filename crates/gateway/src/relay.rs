//! The copying loop: bytes from the client to the server and back, until one of them is done.
//!
//! Sessions mostly sit still, so none of them owns a buffer: each thread has one scratch buffer, what is
//! read into it goes out in the same poll, and only what the other side does not take at once is kept
//! aside, by the session, until it is taken. While something is kept aside nothing more is read from that
//! side: that is all the backpressure there is, and it is enough. Both sides run past counters of messages
//! (`conversation.rs`); nothing else is looked at.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::conversation::Conversation;
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
    conversation: Conversation,
    /// The session shall come to rest: the client is read only as far as that takes.
    pub(crate) resting: bool,
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
    /// Nobody is done: the session was to come to rest, and has.
    AtRest,
}

impl<C, S> Relay<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Joins two streams. `read` was read from the server already and is to go to the client first.
    pub(crate) fn new(client: C, server: S, read: BytesMut, rest: Arc<Rest>) -> Relay<C, S> {
        let (up, conversation) = (Pipe::default(), Conversation::default());
        Relay::joined(client, server, up, Pipe::default(), conversation, rest, read)
    }

    fn joined(
        client: C,
        server: S,
        up: Pipe,
        mut down: Pipe,
        mut conversation: Conversation,
        rest: Arc<Rest>,
        read: BytesMut,
    ) -> Relay<C, S> {
        if !read.is_empty() {
            conversation.answered(&read);
            down.amount += count(read.len());
            down.kept.unsplit(read);
        }
        let (resting, terminated, server_gone) = (false, false, false);
        Relay { client, server, up, down, conversation, resting, terminated, server_gone, rest }
    }

    /// Takes a session at rest off its server.
    pub(crate) fn park(self) -> (Parked<C>, S) {
        let Relay { client, server, up, down, conversation, rest, .. } = self;
        (Parked { client, up, down, conversation, rest }, server)
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
        if self.resting {
            return self.poll_rest(cx);
        }
        let Relay { client, server, up, down, conversation, terminated, server_gone, rest, .. } = self;
        let seen = |bytes: &[u8]| {
            *terminated = bytes.ends_with(TERMINATE);
            conversation.asked(bytes);
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
        let copied = ready!(down.poll(cx, server, client, |bytes| conversation.answered(bytes)));
        Poll::Ready(self.ended(copied))
    }

    /// Copies what it takes for the session to come to rest: of the client no more than that, a piece at a
    /// time, because behind it there may be the next transaction.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stop>> {
        loop {
            if self.at_rest() {
                return Poll::Ready(Ok(Stop::AtRest));
            }
            let Relay { client, server, up, down, conversation, terminated, server_gone, rest, .. } = self;
            let mut moved = false;
            if conversation.needs_client() && !up.read_done {
                let seen = |bytes: &[u8]| {
                    *terminated = bytes.ends_with(TERMINATE);
                    conversation.asked(bytes);
                    rest.touch();
                };
                match up.step(cx, client, server, seen) {
                    Poll::Ready(Ok(true)) => moved = true,
                    Poll::Ready(Ok(false)) => return Poll::Ready(Ok(Stop::ByClient)),
                    Poll::Ready(Err(Broken::Reader(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(Err(Broken::Writer(_))) => {
                        *server_gone = true;
                        up.give_up();
                    }
                    Poll::Pending => {}
                }
            } else if let Poll::Ready(Err(_)) = up.poll_kept(cx, server) {
                *server_gone = true;
                up.give_up();
            }
            // A server that takes no more says why below.
            let _ = up.poll_flush(cx, server);
            match down.step(cx, server, client, |bytes| conversation.answered(bytes)) {
                Poll::Ready(Ok(true)) => moved = true,
                Poll::Ready(Ok(false)) => return Poll::Ready(self.ended(Ok(()))),
                Poll::Ready(Err(broken)) => return Poll::Ready(self.ended(Err(broken))),
                Poll::Pending => {}
            }
            ready!(down.poll_flush(cx, client))?;
            if !moved && !self.at_rest() {
                return Poll::Pending;
            }
        }
    }

    /// How it ended, once the server's side is through.
    fn ended(&self, copied: Result<(), Broken>) -> io::Result<Stop> {
        match copied {
            Err(Broken::Writer(error)) => Err(error),
            _ if self.up.read_done && !self.server_gone => Ok(Stop::ByClient),
            _ if self.terminated => Ok(Stop::ByClient),
            // A server that closes with input unread resets the socket: its last word counts all the same.
            Ok(()) | Err(Broken::Reader(_)) if self.conversation.last_was_error() => Ok(Stop::ByServer),
            Ok(()) | Err(Broken::Reader(_)) => Ok(Stop::ServerVanished),
        }
    }

    /// Whether nothing is under way in either direction.
    fn at_rest(&self) -> bool {
        let quiet = |pipe: &Pipe| pipe.kept.is_empty() && !pipe.unflushed && !pipe.read_done;
        self.conversation.at_rest() && quiet(&self.up) && quiet(&self.down)
    }

    /// Passes on what the server still says up to the next message boundary, and nothing of the client.
    /// Whether a boundary was reached.
    pub(crate) async fn drain(&mut self) -> bool {
        poll_fn(|cx| {
            loop {
                if self.between_messages() {
                    return Poll::Ready(true);
                }
                let Relay { client, server, down, conversation, .. } = self;
                match down.step(cx, server, client, |bytes| conversation.answered(bytes)) {
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
        self.conversation.between_answers() && self.down.kept.is_empty()
    }
}

/// A session that has no server at the moment.
pub(crate) struct Parked<C> {
    pub(crate) client: C,
    up: Pipe,
    down: Pipe,
    pub(crate) conversation: Conversation,
    rest: Arc<Rest>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Parked<C> {
    /// Waits until the client says something, and keeps that; false when it has gone instead.
    pub(crate) async fn hear(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            if !self.up.kept.is_empty() {
                return Poll::Ready(Ok(true));
            }
            BUFFER.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                match ready!(Pin::new(&mut self.client).poll_read(cx, &mut read)) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                    other => other?,
                }
                let bytes = read.filled();
                if bytes.is_empty() || bytes == TERMINATE {
                    return Poll::Ready(Ok(false));
                }
                self.up.amount += count(bytes.len());
                self.up.kept.extend_from_slice(bytes);
                self.rest.touch();
                Poll::Ready(Ok(true))
            })
        })
        .await
    }

    /// Bytes to the server and to the client so far.
    pub(crate) fn amounts(&self) -> (u64, u64) {
        (self.up.amount, self.down.amount)
    }

    /// Goes on with a server that is ready for queries and has been told all that the session needs. `read`
    /// was read from it and is to go to the client first.
    pub(crate) fn attach<S>(self, server: S, read: BytesMut) -> Relay<C, S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Parked { client, up, down, conversation, rest } = self;
        let mut conversation = conversation.at_another_server();
        conversation.asked(&up.kept);
        Relay::joined(client, server, up, down, conversation, rest, read)
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
