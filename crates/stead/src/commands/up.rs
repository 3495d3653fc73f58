//! `stead up` and `stead plan`.

use std::time::Duration;

use client::wire::Plan;
use component::manifest;

use crate::cli::Which;
use crate::commands::{confirm, progress, url};
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;
use crate::project::{Project, Remembered};

pub(super) async fn run(
    context: &Context,
    which: &Which,
    yes: bool,
    reason: Option<&str>,
    wait: u64,
) -> Result<(), Failure> {
    let project = Project::here()?;
    // Before anything is started: a manifest that cannot be read needs no server.
    let manifest = project.manifest()?;
    let named = which.named()?;
    let client = context.client_or_start().await?;
    let wanted = manifest::to_json(&manifest);
    let plan = client.plan(&named.tenant, &named.stead, &wanted).await?;
    let changed = plan.changes.iter().any(|change| change.action != "keep");
    if !context.json {
        show(&named, &plan)?;
    }
    if changed {
        if !yes {
            confirm("Apply this?")?;
        }
        let stead = client
            .put_stead(&named.tenant, &named.stead, &wanted, Some(plan.generation), reason, None)
            .await?;
        project.remember(&Remembered { tenant: named.tenant.clone(), stead: named.stead.clone() })?;
        if let Some(operation) = stead.operation {
            progress::follow(&client, &named.tenant, operation, Duration::from_secs(wait)).await?;
        }
    }
    let stead = named.get(&client).await?;
    if context.json {
        return output::json(&stead);
    }
    let troubled: Vec<String> = stead
        .components
        .iter()
        .flat_map(|component| {
            component.conditions.iter().map(|condition| format!("{}: {}", component.name, condition.message))
        })
        .collect();
    if !troubled.is_empty() {
        return Err(Failure::Failed(troubled.join("\n")));
    }
    for component in &stead.components {
        output::line(url::of(context, &client, &named, component, crate::cli::UrlFormat::Libpq).await?)?;
    }
    Ok(())
}

pub(super) async fn plan(context: &Context, which: &Which) -> Result<(), Failure> {
    let manifest = Project::here()?.manifest()?;
    let named = which.named()?;
    let client = context.client_or_start().await?;
    let plan = client.plan(&named.tenant, &named.stead, &manifest::to_json(&manifest)).await?;
    if context.json { output::json(&plan) } else { show(&named, &plan) }
}

fn show(named: &Named, plan: &Plan) -> Result<(), Failure> {
    output::line(format!("{}/{}", named.tenant, named.stead))?;
    for change in &plan.changes {
        let (sign, note) = match change.action.as_str() {
            "create" => ("+", "is made"),
            "update" if change.restarts => ("~", "is changed; the server restarts, which ends its sessions"),
            "update" => ("~", "is changed"),
            "delete" => ("-", "is REMOVED, with all its data"),
            _ => (" ", "stays as it is"),
        };
        output::line(format!("{sign} {} {note}", change.component))?;
        for difference in &change.differences {
            let (before, after) = (output::plain(&difference.before), output::plain(&difference.after));
            match change.action.as_str() {
                "create" if after == "-" => {}
                "create" => output::line(format!("    {} = {after}", difference.field))?,
                "delete" => {}
                _ => output::line(format!("    {}: {before} -> {after}", difference.field))?,
            }
        }
    }
    Ok(())
}
