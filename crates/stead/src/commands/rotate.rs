//! `stead rotate`.

use std::time::{Duration, Instant};

use crate::cli::Which;
use crate::commands::progress;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// A server that is up takes its new password in milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component).await?.name;
    let operation =
        client.rotate(named.tenant.as_str(), named.stead.as_str(), &component, reason, None).await?;
    let operation =
        progress::follow(&client, named.tenant.as_str(), operation, Instant::now() + LIMIT).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(format!(
        "{component} has a new password; `stead url {component}` shows it. Sessions that are open go on."
    ))
}
