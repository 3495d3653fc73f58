//! What a worker prints, line by line, and the lines that Lambda puts around it.
//!
//! A line belongs to the invocation that is under way when it is read. When an invocation ends, what is in the pipes
//! by then is read first, so that its END comes behind its own lines. START is written with the first line or with the
//! end, whichever comes first: an invocation that prints nothing costs one wake of this task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::edition::Edition;
use crate::invocation::Failure;
use crate::log::{FunctionLog, Line, Report, Stream};
use crate::worker::Worker;

/// Of a line, at most this much is kept, bytes: what the collector of logs takes.
const LONGEST_LINE: usize = 200 * 1024;
/// What `X-Amz-Log-Type: Tail` gives, bytes.
const TAIL: usize = 4096;

/// What the output task is told.
pub(crate) enum Word {
    /// An invocation has ended.
    Closed(Box<Closing>),
    /// Something to be said about the worker.
    Platform { level: &'static str, message: String },
    /// Nobody will tell of the worker's end: that both its pipes are closed has to do.
    Alone,
    /// The end of what was printed so far is wanted.
    Tail(oneshot::Sender<Vec<u8>>),
}

/// An invocation that has ended.
pub(crate) struct Closing {
    pub(crate) id: String,
    pub(crate) began_at: Timestamp,
    pub(crate) duration: Duration,
    pub(crate) init: Option<Duration>,
    pub(crate) memory_peak: Option<u64>,
    pub(crate) failure: Option<Failure>,
    pub(crate) tail: Option<oneshot::Sender<Vec<u8>>>,
}

/// Reads both pipes of a worker.
pub(crate) struct Output {
    pub(crate) worker: std::sync::Weak<Worker>,
    pub(crate) edition: Arc<Edition>,
    pub(crate) log: Arc<FunctionLog>,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
    /// The invocation whose START was written.
    started: Option<String>,
    /// It has ended, and what it printed is being read.
    ending: bool,
    tail: VecDeque<u8>,
    alone: bool,
}

/// A pipe, and what has come of the line under way.
pub(crate) struct Pipe {
    pipe: pipe::Receiver,
    line: Vec<u8>,
    /// The line was longer; the rest is left out.
    cut: bool,
    open: bool,
}

impl Pipe {
    pub(crate) fn new(pipe: pipe::Receiver) -> Self {
        Self { pipe, line: Vec::new(), cut: false, open: true }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> usize {
        if !self.open {
            return std::future::pending().await;
        }
        let length = self.pipe.read(buffer).await.unwrap_or(0);
        self.open = length > 0;
        length
    }
}

impl Output {
    pub(crate) fn new(
        worker: std::sync::Weak<Worker>,
        edition: Arc<Edition>,
        log: Arc<FunctionLog>,
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    ) -> Self {
        let (stdout, stderr) = (Pipe::new(stdout), Pipe::new(stderr));
        let tail = VecDeque::new();
        Self { worker, edition, log, stdout, stderr, started: None, ending: false, tail, alone: false }
    }

    /// Until nobody is left who prints or speaks.
    pub(crate) async fn run(mut self, mut words: mpsc::UnboundedReceiver<Word>) {
        let mut first = vec![0; 16 * 1024];
        let mut second = vec![0; 16 * 1024];
        loop {
            if self.alone
                && !(self.stdout.open || self.stderr.open)
                && let Some(worker) = self.worker.upgrade()
            {
                crate::minder::has_ended(&worker);
                self.alone = false;
            }
            tokio::select! {
                biased;
                word = words.recv() => match word {
                    Some(word) => {
                        if let Word::Closed(closing) = &word {
                            // What is in the pipes by now is its own, whatever the worker does since.
                            self.start(&closing.id, closing.began_at);
                            self.ending = true;
                        }
                        self.drain(&mut first);
                        self.hear(word);
                    }
                    None => break,
                },
                length = self.stdout.read(&mut first) => {
                    self.take(Stream::Stdout, first.get(..length).unwrap_or_default());
                }
                length = self.stderr.read(&mut second) => {
                    self.take(Stream::Stderr, second.get(..length).unwrap_or_default());
                }
            }
        }
        self.drain(&mut first);
    }

    /// What is in the pipes now.
    fn drain(&mut self, buffer: &mut [u8]) {
        // A function that prints without end must not hold this up for ever.
        for _ in 0..64 {
            let mut any = false;
            for stream in [Stream::Stdout, Stream::Stderr] {
                let pipe = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
                match pipe.pipe.try_read(buffer) {
                    Ok(0) => pipe.open = false,
                    Ok(length) => {
                        any = true;
                        self.take(stream, buffer.get(..length).unwrap_or_default());
                    }
                    Err(_) => {}
                }
            }
            if !any {
                return;
            }
        }
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let pipe = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
            let room = LONGEST_LINE.saturating_sub(pipe.line.len());
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            pipe.cut |= text.len() > room;
            pipe.line.extend_from_slice(text.get(..room).unwrap_or(text));
            if ends {
                let line = std::mem::take(&mut pipe.line);
                let cut = std::mem::take(&mut pipe.cut);
                self.line(stream, &line, cut);
            }
        }
    }

    fn line(&mut self, stream: Stream, line: &[u8], cut: bool) {
        let worker = self.worker.upgrade().filter(|_| !self.ending);
        let current = worker.and_then(|worker| worker.current());
        if let Some((id, began_at)) = &current {
            self.start(id, *began_at);
        }
        let id = current.map(|(id, _)| id).or_else(|| self.started.clone());
        let mut text = String::from_utf8_lossy(line).into_owned();
        if cut {
            text.push_str(" [cut]");
        }
        self.remember(&text);
        let level = level_of(&text, stream);
        // Lambda's runtimes print line feeds as carriage returns.
        let message = text.trim_end_matches('\r').replace('\r', "\n");
        self.log.write(&Line {
            at: Timestamp::now(),
            level,
            version: Some(self.edition.number),
            request_id: id.as_deref(),
            stream,
            message: message.into(),
            report: None,
        });
    }

    fn start(&mut self, id: &str, began_at: Timestamp) {
        if self.started.as_deref() == Some(id) {
            return;
        }
        self.started = Some(id.to_owned());
        self.tail.clear();
        let message = format!("START RequestId: {id} Version: {}", self.edition.number);
        self.platform("info", began_at, Some(id), message, None);
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Closed(closing) => self.close(*closing),
            Word::Platform { level, message } => self.platform(level, Timestamp::now(), None, message, None),
            Word::Alone => self.alone = true,
            Word::Tail(to) => drop(to.send(self.tail())),
        }
    }

    fn close(&mut self, closing: Closing) {
        let Closing { id, began_at, duration, init, memory_peak, failure, tail } = closing;
        self.start(&id, began_at);
        let now = Timestamp::now();
        if let Some(failure) = failure.as_ref().filter(|failure| failure.fatal) {
            self.platform("error", now, Some(&id), failure.message(), None);
        }
        self.platform("info", now, Some(&id), format!("END RequestId: {id}"), None);
        let millis = |duration: Duration| (duration.as_secs_f64() * 100_000.0).round() / 100.0;
        let duration_ms = millis(duration);
        let billed = u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let report = Report {
            duration_ms,
            billed_ms: billed,
            memory_mib: self.edition.version.memory_mib,
            max_memory_mib: memory_peak.map(|bytes| bytes.div_ceil(1 << 20)),
            init_ms: init.map(millis),
            error_type: failure.map(|failure| failure.error_type),
        };
        let message = report_line(&id, &report);
        self.platform("info", now, Some(&id), message, Some(report));
        if let Some(to) = tail {
            let _ = to.send(self.tail());
        }
        self.tail.clear();
        self.started = None;
        self.ending = false;
    }

    fn platform(
        &mut self,
        level: &str,
        at: Timestamp,
        id: Option<&str>,
        message: String,
        report: Option<Report>,
    ) {
        self.remember(&message);
        self.log.write(&Line {
            at,
            level,
            version: Some(self.edition.number),
            request_id: id,
            stream: Stream::Platform,
            message: message.into(),
            report,
        });
    }

    fn remember(&mut self, line: &str) {
        self.tail.extend(line.as_bytes());
        self.tail.push_back(b'\n');
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    fn tail(&self) -> Vec<u8> {
        self.tail.iter().copied().collect()
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
