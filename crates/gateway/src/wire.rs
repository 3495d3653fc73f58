//! Reading and writing single messages, before a session begins.
//!
//! The peer's lengths are checked here once, so that whoever takes a message apart holds all of it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::refusal::Refusal;
use crate::startup::{self, Packet};

/// A message with a type byte.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Its type.
    pub(crate) kind: u8,
    /// What follows the length.
    pub(crate) body: Bytes,
    /// All of it, as it came.
    pub(crate) raw: Bytes,
}

/// Reads one packet without a type byte, and not one byte more: what follows may be TLS.
pub(crate) async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> Result<Packet, Refusal> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let mut body = vec![0; startup::body_length(length)?];
    stream.read_exact(&mut body).await?;
    startup::parse(Bytes::from(body))
}

/// Reads one message of a client that signs in: a `p`, no longer than PostgreSQL takes.
pub(crate) async fn read_sasl(stream: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, Refusal> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await?;
    let [kind, length @ ..] = header;
    if kind != b'p' {
        return Err(Refusal::Protocol("expected a SASL response"));
    }
    // PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH is 1024 and its limit on any password message 65535.
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(4..=4096).contains(&length) {
        return Err(Refusal::Protocol("invalid length of SASL response"));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok(Bytes::from(body))
}

/// Writes and flushes.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The server's messages, buffered: several come in one read.
pub(crate) struct Frames<S> {
    /// The stream itself, to write to.
    pub(crate) stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// Begins at a message boundary.
    pub(crate) fn new(stream: S) -> Frames<S> {
        Frames { stream, buffer: BytesMut::with_capacity(4096) }
    }

    /// The next message; an error where the server closes.
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The stream, and what was read of it but not taken.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.buffer)
    }
}

/// Takes one whole message off the front, if there is one.
pub(crate) fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some(&[kind, a, b, c, d]) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    // 1 MiB: what a server says during sign-in is settings and notices.
    if !(4..=1 << 20).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid message length from the server"));
    }
    if buffer.len() < length + 1 {
        return Ok(None);
    }
    let raw = buffer.split_to(length + 1).freeze();
    let mut body = raw.clone();
    body.advance(5);
    Ok(Some(Frame { kind, body, raw }))
}
