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
    /// The piece before it, while it is being stored.
    storing: Option<Storing>,
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
    pub(crate) async fn run(mut self, mut session: Session, from: Lsn) -> Result<bool, Error> {
        let mut waiting =
            Waiting { bytes: Vec::new(), from, since: None, last: Timestamp::now(), storing: None };
        let ended = self.keep_up(&mut session, &mut waiting).await;
        // Nobody reads any more, and a server that wants to stop must not wait for that.
        drop(session);
        // What has come is stored whatever became of the server.
        self.store_rest(&mut waiting).await?;
        ended
    }

    async fn keep_up(&mut self, session: &mut Session, waiting: &mut Waiting) -> Result<bool, Error> {
        // Where a server that is busy is followed to before it is left alone again.
        let mut goal = None;
        loop {
            let began = waiting.to();
            match self.stretch(session, waiting, goal).await? {
                Stretch::Ended => return Ok(true),
                Stretch::Gone => return Ok(false),
                Stretch::Paused => self.store_rest(waiting).await?,
            }
            if goal.take().is_some() && waiting.to().since(began) < QUIET {
                continue;
            }
            match self.alone(session).await {
                Alone::Due => match session.identify().await {
                    Ok(system) => {
                        self.watch.came(waiting.to(), system.flushed);
                        goal = Some(system.flushed);
                    }
                    Err(error) if error.is_leaving() => return Ok(false),
                    Err(error) => return Err(error.into()),
                },
                Alone::Wanted => self.follow(),
                Alone::Gone => return Ok(false),
            }
        }
    }

    /// Streams up to a goal; without one until the server has too much to say.
    async fn stretch(
        &mut self,
        session: &mut Session,
        waiting: &mut Waiting,
        goal: Option<Lsn>,
    ) -> Result<Stretch, Error> {
        match session.start_streaming(SLOT, waiting.to(), self.timeline).await {
            Err(error) if error.is_leaving() => return Ok(Stretch::Gone),
            started => started?,
        }
        confirmed(session, waiting, waiting.from).await?;
        let mut full_since: Option<Instant> = None;
        let (mut second, mut messages) = (Instant::now(), 0);
        let mut confirm = interval(CONFIRM);
        let mut look = interval(self.age.min(Duration::from_secs(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = self.watch.wanted();
            let due = waiting.from < wanted || waiting.is_due(self.age);
            if waiting.storing.is_none() && !waiting.bytes.is_empty() && due {
                waiting.storing = Some(self.store(waiting));
            }
            let full = waiting.bytes.len() >= FULL;
            full_since = if full { full_since.or(Some(Instant::now())) } else { None };
            if full_since.is_some_and(|since| since.elapsed() > STUCK) {
                return Err(Error::Slow);
            }
            let followed = self.followed_until.is_some_and(|until| until > Instant::now());
            let enough = goal.map_or(messages >= BUSY, |goal| waiting.to() >= goal);
            if enough && !followed && waiting.to() >= wanted {
                return self.stop(session, waiting).await;
            }
            if second.elapsed() >= Duration::from_secs(1) {
                (second, messages) = (Instant::now(), 0);
            }
            tokio::select! {
                Some(stored) = OptionFuture::from(waiting.storing.as_mut()) => {
                    waiting.storing = None;
                    let piece = self.finished(waiting, stored)?;
                    confirmed(session, waiting, piece.to).await?;
                }
                message = session.next(), if !full => {
                    let mut next = Some(message?);
                    // What has come with it costs no further look at the socket.
                    while let Some(message) = next {
                        if !self.take(session, message, waiting).await? {
                            return Ok(Stretch::Ended);
                        }
                        messages += 1;
                        next = session.parsed()?;
                    }
                }
                () = self.flush.notified() => self.follow(),
                _ = confirm.tick() => session.confirm(waiting.to(), None).await?,
                _ = look.tick() => {}
            }
        }
    }

    /// Somebody wants all that is written by now, and may be about to stop the server: it is not left alone for a while.
    fn follow(&mut self) {
        self.followed_until = Some(Instant::now() + FOLLOWED);
    }

    /// Has the server stop streaming, and takes what was on its way.
    async fn stop(&self, session: &mut Session, waiting: &mut Waiting) -> Result<Stretch, Error> {
        session.stop_streaming().await?;
        loop {
            match session.next().await {
                Ok(Message { tag: b'Z', .. }) => return Ok(Stretch::Paused),
                Ok(message @ Message { tag: b'd', .. }) => {
                    self.take(session, message, waiting).await?;
                }
                // Ends of the stream and of the command.
                Ok(_) => {}
                Err(error) if error.is_leaving() => return Ok(Stretch::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Leaves the server alone for as long as its log may wait.
    async fn alone(&self, session: &mut Session) -> Alone {
        tokio::select! {
            () = sleep(self.age) => Alone::Due,
            () = self.flush.notified() => Alone::Wanted,
            // Between commands it says nothing but that it ends.
            _ = session.next() => Alone::Gone,
        }
    }

    /// Stores all that has come.
    async fn store_rest(&self, waiting: &mut Waiting) -> Result<(), Error> {
        loop {
            if let Some(storing) = waiting.storing.take() {
                let stored = storing.await;
                self.finished(waiting, stored)?;
            }
            if waiting.bytes.is_empty() {
                return Ok(());
            }
            waiting.storing = Some(self.store(waiting));
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

    /// Takes note of a piece that is stored. Of what comes after one that could not be nothing is stored either: that
    /// would let go of the slot, which has all of it still, and leave a hole.
    fn finished(
        &self,
        waiting: &mut Waiting,
        stored: Result<Result<(Piece, u64), Error>, tokio::task::JoinError>,
    ) -> Result<Piece, Error> {
        match stored.map_err(|error| std::io::Error::other(error.to_string()).into()).flatten() {
            Ok((piece, bytes)) => {
                fail_point!("archiver::piece-stored");
                self.watch.stored(&piece, bytes);
                Ok(piece)
            }
            Err(error) => {
                waiting.bytes.clear();
                Err(error)
            }
        }
    }

    /// Takes a message; false when the server is done.
    async fn take(
        &self,
        session: &mut Session,
        message: Message,
        waiting: &mut Waiting,
    ) -> Result<bool, Error> {
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
                    session.confirm(waiting.to(), None).await?;
                }
            }
        }
        Ok(true)
    }
}

/// Lets go of what is stored, and lets the server stop on what has come.
async fn confirmed(session: &mut Session, waiting: &Waiting, stored: Lsn) -> Result<(), Error> {
    session.confirm(waiting.to(), Some(stored)).await?;
    Ok(session.confirm(waiting.to(), None).await?)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::Location;
    use crate::seal::new_key;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Piece>>);

    impl Watch for Seen {
        fn came(&self, _received: Lsn, _written: Lsn) {}

        fn stored(&self, piece: &Piece, _bytes: u64) {
            self.0.lock().unwrap().push(*piece);
        }

        fn wanted(&self) -> Lsn {
            Lsn(0)
        }
    }

    #[tokio::test]
    async fn nothing_is_stored_behind_a_piece_that_could_not_be() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::parse(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
        let (objects, archive) = (Objects::open(&location).unwrap(), ArchiveId::random());
        let sealer = Sealer::parse(&new_key().0).unwrap();
        let (flush, seen) = (Notify::new(), Seen::default());
        let stream = Stream {
            objects: &objects,
            archive,
            timeline: 1,
            sealer: &sealer,
            age: Duration::from_secs(5),
            flush: &flush,
            followed_until: None,
            watch: &seen,
        };
        let come = || Waiting {
            bytes: vec![7; PIECE_BYTES + 1_000],
            from: Lsn(100),
            since: Some(Instant::now()),
            last: Timestamp::now(),
            storing: None,
        };
        // A store that does not take the first piece, and would take the second.
        let obstacle = folder.path().join(archive.object("wal"));
        std::fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
        std::fs::write(&obstacle, "").unwrap();
        let mut waiting = come();
        let stored = stream.store(&mut waiting).await;
        assert!(stream.finished(&mut waiting, stored).is_err());
        std::fs::remove_file(&obstacle).unwrap();
        stream.store_rest(&mut waiting).await.unwrap();
        assert_eq!(objects.list(&archive.object("wal"), None).await.unwrap(), []);
        assert!(seen.0.lock().unwrap().is_empty());
        // One that takes them has them in order.
        stream.store_rest(&mut come()).await.unwrap();
        let pieces: Vec<_> = seen.0.lock().unwrap().iter().map(|piece| (piece.from.0, piece.to.0)).collect();
        let end = 100 + PIECE_BYTES as u64;
        assert_eq!(pieces, [(100, end), (end, end + 1_000)]);
        assert_eq!(objects.list(&archive.object("wal"), None).await.unwrap().len(), 2);
    }
}
