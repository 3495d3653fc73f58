//! A worker: one sandbox that runs one version of a function, one invocation at a time.
//!
//! What it does is a state, changed by three parties: the pool gives it work, its runtime speaks through the runtime
//! API, and its minder (`minder.rs`) sees time pass and processes end. Whoever takes the [`Job`] out of the state ends
//! the invocation, and nobody else can, so each has exactly one answer. Nobody waits while the state is locked.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use keeper::wire::Name;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::edition::Edition;
use crate::freezer::Groups;
use crate::hearing::{Line, Silence};
use crate::inspection::{Inspection, Reach};
use crate::invocation::{Answer, Call, Failure, Outcome, Piece, Refused};
use crate::names::Names;
use crate::output::{Closing, Output};
use crate::pool::Pool;

/// So many workers may end before they have read an invocation; then it has failed.
const UNREAD: usize = 2;

/// Where a finished call is told.
pub(crate) type Reply = oneshot::Sender<Result<Outcome, Refused>>;

/// An invocation that nobody has worked at yet.
pub(crate) struct Job {
    pub(crate) call: Call,
    pub(crate) reply: Reply,
    /// How many workers ended before they had read it.
    pub(crate) unread: usize,
}

/// An invocation that a worker has.
pub(crate) struct Running {
    call: Call,
    /// Tells this attempt from any other of the same request.
    nonce: String,
    reply: Option<Reply>,
    began: Instant,
    began_at: Timestamp,
    deadline: Instant,
    /// Where its answer goes piece by piece, once it has begun to.
    stream: Option<mpsc::Sender<Piece>>,
    /// The runtime has it; with the moment before it was sent, as long as nobody has heard of the runtime since.
    delivered: bool,
    sent: Option<Silence>,
    unread: usize,
}

/// What the runtime is told of an invocation.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) nonce: String,
    pub(crate) deadline_ms: i64,
    pub(crate) arn: String,
    pub(crate) trace: String,
    pub(crate) client_context: Option<String>,
    pub(crate) payload: Bytes,
}

/// Why a worker did not get ready.
#[derive(Debug, Clone)]
pub(crate) enum NotStarted {
    /// For a reason that lies in the function.
    Broken(Failure),
    /// It took too long.
    Late,
    /// For another reason.
    Unavailable(String),
}

/// What a worker does.
pub(crate) enum State {
    /// Its code is being loaded.
    Starting(Option<oneshot::Sender<Result<(), NotStarted>>>),
    /// It asked for an invocation; there is none.
    Resting { next: oneshot::Sender<Delivery>, line: Arc<Line>, since: Instant, frozen: bool },
    /// It has one.
    Working(Box<Running>),
    /// It has answered the last one, and not asked for another yet.
    Answered,
    /// There is no process any more, or soon there is none.
    Ended,
}

/// Why a request of the runtime's is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// 400: the id is not that of the invocation under way.
    RequestId,
    /// 403: not now.
    State(&'static str),
    /// 410: it speaks of an attempt that is over.
    Stale,
}

/// See above.
pub(crate) struct Worker {
    pub(crate) name: Name,
    pub(crate) edition: Arc<Edition>,
    pub(crate) pool: Weak<Pool>,
    pub(crate) groups: OnceLock<Groups>,
    pub(crate) names: Names,
    /// Wakes the minder.
    pub(crate) minder: Notify,
    pub(crate) output: Output,
    /// It is there for this one.
    inspection: Option<Arc<Inspection>>,
    /// The way to its inspector, where it has one.
    pub(crate) sockets: Reach,
    state: Mutex<State>,
    has_ended: watch::Sender<bool>,
    claimed: Instant,
    /// How long its start took; told in the log of its first invocation.
    init: Mutex<Option<Duration>>,
}

impl Worker {
    pub(crate) fn new(
        name: Name,
        edition: Arc<Edition>,
        pool: &Arc<Pool>,
        output: Output,
        started: oneshot::Sender<Result<(), NotStarted>>,
    ) -> Self {
        Self {
            name,
            edition,
            inspection: pool.inspection.clone(),
            sockets: Reach::default(),
            pool: Arc::downgrade(pool),
            groups: OnceLock::new(),
            names: Names::default(),
            minder: Notify::new(),
            output,
            state: Mutex::new(State::Starting(Some(started))),
            has_ended: watch::Sender::new(false),
            claimed: Instant::now(),
            init: Mutex::new(None),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it an invocation, unless it cannot take one.
    pub(crate) fn give(&self, job: Box<Job>) -> Result<(), Box<Job>> {
        let mut state = self.lock();
        let State::Resting { .. } = &*state else { return Err(job) };
        let mut running = Box::new(Running::new(*job, &self.edition));
        if let State::Resting { line, .. } = &*state {
            running.sent = Some(line.silence());
        }
        let delivery = running.delivery(&self.edition);
        self.output.begin(&running.call.id, running.began_at, running.call.tail);
        let State::Resting { next, frozen, .. } = std::mem::replace(&mut *state, State::Working(running))
        else {
            // Just looked at.
            return Ok(());
        };
        if frozen {
            if let Some(groups) = self.groups.get() {
                groups.thaw();
            }
            self.minder.notify_one();
        }
        if next.send(delivery).is_ok()
            && let State::Working(running) = &mut *state
        {
            // Else its connection has gone: it gets the invocation when it asks again.
            running.delivered = true;
        }
        Ok(())
    }

    /// The runtime asks for an invocation.
    pub(crate) fn next(self: &Arc<Self>, line: &Arc<Line>) -> Result<oneshot::Receiver<Delivery>, Wrong> {
        let (next, delivery) = oneshot::channel();
        let mut state = self.lock();
        let rested = match &mut *state {
            State::Working(running) if !running.delivered => {
                running.sent = Some(line.silence());
                running.delivered = next.send(running.delivery(&self.edition)).is_ok();
                return Ok(delivery);
            }
            State::Working(_) => return Err(Wrong::State("Running")),
            State::Ended => return Err(Wrong::State("Exited")),
            State::Starting(started) => {
                if let Some(started) = started.take() {
                    *self.init.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.claimed.elapsed());
                    let _ = started.send(Ok(()));
                }
                false
            }
            // Its connection broke, and it asks on another.
            State::Resting { .. } => false,
            State::Answered => true,
        };
        *state = State::Resting { next, line: line.clone(), since: Instant::now(), frozen: false };
        drop(state);
        if rested && let Some(pool) = self.pool.upgrade() {
            pool.rested(self);
        }
        Ok(delivery)
    }

    /// The code could not be loaded, as the runtime says.
    pub(crate) fn init_failed(&self, failure: Failure) -> Result<(), Wrong> {
        let mut state = self.lock();
        match &mut *state {
            State::Starting(started) => {
                if let Some(started) = started.take() {
                    let _ = started.send(Err(NotStarted::Broken(failure)));
                }
                Ok(())
            }
            _ => Err(Wrong::State("Initialised")),
        }
    }

    /// Whether an answer to this invocation may come now.
    pub(crate) fn may_answer(&self, id: &str, nonce: Option<&str>) -> Result<(), Wrong> {
        match &*self.lock() {
            State::Working(running) if running.call.id != id => Err(Wrong::RequestId),
            State::Working(running) if nonce.is_some_and(|nonce| nonce != running.nonce) => Err(Wrong::Stale),
            State::Working(running) if running.stream.is_some() || !running.delivered => {
                Err(Wrong::State("Responding"))
            }
            State::Working(_) => Ok(()),
            State::Answered | State::Resting { .. } | State::Starting(_) => Err(Wrong::RequestId),
            State::Ended => Err(Wrong::State("Exited")),
        }
    }

    /// The whole answer.
    pub(crate) fn answer(&self, id: &str, nonce: Option<&str>, answer: Answer) -> Result<Ending<'_>, Wrong> {
        self.may_answer(id, nonce)?;
        let mut running = self.take(id).ok_or(Wrong::RequestId)?;
        let failure = match &answer {
            Answer::Failed(failure) => Some(failure.clone()),
            Answer::Whole(_) | Answer::Streamed { .. } => None,
        };
        let closing = self.closing(&running, failure);
        Ok(self.conclude(&mut running, closing, answer))
    }

    /// Counts it, and tells the caller; the log when the [`Ending`] goes, or first where the caller wants to see it.
    fn conclude(&self, running: &mut Running, closing: Closing, answer: Answer) -> Ending<'_> {
        self.count(&closing);
        crate::fail_point!("functions::usage.counted");
        let mut ending = Ending { worker: self, closing: Some(closing) };
        let Some(reply) = running.reply.take() else { return ending };
        let tail = running.call.tail.then(|| ending.write());
        let _ = reply.send(Ok(Outcome { answer, tail, version: self.edition.number }));
        ending
    }

    /// The answer begins and comes in pieces.
    pub(crate) fn begin_stream(
        &self,
        id: &str,
        nonce: Option<&str>,
        content_type: String,
    ) -> Result<mpsc::Sender<Piece>, Wrong> {
        self.may_answer(id, nonce)?;
        let mut state = self.lock();
        let State::Working(running) = &mut *state else { return Err(Wrong::RequestId) };
        let (pieces, body) = mpsc::channel(16);
        running.stream = Some(pieces.clone());
        if let Some(reply) = running.reply.take() {
            let answer = Answer::Streamed { content_type, body };
            let _ = reply.send(Ok(Outcome { answer, tail: None, version: self.edition.number }));
        }
        Ok(pieces)
    }

    /// The last piece has come, or none will.
    pub(crate) fn end_stream(&self, id: &str, failure: Option<Failure>) {
        let Some(running) = self.take(id) else { return };
        let closing = self.closing(&running, failure.clone());
        self.count(&closing);
        if let Some(pieces) = running.stream {
            // A reader that is slow has a full channel; it must not make the worker wait.
            tokio::spawn(async move { drop(pieces.send(Piece::End(failure)).await) });
        }
        self.close(closing);
    }

    /// From now on it is no more; what it did until now.
    pub(crate) fn end(&self) -> State {
        let state = std::mem::replace(&mut *self.lock(), State::Ended);
        self.has_ended.send_replace(true);
        self.minder.notify_one();
        state
    }

    /// Waits until it is no more.
    pub(crate) async fn ended(&self) {
        let mut ended = self.has_ended.subscribe();
        // The sender is a part of this worker.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// The worker is lost: ends what it was doing.
    pub(crate) fn lost(&self, why: impl FnOnce(Option<&str>) -> Failure) {
        match self.end() {
            State::Starting(Some(started)) => {
                let _ = started.send(Err(NotStarted::Broken(why(None))));
            }
            State::Working(mut running) => {
                let failure = why(Some(&running.call.id));
                let closing = self.closing(&running, Some(failure.clone()));
                match running.stream.take() {
                    Some(pieces) => {
                        let end = Piece::End(Some(failure));
                        self.count(&closing);
                        tokio::spawn(async move { drop(pieces.send(end).await) });
                        self.close(closing);
                    }
                    None => drop(self.conclude(&mut running, closing, Answer::Failed(failure))),
                }
            }
            State::Starting(None) | State::Resting { .. } | State::Answered | State::Ended => {}
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.gone(self);
        }
    }

    /// The runtime said something.
    pub(crate) fn lives(&self) {
        if let State::Working(running) = &mut *self.lock() {
            running.sent = None;
        }
    }

    /// Its processes are no more, and were killed: the invocation that it had goes to another worker if it cannot have
    /// read it.
    pub(crate) fn hand_back(&self) {
        let job = {
            let mut state = self.lock();
            let is_unread = |running: &Running| {
                running.unread < UNREAD && running.sent.as_ref().is_some_and(Silence::was_not_heard)
            };
            match std::mem::replace(&mut *state, State::Ended) {
                State::Working(running) if is_unread(&running) => running.into_job(),
                other => {
                    *state = other;
                    None
                }
            }
        };
        if let (Some(job), Some(pool)) = (job, self.pool.upgrade()) {
            pool.again(job);
        }
    }

    /// Whether it is no more.
    pub(crate) fn has_ended(&self) -> bool {
        *self.has_ended.borrow()
    }

    /// Somebody may look at it at any moment.
    pub(crate) fn is_inspected(&self) -> bool {
        self.inspection.as_ref().is_some_and(|inspection| inspection.ended_at().is_none())
    }

    /// The invocation's deadline, where it has one: none while somebody looks, and a whole one after that.
    pub(crate) fn deadline(&self) -> Option<(Instant, Instant)> {
        let resumed = match &self.inspection {
            Some(inspection) => Some(inspection.ended_at()?),
            None => None,
        };
        match &*self.lock() {
            State::Working(running) => match resumed {
                Some(resumed) if resumed > running.began => Some((resumed, resumed + self.edition.timeout())),
                _ => Some((running.began, running.deadline)),
            },
            _ => None,
        }
    }

    fn take(&self, id: &str) -> Option<Box<Running>> {
        let mut state = self.lock();
        match &*state {
            State::Working(running) if running.call.id == id => {}
            _ => return None,
        }
        match std::mem::replace(&mut *state, State::Answered) {
            State::Working(running) => Some(running),
            _ => None,
        }
    }

    fn closing(&self, running: &Running, failure: Option<Failure>) -> Closing {
        Closing {
            id: running.call.id.clone(),
            duration: running.began.elapsed(),
            init: self.init.lock().unwrap_or_else(PoisonError::into_inner).take(),
            failure,
        }
    }

    /// Writes the end of an invocation's log; answers with the end of that, where somebody wants it.
    fn close(&self, closing: Closing) -> Vec<u8> {
        self.output.close(closing, self.groups.get().and_then(Groups::memory_peak))
    }

    /// Before anybody is told the end of an invocation, it is counted.
    fn count(&self, closing: &Closing) {
        if let Some(pool) = self.pool.upgrade() {
            pool.count(closing);
        }
    }
}

/// The end of an invocation's log, which is still to be written: at the latest when this goes.
pub(crate) struct Ending<'w> {
    worker: &'w Worker,
    closing: Option<Closing>,
}

impl Ending<'_> {
    /// The end of the log, as the caller may see it.
    fn write(&mut self) -> Vec<u8> {
        self.closing.take().map(|closing| self.worker.close(closing)).unwrap_or_default()
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.write();
    }
}

impl Running {
    fn new(job: Job, edition: &Edition) -> Self {
        let began = Instant::now();
        let Job { call, reply, unread } = job;
        Self {
            nonce: uuid::Uuid::new_v4().to_string(),
            reply: Some(reply),
            began,
            began_at: Timestamp::now(),
            deadline: began + edition.timeout(),
            stream: None,
            delivered: false,
            sent: None,
            unread,
            call,
        }
    }

    /// As it was before anybody had it; nothing where its answer has begun.
    fn into_job(self) -> Option<Box<Job>> {
        let Self { call, reply, unread, .. } = self;
        reply.map(|reply| Box::new(Job { call, reply, unread: unread + 1 }))
    }

    fn delivery(&self, edition: &Edition) -> Delivery {
        let timeout = i64::try_from(edition.version.timeout_ms).unwrap_or(i64::MAX);
        Delivery {
            id: self.call.id.clone(),
            nonce: self.nonce.clone(),
            deadline_ms: self.began_at.as_millisecond().saturating_add(timeout),
            arn: edition.arn(self.call.qualifier),
            trace: self.call.trace.clone(),
            client_context: self.call.client_context.clone(),
            payload: self.call.payload.clone(),
        }
    }
}
