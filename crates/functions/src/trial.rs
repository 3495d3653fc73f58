//! Judges a version that is tried on a share of the calls.
//!
//! Counted is how calls ended, of the version that is tried and of the one that answers the others, since the trial
//! began. As soon as the first fails clearly more often than the second, it gets no calls any more: that is decided
//! here, with the call that made it clear, because those who call should not have to wait until the control plane has
//! looked. The rule is blunt on purpose: with few calls a bad share means little, and what fails now and then in both
//! is nobody's canary.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::route::{Canary, Route};

/// Fewer calls than this say nothing.
const MIN_CALLS: u64 = 10;
/// Nor do fewer failures.
const MIN_FAILURES: u64 = 3;
/// By so many per cent of its calls it may fail more often than the one that it is tried against.
const MARGIN: u64 = 10;

/// See above.
#[derive(Default)]
pub(crate) struct Trial(Mutex<State>);

#[derive(Default)]
struct State {
    /// What is tried: the version and its share.
    of: Option<(u64, u8)>,
    live: Count,
    canary: Count,
    returned: Option<String>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    calls: u64,
    failed: u64,
}

impl Count {
    /// Failures in a hundred calls.
    fn share(self) -> u64 {
        self.failed * 100 / self.calls.max(1)
    }
}

impl Trial {
    /// A route is in force: another trial begins anew.
    pub(crate) fn apply(&self, route: &Route) {
        let of = route.canary.as_ref().map(|canary| (canary.version, canary.percent));
        let returned = route.canary.as_ref().and_then(|canary| canary.returned.clone());
        let mut state = self.lock();
        if state.of != of {
            *state = State { of, ..State::default() };
        }
        if returned.is_some() {
            state.returned = returned;
        }
    }

    /// Whether a canary still gets its share.
    pub(crate) fn goes_on(&self, canary: &Canary) -> bool {
        canary.returned.is_none() && self.lock().returned.is_none()
    }

    /// A call of a version has ended.
    pub(crate) fn count(&self, live: Option<u64>, version: u64, failed: bool) {
        let mut state = self.lock();
        let Some((canary, percent)) = state.of else { return };
        let count = match version {
            version if version == canary => &mut state.canary,
            version if Some(version) == live => &mut state.live,
            _ => return,
        };
        count.calls += 1;
        count.failed += u64::from(failed);
        if state.returned.is_none()
            && let Some(why) = judge(state.canary, state.live)
        {
            tracing::warn!(version = canary, percent, why, "a canary is returned");
            state.returned = Some(why);
        }
    }

    /// Why the canary gets no calls any more.
    pub(crate) fn returned(&self) -> Option<String> {
        self.lock().returned.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a canary is to be returned.
fn judge(canary: Count, live: Count) -> Option<String> {
    let clear =
        canary.calls >= MIN_CALLS && canary.failed >= MIN_FAILURES && canary.share() > live.share() + MARGIN;
    clear.then(|| {
        let Count { calls, failed } = live;
        format!(
            "{} of its {} calls failed, and {failed} of {calls} of the others",
            canary.failed, canary.calls
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_clearly_more_often_is_returned() {
        let count = |calls, failed| Count { calls, failed };
        assert!(judge(count(9, 9), count(90, 0)).is_none());
        assert!(judge(count(20, 2), count(90, 0)).is_none());
        assert!(judge(count(100, 11), count(900, 9)).is_none());
        assert!(judge(count(100, 12), count(900, 9)).is_some());
        // Both fail: whatever it is, it is not the release.
        assert!(judge(count(10, 10), count(90, 85)).is_none());
        // Nobody called the other one.
        assert_eq!(
            judge(count(10, 10), count(0, 0)).unwrap(),
            "10 of its 10 calls failed, and 0 of 0 of the others"
        );
    }
}
