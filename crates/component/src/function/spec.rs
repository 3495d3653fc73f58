//! What is wanted of a function, and how a wish becomes a spec.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Digest, Egress, Runtime, Schedule, Variable};
use crate::{ComponentName, Kind, Offer, Refused};

/// Memory where none is asked for, MiB: Lambda's own default is 128, in which node has hardly begun.
const DEFAULT_MEMORY: u32 = 256;
/// Seconds an invocation may take where nothing is asked for; Lambda's default is 3.
const DEFAULT_TIMEOUT: u32 = 30;
/// Workers at once where nothing is asked for.
const DEFAULT_CONCURRENCY: u32 = 20;
/// Size of `/tmp`, MiB, as on Lambda unless asked otherwise.
const TMP_MIB: u32 = 512;

/// What is wanted of a function; everything resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its code.
    pub package: Digest,
    /// What runs it.
    pub runtime: Runtime,
    /// What is called in it: `index.handler`. Empty where the runtime is `provided` and the package needs none.
    pub handler: String,
    /// Memory of a worker, MiB.
    pub memory_mib: u32,
    /// Seconds that an invocation may take.
    pub timeout_s: u32,
    /// Size of a worker's `/tmp`, MiB.
    pub tmp_mib: u32,
    /// Workers at once, at most.
    pub concurrency: u32,
    /// Environment variables of its own.
    pub environment: BTreeMap<String, String>,
    /// Secrets of its stead that it finds in its environment, each by its name.
    #[serde(default)]
    pub secrets: BTreeSet<Variable>,
    /// Servers of the same stead that it uses.
    pub uses: BTreeSet<ComponentName>,
    /// Who may call its URL; it has none where absent.
    pub url: Option<Access>,
    /// When it is called by the clock.
    pub schedule: Option<Schedule>,
    /// What it may reach outside.
    pub egress: BTreeSet<Egress>,
    /// Whom to ask about it.
    pub owner: Option<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

/// Who may call a function's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Anybody.
    Public,
    /// Who brings the function's token.
    Token,
}

impl Spec {
    /// The part of it that a release is: code and all that a worker is started with. Two specs with the same one
    /// differ in nothing that code could notice.
    #[must_use]
    pub fn release(&self) -> Self {
        Self { url: None, schedule: None, owner: None, runbook: None, concurrency: 0, ..self.clone() }
    }

    /// Runs an earlier release again; all that is no part of a release stays as it is.
    #[must_use]
    pub fn with_release_of(&self, earlier: &Self) -> Self {
        let Self { url, schedule, owner, runbook, concurrency, .. } = self.clone();
        Self { url, schedule, owner, runbook, concurrency, ..earlier.clone() }
    }
}

/// A function as a person asks for it: what is left out is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its code, once that is known by hash.
    pub code: Option<Digest>,
    /// What runs it.
    pub runtime: Option<Runtime>,
    /// What is called in it.
    pub handler: Option<String>,
    /// Memory, MiB.
    pub memory_mib: Option<u32>,
    /// Seconds that an invocation may take.
    pub timeout_s: Option<u32>,
    /// Workers at once.
    pub concurrency: Option<u32>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// Secrets in its environment.
    pub secrets: BTreeSet<Variable>,
    /// Servers that it uses.
    pub uses: BTreeSet<ComponentName>,
    /// Who may call its URL.
    pub url: Option<Access>,
    /// When it is called by the clock.
    pub schedule: Option<Schedule>,
    /// What it may reach outside.
    pub egress: BTreeSet<Egress>,
    /// Whom to ask.
    pub owner: Option<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

/// Resolves a wish into a spec, given the spec in force (for an existing function) and what the host offers.
///
/// # Errors
/// [`Refused`] for a function without code, a runtime that the host does not have, and a handler that is missing.
pub fn resolve(wish: &Wish, current: Option<&Spec>, offer: &Offer) -> Result<Spec, Refused> {
    let refused = |field, message: String| Refused { field, message };
    let package = match (wish.code, current) {
        (Some(code), _) => code,
        (None, Some(current)) => current.package,
        (None, None) => {
            return Err(refused("code", "has no code; name its folder, like code = \"api\"".into()));
        }
    };
    let runtime = wish.runtime.or(current.map(|current| current.runtime)).ok_or_else(|| {
        refused("runtime", "has no runtime; name one, like runtime = \"nodejs24.x\"".into())
    })?;
    // One that runs already goes on, also where its interpreter was taken away since: its driver says so.
    let known = current.is_some_and(|current| current.runtime == runtime);
    if !known && !runtime.is_provided() && !offer.runtimes.contains(runtime.name()) {
        let message = if offer.runtimes.is_empty() {
            format!("{runtime} is not on this host, nor is any other interpreter; see docs/functions.md")
        } else {
            let installed = offer.runtimes.iter().cloned().collect::<Vec<_>>().join(", ");
            format!(
                "{runtime} is not on this host; on it are {installed}, and programs of your own (provided.al2023)"
            )
        };
        return Err(refused("runtime", message));
    }
    let handler = wish.handler.clone().unwrap_or_default();
    if handler.is_empty() && !runtime.is_provided() {
        let like = if runtime.name().starts_with("python") { "main.handler" } else { "index.handler" };
        return Err(refused(
            "handler",
            format!("has no handler; name file and function, like handler = \"{like}\""),
        ));
    }
    Ok(Spec {
        package,
        runtime,
        handler,
        memory_mib: wish.memory_mib.unwrap_or(DEFAULT_MEMORY),
        timeout_s: wish.timeout_s.unwrap_or(DEFAULT_TIMEOUT),
        tmp_mib: TMP_MIB,
        concurrency: wish.concurrency.unwrap_or(DEFAULT_CONCURRENCY),
        environment: wish.environment.clone(),
        secrets: wish.secrets.clone(),
        uses: wish.uses.clone(),
        url: wish.url,
        schedule: wish.schedule.clone(),
        egress: wish.egress.clone(),
        owner: wish.owner.clone(),
        runbook: wish.runbook.clone(),
    })
}

/// Resolves a wish of which only the `named` fields count: the others stay as they are.
///
/// # Errors
/// As [`resolve`].
pub fn amend(wish: &Wish, named: &BTreeSet<&str>, current: &Spec, offer: &Offer) -> Result<Spec, Refused> {
    let names = |field: &str| named.contains(field);
    let mut whole = wish.clone();
    if !names("handler") {
        whole.handler = Some(current.handler.clone());
    }
    let asked = resolve(&whole, Some(current), offer)?;
    let mut spec = current.clone();
    for field in named {
        match *field {
            "code" => spec.package = asked.package,
            "runtime" => spec.runtime = asked.runtime,
            "handler" => spec.handler.clone_from(&asked.handler),
            "memory" => spec.memory_mib = asked.memory_mib,
            "timeout" => spec.timeout_s = asked.timeout_s,
            "concurrency" => spec.concurrency = asked.concurrency,
            "environment" => spec.environment.clone_from(&asked.environment),
            "secrets" => spec.secrets.clone_from(&asked.secrets),
            "uses" => spec.uses.clone_from(&asked.uses),
            "url" => spec.url = asked.url,
            "schedule" => spec.schedule.clone_from(&asked.schedule),
            "egress" => spec.egress.clone_from(&asked.egress),
            "owner" => spec.owner.clone_from(&asked.owner),
            "runbook" => spec.runbook.clone_from(&asked.runbook),
            _ => {}
        }
    }
    Ok(spec)
}

/// Whether everything that a function uses will be there, and can be used.
///
/// # Errors
/// [`Refused`] for the first that is not.
pub(crate) fn uses_what_is_there<'c>(
    spec: &Spec,
    mut there: impl Iterator<Item = &'c ComponentName> + Clone,
) -> Result<(), Refused> {
    for used in &spec.uses {
        let message = if used.kind != Kind::Postgres {
            format!("`{used}` cannot be used by a function; servers can, like postgres.main")
        } else if !there.clone().any(|name| name == used) {
            let servers = there.by_ref().filter(|name| name.kind == Kind::Postgres).map(ToString::to_string);
            let servers = servers.collect::<Vec<_>>().join(", ");
            let known = if servers.is_empty() { "has no server".into() } else { format!("has {servers}") };
            format!("there is no `{used}` in this stead, which {known}")
        } else {
            continue;
        };
        return Err(Refused { field: "uses", message });
    }
    Ok(())
}
