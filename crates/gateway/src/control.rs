//! The task that owns the table: woken by the status socket, by changed files, and by time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::door::Door;
use crate::drain::Private;
use crate::files::Paths;
use crate::handover::{self, Office};
use crate::route::{RouteStatus, Status};
use crate::table::Table;

/// A port that is taken is tried again this often.
const RETRY: Duration = Duration::from_secs(1);

/// What the status socket asks of the table's owner.
pub(crate) enum Command {
    Refresh(oneshot::Sender<Status>),
    Status(oneshot::Sender<Status>),
    Route(String, oneshot::Sender<Option<RouteStatus>>),
    Door(String, oneshot::Sender<Option<Arc<Door>>>),
    /// To the process at the other end, of a rank.
    HandOver(UnixStream, u64),
}

/// Keeps the table in agreement with the files until `stop` speaks, or until the office has been handed over:
/// then where this process answers from now on. One that drains has no office.
pub(crate) async fn keep(
    table: &mut Table,
    paths: &Paths,
    rescan: Duration,
    mut commands: mpsc::Receiver<Command>,
    stop: impl Future<Output = ()>,
    mut office: Option<&mut Office>,
) -> Option<Private> {
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = watch(changed);
    follow(watcher.as_mut(), paths);
    let mut stop = std::pin::pin!(stop);
    table.reload().await;
    table.forget_ports();
    if office.is_some() {
        crate::fail_point!("gateway::serves");
    }
    loop {
        let pause = if table.has_errors() { RETRY.min(rescan) } else { rescan };
        tokio::select! {
            () = &mut stop => return None,
            command = commands.recv() => match command {
                Some(Command::HandOver(stream, rank)) => {
                    let Some(office) = office.as_deref_mut() else { continue };
                    let given = handover::give(stream, rank, office, table).await;
                    if given.is_some() {
                        return given;
                    }
                }
                Some(command) => obey(table, command).await,
                None => return None,
            },
            Some(()) = changes.recv() => table.reload().await,
            () = sleep_until(Instant::now() + pause) => {
                // Folders that were not there, or were replaced, since the last time.
                follow(watcher.as_mut(), paths);
                table.reload().await;
            }
        }
    }
}

async fn obey(table: &mut Table, command: Command) {
    // Who asked may have gone meanwhile.
    match command {
        Command::Refresh(reply) => {
            table.reload().await;
            let _ = reply.send(status(table).await);
        }
        Command::Status(reply) => {
            let _ = reply.send(status(table).await);
        }
        Command::HandOver(..) => {}
        Command::Route(server, reply) => {
            let _ = reply.send(table.reload_one(&server).await);
        }
        Command::Door(server, reply) => {
            let _ = reply.send(table.door(&server));
        }
    }
}

async fn status(table: &Table) -> Status {
    Status { draining: table.drainers().look().await, ..table.status() }
}

fn watch(changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Our own reading must not look like a change.
        let is_change = event.is_ok_and(|event| match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        });
        if is_change {
            // Full: there is one to come anyway.
            let _ = changed.try_send(());
        }
    };
    notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::warn!(%error, "cannot watch files; looking at them now and then"))
        .ok()
}

fn follow(watcher: Option<&mut RecommendedWatcher>, paths: &Paths) {
    let Some(watcher) = watcher else { return };
    let folders: [&Path; 3] = [&paths.gateway, &paths.routes, &paths.tls];
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::debug!(%error, folder = %folder.display(), "cannot watch a folder");
        }
    }
}
