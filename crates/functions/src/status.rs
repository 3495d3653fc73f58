//! The status socket: a line of JSON asks, a line answers. Who may connect is a matter of the file's mode (0660): the
//! control plane.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::control::Command;
use crate::engine::Engine;
use crate::files::Share;
use crate::route::{Prepared, Request};

/// Longest request, bytes.
const MAX_LINE: u64 = 4096;

/// An answer to what is no request.
#[derive(Serialize)]
struct Complaint {
    error: String,
}

/// Opens a socket, in place of one that a killed process left.
pub(crate) fn bind(path: &Path, share: Share) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    share.path(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers for ever.
pub(crate) async fn serve(engine: Arc<Engine>, listener: UnixListener, commands: mpsc::Sender<Command>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (engine, commands) = (engine.clone(), commands.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(&engine, stream, commands).await {
                        tracing::debug!(%error, "a conversation on the status socket ended");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept on the status socket; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(engine: &Engine, stream: UnixStream, commands: mpsc::Sender<Command>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        let mut answer = answer(engine, &line, &commands).await?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
    }
}

async fn answer(engine: &Engine, line: &[u8], commands: &mpsc::Sender<Command>) -> io::Result<Vec<u8>> {
    let json = match serde_json::from_slice(line) {
        Ok(Request::Refresh) => serde_json::to_vec(&ask(commands, Command::Refresh).await?),
        Ok(Request::Function { function }) => {
            serde_json::to_vec(&ask(commands, |reply| Command::Function(function, reply)).await?)
        }
        Ok(Request::Prepare { function, version }) => {
            // What was written just now is in force first.
            ask(commands, Command::Refresh).await?;
            let prepared = match engine.table.get(&function) {
                Some(function) => function.prepare(version).await,
                None => Prepared::Unavailable { why: format!("there is no route of `{function}`") },
            };
            serde_json::to_vec(&prepared)
        }
        Err(error) => serde_json::to_vec(&Complaint { error: format!("not a request: {error}") }),
    };
    Ok(json?)
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> io::Result<T> {
    let stopping = || io::Error::other("the engine is stopping");
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}
