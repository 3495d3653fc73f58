//! `stead move`.

use std::time::{Duration, Instant};

use crate::cli::Which;
use crate::commands::progress;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// A move takes a fraction of a second, but waits for open transactions, and is tried again.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component).await?.name;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = client.move_component(tenant, stead, &component, reason, None).await?;
    let operation = progress::follow(&client, tenant, operation, Instant::now() + LIMIT).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(format!("{component} runs as another process, in another folder. Sessions went on."))
}
