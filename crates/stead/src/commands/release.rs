//! `stead releases` and `stead rollback`.

use std::time::{Duration, Instant};

use client::wire::Release;
use component::Kind;

use crate::cli::Which;
use crate::commands::progress;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// A rollback takes a worker's start; a release that does not start is told long before.
const LIMIT: Duration = Duration::from_secs(60);

/// Lists the newest releases of a function.
pub(super) async fn list(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    lines: u16,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, Kind::Function).await?.name;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let releases = client.releases(tenant, stead, &component, None, Some(lines)).await?.items;
    if context.json {
        return output::json(&releases);
    }
    let rows = releases.iter().map(|release| {
        vec![
            release.number.to_string(),
            match release.canary_percent {
                _ if release.live => "live".into(),
                Some(percent) => format!("{percent} %"),
                None => String::new(),
            },
            output::moment(release.at),
            release.actor.clone(),
            what(release),
        ]
    });
    output::table(&["release", "", "made", "by", "what"], &rows.collect::<Vec<_>>())
}

fn what(release: &Release) -> String {
    let text = |field: &str| release.spec[field].as_str().unwrap_or_default().to_owned();
    let code: String = text("package").chars().skip("sha256:".len()).take(12).collect();
    let run = format!("{} {} of package {code}", text("runtime"), text("handler"));
    match release.brings_back {
        Some(number) => format!("{run} (release {number} again)"),
        None => run,
    }
}

/// Has an earlier release of a function run again.
pub(super) async fn rollback(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    to: Option<i64>,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, Kind::Function).await?.name;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = client.rollback(tenant, stead, &component, to, reason).await?;
    let operation = progress::follow(&client, tenant, operation, Instant::now() + LIMIT).await?;
    if context.json {
        return output::json(&operation);
    }
    let newest = client.releases(tenant, stead, &component, None, Some(1)).await?.items;
    let Some(Release { number, brings_back: Some(back), .. }) = newest.first() else {
        return output::line(format!("{component} runs an earlier release again"));
    };
    output::line(format!("{component}: release {number} answers, which is release {back} again"))
}

/// Has the release of a function that is tried on a share of the calls answer all of them.
pub(super) async fn promote(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, Kind::Function).await?.name;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = client.promote(tenant, stead, &component, reason).await?;
    let operation = progress::follow(&client, tenant, operation, Instant::now() + LIMIT).await?;
    if context.json {
        return output::json(&operation);
    }
    let newest = client.releases(tenant, stead, &component, None, Some(1)).await?.items;
    let number = newest.first().map_or_else(String::new, |release| format!(" {}", release.number));
    output::line(format!("{component}: release{number} answers all calls"))
}
