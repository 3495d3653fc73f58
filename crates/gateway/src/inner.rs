//! The inner door: sessions that Stead opens on this host, for people who are signed in with the control plane, and for
//! functions that use a server.
//!
//! The console runs SQL as the person's role of a server. These sessions take the road of every other session,
//! because all that the road does is needed: a sleeping server is woken, a switch takes them along or waits for
//! them, a cancel request finds them, seats, metrics and the log count them. What differs is the way in:
//!
//! - **A Unix socket, `gateway/inner.sock`, and no port.** No address comes in here, so no allow-list is asked: an
//!   owner who lets in nobody still sees its own data in the console, and a list that names everybody opens
//!   nothing here. No TLS either: nothing leaves the host.
//! - **Only the control plane and the engine of functions.** The kernel says whose process calls, and it has to be the
//!   user that owns the folder of the routes, who decides already who comes in where, or the one that owns the engine's
//!   folder. The file's mode is not enough, for others of Stead's users are in its group.
//! - **A password all the same.** The control plane knows the passwords of roles, as it made them, tells the engine those
//!   of the servers that functions use, and both prove them by SCRAM like anybody. So this door opens no role that a password would not, a superuser never, and a control plane
//!   whose words are forged gets no further than with a port.
//! - **The server is named in a word before the protocol**, [`Call`]: a length of four bytes, most significant first,
//!   and that many bytes of JSON. A parameter of the startup packet would have to be taken out again before it
//!   goes on to the server; PostgreSQL's protocol begins behind the call unchanged, cancel requests included, and
//!   errors are PostgreSQL's from the first one on. The call also says for whom, for the log.
//!
//! The socket is not handed over to the next gateway, which opens its own in its place: who calls here is Stead
//! itself, and calls again where nobody answered.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::caller::{Caller, Client};
use crate::conn::{Conn, Inside};
use crate::files::Paths;
use crate::refusal::Refusal;
use crate::session::{Context, Visit};
use crate::shared::Directory;
use crate::status;

/// Longest call, bytes.
const MAX_CALL: usize = 1024;

/// What is said before PostgreSQL's protocol begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The server's handle.
    pub server: String,
    /// For whom, for the log.
    pub who: String,
}

/// Calls the gateway of a `$STEAD_HOME`: what comes back speaks PostgreSQL's protocol, without TLS.
///
/// # Errors
/// When nobody answers, or the call is too long. That the gateway refuses it is said in the protocol.
pub async fn connect(home: &Path, call: &Call) -> io::Result<UnixStream> {
    let json = serde_json::to_vec(call)?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_CALL);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the call is too long"))?;
    let mut stream = UnixStream::connect(&Paths::new(home).inner).await?;
    stream.write_all(&[&length.to_be_bytes()[..], &json].concat()).await?;
    Ok(stream)
}

/// The socket, while this process is the gateway.
pub(crate) struct InnerDoor {
    context: Arc<Context>,
    directory: Arc<Directory>,
    /// Held by each connection to its end.
    alive: mpsc::Sender<()>,
    path: PathBuf,
    routes: PathBuf,
    listening: Option<JoinHandle<()>>,
    error: Option<String>,
}

impl InnerDoor {
    /// Not open yet.
    pub(crate) fn new(
        context: Arc<Context>,
        directory: Arc<Directory>,
        paths: &Paths,
        alive: mpsc::Sender<()>,
    ) -> InnerDoor {
        let (path, routes) = (paths.inner.clone(), paths.routes.clone());
        InnerDoor { context, directory, alive, path, routes, listening: None, error: None }
    }

    /// Opens it, where it is not open.
    pub(crate) fn open(&mut self) {
        if self.listening.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        match status::bind(&self.path) {
            Ok(listener) => {
                let (context, directory) = (self.context.clone(), self.directory.clone());
                let accepting = accept(listener, context, directory, self.routes.clone(), self.alive.clone());
                self.listening = Some(tokio::spawn(accepting));
                self.error = None;
            }
            Err(error) => {
                tracing::error!(%error, path = %self.path.display(), "cannot listen for the control plane");
                self.error = Some(format!("cannot listen on {}: {error}", self.path.display()));
            }
        }
    }

    /// Takes no more calls; those that were taken go on.
    pub(crate) async fn close(&mut self) {
        if let Some(task) = self.listening.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// The same for good, with nobody to take the place.
    pub(crate) async fn remove(mut self) {
        if self.listening.is_some() {
            self.close().await;
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Keeps nothing alive any more but `alive`.
    pub(crate) fn let_go(&mut self, alive: &mpsc::Sender<()>) {
        self.alive = alive.clone();
    }

    /// Why it is not open, if so.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.clone()
    }
}

async fn accept(
    listener: UnixListener,
    context: Arc<Context>,
    directory: Arc<Directory>,
    routes: PathBuf,
    alive: mpsc::Sender<()>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (context, directory) = (context.clone(), directory.clone());
                let (routes, alive) = (routes.clone(), alive.clone());
                tokio::spawn(async move {
                    // Boxed: it would lie in memory as long as a session lasts.
                    if let Some((visit, conn)) = Box::pin(hear(&context, &directory, &routes, stream)).await {
                        visit.serve(conn).await;
                    }
                    drop(alive);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept at the inner door; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Who calls, and for which server. One that may not, or names none, is turned away and logged: `None`.
async fn hear(
    context: &Arc<Context>,
    directory: &Directory,
    routes: &Path,
    mut stream: UnixStream,
) -> Option<(Visit, Conn)> {
    let number = context.number();
    if let Err(error) = check(&stream, routes) {
        tracing::error!(%error, "somebody else than the control plane called at the inner door");
        let caller = Caller::of(number, Client::Inner("a stranger".to_owned()));
        context.turned_away(&caller, ("not_allowed", Some(error.to_string())));
        return None;
    }
    let patience = context.limits.stranger;
    let called = timeout(patience, read(&mut stream)).await.unwrap_or(Err(Refusal::Deadline(patience)));
    let (who, door) = match called {
        Ok(call) => (call.who, directory.of(&call.server).ok_or(Refusal::NoSuchServer)),
        Err(refusal) => (String::new(), Err(refusal)),
    };
    let caller = Caller::of(number, Client::Inner(who.chars().filter(|c| !c.is_control()).collect()));
    let conn = Conn::In(Inside::Inner(Box::new(stream)));
    match door {
        Ok(door) => Some((Visit::new(context.clone(), door, Box::new(caller), None), conn)),
        Err(refusal) => {
            conn.refuse(&refusal).await;
            context.turned_away(&caller, (refusal.outcome(), Some(refusal.to_string())));
            None
        }
    }
}

/// Nobody calls but the user that owns the routes, and the one whose the engine of functions is.
fn check(stream: &UnixStream, routes: &Path) -> io::Result<()> {
    let (theirs, control) = (stream.peer_cred()?.uid(), std::fs::symlink_metadata(routes)?.uid());
    let engine = || {
        // `<home>/gateway/routes`, and `<home>/functions/spool`, which the keeper makes for the engine alone.
        let spool = routes.parent()?.parent()?.join("functions/spool");
        std::fs::symlink_metadata(spool).ok().map(|about| about.uid())
    };
    if theirs == control || engine() == Some(theirs) {
        return Ok(());
    }
    let why = format!(
        "user {theirs} is at the other end, neither the control plane's ({control}) nor the engine's"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

async fn read(stream: &mut UnixStream) -> Result<Call, Refusal> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_CALL {
        return Err(Refusal::Protocol("the call at the inner door is too long"));
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json).await?;
    serde_json::from_slice(&json)
        .map_err(|_| Refusal::Protocol("the call at the inner door is not understood"))
}
