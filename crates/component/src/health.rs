//! How a component and a stead are doing, in one word: what a fleet is looked through by.

use serde::{Deserialize, Serialize};

use crate::{Phase, Status};

/// How something is doing. What is worse is greater: a stead is as its worst component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Sleeps until a client needs it.
    Asleep,
    /// As wanted.
    Ready,
    /// Being made or changed; nothing is wrong.
    Busy,
    /// Being removed.
    Deleting,
    /// A person should look: it is blocked, a condition holds, something drifted, or the last look failed.
    Attention,
}

impl Health {
    /// Every health, best first.
    pub const ALL: [Self; 5] = [Self::Asleep, Self::Ready, Self::Busy, Self::Deleting, Self::Attention];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Deleting => "deleting",
            Self::Attention => "attention",
        }
    }

    /// Of a component with this status; `failing`: the last look at it ended in an error.
    #[must_use]
    pub fn of(status: &Status, failing: bool) -> Self {
        let wrong = !status.conditions.is_empty() || !status.drift.is_empty();
        match status.phase {
            Phase::Blocked => Self::Attention,
            _ if failing || wrong => Self::Attention,
            Phase::Deleting => Self::Deleting,
            Phase::Creating | Phase::Updating => Self::Busy,
            Phase::Ready if status.asleep => Self::Asleep,
            Phase::Ready => Self::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Condition, ConditionKind, Difference};

    #[test]
    fn health_is_the_worst_that_is_known() {
        let status = |phase| Status { phase, ..Status::default() };
        let asleep = Status { asleep: true, ..status(Phase::Ready) };
        let message = "full".to_owned();
        let full = Condition { kind: ConditionKind::DiskFull, message };
        let drift = Difference { field: "port".into(), before: 1.into(), after: 2.into() };
        let condition = |phase| Status { conditions: vec![full.clone()], ..status(phase) };
        for (status, failing, health) in [
            (status(Phase::Ready), false, Health::Ready),
            (asleep.clone(), false, Health::Asleep),
            (asleep, true, Health::Attention),
            (status(Phase::Creating), false, Health::Busy),
            (status(Phase::Updating), false, Health::Busy),
            (status(Phase::Updating), true, Health::Attention),
            (status(Phase::Blocked), false, Health::Attention),
            (status(Phase::Deleting), false, Health::Deleting),
            (condition(Phase::Deleting), false, Health::Attention),
            (condition(Phase::Ready), false, Health::Attention),
            (Status { drift: vec![drift], ..status(Phase::Ready) }, false, Health::Attention),
        ] {
            assert_eq!(Health::of(&status, failing), health, "{status:?} {failing}");
        }
    }

    #[test]
    fn what_is_worse_is_greater() {
        assert!(Health::ALL.is_sorted());
        assert_eq!([Health::Asleep, Health::Ready].iter().max(), Some(&Health::Ready));
        for health in Health::ALL {
            assert_eq!(serde_json::to_value(health).unwrap(), health.as_str());
        }
    }
}
