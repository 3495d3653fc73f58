//! `stead logs`.

use std::time::Duration;

use client::Part;
use client::wire::LogLine;
use jiff::Timestamp;
use jiff::tz::TimeZone;

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
    let mut client = context.client().await?;
    let component = named.component(&client, component).await?.name;
    let mut part = Part { limit: Some(lines), ..Part::default() };
    let mut away = false;
    loop {
        match client
            .logs(named.tenant.as_str(), named.stead.as_str(), &component, &part)
            .await
            .map_err(Failure::from)
        {
            Ok(page) => {
                for line in &page.items {
                    show(context, line)?;
                }
                if let Some(last) = page.items.last() {
                    part = Part { since: Some(last.at.clone()), limit: Some(500), ..Part::default() };
                }
                away = false;
            }
            // The server being followed goes on while the control plane restarts.
            Err(Failure::Unreachable(_)) if follow => {
                if !std::mem::replace(&mut away, true) {
                    output::remark("the Stead server does not answer; trying again");
                }
                if let Ok(back) = context.client().await {
                    client = back;
                }
            }
            Err(error) => return Err(error),
        }
        if !follow {
            return Ok(());
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
    let at = line.at.parse::<Timestamp>().map_or_else(
        |_| line.at.clone(),
        |at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    );
    output::line(format!("{at}  {:<7}  {}", line.severity, line.message))?;
    for name in ["detail", "hint", "context", "statement"] {
        if let Some(text) = field(name) {
            output::line(format!("    {name}: {text}"))?;
        }
    }
    Ok(())
}
