//! The minder of a worker sees time pass and processes end: deadlines, freezing, the word of the keeper.
//!
//! It is not woken by every invocation. While its worker has something to do it looks again every now and then, soon
//! enough for the next deadline and the next freeze; once the worker is frozen it sleeps until it is thawed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use keeper::wire::WorkerMessage;
use tokio::time::{Instant, sleep_until};

use crate::control_socket::ControlSocket;
use crate::egress;
use crate::engine::Engine;
use crate::freezer::Groups;
use crate::inspection::{self, Sockets};
use crate::invocation::Failure;
use crate::worker::{State, Worker};

/// A worker that has rested so long is frozen; less would freeze one between two calls of a busy client.
const FREEZE_AFTER: Duration = Duration::from_millis(20);
/// How often at least it looks while an invocation is under way.
const LOOK: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Debug, Clone, Default)]
struct End {
    code: Option<i32>,
    signal: Option<i32>,
    out_of_memory: bool,
    /// Why it was never begun.
    unrunnable: Option<String>,
}

/// Minds a worker until it has ended.
pub(crate) async fn mind(
    engine: Arc<Engine>,
    worker: Arc<Worker>,
    mut control: ControlSocket,
    said: Vec<(WorkerMessage, Vec<OwnedFd>)>,
) {
    for (message, fds) in said {
        if let Some(end) = hear(&engine, &worker, message, fds) {
            return ended(&worker, end);
        }
    }
    loop {
        let again = look(&engine, &worker);
        tokio::select! {
            message = control.receive() => match message {
                Ok(Some((message, fds))) => {
                    if let Some(end) = hear(&engine, &worker, message, fds) {
                        return ended(&worker, end);
                    }
                }
                // The keeper has ended; the next one knows the worker, but tells nobody of its end.
                Ok(None) => return mind_alone(engine, worker).await,
                Err(error) => {
                    tracing::warn!(%error, worker = %worker.name, "a worker's control socket broke");
                    engine.stop_worker(&worker);
                    return ended(&worker, End::default());
                }
            },
            () = worker.minder.notified() => {}
            () = until(again) => {}
        }
    }
}

/// Minds a worker of whose end nobody tells, until it has finished what it does: then it goes.
async fn mind_alone(engine: Arc<Engine>, worker: Arc<Worker>) {
    if worker.output.leave_alone() {
        return has_ended(&worker);
    }
    if let Some(pool) = worker.pool.upgrade() {
        pool.release(&worker);
    }
    loop {
        let again = look(&engine, &worker);
        tokio::select! {
            () = worker.ended() => return,
            () = worker.minder.notified() => {}
            () = until(again) => {}
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Does what is due; says when something may be due again.
fn look(engine: &Arc<Engine>, worker: &Arc<Worker>) -> Option<Instant> {
    let now = Instant::now();
    if let Some((began, deadline)) = worker.deadline() {
        if now >= deadline {
            late(engine, worker);
            return None;
        }
        // Rarely for one that works long, often while calls are short.
        let pause = (now.duration_since(began) / 4).clamp(FREEZE_AFTER, LOOK);
        return Some(deadline.min(now + pause));
    }
    let inspected = worker.is_inspected();
    match &mut *worker.lock() {
        State::Resting { frozen: true, .. } | State::Ended => None,
        // A debugger looks around in it. No deadline, until there is one again.
        State::Resting { .. } | State::Working(_) if inspected => Some(now + LOOK),
        State::Resting { since, frozen, .. } if now >= *since + FREEZE_AFTER => {
            *frozen = worker.groups.get().is_some_and(Groups::freeze);
            // Where it cannot be frozen, nothing is gained by looking often.
            if *frozen { None } else { Some(now + LOOK) }
        }
        State::Resting { since, .. } => Some(*since + FREEZE_AFTER),
        State::Starting(_) | State::Working(_) | State::Answered => Some(now + FREEZE_AFTER),
    }
}

/// The invocation takes too long: the worker goes, and whoever called is told.
fn late(engine: &Arc<Engine>, worker: &Arc<Worker>) {
    engine.stop_worker(worker);
    let seconds = worker.edition.timeout().as_secs_f64();
    worker.lost(|id| {
        let id = id.unwrap_or_default();
        let message = format!("RequestId: {id} Error: Task timed out after {seconds:.2} seconds");
        Failure::found("Sandbox.Timedout", message)
    });
}

/// Takes what the keeper says; the end, when it says that.
fn hear(
    engine: &Arc<Engine>,
    worker: &Arc<Worker>,
    message: WorkerMessage,
    fds: Vec<OwnedFd>,
) -> Option<End> {
    match message {
        WorkerMessage::Groups(groups) => {
            let _ = worker.groups.set(Groups::new(&groups, fds));
        }
        WorkerMessage::Egress(ports) => egress::listen(engine, worker, &ports, fds),
        WorkerMessage::Sockets => {
            let _ = worker.sockets.set(Sockets::new(inspection::port(&worker.edition.version), fds));
        }
        WorkerMessage::Failed(why) => {
            tracing::warn!(worker = %worker.name, why, "a worker failed");
            return Some(End { unrunnable: unrunnable(&why), ..End::default() });
        }
        WorkerMessage::Ended { code, signal, out_of_memory, .. } => {
            return Some(End { code, signal, out_of_memory, unrunnable: None });
        }
        WorkerMessage::Ready => {}
    }
    None
}

/// As far as anybody knows.
pub(crate) fn has_ended(worker: &Worker) {
    worker.lost(|id| failure(id, End::default()));
}

fn ended(worker: &Arc<Worker>, end: End) {
    if end.signal == Some(9) && !end.out_of_memory {
        worker.hand_back();
    }
    worker.lost(|id| failure(id, end));
}

/// What Lambda says of a process that ended.
fn failure(id: Option<&str>, end: End) -> Failure {
    let id = id.map_or(String::new(), |id| format!("RequestId: {id} "));
    if let Some(why) = end.unrunnable {
        return Failure::found("Runtime.InvalidEntrypoint", format!("{id}Error: {why}"));
    }
    let how = match (end.code, end.signal) {
        _ if end.out_of_memory => "Runtime exited with error: signal: killed".to_owned(),
        (Some(0), _) => "Runtime exited without providing a reason".to_owned(),
        (Some(code), _) => format!("Runtime exited with error: exit status {code}"),
        (None, Some(signal)) => format!("Runtime exited with error: signal: {}", signal_name(signal)),
        (None, None) => "Runtime exited without providing a reason".to_owned(),
    };
    let kind = if end.out_of_memory { "Runtime.OutOfMemory" } else { "Runtime.ExitError" };
    Failure::found(kind, format!("{id}Error: {how}"))
}

/// What Lambda says of a program that cannot be begun, of the launcher's words for it.
fn unrunnable(why: &str) -> Option<String> {
    let (path, error) = why.strip_prefix("cannot run `")?.split_once("`: ")?;
    let error = error.split_once(" (os error").map_or(error, |(error, _)| error);
    Some(format!("fork/exec {path}: {}", error.to_lowercase()))
}

/// Whether a failure is that of a process that was killed, and not for want of memory.
pub(crate) fn was_killed(failure: &Failure) -> bool {
    failure.fatal
        && failure.error_type == "Runtime.ExitError"
        && failure.message().ends_with("signal: killed")
}

/// As Go, and so Lambda, calls signals.
fn signal_name(signal: i32) -> String {
    match signal {
        1 => "hangup".into(),
        2 => "interrupt".into(),
        3 => "quit".into(),
        4 => "illegal instruction".into(),
        6 => "aborted".into(),
        7 => "bus error".into(),
        8 => "floating point exception".into(),
        9 => "killed".into(),
        11 => "segmentation fault".into(),
        13 => "broken pipe".into(),
        15 => "terminated".into(),
        31 => "bad system call".into(),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_lambda_tells_them() {
        let told = |end| failure(Some("r"), end).message();
        let end = |code, signal| End { code, signal, ..End::default() };
        assert_eq!(told(end(Some(1), None)), "RequestId: r Error: Runtime exited with error: exit status 1");
        assert_eq!(told(end(Some(0), None)), "RequestId: r Error: Runtime exited without providing a reason");
        assert_eq!(
            told(end(None, Some(11))),
            "RequestId: r Error: Runtime exited with error: signal: segmentation fault"
        );
        let killed = failure(Some("r"), End { out_of_memory: true, ..end(None, Some(9)) });
        assert_eq!(killed.error_type, "Runtime.OutOfMemory");
        assert!(!was_killed(&killed) && was_killed(&failure(Some("r"), end(None, Some(9)))));
        let unrunnable = unrunnable("cannot run `/var/task/bootstrap`: Exec format error (os error 8)");
        let told = failure(None, End { unrunnable, ..End::default() });
        assert_eq!(told.error_type, "Runtime.InvalidEntrypoint");
        assert_eq!(told.message(), "Error: fork/exec /var/task/bootstrap: exec format error");
    }
}
