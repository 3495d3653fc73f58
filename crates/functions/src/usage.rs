//! What functions used, for whoever counts: a line a function and minute in `spool/functions.jsonl`.
//!
//! The numbers of the minute under way are in a small file a function, rewritten in place after each invocation. What a
//! process has written is the kernel's, so `kill -9` loses none of it; only a loss of power does, and then of the last
//! seconds. When the minute is over its line goes to the spool, and then the file begins the next one, whose number is
//! one higher. Killed between the two, the next process finds the line in the spool by function and number, and does
//! not write it again. Whose the numbers are stands behind them in the file: so they are told, too, where the function
//! was removed before they were.
//!
//! What exact means: an invocation is counted when its answer has come, its time is over, or its worker has ended, and
//! before whoever called is told. So one that was answered is counted, once, whoever was killed since; one that was
//! under way when the engine was killed, and whose caller was told nothing, is counted if its end had come, and then once,
//! and not at all otherwise. Bytes of a connection are counted at its end, and those of one that was open when the engine
//! was killed never.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fail_point;
use crate::files::Share;
use crate::route::Route;

/// A record is so many numbers of eight bytes.
const NUMBERS: usize = 9;
/// Of the spool, so much is looked through for a line that was written just before a kill, bytes.
const LOOKED_THROUGH: u64 = 4 << 20;

/// What a function used in a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Record {
    /// Minutes since 1970.
    minute: i64,
    /// Counts the function's lines.
    number: u64,
    invocations: u64,
    errors: u64,
    throttles: u64,
    duration_ms: u64,
    /// Memory that it may use, times how long: MiB milliseconds.
    mib_ms: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

/// Whose a record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    tenant: String,
    stead: String,
    component: String,
}

/// A line of the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// The beginning of the minute.
    pub at: Timestamp,
    /// `function.used`.
    pub action: String,
    /// The function's handle.
    pub function: String,
    /// Whose.
    pub tenant: String,
    /// Of which stead.
    pub stead: String,
    /// Which component.
    pub component: String,
    /// Counts the function's lines: of two with the same number one is superfluous.
    pub number: u64,
    /// Invocations that ended.
    pub invocations: u64,
    /// Those that failed.
    pub errors: u64,
    /// Calls that were refused because all workers were busy.
    pub throttles: u64,
    /// Milliseconds that invocations took, each rounded up.
    pub duration_ms: u64,
    /// The same, each times the MiB that the function may use: 1,024,000 are a gigabyte second.
    pub mib_ms: u64,
    /// Bytes that it sent to names outside.
    pub sent_bytes: u64,
    /// Bytes that came back.
    pub received_bytes: u64,
}

/// Everybody's.
pub(crate) struct Usage {
    folder: PathBuf,
    spool: Mutex<File>,
    /// Those of functions that are there, and how many of each name: one that was removed may still come to its end
    /// while the next begins.
    tallies: Mutex<HashMap<String, (Arc<Tally>, usize)>>,
}

/// One function's.
pub(crate) struct Tally {
    usage: Arc<Usage>,
    route: UsageLine,
    path: PathBuf,
    state: Mutex<(Record, File)>,
}

impl Usage {
    /// Opens the spool, and the folder of what is under way.
    pub(crate) fn open(spool: &Path, folder: &Path, share: Share) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(folder)?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(spool)?;
        share.file(&file)?;
        // What a killed process left of a line would spoil the next one.
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
        Ok(Arc::new(Self { folder: folder.to_owned(), spool: Mutex::new(file), tallies: Mutex::default() }))
    }

    /// Goes on with a function's numbers.
    pub(crate) fn of(self: &Arc<Self>, route: &Route) -> io::Result<Arc<Tally>> {
        let Route { tenant, stead, component, .. } = route.clone();
        let owner = Owner { tenant, stead, component };
        let mut tallies = self.tallies();
        if let Some((tally, functions)) = tallies.get_mut(&route.function) {
            *functions += 1;
            return Ok(tally.clone());
        }
        let (tally, _) = self.tally(&route.function, Some(owner))?;
        tallies.insert(route.function.clone(), (tally.clone(), 1));
        Ok(tally)
    }

    /// A function is no more: writes what it used, unless another of its name goes on with the same numbers.
    pub(crate) fn end(&self, function: &str) {
        let mut tallies = self.tallies();
        let Some((_, functions)) = tallies.get_mut(function) else { return };
        *functions -= 1;
        if *functions == 0
            && let Some((tally, _)) = tallies.remove(function)
        {
            tally.end();
        }
    }

    fn tallies(&self) -> MutexGuard<'_, HashMap<String, (Arc<Tally>, usize)>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what functions used that are no more, and whose end no process has seen.
    pub(crate) fn settle(self: &Arc<Self>, is_there: impl Fn(&str) -> bool) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for function in names.filter(|function| !is_there(function)) {
            match self.tally(&function, None) {
                Ok((tally, true)) => tally.end(),
                Ok((_, false)) => tracing::error!(function, "nobody knows whose this usage is; it stays"),
                Err(error) => tracing::error!(%error, function, "cannot read usage"),
            }
        }
    }

    /// The numbers of a function, and whether it is known whose they are: by the owner given, or else by the file.
    fn tally(self: &Arc<Self>, function: &str, owner: Option<Owner>) -> io::Result<(Arc<Tally>, bool)> {
        let path = self.folder.join(function);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut record = Record::read(&bytes);
        if bytes.is_empty() {
            // Higher than that of any line of an earlier function of the same name.
            record.number = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        }
        let found = serde_json::from_slice::<Owner>(bytes.get(NUMBERS * 8..).unwrap_or_default()).ok();
        if let Some(owner) = owner.as_ref().filter(|owner| found.as_ref() != Some(*owner)) {
            let text = serde_json::to_vec(owner)?;
            file.write_all_at(&[&record.bytes()[..], &text].concat(), 0)?;
            file.set_len(u64::try_from(NUMBERS * 8 + text.len()).unwrap_or(u64::MAX))?;
        }
        let owner = owner.or(found);
        let is_known = owner.is_some();
        let line = UsageLine::of(function, owner);
        let tally = Tally { usage: self.clone(), route: line, path, state: Mutex::new((record, file)) };
        if record.has_any() && self.has(function, record.number)? {
            tally.begin(&mut tally.lock(), this_minute())?;
        }
        Ok((Arc::new(tally), is_known))
    }

    /// Whether a line is in the spool.
    fn has(&self, function: &str, number: u64) -> io::Result<bool> {
        let mut file = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOOKED_THROUGH)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text.split(|byte| *byte == b'\n').any(|line| {
            serde_json::from_slice::<UsageLine>(line)
                .is_ok_and(|line| line.function == function && line.number == number)
        }))
    }

    /// A line is in the file whole or not at all, so that the importer never meets half of one.
    fn append(&self, line: &UsageLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut file = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let before = file.metadata()?.len();
        let written = file.write_all(&bytes);
        if written.is_err() {
            file.set_len(before)?;
        }
        written
    }
}

impl UsageLine {
    /// One without numbers.
    fn of(function: &str, owner: Option<Owner>) -> Self {
        let (tenant, stead, component) =
            owner.map_or_else(Default::default, |owner| (owner.tenant, owner.stead, owner.component));
        Self {
            at: Timestamp::UNIX_EPOCH,
            action: "function.used".to_owned(),
            function: function.to_owned(),
            tenant,
            stead,
            component,
            number: 0,
            invocations: 0,
            errors: 0,
            throttles: 0,
            duration_ms: 0,
            mib_ms: 0,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }
}

impl Tally {
    /// An invocation has ended.
    pub(crate) fn invocation(&self, duration: Duration, memory_mib: u64, failed: bool) {
        let ms = u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        self.count(|record| {
            record.invocations += 1;
            record.errors += u64::from(failed);
            record.duration_ms = record.duration_ms.saturating_add(ms);
            record.mib_ms = record.mib_ms.saturating_add(ms.saturating_mul(memory_mib));
        });
    }

    /// A connection to a name outside has ended.
    pub(crate) fn traffic(&self, sent: u64, received: u64) {
        self.count(|record| {
            record.sent_bytes = record.sent_bytes.saturating_add(sent);
            record.received_bytes = record.received_bytes.saturating_add(received);
        });
    }

    /// A call was refused.
    pub(crate) fn throttled(&self) {
        self.count(|record| record.throttles += 1);
    }

    fn count(&self, change: impl FnOnce(&mut Record)) {
        let mut state = self.lock();
        let minute = this_minute();
        if let Err(error) = self.turn(&mut state, minute) {
            tracing::error!(%error, function = self.route.function, "cannot write usage; it is added to the next minute's");
        }
        change(&mut state.0);
        if let Err(error) = state.1.write_all_at(&state.0.bytes(), 0) {
            tracing::error!(%error, function = self.route.function, "cannot write usage; it is in memory alone");
        }
    }

    /// Writes the line of a minute that is over.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        if let Err(error) = self.turn(&mut state, this_minute()) {
            tracing::error!(%error, function = self.route.function, "cannot write usage; trying again");
        }
    }

    /// Writes what there is, and forgets it.
    fn end(&self) {
        let mut state = self.lock();
        let minute = state.0.minute + 1;
        match self.turn(&mut state, minute) {
            Ok(()) => drop(std::fs::remove_file(&self.path)),
            Err(error) => tracing::error!(%error, function = self.route.function, "cannot write usage"),
        }
    }

    fn turn(&self, state: &mut (Record, File), minute: i64) -> io::Result<()> {
        if state.0.minute == minute {
            return Ok(());
        }
        if state.0.has_any() {
            self.usage.append(&self.line(&state.0))?;
            fail_point!("functions::usage.appended");
        }
        self.begin(state, minute)
    }

    fn begin(&self, (record, file): &mut (Record, File), minute: i64) -> io::Result<()> {
        let number = record.number + u64::from(record.has_any());
        *record = Record { minute, number, ..Record::default() };
        file.write_all_at(&record.bytes(), 0)
    }

    fn line(&self, record: &Record) -> UsageLine {
        let Record { number, invocations, errors, throttles, duration_ms, mib_ms, .. } = *record;
        let (sent_bytes, received_bytes) = (record.sent_bytes, record.received_bytes);
        let at = Timestamp::from_second(record.minute.saturating_mul(60)).unwrap_or_default();
        let line = UsageLine { at, number, sent_bytes, received_bytes, ..self.route.clone() };
        UsageLine { invocations, errors, throttles, duration_ms, mib_ms, ..line }
    }

    fn lock(&self) -> MutexGuard<'_, (Record, File)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn has_any(&self) -> bool {
        self.invocations > 0 || self.throttles > 0 || self.sent_bytes > 0 || self.received_bytes > 0
    }

    fn bytes(&self) -> [u8; NUMBERS * 8] {
        let Self { minute, number, invocations, errors, throttles, duration_ms, mib_ms, .. } = *self;
        let minute = minute.cast_unsigned();
        let (sent, received) = (self.sent_bytes, self.received_bytes);
        let numbers = [minute, number, invocations, errors, throttles, duration_ms, mib_ms, sent, received];
        let mut bytes = [0; NUMBERS * 8];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// What is no record is an empty one.
    fn read(bytes: &[u8]) -> Self {
        let mut numbers = [0; NUMBERS];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        let [minute, number, invocations, errors, throttles, duration_ms, mib_ms, sent, received] = numbers;
        let minute = minute.cast_signed();
        let (sent_bytes, received_bytes) = (sent, received);
        Self {
            minute,
            number,
            invocations,
            errors,
            throttles,
            duration_ms,
            mib_ms,
            sent_bytes,
            received_bytes,
        }
    }
}

fn this_minute() -> i64 {
    Timestamp::now().as_second().div_euclid(60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::route;

    fn lines(path: &Path) -> Vec<UsageLine> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn what_was_counted_survives_the_process_and_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, under_way) = (folder.path().join("functions.jsonl"), folder.path().join("usage"));
        let open =
            || Usage::open(&spool, &under_way, Share::of(folder.path())).unwrap().of(&route("f1")).unwrap();
        let tally = open();
        tally.invocation(Duration::from_micros(1500), 128, false);
        tally.invocation(Duration::from_micros(10), 128, true);
        tally.throttled();
        // As after a kill: nothing was closed.
        let tally = open();
        tally.invocation(Duration::from_millis(1), 256, false);
        tally.end();
        let [line] = &lines(&spool)[..] else { panic!("one line") };
        assert_eq!((line.invocations, line.errors, line.throttles), (3, 1, 1));
        assert_eq!((line.duration_ms, line.mib_ms), (4, 2 * 128 + 128 + 256));
    }

    #[test]
    fn a_function_that_ends_while_another_of_its_name_begins_takes_nothing_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, under_way) = (folder.path().join("functions.jsonl"), folder.path().join("usage"));
        let open = || Usage::open(&spool, &under_way, Share::of(folder.path())).unwrap();
        let usage = open();
        let old = usage.of(&route("f1")).unwrap();
        old.invocation(Duration::from_millis(1), 128, false);
        let new = usage.of(&route("f1")).unwrap();
        new.invocation(Duration::from_millis(1), 128, false);
        old.invocation(Duration::from_millis(1), 128, true);
        usage.end("f1");
        new.invocation(Duration::from_millis(1), 128, false);
        // As after a kill.
        let usage = open();
        usage.of(&route("f1")).unwrap();
        usage.end("f1");
        let sum: u64 = lines(&spool).iter().map(|line| line.invocations).sum();
        assert_eq!((sum, lines(&spool).len()), (4, 1));
    }

    #[test]
    fn a_line_that_was_written_just_before_a_kill_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, under_way) = (folder.path().join("functions.jsonl"), folder.path().join("usage"));
        let open =
            || Usage::open(&spool, &under_way, Share::of(folder.path())).unwrap().of(&route("f1")).unwrap();
        let tally = open();
        tally.invocation(Duration::from_millis(1), 128, false);
        // The line is in the spool, and the record has not been begun anew.
        let line = tally.line(&tally.lock().0);
        tally.usage.append(&line).unwrap();
        open().end();
        assert_eq!(lines(&spool), [line]);
        let tally = open();
        tally.invocation(Duration::from_millis(1), 128, false);
        tally.end();
        assert_eq!(lines(&spool).len(), 2);
    }
}
