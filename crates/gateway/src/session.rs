//! One connection from accept to close: allow-list, TLS, sign-in, the server, copying, the log.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::BytesMut;
use keeper::wire::Name;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::Limits;
use crate::backend::{self, Backend};
use crate::caller::{Balancers, Caller};
use crate::cancel::Target;
use crate::conn::{Conn, Inside};
use crate::crowd::{Crowd, Neighbourhood, Place};
use crate::door::{Door, Seat, allows};
use crate::drainers::Drainers;
use crate::duty::Duty;
use crate::guessing::Guessing;
use crate::handover::Lent;
use crate::orders::Order;
use crate::parked::Said;
use crate::record::{Log, Record};
use crate::refusal::{Ending, Refusal};
use crate::relay::{Relay, Stop};
use crate::signin;
use crate::startup::{Packet, Startup};
use crate::stats::ProcessStats;
use crate::tls::{Certificate, Certificates};
use crate::wire::send;
use scram::{Binding, Keys, Verifier};

/// What all connections share.
pub(crate) struct Context {
    pub(crate) limits: Limits,
    pub(crate) certificates: Certificates,
    pub(crate) log: Log,
    /// Makes the salts of roles that do not exist.
    pub(crate) mock_secret: [u8; 32],
    /// Places for those who are told that they may not come in.
    pub(crate) strangers: Arc<Semaphore>,
    /// Places for those of whom it is not known yet whom they want, at the shared port.
    pub(crate) arriving: Arc<Semaphore>,
    pub(crate) connections: AtomicU64,
    /// Who may say whose a connection is.
    pub(crate) balancers: Balancers,
    /// Those who sign in, by address and by tenant.
    pub(crate) calling: Arc<Crowd<Neighbourhood>>,
    pub(crate) tenants: Arc<Crowd<String>>,
    /// Those who have signed in, by address.
    pub(crate) present: Arc<Crowd<Neighbourhood>>,
    /// What is counted of the process.
    pub(crate) stats: ProcessStats,
    /// Those who gave a wrong password.
    pub(crate) guessing: Guessing,
    /// This process's among the gateways of its home; see `handover.rs`.
    pub(crate) rank: u64,
    /// Ports that were handed over.
    pub(crate) lent: Lent,
    /// Falling asleep is decided by one gateway only.
    pub(crate) duty: Arc<Duty>,
    /// Gateways that handed over and still have sessions.
    pub(crate) drainers: Drainers,
}

impl Context {
    /// The next connection's number.
    pub(crate) fn number(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.connections.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Notes a connection of which it never was known which server it wants.
    pub(crate) fn turned_away(&self, caller: &Caller, outcome: (&'static str, Option<String>)) {
        self.stats.turned_away.count(outcome.0);
        self.log.write(Record::of_nobody(caller).said("close", caller.started, outcome));
    }
}

/// A connection, for the log and the cancel keys.
pub(crate) struct Visit {
    pub(crate) context: Arc<Context>,
    pub(crate) door: Arc<Door>,
    caller: Box<Caller>,
    /// The one that the client is shown; until it has signed in.
    certificate: Option<Arc<Certificate>>,
    pub(crate) record: Record,
    /// What it holds at its server, where it was asked ahead of a hold.
    pub(crate) said: Option<Box<Said>>,
}

/// A session's way between its client and its server.
pub(crate) type Copying = Relay<Inside, UnixStream>;

/// What it takes to sign in to the server in the client's name once more.
pub(crate) struct Login {
    pub(crate) startup: Startup,
    pub(crate) keys: Keys,
}

/// What a connection turned out to be.
enum Entered {
    /// A cancel request, taken care of.
    Cancelled { found: bool },
    /// A session.
    Session(Box<Session>),
}

struct Session {
    seat: Seat,
    backend: Backend,
    /// Goes to the client before anything else.
    greeting: BytesMut,
    target: Option<Target>,
    login: Box<Login>,
    place: Option<Place<Neighbourhood>>,
}

enum Interrupt {
    Ordered,
    Count,
}

/// Why the copying stopped.
pub(crate) enum Stopped {
    /// One side is done, or the session has come to rest.
    By(Stop),
    /// The gateway ends it.
    Ended(Ending),
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(context: Arc<Context>, door: Arc<Door>, conn: Conn, caller: Box<Caller>) {
    let certificate = context.certificates.current();
    Visit::new(context, door, caller, certificate).serve(conn).await;
}

impl Visit {
    pub(crate) fn new(
        context: Arc<Context>,
        door: Arc<Door>,
        caller: Box<Caller>,
        certificate: Option<Arc<Certificate>>,
    ) -> Visit {
        let route = door.route();
        let mut record = Record::of_nobody(&caller);
        (record.tenant, record.stead) = (route.tenant.clone(), route.stead.clone());
        (record.component, record.server) = (route.component.clone(), route.server.clone());
        Visit { context, door, caller, certificate, record, said: None }
    }

    /// To its end.
    pub(crate) async fn serve(mut self, conn: Conn) {
        let (outcome, message) = self.run(conn).await;
        self.door.stats.closed(outcome, self.record.signed_in);
        self.write("close", outcome, message);
    }

    async fn run(&mut self, mut conn: Conn) -> (&'static str, Option<String>) {
        let (context, door) = (self.context.clone(), self.door.clone());
        // Before a byte of the client's is read. Who is not allowed gets no sign-in: a TLS handshake at most, so that
        // its client can show why (current clients discard an error that comes before TLS), one of few
        // places, and little time.
        let allowed = allows(&door.route(), self.caller.address());
        let patience = if allowed { context.limits.sign_in } else { context.limits.stranger };
        let Some(place) = self.place(allowed) else {
            let refusal = if allowed { Refusal::Crowded } else { Refusal::NotAllowed(self.caller.address()) };
            if allowed {
                conn.close_with(&refusal.message()).await;
            }
            return (refusal.outcome(), Some(refusal.to_string()));
        };
        // Boxed, as all that is not copying: what a session needs to begin and to end must not lie in
        // memory as long as it lasts.
        let until = self.caller.started + patience;
        let entering = timeout_at(until, Box::pin(self.enter(&mut conn, allowed))).await;
        let entered = match entering {
            Ok(entered) => entered,
            Err(_) if allowed => Err(Refusal::Deadline(patience)),
            Err(_) => Err(Refusal::NotAllowed(self.caller.address())),
        };
        self.record.tls = conn.tls_version();
        match (entered, conn) {
            (Ok(Entered::Session(session)), Conn::In(client)) => {
                drop((place, self.caller.place.take()));
                self.record.signed_in = true;
                context.stats.sign_ins.observe(self.caller.started.elapsed().as_secs_f64());
                door.stats.sessions.inc();
                self.copy(session, client).await
            }
            (Ok(entered), conn) => {
                // The close is the answer; inside TLS it has to be an orderly one.
                conn.close_with(b"").await;
                let found = matches!(entered, Entered::Cancelled { found: true });
                (if found { "cancel_forwarded" } else { "cancel_unknown" }, None)
            }
            (Err(refusal), conn) => {
                if matches!(refusal, Refusal::SignIn(_))
                    && let Some(ip) = self.caller.address().ip()
                {
                    context.guessing.failed(ip, &self.record.server);
                    sleep(context.limits.failure_delay).await;
                }
                conn.refuse(&refusal).await;
                let outcome = if allowed { refusal.outcome() } else { "not_allowed" };
                (outcome, Some(refusal.to_string()))
            }
        }
    }

    /// A place among those who sign in: at the server and among its tenant's, or among strangers.
    fn place(&self, allowed: bool) -> Option<(OwnedSemaphorePermit, Option<Place<String>>)> {
        let places = if allowed { &self.door.waiting } else { &self.context.strangers };
        let place = places.clone().try_acquire_owned().ok()?;
        let tenant = || self.context.tenants.join(self.record.tenant.clone());
        let of_tenant = if allowed { Some(tenant()?) } else { None };
        Some((place, of_tenant))
    }

    /// Everything that the deadline of sign-in is for.
    async fn enter(&mut self, conn: &mut Conn, allowed: bool) -> Result<Entered, Refusal> {
        let certificate = self.certificate.take();
        let packet = conn.first_packet(certificate.as_deref()).await?;
        if let Packet::Startup(startup) = &packet {
            self.note(startup);
        }
        if !allowed {
            return Err(Refusal::NotAllowed(self.caller.address()));
        }
        let startup = match packet {
            Packet::Startup(startup) => startup,
            Packet::Cancel(request) => {
                let found = match self.door.cancels.find(&request) {
                    Some(target) => target.cancel().await.map(|()| true)?,
                    None => self.context.drainers.cancel(Some(&self.record.server), &request).await,
                };
                return Ok(Entered::Cancelled { found });
            }
            Packet::Ssl | Packet::Gss => return Err(Refusal::Protocol("unexpected encryption request")),
        };
        let Some(client) = conn.inside() else { return Err(Refusal::NotEncrypted) };
        if let Some(address) = self.caller.address().ip()
            && let Some(pause) = self.context.guessing.pause(address, &self.record.server)
        {
            return Err(Refusal::Guessing { address, pause });
        }
        let end_point = certificate.as_ref().and_then(|certificate| certificate.end_point.as_deref());
        let verifier = self.verifier(&startup);
        let signed_in = signin::sign_in(client, &startup, end_point, verifier).await?;
        crate::fail_point!("gateway::signed_in");
        self.record.channel_binding = signed_in.binding == Binding::EndPoint;
        let mut greeting = signed_in.farewell;
        // From here on the client knows that it is signed in: an error follows the farewell.
        let session = self.open(startup, signed_in.keys).await;
        if session.is_err() {
            send(client, &greeting).await?;
        }
        let mut session = session?;
        greeting.unsplit(session.greeting);
        session.greeting = greeting;
        Ok(Entered::Session(Box::new(session)))
    }

    /// The verifier of a role, or a made-up one that looks the same.
    async fn verifier(&self, startup: &Startup) -> Result<Verifier, Refusal> {
        let door = &self.door;
        let mut asked_before = false;
        let found = loop {
            // While the server is switched there is nobody to ask.
            drop(door.rest.turn.read().await);
            match door.verifiers.get(&door.route().socket_dir, startup.user()).await {
                Err(_) if door.is_held() => {}
                // It may be asleep: then what was frozen counts.
                Err(down) if down.is_of_a_server_that_is_down() => {
                    match door.rest.verifier(startup.user()) {
                        Some(frozen) => break frozen,
                        // Somebody may have woken it between the two questions.
                        None if !asked_before => asked_before = true,
                        None => return Err(down),
                    }
                }
                answered => break answered?,
            }
        };
        let server = &self.record.server;
        Ok(found.unwrap_or_else(|| Verifier::mock(&self.context.mock_secret, server, startup.user())))
    }

    /// A seat, and a session of the server in it.
    async fn open(&self, startup: Startup, keys: Keys) -> Result<Session, Refusal> {
        let (present, address) = (&self.context.present, self.caller.address());
        let place = match address.ip() {
            Some(ip) => {
                let too_many = || Refusal::TooManyOfAddress { address: ip, limit: present.limit() };
                Some(present.join(ip.into()).ok_or_else(too_many)?)
            }
            None => None,
        };
        self.door.rest.touch();
        let login = Box::new(Login { startup, keys });
        let sit = || self.door.sit(self.record.connection, address);
        let (mut seat, mut backend, folder) = self.log_in(&login, sit, || ()).await?;
        crate::fail_point!("gateway::logged_in");
        let mut greeting = std::mem::take(&mut backend.greeting);
        let target = backend.key.take().map(|key| Target::new(&folder, key));
        if let Some(target) = target.clone() {
            let pid = target.pid();
            let key = seat.issue_key(login.startup.agreed_minor(), target);
            greeting.unsplit(backend::key_message(pid, key));
        }
        greeting.extend_from_slice(&backend.ready);
        Ok(Session { seat, backend, greeting, target, login, place })
    }

    /// Signs in to the server that the route leads to; wakes it where it sleeps. A seat first, which `sit`
    /// gives: while the server falls asleep or is switched nobody gets one. `rise` gives it back for as long as
    /// the server wakes up.
    pub(crate) async fn log_in<T>(
        &self,
        login: &Login,
        sit: impl Fn() -> Result<T, Refusal>,
        rise: impl Fn(),
    ) -> Result<(T, Backend, PathBuf), Refusal> {
        let enter = async || {
            let _turn = self.door.rest.turn.read().await;
            let seat = sit()?;
            let folder = self.door.route().socket_dir.clone();
            let backend = backend::log_in(&folder, &login.startup, login.keys.clone()).await?;
            Ok((seat, backend, folder))
        };
        match enter().await {
            Err(down) if Refusal::is_of_a_server_that_is_down(&down) => {
                let route = self.door.route();
                let Some(sleep) = &route.sleep else { return Err(down) };
                rise();
                let role = String::from_utf8_lossy(login.startup.user());
                let why = format!("role {role} signed in from {}", self.caller.address());
                self.wake(&sleep.unit, why).await?;
                enter().await
            }
            done => done,
        }
    }

    async fn wake(&self, unit: &Name, why: String) -> Result<(), Refusal> {
        let (stats, began) = (&self.door.stats, Instant::now());
        match self.door.rest.wake(unit, why).await {
            Ok(true) => stats.wakes.observe(began.elapsed().as_secs_f64()),
            Ok(false) => {}
            Err(refusal) => {
                stats.wakes_failed.inc();
                return Err(refusal);
            }
        }
        Ok(())
    }

    async fn copy(&mut self, session: Box<Session>, mut client: Inside) -> (&'static str, Option<String>) {
        let Session { mut seat, backend, greeting, mut target, login, place: _place } = *session;
        self.record.backend_pid = seat.pid();
        let greeted = send(&mut client, &greeting).await;
        drop(greeting);
        let mut relay = Relay::new(client, backend.stream, backend.rest, self.door.rest.clone());
        if let Err(error) = greeted {
            return ("connection_lost", Some(error.to_string()));
        }
        loop {
            let end = self.relay(&mut relay, &mut seat).await;
            self.count(relay.amounts());
            let ending = match end {
                Ok(Stopped::By(Stop::AtRest)) => {
                    match Box::pin(self.stand_still(relay, &mut seat, &login)).await {
                        Ok((next, to)) => (relay, target) = (next, to.or(target)),
                        Err(ended) => return ended,
                    }
                    continue;
                }
                Ok(Stopped::By(Stop::ByClient)) => return ("closed_by_client", None),
                Ok(Stopped::By(Stop::ByServer)) => {
                    Conn::In(relay.client).close_with(b"").await;
                    return ("closed_by_server", None);
                }
                Ok(Stopped::By(Stop::ServerVanished)) => Ending::ServerVanished,
                Ok(Stopped::Ended(ending)) => ending,
                Err(error) => return ("connection_lost", Some(error.to_string())),
            };
            return Box::pin(self.send_off(relay, ending, target)).await;
        }
    }

    /// Copies until somebody stops it, or until the session rests because it was told to.
    async fn relay(&mut self, relay: &mut Copying, seat: &mut Seat) -> std::io::Result<Stopped> {
        let Limits { long_session, counted_every, .. } = self.context.limits;
        let mut time_to_count = pin!(sleep(if self.record.announced { counted_every } else { long_session }));
        loop {
            let mut interrupt = poll_fn(|cx| {
                if seat.ear.poll(cx).is_ready() {
                    return Poll::Ready(Interrupt::Ordered);
                }
                time_to_count.as_mut().poll(cx).map(|()| Interrupt::Count)
            });
            match relay.run(&mut interrupt).await? {
                Ok(stop) => return Ok(Stopped::By(stop)),
                Err(Interrupt::Ordered) => match seat.order() {
                    Order::End(ending) => return Ok(Stopped::Ended(ending)),
                    order => {
                        relay.resting = order != Order::Go;
                        if order == Order::Go {
                            self.said = None;
                        }
                    }
                },
                Err(Interrupt::Count) => {
                    self.count(relay.amounts());
                    if !std::mem::replace(&mut self.record.announced, true) {
                        self.write("open", "open", None);
                    }
                    time_to_count.as_mut().reset(Instant::now() + counted_every);
                }
            }
        }
    }

    /// Ends a session from our side: what it does at the server is cancelled, the client is told when
    /// the message under way is through.
    pub(crate) async fn send_off(
        &self,
        mut relay: Copying,
        ending: Ending,
        target: Option<Target>,
    ) -> (&'static str, Option<String>) {
        let limit = self.context.limits.farewell;
        if ending != Ending::ServerVanished
            && let Some(target) = target
        {
            let cancelled = timeout(limit, target.cancel()).await;
            tracing::debug!(?cancelled, "a session was ended by the gateway");
        }
        let between = relay.between_messages() || timeout(limit, relay.drain()).await.unwrap_or(false);
        let message = if between { ending.message() } else { BytesMut::new() };
        Conn::In(relay.client).close_with(&message).await;
        (ending.outcome(), Some(ending.to_string()))
    }

    /// What the client says of itself, for the log.
    fn note(&mut self, startup: &Startup) {
        let readable = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(128).collect::<String>();
        self.record.user = Some(readable(startup.user()));
        self.record.database = Some(readable(startup.database()));
        self.record.application_name = startup.get("application_name").map(|name| readable(name));
    }

    /// Adds what was copied since the last time.
    pub(crate) fn count(&mut self, (received, sent): (u64, u64)) {
        let stats = &self.door.stats;
        stats.received.inc_by(received.saturating_sub(self.record.bytes_in));
        stats.sent.inc_by(sent.saturating_sub(self.record.bytes_out));
        (self.record.bytes_in, self.record.bytes_out) = (received, sent);
    }

    fn write(&self, event: &'static str, outcome: &'static str, message: Option<String>) {
        let record = self.record.clone().said(event, self.caller.started, (outcome, message));
        self.context.log.write(record);
    }
}

#[cfg(test)]
mod tests {
    /// Thousands of sessions sit idle: what each holds while it only copies must stay small.
    #[test]
    fn a_session_at_rest_is_small() {
        fn size<F, A, B, C, D>(_: fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(super::serve) < 2500, "{} bytes", size(super::serve));
    }
}
