//! Reading on in a log file that somebody else writes, and may have put something else in place of.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::{narrow, wide};

/// Of a line, at most this much is stored, bytes; the rest is left out and the line is marked.
pub const LONGEST_LINE: usize = 256 * 1024;
/// Read at once, bytes.
const PART: usize = 4 * 1024 * 1024;
/// Of the first line, this much tells a file from another at the same inode, bytes.
const HEAD: usize = 256;

/// Opens a file without following a link, and without waiting where it is a pipe; `None` where it is no file.
pub(crate) fn open(path: &Path) -> io::Result<Option<(File, u64, u64)>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let about = file.metadata()?;
    Ok(about.is_file().then(|| (file, about.ino(), about.len())))
}

/// Which file it is: by its inode and what it begins with. `None` while its first line is not whole, and so nothing of
/// it can be stored yet.
pub(crate) fn identity(file: &File, inode: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; HEAD];
    let mut known = 0;
    while let Some(room) = bytes.get_mut(known..).filter(|room| !room.is_empty()) {
        match file.read_at(room, wide(known))? {
            0 => break,
            n => known += n,
        }
    }
    let bytes = bytes.get(..known).unwrap_or_default();
    let first = match memchr::memchr(b'\n', bytes) {
        Some(end) => bytes.get(..=end),
        None => Some(bytes).filter(|bytes| bytes.len() == HEAD),
    };
    Ok(first.map(|first| {
        let hash = Sha256::new().chain_update(inode.to_le_bytes()).chain_update(first).finalize();
        hash.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
    }))
}

/// A part of a file: bytes, and where they stood.
pub(crate) struct Part {
    bytes: Vec<u8>,
    from: u64,
}

/// A line in a part: bytes before it in the file, its text, whether it was longer.
pub(crate) type Text<'a> = (u64, &'a [u8], bool);

impl Part {
    pub(crate) fn read(file: &File, from: u64, length: u64) -> io::Result<Self> {
        let mut bytes = vec![0; PART.min(narrow(length.saturating_sub(from)))];
        let mut known = 0;
        while let Some(room) = bytes.get_mut(known..).filter(|room| !room.is_empty()) {
            match file.read_at(room, from + wide(known))? {
                0 => break,
                n => known += n,
            }
        }
        bytes.truncate(known);
        Ok(Self { bytes, from })
    }

    /// The lines, and where the next part begins. `inside`: the part begins in the middle of a line that was cut.
    /// `whole`: the file is as long as it will ever be, so that what stands behind the last line feed is a line.
    pub(crate) fn lines(&self, inside: bool, whole: bool) -> (Vec<Text<'_>>, u64) {
        let mut lines = Vec::new();
        let mut at = 0;
        if inside {
            at = memchr::memchr(b'\n', &self.bytes).map_or(self.bytes.len(), |end| end + 1);
        }
        while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let end = memchr::memchr(b'\n', rest);
            let line = match end {
                Some(end) => rest.get(..end),
                None => Some(rest).filter(|rest| whole || rest.len() > LONGEST_LINE),
            };
            // The rest is still being written.
            let Some(line) = line else { break };
            let cut = line.len() > LONGEST_LINE;
            let text = line.get(..LONGEST_LINE).unwrap_or(line);
            if !text.is_empty() {
                lines.push((self.from + wide(at), text, cut));
            }
            at += match end {
                Some(end) => end + 1,
                // Where the line ends is found by a later look; what is before that is left out.
                None => rest.len(),
            };
        }
        (lines, self.from + wide(at))
    }
}

/// Whether what stands at this offset belongs to a line that began before it.
pub(crate) fn is_inside(file: &File, offset: u64) -> io::Result<bool> {
    let Some(before) = offset.checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, before)?;
    Ok(byte != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], inside: bool, whole: bool) -> (Vec<(u64, String, bool)>, u64) {
        let part = Part { bytes: bytes.to_vec(), from: 100 };
        let (lines, to) = part.lines(inside, whole);
        let shown =
            lines.iter().map(|(at, text, cut)| (*at, String::from_utf8_lossy(text).into_owned(), *cut));
        (shown.collect(), to)
    }

    #[test]
    fn only_whole_lines_are_read() {
        assert_eq!(
            lines(b"a\n\nbc\nd", false, false),
            (vec![(100, "a".into(), false), (103, "bc".into(), false)], 106)
        );
        assert_eq!(lines(b"d", false, true), (vec![(100, "d".into(), false)], 101));
        assert_eq!(lines(b"x\ny\n", true, false), (vec![(102, "y".into(), false)], 104));
        assert_eq!(lines(b"xyz", true, false), (vec![], 103));
    }

    #[test]
    fn a_long_line_is_cut_and_its_rest_left_out() {
        let long = "x".repeat(LONGEST_LINE + 5);
        let (found, to) = lines(format!("{long}\nnext\n").as_bytes(), false, false);
        assert_eq!(
            (found.len(), found[0].1.len(), found[0].2, found[1].1.as_str()),
            (2, LONGEST_LINE, true, "next")
        );
        assert_eq!(to, 100 + 5 + 1 + u64::try_from(LONGEST_LINE).unwrap() + 5);
        // Still being written: what there is room for is stored, the rest is passed over.
        let (found, to) = lines(long.as_bytes(), false, false);
        assert_eq!((found.len(), found[0].2), (1, true));
        assert_eq!(to, 105 + u64::try_from(LONGEST_LINE).unwrap());
    }
}
