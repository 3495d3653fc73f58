//! The end of a statement that somebody cancels, or that works for too long.
//!
//! Rows are made while they are sent, so a statement can be ended at each of them. What counts against its time is the
//! work alone: a client may read as slowly as it likes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use pgwire::api::results::QueryResponse;
use pgwire::error::PgWireResult;
use pgwire::messages::startup::SecretKey;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::refusal::{self, Refusal};

/// The secret of a session, and what tells it to end what it does.
type Known = (SecretKey, Arc<watch::Sender<u64>>);

/// Who may cancel what: the sessions by the number and the secret that their clients were told.
#[derive(Default)]
pub(crate) struct Cancels {
    sessions: Mutex<HashMap<i32, Known>>,
}

impl Cancels {
    pub(crate) fn enter(&self, pid: i32, secret: SecretKey, bell: Arc<watch::Sender<u64>>) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, (secret, bell));
    }

    pub(crate) fn leave(&self, pid: i32) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }

    /// Ends what the session is doing; nothing where it does nothing, or the secret is another.
    pub(crate) fn cancel(&self, pid: i32, secret: &SecretKey) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((right, bell)) = sessions.get(&pid)
            && right.eq_value(secret)
        {
            bell.send_modify(|rung| *rung += 1);
        }
    }
}

/// A statement's work.
#[derive(Clone)]
pub(crate) struct Work {
    cancelled: watch::Receiver<u64>,
    left: Duration,
}

impl Work {
    /// Begins now: what was cancelled before is not this.
    pub(crate) fn new(bell: &watch::Sender<u64>, time: Duration) -> Self {
        Self { cancelled: bell.subscribe(), left: time }
    }

    /// Does a part of it.
    pub(crate) async fn run<T>(&mut self, part: impl Future<Output = T>) -> PgWireResult<T> {
        let started = Instant::now();
        let done = tokio::select! {
            biased;
            // The session keeps the other end.
            Ok(()) = self.cancelled.changed() => Err(refusal::plain(Refusal::Cancelled)),
            () = sleep(self.left) => Err(refusal::plain(Refusal::TimedOut)),
            done = part => Ok(done),
        };
        self.left = self.left.saturating_sub(started.elapsed());
        done
    }

    fn check(&self) -> PgWireResult<()> {
        if self.cancelled.has_changed().unwrap_or_default() {
            return Err(refusal::plain(Refusal::Cancelled));
        }
        if self.left.is_zero() {
            return Err(refusal::plain(Refusal::TimedOut));
        }
        Ok(())
    }

    /// Does a part of it that waits for nothing: no timer for each row of a batch that is there.
    pub(crate) fn step<T>(&mut self, part: impl FnOnce() -> T) -> PgWireResult<T> {
        let started = Instant::now();
        let done = part();
        self.left = self.left.saturating_sub(started.elapsed());
        self.check()?;
        Ok(done)
    }

    /// An answer whose rows are made as a part of it.
    pub(crate) fn guard(self, answer: QueryResponse) -> QueryResponse {
        let tag = answer.command_tag().to_owned();
        let fields = answer.row_schema();
        let rows = stream::try_unfold((answer.data_rows, self), |(mut rows, mut work)| async move {
            let row = match work.step(|| rows.next().now_or_never())? {
                Some(row) => row,
                None => work.run(rows.next()).await?,
            };
            Ok(row.transpose()?.map(|row| (row, (rows, work))))
        });
        let mut answer = QueryResponse::new(fields, rows);
        answer.set_command_tag(&tag);
        answer
    }
}
