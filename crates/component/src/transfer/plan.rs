//! The next step from what is to what is wanted of a transfer.
//!
//! What the copier may do inside the server comes before the copier, and the copier before the way to the lake. A
//! server that sleeps is woken for an edit alone; one that is down is waited for, and what runs goes on meanwhile. Of a
//! server elsewhere nothing is known here: what has to be done there the copier does, also when the transfer goes.

use serde_json::json;

use super::{Leaving, Mode, Observed, Process, Progress, Seen, Server, Spec};
use crate::postgres::Unit;
use crate::{Condition, ConditionKind, Decision, Difference, Standing};

/// Until the server is looked for again, milliseconds.
const SERVER_MS: u64 = 1_000;
/// Until a process that ends is looked at again, milliseconds.
const PROCESS_MS: u64 = 1_000;
/// Until it is looked again whether something has stopped, milliseconds.
const STOPPING_MS: u64 = 20;

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make its tree.
    Create,
    /// Have the server run although it sleeps.
    Wake,
    /// Put role and rights in the server right.
    Role,
    /// Write what its processes go by.
    WriteFiles,
    /// Declare the copier, and have it running, or not while the transfer is paused.
    StartCopier,
    /// The same of the lake's own process.
    StartLake,
    /// Open, or change, the way to the lake.
    OpenRoute,
    /// Close it.
    CloseRoute,
    /// Stop both processes for good.
    Stop,
    /// Have the server forget it.
    Forget,
    /// Have the copier take away what is of it at a server elsewhere.
    Leave,
    /// Remove lake, files and units; with what is left at a server elsewhere, and in a bucket.
    Remove(Option<String>),
}

impl Step {
    /// Its name in the store, the log and the progress line.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Create => "create",
            Self::Wake => "wake",
            Self::Role => "role",
            Self::WriteFiles => "configure",
            Self::StartCopier => "copier",
            Self::StartLake => "lake",
            Self::OpenRoute => "open",
            Self::CloseRoute => "close",
            Self::Stop => "stop",
            Self::Forget => "forget",
            Self::Leave => "leave",
            Self::Remove(_) => "remove",
        }
        .into()
    }

    /// See [`crate::Step::on_record`]: what was left behind is somebody's to remove.
    #[must_use]
    pub(crate) fn on_record(&self) -> Option<serde_json::Value> {
        match self {
            Self::Remove(Some(left)) => Some(json!({ "left_behind": left })),
            _ => None,
        }
    }
}

fn act(step: Step) -> Decision {
    Decision::Act(crate::Step::Transfer(step))
}

/// Decides; see [`crate::plan`].
#[must_use]
pub fn plan(spec: &Spec, observed: &Observed, standing: Standing) -> Decision {
    if standing.deleting {
        return removal(spec, observed);
    }
    if standing.provisioned && !observed.tree {
        return Decision::Blocked(lost(spec));
    }
    if !observed.tree {
        return act(Step::Create);
    }
    inside(spec, observed, standing)
        .or_else(|| (observed.files != Seen::Same).then(|| act(Step::WriteFiles)))
        .or_else(|| match spec.paused {
            true => paused(&observed.copier),
            false => process(&observed.copier, Step::StartCopier, "the process that copies"),
        })
        .or_else(|| answers(spec, observed))
        .or_else(|| stopped(spec, observed))
        .unwrap_or(Decision::Settled)
}

/// What was made once is gone from the host: of a lake all, of one in a bucket how far it has come.
fn lost(spec: &Spec) -> Condition {
    let (what, again) = match spec.to {
        None => ("the lake", "add it again"),
        Some(_) => ("what the transfer has to remember", "add it again, into another place"),
    };
    let message = format!(
        "{what} is gone from the host; nothing was put in its place: put it back, or remove the transfer and {again}, which \
         copies everything anew"
    );
    Condition { kind: ConditionKind::DataLost, message }
}

/// Role and rights.
fn inside(spec: &Spec, observed: &Observed, standing: Standing) -> Option<Decision> {
    if let Some(unknown) = &observed.unknown {
        return Some(Decision::Blocked(unknown.condition()));
    }
    match (observed.server, observed.inside) {
        (Server::Elsewhere, _) => None,
        (Server::Up, Some(inside)) => (inside.role != Seen::Same).then(|| act(Step::Role)),
        (Server::Asleep, _) if !standing.settled => Some(act(Step::Wake)),
        // What was right before it slept is right.
        (Server::Asleep, _) => None,
        _ if standing.settled => None,
        _ => Some(Decision::Wait {
            reason: format!("waiting for {}", spec.from),
            again_ms: SERVER_MS,
            condition: None,
        }),
    }
}

/// The process that copies, which is not to run.
fn paused(copier: &Process) -> Option<Decision> {
    if copier.declared != Seen::Same {
        return Some(act(Step::StartCopier));
    }
    let is_there = matches!(copier.unit, Unit::Running | Unit::Stopping | Unit::Failing(_));
    is_there.then(|| Decision::Wait {
        reason: "the process that copies is stopping".into(),
        again_ms: STOPPING_MS,
        condition: None,
    })
}

fn process(process: &Process, start: Step, what: &str) -> Option<Decision> {
    if process.declared != Seen::Same {
        return Some(act(start));
    }
    let (reason, condition) = match &process.unit {
        Unit::Running => return None,
        Unit::Absent | Unit::Stopped | Unit::Asleep => return Some(act(start)),
        Unit::Stopping => (format!("{what} is stopping"), None),
        Unit::Failing(said) => {
            let said = said.trim();
            let message = format!("{what} ends by itself; it is tried again and again. It said: {said}");
            let condition = Condition { kind: ConditionKind::Crashing, message };
            (format!("{what} is being tried again"), Some(condition))
        }
    };
    let again_ms = if condition.is_some() { PROCESS_MS } else { STOPPING_MS };
    Some(Decision::Wait { reason, again_ms, condition })
}

/// What answers questions about the lake. A bucket is asked by others.
fn answers(spec: &Spec, observed: &Observed) -> Option<Decision> {
    if spec.to.is_some() {
        return None;
    }
    process(&observed.lake, Step::StartLake, "the lake's own process").or_else(|| front_door(observed))
}

fn front_door(observed: &Observed) -> Option<Decision> {
    if observed.route.declared != Seen::Same {
        return Some(act(Step::OpenRoute));
    }
    if let Some(why) = &observed.route.error {
        let condition = Some(Condition { kind: ConditionKind::PortTaken, message: why.clone() });
        let reason = "the way to the lake cannot open".into();
        return Some(Decision::Wait { reason, again_ms: PROCESS_MS, condition });
    }
    (!observed.route.in_force).then(|| Decision::Wait {
        reason: "the gateway takes up the route".into(),
        again_ms: STOPPING_MS,
        condition: None,
    })
}

/// What only a person can repair.
fn stopped(spec: &Spec, observed: &Observed) -> Option<Decision> {
    // What it said before it was asked to begin anew is repaired by that.
    let is_of_now = |progress: &&Progress| !spec.paused && progress.stopped && progress.asked >= spec.asked;
    let progress = observed.progress.as_ref().filter(is_of_now)?;
    let message = progress.trouble.clone()?;
    Some(Decision::Blocked(Condition { kind: ConditionKind::TransferStopped, message }))
}

fn removal(spec: &Spec, observed: &Observed) -> Decision {
    if observed.route.declared != Seen::Absent {
        return act(Step::CloseRoute);
    }
    if observed.route.in_force {
        let reason = "the gateway lets go of the route".into();
        return Decision::Wait { reason, again_ms: STOPPING_MS, condition: None };
    }
    let left = match leaving(spec, observed) {
        Ok(left) => left,
        Err(decision) => return decision,
    };
    let processes = [&observed.copier, &observed.lake];
    if processes.iter().any(|process| matches!(process.unit, Unit::Running | Unit::Failing(_))) {
        return act(Step::Stop);
    }
    if processes.iter().any(|process| process.unit == Unit::Stopping) {
        let reason = "its processes are stopping".into();
        return Decision::Wait { reason, again_ms: STOPPING_MS, condition: None };
    }
    // A server that is on its way out takes with it what is inside.
    match (observed.server, observed.inside) {
        (Server::Asleep, _) => return act(Step::Wake),
        (Server::Up, Some(inside)) if inside.slot || inside.role != Seen::Absent => return act(Step::Forget),
        (Server::Up, None) | (Server::Down, _) => {
            return Decision::Wait {
                reason: "waiting for the server, which has to forget it".into(),
                again_ms: SERVER_MS,
                condition: None,
            };
        }
        _ => {}
    }
    let is_there = observed.tree
        || processes.iter().any(|process| process.declared != Seen::Absent || process.unit != Unit::Absent);
    if is_there { act(Step::Remove(with_tables(spec, left))) } else { Decision::Gone }
}

/// What is left, with the tables: those in a bucket are whoever's it is.
fn with_tables(spec: &Spec, left: Option<String>) -> Option<String> {
    let Some(to) = &spec.to else { return left };
    let tables = format!("its tables are left in {}", to.bucket);
    Some(left.map_or_else(|| tables.clone(), |left| format!("{tables}; {left}")))
}

/// What is left at a server elsewhere, once that is known. A stream alone leaves anything there, and only if it ever ran.
fn leaving(spec: &Spec, observed: &Observed) -> Result<Option<String>, Decision> {
    let is_there = observed.tree && observed.copier.declared != Seen::Absent;
    if observed.server != Server::Elsewhere || spec.mode != Mode::Stream || !is_there {
        return Ok(None);
    }
    match (&observed.leaving, &observed.copier.unit) {
        (Leaving::Done, _) => Ok(None),
        (Leaving::Remains(left), _) => Ok(Some(left.clone())),
        (Leaving::UnderWay, Unit::Failing(said)) => Ok(Some(format!(
            "its slot may be left at {}, which nobody could drop: the process that would have ended with: {}",
            spec.from,
            said.trim()
        ))),
        (Leaving::UnderWay, Unit::Running | Unit::Stopping) => Err(Decision::Wait {
            reason: format!("{} forgets it, or does not answer for half a minute", spec.from),
            again_ms: PROCESS_MS,
            condition: None,
        }),
        _ => Err(act(Step::Leave)),
    }
}

/// What differs though nobody asked for it.
#[must_use]
pub fn drift(spec: &Spec, observed: &Observed) -> Vec<Difference> {
    let differs = |field: &str, seen: Seen| {
        (seen != Seen::Same).then(|| Difference {
            field: field.into(),
            before: if seen == Seen::Absent { "not there".into() } else { "something else".into() },
            after: "as declared".into(),
        })
    };
    let inside = observed.inside.filter(|_| observed.server == Server::Up);
    let has_lake = spec.to.is_none();
    let found = [
        differs("files", observed.files),
        differs("copier", observed.copier.declared),
        differs("lake", observed.lake.declared).filter(|_| has_lake),
        differs("route", observed.route.declared).filter(|_| has_lake),
        inside.and_then(|inside| differs("role", inside.role)),
    ];
    found.into_iter().flatten().collect()
}
