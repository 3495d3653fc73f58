//! PostgreSQL's messages as they come from a server, of which no length is trusted.
//!
//! A message may be a gigabyte: one row is enough. So a message is never held as a whole unless it is short: as much of
//! its body is kept as the reader says, and the rest is read past in small pieces.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use client::wire::{QueryColumn, ServerMessage};
use postgres_types::Type;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Read at once, bytes.
const PIECE: usize = 64 * 1024;

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// Its type.
    pub(super) tag: u8,
    /// Its body, or the beginning of it.
    pub(super) body: Bytes,
    /// Bytes of the whole message.
    pub(super) length: u64,
}

impl Message {
    /// Whether the body is all there.
    pub(super) fn is_whole(&self) -> bool {
        self.length == u64::try_from(self.body.len()).unwrap_or(u64::MAX).saturating_add(5)
    }
}

/// A message that is being read. What has come of it is kept here, so that a read may be given up and taken up again.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: BytesMut,
    /// Of a message that is too long to be held: its type, length, what is kept, and what is still to come.
    long: Option<(u8, u64, Bytes, u64)>,
}

impl Reader {
    /// The next message, of whose body at most `keep(tag)` bytes are held. Nothing is lost where this is dropped.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        keep: impl Fn(u8) -> usize,
    ) -> io::Result<Message> {
        loop {
            if let Some(message) = self.parsed(&keep)? {
                return Ok(message);
            }
            self.buffer.reserve(PIECE);
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn parsed(&mut self, keep: &impl Fn(u8) -> usize) -> io::Result<Option<Message>> {
        if self.long.is_none() {
            let Some(&[tag, a, b, c, d]) = self.buffer.first_chunk::<5>() else { return Ok(None) };
            let length = u32::from_be_bytes([a, b, c, d]);
            let Some(body) = length.checked_sub(4).filter(|_| length <= i32::MAX.unsigned_abs()) else {
                return Err(strange("a message of an impossible length"));
            };
            let (body, most) = (usize::try_from(body).unwrap_or(usize::MAX), keep(tag));
            let held = body.min(most);
            if self.buffer.len() < 5 + held {
                return Ok(None);
            }
            self.buffer.advance(5);
            let kept = self.buffer.split_to(held).freeze();
            let left = u64::try_from(body - held).unwrap_or(u64::MAX);
            self.long = Some((tag, u64::from(length) + 1, kept, left));
        }
        let Some((tag, length, kept, left)) = &mut self.long else { return Ok(None) };
        let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.advance(here);
        *left -= u64::try_from(here).unwrap_or_default();
        if *left > 0 {
            return Ok(None);
        }
        let message = Message { tag: *tag, body: std::mem::take(kept), length: *length };
        self.long = None;
        Ok(Some(message))
    }
}

/// A server that does not keep to the protocol.
pub(super) fn strange(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The values of a row, as text; `None` is SQL's null.
pub(super) fn row(mut body: Bytes) -> io::Result<Vec<Option<Bytes>>> {
    let short = || strange("a row that is shorter than it says");
    let count = usize::from(body.try_get_u16().map_err(|_| short())?);
    let mut values = Vec::with_capacity(count.min(body.len() / 4));
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| short())?;
        values.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= body.len() => Some(body.split_to(length)),
            Ok(_) => return Err(short()),
        });
    }
    Ok(values)
}

/// The columns of a result.
pub(super) fn columns(mut body: Bytes) -> io::Result<Vec<QueryColumn>> {
    let short = || strange("a description that is shorter than it says");
    let count = usize::from(body.try_get_u16().map_err(|_| short())?);
    let mut columns = Vec::with_capacity(count.min(body.len() / 18));
    for _ in 0..count {
        let name = string(&mut body).ok_or_else(short)?;
        if body.len() < 18 {
            return Err(short());
        }
        body.advance(6);
        let oid = body.get_u32();
        body.advance(8);
        let kind = Type::from_oid(oid).map(|known| known.name().to_owned());
        columns.push(QueryColumn { name, kind, oid });
    }
    Ok(columns)
}

/// The word for what a statement did: `INSERT 0 1`.
pub(super) fn command(mut body: Bytes) -> String {
    string(&mut body).unwrap_or_default()
}

/// What a server has to say: an error or a notice. Of one that was cut only the fields that came whole.
pub(super) fn said(mut body: Bytes) -> ServerMessage {
    let mut said = ServerMessage::default();
    while let Ok(field) = body.try_get_u8() {
        if field == 0 {
            break;
        }
        let value = string(&mut body);
        let cut = value.is_none();
        let value = value.unwrap_or_else(|| format!("{} ...", String::from_utf8_lossy(&body)));
        match field {
            b'V' => said.severity = value,
            b'S' if said.severity.is_empty() => said.severity = value,
            b'C' => said.code = value,
            b'M' => said.message = value,
            b'D' => said.detail = Some(value),
            b'H' => said.hint = Some(value),
            b'P' => said.position = value.parse().ok(),
            b'p' => said.internal_position = value.parse().ok(),
            b'q' => said.internal_query = Some(value),
            b'W' => said.context = Some(value),
            b's' => said.schema = Some(value),
            b't' => said.table = Some(value),
            b'c' => said.column = Some(value),
            b'n' => said.constraint = Some(value),
            _ => {}
        }
        if cut {
            break;
        }
    }
    said
}

fn string(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let text = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
    }

    #[tokio::test]
    async fn of_a_long_message_no_more_is_held_than_was_asked_for() {
        let (mut from, mut to) = tokio::io::duplex(1024);
        let long = vec![7; 10_000_000];
        let sent = [message(b'D', &long), message(b'C', b"SELECT 1\0"), message(b'D', b"")].concat();
        let writing = tokio::spawn(async move { to.write_all(&sent).await });
        let mut reader = Reader::default();
        let first = reader.next(&mut from, |_| 100).await.unwrap();
        assert_eq!(
            (first.tag, first.length, first.body.len(), first.is_whole()),
            (b'D', 10_000_005, 100, false)
        );
        assert!(reader.buffer.capacity() < 4 * PIECE, "{}", reader.buffer.capacity());
        let second = reader.next(&mut from, |_| 100).await.unwrap();
        assert!(second.is_whole() && command(second.body) == "SELECT 1");
        assert!(reader.next(&mut from, |_| 100).await.unwrap().is_whole());
        writing.await.unwrap().unwrap();
        assert!(reader.next(&mut from, |_| 100).await.is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_is_an_error() {
        for bytes in [&b"D\0\0\0\x03"[..], b"D\xff\xff\xff\xff", b"D\0\0"] {
            assert!(Reader::default().next(&mut &*bytes, |_| 10).await.is_err(), "{bytes:?}");
        }
        for body in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x02a", b"\xff\xff"] {
            assert!(row(Bytes::from_static(body)).is_err(), "{body:?}");
        }
        assert_eq!(
            row(Bytes::from_static(b"\0\x02\xff\xff\xff\xff\0\0\0\0")).unwrap(),
            [None, Some(Bytes::new())]
        );
        assert!(columns(Bytes::from_static(b"\0\x01a\0")).is_err());
        assert_eq!(said(Bytes::from_static(b"C22012\0Mdivision")).message, "division ...");
    }
}
