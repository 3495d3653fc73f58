//! Keeps a full disk from taking the servers down: before it is full they become read-only, and a file of
//! some megabytes is kept so that PostgreSQL has room to recover if it fills up all the same.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags};

use crate::wire::DiskStatus;
use crate::{fail_point, files};

/// How often the disk is looked at.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

const MIB: u64 = 1024 * 1024;

/// When servers become read-only and writable again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Read-only below this many free bytes.
    pub low_bytes: u64,
    /// Writable again above this many, which is more, so that it does not flicker.
    pub high_bytes: u64,
    /// Size of the reserve file.
    pub reserve_bytes: u64,
}

impl Watermarks {
    /// For a disk of this size: read-only below 5 % or 256 MiB, whichever is less; writable above one
    /// and a half times that; a reserve of 2 % or 64 MiB.
    pub fn of_disk(total_bytes: u64) -> Self {
        let low_bytes = (total_bytes / 20).min(256 * MIB);
        Self { low_bytes, high_bytes: low_bytes / 2 * 3, reserve_bytes: (total_bytes / 50).min(64 * MIB) }
    }

    /// Below this, "almost full" has become "full".
    fn full_bytes(self) -> u64 {
        self.low_bytes / 8
    }
}

/// What a look at the disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unchanged,
    BecameReadOnly,
    BecameWritable,
}

pub(crate) struct Guard {
    root: OwnedFd,
    keeper: OwnedFd,
    marks: Option<Watermarks>,
    pub(crate) status: DiskStatus,
}

impl Guard {
    /// `read_only` is how a keeper before this one left the servers.
    pub(crate) fn new(root: impl AsFd, marks: Option<Watermarks>, read_only: bool) -> io::Result<Self> {
        let keeper = files::open_dir(&root, "keeper")?;
        let root = root.as_fd().try_clone_to_owned()?;
        Ok(Self { root, keeper, marks, status: DiskStatus { total_bytes: 0, free_bytes: 0, read_only } })
    }

    /// Looks at the disk, and gives up or puts back the reserve.
    pub(crate) fn look(&mut self) -> io::Result<Verdict> {
        let disk = rustix::fs::fstatvfs(&self.root)?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        let marks = self.marks.unwrap_or_else(|| Watermarks::of_disk(total));
        let reserved = self.reserve_size();
        let missing = marks.reserve_bytes.saturating_sub(reserved);
        // The reserve is not free, whether it lies there or has been given up and will be put back.
        let free = available.saturating_sub(missing);
        let verdict = judge(free, self.status.read_only, marks);
        self.status = DiskStatus {
            total_bytes: total,
            free_bytes: free,
            read_only: match verdict {
                Verdict::Unchanged => self.status.read_only,
                changed => changed == Verdict::BecameReadOnly,
            },
        };
        if available < marks.full_bytes() && reserved > 0 {
            self.release()?;
        } else if free > marks.high_bytes && missing > 0 {
            self.reserve(marks.reserve_bytes)?;
        }
        Ok(verdict)
    }

    /// Gives the reserve up.
    pub(crate) fn release(&self) -> io::Result<()> {
        files::remove_file(&self.keeper, "reserve")
    }

    fn reserve_size(&self) -> u64 {
        let stat = rustix::fs::statat(&self.keeper, "reserve", rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        stat.ok().and_then(|stat| u64::try_from(stat.st_blocks).ok()).unwrap_or(0).saturating_mul(512)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let file = files::open_file(&self.keeper, "reserve", OFlags::WRONLY | OFlags::CREATE, 0o600)?;
        fail_point!("keeper::guard.reserve_made");
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot: then there is no reserve, and the watermark alone must do.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => {
                self.release()?;
                Err(error.into())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn judge(free: u64, read_only: bool, marks: Watermarks) -> Verdict {
    match read_only {
        false if free < marks.low_bytes => Verdict::BecameReadOnly,
        true if free > marks.high_bytes => Verdict::BecameWritable,
        _ => Verdict::Unchanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_the_marks_nothing_changes() {
        let marks = Watermarks { low_bytes: 100, high_bytes: 150, reserve_bytes: 10 };
        let table = [
            (99, false, Verdict::BecameReadOnly),
            (100, false, Verdict::Unchanged),
            (120, true, Verdict::Unchanged),
            (150, true, Verdict::Unchanged),
            (151, true, Verdict::BecameWritable),
        ];
        for (free, read_only, verdict) in table {
            assert_eq!(judge(free, read_only, marks), verdict, "{free} {read_only}");
        }
    }

    #[test]
    fn marks_of_a_small_and_a_large_disk() {
        let small = Watermarks::of_disk(1000 * MIB);
        assert_eq!((small.low_bytes, small.high_bytes, small.reserve_bytes), (50 * MIB, 75 * MIB, 20 * MIB));
        let large = Watermarks::of_disk(1_000_000 * MIB);
        assert_eq!(
            (large.low_bytes, large.high_bytes, large.reserve_bytes),
            (256 * MIB, 384 * MIB, 64 * MIB)
        );
    }
}
