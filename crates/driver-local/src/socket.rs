//! The way to a server: its Unix socket, which lies where the server's own user may put anything.
//!
//! A server that was taken over could have a link there instead, to the socket of another tenant or of the
//! control plane, and Stead's roles and passwords would be put right in the wrong server. So the kernel is
//! asked whose process answers. And whoever answers may answer without end: what is read is bounded, so that
//! a view in place of a table costs its tenant a session and the control plane nothing.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

/// A session of Stead's reads some kilobytes; a migration may say a lot.
const READS: usize = 16 * 1024 * 1024;

/// A connection to one server and no other.
pub(crate) struct ServerSocket {
    /// What went wrong at connecting is said by the first read or write, as an error of the session.
    stream: io::Result<UnixStream>,
    left: usize,
}

impl ServerSocket {
    /// Connects to the socket in a server's folder `run`.
    pub(crate) async fn connect(folder: &Path, within: Duration) -> Self {
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not take a connection"));
        Self { stream: tokio::time::timeout(within, open(folder)).await.unwrap_or_else(late), left: READS }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        match &mut self.stream {
            Ok(stream) => Ok(Pin::new(stream)),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

async fn open(folder: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(folder.join(".s.PGSQL.5432")).await?;
    let (answers, owner) = (stream.peer_cred()?.uid(), std::fs::symlink_metadata(folder)?.uid());
    if answers == owner {
        return Ok(stream);
    }
    let why = format!("user {answers} answers at the socket of user {owner} in {}", folder.display());
    tracing::error!(why, "a server's socket is somebody else's: not used");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// The tool that works in a tree, as soon as it connects; who is another user than the owner of the tree's `folder` is
/// not listened to.
pub(crate) async fn tool_of(listener: &UnixListener, folder: &Path) -> UnixStream {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let owner = std::fs::symlink_metadata(folder).map(|meta| meta.uid());
        if let (Ok(peer), Ok(owner)) = (stream.peer_cred(), owner)
            && peer.uid() == owner
        {
            return stream;
        }
    }
}

impl AsyncRead for ServerSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = this.stream()?.poll_read(cx, buf);
        this.left = this.left.saturating_sub(buf.filled().len() - before);
        if this.left == 0 {
            return Poll::Ready(Err(io::Error::other(
                "the server sent more than a session of Stead's reads",
            )));
        }
        read
    }
}

impl AsyncWrite for ServerSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}
