//! Waiting for an operation, and showing how far it is.

use std::time::{Duration, Instant};

use client::Client;
use client::wire::Operation;
use indicatif::{ProgressBar, ProgressStyle};

use crate::context::WAIT_STEP;
use crate::exit::Failure;

/// Waits for the end of an operation, at most `limit`; a spinner says what is being done.
pub(super) async fn follow(
    client: &Client,
    tenant: &str,
    mut operation: Operation,
    limit: Duration,
) -> Result<Operation, Failure> {
    let until = Instant::now() + limit;
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    while operation.state == "running" {
        bar.set_message(message(&operation));
        bar.tick();
        if Instant::now() >= until {
            bar.finish_and_clear();
            return Err(Failure::Running(format!(
                "{} of `{}` is still under way after {} s ({}); see how it goes on with `stead status`",
                operation.kind,
                operation.stead,
                limit.as_secs(),
                message(&operation)
            )));
        }
        operation = client.operation(tenant, operation.id, Some(WAIT_STEP)).await?;
    }
    bar.finish_and_clear();
    match operation.error.clone() {
        Some(error) if operation.state == "failed" => Err(Failure::Failed(error)),
        _ => Ok(operation),
    }
}

fn message(operation: &Operation) -> String {
    let open: Vec<String> = operation
        .targets
        .iter()
        .filter(|target| target.state == "running")
        .map(|target| format!("{}: {}", target.component, target.step.as_deref().unwrap_or("waiting")))
        .collect();
    open.join(", ")
}
