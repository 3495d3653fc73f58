//! Blocks: the unit of compression, of checksums, and of leaving things alone.
//!
//! ```text
//! magic 8 | lengths of the four parts, 4 each | CRC-32C of meta and filter, of columns, of text, of all before, 4 each
//! meta     JSON: see Meta; what a later version adds is skipped by an earlier one
//! filter   words of the text; empty where the block is small
//! columns  zstd: for each line time, offset in its file and length as differences, and one byte of marks
//! text     zstd: the lines as they were written, each with its line feed
//! ```
//!
//! Text and columns are compressed apart, so that counting by time and severity reads no text. Numbers are little-endian.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::Entry;
use crate::filter::Gathering;
use crate::line::{About, Label, LineId, Severity};
use crate::{narrow, wide};

/// What a block begins with.
pub(crate) const MAGIC: [u8; 8] = *b"STEADLG1";
/// Length of what comes before the parts, bytes.
pub(crate) const PRELUDE: usize = 40;
/// A block ends with the line that makes its text this long, bytes. At 1 MiB zstd has found what repeats, and a search
/// that needs one line of it waits for a few milliseconds.
pub(crate) const FULL: usize = 1024 * 1024;
/// Smaller blocks have no filter: reading them costs about as much as asking it. Bytes of text.
const FILTERED: usize = 64 * 1024;
/// No part of a block is larger, bytes; protects a reader from a damaged length.
const LARGEST: usize = 64 * 1024 * 1024;

const PLAIN: u8 = 1 << 4;
const CUT: u8 = 1 << 5;

/// What a reader knows of a block without reading its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Time of the earliest line, microseconds since 1970.
    pub first: i64,
    /// And of the latest.
    pub last: i64,
    /// Lines of each severity, from the least.
    pub severities: [u32; 5],
    /// By whom, of what.
    pub label: Arc<Label>,
    /// Where the lines stood, in their order.
    pub parts: Vec<Part>,
    /// Length of the text, bytes.
    pub raw: u32,
}

impl Meta {
    /// Lines in it.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.severities.iter().map(|n| narrow(*n)).sum()
    }
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The file.
    pub file: u64,
    /// Its first byte.
    pub from: u64,
    /// The byte after its last.
    pub to: u64,
    /// Lines of this block that stood there.
    pub lines: u32,
}

/// Lengths of the parts of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prelude {
    pub(crate) meta: usize,
    pub(crate) filter: usize,
    pub(crate) columns: usize,
    pub(crate) text: usize,
    pub(crate) head_sum: u32,
    pub(crate) columns_sum: u32,
    pub(crate) text_sum: u32,
}

impl Prelude {
    /// `None` where it is none, or is damaged.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..PRELUDE)?;
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if !bytes.starts_with(&MAGIC) || crc32c::crc32c(bytes.get(..PRELUDE - 4)?) != number(PRELUDE - 4)? {
            return None;
        }
        let length = |at: usize| Some(narrow(number(at)?)).filter(|length| *length <= LARGEST);
        Some(Self {
            meta: length(8)?,
            filter: length(12)?,
            columns: length(16)?,
            text: length(20)?,
            head_sum: number(24)?,
            columns_sum: number(28)?,
            text_sum: number(32)?,
        })
    }

    pub(crate) fn head(&self) -> usize {
        self.meta + self.filter
    }

    pub(crate) fn body(&self) -> usize {
        self.columns + self.text
    }

    pub(crate) fn whole(&self) -> usize {
        PRELUDE + self.head() + self.body()
    }
}

/// A block being filled.
pub(crate) struct Builder {
    label: Arc<Label>,
    parts: Vec<Part>,
    severities: [u32; 5],
    first: i64,
    last: i64,
    columns: Vec<u8>,
    text: Vec<u8>,
    gathering: Gathering,
    /// Time and offset of the line before.
    before: (i64, u64),
}

impl Builder {
    pub(crate) fn new(label: Arc<Label>) -> Self {
        Self {
            label,
            parts: Vec::new(),
            severities: [0; 5],
            first: i64::MAX,
            last: i64::MIN,
            columns: Vec::new(),
            text: Vec::new(),
            gathering: Gathering::default(),
            before: (0, 0),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.text.len() >= FULL
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Begins a part of a file, or goes on in the one before it. `to` is set as lines come.
    pub(crate) fn part(&mut self, file: u64, from: u64, to: u64) {
        match self.parts.last_mut() {
            Some(part) if part.file == file => part.to = to,
            _ => self.parts.push(Part { file, from, to, lines: 0 }),
        }
    }

    /// Adds a line to the part that was begun last.
    pub(crate) fn add(&mut self, entry: &Entry<'_>) {
        let (at, offset) = self.before;
        let turned = entry.at.wrapping_sub(at);
        varint(&mut self.columns, ((turned << 1) ^ (turned >> 63)).cast_unsigned());
        let turned = entry.offset.wrapping_sub(offset).cast_signed();
        varint(&mut self.columns, ((turned << 1) ^ (turned >> 63)).cast_unsigned());
        varint(&mut self.columns, wide(entry.text.len()));
        let marks = (u8::from(entry.plain) * PLAIN) | (u8::from(entry.cut) * CUT);
        self.columns.push(entry.severity as u8 | marks);
        self.before = (entry.at, entry.offset);
        self.first = self.first.min(entry.at);
        self.last = self.last.max(entry.at);
        if let Some(count) = self.severities.get_mut(usize::from(entry.severity as u8)) {
            *count += 1;
        }
        if let Some(part) = self.parts.last_mut() {
            part.lines += 1;
        }
        self.gathering.add(entry.text, entry.plain);
        self.text.extend_from_slice(entry.text);
        self.text.push(b'\n');
    }

    /// The block's bytes: its head, and what follows it. `level` is zstd's.
    pub(crate) fn finish(self, level: i32) -> std::io::Result<(Meta, Vec<u8>, Vec<u8>)> {
        let meta = Meta {
            first: self.first,
            last: self.last,
            severities: self.severities,
            label: self.label,
            parts: self.parts,
            raw: u32::try_from(self.text.len()).unwrap_or(u32::MAX),
        };
        let about = serde_json::to_vec(&meta)?;
        let filter = if self.text.len() < FILTERED { Vec::new() } else { self.gathering.filter() };
        let columns = zstd::bulk::compress(&self.columns, level)?;
        let text = zstd::bulk::compress(&self.text, level)?;
        let head_sum = crc32c::crc32c_append(crc32c::crc32c(&about), &filter);
        let mut head = Vec::with_capacity(PRELUDE + about.len() + filter.len());
        head.extend_from_slice(&MAGIC);
        for part in [&about, &filter, &columns, &text] {
            head.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        for sum in [head_sum, crc32c::crc32c(&columns), crc32c::crc32c(&text)] {
            head.extend_from_slice(&sum.to_le_bytes());
        }
        let sum = crc32c::crc32c(&head);
        head.extend_from_slice(&sum.to_le_bytes());
        head.extend_from_slice(&about);
        head.extend_from_slice(&filter);
        Ok((meta, head, [columns, text].concat()))
    }
}

fn varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    into.push(u8::try_from(number).unwrap_or(0));
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn read_signed(bytes: &mut &[u8]) -> Option<i64> {
    let turned = read_varint(bytes)?;
    Some((turned >> 1).cast_signed() ^ -(turned & 1).cast_signed())
}

/// A line's place in the text of its block, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) about: About,
    /// Its first byte in the text.
    pub(crate) from: usize,
    /// The byte after its last, which is its line feed.
    pub(crate) to: usize,
}

/// Reads the columns.
pub(crate) fn rows(meta: &Meta, columns: &[u8]) -> Option<Vec<Row>> {
    // A line takes at most three numbers of ten bytes and its marks, and has at least one byte of text.
    let bytes = decompress(columns, meta.lines().min(narrow(meta.raw)).saturating_mul(31))?;
    let mut bytes = bytes.as_slice();
    let mut rows = Vec::with_capacity(meta.lines().min(bytes.len() / 4 + 1));
    let (mut at, mut offset, mut from) = (0_i64, 0_u64, 0_usize);
    for part in &meta.parts {
        for _ in 0..part.lines {
            at = at.wrapping_add(read_signed(&mut bytes)?);
            offset = offset.wrapping_add(read_signed(&mut bytes)?.cast_unsigned());
            let to = from.checked_add(narrow(read_varint(&mut bytes)?))?;
            let (marks, rest) = bytes.split_first()?;
            bytes = rest;
            let severity = *Severity::ALL.get(usize::from(marks & 7))?;
            let id = LineId { file: part.file, offset };
            let about = About { id, at, severity, plain: marks & PLAIN != 0, cut: marks & CUT != 0 };
            rows.push(Row { about, from, to });
            from = to.checked_add(1)?;
        }
    }
    (from == narrow(meta.raw)).then_some(rows)
}

/// Reads the text.
pub(crate) fn text(meta: &Meta, bytes: &[u8]) -> Option<Vec<u8>> {
    decompress(bytes, narrow(meta.raw)).filter(|text| text.len() == narrow(meta.raw))
}

fn decompress(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    zstd::bulk::decompress(bytes, most.min(LARGEST * 4)).ok()
}
