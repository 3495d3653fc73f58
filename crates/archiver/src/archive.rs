//! What an archive is made of, and what its objects are called.
//!
//! An **archive** is the history of one cluster: written by one tree, ever. A server that is restored or cloned gets
//! an archive of its own. Below `archives/<id>/`:
//! ```text
//! archive.json                                what it is, and its key, sealed
//! base/<lsn>/backup.json                      a base backup; written last, so that what is listed is whole
//! base/<lsn>/000000.zst.age …                 its tar, in parts
//! base/<lsn>/manifest.zst.age                 PostgreSQL's own list of its files and their checksums
//! wal/<timeline>/<from>-<to>-<time>.zst.age   the write-ahead log, piece by piece
//! ```
//! Names tell all that is needed to choose, so that a listing is an inventory. What is in the objects is compressed
//! by zstd and encrypted in the `age` format, which the stock tools `age` and `zstd` undo given the archive's key.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Lsn;
use crate::wire::Keep;

/// The version of this layout.
pub const FORMAT: u32 = 1;

/// Which archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArchiveId(#[serde(with = "uuid::serde::simple")] Uuid);

impl ArchiveId {
    /// A new one, random.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The name of something in it.
    pub(crate) fn object(self, name: &str) -> String {
        format!("archives/{self}/{name}")
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl FromStr for ArchiveId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// Whose server an archive is of, by names; for people who look into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// The tenant.
    pub tenant: String,
    /// Its stead.
    pub stead: String,
    /// The component there.
    pub component: String,
}

/// `archive.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`] of who wrote it.
    pub format: u32,
    /// The cluster's system identifier.
    pub system: String,
    /// Its engine's major version.
    pub engine: u16,
    /// Bytes of a segment of its write-ahead log.
    pub segment_bytes: u64,
    /// The host that it is written on.
    pub host: String,
    /// Whose it is; absent while it is nobody's.
    pub whose: Option<Whose>,
    /// Whether it is the control plane's own: with it everything else can be found again.
    #[serde(default)]
    pub control: bool,
    /// How long what is in it is kept.
    pub keep: Keep,
    /// Its public key, as `age` writes it.
    pub recipient: String,
    /// Its private key, sealed with the installation key; base 64.
    pub sealed_key: String,
    /// When it was begun.
    pub created_at: Timestamp,
}

/// `backup.json`: a base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Timeline it was made on.
    pub timeline: u32,
    /// Where it begins in the write-ahead log; also its name.
    pub start: Lsn,
    /// A restore needs the log from here, where the segment of `start` begins: a segment is read from its head …
    pub log_from: Lsn,
    /// … at least to here.
    pub end: Lsn,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it was complete: the first moment that it can be restored to.
    pub stopped_at: Timestamp,
    /// Bytes of the tar.
    pub bytes: u64,
    /// Its parts in order.
    pub parts: Vec<Part>,
    /// PostgreSQL's manifest.
    pub manifest: Part,
}

/// An object of a base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name below the backup's own.
    pub name: String,
    /// Bytes as stored.
    pub bytes: u64,
    /// SHA-256 as stored, hexadecimal.
    pub sha256: String,
}

impl Base {
    /// Bytes in the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.parts.iter().chain([&self.manifest]).map(|part| part.bytes).sum()
    }

    /// The folder of a base backup that starts here.
    pub(crate) fn folder(start: Lsn) -> String {
        format!("base/{}", start.digits())
    }
}

/// No piece has more bytes of log; it is stored when it has so many, however young it is.
pub(crate) const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// A piece of the write-ahead log, as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// First byte.
    pub from: Lsn,
    /// Behind the last byte.
    pub to: Lsn,
    /// When its last byte came: nothing in it was committed later.
    pub at: Timestamp,
}

impl Piece {
    /// The folder of a timeline's pieces.
    pub(crate) fn folder(timeline: u32) -> String {
        format!("wal/{timeline:08X}")
    }

    /// The object's name in it.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}-{:013}.zst.age", self.from.digits(), self.to.digits(), self.at.as_millisecond())
    }

    /// A name that the piece in which a position is comes after.
    pub(crate) fn before(lsn: Lsn) -> String {
        Lsn(lsn.0.saturating_sub(PIECE_BYTES as u64)).digits()
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".zst.age")?.split('-');
        let (from, to) = (Lsn::from_digits(parts.next()?)?, Lsn::from_digits(parts.next()?)?);
        let at = Timestamp::from_millisecond(parts.next()?.parse().ok()?).ok()?;
        (parts.next().is_none() && from < to).then_some(Self { from, to, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pieces_tell_what_they_are_and_sort_by_where_they_begin() {
        let at = |from, to, ms| Piece {
            from: Lsn(from),
            to: Lsn(to),
            at: Timestamp::from_millisecond(ms).unwrap(),
        };
        let pieces = [at(1, 2, 5), at(2, 300, 9), at(300, 1 << 40, 1_763_800_000_123)];
        let names: Vec<_> = pieces.iter().map(Piece::name).collect();
        assert!(names.is_sorted());
        for (piece, name) in pieces.iter().zip(&names) {
            assert_eq!(Piece::parse(name), Some(*piece));
        }
        let longest = at(0x1_0000_0000, 0x1_0000_0000 + PIECE_BYTES as u64, 9);
        for within in [longest.from, Lsn(longest.from.0 + 1), Lsn(longest.to.0 - 1)] {
            assert!(Piece::before(within) < longest.name(), "{within}");
        }
        for bad in ["", "x.zst.age", "0000000000000002-0000000000000001-5.zst.age", "1-2-3.zst.age"] {
            assert_eq!(Piece::parse(bad), None, "{bad}");
        }
    }
}
