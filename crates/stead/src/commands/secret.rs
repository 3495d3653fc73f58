//! `stead secret`.

use std::io::{IsTerminal, Read};
use std::time::{Duration, Instant};

use client::wire::Secret;
use component::function::Variable;
use secrecy::SecretString;

use crate::cli::{SecretVerb, Which};
use crate::commands::progress;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// Workers that have the old value end what they do; those that start have the new one.
const LIMIT: Duration = Duration::from_secs(60);
/// What is read of standard input at most, bytes: more than the server takes, so that it is the server that says so.
const MOST: u64 = 64 * 1024;

pub(super) async fn run(context: &Context, verb: SecretVerb) -> Result<(), Failure> {
    match verb {
        SecretVerb::Set { which, name, reason } => set(context, &which, &name, reason.as_deref()).await,
        SecretVerb::List { which } => list(context, &which).await,
        SecretVerb::Remove { which, name, reason } => {
            let named = which.named()?;
            let client = context.client().await?;
            let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
            client.delete_secret(tenant, stead, name.as_str(), reason.as_deref()).await?;
            if context.json {
                output::json(&serde_json::json!({ "removed": name }))
            } else {
                output::line(format!("{name} is removed"))
            }
        }
    }
}

async fn set(context: &Context, which: &Which, name: &Variable, reason: Option<&str>) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    // Asked for only where there is something to set it in.
    named.get(&client).await?;
    let value = value(name)?;
    let operation = client.put_secret(tenant, stead, name.as_str(), &value, reason).await?;
    let operation = progress::follow(&client, tenant, operation, Instant::now() + LIMIT).await?;
    if context.json {
        return output::json(&operation);
    }
    let secrets = client.secrets(tenant, stead).await?.items;
    let used = secrets.into_iter().find(|secret| secret.name == name.as_str()).map(|secret| secret.used_by);
    match used.unwrap_or_default().join(", ") {
        nobody if nobody.is_empty() => output::line(format!(
            "{name} is set; a function finds it once its manifest says secrets = [\"{name}\"]"
        )),
        used => output::line(format!("{name} is set, and in force for {used}")),
    }
}

/// What is typed unseen, or comes through a pipe: never an argument, which everybody on the host could read.
fn value(name: &Variable) -> Result<SecretString, Failure> {
    let mut stdin = std::io::stdin();
    let text = if stdin.is_terminal() {
        rpassword::prompt_password(format!("{name}: ")).map_err(Failure::failed)?
    } else {
        let mut bytes = Vec::new();
        stdin.by_ref().take(MOST).read_to_end(&mut bytes).map_err(Failure::failed)?;
        let text = String::from_utf8(bytes);
        text.map_err(|_| Failure::Usage("what came through standard input is no UTF-8 text".into()))?
    };
    // The end of the line that `echo` and editors write is no part of it.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

async fn list(context: &Context, which: &Which) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let secrets = client.secrets(named.tenant.as_str(), named.stead.as_str()).await?.items;
    if context.json {
        return output::json(&secrets);
    }
    let row = |secret: &Secret| {
        let used = if secret.used_by.is_empty() { "-".into() } else { secret.used_by.join(", ") };
        vec![secret.name.clone(), output::moment(secret.set_at), secret.set_by.clone(), used]
    };
    output::table(&["name", "set", "by", "used by"], &secrets.iter().map(row).collect::<Vec<_>>())
}
