//! What a worker prints, line by line, and the lines that Lambda puts around it.
//!
//! A line belongs to the invocation that was the last to begin when it was read. So that this is the one that printed it,
//! what is in the pipes when an invocation ends is read there and then, before the worker can get the next; between
//! these moments a task of its own reads. START is written with the first line or with the end, whichever comes first.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::unix::pipe;

use crate::invocation::Failure;
use crate::log::{FunctionLog, Line, Report, Stream};
use crate::worker::Worker;

/// Of a line, at most this much is kept, bytes: what the collector of logs takes.
const LONGEST_LINE: usize = 200 * 1024;
/// What `X-Amz-Log-Type: Tail` gives, bytes.
const TAIL: usize = 4096;
/// Read at once, bytes.
const PART: usize = 16 * 1024;
/// How often at once: a function that prints without end must not hold anybody up for ever.
const PARTS: usize = 64;

/// An invocation that has ended.
pub(crate) struct Closing {
    pub(crate) id: String,
    pub(crate) duration: Duration,
    pub(crate) init: Option<Duration>,
    pub(crate) failure: Option<Failure>,
}

/// Both pipes of a worker, and what has come out of them.
pub(crate) struct Output {
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    printed: Mutex<Printed>,
}

/// What there is to know to write the next line.
struct Printed {
    log: Arc<FunctionLog>,
    version: u64,
    memory_mib: u64,
    buffer: Vec<u8>,
    stdout: Partial,
    stderr: Partial,
    /// The invocation that was the last to begin, and when.
    latest: Option<(String, Timestamp)>,
    /// Its START was written.
    started: bool,
    /// The end of its log, where somebody wants it; before the first, of what the start said.
    tail: Option<VecDeque<u8>>,
    /// Nobody tells of the worker's end: that both its pipes are closed has to do.
    alone: bool,
}

/// A line under way.
struct Partial {
    line: Vec<u8>,
    /// It was longer; the rest is left out.
    cut: bool,
    open: bool,
}

impl Default for Partial {
    fn default() -> Self {
        Self { line: Vec::new(), cut: false, open: true }
    }
}

impl Output {
    pub(crate) fn new(
        log: Arc<FunctionLog>,
        (version, memory_mib): (u64, u64),
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    ) -> Self {
        let printed = Printed {
            log,
            version,
            memory_mib,
            buffer: vec![0; PART],
            stdout: Partial::default(),
            stderr: Partial::default(),
            latest: None,
            started: false,
            tail: Some(VecDeque::new()),
            alone: false,
        };
        Self { stdout, stderr, printed: Mutex::new(printed) }
    }

    /// Reads what is printed, until nobody is left who could.
    pub(crate) async fn read(&self, worker: Weak<Worker>) {
        loop {
            let (stdout, stderr) = {
                let printed = self.lock();
                (printed.stdout.open, printed.stderr.open)
            };
            if !stdout && !stderr {
                break;
            }
            tokio::select! {
                ready = self.stdout.readable(), if stdout => if ready.is_err() { return },
                ready = self.stderr.readable(), if stderr => if ready.is_err() { return },
            }
            self.read_now();
            tokio::task::yield_now().await;
        }
        if self.lock().alone
            && let Some(worker) = worker.upgrade()
        {
            crate::minder::has_ended(&worker);
        }
    }

    fn read_now(&self) {
        let mut printed = self.lock();
        for _ in 0..PARTS {
            let stdout = printed.part(Stream::Stdout, |buffer| self.stdout.try_read(buffer));
            let stderr = printed.part(Stream::Stderr, |buffer| self.stderr.try_read(buffer));
            if !stdout && !stderr {
                break;
            }
        }
    }

    /// Everything that was printed is read first, by the kernel's word: the runtime knows only what it was told of at its
    /// last look.
    fn drained(&self) -> MutexGuard<'_, Printed> {
        let mut printed = self.lock();
        for _ in 0..PARTS {
            let stdout = printed.part(Stream::Stdout, |buffer| Ok(rustix::io::read(&self.stdout, buffer)?));
            let stderr = printed.part(Stream::Stderr, |buffer| Ok(rustix::io::read(&self.stderr, buffer)?));
            if !stdout && !stderr {
                break;
            }
        }
        printed
    }

    /// An invocation begins, of which somebody may want the end of the log.
    pub(crate) fn begin(&self, id: &str, at: Timestamp, tail: bool) {
        let mut printed = self.lock();
        printed.latest = Some((id.into(), at));
        printed.started = false;
        printed.tail = tail.then(VecDeque::new);
    }

    /// It has ended, with so many bytes of memory used at most; the end of its log, where somebody wants it.
    pub(crate) fn close(&self, closing: Closing, memory_peak: Option<u64>) -> Vec<u8> {
        self.drained().close(closing, memory_peak)
    }

    /// Something is said about the worker.
    pub(crate) fn say(&self, level: &'static str, message: String) {
        self.lock().platform(level, Timestamp::now(), None, message, None);
    }

    /// The end of what was printed so far.
    pub(crate) fn tail(&self) -> Vec<u8> {
        self.drained().tail()
    }

    /// From now on nobody tells of the worker's end; answers whether it is known already.
    pub(crate) fn leave_alone(&self) -> bool {
        let mut printed = self.drained();
        printed.alone = true;
        !printed.stdout.open && !printed.stderr.open
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Printed {
    /// Reads once; answers whether there was something.
    fn part(&mut self, stream: Stream, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> bool {
        if !self.of(stream).open {
            return false;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let length = read(&mut buffer);
        match length {
            Ok(length) if length > 0 => self.take(stream, buffer.get(..length).unwrap_or_default()),
            Err(ref error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => self.of(stream).open = false,
        }
        self.buffer = buffer;
        length.is_ok_and(|length| length > 0)
    }

    fn of(&mut self, stream: Stream) -> &mut Partial {
        if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr }
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let partial = self.of(stream);
            let room = LONGEST_LINE.saturating_sub(partial.line.len());
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            partial.cut |= text.len() > room;
            partial.line.extend_from_slice(text.get(..room).unwrap_or(text));
            if ends {
                let line = std::mem::take(&mut partial.line);
                let cut = std::mem::take(&mut partial.cut);
                self.line(stream, &line, cut);
            }
        }
    }

    fn line(&mut self, stream: Stream, line: &[u8], cut: bool) {
        self.start();
        let mut text = String::from_utf8_lossy(line).into_owned();
        if cut {
            text.push_str(" [cut]");
        }
        self.remember(&text);
        let level = level_of(&text, stream);
        // Lambda's runtimes print line feeds as carriage returns.
        let message = text.trim_end_matches('\r').replace('\r', "\n");
        self.log.write(Line {
            at: Timestamp::now(),
            level,
            version: Some(self.version),
            request_id: self.latest.as_ref().map(|(id, _)| id.clone()),
            stream,
            message,
            report: None,
        });
    }

    /// Writes START of the latest invocation, unless it was.
    fn start(&mut self) {
        if self.started {
            return;
        }
        let Some((id, began_at)) = self.latest.clone() else { return };
        self.started = true;
        let message = format!("START RequestId: {id} Version: {}", self.version);
        self.platform("info", began_at, Some(id), message, None);
    }

    fn close(&mut self, closing: Closing, memory_peak: Option<u64>) -> Vec<u8> {
        self.start();
        let Closing { id, duration, init, failure } = closing;
        let now = Timestamp::now();
        if let Some(failure) = failure.as_ref().filter(|failure| failure.fatal) {
            self.platform("error", now, Some(id.clone()), failure.message(), None);
        }
        self.platform("info", now, Some(id.clone()), format!("END RequestId: {id}"), None);
        let millis = |duration: Duration| (duration.as_secs_f64() * 100_000.0).round() / 100.0;
        let duration_ms = millis(duration);
        let billed = u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let report = Report {
            duration_ms,
            billed_ms: billed,
            memory_mib: self.memory_mib,
            max_memory_mib: memory_peak.map(|bytes| bytes.div_ceil(1 << 20)),
            init_ms: init.map(millis),
            error_type: failure.map(|failure| failure.error_type),
        };
        let message = report_line(&id, &report);
        self.platform("info", now, Some(id), message, Some(report));
        self.tail.take().unwrap_or_default().into()
    }

    fn platform(
        &mut self,
        level: &'static str,
        at: Timestamp,
        request_id: Option<String>,
        message: String,
        report: Option<Report>,
    ) {
        self.remember(&message);
        self.log.write(Line {
            at,
            level,
            version: Some(self.version),
            request_id,
            stream: Stream::Platform,
            message,
            report,
        });
    }

    fn remember(&mut self, line: &str) {
        let Some(tail) = &mut self.tail else { return };
        tail.extend(line.as_bytes());
        tail.push_back(b'\n');
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }

    fn tail(&self) -> Vec<u8> {
        self.tail.iter().flatten().copied().collect()
    }
}

/// Lambda's line.
fn report_line(id: &str, report: &Report) -> String {
    let Report { duration_ms, billed_ms, memory_mib, max_memory_mib, init_ms, error_type } = report;
    let mut line = format!(
        "REPORT RequestId: {id}\tDuration: {duration_ms:.2} ms\tBilled Duration: {billed_ms} ms\tMemory Size: {memory_mib} MB"
    );
    if let Some(used) = max_memory_mib {
        line.push_str(&format!("\tMax Memory Used: {used} MB"));
    }
    if let Some(init) = init_ms {
        line.push_str(&format!("\tInit Duration: {init:.2} ms"));
    }
    match error_type.as_deref() {
        Some("Sandbox.Timedout") => line.push_str("\tStatus: timeout"),
        Some(kind) => line.push_str(&format!("\tStatus: error\tError Type: {kind}")),
        None => {}
    }
    line
}

/// How grave a line is, in the forms that runtimes print it: `…Z\t<id>\tERROR\t…`, `[ERROR]…`, a JSON object.
fn level_of(text: &str, stream: Stream) -> &'static str {
    let word = if let Some(rest) = text.strip_prefix('[') {
        rest.split_once(']').map(|(word, _)| word)
    } else if text.starts_with('{') {
        text.split_once("\"level\":")
            .map(|(_, rest)| rest.trim_start_matches([' ', '"']))
            .and_then(|rest| rest.split_once('"').map(|(word, _)| word))
    } else {
        text.split('\t').nth(2).filter(|_| text.as_bytes().get(4) == Some(&b'-'))
    };
    match word.unwrap_or_default() {
        "TRACE" | "DEBUG" | "debug" | "trace" => "debug",
        "WARN" | "WARNING" | "warn" | "warning" => "warning",
        "ERROR" | "error" => "error",
        "FATAL" | "CRITICAL" | "fatal" => "fatal",
        "INFO" | "info" => "info",
        _ if stream == Stream::Stderr => "warning",
        _ => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_in_the_forms_that_runtimes_print() {
        let id = "8f5c";
        for (text, level) in [
            (format!("2026-01-02T03:04:05.678Z\t{id}\tERROR\tno"), "error"),
            (format!("2026-01-02T03:04:05.678Z\t{id}\tINFO\tyes"), "info"),
            ("[WARNING]\t2026-01-02T03:04:05.678Z\tx\ty".into(), "warning"),
            (r#"{"timestamp":"x","level":"ERROR","message":"m"}"#.into(), "error"),
            ("plain\ttext\tERROR\tin columns".into(), "info"),
        ] {
            assert_eq!(level_of(&text, Stream::Stdout), level, "{text}");
        }
        assert_eq!(level_of("Traceback", Stream::Stderr), "warning");
    }

    #[test]
    fn a_report_says_what_lambdas_does() {
        let report = Report {
            duration_ms: 1.5,
            billed_ms: 2,
            memory_mib: 128,
            max_memory_mib: Some(40),
            init_ms: Some(99.25),
            error_type: None,
        };
        let line = report_line("r", &report);
        let expected = "REPORT RequestId: r\tDuration: 1.50 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\t\
                        Max Memory Used: 40 MB\tInit Duration: 99.25 ms";
        assert_eq!(line, expected);
        let late = Report { error_type: Some("Sandbox.Timedout".into()), ..report };
        assert!(report_line("r", &late).ends_with("\tStatus: timeout"));
    }
}
