//! How long reading takes, from figures that were measured.

use super::Situation;

/// Rows and bytes that are copied in a second. Measured on two cores with 6.3 million rows of 757 MB, into Parquet by
/// DuckDB: 1.27 to 1.62 million rows a second; `COPY` alone gives 1.5 to 1.8 million. The lower end, and the bytes that
/// it means.
const COPIED_ROWS: u64 = 1_270_000;
/// See [`COPIED_ROWS`].
const COPIED_BYTES: u64 = 152_000_000;

/// Changes that are pulled from a slot in a second at least: 109,000 to 142,000 in transactions of a row each, 319,000 to
/// 387,000 in those of a thousand, measured on the same machine.
pub(super) const PULLED_ROWS: u64 = 109_000;

/// What is taken for the size of a database that nobody has said, bytes.
pub(super) const ASSUMED_BYTES: u64 = 10_000_000_000;

/// Until the log is gone through again for changes, seconds: a tenth of one in fact, and the commit in the lake.
pub(super) const STREAM_S: u32 = 1;
/// Between two merges of a stream's changes into the files of a table, seconds, unless the manifest says otherwise.
pub(super) const MERGE_S: u32 = 60;

/// The least time between two copies that hardly burden a server, seconds: each replaces all files of the lake, and is
/// a version of every table.
const LIGHT_S: u64 = 15 * 60;
/// And of those that may burden it: what is copied more often than that is better followed.
const HEAVY_S: u64 = 5 * 60;
/// The least time between two queries for what is new, seconds.
const QUERY_S: u64 = 10;

/// How far a query reaches back before the last one's newest row, seconds: transactions that take longer than this are
/// missed.
pub(super) const OVERLAP_S: u32 = 10 * 60;

pub(super) const DAY_S: u64 = 24 * 60 * 60;

/// Seconds that so many rows and bytes take to be copied; at least one.
pub(super) fn seconds_to_copy(rows: u64, bytes: u64) -> u64 {
    (rows / COPIED_ROWS).max(bytes / COPIED_BYTES).max(1)
}

/// Seconds that one copy of everything takes.
pub(super) fn copy_s(situation: &Situation) -> u64 {
    let volume = &situation.volume;
    if volume.rows.is_none() && volume.bytes.is_none() {
        return seconds_to_copy(0, ASSUMED_BYTES);
    }
    seconds_to_copy(volume.rows.unwrap_or_default(), volume.bytes.unwrap_or_default())
}

/// The least time between two copies that read the server a hundredth of the time at most, seconds.
pub(super) fn light_s(copy_s: u64) -> u64 {
    copy_s.saturating_mul(100).max(LIGHT_S)
}

/// A tenth of the time at most.
pub(super) fn heavy_s(copy_s: u64) -> u64 {
    copy_s.saturating_mul(10).max(HEAVY_S)
}

/// The least time between two queries, seconds: each reads what changed since the last one, and the overlap once more,
/// and may take a tenth of the time.
pub(super) fn query_s(situation: &Situation) -> u64 {
    let rows_a_day = situation.changes.rows_a_day.unwrap_or_default();
    let overlap = rows_a_day.saturating_mul(OVERLAP_S.into()) / DAY_S;
    (overlap / COPIED_ROWS).saturating_mul(10).max(QUERY_S)
}
