//! `stead up`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::wire::{Canary, Component, Plan, Stead};
use client::{Client, Edit};
use component::function::Digest;
use serde_json::Value;

use crate::cli::{UrlFormat, Which};
use crate::commands::{confirm, plan, progress, status, url};
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;
use crate::project::{Project, Remembered, Wanted};

/// Between two looks at a stead that nobody edits.
const LOOK: Duration = Duration::from_millis(200);

/// How a stead is brought up.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// Nobody is asked.
    pub(super) yes: bool,
    /// Why, for the record.
    pub(super) reason: Option<&'a str>,
    /// Seconds after which it is not waited for any more.
    pub(super) wait: u64,
    /// Per cent of the calls on which new releases are tried.
    pub(super) canary: Option<u8>,
}

pub(super) async fn run(context: &Context, which: &Which, how: How<'_>) -> Result<(), Failure> {
    let How { yes, reason, wait, canary } = how;
    let project = Project::here()?;
    // Before anything is started: a manifest that cannot be read needs no server.
    let Wanted { body: wanted, packages } = project.wanted()?;
    let named = which.named()?;
    let client = context.client_or_start().await?;
    let until = Instant::now() + Duration::from_secs(wait);
    let plan = planned(&client, &named, &wanted, how).await?;
    if !context.json {
        plan::show(&named, &plan, &wanted)?;
    }
    let changes = plan::changes(&plan) || plan.generation == 0;
    if changes && !yes {
        confirm("Apply this?")?;
    }
    upload(&client, &named, packages).await?;
    let before = if changes || canary.is_some() { None } else { Some(named.get(&client).await?) };
    // Also where nothing differs: what is stuck is then tried again now.
    let generation = Some(plan.generation);
    let edit = Edit { generation, reason, wait: None, canary };
    let edit = client.put_stead(named.tenant.as_str(), named.stead.as_str(), &wanted, &edit);
    let operation = edit.await.map_err(overtaken)?.operation;
    project.remember(&Remembered { tenant: named.tenant.clone(), stead: named.stead.clone() })?;
    let stead = match (operation, before) {
        (None, Some(before)) => settled(&client, &named, before, until).await?,
        (operation, _) => {
            if let Some(operation) = operation {
                progress::follow(&client, named.tenant.as_str(), operation, until).await?;
            }
            named.get(&client).await?
        }
    };
    report(context, &client, &named, &stead).await
}

/// The plan. Where it is refused and nobody would have been asked, the edit is sent all the same, because what was
/// asked for and refused is to be on record.
async fn planned(
    client: &Client,
    named: &Named,
    wanted: &Value,
    How { yes, reason, canary, .. }: How<'_>,
) -> Result<Plan, Failure> {
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    match client.plan(tenant, stead, wanted).await {
        Err(client::Error::Refused(_)) if yes => {
            client.put_stead(tenant, stead, wanted, &Edit { reason, canary, ..Edit::default() }).await?;
            // What stood in the way was gone by then.
            Ok(client.plan(tenant, stead, wanted).await?)
        }
        other => Ok(other?),
    }
}

/// Sends the packages that are not there yet.
pub(super) async fn upload(
    client: &Client,
    named: &Named,
    packages: BTreeMap<Digest, Vec<u8>>,
) -> Result<(), Failure> {
    let tenant = named.tenant.as_str();
    for (digest, zip) in packages {
        let digest = digest.hex();
        if !client.has_package(tenant, &digest).await? {
            client.put_package(tenant, &digest, zip).await?;
        }
    }
    Ok(())
}

/// Somebody else edited the stead between the plan and its application.
fn overtaken(error: client::Error) -> Failure {
    match error.problem() {
        Some(problem) if problem.status == 412 => Failure::Failed(
            "the stead was changed by somebody else since this plan was made, so nothing was done; \
             run `stead up` again to see the plan as it is now"
                .into(),
        ),
        _ => error.into(),
    }
}

/// Waits until each component is as wanted, or was tried once more and still is not.
async fn settled(client: &Client, named: &Named, first: Stead, until: Instant) -> Result<Stead, Failure> {
    let bar = progress::bar();
    let mut stead = first.clone();
    let mut told = false;
    loop {
        let waits: Vec<&Component> = stead
            .components
            .iter()
            .filter(|component| !status::is_well(component))
            .filter(|component| !tried_again(component, &first))
            .collect();
        if waits.is_empty() {
            bar.finish_and_clear();
            return Ok(stead);
        }
        let doing = progress::doing(&waits);
        let names = waits.iter().map(|component| component.name.clone()).collect::<Vec<_>>().join(", ");
        if !told && waits.iter().all(|component| component.phase == "blocked") {
            let why = waits
                .iter()
                .flat_map(|component| &component.conditions)
                .map(|condition| condition.kind.as_str());
            output::remark(format!(
                "{names}: blocked ({}); waiting for the next attempt",
                why.collect::<Vec<_>>().join(", ")
            ));
            told = true;
        }
        bar.set_message(format!("{names}: {doing}"));
        if Instant::now() >= until {
            bar.finish_and_clear();
            return Err(Failure::Running(format!(
                "{names} is not as wanted yet ({doing}); it goes on: see `stead status`"
            )));
        }
        progress::or_interrupt(&bar, tokio::time::sleep(LOOK)).await?;
        stead = progress::patiently(|| named.get(client)).await?;
    }
}

/// A table of a transfer stands still, and nothing else does.
const TABLE: &str = "table_stopped";

/// Whether it was looked at since, and is blocked.
fn tried_again(component: &Component, first: &Stead) -> bool {
    let before = first.components.iter().find(|known| known.name == component.name);
    component.phase == "blocked" && before.is_none_or(|before| before.observed_at != component.observed_at)
}

/// Says how it ended: the URLs, or what stands in the way.
async fn report(context: &Context, client: &Client, named: &Named, stead: &Stead) -> Result<(), Failure> {
    if context.json {
        output::json(stead)?;
    }
    let conditions = |component: &Component, is_meant: fn(&str) -> bool| {
        let name = component.name.clone();
        let conditions =
            component.conditions.clone().into_iter().filter(move |condition| is_meant(&condition.kind));
        conditions.map(move |condition| format!("{name}: {}", condition.message))
    };
    let all = |is_meant| stead.components.iter().flat_map(move |component| conditions(component, is_meant));
    let troubled: Vec<String> = all(|kind| kind != TABLE).collect();
    // What was asked for is there; one of many tables is its own trouble.
    all(|kind| kind == TABLE).for_each(output::remark);
    if !context.json {
        for component in stead.components.iter().filter(|component| component.endpoint.is_some()) {
            if status::is_well(component) {
                output::line(url::of(context, client, named, component, UrlFormat::Libpq, false).await?)?;
            }
        }
    }
    if !context.json {
        for component in &stead.components {
            if let Some(Canary { release, percent, returned: None }) = &component.canary {
                let name = &component.name;
                output::remark(format!(
                    "{name}: release {release} is tried on {percent} % of the calls; `stead promote {name}` gives it \
                     all of them, `stead rollback {name}` none"
                ));
            }
        }
    }
    if troubled.is_empty() { Ok(()) } else { Err(Failure::Failed(troubled.join("\n"))) }
}
