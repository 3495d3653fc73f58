//! The socket, and the messages of those who connect to it.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use futures::{SinkExt, StreamExt};
use pgwire::api::{
    ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState, RandomPidSecretKeyGenerator,
};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use scram::Verifier;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::Framed;

use crate::engine::Engine;
use crate::refusal::{self, Refusal};
use crate::session::{Canceller, Prepared, Session, Statements};
use crate::signin::SignIn;
use crate::work::Cancels;
use crate::{Error, Settings};

/// From connected to signed in.
const SIGN_IN: Duration = Duration::from_secs(15);
/// Connections that have no seat: those that sign in, cancel, or ask for a verifier.
const STANDING: usize = 64;
/// How long a session that is ended may still take a last message.
const FAREWELL: Duration = Duration::from_secs(1);

type Socket = Framed<UnixStream, PgWireMessageServerCodec<Prepared>>;

/// What all sessions share.
pub(crate) struct Service {
    pub(crate) settings: Settings,
    pub(crate) engine: Engine,
    pub(crate) parser: PostgresCompatibilityParser,
    pub(crate) cancels: Cancels,
    pub(crate) keys: RandomPidSecretKeyGenerator,
    pub(crate) seats: Arc<Semaphore>,
    /// What verifiers of roles that are not there are made from.
    pub(crate) mock_secret: [u8; 32],
}

impl Service {
    pub(crate) fn new(settings: Settings) -> Result<Arc<Self>, Error> {
        let engine = Engine::new(&settings)?;
        let seats = usize::try_from(settings.sessions).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Ok(Arc::new(Self {
            engine,
            parser: PostgresCompatibilityParser::new(),
            cancels: Cancels::default(),
            keys: RandomPidSecretKeyGenerator::default(),
            seats: Arc::new(Semaphore::new(seats)),
            mock_secret: rand::random(),
            settings,
        }))
    }

    pub(crate) fn verifier_text(&self, role: &str) -> Option<&str> {
        self.settings.verifiers.get(role).map(String::as_str)
    }

    pub(crate) fn verifier(&self, role: &str) -> Option<Verifier> {
        self.verifier_text(role).and_then(Verifier::parse)
    }

    pub(crate) async fn serve(self: Arc<Self>, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let listener = self.listen()?;
        let places = Arc::new(Semaphore::new(self.seats.available_permits().saturating_add(STANDING)));
        let (stopping, stopped) = watch::channel(false);
        let mut sessions = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let place = places.clone().acquire_owned();
            let came = tokio::select! {
                () = &mut stop => break,
                Some(_) = sessions.join_next() => continue,
                came = async { (place.await, listener.accept().await) } => came,
            };
            let (Ok(place), Ok((stream, _))) = came else {
                tracing::warn!("a connection could not be taken");
                continue;
            };
            let (service, stopped) = (self.clone(), stopped.clone());
            sessions.spawn(async move {
                let _place = place;
                if let Err(error) = converse(service, stream, stopped).await {
                    tracing::debug!(%error, "a connection broke off");
                }
            });
        }
        let _ = std::fs::remove_file(self.settings.socket_dir.join(SOCKET));
        let _ = stopping.send(true);
        let all_gone = async { while sessions.join_next().await.is_some() {} };
        let _ = timeout(FAREWELL * 2, all_gone).await;
        Ok(())
    }

    fn listen(&self) -> Result<UnixListener, Error> {
        let path = self.settings.socket_dir.join(SOCKET);
        // What is there is of one that ended.
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(&path)
            .and_then(|listener| {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o770)).map(|()| listener)
            })
            .map_err(|source| Error::File { what: "listen on", path, source })
    }
}

/// As PostgreSQL calls it, at its own port.
const SOCKET: &str = ".s.PGSQL.5432";

/// Takes a connection's messages one after the other until it ends.
async fn converse(
    service: Arc<Service>,
    stream: UnixStream,
    mut stopped: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    // Addresses are asked for where there are none.
    let client = DefaultClient::new(([127, 0, 0, 1], 0).into(), false);
    let mut socket: Socket = Framed::new(stream, PgWireMessageServerCodec::new(client));
    socket.set_state(PgWireConnectionState::AwaitingStartup);
    let session = Arc::new(Session::new(service, peer));
    let (sign_in, statements) = (Arc::new(SignIn(session.clone())), Arc::new(Statements(session.clone())));
    let (canceller, noop) = (Arc::new(Canceller(session)), Arc::new(NoopHandler));
    let deadline = Instant::now() + SIGN_IN;
    loop {
        let is_signing_in = is_signing_in(&socket);
        let message = tokio::select! {
            biased;
            () = spoken(&mut stopped) => return part(&mut socket, Refusal::Stopping).await,
            () = sleep_until(deadline), if is_signing_in => return Ok(()),
            message = socket.next() => message,
        };
        let message = match message {
            None | Some(Ok(PgWireFrontendMessage::Terminate(_))) => return Ok(()),
            Some(Ok(message)) => message,
            Some(Err(_)) => return part(&mut socket, Refusal::Protocol("a message that is none")).await,
        };
        let is_cancel = matches!(message, PgWireFrontendMessage::CancelRequest(_));
        let is_extended = message.is_extended_query();
        let done = tokio::select! {
            () = spoken(&mut stopped) => Err(refusal::fatal(Refusal::Stopping)),
            done = process_message(
                message,
                &mut socket,
                sign_in.clone(),
                statements.clone(),
                statements.clone(),
                noop.clone(),
                canceller.clone(),
            ) => done,
        };
        if is_cancel {
            return Ok(());
        }
        let Err(error) = done else { continue };
        let mut told = ErrorInfo::from(refusal::told(error));
        if is_signing_in {
            told.severity = "FATAL".to_owned();
        }
        if told.is_fatal() {
            return say_last(&mut socket, told).await;
        }
        process_error(&mut socket, PgWireError::UserError(Box::new(told)), is_extended).await?;
    }
}

/// The service stops.
async fn spoken(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn is_signing_in(socket: &Socket) -> bool {
    use PgWireConnectionState::{AuthenticationInProgress, AwaitingStartup};
    matches!(socket.state(), AwaitingStartup | AuthenticationInProgress)
}

async fn part(socket: &mut Socket, refusal: Refusal) -> std::io::Result<()> {
    say_last(socket, refusal::fatal(refusal).into()).await
}

/// The session's last word; whoever does not read does not get it.
async fn say_last(socket: &mut Socket, error: ErrorInfo) -> std::io::Result<()> {
    let sent = timeout(FAREWELL, async {
        socket.send(PgWireBackendMessage::ErrorResponse(error.into())).await?;
        socket.close().await
    });
    sent.await.unwrap_or(Ok(()))
}
