//! The next step from what is to what is wanted of a function.
//!
//! A release is brought up beside the one that answers, and answers itself only once a worker of it has started.
//! What the engine goes by is one file, so the change from one release to the next is one rename, and a release
//! that does not start changes nothing.

use super::{Engine, Observed, Seen, Spec};
use crate::{Condition, ConditionKind, Decision, Difference, Standing};

/// Until the engine is looked for again, milliseconds.
const ENGINE_MS: u64 = 500;

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Put the package's files on the host.
    Unpack,
    /// Tell the engine of the newest release, and of all else as it should be; what answers stays what it is.
    Declare,
    /// Bring a release up, and have it answer once it has.
    Release(u64),
    /// Bring a release up, and try it on a share of the calls (per cent) once it has.
    Canary(u64, u8),
    /// Stop trying one, for this reason.
    Return(String),
    /// Forget releases that answer no more.
    Retire,
    /// Forget the function.
    Remove,
}

impl Step {
    /// Its name in the store, the log and the progress line.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Unpack => "unpack".into(),
            Self::Declare => "declare".into(),
            Self::Release(number) => format!("release {number}"),
            Self::Canary(number, percent) => format!("canary {number} {percent}%"),
            Self::Return(_) => "return the canary".into(),
            Self::Retire => "retire".into(),
            Self::Remove => "remove".into(),
        }
    }

    /// Whether it may take long: a release starts as slowly as its code does.
    #[must_use]
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Release(_) | Self::Canary(..))
    }

    /// What the journal keeps of it once it is done.
    #[must_use]
    pub fn on_record(&self) -> Option<serde_json::Value> {
        match self {
            Self::Release(number) => Some(serde_json::json!({ "live": number })),
            Self::Canary(number, percent) => {
                Some(serde_json::json!({ "canary": number, "percent": percent }))
            }
            Self::Return(why) => Some(serde_json::json!({ "returned": why })),
            _ => None,
        }
    }
}

/// Decides.
#[must_use]
pub fn plan(spec: &Spec, observed: &Observed, standing: Standing) -> Decision {
    let act = |step| Decision::Act(crate::Step::Function(step));
    if standing.deleting {
        let gone = observed.declared == Seen::Absent;
        return if gone { Decision::Gone } else { act(Step::Remove) };
    }
    if !observed.runtime_present {
        let message = format!(
            "{} is not on this host any more; install it again (docs/functions.md), or name another runtime",
            spec.runtime
        );
        return Decision::Blocked(Condition { kind: ConditionKind::RuntimeMissing, message });
    }
    if !observed.unpacked {
        return act(Step::Unpack);
    }
    if observed.declared != Seen::Same {
        return act(Step::Declare);
    }
    match &observed.engine {
        Engine::Down => {
            let message =
                "the engine of functions does not answer on this host; `stead server` starts it again".into();
            return Decision::Wait {
                reason: "waiting for the engine of functions".into(),
                again_ms: ENGINE_MS,
                condition: Some(Condition { kind: ConditionKind::Unreachable, message }),
            };
        }
        Engine::NoPort(why) => {
            return Decision::Blocked(Condition { kind: ConditionKind::PortTaken, message: why.clone() });
        }
        Engine::Serves => {}
    }
    // The newest release waits for its secrets; what answers goes on, and is told of everything else.
    let newest = |step| match observed.unset.first() {
        None => act(step),
        Some(name) => {
            let message = format!("there is no secret {name}; set it with `stead secret set {name}`");
            Decision::Blocked(Condition { kind: ConditionKind::SecretMissing, message })
        }
    };
    if observed.live != Some(observed.wanted) {
        let step = Step::Release(observed.wanted);
        return if observed.wanted_canary.is_some() { act(step) } else { newest(step) };
    }
    let is = observed.canary.as_ref().map(|canary| (canary.release, canary.percent));
    match observed.wanted_canary {
        Some((number, percent)) if is != Some((number, percent)) => {
            return newest(Step::Canary(number, percent));
        }
        None if is.is_some() => return act(Step::Retire),
        _ => {}
    }
    if observed.known.len() > 1 + usize::from(is.is_some()) {
        return act(Step::Retire);
    }
    match (&observed.canary, &observed.returned) {
        (Some(canary), Some(why)) if canary.returned.is_none() => act(Step::Return(why.clone())),
        _ => Decision::Settled,
    }
}

/// What differs though nobody asked for it.
#[must_use]
pub fn drift(observed: &Observed) -> Vec<Difference> {
    let differs = |field: &str, before: &str| Difference {
        field: field.into(),
        before: before.into(),
        after: "as declared".into(),
    };
    let mut found = Vec::new();
    match observed.declared {
        Seen::Same => {}
        Seen::Absent => found.push(differs("route", "not there")),
        Seen::Differs => found.push(differs("route", "something else")),
    }
    if !observed.unpacked {
        found.push(differs("package", "not unpacked"));
    }
    found
}
