//! Where messages of PostgreSQL's protocol begin and end, without holding long ones in memory.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest message that is looked at whole, bytes: a statement's text.
const LONGEST: usize = 1024 * 1024;
/// Longest names of a Bind, bytes.
const LONGEST_NAMES: usize = 4096;
/// Read at once, bytes.
const PART: usize = 16 * 1024;

/// What comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A message, whole: its kind and what is behind its length.
    Whole(u8, Bytes),
    /// The beginning of a message, header included; the rest of it follows as [`Piece::More`].
    Begin(u8, Bytes),
    /// A part of a message.
    More(Bytes),
    /// A Bind: portal and statement, and how many bytes follow them.
    Bind { portal: Bytes, statement: Bytes, rest: usize },
}

/// How a message is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Whole,
    Passing,
    Names,
}

/// What was read and not looked at.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    /// Of the message under way, so many bytes are still to come.
    rest: usize,
}

impl Frames {
    /// Whether the last piece was the end of a message.
    pub(super) fn between(&self) -> bool {
        self.rest == 0
    }

    /// Reads on; answers whether something came.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.buffer.reserve(PART);
        Ok(from.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next piece of what was read, if there is one.
    pub(super) fn next(&mut self, want: impl Fn(u8) -> Want) -> io::Result<Option<Piece>> {
        if self.rest > 0 {
            let length = self.rest.min(self.buffer.len());
            self.rest -= length;
            return Ok((length > 0).then(|| Piece::More(self.buffer.split_to(length).freeze())));
        }
        let Some((&tag, mut header)) = self.buffer.split_first() else { return Ok(None) };
        if header.len() < 4 {
            return Ok(None);
        }
        let length = usize::try_from(header.get_u32()).unwrap_or(usize::MAX);
        let body = length.checked_sub(4).ok_or_else(|| strange("a message has no length"))?;
        match want(tag) {
            Want::Whole if body > LONGEST => Err(strange("a message is too long")),
            Want::Whole if self.buffer.len() < body + 5 => Ok(None),
            Want::Whole => {
                self.buffer.advance(5);
                Ok(Some(Piece::Whole(tag, self.buffer.split_to(body).freeze())))
            }
            Want::Passing => {
                let known = self.buffer.len().min(body + 5);
                self.rest = body + 5 - known;
                Ok(Some(Piece::Begin(tag, self.buffer.split_to(known).freeze())))
            }
            Want::Names => self.names(body),
        }
    }

    fn names(&mut self, body: usize) -> io::Result<Option<Piece>> {
        let known = self.buffer.get(5..self.buffer.len().min(body + 5)).unwrap_or_default();
        let mut ends = known.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at);
        let (Some(first), Some(second)) = (ends.next(), ends.next()) else {
            return if known.len() == body || known.len() > LONGEST_NAMES {
                Err(strange("a Bind names nothing"))
            } else {
                Ok(None)
            };
        };
        self.buffer.advance(5);
        let portal = self.buffer.split_to(first).freeze();
        self.buffer.advance(1);
        let statement = self.buffer.split_to(second - first - 1).freeze();
        self.buffer.advance(1);
        self.rest = body - second - 1;
        Ok(Some(Piece::Bind { portal, statement, rest: self.rest }))
    }
}

pub(super) fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Frames {
        Frames { buffer: bytes.into(), rest: 0 }
    }

    #[test]
    fn messages_are_told_apart_however_they_come() {
        let mut frames = of(b"Z\0\0\0\x05IQ\0\0\0\x08ab");
        let want = |tag| if tag == b'Z' { Want::Whole } else { Want::Passing };
        assert_eq!(frames.next(want).unwrap(), Some(Piece::Whole(b'Z', Bytes::from_static(b"I"))));
        assert_eq!(
            frames.next(want).unwrap(),
            Some(Piece::Begin(b'Q', Bytes::from_static(b"Q\0\0\0\x08ab")))
        );
        assert!(!frames.between());
        assert_eq!(frames.next(want).unwrap(), None);
        frames.buffer.extend_from_slice(b"cdZ\0");
        assert_eq!(frames.next(want).unwrap(), Some(Piece::More(Bytes::from_static(b"cd"))));
        assert!(frames.between());
        assert_eq!(frames.next(want).unwrap(), None);
    }

    #[test]
    fn the_names_of_a_bind_are_found_before_its_values_have_come() {
        let mut frames = of(b"B\0\0\0\x10p\0st\0..");
        let names = |_| Want::Names;
        let (portal, statement) = (Bytes::from_static(b"p"), Bytes::from_static(b"st"));
        assert_eq!(frames.next(names).unwrap(), Some(Piece::Bind { portal, statement, rest: 7 }));
        assert_eq!(frames.next(names).unwrap(), Some(Piece::More(Bytes::from_static(b".."))));
        assert!(of(b"B\0\0\0\x06ab").next(names).is_err());
        assert!(of(b"Z\0\0\0\x03").next(names).is_err());
    }
}
