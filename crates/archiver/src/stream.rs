//! The write-ahead log as it is written: streamed from the server, stored piece by piece, and let go of by the server
//! once it is stored.
//!
//! A physical slot keeps the log at the server until a piece of it is stored; nothing is kept on the host's disk in
//! between, and whoever is killed goes on where the slot is. The recovery point is the age at which a piece is
//! stored however small it is.
//!
//! A quiet server is followed message by message. A busy one is left alone for as long as its log may wait, and what it
//! wrote meanwhile is fetched in one go; what it writes between the last time and its stop is stored when it runs
//! again. Whoever is going to stop one asks for a flush first: then it is followed, and nothing is left.
//!
//! A server that is being stopped waits until its log has *come*, which takes no longer than the socket, and not
//! until it is *stored*, which may take as long as a store is slow: while nothing new is stored, confirmations name no
//! stored position at all, and PostgreSQL then goes by the received one.

use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::OptionFuture;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::archive::{PIECE_BYTES, Piece};
use crate::replication::{Failed, Message, Session};
use crate::seal::Sealer;
use crate::{ArchiveId, Error, Lsn, Objects, fail_point};

/// The slot that keeps the log at the server.
pub(crate) const SLOT: &str = "stead_archive";
/// With so much waiting to be stored nothing more is read.
const FULL: usize = 4 * PIECE_BYTES;
/// A server whose log could not be read for so long is let go of: it must be able to stop.
const STUCK: Duration = Duration::from_secs(5);
/// A server that sends more messages a second is busy. To follow each commit as it is flushed takes a fifth of a busy
/// server's transactions (its walsender wakes for each); so it is left alone, and what it wrote is fetched in one go.
const BUSY: u32 = 50;
/// One that wrote less than this while it was left alone is followed again.
const QUIET: u64 = 64 * 1024;
/// How long a server of which somebody wanted what is written is followed, however busy it is.
const FOLLOWED: Duration = Duration::from_secs(10);
/// Between two confirmations that nothing else asks for.
const CONFIRM: Duration = Duration::from_secs(10);

/// What a server says to sessions that are in the way of its stop.
const STOPPED: &str = "57P01";

/// What the stream tells while it goes on.
pub(crate) trait Watch: Send + Sync {
    /// Log has come up to here, and the server has written up to there.
    fn came(&self, received: Lsn, written: Lsn);
    /// A piece is stored.
    fn stored(&self, piece: &Piece, bytes: u64);
    /// Up to where somebody waits for the log to be stored.
    fn wanted(&self) -> Lsn;
}

/// A stream from one server.
pub(crate) struct Stream<'a, W> {
    pub(crate) session: Session,
    pub(crate) objects: &'a Objects,
    pub(crate) archive: ArchiveId,
    pub(crate) timeline: u32,
    pub(crate) sealer: &'a Sealer,
    /// How old the first byte of a piece may become.
    pub(crate) age: Duration,
    /// Somebody has begun to wait.
    pub(crate) flush: &'a Notify,
    /// Until then it is not left alone.
    pub(crate) followed_until: Option<Instant>,
    pub(crate) watch: &'a W,
}

/// What has come and is not stored.
struct Waiting {
    bytes: Vec<u8>,
    from: Lsn,
    /// When its first byte came.
    since: Option<Instant>,
    /// When its last byte came.
    last: Timestamp,
}

impl Waiting {
    fn to(&self) -> Lsn {
        self.from.plus(self.bytes.len() as u64)
    }

    fn is_due(&self, age: Duration) -> bool {
        self.bytes.len() >= PIECE_BYTES || self.since.is_some_and(|since| since.elapsed() >= age)
    }

    /// Takes a piece, all of it or as much as a piece has.
    fn take(&mut self) -> (Piece, Vec<u8>) {
        let rest = self.bytes.split_off(self.bytes.len().min(PIECE_BYTES));
        let bytes = std::mem::replace(&mut self.bytes, rest);
        let piece = Piece { from: self.from, to: self.from.plus(bytes.len() as u64), at: self.last };
        self.from = piece.to;
        if self.bytes.is_empty() {
            self.since = None;
            // A busy moment must not leave a buffer with an idle server.
            self.bytes = Vec::new();
        }
        (piece, bytes)
    }
}

type Storing = JoinHandle<Result<(Piece, u64), Error>>;

/// How a stretch of streaming ended.
enum Stretch {
    /// The server stopped, in order.
    Ended,
    /// It goes on, and streams no more for now.
    Paused,
    /// It is being stopped, and was not streaming just then.
    Gone,
}

/// How leaving the server alone ended.
enum Alone {
    /// What it wrote meanwhile is due.
    Due,
    /// Somebody wants it now.
    Wanted,
    /// It ended the session.
    Gone,
}

impl<W: Watch> Stream<'_, W> {
    /// Keeps up with the log from a position on until the server ends the session: true where it has stopped in order,
    /// so that all it ever wrote is stored.
    pub(crate) async fn run(mut self, from: Lsn) -> Result<bool, Error> {
        let mut waiting = Waiting { bytes: Vec::new(), from, since: None, last: Timestamp::now() };
        // Where a server that is busy is followed to before it is left alone again.
        let mut goal = None;
        loop {
            let began = waiting.to();
            let ended = self.stretch(&mut waiting, goal).await;
            // What has come is stored whatever became of the server.
            while !waiting.bytes.is_empty() {
                let stored = self.store(&mut waiting).await;
                self.finished(stored)?;
            }
            match ended? {
                Stretch::Ended => return Ok(true),
                Stretch::Gone => return Ok(false),
                Stretch::Paused => {}
            }
            if goal.take().is_some() && waiting.to().since(began) < QUIET {
                continue;
            }
            match self.alone().await {
                Alone::Due => {
                    let written = self.session.identify().await?.flushed;
                    self.watch.came(waiting.to(), written);
                    goal = Some(written);
                }
                Alone::Wanted => self.follow(),
                Alone::Gone => return Ok(false),
            }
        }
    }

    /// Streams up to a goal; without one until the server has too much to say.
    async fn stretch(&mut self, waiting: &mut Waiting, goal: Option<Lsn>) -> Result<Stretch, Error> {
        self.session.start_streaming(SLOT, waiting.to(), self.timeline).await?;
        self.confirmed(waiting, waiting.from).await?;
        let mut storing: Option<Storing> = None;
        let mut full_since: Option<Instant> = None;
        let (mut second, mut messages) = (Instant::now(), 0);
        let mut confirm = interval(CONFIRM);
        let mut look = interval(self.age.min(Duration::from_secs(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = 'stream: loop {
            let due = waiting.from < self.watch.wanted() || waiting.is_due(self.age);
            if storing.is_none() && !waiting.bytes.is_empty() && due {
                storing = Some(self.store(waiting));
            }
            let full = waiting.bytes.len() >= FULL;
            full_since = if full { full_since.or(Some(Instant::now())) } else { None };
            if full_since.is_some_and(|since| since.elapsed() > STUCK) {
                break Err(Error::Slow);
            }
            let enough = match goal {
                Some(goal) => waiting.to() >= goal,
                None => messages >= BUSY && self.followed_until.is_none_or(|until| until <= Instant::now()),
            };
            if enough {
                break self.stop(waiting).await;
            }
            if second.elapsed() >= Duration::from_secs(1) {
                (second, messages) = (Instant::now(), 0);
            }
            tokio::select! {
                Some(stored) = OptionFuture::from(storing.as_mut()) => {
                    storing = None;
                    let piece = self.finished(stored)?;
                    self.confirmed(waiting, piece.to).await?;
                }
                message = self.session.next(), if !full => match message {
                    Ok(message) => {
                        let mut next = Some(message);
                        // What has come with it costs no further look at the socket.
                        while let Some(message) = next {
                            if !self.take(message, waiting).await? {
                                break 'stream Ok(Stretch::Ended);
                            }
                            messages += 1;
                            next = self.session.parsed()?;
                        }
                    }
                    Err(error) => break Err(error.into()),
                },
                () = self.flush.notified() => self.follow(),
                _ = confirm.tick() => self.session.confirm(waiting.to(), None).await?,
                _ = look.tick() => {}
            }
        };
        if let Some(storing) = storing {
            self.finished(storing.await)?;
        }
        ended
    }

    /// Somebody wants all that is written by now, and may be about to stop the server: it is not left alone for a while.
    fn follow(&mut self) {
        self.followed_until = Some(Instant::now() + FOLLOWED);
    }

    /// Lets go of what is stored, and lets the server stop on what has come.
    async fn confirmed(&mut self, waiting: &Waiting, stored: Lsn) -> Result<(), Error> {
        self.session.confirm(waiting.to(), Some(stored)).await?;
        Ok(self.session.confirm(waiting.to(), None).await?)
    }

    /// Has the server stop streaming, and takes what was on its way.
    async fn stop(&mut self, waiting: &mut Waiting) -> Result<Stretch, Error> {
        self.session.stop_streaming().await?;
        loop {
            match self.session.next().await {
                Ok(Message { tag: b'Z', .. }) => return Ok(Stretch::Paused),
                Ok(message @ Message { tag: b'd', .. }) => drop(self.take(message, waiting).await?),
                // Ends of the stream and of the command.
                Ok(_) => {}
                Err(Failed::Server { code, .. }) if code == STOPPED => return Ok(Stretch::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Leaves the server alone for as long as its log may wait.
    async fn alone(&mut self) -> Alone {
        tokio::select! {
            () = sleep(self.age) => Alone::Due,
            () = self.flush.notified() => Alone::Wanted,
            // Between commands it says nothing but that it ends.
            _ = self.session.next() => Alone::Gone,
        }
    }

    fn store(&self, waiting: &mut Waiting) -> Storing {
        let (piece, plain) = waiting.take();
        let (objects, sealer) = (self.objects.clone(), self.sealer.clone());
        let name = self.archive.object(&format!("{}/{}", Piece::folder(self.timeline), piece.name()));
        tokio::spawn(async move {
            let sealed = tokio::task::spawn_blocking(move || sealer.seal(&headed(&piece, &plain))).await;
            let sealed = sealed.map_err(|error| std::io::Error::other(error.to_string()))??;
            let bytes = sealed.len() as u64;
            objects.put(&name, sealed.into()).await?;
            Ok((piece, bytes))
        })
    }

    fn finished(
        &self,
        stored: Result<Result<(Piece, u64), Error>, tokio::task::JoinError>,
    ) -> Result<Piece, Error> {
        let (piece, bytes) = stored.map_err(|error| std::io::Error::other(error.to_string()))??;
        fail_point!("archiver::piece-stored");
        self.watch.stored(&piece, bytes);
        Ok(piece)
    }

    /// Takes a message; false when the server is done.
    async fn take(&mut self, message: Message, waiting: &mut Waiting) -> Result<bool, Error> {
        let mut body = message.body;
        match message.tag {
            b'd' => {}
            b'c' | b'C' => return Ok(false),
            _ => return Err(Failed::Strange("START_REPLICATION").into()),
        }
        match log_message(&mut body)? {
            Log::Data { from, written } => {
                if from != waiting.to() {
                    return Err(Failed::Strange("a part of the log is missing").into());
                }
                waiting.since.get_or_insert_with(Instant::now);
                waiting.last = Timestamp::now();
                waiting.bytes.extend_from_slice(&body);
                self.watch.came(waiting.to(), written);
            }
            Log::Alive { written, answer } => {
                self.watch.came(waiting.to(), written);
                if answer {
                    self.session.confirm(waiting.to(), None).await?;
                }
            }
        }
        Ok(true)
    }
}

enum Log {
    /// What is left of the message is log.
    Data {
        from: Lsn,
        written: Lsn,
    },
    Alive {
        written: Lsn,
        answer: bool,
    },
}

fn log_message(body: &mut Bytes) -> Result<Log, Failed> {
    let kind = body.first().copied();
    match kind {
        Some(b'w') if body.len() >= 25 => {
            body.advance(1);
            let (from, written) = (Lsn(body.get_u64()), Lsn(body.get_u64()));
            body.advance(8);
            Ok(Log::Data { from, written: written.max(from) })
        }
        Some(b'k') if body.len() >= 18 => {
            body.advance(1);
            let written = Lsn(body.get_u64());
            body.advance(8);
            Ok(Log::Alive { written, answer: body.get_u8() != 0 })
        }
        _ => Err(Failed::Strange("START_REPLICATION")),
    }
}

/// Sealed with the log is where it belongs, so that an object under another's name is found out.
pub(crate) fn headed(piece: &Piece, plain: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(plain.len() + 16);
    whole.extend_from_slice(&piece.from.0.to_be_bytes());
    whole.extend_from_slice(&piece.to.0.to_be_bytes());
    whole.extend_from_slice(plain);
    whole
}

/// The log of a piece; `None` where it is another's.
pub(crate) fn beheaded(piece: &Piece, mut whole: Vec<u8>) -> Option<Vec<u8>> {
    let head = [piece.from.0.to_be_bytes(), piece.to.0.to_be_bytes()].concat();
    let fits = whole.starts_with(&head) && (whole.len() - head.len()) as u64 == piece.to.since(piece.from);
    fits.then(|| whole.split_off(head.len()))
}
