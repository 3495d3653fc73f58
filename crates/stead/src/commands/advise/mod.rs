//! `stead advise`: measures what a server says of itself, asks for the rest, and shows the advice.

mod ask;
mod measure;
mod show;

use std::io::IsTerminal;

use client::wire::Component;
use component::transfer::advice::{Advice, Situation, advise};
use component::{ComponentName, Kind};
use serde::Serialize;

use crate::cli::AdviseArgs;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;
use measure::Measured;

/// What the advice is about, and the advice.
#[derive(Debug, Serialize)]
struct Answer {
    /// What is known, and was asked.
    situation: Situation,
    /// How it was measured.
    remarks: Vec<String>,
    #[serde(flatten)]
    advice: Advice,
}

pub(super) async fn run(context: &Context, args: &AdviseArgs) -> Result<(), Failure> {
    let Measured { mut situation, remarks } = known(context, args).await?;
    args.told(&mut situation);
    if !context.json && std::io::stdin().is_terminal() {
        ask::what_is_unknown(&mut situation)?;
    }
    let advice = advise(&situation);
    if context.json {
        return output::json(&Answer { situation, remarks, advice });
    }
    show::all(&situation, &remarks, &advice)
}

/// What a server says; nothing where none is meant.
async fn known(context: &Context, args: &AdviseArgs) -> Result<Measured, Failure> {
    let nothing =
        |remark: &str| Measured { situation: Situation::default(), remarks: vec![remark.to_owned()] };
    let which = &args.which;
    if args.flags_only {
        return Ok(nothing("no server was looked at"));
    }
    let named = match which.named() {
        Ok(named) => named,
        // Nobody has said that there is one.
        Err(_) if args.component.is_none() && which.tenant.is_none() && which.stead.is_none() => {
            return Ok(nothing("no stead is named here, so no server was looked at"));
        }
        Err(failure) => return Err(failure),
    };
    let client = context.client().await?;
    let component = named.component(&client, args.component.as_deref(), Kind::Postgres).await?;
    let from = server(&component)?;
    let credentials =
        client.credentials(named.tenant.as_str(), named.stead.as_str(), &component.name).await?;
    let mut measured = measure::look(&credentials, &client.ca().await?, &args.tables).await?;
    measured.situation.from = Some(from);
    measured.situation.server.sleeps = Some(component.spec.get("idle").is_some_and(|idle| !idle.is_null()));
    Ok(measured)
}

/// The component's name, if it is a server.
fn server(component: &Component) -> Result<ComponentName, Failure> {
    let name = component.name.parse::<ComponentName>().map_err(Failure::failed)?;
    if name.kind == Kind::Postgres {
        return Ok(name);
    }
    Err(Failure::Usage(format!("`{name}` is not read by a transfer; name a server, like postgres.main")))
}
