//! `stead dev`: every save is live, and what functions write is shown beside; where it is wanted, with a debugger.

use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::mpsc;

use super::inspect::Door;
use crate::cli::{InspectArgs, LogsArgs, Which};
use crate::commands::{logs, up};
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;
use crate::project::{Project, Wanted};

/// After a change nothing else may change for so long: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(12);
/// But no longer than this is waited for it.
const RESTLESS: Duration = Duration::from_millis(250);
/// How long an edit is followed; it goes on.
const WAIT: &str = "30s";

/// Brings the stead up, and then every change of the folder, until interrupted.
pub(super) async fn run(
    context: &Context,
    which: &Which,
    yes: bool,
    inspect: &InspectArgs,
) -> Result<(), Failure> {
    let project = Project::here()?;
    // What cannot be is told before anything is changed.
    let door = Door::open(&project, inspect).await?;
    // A save while it is brought up counts like any other.
    let (changed, mut changes) = mpsc::channel(64);
    let _watching = watch(project.folder(), changed)?;
    let mut before = Some(project.wanted()?.body);
    let how = up::How { yes, reason: Some("stead dev"), wait: 300, canary: None };
    up::run(context, which, how).await?;
    let named = which.named()?;
    let client = context.client().await?;
    output::remark(format!("watching {}; every save is live. Ctrl-C ends it", project.folder().display()));
    let mut following = LogsArgs::following(which.clone());
    following.by = crate::cli::SaidBy::Function;
    let live = async {
        while let Some(began) = changes.recv().await {
            settle(&mut changes).await;
            match save(&project, &client, &named, &mut before).await {
                Ok(true) => output::remark(format!("live after {} ms", began.elapsed().as_millis())),
                Ok(false) => {}
                // What is wrong now the next save may put right.
                Err(Failure::Unreachable(why)) => {
                    output::remark(format!("{why}; save again once it is back"))
                }
                Err(failure) => drop(failure.tell(context.json)),
            }
        }
        Ok(())
    };
    let inspected = async {
        match door {
            Some(door) => door.keep(&client, &named).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = live => ended,
        ended = inspected => ended,
        ended = logs::run(context, &following) => ended,
        _ = tokio::signal::ctrl_c() => {
            output::remark("stopped watching; what was saved stays live");
            Ok(())
        }
    }
}

/// Tells of every change below a folder that may matter.
fn watch(folder: &Path, changed: mpsc::Sender<Instant>) -> Result<RecommendedWatcher, Failure> {
    let cannot =
        |error: notify::Error| Failure::Failed(format!("cannot watch {}: {error}", folder.display()));
    let root = folder.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let read = matches!(event.kind, EventKind::Access(_));
        if !read && event.paths.iter().any(|path| matters(&root, path)) {
            // One that is waiting already says the same.
            let _ = changed.try_send(Instant::now());
        }
    })
    .map_err(cannot)?;
    watcher.watch(folder, RecursiveMode::Recursive).map_err(cannot)?;
    Ok(watcher)
}

/// Not what Stead itself or a version control writes.
fn matters(root: &Path, path: &Path) -> bool {
    let relative = path.strip_prefix(root).unwrap_or(path);
    !relative.components().any(|part| matches!(part.as_os_str().to_str(), Some(".stead" | ".git")))
}

/// Waits until nothing has changed for a moment.
async fn settle(changes: &mut mpsc::Receiver<Instant>) {
    let began = Instant::now();
    while began.elapsed() < RESTLESS {
        match tokio::time::timeout(QUIET, changes.recv()).await {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
}

/// Brings a change about, and whether there was one against what was wanted before, as far as that is known.
async fn save(
    project: &Project,
    client: &Client,
    named: &Named,
    before: &mut Option<Value>,
) -> Result<bool, Failure> {
    let Wanted { body, packages } = project.wanted()?;
    if before.as_ref() == Some(&body) {
        return Ok(false);
    }
    up::upload(client, named, packages).await?;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let how = client::Edit { reason: Some("stead dev"), wait: Some(WAIT), ..client::Edit::default() };
    let answer = match client.put_stead(tenant, stead, &body, &how).await {
        Ok(answer) => answer,
        Err(error) => {
            // It may have been taken.
            *before = None;
            return Err(error.into());
        }
    };
    // Also where it fails: to go back to what was before is another change.
    *before = Some(body);
    match answer.operation {
        Some(operation) if operation.state == "failed" => {
            Err(Failure::Failed(operation.error.unwrap_or_else(|| "it failed".into())))
        }
        Some(operation) if operation.state == "running" => {
            Err(Failure::Failed("it is not live yet and goes on; see `stead status`".into()))
        }
        _ => Ok(true),
    }
}
