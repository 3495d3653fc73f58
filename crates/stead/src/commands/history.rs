//! `stead history`.

use client::Part;
use client::wire::HistoryLine;
use jiff::tz::TimeZone;

use crate::cli::Which;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(
    context: &Context,
    which: &Which,
    all: bool,
    since: Option<String>,
    lines: u32,
) -> Result<(), Failure> {
    let (tenant, stead) = if all {
        let tenant = which.tenant.clone().map_or_else(|| which.named().map(|named| named.tenant), Ok)?;
        (tenant, None)
    } else {
        let named = which.named()?;
        (named.tenant, Some(named.stead))
    };
    let client = context.client().await?;
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    let mut part = Part { stead, since, limit: Some(lines.clamp(1, 500)), ..Part::default() };
    loop {
        let page = client.history(&tenant, &part).await?;
        found.extend(page.items);
        match page.next {
            Some(next) if found.len() < wanted => part.cursor = Some(next),
            _ => break,
        }
    }
    found.truncate(wanted);
    if context.json {
        return output::json(&found);
    }
    for line in found.iter().rev() {
        show(line)?;
    }
    Ok(())
}

fn show(line: &HistoryLine) -> Result<(), Failure> {
    let at = line.at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let what = [line.stead.as_deref(), line.component.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let refused = if line.outcome == "refused" { " REFUSED" } else { "" };
    output::line(format!("{at}  {:<10} {:<28}{refused} {what}", line.actor, line.action).trim_end())?;
    if let Some(reason) = &line.reason {
        output::line(format!("    {reason}"))?;
    }
    for difference in &line.differences {
        let (before, after) = (output::plain(&difference.before), output::plain(&difference.after));
        output::line(format!("    {}: {before} -> {after}", difference.field))?;
    }
    Ok(())
}
