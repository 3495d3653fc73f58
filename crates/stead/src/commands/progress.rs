//! Waiting for an operation, and showing how far it is.

use std::time::{Duration, Instant};

use client::Client;
use client::wire::{Component, Operation};
use indicatif::{ProgressBar, ProgressStyle};

use crate::context::WAIT_STEP;
use crate::exit::Failure;

/// How long a server may be away while it is waited for: long enough for a restart.
const AWAY: Duration = Duration::from_secs(30);
/// Between two attempts to reach one that is away.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);

/// A spinner on standard error; draws nothing where that is no terminal.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// Waits for the end of an operation until then; a spinner says what is being done.
pub(super) async fn follow(
    client: &Client,
    tenant: &str,
    mut operation: Operation,
    until: Instant,
) -> Result<Operation, Failure> {
    let bar = bar();
    while operation.state == "running" {
        bar.set_message(message(&operation));
        if Instant::now() >= until {
            bar.finish_and_clear();
            return Err(Failure::Running(format!(
                "{} of `{}` is still under way ({}); it goes on: see `stead status`",
                operation.kind,
                operation.stead,
                message(&operation)
            )));
        }
        let id = operation.id;
        let asked = patiently(|| async {
            client.operation(tenant, id, Some(WAIT_STEP)).await.map_err(Failure::from)
        });
        operation = or_interrupt(&bar, asked).await??;
    }
    bar.finish_and_clear();
    match operation.error.clone() {
        Some(error) if operation.state == "failed" => Err(Failure::Failed(error)),
        _ => Ok(operation),
    }
}

/// Waits, but not past a Ctrl-C.
pub(super) async fn or_interrupt<T>(bar: &ProgressBar, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        done = work => Ok(done),
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            Err(Failure::Interrupted("stopped waiting; what was asked for goes on: see `stead status`".into()))
        }
    }
}

/// Asks again while the server is away for a moment: what was asked for is on record and goes on.
pub(super) async fn patiently<T, F: Future<Output = Result<T, Failure>>>(
    ask: impl Fn() -> F,
) -> Result<T, Failure> {
    let until = Instant::now() + AWAY;
    loop {
        match ask().await {
            Err(Failure::Unreachable(_)) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
            other => return other,
        }
    }
}

fn message(operation: &Operation) -> String {
    let open: Vec<String> = operation
        .targets
        .iter()
        .filter(|target| target.state == "running")
        .map(|target| {
            format!("{}: {}", target.component, target.step.as_deref().unwrap_or("waiting for its turn"))
        })
        .collect();
    open.join(", ")
}

/// What is being done to components that nobody edits at the moment.
pub(super) fn doing(components: &[&Component]) -> String {
    let step = components
        .iter()
        .find_map(|component| component.step.clone().filter(|_| component.phase != "blocked"));
    step.unwrap_or_else(|| "waiting for the next attempt".into())
}
