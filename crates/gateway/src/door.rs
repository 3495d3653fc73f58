//! One route in force: who may come in, who is in, and how to send them off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use crate::caller::Address;
use crate::cancel::{Cancels, Target};
use crate::carry::OfFunctions;
use crate::hold::Held;
use crate::orders::{Bell, Ear, Order, Standing};
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
    /// Told whenever a session's standing changes, or one has gone.
    pub(crate) stirred: Notify,
    /// During a hold: the settings that the functions of a database set.
    of_functions: Mutex<Arc<tokio::sync::Mutex<Functions>>>,
    /// What keeps new sessions out while the server is switched.
    pub(crate) held: Mutex<Option<Held>>,
    /// What is counted of it.
    pub(crate) stats: ServerStats,
    /// Places for those who sign in.
    places: usize,
}

/// What is known of the functions of databases, by name of the database.
pub(crate) type Functions = HashMap<Vec<u8>, OfFunctions>;

#[derive(Default)]
pub(crate) struct Seats {
    pub(crate) taken: HashMap<u64, Occupant>,
    /// Those who were told to end and have not gone yet. Their seats are free.
    leaving: HashMap<u64, Ending>,
    /// Set when the door is shut for good.
    shut: Option<Ending>,
}

pub(crate) struct Occupant {
    address: Address,
    order: Order,
    pub(crate) standing: Standing,
    bell: Arc<Bell>,
}

/// The right to be in. Given back when dropped.
pub(crate) struct Seat {
    door: Arc<Door>,
    session: u64,
    /// The process id under which its cancel key was given out.
    pid: Option<u32>,
    /// Rings when there is an order.
    pub(crate) ear: Ear,
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
            stirred: Notify::new(),
            of_functions: Mutex::default(),
            held: Mutex::default(),
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
            seats.send_off(session, Ending::NoLongerAllowed);
        }
        drop(seats);
        self.stirred.notify_waiters();
    }

    /// Sends everybody off and lets nobody in any more.
    pub(crate) fn shut(&self, ending: Ending) {
        let mut seats = self.seats();
        seats.shut = Some(ending);
        let everybody: Vec<u64> = seats.taken.keys().copied().collect();
        for session in everybody {
            seats.send_off(session, ending);
        }
        drop(seats);
        self.stirred.notify_waiters();
    }

    /// What the functions of its databases set, as far as it was asked for in this hold.
    pub(crate) fn functions(&self) -> Arc<tokio::sync::Mutex<Functions>> {
        self.of_functions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is to be asked for anew.
    pub(crate) fn forget_functions(&self) {
        *self.of_functions.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Whether it is shut for good.
    pub(crate) fn is_shut(&self) -> bool {
        self.seats().shut.is_some()
    }

    /// Takes a seat for a client that has signed in, if it may still come and there is one.
    pub(crate) fn sit(self: &Arc<Door>, session: u64, address: Address) -> Result<Seat, Refusal> {
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
        let bell = Arc::new(Bell::default());
        let ear = Ear::new(bell.clone());
        let (order, standing) = (Order::Go, Standing::Busy);
        seats.taken.insert(session, Occupant { address, order, standing, bell });
        Ok(Seat { door: self.clone(), session, pid: None, ear })
    }

    pub(crate) fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    /// Has one session end.
    pub(crate) fn send_off(&mut self, session: u64, ending: Ending) {
        if let Some(occupant) = self.taken.remove(&session) {
            self.leaving.insert(session, ending);
            occupant.bell.ring();
        }
    }

    /// Gives an order to every session. What one was asked before counts as little as that it was.
    pub(crate) fn order(&mut self, order: Order) {
        for occupant in self.taken.values_mut() {
            occupant.order = order;
            if occupant.standing == Standing::Asked {
                occupant.standing = Standing::Busy;
            }
            occupant.bell.ring();
        }
    }

    /// Whether every session stands so.
    pub(crate) fn all(&self, so: impl Fn(Standing) -> bool) -> bool {
        self.taken.values().all(|occupant| so(occupant.standing))
    }

    /// Whether all who were to say what they hold have; those who came since were not told to.
    pub(crate) fn all_asked(&self) -> bool {
        let waiting =
            |occupant: &Occupant| occupant.order == Order::Ask && occupant.standing == Standing::Busy;
        !self.taken.values().any(waiting)
    }

    /// Whether those who were told to end have gone.
    pub(crate) fn all_said(&self) -> bool {
        self.leaving.is_empty()
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

    /// From now on the client's key cancels what another backend does; nothing, while it has none.
    pub(crate) fn retarget(&self, target: Option<Target>) {
        if let Some(pid) = self.pid {
            self.door.cancels.retarget(self.session, pid, target);
        }
    }

    /// What the session is to do now.
    pub(crate) fn order(&self) -> Order {
        let seats = self.door.seats();
        let occupant = seats.taken.get(&self.session).map(|occupant| occupant.order);
        let ending = seats.leaving.get(&self.session).copied();
        occupant.unwrap_or(Order::End(ending.unwrap_or(Ending::Stopping)))
    }

    /// Says how the session stands from now on. It goes on only where nobody is to wait, and says that it was
    /// asked only while that is what it was told: otherwise this gives back what it was told meanwhile.
    pub(crate) fn stand(&self, standing: Standing) -> Result<(), Order> {
        let mut seats = self.door.seats();
        let ending = seats.leaving.get(&self.session).copied();
        let Some(occupant) = seats.taken.get_mut(&self.session) else {
            return Err(Order::End(ending.unwrap_or(Ending::Stopping)));
        };
        match (standing, occupant.order) {
            // As whoever comes new while the others are asked.
            (Standing::Busy, Order::Ask) => occupant.order = Order::Go,
            (Standing::Busy, Order::Go) | (Standing::Asked, Order::Ask) => {}
            (Standing::Busy | Standing::Asked, order) => return Err(order),
            (Standing::Resting | Standing::Parked | Standing::Leaving, _) => {}
        }
        occupant.standing = standing;
        drop(seats);
        self.door.stirred.notify_waiters();
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.door.cancels.revoke(self.session, pid);
        }
        let mut seats = self.door.seats();
        seats.taken.remove(&self.session);
        seats.leaving.remove(&self.session);
        drop(seats);
        self.door.stirred.notify_waiters();
    }
}

/// Whether an address is on a route's list. The address is canonical: no v4 inside v6. Who comes through the
/// inner door comes from no address.
pub(crate) fn allows(route: &Route, address: Address) -> bool {
    match address {
        Address::Network(ip) => route.allow.iter().any(|net| net.contains(&ip)),
        Address::Inner => true,
    }
}
