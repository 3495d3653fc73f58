//! One route in force: who may come in, who is in, and how to send them off.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use crate::cancel::{Cancels, Target};
use crate::refusal::{Ending, Refusal};
use crate::route::Route;
use crate::sleep::Rest;
use crate::stats::ServerStats;
use crate::verifiers::Verifiers;

/// A server's front door. Lives as long as its route file; an edit changes it in place.
pub(crate) struct Door {
    route: RwLock<Arc<Route>>,
    seats: Mutex<Seats>,
    /// Connections that have not signed in yet.
    pub(crate) waiting: Arc<Semaphore>,
    /// Keys of the sessions.
    pub(crate) cancels: Cancels,
    /// The server's verifiers.
    pub(crate) verifiers: Verifiers,
    /// The server's sleep.
    pub(crate) rest: Arc<Rest>,
    /// What is counted of it.
    pub(crate) stats: ServerStats,
    /// Places for those who sign in.
    places: usize,
}

#[derive(Default)]
struct Seats {
    taken: HashMap<u64, Occupant>,
    /// Set when the door is shut for good.
    shut: Option<Ending>,
}

struct Occupant {
    address: IpAddr,
    end: oneshot::Sender<Ending>,
}

/// The right to be in. Given back when dropped.
pub(crate) struct Seat {
    door: Arc<Door>,
    session: u64,
    /// The process id under which its cancel key was given out.
    pid: Option<u32>,
    /// Speaks when the session must end.
    pub(crate) end: oneshot::Receiver<Ending>,
}

impl Door {
    /// A door nobody has come through yet.
    pub(crate) fn new(route: Arc<Route>, rest: Rest, waiting: usize, verifier_idle: Duration) -> Arc<Door> {
        Arc::new(Door {
            route: RwLock::new(route),
            seats: Mutex::default(),
            waiting: Arc::new(Semaphore::new(waiting)),
            cancels: Cancels::default(),
            verifiers: Verifiers::new(verifier_idle),
            rest: Arc::new(rest),
            stats: ServerStats::default(),
            places: waiting,
        })
    }

    /// The route as it is now.
    pub(crate) fn route(&self) -> Arc<Route> {
        self.route.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sessions now.
    pub(crate) fn sessions(&self) -> u32 {
        u32::try_from(self.seats().taken.len()).unwrap_or(u32::MAX)
    }

    /// Connections that have not signed in yet.
    pub(crate) fn signing_in(&self) -> u64 {
        u64::try_from(self.places.saturating_sub(self.waiting.available_permits())).unwrap_or(u64::MAX)
    }

    /// Takes an edited route: sessions whose address is no longer allowed end, all others stay.
    pub(crate) fn update(&self, route: Arc<Route>) {
        // The route first: a seat taken from now on is judged by it (see `sit`).
        *self.route.write().unwrap_or_else(PoisonError::into_inner) = route.clone();
        crate::fail_point!("gateway::route_swapped");
        let mut seats = self.seats();
        let gone: Vec<u64> = seats
            .taken
            .iter()
            .filter(|(_, occupant)| !allows(&route, occupant.address))
            .map(|(session, _)| *session)
            .collect();
        for session in gone {
            if let Some(occupant) = seats.taken.remove(&session) {
                let _ = occupant.end.send(Ending::NoLongerAllowed);
            }
        }
    }

    /// Sends everybody off and lets nobody in any more.
    pub(crate) fn shut(&self, ending: Ending) {
        let mut seats = self.seats();
        seats.shut = Some(ending);
        seats.send_off(ending);
    }

    /// Sends everybody off who is in now.
    pub(crate) fn dismiss(&self, ending: Ending) {
        self.seats().send_off(ending);
    }

    /// Whether it is shut for good.
    pub(crate) fn is_shut(&self) -> bool {
        self.seats().shut.is_some()
    }

    /// Takes a seat for a client that has signed in, if it may still come and there is one.
    pub(crate) fn sit(self: &Arc<Door>, session: u64, address: IpAddr) -> Result<Seat, Refusal> {
        let mut seats = self.seats();
        let route = self.route();
        if let Some(ending) = seats.shut {
            return Err(ending.into());
        }
        if !allows(&route, address) {
            return Err(Refusal::NotAllowed(address));
        }
        if seats.taken.len() >= usize::try_from(route.max_sessions).unwrap_or(usize::MAX) {
            let server = format!("{} of {}/{}", route.component, route.tenant, route.stead);
            return Err(Refusal::TooMany { server, limit: route.max_sessions });
        }
        let (end, ended) = oneshot::channel();
        seats.taken.insert(session, Occupant { address, end });
        Ok(Seat { door: self.clone(), session, pid: None, end: ended })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    fn send_off(&mut self, ending: Ending) {
        for (_, occupant) in self.taken.drain() {
            let _ = occupant.end.send(ending);
        }
    }
}

impl Seat {
    /// A key with which the client can cancel, for as long as it sits here.
    pub(crate) fn issue_key(&mut self, minor: u16, target: Target) -> Bytes {
        self.pid = Some(target.pid());
        self.door.cancels.issue(self.session, minor, target)
    }

    /// The server's process id of the session.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.door.cancels.revoke(self.session, pid);
        }
        self.door.seats().taken.remove(&self.session);
    }
}

/// Whether an address is on a route's list. The address is canonical: no v4 inside v6.
pub(crate) fn allows(route: &Route, address: IpAddr) -> bool {
    route.allow.iter().any(|net| net.contains(&address))
}
