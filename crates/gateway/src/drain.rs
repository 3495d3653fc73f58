//! A gateway that has handed over: it accepts nobody, and serves the sessions it has until they end.
//!
//! It goes on following the route files, because an edit of `allow` and the removal of a route end sessions
//! here as well. What the gateway in force cannot know without it is asked on a private socket,
//! `gateway/drain-<rank>.sock`, which only the gateway's own user may use:
//!
//! - **A cancel request** with a key that is none of the new gateway's. The keys never leave this process.
//! - **Whether a server is in use.** Only the gateway in force puts servers to sleep; it asks every draining
//!   one before it does.
//! - **To hold a server's sessions**, as the gateway in force holds its own, and to release them.
//! - **How many sessions are left**, for whoever looks at the status.
//!
//! When no session is left, or at the limit (`drain_ms` of `gateway.json`), or when it is told to stop, the
//! sessions that are left end with 57P01 and the process is done.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::files::{self, Paths};
use crate::handover::check_peer;
use crate::hold::{Because, Wish};
use crate::route::{Draining, Hold};
use crate::shared::Directory;
use crate::startup::CancelRequest;
use crate::table::Table;
use crate::{Limits, control, status};

/// Longest question, bytes.
const MAX_LINE: u64 = 4096;
/// How often the limit is looked up again, at least.
const LOOK: Duration = Duration::from_secs(5);

/// What the gateway in force asks; each is answered by one JSON value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// Cancels the statement of a key, of one server's sessions or of any: whether there was such a key.
    Cancel {
        /// The door at which the request came; `None` at the shared port.
        server: Option<String>,
        pid: u32,
        key: Vec<u8>,
    },
    /// Whether a client sent anything to a server since this was asked last.
    Used(String),
    /// To hold a server's sessions: [`crate::route::Hold`].
    Hold(String, Wish),
    /// To release them: whether there was a hold.
    Release(String, Because),
    /// [`Draining`].
    Look,
}

/// The private socket, from the moment before the hand-over.
pub(crate) struct Private {
    listener: UnixListener,
    rank: u64,
}

impl Private {
    /// Has its name before anybody may ask, and not before it listens: one that does not is taken for dead.
    pub(crate) fn open(paths: &Paths, rank: u64) -> io::Result<Private> {
        let new = paths.gateway.join(format!(".drain-{rank}.new"));
        let listener = status::bind_for(&new, 0o600)?;
        std::fs::rename(new, socket(paths, rank))?;
        Ok(Private { listener, rank })
    }
}

/// Where the gateway of a rank answers while it drains.
pub(crate) fn socket(paths: &Paths, rank: u64) -> PathBuf {
    paths.gateway.join(format!("drain-{rank}.sock"))
}

/// Takes the private socket's name away.
pub(crate) fn remove(paths: &Paths, rank: u64) {
    let _ = std::fs::remove_file(socket(paths, rank));
}

/// Serves the sessions there are, until none is left, the limit is reached, or `stop` speaks.
pub(crate) async fn run(
    table: &mut Table,
    private: Private,
    paths: &Paths,
    limits: &Limits,
    all_gone: &mut mpsc::Receiver<()>,
    stop: impl Future<Output = ()>,
) {
    let rank = private.rank;
    table.drain();
    crate::fail_point!("gateway::drains");
    let answering = tokio::spawn(answer(private, table.directory(), paths.routes.clone(), limits.waiting));
    // Nobody commands it any more.
    let (_quiet, inbox) = mpsc::channel(1);
    let done = async {
        tokio::select! {
            _ = all_gone.recv() => tracing::info!("every session has ended"),
            () = expired(paths, limits.drain) => tracing::info!("the time to drain is over; ending what is left"),
            () = stop => {}
        }
    };
    control::keep(table, paths, limits.rescan, inbox, done, None).await;
    answering.abort();
    remove(paths, rank);
}

/// When the time is over that the settings allow; an edit of them counts for those who drain already.
async fn expired(paths: &Paths, unless_set: Duration) {
    let began = Instant::now();
    loop {
        let settings = files::read_settings(&paths.settings).ok().flatten();
        let limit = settings.and_then(|settings| settings.drain_ms).map_or(unless_set, Duration::from_millis);
        if began.elapsed() >= limit {
            return;
        }
        sleep_until((began + limit).min(Instant::now() + LOOK)).await;
    }
}

async fn answer(private: Private, directory: Arc<Directory>, routes: PathBuf, waiting: usize) {
    let Private { listener, rank } = private;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (directory, routes) = (directory.clone(), routes.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &directory, &routes, rank, waiting).await {
                        tracing::debug!(%error, "a question to a draining gateway got no answer");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept on the private socket; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    directory: &Directory,
    routes: &Path,
    rank: u64,
    waiting: usize,
) -> io::Result<()> {
    check_peer(&stream)?;
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    BufReader::new(reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
    let mut answer = match serde_json::from_slice(&line)? {
        Question::Cancel { server, pid, key } => {
            let request = CancelRequest { pid, key: key.into() };
            let target = match server {
                Some(server) => directory.of(&server).and_then(|door| door.cancels.find(&request)),
                None => directory.find_key(&request),
            };
            if let Some(target) = &target {
                target.cancel().await?;
            }
            serde_json::to_vec(&target.is_some())?
        }
        Question::Used(server) => serde_json::to_vec(&used(directory, &server, waiting))?,
        Question::Hold(server, wish) => match directory.of(&server) {
            // Clients of the gateway in force wait already.
            Some(door) => serde_json::to_vec(&Hold::from(door.hold(wish, false).await))?,
            None => serde_json::to_vec(&Hold::Held { parked: 0, ended: 0 })?,
        },
        Question::Release(server, because) => {
            let door = directory.of(&server);
            if let Some(door) = &door {
                // The switch may be so fresh that the watch of the files has not fired.
                let file = routes.join(format!("{}.json", door.route().server));
                if let Ok(route) = files::read_route(&file, &door.route().server) {
                    door.update(Arc::new(route));
                }
            }
            serde_json::to_vec(&door.is_some_and(|door| door.release(because)))?
        }
        Question::Look => {
            serde_json::to_vec(&Draining { pid: std::process::id(), rank, sessions: directory.sessions() })?
        }
    };
    answer.push(b'\n');
    writer.write_all(&answer).await
}

/// Whether a server is in use here.
fn used(directory: &Directory, server: &str, waiting: usize) -> bool {
    let Some(door) = directory.of(server) else { return false };
    // Who was accepted before the hand-over may still be on its way to a session.
    door.rest.touched.swap(false, Ordering::Relaxed) || door.waiting.available_permits() < waiting
}
