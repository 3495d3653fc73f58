//! What a way to read costs, in numbers.

use serde::Serialize;

use super::choose::Way;
use super::{Mode, Situation, load};
use crate::transfer::{COPIER_MIB, LAKE_MIB};

/// What a mode costs; what is absent cannot be said from what is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// How old rows get, seconds, beside the time that the reading itself takes.
    pub fresh_s: u64,
    /// The same for those who read the files of a table without asking the lake: they see what was merged.
    pub files_fresh_s: u64,
    /// Seconds that a copy of everything takes, at best: each one of a snapshot, the first one otherwise.
    pub copy_s: Option<u64>,
    /// Bytes read from the server a day, the first copy left out.
    pub read_bytes_a_day: Option<u64>,
    /// Bytes of its log that the server keeps for each day in which nobody reads; 0 where it keeps none.
    pub log_bytes_a_day: Option<u64>,
    /// Seconds for which the reader may be away until the server lets go of its log and everything is copied anew.
    pub log_lasts_s: Option<u64>,
    /// Memory of the transfer's two processes at most, MiB.
    pub memory_mib: u64,
    /// Disk that one version of the tables takes in the lake at most, bytes; earlier ones come on top for as long as they
    /// are kept.
    pub disk_bytes: Option<u64>,
    /// Disk that changes take beside them a day at most, bytes; 0 where none are kept.
    pub disk_bytes_a_day: Option<u64>,
    /// What the lake never sees.
    pub not_seen: Vec<String>,
}

pub(super) fn of(situation: &Situation, way: Way) -> Costs {
    let volume = &situation.volume;
    let fresh_s = way.reaches_s(situation);
    let is_known = volume.rows.is_some() || volume.bytes.is_some();
    let stream = way == Way::Stream;
    let log = situation.changes.log_a_day;
    Costs {
        fresh_s,
        files_fresh_s: if stream { load::MERGE_S.into() } else { fresh_s },
        copy_s: is_known.then(|| load::copy_s(situation)),
        read_bytes_a_day: read(situation, way, fresh_s),
        log_bytes_a_day: if stream { log } else { Some(0) },
        log_lasts_s: log_lasts_s(situation).filter(|_| stream),
        memory_mib: COPIER_MIB + LAKE_MIB,
        disk_bytes: volume.bytes,
        disk_bytes_a_day: match way.mode() {
            Mode::Stream => log,
            Mode::Snapshot | Mode::Query => Some(0),
        },
        not_seen: not_seen(situation, way.mode()),
    }
}

fn read(situation: &Situation, way: Way, every_s: u64) -> Option<u64> {
    let volume = &situation.volume;
    match way.mode() {
        Mode::Snapshot => Some(volume.bytes?.saturating_mul(load::DAY_S) / every_s.max(1)),
        Mode::Query => {
            let row = volume.bytes? / volume.rows?.max(1);
            let new = situation.changes.rows_a_day?.saturating_mul(row);
            // The overlap is read again by each run.
            let again = new.saturating_mul(load::OVERLAP_S.into()) / every_s.max(1);
            Some(new.saturating_add(again))
        }
        Mode::Stream => situation.changes.log_a_day,
    }
}

fn log_lasts_s(situation: &Situation) -> Option<u64> {
    let a_day = situation.changes.log_a_day.filter(|bytes| *bytes > 0)?;
    Some(situation.server.log_room?.saturating_mul(load::DAY_S) / a_day)
}

fn not_seen(situation: &Situation, mode: Mode) -> Vec<String> {
    let mut not_seen = Vec::new();
    match mode {
        Mode::Snapshot => {
            not_seen.push("what changed between two copies and was overwritten or deleted".to_owned())
        }
        Mode::Query => {
            if situation.changes.deletes != Some(false) {
                not_seen.push("rows that are deleted".to_owned());
            }
            not_seen.push("what was overwritten between two runs".to_owned());
            not_seen.push(format!(
                "rows that appear more than the overlap of {} after the moment in their column: transactions that take \
                 longer, clocks that differ",
                crate::postgres::written(load::OVERLAP_S)
            ));
            not_seen.push("changes that leave the column as it is".to_owned());
        }
        Mode::Stream => {
            for table in situation.keyless.iter().flatten() {
                not_seen.push(format!("{}, of which nothing identifies a row", super::words::names([table])));
            }
        }
    }
    not_seen
}
