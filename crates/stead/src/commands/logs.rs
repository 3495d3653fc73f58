//! `stead logs`.

use std::time::Duration;

use client::Part;
use client::wire::LogLine;

use crate::cli::Which;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// Between two looks when following.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    lines: u32,
    follow: bool,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component).await?.name;
    let mut part = Part { limit: Some(lines.clamp(1, 500)), ..Part::default() };
    loop {
        let page = client.logs(&named.tenant, &named.stead, &component, &part).await?;
        for line in &page.items {
            show(context, line)?;
        }
        if !follow {
            return Ok(());
        }
        if let Some(last) = page.items.last() {
            part = Part { since: Some(last.at.clone()), limit: Some(500), ..Part::default() };
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn show(context: &Context, line: &LogLine) -> Result<(), Failure> {
    if context.json {
        // A line each, so that `--follow` can be piped.
        return output::line(line.fields.to_string());
    }
    let field = |name: &str| line.fields.get(name).and_then(|value| value.as_str());
    output::line(format!("{}  {:<7} {}", line.at, line.severity, line.message))?;
    for name in ["detail", "hint", "statement"] {
        if let Some(text) = field(name) {
            output::line(format!("    {name}: {text}"))?;
        }
    }
    Ok(())
}
