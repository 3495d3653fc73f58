//! `stead status`.

use client::wire::{Component, Stead};
use client::{Client, Part};

use crate::cli::Which;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(context: &Context, which: &Which, all: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    if all {
        return fleet(context, &client).await;
    }
    let stead = which.named()?.get(&client).await?;
    if context.json { output::json(&stead) } else { show(&stead) }
}

async fn fleet(context: &Context, client: &Client) -> Result<(), Failure> {
    let mut steads = Vec::new();
    let mut part = Part { limit: Some(500), ..Part::default() };
    loop {
        let page = client.fleet(&part).await?;
        steads.extend(page.items);
        match page.next {
            Some(next) => part.cursor = Some(next),
            None => break,
        }
    }
    if context.json {
        return output::json(&steads);
    }
    let rows: Vec<Vec<String>> = steads
        .iter()
        .flat_map(|stead| {
            stead.components.iter().map(|component| {
                vec![
                    stead.tenant.clone(),
                    stead.name.clone(),
                    component.name.clone(),
                    component.phase.clone(),
                    component.version.clone().unwrap_or_else(|| "-".into()),
                    component.conditions.iter().map(|c| c.kind.clone()).collect::<Vec<_>>().join(" "),
                ]
            })
        })
        .collect();
    output::table(&["TENANT", "STEAD", "COMPONENT", "PHASE", "VERSION", "CONDITIONS"], &rows)
}

fn show(stead: &Stead) -> Result<(), Failure> {
    output::line(format!("{}/{}", stead.tenant, stead.name))?;
    for component in &stead.components {
        show_component(component)?;
    }
    Ok(())
}

fn show_component(component: &Component) -> Result<(), Failure> {
    output::line(format!("  {}  {}", component.name, component.phase))?;
    let field = |name: &str| component.spec.get(name).map(output::plain).unwrap_or_default();
    let version = component.version.clone().unwrap_or_else(|| field("engine"));
    output::line(format!("    engine {version}, size {}", field("size")))?;
    if let Some(endpoint) = &component.endpoint {
        output::line(format!("    reached at {}:{}, database {}", endpoint.host, endpoint.port, endpoint.database))?;
    }
    output::line(format!("    allows {}", field("allow")))?;
    if let Some(bytes) = component.disk_bytes {
        output::line(format!("    {} MiB on disk", bytes / (1024 * 1024)))?;
    }
    if let Some(at) = component.maintenance_at {
        output::line(format!("    next maintenance window {at} ({})", field("maintenance")))?;
    }
    if let Some(step) = component.step.as_deref().filter(|_| component.phase != "ready") {
        output::line(format!("    now: {step}"))?;
    }
    if let Some(error) = &component.last_error {
        output::line(format!("    last attempt failed, trying again: {error}"))?;
    }
    for difference in &component.drift {
        let (before, after) = (output::plain(&difference.before), output::plain(&difference.after));
        output::line(format!("    drift: {} {before} -> {after}", difference.field))?;
    }
    for condition in &component.conditions {
        output::line(format!("    ! {}: {}", condition.kind, condition.message))?;
    }
    Ok(())
}
