//! What a door tells the sessions behind it, and how one hears it without paying for it.
//!
//! A session looks for orders each time that it wakes up to copy, so that looking must cost next to nothing:
//! one number is read. The order itself stands with the door, which changes it for all sessions at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::hold::Because;
use crate::refusal::Ending;

/// What a session is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Go,
    /// Say at the next rest what it holds, and go on.
    Ask,
    /// Come to rest, and say so.
    Rest,
    /// Leave the server; whoever cannot, ends.
    Park {
        /// What happens to the server, for those who end.
        because: Because,
    },
    /// End.
    End(Ending),
}

/// How a session stands to its orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It uses its server.
    Busy,
    /// It does, and has been asked what it holds.
    Asked,
    /// It does not until it is told to go on.
    Resting,
    /// It has no server.
    Parked,
    /// It has no server and will have none; its client is being told.
    Leaving,
}

/// Rings when there is a new order.
#[derive(Default)]
pub(crate) struct Bell {
    rung: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// There is a new order.
    pub(crate) fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Release);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// A session's side of its bell.
pub(crate) struct Ear {
    bell: Arc<Bell>,
    heard: u32,
    waker: Option<Waker>,
}

impl Ear {
    /// Hears what rings from now on.
    pub(crate) fn new(bell: Arc<Bell>) -> Ear {
        Ear { heard: bell.rung.load(Ordering::Acquire), bell, waker: None }
    }

    /// Ready once for each time that it rang, or for several.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            *self.bell.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        // After the waker is in place: what rings from here on wakes.
        let rung = self.bell.rung.load(Ordering::Acquire);
        if rung == self.heard {
            return Poll::Pending;
        }
        self.heard = rung;
        Poll::Ready(())
    }
}
