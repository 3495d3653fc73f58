//! `stead backups`, `stead clone`, `stead restore`, `stead swap`, `stead drop`.

use std::time::{Duration, Instant};

use client::Client;
use client::wire::{Backups, Component, Drill, Operation};
use component::Kind;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cli::Which;
use crate::commands::{confirm, history, progress};
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;

/// How long a copy is followed: a base backup is unpacked at some 200 MB a second.
const FOLLOWED: Duration = Duration::from_secs(60 * 60);

pub(super) async fn list(context: &Context, which: &Which) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let stead = named.get(&client).await?;
    if context.json {
        let all: Vec<_> = stead
            .components
            .iter()
            .map(|component| serde_json::json!({ "component": component.name, "backups": component.backups }))
            .collect();
        return output::json(&all);
    }
    let mut rows = vec![
        ["COMPONENT", "OLDEST", "NEWEST", "BACKUPS", "LAST", "STORED", "DRILL"].map(str::to_owned).to_vec(),
    ];
    rows.extend(stead.components.iter().map(row));
    for line in output::columns(&rows) {
        output::line(line)?;
    }
    Ok(())
}

fn row(component: &Component) -> Vec<String> {
    let none = || "-".to_owned();
    let shown = |at: Option<Timestamp>| at.map_or_else(none, local);
    match &component.backups {
        None => vec![component.name.clone(), none(), none(), none(), none(), none(), none()],
        Some(Backups { oldest, newest, count, last, bytes, drill, .. }) => vec![
            component.name.clone(),
            shown(*oldest),
            shown(newest.filter(|_| oldest.is_some())),
            count.to_string(),
            shown(*last),
            format!("{} MiB", bytes.div_ceil(1024 * 1024)),
            match drill {
                None => none(),
                Some(Drill { error: Some(_), at, .. }) => format!("failed {}", local(*at)),
                Some(Drill { at, took_ms, .. }) => format!("{}, {:.1} s", local(*at), seconds(*took_ms)),
            },
        ],
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to a tenth")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// A moment as people here write it.
fn local(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// What is made of what.
pub(super) struct Copy<'a> {
    pub(super) from: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) at: Option<String>,
    pub(super) ttl: Option<String>,
    pub(super) reason: Option<String>,
}

pub(super) async fn clone(context: &Context, which: &Which, copy: Copy<'_>) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let (_, name, operation) = made(&client, &named, &copy).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(format!(
        "{name} has an address and a password of its own; `stead url {name}` shows them, `stead drop {name}` removes it."
    ))
}

pub(super) async fn restore(context: &Context, which: &Which, copy: Copy<'_>) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let (from, name, operation) = made(&client, &named, &copy).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(format!(
        "{name} holds the data of {from} as they were; look at them with `stead sql {name}`.\n\
         `stead swap {from} {name}` puts it in the place of {from}, `stead drop {name}` removes it."
    ))
}

/// Has a copy made, and follows it to its end.
async fn made(
    client: &Client,
    named: &Named,
    copy: &Copy<'_>,
) -> Result<(String, String, Operation), Failure> {
    let from = named.component(client, copy.from, Kind::Postgres).await?.name;
    let name = copy.name.map_or_else(|| format!("{from}-restored"), |name| full(&from, name));
    let at = copy.at.as_deref().map(moment).transpose()?;
    let asked = [
        ("as", Some(name.as_str())),
        ("at", at.as_deref()),
        ("ttl", copy.ttl.as_deref()),
        ("reason", copy.reason.as_deref()),
    ];
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = client.clone_component(tenant, stead, &from, &asked, None).await?;
    let operation = progress::follow(client, tenant, operation, Instant::now() + FOLLOWED).await?;
    Ok((from, name, operation))
}

/// `try` beside `postgres.main` is `postgres.try`.
fn full(beside: &str, name: &str) -> String {
    match (name.contains('.'), beside.split_once('.')) {
        (false, Some((kind, _))) => format!("{kind}.{name}"),
        _ => name.to_owned(),
    }
}

/// A moment as people write it, as the API reads it.
fn moment(text: &str) -> Result<String, Failure> {
    let now = Timestamp::now();
    let text = history::moment("--at", text, now, &TimeZone::system())?;
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_string());
    }
    let (number, unit) = text.split_at(text.len() - 1);
    let each = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        _ => 1,
    };
    let back = number.parse::<i64>().ok().and_then(|number| number.checked_mul(each));
    let at = back.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    at.map(|at| at.to_string()).ok_or_else(|| Failure::Usage(format!("--at `{text}` is too long ago")))
}

pub(super) async fn swap(
    context: &Context,
    which: &Which,
    (component, with): (&str, &str),
    yes: bool,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let (component, with) = (
        named.component(&client, Some(component), Kind::Postgres).await?.name,
        named.component(&client, Some(with), Kind::Postgres).await?.name,
    );
    if !yes {
        confirm(&format!(
            "Put {with} in the place of {component}? Sessions of both are ended, and what was written to {component} \
             since is then in {with} alone."
        ))?;
    }
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = client.swap_component(tenant, stead, &component, &with, reason).await?;
    let operation = progress::follow(&client, tenant, operation, Instant::now() + FOLLOWED).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(format!(
        "{component} holds what {with} held, at the same address and with the same password as before; the data that \
         it had are in {with}.\n`stead drop {with}` removes them when nobody needs them any more."
    ))
}

pub(super) async fn drop(
    context: &Context,
    which: &Which,
    component: &str,
    yes: bool,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, Some(component), Kind::Postgres).await?.name;
    if !yes {
        confirm(&format!("Remove {component} with its data?"))?;
    }
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = client.remove_component(tenant, stead, &component, reason).await?;
    let operation = progress::follow(&client, tenant, operation, Instant::now() + FOLLOWED).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(format!("{component} is gone."))
}
