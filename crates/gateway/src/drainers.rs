//! Asking the gateways that drain: those that handed over, and still have sessions. They are found by their
//! sockets, so that a gateway that was started anew knows them as well.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::drain::{self, Question};
use crate::files::Paths;
use crate::handover::check_peer;
use crate::hold::{Because, Wish};
use crate::route::{Draining, Hold};
use crate::startup::CancelRequest;

/// One that takes longer is taken for busy.
const PATIENCE: Duration = Duration::from_secs(3);

/// Every gateway of this home that drains.
#[derive(Debug, Clone)]
pub(crate) struct Drainers {
    folder: PathBuf,
    /// This process's own socket, for the time when it drains itself.
    own: PathBuf,
}

impl Drainers {
    pub(crate) fn new(paths: &Paths, rank: u64) -> Drainers {
        Drainers { folder: paths.gateway.clone(), own: drain::socket(paths, rank) }
    }

    /// Passes a cancel request on: whether one of them had its key.
    pub(crate) async fn cancel(&self, server: Option<&str>, request: &CancelRequest) -> bool {
        for socket in self.sockets() {
            let (server, key) = (server.map(str::to_owned), request.key.to_vec());
            let question = Question::Cancel { server, pid: request.pid, key };
            if let Ok(Some(true)) = ask::<bool>(&socket, &question).await {
                return true;
            }
        }
        false
    }

    /// Whether a session of one of them did anything at a server since this was asked last.
    pub(crate) async fn use_it(&self, server: &str) -> bool {
        self.any(|| Question::Used(server.to_owned())).await
    }

    /// Has them hold their sessions of a server; what that came to. Where one cannot, none does.
    pub(crate) async fn hold(&self, server: &str, wish: Wish) -> Hold {
        let (mut parked, mut ended) = (0, 0);
        for socket in self.sockets() {
            let question = Question::Hold(server.to_owned(), wish);
            let busy = match ask_for(&socket, &question, wish.patience + PATIENCE).await {
                Ok(Some(Hold::Held { parked: here, ended: gone })) => {
                    (parked, ended) = (parked + here, ended + gone);
                    continue;
                }
                Ok(None) => continue,
                Ok(Some(busy @ Hold::Busy { .. })) => busy,
                Err(error) => Hold::Busy {
                    in_transaction: false,
                    why: format!("a gateway that was replaced, and has sessions left, says: {error}"),
                },
            };
            self.release(server, wish.because).await;
            return busy;
        }
        Hold::Held { parked, ended }
    }

    /// Has them let their sessions go on.
    pub(crate) async fn release(&self, server: &str, because: Because) {
        for socket in self.sockets() {
            let released = ask::<bool>(&socket, &Question::Release(server.to_owned(), because)).await;
            if let Err(error) = released {
                tracing::warn!(%error, "a draining gateway does not answer; what it holds it releases by itself");
            }
        }
    }

    /// Who they are, for the status.
    pub(crate) async fn look(&self) -> Vec<Draining> {
        let mut found = Vec::new();
        for socket in self.sockets() {
            if let Ok(Some(draining)) = ask(&socket, &Question::Look).await {
                found.push(draining);
            }
        }
        found.sort_by_key(|draining: &Draining| draining.rank);
        found
    }

    /// Whether one says yes. Who does not answer, and is not gone, may well have a session in use.
    async fn any(&self, question: impl Fn() -> Question) -> bool {
        for socket in self.sockets() {
            match ask(&socket, &question()).await {
                Ok(Some(false) | None) => {}
                Ok(Some(true)) => return true,
                Err(error) => {
                    tracing::warn!(%error, socket = %socket.display(), "a draining gateway does not answer");
                    return true;
                }
            }
        }
        false
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let is_ours = |name: &str| name.starts_with("drain-") && name.ends_with(".sock");
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_ours))
            .map(|entry| entry.path())
            .filter(|socket| *socket != self.own)
            .collect()
    }
}

/// `None` where nobody is there any more.
async fn ask<T: DeserializeOwned>(socket: &Path, question: &Question) -> io::Result<Option<T>> {
    ask_for(socket, question, PATIENCE).await
}

async fn ask_for<T: DeserializeOwned>(
    socket: &Path,
    question: &Question,
    patience: Duration,
) -> io::Result<Option<T>> {
    let mut stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // It was killed.
            let _ = std::fs::remove_file(socket);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    check_peer(&stream)?;
    let talk = async {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        BufReader::new(&mut stream).read_until(b'\n', &mut answer).await?;
        Ok(Some(serde_json::from_slice(&answer)?))
    };
    timeout(patience, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
