//! What an archive holds: its base backups, and how far its log reaches without a gap.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::archive::{Base, Piece};
use crate::wire::Keep;
use crate::{About, ArchiveId, Error, Lsn, Objects, fail_point};

/// Stretches of the log without a gap, by where they begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Coverage(BTreeMap<Lsn, Lsn>);

impl Coverage {
    pub(crate) fn add(&mut self, from: Lsn, to: Lsn) {
        let (mut from, mut to) = (from, to);
        // Pieces may overlap: what was stored and not confirmed is streamed once more.
        let touching: Vec<Lsn> =
            self.0.range(..=to).filter(|(_, end)| **end >= from).map(|(start, _)| *start).collect();
        for start in touching {
            if let Some(end) = self.0.remove(&start) {
                (from, to) = (from.min(start), to.max(end));
            }
        }
        self.0.insert(from, to);
    }

    /// How far the log reaches from here without a gap; `None` where this is not covered.
    pub(crate) fn reaches(&self, from: Lsn) -> Option<Lsn> {
        let (_, end) = self.0.range(..=from).next_back()?;
        (*end > from).then_some(*end)
    }
}

/// An archive as a listing of the store finds it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inventory {
    /// Complete base backups, oldest first.
    pub(crate) bases: Vec<Base>,
    /// Folders of base backups that are not complete, and the bytes in them.
    pub(crate) unfinished: Vec<(Lsn, u64)>,
    pub(crate) coverage: Coverage,
    /// The newest piece of each timeline's log.
    pub(crate) newest: Option<Piece>,
    /// Bytes in the store.
    pub(crate) bytes: u64,
}

impl Inventory {
    /// Lists the base backups of an archive; what is known of its log stays empty.
    pub(crate) async fn bases(objects: &Objects, archive: ArchiveId) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut folders: BTreeMap<Lsn, (bool, u64)> = BTreeMap::new();
        for object in objects.list(&archive.object("base"), None).await? {
            let Some((folder, name)) = object.name.split_once('/') else { continue };
            let Some(start) = Lsn::from_digits(folder) else { continue };
            let entry = folders.entry(start).or_default();
            entry.0 |= name == "backup.json";
            entry.1 += object.bytes;
        }
        for (start, (complete, bytes)) in folders {
            found.bytes += bytes;
            if !complete {
                found.unfinished.push((start, bytes));
                continue;
            }
            let name = archive.object(&format!("{}/backup.json", Base::folder(start)));
            let Some(text) = objects.get(&name).await? else { continue };
            match serde_json::from_slice::<Base>(&text) {
                Ok(base) => found.bases.push(base),
                Err(error) => {
                    return Err(Error::Damaged { object: name, why: error.to_string() });
                }
            }
        }
        found.bases.sort_by_key(|base| base.start);
        Ok(found)
    }

    /// Lists an archive.
    pub(crate) async fn read(objects: &Objects, archive: ArchiveId) -> Result<Self, Error> {
        let mut found = Self::bases(objects, archive).await?;
        for object in objects.list(&archive.object("wal"), None).await? {
            found.bytes += object.bytes;
            let Some((_, name)) = object.name.split_once('/') else { continue };
            let Some(piece) = Piece::parse(name) else { continue };
            found.coverage.add(piece.from, piece.to);
            if found.newest.is_none_or(|newest| newest.to < piece.to) {
                found.newest = Some(piece);
            }
        }
        Ok(found)
    }

    /// The oldest moment that can be restored: the end of the oldest base backup from which the log reaches the
    /// newest piece.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.bases.iter().find(|base| self.restorable(base)).map(|base| base.stopped_at)
    }

    /// Whether the log that a base backup needs is there.
    pub(crate) fn restorable(&self, base: &Base) -> bool {
        self.coverage.reaches(base.log_from).is_some_and(|end| end >= base.end)
    }
}

/// How long what is no longer kept stays: whoever chose it just before may be bringing it back.
pub(crate) const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Which base backups no moment that is kept needs any more, nor did for a while. Never the newest.
pub(crate) fn obsolete(bases: &[Base], keep: Keep, now: Timestamp) -> Vec<Lsn> {
    let ago = |time: SignedDuration| now.checked_sub(time).unwrap_or(Timestamp::MIN);
    // The oldest that is kept: the newest of those that are as old as the oldest moment that is kept.
    let first_kept = match keep {
        Keep::Seconds(seconds) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            let oldest = ago(back.saturating_add(GRACE));
            bases.iter().rposition(|base| base.stopped_at <= oldest).unwrap_or(0)
        }
        Keep::Backups(count) => {
            let then = ago(GRACE);
            let settled = bases.iter().take_while(|base| base.stopped_at <= then).count();
            settled.saturating_sub(usize::try_from(count.max(1)).unwrap_or(1))
        }
    };
    bases.iter().take(first_kept).map(|base| base.start).collect()
}

/// Removes objects of archives: first what makes a backup count as one, then the rest, so that nothing half removed is
/// ever taken for whole.
pub(crate) async fn remove(objects: &Objects, names: Vec<String>) -> Result<(), Error> {
    let (markers, rest) = names.into_iter().partition(|name| name.ends_with("/backup.json"));
    objects.delete(markers).await?;
    fail_point!("archiver::prune-unlisted");
    objects.delete(rest).await
}

/// Reads `archive.json`.
pub(crate) async fn about(objects: &Objects, archive: ArchiveId) -> Result<Option<About>, Error> {
    let name = archive.object("archive.json");
    let Some(text) = objects.get(&name).await? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Error::Damaged { object: name, why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Part;

    #[test]
    fn coverage_joins_what_touches_and_keeps_gaps() {
        let mut covered = Coverage::default();
        for (from, to) in [(10, 20), (40, 50), (20, 30), (28, 35), (60, 70)] {
            covered.add(Lsn(from), Lsn(to));
        }
        let reaches = |covered: &Coverage, from| covered.reaches(Lsn(from)).map(|lsn| lsn.0);
        assert_eq!(reaches(&covered, 10), Some(35));
        assert_eq!(reaches(&covered, 34), Some(35));
        assert_eq!(reaches(&covered, 35), None);
        assert_eq!(reaches(&covered, 9), None);
        covered.add(Lsn(35), Lsn(40));
        assert_eq!(reaches(&covered, 12), Some(50));
    }

    fn base(start: u64, day: i64) -> Base {
        let at = Timestamp::from_second(day * 86_400).unwrap();
        let manifest = Part { name: String::new(), bytes: 0, sha256: String::new() };
        let (start, end) = (Lsn(start), Lsn(start + 1));
        let (timeline, bytes, parts) = (1, 0, Vec::new());
        Base { timeline, start, log_from: start, end, started_at: at, stopped_at: at, bytes, parts, manifest }
    }

    #[test]
    fn a_base_goes_only_when_no_moment_that_is_kept_needs_it() {
        let bases: Vec<Base> = (0..10_i64).map(|day| base(day.cast_unsigned() * 100, day)).collect();
        let now = Timestamp::from_second(9 * 86_400 + 3_600).unwrap();
        let gone = |keep| obsolete(&bases, keep, now).len();
        // The oldest moment kept, and an hour more, lies in day 6, which the backup of day 6 brings back.
        assert_eq!(gone(Keep::Seconds(3 * 86_400)), 6);
        assert_eq!(gone(Keep::Seconds(3 * 86_400 + 1)), 5);
        assert_eq!(gone(Keep::Seconds(100 * 86_400)), 0);
        // Never the last one, however short the time.
        assert_eq!(gone(Keep::Seconds(0)), 9);
        assert_eq!((gone(Keep::Backups(0)), gone(Keep::Backups(3)), gone(Keep::Backups(20))), (9, 7, 0));
        assert!(obsolete(&[], Keep::Seconds(1), now).is_empty());
        // What the newest replaces may be just being brought back.
        let sooner = now - SignedDuration::from_secs(1);
        assert_eq!(obsolete(&bases, Keep::Seconds(0), sooner).len(), 8);
        assert_eq!(obsolete(&bases, Keep::Backups(3), sooner).len(), 6);
    }
}
