//! Whether a server takes sessions, by its own word.
//!
//! PostgreSQL writes its state into line 8 of `postmaster.pid` (`pidfile.h`; what `pg_ctl -w` goes by). Asking
//! for it costs nothing, where trying a session costs the starting server a process and a line of its log.
//! The word of a process that was killed stays behind, and its number (1 in its namespace) does not tell it
//! from the next one's: so the file is removed before a start, under the tree's lock, which every process
//! of the tree holds and which is therefore free only when none is left.

use std::io;

use crate::keeper::Keeper;
use crate::units::Entry;
use crate::wire::{EngineProgram, Name, Runs, Unit};
use crate::{files, host};

const FILE: &str = "postmaster.pid";
/// It has eight short lines; the folder is the server's, who may have put anything there.
const LONGEST: u64 = 8 * 1024;

impl Keeper {
    /// Whether the unit's process runs and says that it is ready; what is no server is ready when it runs.
    pub(crate) fn ready(&self, name: &Name) -> bool {
        let Some(process) = self.units.get(name).and_then(Entry::process) else { return false };
        match self.data(&process.unit) {
            None => true,
            Some(data) => {
                data.and_then(|data| files::read(data, FILE, LONGEST)).is_ok_and(|word| says_ready(&word))
            }
        }
    }

    /// Takes away what the last server of the tree said of itself. The tree's lock must be held.
    pub(crate) fn forget_word(&self, unit: &Unit) -> io::Result<()> {
        match self.data(unit) {
            Some(Ok(data)) => files::remove_file(data, FILE),
            // Without data there is nothing to say, and the server will tell what is missing.
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// The data directory of a server; `None` for what is no server.
    fn data(&self, unit: &Unit) -> Option<io::Result<std::os::fd::OwnedFd>> {
        match &unit.runs {
            Runs::Engine { tree, program: EngineProgram::Postgres, .. } => {
                Some(files::open_dir(&self.trees.root, host::relative(tree).join("data")))
            }
            _ => None,
        }
    }
}

fn says_ready(word: &[u8]) -> bool {
    word.split(|byte| *byte == b'\n').nth(7).is_some_and(|line| line.trim_ascii() == b"ready")
}

#[cfg(test)]
mod tests {
    use super::says_ready;

    #[test]
    fn only_the_eighth_line_counts() {
        assert!(says_ready(b"1\n/stead/data\n1700000000\n5432\n/stead/run\n\n  0 0\nready   \n"));
        assert!(!says_ready(b"1\n/stead/data\n1700000000\n5432\n/stead/run\n\n  0 0\nstarting\n"));
        assert!(!says_ready(b"1\n/stead/data\n1700000000\n"));
        assert!(!says_ready(b"ready\nready"));
        assert!(!says_ready(b""));
    }
}
