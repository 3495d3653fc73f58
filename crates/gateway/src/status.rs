//! The status socket: a line of JSON asks, a line answers. Who may connect is a matter of the file's
//! mode (0660): the control plane. What is said here changes when files are read, and holds a server's sessions
//! for a bounded time; it changes nothing of what is in force.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::control::Command;
use crate::hold::{self, Because, Wish};
use crate::route::{Hold, Request};

/// Longest request, bytes.
const MAX_LINE: u64 = 4096;

/// An answer to what is no request.
#[derive(Serialize)]
struct Complaint {
    error: String,
}

/// Opens the socket, in place of one that a killed gateway left.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    bind_for(path, 0o660)
}

/// The same for whom a mode lets in.
pub(crate) fn bind_for(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Answers for ever.
pub(crate) async fn serve(listener: UnixListener, commands: mpsc::Sender<Command>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let commands = commands.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, commands).await {
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

async fn converse(stream: UnixStream, commands: mpsc::Sender<Command>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        if let Ok(Request::HandOver { rank }) = serde_json::from_slice(&line) {
            let stream = reader.into_inner().reunite(writer).map_err(io::Error::other)?;
            return commands.send(Command::HandOver(stream, rank)).await.map_err(|_| stopping());
        }
        let mut answer = answer(&line, &commands).await?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
    }
}

async fn answer(line: &[u8], commands: &mpsc::Sender<Command>) -> io::Result<Vec<u8>> {
    let json = match serde_json::from_slice(line) {
        Ok(Request::Refresh) => serde_json::to_vec(&ask(commands, Command::Refresh).await?),
        Ok(Request::Status) => serde_json::to_vec(&ask(commands, Command::Status).await?),
        Ok(Request::Route { server }) => {
            serde_json::to_vec(&ask(commands, |reply| Command::Route(server, reply)).await?)
        }
        Ok(Request::Hold { server, patience_ms, deadline_ms, insist }) => {
            let wish = Wish {
                because: Because::Moved,
                patience: Duration::from_millis(patience_ms),
                deadline: Duration::from_millis(deadline_ms),
                insist,
            };
            let held = match ask(commands, |reply| Command::Door(server, reply)).await? {
                Some(door) => hold::everywhere(&door, wish).await,
                // Nobody can come to a server without a door.
                None => Hold::Held { parked: 0, ended: 0 },
            };
            serde_json::to_vec(&held)
        }
        Ok(Request::Release { server }) => {
            let door = ask(commands, |reply| Command::Door(server, reply)).await?;
            let released = match door {
                Some(door) => hold::release(&door, Because::Moved).await,
                None => false,
            };
            serde_json::to_vec(&released)
        }
        Ok(Request::HandOver { .. }) => return Err(io::Error::other("a hand-over is not answered here")),
        Err(error) => serde_json::to_vec(&Complaint { error: format!("not a request: {error}") }),
    };
    Ok(json?)
}

fn stopping() -> io::Error {
    io::Error::other("the gateway is stopping")
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}
