//! The table of units: what each one does now, and what has to be done to bring its declaration about.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::record::{Identity, Outcome};
use crate::wire::{Name, StopSignal, Unit, UnitState, UnitStatus, Wanted};

/// Back-off after a unit ended by itself: from, to, and the running time after which it is forgotten.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_secs(60);

/// How long SIGQUIT may take before SIGKILL.
pub(crate) const QUIT_PATIENCE: Duration = Duration::from_secs(5);

/// A process that lives.
pub(crate) struct Process {
    pub(crate) pidfd: OwnedFd,
    pub(crate) identity: Identity,
    pub(crate) started_at: Timestamp,
    /// The unit as it was launched: how it is stopped, and where it is.
    pub(crate) unit: Unit,
    /// Size of its output file before it was started.
    pub(crate) output_from: u64,
}

/// What a unit does now.
pub(crate) enum Phase {
    Stopped,
    Running(Process),
    Stopping {
        process: Process,
        /// What comes after the signal that was sent last.
        next: Escalation,
        at: Instant,
    },
    Exited(Outcome),
    Backoff {
        /// By the monotonic clock; `until` is for people.
        at: Instant,
        until: Timestamp,
        error: String,
    },
}

/// The next signal for a process that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escalation {
    Quit,
    Kill,
}

/// A unit that is declared or has been.
pub(crate) struct Entry {
    pub(crate) declared: Option<Unit>,
    pub(crate) phase: Phase,
    /// Generation that was started last.
    pub(crate) generation: u64,
    pub(crate) restarts: u64,
    /// Nobody uses it: it is not to run although it is wanted.
    pub(crate) asleep: bool,
    delay: Duration,
}

/// What to do about a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Start,
    /// Begin to stop; when it has ended this is decided anew.
    Stop,
    /// No process and none wanted any more.
    Settle,
}

impl Entry {
    pub(crate) fn new(phase: Phase, generation: u64, restarts: u64) -> Self {
        Self { declared: None, phase, generation, restarts, asleep: false, delay: FIRST_DELAY }
    }

    /// The process, while there is one.
    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.phase {
            Phase::Running(process) | Phase::Stopping { process, .. } => Some(process),
            _ => None,
        }
    }

    /// Decides what brings the declaration about.
    pub(crate) fn decide(&self) -> Action {
        let wanted = |unit: &Unit| if self.asleep { Wanted::Stopped } else { unit.wanted };
        let wanted = self.declared.as_ref().map(|unit| (wanted(unit), unit.generation));
        match (&self.phase, wanted) {
            (Phase::Stopping { .. }, _) => Action::Nothing,
            (Phase::Running(_), Some((Wanted::Running, generation))) if generation == self.generation => {
                Action::Nothing
            }
            (Phase::Running(_), Some((Wanted::Retired, _))) => Action::Nothing,
            (Phase::Running(_), _) => Action::Stop,
            // A job that has run is not run again, however often it is asked for.
            (Phase::Exited(_), Some((Wanted::Running, generation))) if generation == self.generation => {
                Action::Nothing
            }
            (_, Some((Wanted::Running, _))) => Action::Start,
            (Phase::Stopped, _) => Action::Nothing,
            (Phase::Exited(_) | Phase::Backoff { .. }, _) => Action::Settle,
        }
    }

    /// Whether its process ends by itself and for good.
    pub(crate) fn is_retired(&self) -> bool {
        self.declared.as_ref().is_some_and(|unit| unit.wanted == Wanted::Retired)
    }

    /// Waits before the next start, longer each time unless it ran well for a while.
    pub(crate) fn back_off(&mut self, ran: Duration, error: String) {
        if ran >= STEADY {
            self.delay = FIRST_DELAY;
        }
        let now = Timestamp::now();
        let until = now.checked_add(self.delay).unwrap_or(now);
        self.phase = Phase::Backoff { at: Instant::now() + self.delay, until, error };
        self.delay = (self.delay * 2).min(LAST_DELAY);
    }

    /// Begins anew, as when it is applied.
    pub(crate) fn forget_failures(&mut self) {
        self.delay = FIRST_DELAY;
        self.restarts = 0;
    }

    /// When the loop has to look at it again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Backoff { at, .. } | Phase::Stopping { at, .. } => Some(*at),
            _ => None,
        }
    }

    pub(crate) fn status(&self, unit: &Name) -> UnitStatus {
        let process = self.process();
        UnitStatus {
            unit: unit.clone(),
            generation: self.generation,
            state: match &self.phase {
                Phase::Stopped if self.asleep => UnitState::Asleep,
                Phase::Stopped => UnitState::Stopped,
                Phase::Running(_) => UnitState::Running,
                Phase::Stopping { .. } => UnitState::Stopping,
                Phase::Exited(Outcome { code, signal }) => UnitState::Exited { code: *code, signal: *signal },
                Phase::Backoff { until, error, .. } => {
                    UnitState::Backoff { until: *until, last_error: error.clone() }
                }
            },
            restarts: self.restarts,
            pid: process.map(|process| process.identity.pid),
            started_at: process.map(|process| process.started_at),
        }
    }
}

impl StopSignal {
    pub(crate) fn signal(self) -> rustix::process::Signal {
        match self {
            Self::Int => rustix::process::Signal::INT,
            Self::Term => rustix::process::Signal::TERM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(phase: Phase, wanted: Wanted, generation: u64) -> Entry {
        let mut entry = Entry::new(phase, 1, 0);
        let text = r#"{"name": "u", "generation": 0, "wanted": "running", "runs": "gateway"}"#;
        let mut unit: Unit = serde_json::from_str(text).unwrap();
        (unit.wanted, unit.generation) = (wanted, generation);
        entry.declared = Some(unit);
        entry
    }

    fn process() -> Process {
        let me = rustix::process::getpid();
        let text = r#"{"name": "u", "generation": 1, "wanted": "running", "runs": "gateway"}"#;
        Process {
            pidfd: rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).unwrap(),
            identity: Identity::of(me).unwrap(),
            started_at: Timestamp::now(),
            unit: serde_json::from_str(text).unwrap(),
            output_from: 0,
        }
    }

    #[test]
    fn every_phase_leads_to_what_is_declared() {
        let stopping = || Phase::Stopping { process: process(), next: Escalation::Quit, at: Instant::now() };
        let backoff = || Phase::Backoff { at: Instant::now(), until: Timestamp::now(), error: String::new() };
        let exited = || Phase::Exited(Outcome::default());
        let table: Vec<(Phase, Wanted, u64, Action)> = vec![
            (Phase::Stopped, Wanted::Running, 1, Action::Start),
            (Phase::Stopped, Wanted::Stopped, 1, Action::Nothing),
            (Phase::Running(process()), Wanted::Running, 1, Action::Nothing),
            (Phase::Running(process()), Wanted::Running, 2, Action::Stop),
            (Phase::Running(process()), Wanted::Stopped, 1, Action::Stop),
            (Phase::Running(process()), Wanted::Retired, 2, Action::Nothing),
            (Phase::Stopped, Wanted::Retired, 2, Action::Nothing),
            (backoff(), Wanted::Retired, 2, Action::Settle),
            (exited(), Wanted::Retired, 2, Action::Settle),
            (stopping(), Wanted::Retired, 2, Action::Nothing),
            (stopping(), Wanted::Running, 2, Action::Nothing),
            (stopping(), Wanted::Stopped, 1, Action::Nothing),
            (exited(), Wanted::Running, 1, Action::Nothing),
            (exited(), Wanted::Running, 2, Action::Start),
            (exited(), Wanted::Stopped, 1, Action::Settle),
            (backoff(), Wanted::Running, 1, Action::Start),
            (backoff(), Wanted::Stopped, 1, Action::Settle),
        ];
        for (n, (phase, wanted, generation, action)) in table.into_iter().enumerate() {
            assert_eq!(entry(phase, wanted, generation).decide(), action, "row {n}");
        }
        let undeclared = Entry::new(Phase::Running(process()), 1, 0);
        assert_eq!(undeclared.decide(), Action::Stop, "a declaration that is gone wants nothing");
    }

    #[test]
    fn delays_double_up_to_a_limit_and_are_forgotten_after_a_steady_run() {
        let mut entry = Entry::new(Phase::Stopped, 1, 0);
        let mut delays = Vec::new();
        for _ in 0..11 {
            delays.push(entry.delay.as_millis());
            entry.back_off(Duration::ZERO, String::new());
        }
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        entry.back_off(STEADY, String::new());
        assert_eq!(entry.delay, FIRST_DELAY * 2);
    }
}
