//! `stead status`.

use client::wire::{Canary, Component, Stead};
use client::{Client, Part};
use component::transfer::Origin;
use serde::Deserialize;

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
    if context.json {
        output::json(&stead)?
    } else {
        show(&stead)?
    }
    verdict(std::slice::from_ref(&stead))
}

/// Something needs a person: that is for the exit code, because it is no failure of this command.
fn verdict(steads: &[Stead]) -> Result<(), Failure> {
    let mut components = steads.iter().flat_map(|stead| &stead.components);
    if components.any(|component| !component.conditions.is_empty()) { Err(Failure::Troubled) } else { Ok(()) }
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
        output::json(&steads)?;
        return verdict(&steads);
    }
    if steads.is_empty() {
        output::remark("no steads yet; make one with `stead up` in an app's folder");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = steads
        .iter()
        .flat_map(|stead| {
            stead.components.iter().map(|component| {
                vec![
                    stead.tenant.clone(),
                    stead.name.clone(),
                    component.name.clone(),
                    phase(component).to_owned(),
                    component.version.clone().unwrap_or_else(|| "-".into()),
                    component
                        .endpoint
                        .as_ref()
                        .map_or_else(|| "-".into(), |endpoint| endpoint.port.to_string()),
                    component.conditions.iter().map(|c| c.kind.clone()).collect::<Vec<_>>().join(" "),
                ]
            })
        })
        .collect();
    output::table(&["TENANT", "STEAD", "COMPONENT", "PHASE", "VERSION", "PORT", "CONDITIONS"], &rows)?;
    verdict(&steads)
}

fn show(stead: &Stead) -> Result<(), Failure> {
    output::line(format!("{}/{}", stead.tenant, stead.name))?;
    for component in &stead.components {
        show_component(component)?;
    }
    Ok(())
}

/// Its phase; one that was ready before an edit which is under way is being updated, and one that is as
/// wanted may sleep.
pub(super) fn phase(component: &Component) -> &str {
    match &*component.phase {
        "ready" if component.generation != component.observed_generation => "updating",
        "ready" if component.asleep => "asleep",
        other => other,
    }
}

/// As wanted, awake or asleep.
pub(super) fn is_well(component: &Component) -> bool {
    matches!(phase(component), "ready" | "asleep")
}

fn show_component(component: &Component) -> Result<(), Failure> {
    output::line(format!("  {}  {}", component.name, phase(component)))?;
    let field = |name: &str| component.spec.get(name).map(output::plain).unwrap_or_default();
    let mut rows = Vec::new();
    if component.name.starts_with("function.") {
        rows.extend(function(component));
    } else if component.name.starts_with("transfer.") {
        rows.extend(transfer(component));
    } else {
        if let Some(endpoint) = &component.endpoint {
            rows.push(vec![
                "reached at".to_owned(),
                format!("{}:{}, database {}", endpoint.host, endpoint.port, endpoint.database),
            ]);
        }
        let version = component.version.clone().unwrap_or_else(|| field("engine"));
        rows.push(vec!["engine".to_owned(), format!("{version}, size {}", field("size"))]);
        rows.push(vec!["allows".to_owned(), field("allow")]);
    }
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    if let Some(bytes) = component.disk_bytes {
        row("on disk", format!("{} MiB", bytes / (1024 * 1024)));
    }
    if let Some(at) = component.maintenance_at {
        row("maintenance", format!("{}; next {}", field("maintenance"), output::moment(at)));
    }
    let given = |name: &str| component.spec.get(name).is_some_and(|value| !value.is_null());
    if given("idle") {
        row("idle", format!("sleeps after {} without a statement", field("idle")));
    }
    for name in ["owner", "runbook"] {
        if given(name) {
            row(name, field(name));
        }
    }
    if let Some(step) =
        component.step.as_deref().filter(|_| !is_well(component) && phase(component) != "blocked")
    {
        row("now", step.to_owned());
    }
    if let Some(error) = &component.last_error {
        row("tried again", format!("the last attempt failed: {error}"));
    }
    for difference in &component.drift {
        let (before, after) = (output::plain(&difference.before), output::plain(&difference.after));
        row("drift", format!("{} is {after} instead of {before}; it is being put right", difference.field));
    }
    for text in output::columns(&rows) {
        output::line(format!("    {text}"))?;
    }
    for condition in &component.conditions {
        // What code printed before it failed comes in lines of its own.
        let message = condition.message.replace('\n', "\n      ");
        output::line(format!("    ! {}: {message}", condition.kind))?;
    }
    Ok(())
}

/// What is told of a transfer alone.
fn transfer(component: &Component) -> Vec<Vec<String>> {
    let field = |name: &str| component.spec.get(name).map(output::plain).unwrap_or_default();
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    let by = match field("cursor").as_str() {
        "" => field("mode"),
        cursor => format!("{} of {cursor}", field("mode")),
    };
    let from =
        Origin::deserialize(&component.spec["from"]).map_or_else(|_| field("from"), |from| from.to_string());
    row("reads", format!("{} of {from}, by {by} every {}", field("tables"), field("every")));
    if let Some(endpoint) = &component.endpoint {
        row("asked at", format!("{}:{}, database {}", endpoint.host, endpoint.port, endpoint.database));
    }
    match component.spec["to"]["bucket"].as_str() {
        Some(bucket) => row("writes to", format!("{bucket}, as Delta tables; ask them there")),
        None => row("allows", field("allow")),
    }
    let Some(transfer) = &component.transfer else { return rows };
    row("promise", transfer.promise.clone());
    if let Some(remark) = &transfer.remark {
        row("remark", remark.clone());
    }
    if component.spec["paused"] == true {
        row("paused", format!("nothing is read until `stead resume {}`", component.name));
    }
    if let (Some(ms), Some(bytes), Some(kept)) =
        (transfer.behind_ms, transfer.behind_bytes, transfer.kept_bytes)
    {
        let behind = if ms == 0 {
            "nothing".to_owned()
        } else {
            format!("{} s, {} of log", ms.div_ceil(1000), size(bytes))
        };
        let room =
            transfer.room_bytes.map_or_else(String::new, |room| format!(", {} more at most", size(room)));
        row("behind", format!("{behind}; the server keeps {} of log for it{room}", size(kept)));
    } else if let Some(ms) = transfer.behind_ms {
        row("behind", format!("read {} s ago", ms.div_ceil(1000)));
    }
    for table in &transfer.tables {
        let copied = table.rows.map(|rows| format!("{rows} rows copied"));
        let copied = table.copying().or(copied).map(|rows| format!(", {rows}")).unwrap_or_default();
        let changes =
            if table.changes == 0 { String::new() } else { format!(", {} changes since", table.changes) };
        row("table", format!("{} {}{copied}{changes}", table.name, table.state));
    }
    if component.spec["consumers"].as_array().is_some_and(|list| !list.is_empty()) {
        row("consumers", field("consumers"));
    }
    rows
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// What is told of a function alone.
fn function(component: &Component) -> Vec<Vec<String>> {
    let field = |name: &str| component.spec.get(name).map(output::plain).unwrap_or_default();
    let given = |name: &str| component.spec.get(name).is_some_and(|value| !value.is_null());
    let lists = |name: &str| component.spec[name].as_array().is_some_and(|list| !list.is_empty());
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    if let Some(endpoint) = &component.endpoint {
        let who = if field("url") == "token" { "with its token" } else { "by anybody" };
        row("called at", format!("http://{}:{}, {who}", endpoint.host, endpoint.port));
    }
    let mut live = component.live.map_or_else(|| "none answers yet".into(), |live| format!("{live} answers"));
    if let Some(Canary { release, percent, returned: None }) = &component.canary {
        live += &format!(", {release} is tried on {percent} % of the calls");
    }
    row("release", live);
    let limits =
        format!("{} MiB, {} s, {} at once", field("memory_mib"), field("timeout_s"), field("concurrency"));
    row("runs", format!("{} {} with {limits}", field("runtime"), field("handler")));
    if lists("uses") {
        row("uses", field("uses"));
    }
    if given("schedule") {
        let part = |name: &str| component.spec["schedule"][name].as_str().unwrap_or_default().to_owned();
        row("schedule", format!("{} {}", part("cron"), part("zone")));
    }
    if lists("egress") {
        row("reaches", field("egress"));
    }
    rows
}
