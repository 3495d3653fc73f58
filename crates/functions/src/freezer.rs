//! The control groups of a worker: what freezes it between invocations, and what counts its memory.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use keeper::wire::Group;

/// Groups, by their files.
#[derive(Default)]
pub(crate) struct Groups {
    freezer: Option<(File, bool)>,
    memory_peak: Option<File>,
}

impl Groups {
    /// Of the descriptors that came for them.
    pub(crate) fn new(groups: &[Group], fds: Vec<OwnedFd>) -> Self {
        let mut all = Self::default();
        for (group, fd) in groups.iter().zip(fds) {
            match group {
                Group::FreezerV1 => all.freezer = Some((fd.into(), false)),
                Group::FreezerV2 => all.freezer = Some((fd.into(), true)),
                Group::MemoryPeak => all.memory_peak = Some(fd.into()),
            }
        }
        all
    }

    /// Lets nothing in it run; answers whether it could.
    pub(crate) fn freeze(&self) -> bool {
        self.write("FROZEN", "1")
    }

    /// Lets everything in it run again.
    pub(crate) fn thaw(&self) -> bool {
        self.write("THAWED", "0")
    }

    fn write(&self, v1: &str, v2: &str) -> bool {
        let Some((file, is_v2)) = &self.freezer else { return false };
        let word = if *is_v2 { v2 } else { v1 };
        let mut file = file;
        match file.write_all(word.as_bytes()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "a worker's freezer was not written; it has probably ended");
                false
            }
        }
    }

    /// The most memory that it has used so far, bytes.
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        let mut bytes = [0; 32];
        let length = rustix::io::pread(self.memory_peak.as_ref()?, &mut bytes, 0).ok()?;
        std::str::from_utf8(bytes.get(..length)?).ok()?.trim().parse().ok()
    }
}
