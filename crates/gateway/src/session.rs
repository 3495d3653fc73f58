//! One connection from accept to close: allow-list, TLS, sign-in, the server, copying, the log.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::Limits;
use crate::backend::{self, Backend};
use crate::cancel::Target;
use crate::conn::Conn;
use crate::door::{Door, Seat, allows};
use crate::drainers::Drainers;
use crate::duty::Duty;
use crate::handover::Lent;
use crate::record::{Log, Record};
use crate::refusal::{Ending, Refusal};
use crate::relay::{Relay, Stop};
use crate::scram::{Binding, Verifier};
use crate::signin;
use crate::startup::{Packet, Startup};
use crate::tls::{Certificate, Certificates};
use crate::wire::send;

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
}

/// A connection, for the log and the cancel keys.
pub(crate) struct Visit {
    context: Arc<Context>,
    door: Arc<Door>,
    address: IpAddr,
    started: Instant,
    /// The one that the client is shown; until it has signed in.
    certificate: Option<Arc<Certificate>>,
    record: Record,
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
}

enum Interrupt {
    End(Ending),
    Lasting,
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(context: Arc<Context>, door: Arc<Door>, tcp: TcpStream, peer: SocketAddr) {
    let (number, certificate) = (context.number(), context.certificates.current());
    Visit::new(context, door, number, peer, Instant::now(), certificate).serve(Conn::Plain(tcp)).await;
}

impl Visit {
    pub(crate) fn new(
        context: Arc<Context>,
        door: Arc<Door>,
        number: u64,
        peer: SocketAddr,
        started: Instant,
        certificate: Option<Arc<Certificate>>,
    ) -> Visit {
        let address = peer.ip().to_canonical();
        let route = door.route();
        let mut record = Record::of_nobody(number, SocketAddr::new(address, peer.port()));
        (record.tenant, record.stead) = (route.tenant.clone(), route.stead.clone());
        (record.component, record.server) = (route.component.clone(), route.server.clone());
        Visit { context, door, address, started, certificate, record }
    }

    /// To its end.
    pub(crate) async fn serve(mut self, conn: Conn) {
        let (outcome, message) = self.run(conn).await;
        self.write("close", outcome, message);
    }

    async fn run(&mut self, mut conn: Conn) -> (&'static str, Option<String>) {
        let (context, door) = (self.context.clone(), self.door.clone());
        // Before a byte is read. Who is not allowed gets no sign-in: a TLS handshake at most, so that
        // its client can show why (current clients discard an error that comes before TLS), one of few
        // places, and little time.
        let allowed = allows(&door.route(), self.address);
        let (places, patience) = if allowed {
            (&door.waiting, context.limits.sign_in)
        } else {
            (&context.strangers, context.limits.stranger)
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let refusal = if allowed { Refusal::Crowded } else { Refusal::NotAllowed(self.address) };
            if allowed {
                conn.close_with(&refusal.message()).await;
            }
            return (refusal.outcome(), Some(refusal.to_string()));
        };
        // Boxed, as all that is not copying: what a session needs to begin and to end must not lie in
        // memory as long as it lasts.
        let entering = timeout(patience, Box::pin(self.enter(&mut conn, allowed))).await;
        let entered = match entering {
            Ok(entered) => entered,
            Err(_) if allowed => Err(Refusal::Deadline(patience)),
            Err(_) => Err(Refusal::NotAllowed(self.address)),
        };
        self.record.tls = conn.tls_version();
        match (entered, conn) {
            (Ok(Entered::Session(session)), Conn::Tls(tls)) => {
                drop(place);
                self.record.signed_in = true;
                self.copy(session, tls).await
            }
            (Ok(entered), conn) => {
                // The close is the answer; inside TLS it has to be an orderly one.
                conn.close_with(b"").await;
                let found = matches!(entered, Entered::Cancelled { found: true });
                (if found { "cancel_forwarded" } else { "cancel_unknown" }, None)
            }
            (Err(refusal), conn) => {
                if matches!(refusal, Refusal::SignIn(_)) {
                    sleep(context.limits.failure_delay).await;
                }
                conn.refuse(&refusal).await;
                let outcome = if allowed { refusal.outcome() } else { "not_allowed" };
                (outcome, Some(refusal.to_string()))
            }
        }
    }

    /// Everything that the deadline of sign-in is for.
    async fn enter(&mut self, conn: &mut Conn, allowed: bool) -> Result<Entered, Refusal> {
        let certificate = self.certificate.take();
        let packet = conn.first_packet(certificate.as_deref()).await?;
        if let Packet::Startup(startup) = &packet {
            self.note(startup);
        }
        if !allowed {
            return Err(Refusal::NotAllowed(self.address));
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
        let Some(tls) = conn.tls() else { return Err(Refusal::NotEncrypted) };
        let end_point = certificate.as_ref().and_then(|certificate| certificate.end_point.as_deref());
        let route = self.door.route();
        let verifier = self.verifier(&route.socket_dir, &startup);
        let signed_in = signin::sign_in(tls, &startup, end_point, verifier).await?;
        crate::fail_point!("gateway::signed_in");
        self.record.channel_binding = signed_in.binding == Binding::EndPoint;
        let mut greeting = signed_in.farewell;
        // From here on the client knows that it is signed in: an error follows the farewell.
        let session = self.open(&startup, &route.socket_dir, signed_in.keys).await;
        if session.is_err() {
            send(tls, &greeting).await?;
        }
        let mut session = session?;
        greeting.unsplit(session.greeting);
        session.greeting = greeting;
        Ok(Entered::Session(Box::new(session)))
    }

    /// The verifier of a role, or a made-up one that looks the same.
    async fn verifier(&self, folder: &std::path::Path, startup: &Startup) -> Result<Verifier, Refusal> {
        let found = match self.door.verifiers.get(folder, startup.user()).await {
            // It may be asleep: then what was frozen counts.
            Err(down) if down.is_of_a_server_that_is_down() => {
                self.door.rest.verifier(startup.user()).ok_or(down)?
            }
            answered => answered?,
        };
        let server = &self.record.server;
        Ok(found.unwrap_or_else(|| Verifier::mock(&self.context.mock_secret, server, startup.user())))
    }

    /// A seat, and a session of the server in it.
    async fn open(
        &self,
        startup: &Startup,
        folder: &std::path::Path,
        keys: crate::scram::Keys,
    ) -> Result<Session, Refusal> {
        let rest = &self.door.rest;
        rest.touch();
        let (mut seat, mut backend) = match self.log_in(startup, folder, keys.clone()).await {
            Err(down) if down.is_of_a_server_that_is_down() => {
                let route = self.door.route();
                let Some(sleep) = &route.sleep else { return Err(down) };
                let role = String::from_utf8_lossy(startup.user());
                rest.wake(&sleep.unit, format!("role {role} signed in from {}", self.address)).await?;
                self.log_in(startup, folder, keys).await?
            }
            done => done?,
        };
        crate::fail_point!("gateway::logged_in");
        let mut greeting = std::mem::take(&mut backend.greeting);
        let target = backend.key.take().map(|key| Target::new(folder, key));
        if let Some(target) = target.clone() {
            let pid = target.pid();
            let key = seat.issue_key(startup.agreed_minor(), target);
            greeting.unsplit(backend::key_message(pid, key));
        }
        greeting.extend_from_slice(&backend.ready);
        Ok(Session { seat, backend, greeting, target })
    }

    /// A seat first; while the server falls asleep nobody gets one.
    async fn log_in(
        &self,
        startup: &Startup,
        folder: &std::path::Path,
        keys: crate::scram::Keys,
    ) -> Result<(Seat, Backend), Refusal> {
        let _turn = self.door.rest.turn.read().await;
        let seat = self.door.sit(self.record.connection, self.address)?;
        Ok((seat, backend::log_in(folder, startup, keys).await?))
    }

    async fn copy(
        &mut self,
        session: Box<Session>,
        mut tls: Box<TlsStream<TcpStream>>,
    ) -> (&'static str, Option<String>) {
        let Session { mut seat, backend, greeting, target } = *session;
        self.record.backend_pid = seat.pid();
        let greeted = send(&mut tls, &greeting).await;
        drop(greeting);
        let mut relay = Relay::new(tls, backend.stream, backend.rest, self.door.rest.clone());
        let end = match greeted {
            Ok(()) => self.relay(&mut relay, &mut seat).await,
            Err(error) => Err(error),
        };
        (self.record.bytes_in, self.record.bytes_out) = relay.amounts();
        let ending = match end {
            Ok(Ok(Stop::ByClient)) => return ("closed_by_client", None),
            Ok(Ok(Stop::ByServer)) => {
                Conn::Tls(relay.client).close_with(b"").await;
                return ("closed_by_server", None);
            }
            Ok(Ok(Stop::ServerVanished)) => Ending::ServerVanished,
            Ok(Err(ending)) => ending,
            Err(error) => return ("connection_lost", Some(error.to_string())),
        };
        Box::pin(self.send_off(relay, ending, target)).await;
        (ending.outcome(), Some(ending.to_string()))
    }

    async fn relay(
        &mut self,
        relay: &mut Relay<Box<TlsStream<TcpStream>>, UnixStream>,
        seat: &mut Seat,
    ) -> std::io::Result<Result<Stop, Ending>> {
        let mut lasting = pin!(sleep(self.context.limits.long_session));
        let mut announced = false;
        loop {
            let mut interrupt = pin!(async {
                tokio::select! {
                    biased;
                    ending = &mut seat.end => Interrupt::End(ending.unwrap_or(Ending::Stopping)),
                    () = &mut lasting, if !announced => Interrupt::Lasting,
                }
            });
            match relay.run(&mut interrupt).await? {
                Ok(stop) => return Ok(Ok(stop)),
                Err(Interrupt::End(ending)) => return Ok(Err(ending)),
                Err(Interrupt::Lasting) => {
                    announced = true;
                    (self.record.bytes_in, self.record.bytes_out) = relay.amounts();
                    self.write("open", "open", None);
                }
            }
        }
    }

    /// Ends a session from our side: what it does at the server is cancelled, the client is told when
    /// the message under way is through.
    async fn send_off(
        &self,
        mut relay: Relay<Box<TlsStream<TcpStream>>, UnixStream>,
        ending: Ending,
        target: Option<Target>,
    ) {
        let limit = self.context.limits.farewell;
        if ending != Ending::ServerVanished
            && let Some(target) = target
        {
            let cancelled = timeout(limit, target.cancel()).await;
            tracing::debug!(?cancelled, "a session was ended by the gateway");
        }
        let between = relay.between_messages() || timeout(limit, relay.drain()).await.unwrap_or(false);
        let message = if between { ending.message() } else { BytesMut::new() };
        Conn::Tls(relay.client).close_with(&message).await;
    }

    /// What the client says of itself, for the log.
    fn note(&mut self, startup: &Startup) {
        let readable = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(128).collect::<String>();
        self.record.user = Some(readable(startup.user()));
        self.record.database = Some(readable(startup.database()));
        self.record.application_name = startup.get("application_name").map(|name| readable(name));
    }

    fn write(&self, event: &'static str, outcome: &'static str, message: Option<String>) {
        let record = self.record.clone().said(event, self.started, (outcome, message));
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
