//! Segments: the files of a day, their names, and walking through the blocks of one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::block::{self, MAGIC, Meta, PRELUDE, Prelude, Row};
use crate::{At, Error, narrow, wide};

/// Bytes looked through at once for the next block behind a damaged one.
const STRIDE: usize = 256 * 1024;
/// Read at once where a block is expected: the head of most.
const AHEAD: usize = 1024;

/// Name of a segment: which ones of the day are in it, and whether it is still written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) open: bool,
}

impl Name {
    pub(crate) fn open(number: u64) -> Self {
        Self { first: number, last: number, open: true }
    }

    pub(crate) fn closed(first: u64, last: u64) -> Self {
        Self { first, last, open: false }
    }

    pub(crate) fn file(self) -> String {
        match self.open {
            true => format!("{:08}.open", self.first),
            false => format!("{:08}-{:08}.seg", self.first, self.last),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let name = match text.strip_suffix(".open") {
            Some(number) => Self::open(number.parse().ok()?),
            None => {
                let (first, last) = text.strip_suffix(".seg")?.split_once('-')?;
                Self::closed(first.parse().ok()?, last.parse().ok()?)
            }
        };
        (name.file() == text && name.first <= name.last).then_some(name)
    }

    /// Whether the other one, made of this one, is there in its place.
    fn is_void_beside(self, other: Self) -> bool {
        self != other
            && other.first <= self.first
            && self.last <= other.last
            // Closing is a rename: both are there only where somebody copied files.
            && (!other.open || self.open)
    }
}

/// What a folder of a day holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// What counts, in the order in which it was written.
    pub(crate) segments: Vec<Name>,
    /// What was replaced, or left half written: may be deleted by whoever writes.
    pub(crate) rubbish: Vec<String>,
}

/// Lists a day; a folder that is not there holds nothing.
pub(crate) fn list(folder: &Path) -> Result<Listing, Error> {
    let mut found = Vec::new();
    let mut listing = Listing::default();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        other => other.at("list", folder)?,
    };
    for entry in entries {
        let name = entry.at("list", folder)?.file_name().to_string_lossy().into_owned();
        match Name::parse(&name) {
            Some(name) => found.push(name),
            None if name.ends_with(".new") => listing.rubbish.push(name),
            None => {}
        }
    }
    for name in &found {
        if found.iter().any(|other| name.is_void_beside(*other)) {
            listing.rubbish.push(name.file());
        } else {
            listing.segments.push(*name);
        }
    }
    listing.segments.sort_unstable();
    Ok(listing)
}

/// A place in a segment that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hurt {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) why: &'static str,
}

/// A block in a segment.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) prelude: Prelude,
    pub(crate) meta: Meta,
}

/// What walking through a segment found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) blocks: Vec<Found>,
    /// Damage, with sound blocks behind it.
    pub(crate) hurts: Vec<Hurt>,
    /// Where the last sound block ends.
    pub(crate) end: u64,
    /// Length of the file.
    pub(crate) length: u64,
}

/// Reads the heads of all blocks. What is behind the last sound block is not damage yet: it may be being written.
pub(crate) fn walk(file: &File) -> io::Result<Walk> {
    let length = file.metadata()?.len();
    let mut walk = Walk { length, ..Walk::default() };
    let mut at = 0;
    while at < length {
        if let Some(found) = head(file, at, length)? {
            at += wide(found.prelude.whole());
            walk.end = at;
            walk.blocks.push(found);
            continue;
        }
        let Some(next) = next(file, at + 1, length)? else { break };
        walk.hurts.push(Hurt { offset: at, length: next - at, why: "the head of a block is damaged" });
        at = next;
    }
    Ok(walk)
}

/// The block that begins there; `None` where none does whole.
fn head(file: &File, at: u64, length: u64) -> io::Result<Option<Found>> {
    let mut bytes = vec![0; AHEAD.min(narrow(length - at))];
    file.read_exact_at(&mut bytes, at)?;
    let Some(prelude) = Prelude::read(&bytes) else { return Ok(None) };
    if at + wide(prelude.whole()) > length {
        return Ok(None);
    }
    let known = bytes.len();
    bytes.resize(PRELUDE + prelude.head(), 0);
    if let Some(rest) = bytes.get_mut(known..).filter(|rest| !rest.is_empty()) {
        file.read_exact_at(rest, at + wide(known))?;
    }
    let head = bytes.get(PRELUDE..).unwrap_or_default();
    if crc32c::crc32c(head) != prelude.head_sum {
        return Ok(None);
    }
    let meta = head.get(..prelude.meta).and_then(|meta| serde_json::from_slice(meta).ok());
    Ok(meta.map(|meta| Found { offset: at, prelude, meta }))
}

/// Where the next sound head is.
fn next(file: &File, mut from: u64, length: u64) -> io::Result<Option<u64>> {
    let finder = memchr::memmem::Finder::new(&MAGIC);
    while from + wide(PRELUDE) <= length {
        let mut bytes = vec![0; STRIDE.min(narrow(length - from))];
        file.read_exact_at(&mut bytes, from)?;
        for hit in finder.find_iter(&bytes) {
            let at = from + wide(hit);
            if head(file, at, length)?.is_some() {
                return Ok(Some(at));
            }
        }
        // The magic may lie across the border.
        from += wide(bytes.len().saturating_sub(MAGIC.len() - 1).max(1));
    }
    Ok(None)
}

impl Found {
    /// The filter of its words.
    pub(crate) fn filter(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.prelude.filter];
        file.read_exact_at(&mut bytes, self.offset + wide(PRELUDE + self.prelude.meta))?;
        Ok(bytes)
    }

    /// Its lines; `None` where they are damaged.
    pub(crate) fn read(&self, file: &File) -> io::Result<Option<(Vec<Row>, Vec<u8>)>> {
        let mut bytes = vec![0; self.prelude.body()];
        file.read_exact_at(&mut bytes, self.offset + wide(PRELUDE + self.prelude.head()))?;
        let Some((columns, text)) = bytes.split_at_checked(self.prelude.columns) else { return Ok(None) };
        let sums = (crc32c::crc32c(columns), crc32c::crc32c(text));
        if sums != (self.prelude.columns_sum, self.prelude.text_sum) {
            return Ok(None);
        }
        Ok(block::rows(&self.meta, columns).zip(block::text(&self.meta, text)))
    }

    /// Its lines without their texts; `None` where they are damaged.
    pub(crate) fn read_rows(&self, file: &File) -> io::Result<Option<Vec<Row>>> {
        let mut bytes = vec![0; self.prelude.columns];
        file.read_exact_at(&mut bytes, self.offset + wide(PRELUDE + self.prelude.head()))?;
        let is_sound = crc32c::crc32c(&bytes) == self.prelude.columns_sum;
        Ok(is_sound.then(|| block::rows(&self.meta, &bytes)).flatten())
    }
}

/// The path of a segment.
pub(crate) fn path(folder: &Path, name: Name) -> PathBuf {
    folder.join(name.file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_in_it() {
        for name in [Name::open(3), Name::closed(1, 4), Name::closed(7, 7)] {
            assert_eq!(Name::parse(&name.file()), Some(name));
        }
        for text in ["3.open", "00000003-00000001.seg", "x.seg", "00000001-00000002.seg.new", ""] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_was_put_together_makes_its_parts_void() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "00000001-00000003.seg",
            "00000001-00000001.seg",
            "00000003-00000003.seg",
            "00000004-00000004.seg",
            "00000005.open",
            "00000004-00000005.seg.new",
            "what",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let mut listing = list(folder.path()).unwrap();
        listing.rubbish.sort();
        assert_eq!(listing.segments, [Name::closed(1, 3), Name::closed(4, 4), Name::open(5)]);
        assert_eq!(
            listing.rubbish,
            ["00000001-00000001.seg", "00000003-00000003.seg", "00000004-00000005.seg.new"]
        );
    }
}
