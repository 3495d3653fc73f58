//! `stead invoke`.

use std::io::Read;

use client::wire::Invocation;
use component::Kind;
use serde_json::Value;

use crate::cli::Which;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// Calls a function: its answer on standard output, what it wrote and what it took on standard error.
pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    event: Option<&str>,
    later: bool,
) -> Result<(), Failure> {
    let event = event.map(read).transpose()?.unwrap_or_else(|| "{}".into());
    serde_json::from_str::<Value>(&event)
        .map_err(|error| Failure::Usage(format!("the event is not JSON: {error}")))?;
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, Kind::Function).await?.name;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let answer = client.invoke(tenant, stead, &component, event, later).await?;
    if context.json {
        output::json(&answer)?;
    } else if later {
        output::line(format!(
            "taken as {}; `stead logs {component}` shows what comes of it",
            answer.request_id
        ))?;
    } else {
        if !answer.log.is_empty() {
            output::remark(answer.log.trim_end());
        }
        output::json(&answer.payload)?;
    }
    failed(&answer)
}

/// A handler that failed is a failure of the command.
fn failed(answer: &Invocation) -> Result<(), Failure> {
    if answer.error.is_none() {
        return Ok(());
    }
    let text = |field: &str| answer.payload[field].as_str().unwrap_or("no message").to_owned();
    Err(Failure::Failed(format!("{}: {}", text("errorType"), text("errorMessage"))))
}

/// The event itself, a file, or standard input.
fn read(named: &str) -> Result<String, Failure> {
    let unread = |error: std::io::Error| Failure::Usage(format!("cannot read the event {named}: {error}"));
    if named == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(unread)?;
        return Ok(text);
    }
    if named.trim_start().starts_with(['{', '[', '"']) {
        return Ok(named.to_owned());
    }
    std::fs::read_to_string(named).map_err(unread)
}
