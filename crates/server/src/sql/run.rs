//! Runs one text and passes on what comes, as fast as it is read and no faster.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use client::wire::{QueryEvent, QuerySummary, ServerMessage};
use postgres_protocol::message::frontend;
use store::query::{End, Ended};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::output::{Broken, Format, Output};
use super::running::Place;
use super::session::{Session, longest, one_statement};
use super::wire::{self, Message};

/// So much is written before somebody has to take it, bytes.
const AHEAD: usize = 64 * 1024;
/// How long a statement that was cancelled may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// Notices that are passed on.
const NOTICES: u32 = 200;

/// How much one query may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Rows that are shown.
    pub(crate) rows: u64,
    /// Bytes that come back, in all.
    pub(crate) bytes: u64,
    /// Bytes of one row.
    pub(crate) row: usize,
    /// From the first word to the last.
    pub(crate) time: Duration,
}

/// A text that is to be run.
pub(crate) struct Run {
    pub(crate) session: Session,
    pub(crate) sql: String,
    /// One statement in a transaction that cannot write.
    pub(crate) read_only: bool,
    pub(crate) limits: Limits,
    pub(crate) format: Format,
    pub(crate) place: Place,
    /// Turns true when the control plane stops.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Who reads; one that is gone has gone away.
    pub(crate) to: mpsc::Sender<Result<Bytes, Broken>>,
}

/// Why a statement was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Asked,
    Gone,
    Stopping,
    Time,
    Bytes,
    Copy,
    /// An export of more than one result.
    Form,
}

/// How far it is.
struct Progress {
    output: Output,
    limits: Limits,
    began: Instant,
    rows: u64,
    shown: u64,
    /// Rows of the result under way.
    of_result: u64,
    bytes: u64,
    notices: u32,
    error: Option<ServerMessage>,
    broken: Option<Broken>,
    why: Option<Why>,
    /// Something was left open.
    open_transaction: bool,
}

/// What a message means for what comes next.
enum Next {
    More,
    /// The text is through.
    Ready,
    /// The server waits for data that nobody has.
    Refuse,
    Cancel(Why),
}

impl Run {
    /// Runs it to its end, of whatever kind, and says what came of it and the last word to the reader. That is sent by
    /// [`LastWord::say`], once the end is on record.
    pub(crate) async fn run(mut self) -> (Ended, LastWord) {
        let mut progress = Progress::new(self.format, self.limits);
        let lost = match self.begin().await {
            Ok(()) => self.follow(&mut progress).await,
            Err(error) => Some(error),
        };
        if let Some(error) = &lost
            && progress.error.is_none()
            && progress.why.is_none()
        {
            progress.lost(error);
        }
        if lost.is_none() {
            self.session.close().await;
        }
        // One that cannot write is in a transaction of ours.
        progress.open_transaction &= !self.read_only;
        let (ended, summary) = progress.ended();
        let word = LastWord {
            output: progress.output,
            error: progress.error,
            broken: progress.broken,
            summary,
            to: self.to,
        };
        (ended, word)
    }

    async fn begin(&mut self) -> io::Result<()> {
        let message = if self.format.is_copied() {
            let sql = self.sql.trim_end_matches([';', ' ', '\t', '\r', '\n']);
            // On a line of its own, for a text may end with a comment.
            one_statement(&format!("copy (\n{sql}\n) to stdout (format {})", self.format.name()), &[], 0)?
        } else if self.read_only {
            // One more than is shown tells whether there are more.
            let rows = i32::try_from(self.limits.rows.saturating_add(1)).unwrap_or(i32::MAX);
            one_statement(&self.sql, &[], rows)?
        } else {
            let mut message = BytesMut::with_capacity(self.sql.len() + 16);
            frontend::query(&self.sql, &mut message)?;
            message
        };
        self.session.send(&message).await
    }

    /// Until the server is ready again, or is given up: then why.
    async fn follow(&mut self, progress: &mut Progress) -> Option<io::Error> {
        let canceller = self.session.canceller();
        let deadline = progress.began + self.limits.time;
        let mut give_up = deadline;
        loop {
            let row = self.limits.row;
            let keep = |tag| if matches!(tag, b'D' | b'd') { row } else { longest(tag) };
            let (going, session) = (progress.why.is_none(), &mut self.session);
            let next = tokio::select! {
                biased;
                () = told(&mut self.place.cancelled), if going => Next::Cancel(Why::Asked),
                () = told(&mut self.stopping), if going => Next::Cancel(Why::Stopping),
                () = self.to.closed(), if going => Next::Cancel(Why::Gone),
                () = sleep_until(deadline), if going => Next::Cancel(Why::Time),
                () = sleep_until(give_up), if !going => return Some(io::ErrorKind::TimedOut.into()),
                message = session.reader.next(&mut session.stream, keep),
                    if !going || progress.output.len() < AHEAD => match message {
                    Ok(message) => match progress.take(message) {
                        Ok(next) => next,
                        Err(error) => return Some(error),
                    },
                    Err(error) => return Some(error),
                },
                permit = self.to.reserve(), if going && progress.output.len() > 0 => {
                    if let Ok(permit) = permit {
                        permit.send(Ok(progress.output.take()));
                    }
                    Next::More
                }
            };
            match next {
                Next::More => {}
                Next::Ready => return None,
                Next::Refuse => {
                    let mut message = BytesMut::new();
                    let done = frontend::copy_fail("copy from stdin is not possible here", &mut message);
                    if let Err(error) = done.and(self.session.send(&message).await) {
                        return Some(error);
                    }
                }
                Next::Cancel(why) => {
                    progress.why = Some(why);
                    give_up = Instant::now() + GRACE;
                    let canceller = canceller.clone();
                    // Beside the reading: a server that waits for a reader would not hear of it.
                    tokio::spawn(async move {
                        if let Err(error) = canceller.cancel().await {
                            tracing::warn!(%error, "a query could not be cancelled; its session is closed");
                        }
                    });
                }
            }
        }
    }
}

/// Until a watch says so; never, where nobody is left to say it.
async fn told(watch: &mut watch::Receiver<bool>) {
    if watch.wait_for(|told| *told).await.is_err() {
        std::future::pending().await
    }
}

impl Progress {
    fn new(format: Format, limits: Limits) -> Self {
        Self {
            output: Output::new(format),
            limits,
            began: Instant::now(),
            rows: 0,
            shown: 0,
            of_result: 0,
            bytes: 0,
            notices: 0,
            error: None,
            broken: None,
            why: None,
            open_transaction: false,
        }
    }

    fn take(&mut self, message: Message) -> io::Result<Next> {
        self.bytes += message.length;
        if self.bytes > self.limits.bytes && self.why.is_none() {
            return Ok(Next::Cancel(Why::Bytes));
        }
        match message.tag {
            b'Z' => {
                self.open_transaction = message.body.first().is_some_and(|state| *state != b'I');
                return Ok(Next::Ready);
            }
            b'E' => {
                let said = wire::said(message.body);
                if self.why.is_none() {
                    self.output.event(&QueryEvent::Error(said.clone()));
                }
                // The first is the cause.
                self.error.get_or_insert(said);
            }
            _ if self.why.is_some() => {}
            b'T' => {
                self.of_result = 0;
                if !message.is_whole() {
                    return Err(wire::strange("a description of more columns than there can be"));
                }
                if let Err(broken) = self.output.columns(wire::columns(message.body)?) {
                    self.broken = Some(broken);
                    return Ok(Next::Cancel(Why::Form));
                }
            }
            b'D' => self.row(message)?,
            b'H' | b'c' if self.output.is_copied() => {}
            b'd' if self.output.is_copied() && message.is_whole() => self.output.piece(&message.body),
            b'd' if self.output.is_copied() => {
                return Err(wire::strange("a longer part of a file than there can be"));
            }
            b'N' => {
                self.notices += 1;
                if self.notices <= NOTICES {
                    self.output.event(&QueryEvent::Notice(wire::said(message.body)));
                }
            }
            b'C' => {
                let command = wire::command(message.body);
                if self.output.is_copied() {
                    self.rows =
                        command.strip_prefix("COPY ").and_then(|rows| rows.parse().ok()).unwrap_or_default();
                    self.shown = self.rows;
                }
                self.done(command);
            }
            b's' => self.done("SELECT".to_owned()),
            b'I' => self.done(String::new()),
            b'G' => {
                self.refuse("COPY FROM STDIN takes data that there is no way to give here; use INSERT, or psql by `stead sql`");
                return Ok(Next::Refuse);
            }
            b'H' | b'W' => {
                self.refuse("COPY TO STDOUT is not possible here; run the query itself, and export it");
                return Ok(Next::Cancel(Why::Copy));
            }
            _ => {}
        }
        Ok(Next::More)
    }

    fn row(&mut self, message: Message) -> io::Result<()> {
        self.rows += 1;
        self.of_result += 1;
        if self.shown >= self.limits.rows {
            return Ok(());
        }
        self.shown += 1;
        if message.is_whole() {
            self.output.row(&wire::row(message.body)?);
        } else {
            self.output.event(&QueryEvent::RowTooLong { bytes: message.length });
            let message = format!(
                "a row has {} bytes, and {} are the most; select less of it",
                message.length, self.limits.row
            );
            self.broken.get_or_insert(Broken { code: None, message });
        }
        Ok(())
    }

    fn done(&mut self, command: String) {
        self.output.event(&QueryEvent::Done { command, rows: std::mem::take(&mut self.of_result) });
    }

    /// In plain words instead of the server's.
    fn refuse(&mut self, why: &str) {
        let error = ServerMessage {
            severity: "ERROR".to_owned(),
            code: "0A000".to_owned(),
            message: why.to_owned(),
            ..ServerMessage::default()
        };
        self.output.event(&QueryEvent::Error(error.clone()));
        self.error.get_or_insert(error);
    }

    fn lost(&mut self, error: &io::Error) {
        let error = ServerMessage {
            severity: "FATAL".to_owned(),
            code: "08006".to_owned(),
            message: format!(
                "the session with the server was lost: {error}; what was not committed is undone"
            ),
            ..ServerMessage::default()
        };
        self.output.event(&QueryEvent::Error(error.clone()));
        self.error = Some(error);
    }

    fn ended(&self) -> (Ended, QuerySummary) {
        let end = match self.why {
            Some(Why::Asked | Why::Gone | Why::Stopping) => End::Cancelled,
            Some(Why::Time | Why::Bytes) => End::CutOff,
            Some(Why::Copy | Why::Form) => End::Failed,
            None if self.error.is_some() => End::Failed,
            None => End::Done,
        };
        let Limits { bytes, time, .. } = self.limits;
        let undone = "what it had changed and not committed is undone";
        let message = match self.why {
            Some(Why::Asked) => Some(format!("it was cancelled; {undone}")),
            Some(Why::Stopping) => Some(format!("the control plane stops, and it was cancelled; {undone}")),
            Some(Why::Time) => {
                Some(format!("it took longer than {} s and was cancelled; {undone}", time.as_secs_f32()))
            }
            Some(Why::Bytes) => Some(format!("it has more than {bytes} bytes and was cancelled; {undone}")),
            _ if self.open_transaction && self.error.is_none() => {
                Some("the transaction that it left open was rolled back; end the text with commit".to_owned())
            }
            _ => None,
        };
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let took = self.began.elapsed().as_millis();
        let ended = Ended {
            end,
            sqlstate: self.error.as_ref().map(|error| error.code.chars().take(5).collect()),
            duration_ms: i64::try_from(took).unwrap_or(i64::MAX),
            rows: number(self.rows),
            bytes: number(self.bytes),
        };
        let summary = QuerySummary {
            outcome: end.as_str().to_owned(),
            duration_ms: u64::try_from(took).unwrap_or(u64::MAX),
            rows: self.rows,
            rows_shown: self.shown,
            bytes: self.bytes,
            truncated: self.rows > self.shown,
            notices_left_out: self.notices.saturating_sub(NOTICES),
            message,
        };
        (ended, summary)
    }
}

/// What is left to be said.
pub(crate) struct LastWord {
    output: Output,
    error: Option<ServerMessage>,
    broken: Option<Broken>,
    summary: QuerySummary,
    to: mpsc::Sender<Result<Bytes, Broken>>,
}

impl LastWord {
    /// Says it, to whoever still listens.
    pub(crate) async fn say(mut self) {
        let is_file = self.output.is_file();
        let end = match self.broken.filter(|_| is_file) {
            Some(broken) => Err(broken),
            None => self.output.end(self.summary, self.error.as_ref()),
        };
        let until = Instant::now() + GRACE;
        // An export that breaks off may be taken for whole if nothing but its rows is sent.
        let (rest, whole) = (self.output.take(), !is_file || end.is_ok());
        if whole && !rest.is_empty() {
            let _ = timeout_at(until, self.to.send(Ok(rest))).await;
        }
        if let Err(broken) = end {
            let _ = timeout_at(until, self.to.send(Err(broken))).await;
        }
    }
}
