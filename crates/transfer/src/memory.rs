//! What a transfer has to remember itself, because neither the server nor the lake could tell it.
//!
//! A slot that is gone looks the same as one that was never made, and a server that was restored to a moment the same as
//! the one before: both have to be noticed, because changes would be missing without a word.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::slot::{History, SlotState};

/// See above.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// The history that is followed; none before the first.
    pub(crate) history: Option<History>,
    /// Whether its slot was made.
    pub(crate) slot: bool,
    /// How often everything was copied anew because somebody asked for it.
    pub(crate) resyncs: u32,
    /// The `asked` of the last copy of all tables.
    #[serde(default)]
    pub(crate) asked: u32,
    /// Whether the bucket is known to be its own: one that is empty then was emptied.
    #[serde(default)]
    pub(crate) claimed: bool,
    /// When the last copy of all tables was complete.
    pub(crate) copied_at: Option<jiff::Timestamp>,
}

/// How a stream begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// With a new slot, and copies of everything.
    Anew,
    /// Where it was.
    GoOn,
    /// Not at all, for a reason that a person has to know.
    Stopped(String),
}

impl Memory {
    /// What is remembered; nothing where there is no file.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |source| Error::File { path: path.to_owned(), source };
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| wrong(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(wrong(error)),
        }
    }

    /// Remembers it; durable when this returns.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let wrong = |source| Error::File { path: path.to_owned(), source };
        let text = serde_json::to_vec(self).map_err(|error| wrong(error.into()))?;
        replace(path, &text, true).map_err(wrong)
    }

    /// The name of the time during which positions can be compared.
    pub(crate) fn epoch(&self) -> String {
        let (system, timeline) =
            self.history.as_ref().map_or(("", 0), |of| (of.system.as_str(), of.timeline));
        format!("{system}-{timeline}-{}", self.resyncs)
    }

    /// How to begin, given what the server says and how often a resync was asked for.
    pub(crate) fn beginning(&self, is: &History, slot: Option<&SlotState>, resyncs: u32) -> Beginning {
        match self.beginning_without_slot(is, resyncs) {
            Beginning::GoOn => {}
            other => return other,
        }
        match slot {
            None if self.slot => {
                stopped("the server's slot is gone: changes since then cannot be had any more")
            }
            Some(slot) if slot.is_lost => stopped(
                "the server let go of changes that were not in the lake yet, because they would have filled its disk",
            ),
            None => Beginning::Anew,
            Some(_) => Beginning::GoOn,
        }
    }

    /// The same of what goes by the server's rows alone.
    pub(crate) fn beginning_without_slot(&self, is: &History, resyncs: u32) -> Beginning {
        let Some(known) = self.history.as_ref().filter(|_| resyncs <= self.resyncs) else {
            return Beginning::Anew;
        };
        if known.system != is.system {
            return stopped(
                "the server is another one than before: what was read of that one means nothing here",
            );
        }
        if known.timeline != is.timeline {
            return stopped(
                "the server was restored to an earlier moment: the lake may hold what it no longer has",
            );
        }
        Beginning::GoOn
    }
}

fn stopped(why: &str) -> Beginning {
    Beginning::Stopped(format!("{why}; `stead resync` copies everything anew"))
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, text: &[u8], durable: bool) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(text)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) if durable => std::fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    fn history(system: &str, timeline: i32) -> History {
        History { system: system.to_owned(), timeline }
    }

    fn slot(is_lost: bool) -> SlotState {
        let start = Lsn::from(0);
        SlotState { is_lost, end: start, confirmed: start, kept: 0, room: None }
    }

    #[test]
    fn what_would_lose_changes_stops() {
        let memory = Memory { history: Some(history("1", 1)), slot: true, ..Memory::default() };
        let begins = |is: &History, slot: Option<&SlotState>, resyncs| memory.beginning(is, slot, resyncs);
        assert_eq!(begins(&history("1", 1), Some(&slot(false)), 0), Beginning::GoOn);
        let (good, lost) = (slot(false), slot(true));
        for (is, slot) in [
            (history("2", 1), Some(&good)),
            (history("1", 2), Some(&good)),
            (history("1", 1), None),
            (history("1", 1), Some(&lost)),
        ] {
            assert!(matches!(begins(&is, slot, 0), Beginning::Stopped(why) if why.contains("stead resync")));
            assert_eq!(begins(&is, slot, 1), Beginning::Anew);
        }
    }

    #[test]
    fn whoever_was_ended_before_its_slot_was_made_makes_it() {
        let is = history("1", 1);
        assert_eq!(Memory::default().beginning(&is, None, 0), Beginning::Anew);
        let noted = Memory { history: Some(is.clone()), ..Memory::default() };
        assert_eq!(noted.beginning(&is, None, 0), Beginning::Anew);
        assert_eq!(noted.beginning(&is, Some(&slot(false)), 0), Beginning::GoOn);
    }
}
