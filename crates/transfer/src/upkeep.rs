//! What keeps a table good to read for years: small files become large ones, and what no version that can still be asked
//! for is made of goes.
//!
//! Whoever writes a table does this between two batches, so that nobody keeps another waiting. A reader that looks at an
//! older version finds its files until they are older than versions are kept.

use std::time::Duration;

use deltalake::kernel::Remove;
use deltalake::operations::vacuum::VacuumMode;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use crate::files::{Files, Part};
use crate::lake::{LakeTable, NOTES};
use crate::rows::{COMMITTED_AT, LSN};
use crate::{Error, Lsn, fail_point};

/// A file with fewer rows and fewer bytes is small.
const SMALL_ROWS: u64 = 250_000;
const SMALL_BYTES: u64 = 16 << 20;
/// So many small ones are made one, at least.
const FEW: usize = 8;
/// Rows and bytes of a file that is made of small ones, about, at most.
const ROWS: u64 = 1_000_000;
const BYTES: u64 = 64 << 20;

/// Microseconds.
const DAY: i64 = 86_400_000_000;

/// How long an older version of a table says it can be asked for, as Delta has it.
const VERSIONS: [&str; 2] = ["delta.logRetentionDuration", "delta.deletedFileRetentionDuration"];

/// For how long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Older versions, and the files that they are made of.
    pub versions: Duration,
    /// Changes that are in their table; for ever where nothing is said.
    pub changes: Option<Duration>,
}

impl LakeTable {
    /// Makes large files of small ones that are next to each other; answers how many are gone. Of a table of changes their
    /// order stays.
    pub(crate) async fn compact(&mut self) -> Result<usize, Error> {
        if self.position().is_new {
            // A new epoch begins with what it brings.
            return Ok(0);
        }
        let mut parts = self.files()?;
        parts.sort_by_cached_key(|part| part.bounds(LSN));
        let mut count = 0;
        for group in groups(parts) {
            count += self.compact_these(group).await?;
        }
        Ok(count)
    }

    async fn compact_these(&mut self, group: Vec<Part>) -> Result<usize, Error> {
        let mut gone = Vec::new();
        let mut files = Files::new(self.store());
        for part in group {
            // What a file does not have was not in the source's table: rows with other columns go into another one.
            for batch in self.read(&part.path).await? {
                files.push(&batch).await?;
            }
            gone.push(Remove { data_change: false, ..part.remove });
        }
        let mut come = files.finish().await?;
        let count = gone.len();
        for add in &mut come {
            add.data_change = false;
        }
        fail_point!("transfer::upkeep.compacted");
        self.put_again(gone, come).await?;
        Ok(count)
    }

    /// Takes changes away that are older, and before a position.
    pub(crate) async fn forget_changes(&mut self, older: Duration, before: Lsn) -> Result<usize, Error> {
        if self.position().is_new {
            return Ok(0);
        }
        let now = jiff::Timestamp::now();
        let until = jiff::SignedDuration::try_from(older).ok().and_then(|older| now.checked_sub(older).ok());
        let Some(until) = until.map(|until| until.as_microsecond()) else { return Ok(0) };
        let before = i64::try_from(u64::from(before)).unwrap_or(i64::MAX);
        let is_over =
            |part: &Part, column: &str, end: i64| part.bounds(column).is_some_and(|(_, last)| last < end);
        let parts = self.files()?.into_iter();
        let old = parts.filter(|part| is_over(part, COMMITTED_AT, until) && is_over(part, LSN, before));
        let gone: Vec<Remove> = old.map(|part| part.remove).collect();
        let count = gone.len();
        if count > 0 {
            self.put_again(gone, Vec::new()).await?;
        }
        Ok(count)
    }

    /// Says in the table for how long its versions are kept.
    pub(crate) async fn declare_kept(&mut self, keep: Duration) -> Result<(), Error> {
        let wanted = format!("interval {} seconds", keep.as_secs());
        let is_said = |name: &str| self.property(name).ok().flatten().as_ref() == Some(&wanted);
        if self.position().is_new || VERSIONS.iter().all(|name| is_said(name)) {
            return Ok(());
        }
        for name in VERSIONS {
            let columns = self.columns()?;
            self.plan(columns, name, wanted.clone());
        }
        self.put_again(Vec::new(), Vec::new()).await
    }

    /// Removes the files that no version needs that is kept, and those of writers that were ended; answers how many. Anybody
    /// may do this, whoever writes the table.
    pub async fn vacuum(&self, keep: Duration) -> Result<usize, Error> {
        let (_, done) = self.delta().clone().vacuum().with_mode(VacuumMode::Full).await?;
        Ok(done.files_deleted.len() + self.forget_notes(keep).await?)
    }

    /// Notes that no version that is kept goes by.
    async fn forget_notes(&self, keep: Duration) -> Result<usize, Error> {
        let (store, now) = (self.delta().object_store(), jiff::Timestamp::now().as_millisecond());
        let noted = self.noted_now().await?.map(|note| note.path());
        let notes = deltalake::Path::from(NOTES);
        let all: Vec<_> =
            store.list(Some(&notes)).try_collect().await.map_err(deltalake::DeltaTableError::from)?;
        let mut count = 0;
        for note in all {
            let age = now.saturating_sub(note.last_modified.timestamp_millis());
            if noted.as_ref() != Some(&note.location)
                && u128::try_from(age).is_ok_and(|age| age > keep.as_millis())
            {
                store.delete(&note.location).await.map_err(deltalake::DeltaTableError::from)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Small files that are next to each other, as many as make a large one.
fn groups(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let (mut groups, mut group): (Vec<Vec<Part>>, Vec<Part>) = (Vec::new(), Vec::new());
    let (mut rows, mut bytes, mut day) = (0, 0, None);
    for part in parts {
        let (more_rows, more_bytes) = (part.rows().unwrap_or(ROWS), part.bytes);
        let is_small = more_rows < SMALL_ROWS && more_bytes < SMALL_BYTES;
        // Changes are forgotten by the file: one of many days would stay until the last of them is over.
        let of_day = part.bounds(COMMITTED_AT).map(|(first, _)| first.div_euclid(DAY));
        if !is_small || of_day != day || rows + more_rows > ROWS || bytes + more_bytes > BYTES {
            groups.push(std::mem::take(&mut group));
            (rows, bytes, day) = (0, 0, of_day);
        }
        if is_small {
            (rows, bytes) = (rows + more_rows, bytes + more_bytes);
            group.push(part);
        }
    }
    groups.push(group);
    // The last is open until it is large, or many.
    groups.retain(|group| group.len() >= FEW);
    groups
}
