//! Hold: sessions rest, and new ones wait, while the server behind the door is switched.
//!
//! 1. Each session is asked what it holds (`carry.rs`) as its transaction ends, and goes on. Nobody waits yet:
//!    this is for the third step, in which those that said nothing since need not be asked, and the others
//!    answer in half the time.
//! 2. New clients wait before they sign in to the server; sessions come to rest, each as its transaction ends.
//! 3. When all rest and have said what they hold, they leave the server, with what they need to go on
//!    elsewhere. Those that hold what cannot be carried end. Then nobody uses the server but Stead.
//! 4. On release they go on, at whatever server the route leads to then.
//!
//! Until they leave, giving up costs nobody anything: sessions go on where they were. A transaction that
//! does not end in time has the hold give up, or else (`insist`) is ended itself, so that a session that is
//! idle in a transaction cannot keep a server from being moved. **The deadline is the gateway's own**: when it
//! passes sessions go on, whether or not the one who asked for the hold still lives.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::door::{Door, Seats};
use crate::fail_point;
use crate::orders::{Order, Standing};
use crate::refusal::Ending;
use crate::route::Hold;

/// What happens to a server while it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Because {
    /// It is moved.
    Moved,
    /// It falls asleep.
    Asleep,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Because::Moved => "is moved",
            Because::Asleep => "falls asleep",
        })
    }
}

/// The longest that anybody may hold, and the longest that sessions may be waited for.
const LONGEST: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30));
/// Of the patience, the part that sessions have for their first word on what they hold, while nobody waits.
const AHEAD: f64 = 0.5;
/// Sessions that end say so to their clients; one that does not listen is not waited for.
const FAREWELL: Duration = Duration::from_millis(500);

/// How a hold is to be.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// What happens to the server.
    pub(crate) because: Because,
    /// How long transactions may take to end.
    pub(crate) patience: Duration,
    /// How long it may last altogether.
    pub(crate) deadline: Duration,
    /// Transactions that do not end in time are ended, rather than the hold given up.
    pub(crate) insist: bool,
}

/// What a hold came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parked {
    /// Sessions that go on when it is released.
    pub(crate) parked: u32,
    /// Sessions that were ended.
    pub(crate) ended: u32,
}

/// Why there is no hold. Nobody was harmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Busy {
    /// There is one.
    #[error("the server is held already")]
    Held,
    /// New sessions are just beginning, or somebody else is about to hold it.
    #[error("clients were still signing in after {0} ms")]
    SigningIn(u128),
    /// Transactions go on.
    #[error("{sessions} of its sessions had not ended their transactions after {after_ms} ms")]
    InTransaction {
        /// How many.
        sessions: usize,
        /// After how long.
        after_ms: u128,
    },
}

impl From<Result<Parked, Busy>> for Hold {
    fn from(held: Result<Parked, Busy>) -> Hold {
        match held {
            Ok(Parked { parked, ended }) => Hold::Held { parked, ended },
            Err(busy) => Hold::Busy {
                in_transaction: matches!(busy, Busy::InTransaction { .. }),
                why: busy.to_string(),
            },
        }
    }
}

/// A hold in force. Dropped, it lets new sessions begin.
pub(crate) struct Held {
    because: Because,
    since: Instant,
    rest_ms: u128,
    _turn: OwnedRwLockWriteGuard<()>,
    _holding: Holding,
}

/// There is a hold, or one is about to be.
struct Holding(Arc<AtomicBool>);

impl Holding {
    fn begin(holding: &Arc<AtomicBool>) -> Option<Holding> {
        let is_first = !holding.swap(true, Ordering::SeqCst);
        is_first.then(|| Holding(holding.clone()))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Door {
    /// Holds; see the module. `ahead` is whether sessions are asked before anybody waits.
    pub(crate) async fn hold(self: &Arc<Door>, wish: Wish, ahead: bool) -> Result<Parked, Busy> {
        // One of the same kind was left by somebody who is gone: this one takes its place.
        if self.is_held() && !self.release(wish.because) {
            return Err(Busy::Held);
        }
        let holding = Holding::begin(&self.rest.holding).ok_or(Busy::Held)?;
        let mut calling_off = CallOff(Some(self));
        self.forget_functions();
        let patience = wish.patience.min(LONGEST.1);
        if ahead {
            self.seats().order(Order::Ask);
            let _ = timeout(patience.mul_f64(AHEAD), self.until(Seats::all_asked)).await;
        }
        let began = Instant::now();
        let (until, end) = (began + patience, began + wish.deadline.min(LONGEST.0));
        let waited = || began.elapsed().as_millis();
        // Sign-ins under way come to their end, and from here on new ones wait.
        let turn = timeout_at(until, self.rest.turn.clone().write_owned())
            .await
            .map_err(|_| Busy::SigningIn(waited()))?;
        let here = self.seats().taken.len();
        self.seats().order(Order::Rest);
        if timeout_at(until, self.until(|seats| seats.all(|standing| standing != Standing::Busy)))
            .await
            .is_err()
        {
            let in_the_way = self.busy();
            if !wish.insist {
                return Err(Busy::InTransaction { sessions: in_the_way.len(), after_ms: waited() });
            }
            let mut seats = self.seats();
            for session in in_the_way {
                seats.send_off(session, Ending::InTheWay);
            }
        }
        let rest_ms = waited();
        self.seats().order(Order::Park { because: wish.because });
        let gone = |standing| matches!(standing, Standing::Parked | Standing::Leaving);
        let left = self.until(|seats| seats.all(gone) && seats.all_said());
        let _ = timeout_at(Instant::now() + FAREWELL, left).await;
        // Whoever is not parked even now ends with the server.
        let parked = self.seats().taken.values().filter(|o| o.standing == Standing::Parked).count();
        let _ = timeout_at(Instant::now() + FAREWELL, self.verifiers.hang_up()).await;
        calling_off.0 = None;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Held { because: wish.because, since: began, rest_ms, _turn: turn, _holding: holding });
        tokio::spawn(let_go(self.clone(), began, end));
        fail_point!("gateway::held");
        Ok(Parked { parked: count(parked), ended: count(here.saturating_sub(parked)) })
    }

    /// Lets sessions go on; whether there was a hold of the kind.
    pub(crate) fn release(&self, because: Because) -> bool {
        self.release_if(|held| held.because == because)
    }

    /// Whether there is a hold, or one is about to be.
    pub(crate) fn is_being_held(&self) -> bool {
        self.rest.holding.load(Ordering::SeqCst)
    }

    /// Whether new sessions are kept waiting.
    pub(crate) fn is_held(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn release_if(&self, which: impl FnOnce(&Held) -> bool) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.as_ref().is_some_and(which) {
            return false;
        }
        // Orders first: a session that takes its turn then finds that it may.
        self.seats().order(Order::Go);
        if let Some(Held { because: Because::Moved, since, rest_ms, .. }) = held.take() {
            let (server, held_ms) = (&self.route().server, since.elapsed().as_millis());
            tracing::info!(server, held_ms, rest_ms, "clients were held");
        }
        true
    }

    fn busy(&self) -> Vec<u64> {
        let seats = self.seats();
        let busy = seats.taken.iter().filter(|(_, occupant)| occupant.standing == Standing::Busy);
        busy.map(|(session, _)| *session).collect()
    }

    async fn until(&self, good: impl Fn(&Seats) -> bool) {
        loop {
            let mut stirred = std::pin::pin!(self.stirred.notified());
            stirred.as_mut().enable();
            if good(&self.seats()) {
                return;
            }
            stirred.await;
        }
    }
}

/// Holds here and at the gateways that drain.
pub(crate) async fn everywhere(door: &Arc<Door>, wish: Wish) -> Hold {
    let held = Hold::from(door.hold(wish, true).await);
    let Hold::Held { parked, ended } = held else { return held };
    let server = &door.route().server;
    match door.rest.drainers.hold(server, wish).await {
        Hold::Held { parked: more, ended: gone } => Hold::Held { parked: parked + more, ended: ended + gone },
        busy => {
            door.release(wish.because);
            busy
        }
    }
}

/// Releases what [`everywhere`] held; whether there was a hold here.
pub(crate) async fn release(door: &Door, because: Because) -> bool {
    let was_held = door.release(because);
    door.rest.drainers.release(&door.route().server, because).await;
    was_held
}

/// A hold that is given up half way, for whatever reason: sessions go on.
struct CallOff<'a>(Option<&'a Arc<Door>>);

impl Drop for CallOff<'_> {
    fn drop(&mut self) {
        if let Some(door) = self.0 {
            door.seats().order(Order::Go);
        }
    }
}

/// Ends the hold that began at `since`, should it last until `end`.
async fn let_go(door: Arc<Door>, since: Instant, end: Instant) {
    sleep_until(end).await;
    if door.release_if(|held| held.since == since) {
        let server = &door.route().server;
        tracing::error!(server, "a hold was not released in time; sessions go on");
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
