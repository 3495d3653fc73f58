//! Bringing back: which base backup and which stretch of the log a moment takes, and these, checked, as a tar and as
//! segments.
//!
//! Whatever is read is authenticated piece by piece; what is damaged, missing or another's is named.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use jiff::Timestamp;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::archive::{About, Base, Part, Piece};
use crate::inventory::{self, Inventory};
use crate::seal::{Opener, Unreadable};
use crate::{ArchiveId, Error, Lsn, Objects, base, stream as log};

/// Objects that are fetched ahead of the one that is needed.
const AHEAD: usize = 3;
/// Bytes of the tar handed on at once.
const CHUNK: usize = 256 * 1024;

/// Why a moment cannot be brought back; the first words of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing can.
    #[error("there is no complete backup yet; it takes some seconds after a server was made")]
    Nothing,
    /// It was before the first backup that is kept.
    #[error("the oldest moment that can be restored is {oldest}")]
    TooEarly {
        /// The oldest.
        oldest: Timestamp,
    },
    /// It is later than what is stored.
    #[error("the newest moment that can be restored is {newest}")]
    TooLate {
        /// The newest.
        newest: Timestamp,
    },
    /// Part of the log is not there.
    #[error(
        "the write-ahead log from {from} on is not in the store; the moments between the backup of {after} and the next are lost"
    )]
    Gap {
        /// Where it ends.
        from: Lsn,
        /// The base backup before it.
        after: Timestamp,
    },
}

/// Up to where the log is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// As far as it goes: nothing was committed between its end and the moment that is wanted.
    End,
    /// To a moment; nothing that was committed later.
    Moment(Timestamp),
}

/// What a moment takes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The base backup.
    pub base: Base,
    /// The log, in order.
    pub pieces: Vec<Piece>,
    /// Up to where it is replayed.
    pub until: Until,
    /// Whether a log that ends before the moment is all there was until then.
    pub complete: bool,
}

impl Plan {
    /// When the last of what it brings back came.
    #[must_use]
    pub fn reaches(&self) -> Timestamp {
        self.pieces.iter().map(|piece| piece.at).max().unwrap_or(self.base.stopped_at)
    }
}

/// Up to which moment all that was committed is known to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// What is in the store is all there will ever be.
    Everything,
    /// To a moment.
    To(Timestamp),
    /// Nobody knows.
    Nothing,
}

/// An archive that is read.
pub struct Source {
    objects: Objects,
    archive: ArchiveId,
    about: About,
    opener: Opener,
}

/// Chooses: the newest base backup that was complete by then, and the log from there on.
///
/// That a piece came after the moment says nothing about what was committed before it and came later still: it is
/// PostgreSQL that finds a commit behind the moment, or it is known that there is none.
fn choose(bases: &[Base], pieces: &[Piece], at: Option<Timestamp>, known: Known) -> Result<Plan, Refused> {
    let reaches = |base: &Base| {
        let mut end = base.log_from;
        for piece in pieces.iter().filter(|piece| piece.to > base.log_from) {
            if piece.from > end {
                break;
            }
            end = end.max(piece.to);
        }
        end
    };
    let mut usable = bases.iter().filter(|base| reaches(base) >= base.end);
    let oldest = usable.clone().next().ok_or(Refused::Nothing)?;
    let base = match at {
        None => usable.next_back(),
        Some(at) => usable.rfind(|base| base.stopped_at <= at),
    };
    let base = base.ok_or(Refused::TooEarly { oldest: oldest.stopped_at })?;
    let end = reaches(base);
    let there: Vec<Piece> =
        pieces.iter().filter(|piece| piece.to > base.log_from && piece.from < end).copied().collect();
    let newest = there.iter().map(|piece| piece.at).max().unwrap_or(base.stopped_at);
    let last = pieces.last().is_none_or(|piece| piece.to <= end);
    let complete = match (known, at) {
        (Known::Everything, _) | (_, None) => last,
        (Known::To(to), Some(at)) => at <= to,
        (Known::Nothing, Some(_)) => false,
    };
    let until = match at {
        None if last => Until::End,
        None => return Err(Refused::Gap { from: end, after: base.stopped_at }),
        Some(at) if at < newest => Until::Moment(at),
        // Behind the end of the log that is there.
        Some(_) if !last => return Err(Refused::Gap { from: end, after: base.stopped_at }),
        Some(_) if complete => Until::End,
        Some(_) => return Err(Refused::TooLate { newest }),
    };
    Ok(Plan { base: base.clone(), pieces: there, until, complete })
}

/// Every archive of a store that says what it is; those that do not are passed over.
///
/// # Errors
/// When the store does not answer.
pub async fn archives(objects: &Objects) -> Result<Vec<(ArchiveId, About)>, Error> {
    let mut found = Vec::new();
    for folder in objects.folders("archives").await? {
        let Ok(archive) = folder.parse() else { continue };
        if let Ok(Some(about)) = inventory::about(objects, archive).await {
            found.push((archive, about));
        }
    }
    Ok(found)
}

impl Source {
    /// Opens an archive; `unseal` undoes what sealed its key.
    ///
    /// # Errors
    /// When the archive is not there, or its key cannot be unsealed.
    pub async fn open(
        objects: Objects,
        archive: ArchiveId,
        unseal: impl FnOnce(&str) -> Option<SecretString>,
    ) -> Result<Self, Error> {
        let about = inventory::about(&objects, archive).await?;
        let about = about.ok_or_else(|| Error::NoArchive { archive, store: objects.shown().to_owned() })?;
        let opener = unseal(&about.sealed_key).and_then(|key| Opener::parse(&key));
        let opener = opener.ok_or(Error::OtherKey { archive })?;
        Ok(Self { objects, archive, about, opener })
    }

    /// What it is.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What a moment takes; without one, all that there is.
    ///
    /// # Errors
    /// [`Error::Refused`] when it cannot be brought back.
    pub async fn plan(&self, at: Option<Timestamp>, known: Known) -> Result<Plan, Error> {
        let found = Inventory::bases(&self.objects, self.archive).await?;
        let timeline = found.bases.last().map_or(1, |base| base.timeline);
        // The log before the backup that will do is long, and of no interest where that one will do.
        let likely = found.bases.iter().rposition(|base| at.is_none_or(|at| base.stopped_at <= at));
        if let Some(bases) = likely.and_then(|likely| found.bases.get(likely..))
            && let Some(base) = bases.first()
        {
            let pieces = self.pieces(timeline, Some(base.log_from)).await?;
            if let Ok(plan) = choose(bases, &pieces, at, known) {
                return Ok(plan);
            }
        }
        let pieces = self.pieces(timeline, None).await?;
        Ok(choose(&found.bases, &pieces, at, known)?)
    }

    /// The log, in order; from the piece on in which a position is.
    async fn pieces(&self, timeline: u32, from: Option<Lsn>) -> Result<Vec<Piece>, Error> {
        let folder = self.archive.object(&Piece::folder(timeline));
        let after = from.map(Piece::before);
        let listed = self.objects.list(&folder, after.as_deref()).await?;
        let mut pieces: Vec<Piece> = listed.iter().filter_map(|object| Piece::parse(&object.name)).collect();
        pieces.sort_unstable();
        Ok(pieces)
    }

    /// Hands on the tar of a base backup.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a part that is not what was stored, [`Error::Gone`] for one that is not there.
    pub async fn tar(&self, base: &Base, to: mpsc::Sender<Bytes>) -> Result<(), Error> {
        let folder = self.archive.object(&Base::folder(base.start));
        let (packed, unpacking) = mpsc::channel::<Vec<u8>>(AHEAD);
        let unpacker = tokio::task::spawn_blocking(move || unpack(unpacking, &to));
        let (mut left, mut ahead) = (base.parts.iter(), FuturesOrdered::new());
        loop {
            ahead.extend(left.by_ref().take(AHEAD - ahead.len()).map(|part| self.part(&folder, part)));
            let Some(part) = ahead.next().await else { break };
            if packed.send(part?).await.is_err() {
                break;
            }
        }
        drop(packed);
        let unpacked = unpacker.await.map_err(|error| std::io::Error::other(error.to_string()))?;
        unpacked.map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Error::Io(error),
            _ => Error::Damaged { object: folder.clone(), why: error.to_string() },
        })
    }

    /// PostgreSQL's manifest of a base backup.
    ///
    /// # Errors
    /// As [`Source::tar`].
    pub async fn manifest(&self, base: &Base) -> Result<Vec<u8>, Error> {
        let folder = self.archive.object(&Base::folder(base.start));
        let packed = self.part(&folder, &base.manifest).await?;
        zstd::stream::decode_all(packed.as_slice())
            .map_err(|error| Error::Damaged { object: format!("{folder}/manifest"), why: error.to_string() })
    }

    /// A part as it was before it was encrypted.
    async fn part(&self, folder: &str, part: &Part) -> Result<Vec<u8>, Error> {
        let object = format!("{folder}/{}", part.name);
        let sealed = self.fetch(&object).await?;
        let damaged = |why: &str| Error::Damaged { object: object.clone(), why: why.to_owned() };
        if sealed.len() as u64 != part.bytes {
            return Err(damaged(&format!("it has {} bytes and had {}", sealed.len(), part.bytes)));
        }
        if base::hex(&Sha256::digest(&sealed)) != part.sha256 {
            return Err(damaged("its checksum is another"));
        }
        let opener = self.opener.clone();
        let opened = tokio::task::spawn_blocking(move || opener.decrypt(&sealed)).await;
        let opened = opened.map_err(|error| std::io::Error::other(error.to_string()))?;
        opened.map_err(|error| unreadable(object, error))
    }

    async fn fetch(&self, object: &str) -> Result<Bytes, Error> {
        let found = self.objects.get(object).await?;
        found.ok_or_else(|| Error::Gone(format!("`{object}` in the store of backups")))
    }

    async fn piece(&self, timeline: u32, piece: Piece) -> Result<(Piece, Vec<u8>), Error> {
        let object = self.archive.object(&format!("{}/{}", Piece::folder(timeline), piece.name()));
        let sealed = self.fetch(&object).await?;
        let opener = self.opener.clone();
        let opened = tokio::task::spawn_blocking(move || opener.open(&sealed)).await;
        let opened = opened.map_err(|error| std::io::Error::other(error.to_string()))?;
        let whole = opened.map_err(|error| unreadable(object.clone(), error))?;
        let plain = log::beheaded(&piece, whole)
            .ok_or_else(|| Error::Damaged { object, why: "another piece has its name".to_owned() })?;
        Ok((piece, plain))
    }

    /// Hands on the log as segment files, name and contents, in order; the last is filled up with zeros, which is how
    /// a segment looks that is not written to its end.
    ///
    /// # Errors
    /// As [`Source::tar`].
    pub async fn segments(&self, plan: &Plan, to: mpsc::Sender<(String, Vec<u8>)>) -> Result<(), Error> {
        let (timeline, size) = (plan.base.timeline, self.about.segment_bytes);
        let (mut left, mut ahead) = (plan.pieces.iter(), FuturesOrdered::new());
        let mut segment = Segment::at(plan.base.log_from, size);
        loop {
            ahead.extend(left.by_ref().take(AHEAD - ahead.len()).map(|piece| self.piece(timeline, *piece)));
            let Some(piece) = ahead.next().await else { break };
            let (piece, plain) = piece?;
            let mut at = piece.from;
            let mut rest = plain.as_slice();
            while !rest.is_empty() {
                if at < segment.from {
                    // Before the first segment that is needed, or written already.
                    let skipped =
                        usize::try_from(segment.from.since(at)).unwrap_or(usize::MAX).min(rest.len());
                    (at, rest) = (at.plus(skipped as u64), &rest[skipped..]);
                    continue;
                }
                let written = segment.write(at, rest);
                (at, rest) = (at.plus(written as u64), &rest[written..]);
                if at >= segment.end() {
                    let next = Segment::at(segment.end(), size);
                    let full = std::mem::replace(&mut segment, next);
                    if to.send((full.name(timeline), full.bytes)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        if segment.touched {
            let _ = to.send((segment.name(timeline), segment.bytes)).await;
        }
        Ok(())
    }
}

fn unreadable(object: String, error: Unreadable) -> Error {
    Error::Damaged { object, why: error.to_string() }
}

struct Segment {
    from: Lsn,
    bytes: Vec<u8>,
    touched: bool,
}

impl Segment {
    fn at(from: Lsn, size: u64) -> Self {
        Self { from, bytes: vec![0; usize::try_from(size).unwrap_or(0)], touched: false }
    }

    fn end(&self) -> Lsn {
        self.from.plus(self.bytes.len() as u64)
    }

    /// Writes what of it belongs here; how much that was.
    fn write(&mut self, at: Lsn, bytes: &[u8]) -> usize {
        let offset = usize::try_from(at.since(self.from)).unwrap_or(usize::MAX).min(self.bytes.len());
        let length = bytes.len().min(self.bytes.len() - offset);
        self.bytes[offset..offset + length].copy_from_slice(&bytes[..length]);
        self.touched |= length > 0;
        length
    }

    /// PostgreSQL's name of it: timeline, then its number in two halves, of which the second counts to 4 GiB.
    fn name(&self, timeline: u32) -> String {
        let size = self.bytes.len() as u64;
        let (number, each) = (self.from.0 / size, (1 << 32) / size);
        format!("{timeline:08X}{:08X}{:08X}", number / each, number % each)
    }
}

/// Undoes the compression of the parts, which are one stream.
fn unpack(packed: mpsc::Receiver<Vec<u8>>, to: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    use std::io::Read as _;
    let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let mut reader = zstd::stream::read::Decoder::new(Parts { packed, now: Vec::new(), at: 0 })?;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match reader.read(&mut chunk[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        chunk.truncate(filled);
        to.blocking_send(chunk.into()).map_err(gone)?;
    }
}

struct Parts {
    packed: mpsc::Receiver<Vec<u8>>,
    now: Vec<u8>,
    at: usize,
}

impl std::io::Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.now.len() {
            match self.packed.blocking_recv() {
                Some(part) => (self.now, self.at) = (part, 0),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.now.len() - self.at);
        buffer[..length].copy_from_slice(&self.now[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn base(start: u64, end: u64, stopped: i64) -> Base {
        let manifest = Part { name: String::new(), bytes: 0, sha256: String::new() };
        let (timeline, bytes, parts) = (1, 0, Vec::new());
        let (start, end, log_from) = (Lsn(start), Lsn(end), Lsn(start).floor(100));
        let (started_at, stopped_at) = (at(stopped), at(stopped));
        Base { timeline, start, log_from, end, started_at, stopped_at, bytes, parts, manifest }
    }

    fn piece(from: u64, to: u64, second: i64) -> Piece {
        Piece { from: Lsn(from), to: Lsn(to), at: at(second) }
    }

    #[test]
    fn a_moment_takes_the_newest_backup_before_it_and_log_without_a_gap() {
        let bases = [base(110, 120, 10), base(310, 330, 30), base(610, 620, 60)];
        let mut pieces: Vec<Piece> =
            (1..8).map(|n| piece(n * 100, n * 100 + 100, n.cast_signed() * 10 + 5)).collect();
        let chosen = |pieces: &[Piece], second: Option<i64>, known: Option<i64>| {
            let known = known.map_or(Known::Everything, |second| Known::To(at(second)));
            choose(&bases, pieces, second.map(at), known)
                .map(|plan| (plan.base.start.0, plan.pieces.len(), plan.until))
        };
        let moment = |second| Until::Moment(at(second));
        assert_eq!(chosen(&pieces, Some(12), None), Ok((110, 7, moment(12))));
        assert_eq!(chosen(&pieces, Some(30), None), Ok((310, 5, moment(30))));
        assert_eq!(chosen(&pieces, Some(74), None), Ok((610, 2, moment(74))));
        assert_eq!(chosen(&pieces, Some(75), Some(75)), Ok((610, 2, Until::End)));
        assert_eq!(chosen(&pieces, None, None), Ok((610, 2, Until::End)));
        // Nobody knows better than the store: what is there is all there was.
        assert_eq!(chosen(&pieces, Some(500), None), Ok((610, 2, Until::End)));
        assert_eq!(chosen(&pieces, Some(90), Some(100)), Ok((610, 2, Until::End)));
        assert_eq!(chosen(&pieces, Some(101), Some(100)), Err(Refused::TooLate { newest: at(75) }));
        assert_eq!(chosen(&pieces, Some(9), None), Err(Refused::TooEarly { oldest: at(10) }));
        assert_eq!(chosen(&[], Some(9), None), Err(Refused::Nothing));
        // The log of 500 to 600 is lost: the second backup reaches only so far, the third is whole.
        pieces.remove(4);
        assert_eq!(chosen(&pieces, Some(44), None), Ok((310, 2, moment(44))));
        assert_eq!(chosen(&pieces, Some(50), None), Err(Refused::Gap { from: Lsn(500), after: at(30) }));
        assert_eq!(chosen(&pieces, Some(70), None), Ok((610, 2, moment(70))));
        // A backup without the log of its own making is none.
        assert_eq!(
            chosen(&[piece(100, 115, 9), piece(300, 400, 35)], Some(20), None),
            Err(Refused::TooEarly { oldest: at(30) })
        );
    }

    #[test]
    fn segments_have_postgresqls_names() {
        let name = |from| Segment::at(Lsn(from), 16 << 20).name(1);
        assert_eq!(name(0x300_0000), "000000010000000000000003");
        assert_eq!(name(0x1_FF00_0000), "0000000100000001000000FF");
        assert_eq!(Segment::at(Lsn(0x1_0010_0000), 1 << 20).name(10), "0000000A0000000100000001");
    }
}
