//! How big a server is. One table; `docs/manifest.md` shows it, and a test holds the two together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Size of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// For trying out and for the many that are rarely used.
    Nano,
    /// The default.
    #[default]
    Small,
    /// For steady use.
    Medium,
    /// For heavy use.
    Large,
}

/// What a size sets. Megabytes are MiB.
///
/// `memory_mib` is the kernel's limit on the whole server. A quarter of it is shared buffers from `small`
/// on (PostgreSQL's own advice), three quarters count as cache for the planner; `work_mem` is such that
/// half the sessions may sort at once within the limit. WAL may take a tenth of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Limit of the whole server's memory.
    pub memory_mib: u64,
    /// Its share of the disk; beyond it the server is read-only.
    pub disk_mib: u64,
    /// Client sessions at once.
    pub sessions: u32,
    /// `shared_buffers`.
    pub shared_buffers_mib: u64,
    /// `effective_cache_size`.
    pub cache_mib: u64,
    /// `work_mem`.
    pub work_mem_mib: u64,
    /// `maintenance_work_mem`.
    pub maintenance_mem_mib: u64,
    /// `max_wal_size`; also what a replication slot may hold back.
    pub wal_mib: u64,
    /// `autovacuum_max_workers`.
    pub autovacuum_workers: u32,
    /// `max_parallel_workers`.
    pub parallel_workers: u32,
}

impl Size {
    /// Every size, smallest first.
    pub const ALL: [Self; 4] = [Self::Nano, Self::Small, Self::Medium, Self::Large];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }

    /// What it sets.
    #[must_use]
    #[rustfmt::skip]
    pub fn limits(self) -> Limits {
        let row = |memory_mib, disk_gib: u64, sessions, shared_buffers_mib, cache_mib, work_mem_mib,
                   maintenance_mem_mib, wal_mib, autovacuum_workers, parallel_workers| Limits {
            memory_mib, disk_mib: disk_gib * 1024, sessions, shared_buffers_mib, cache_mib, work_mem_mib,
            maintenance_mem_mib, wal_mib, autovacuum_workers, parallel_workers,
        };
        match self {
            //                    memory disk sessions buffers cache work maint   wal vacuum parallel
            Self::Nano   => row(     256,   2,      20,     16,  128,   2,    16,  256,     1,       0),
            Self::Small  => row(   1_024,  10,      50,    128,  768,   4,    64, 1024,     2,       2),
            Self::Medium => row(   4_096,  50,     150,   1024, 3072,   8,   256, 4096,     3,       4),
            Self::Large  => row(  16_384, 200,     400,   4096, 12288, 16,  1024, 16384,    5,       8),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Size {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|size| size.as_str() == text).ok_or(())
    }
}
