//! A runtime's connection, and whether what was said on it was heard.
//!
//! A worker may be killed where nobody sees it at once: one that is frozen does not even end before it is thawed, for
//! the next call. That call is not lost to it if it has not read it, and the kernel knows: a process that ends with
//! something unread, or that has ended before it came, breaks its connection off, and one that has read everything
//! closes it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a connection is spoken on.
pub(crate) struct Line {
    stream: TcpStream,
    /// Bytes that were sent.
    sent: AtomicU64,
    /// Locked while something is said or heard: the kernel tells of it once.
    broken_off: Mutex<bool>,
}

/// The moment just before something is said on a line.
pub(crate) struct Silence {
    line: Arc<Line>,
    sent: u64,
}

impl Line {
    pub(crate) fn new(stream: TcpStream) -> Arc<Self> {
        Arc::new(Self { stream, sent: AtomicU64::new(0), broken_off: Mutex::new(false) })
    }

    /// What is said from now on may be asked about.
    pub(crate) fn silence(self: &Arc<Self>) -> Silence {
        Silence { line: self.clone(), sent: self.sent.load(Ordering::SeqCst) }
    }

    fn speak<T>(&self, speak: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        let mut broken_off = self.broken_off.lock().unwrap_or_else(PoisonError::into_inner);
        let result = speak(&self.stream);
        if let Err(error) = &result {
            let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            *broken_off |= kinds.contains(&error.kind());
        }
        result
    }
}

impl Silence {
    /// Asked when nobody is left on the other side: whether something of what was said since was not heard there.
    pub(crate) fn was_not_heard(&self) -> bool {
        let Line { stream, sent, broken_off } = &*self.line;
        let broken_off = broken_off.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = || !matches!(stream.take_error(), Ok(None));
        sent.load(Ordering::SeqCst) == self.sent || *broken_off || pending()
    }
}

/// A line as a server of HTTP wants it.
pub(crate) struct Ear(pub(crate) Arc<Line>);

impl AsyncRead for Ear {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &self.0;
        loop {
            ready!(line.stream.poll_read_ready(context))?;
            match line.speak(|stream| stream.try_read(buffer.initialize_unfilled())) {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Ear {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = &self.0;
        loop {
            ready!(line.stream.poll_write_ready(context))?;
            match line.speak(|stream| stream.try_write_vectored(bytes)) {
                Ok(length) => {
                    line.sent.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::SeqCst);
                    return Poll::Ready(Ok(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(&self.0.stream, rustix::net::Shutdown::Write);
        Poll::Ready(shut.map_err(io::Error::from))
    }
}
