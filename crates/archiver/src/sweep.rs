//! Archives of servers that are no more. What was in them is kept for as long as it was to be kept, and then removed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::archive::{About, ArchiveId};
use crate::inventory::{self, Inventory};
use crate::wire::Keep;
use crate::{Error, Objects, restore};

/// What belonged to nobody is kept for so long: a spare that was never anybody's.
const NOBODYS: SignedDuration = SignedDuration::from_hours(24);
/// What was to be kept by number is kept for so long.
const BY_NUMBER: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Whether nothing of an archive is kept any more, of which the newest is from then.
fn is_over(about: &About, newest: Timestamp, now: Timestamp) -> bool {
    let kept = match (&about.whose, about.control, about.keep) {
        (None, false, _) => NOBODYS,
        (_, _, Keep::Seconds(seconds)) => {
            SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
        }
        (_, _, Keep::Backups(_)) => BY_NUMBER,
    };
    now.duration_since(newest) > kept
}

/// Looks through the archives of a host for those that nobody declares any more and of which nothing is kept. Such a
/// one is removed at the second look that finds it so: a server changes hands in between at most.
pub(crate) async fn sweep(
    objects: &Objects,
    host: &str,
    declared: &BTreeSet<ArchiveId>,
    seen: &mut BTreeSet<ArchiveId>,
    now: Timestamp,
) -> Result<(), Error> {
    let mut over = BTreeSet::new();
    for (archive, about) in restore::archives(objects).await? {
        if about.host != host || declared.contains(&archive) {
            continue;
        }
        let found = Inventory::read(objects, archive).await?;
        let times = found.bases.iter().map(|base| base.stopped_at).chain(found.newest.map(|piece| piece.at));
        let newest = times.max().unwrap_or(about.created_at);
        if !is_over(&about, newest, now) {
            continue;
        }
        if seen.contains(&archive) {
            remove(objects, archive).await?;
            tracing::info!(%archive, "an archive was removed: nothing in it was kept any more");
        } else {
            over.insert(archive);
        }
    }
    *seen = over;
    Ok(())
}

/// What says whose it is last.
async fn remove(objects: &Objects, archive: ArchiveId) -> Result<(), Error> {
    let folder = archive.object("");
    let folder = folder.trim_end_matches('/');
    let all = objects.list(folder, None).await?.into_iter().map(|object| format!("{folder}/{}", object.name));
    let about = archive.object("archive.json");
    inventory::remove(objects, all.filter(|name| *name != about).collect()).await?;
    objects.delete(vec![about]).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Location, Lsn, Piece, Whose};

    #[tokio::test]
    async fn what_nobody_declares_goes_when_its_time_is_over_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::parse(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
        let objects = Objects::open(&location).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let day = SignedDuration::from_hours(24);
        let whose = || Some(Whose { tenant: "t".into(), stead: "s".into(), component: "c".into() });
        let mut put = Vec::new();
        for (whose, host, age) in [
            (whose(), "here", day * 15),
            (whose(), "here", day * 13),
            (whose(), "there", day * 100),
            (None, "here", day * 2),
            (None, "here", day / 2),
            // Declared, and asleep for long.
            (whose(), "here", day * 100),
        ] {
            let archive = ArchiveId::random();
            let newest = now.checked_sub(age).unwrap();
            let about = About {
                format: 1,
                system: "1".into(),
                engine: 18,
                segment_bytes: 1 << 24,
                host: host.into(),
                whose,
                control: false,
                keep: Keep::Seconds(14 * 86_400),
                recipient: String::new(),
                sealed_key: String::new(),
                created_at: newest,
            };
            let text = serde_json::to_vec(&about).unwrap();
            objects.put(&archive.object("archive.json"), text.into()).await.unwrap();
            let piece = Piece { from: Lsn(1), to: Lsn(2), at: newest };
            let name = format!("{}/{}", Piece::folder(1), piece.name());
            objects.put(&archive.object(&name), "x".into()).await.unwrap();
            put.push(archive);
        }
        let declared = BTreeSet::from([put[5]]);
        let mut seen = BTreeSet::new();
        let left = async || {
            let found = restore::archives(&objects).await.unwrap();
            put.iter().map(|one| found.iter().any(|(archive, _)| archive == one)).collect::<Vec<_>>()
        };
        sweep(&objects, "here", &declared, &mut seen, now).await.unwrap();
        assert_eq!(left().await, [true; 6], "the first look removes nothing");
        // Declared again in between: it stays.
        let again = BTreeSet::from([put[5], put[0]]);
        sweep(&objects, "here", &again, &mut seen, now).await.unwrap();
        assert_eq!(left().await, [true, true, true, false, true, true]);
        for _ in 0..2 {
            sweep(&objects, "here", &declared, &mut seen, now).await.unwrap();
        }
        assert_eq!(left().await, [false, true, true, false, true, true]);
        assert!(objects.list("archives", None).await.unwrap().len() == 4 * 2);
    }
}
