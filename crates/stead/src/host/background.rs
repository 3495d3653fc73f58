//! Starting and stopping the processes of a host from the command line.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

use crate::context::{Running, SERVER_START};
use crate::exit::Failure;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A process of this same binary that outlives this one.
fn detached(home: &Path, verb: &str, log: &Path) -> Result<std::process::Child, Failure> {
    let cannot = |what: &str, error: std::io::Error| Failure::Failed(format!("cannot {what}: {error}"));
    let program = std::env::current_exe().map_err(|error| cannot("find the stead binary", error))?;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        // Others of Stead's users may make names in this folder; root writes through none of their links.
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(log)
        .map_err(|error| cannot(&format!("write {}", log.display()), error))?;
    let copy = file.try_clone().map_err(|error| cannot("share the log", error))?;
    let mut command = Command::new(program);
    command.args(["--home"]).arg(home).arg(verb).current_dir("/");
    command.stdin(Stdio::null()).stdout(file).stderr(copy);
    // A group of its own, so that Ctrl-C at the terminal does not reach it.
    command.process_group(0);
    command.spawn().map_err(|error| cannot(&format!("start `stead {verb}`"), error))
}

/// Starts a control plane and waits until it answers.
pub(crate) async fn start(home: &Path) -> Result<(), Failure> {
    super::serve::make_home(home)?;
    let log = home.join("logs/server.log");
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::Failed(format!("cannot make {}: {error}", folder.display())))?;
    }
    let from = std::fs::metadata(&log).map_or(0, |meta| meta.len());
    let mut child = detached(home, "server", &log)?;
    let until = Instant::now() + SERVER_START;
    loop {
        let ended = child.try_wait().map_err(Failure::failed)?;
        if let Some(running) = read(home)
            && running.pid == child.id()
        {
            return Ok(());
        }
        if ended.is_some() || Instant::now() > until {
            let text = std::fs::read(&log).unwrap_or_default();
            let said =
                String::from_utf8_lossy(text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default())
                    .into_owned();
            let what = if ended.is_some() { "ended at once" } else { "did not come up in time" };
            return Err(Failure::Failed(format!(
                "the Stead server {what}; it said ({}):\n{}",
                log.display(),
                said.trim()
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn read(home: &Path) -> Option<Running> {
    serde_json::from_slice(&std::fs::read(home.join("server.json")).ok()?).ok()
}

/// Has a keeper run for the home; starts one where none does.
pub(super) fn ensure_keeper(home: &Path) -> Result<(), Failure> {
    let client = keeper::Client::new(home);
    if client.host().is_ok() {
        return Ok(());
    }
    let log = home.join("keeper.start.log");
    let mut child = detached(home, "keeper", &log)?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if client.host().is_ok() {
            let _ = std::fs::remove_file(&log);
            return Ok(());
        }
        if child.try_wait().map_err(Failure::failed)?.is_some() || Instant::now() > until {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure::Failed(format!("the keeper did not come up: {}", said.trim())));
        }
        wait(LOOK);
    }
}

/// Waits without a runtime.
fn wait(time: Duration) {
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = rustix::event::poll(&mut [], Some(&timeout));
}

/// The lock that one control plane of a home holds.
pub(super) fn lock(home: &Path) -> Result<File, Failure> {
    let path = home.join("server.lock");
    // Who could open it could hold it.
    let open =
        || OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let file = open().map_err(|error| Failure::Failed(format!("cannot open {}: {error}", path.display())))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => {
            let who = read(home)
                .map_or_else(String::new, |running| format!(" (process {}, {})", running.pid, running.url));
            Err(Failure::Failed(format!(
                "a Stead server{who} already runs for {}; use that one, or end it with `stead server stop`",
                home.display()
            )))
        }
    }
}

/// Stops the control plane of a home, and with `all` everything else on the host.
pub(crate) fn stop(home: &Path, all: bool) -> Result<String, Failure> {
    let mut said = Vec::new();
    match read(home) {
        Some(running) if lock(home).is_err() => {
            let pid = i32::try_from(running.pid).ok().and_then(rustix::process::Pid::from_raw);
            let pid = pid.ok_or_else(|| Failure::failed("server.json names no process; remove it"))?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|error| Failure::Failed(format!("cannot stop process {}: {error}", running.pid)))?;
            let until = Instant::now() + Duration::from_secs(60);
            while lock(home).is_err() {
                if Instant::now() > until {
                    return Err(Failure::Running(format!("process {} is still stopping", running.pid)));
                }
                wait(LOOK);
            }
            said.push("the Stead server is stopped".to_owned());
        }
        _ => said.push("no Stead server was running".to_owned()),
    }
    if all {
        // Before a server is stopped that nobody works at any more: what is stored then is all.
        match finish_archives(home) {
            Ok(0) => {}
            Ok(left) => said.push(format!(
                "not all log is in the store of backups yet (servers: {left}); it is on their disks, and stored when they \
                 run again"
            )),
            Err(error) => tracing::debug!(%error, "no archiver was asked"),
        }
        let client =
            keeper::Client::new(home).with_timeouts(Duration::from_secs(2), Duration::from_secs(120));
        match client.shutdown(true) {
            Ok(()) => said.push("servers, gateway and keeper are stopped".to_owned()),
            Err(keeper::ClientError::Unreachable { .. }) => said.push("no keeper was running".to_owned()),
            Err(error) => return Err(Failure::failed(error)),
        }
    } else {
        said.push("servers go on".to_owned());
    }
    Ok(said.join("; "))
}

fn finish_archives(home: &Path) -> std::io::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(archiver::Client::new(home).finish())
}
