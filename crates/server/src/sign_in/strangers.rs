//! Waiting of accounts that do not exist: who guesses at one is told to wait as if it did.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use store::person::wait_after;

/// Names that are remembered, at most; after that the oldest guesses are forgotten.
const MOST: usize = 10_000;

/// Names that have no account, and how often somebody tried them. They are forgotten with the process.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<HashMap<String, Tried>>);

#[derive(Debug, Clone, Copy)]
struct Tried {
    failures: u32,
    last: Instant,
    until: Option<Instant>,
}

impl Strangers {
    /// Counts an attempt. How long there is still to wait, where the name waits; the attempt does not count then.
    pub(crate) fn charge(&self, name: &str, now: Instant) -> Result<(), Duration> {
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.len() >= MOST && !tried.contains_key(name) {
            let oldest = tried.iter().min_by_key(|(_, tried)| tried.last).map(|(name, _)| name.clone());
            oldest.map(|name| tried.remove(&name));
        }
        let of = tried.entry(name.to_owned()).or_insert(Tried { failures: 0, last: now, until: None });
        if let Some(left) =
            of.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
        {
            return Err(left);
        }
        of.failures = of.failures.saturating_add(1);
        of.last = now;
        of.until = wait_after(of.failures).map(|wait| now + wait);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_an_account_waits_like_one() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        for _ in 0..store::person::PATIENCE {
            assert_eq!(strangers.charge("nobody", start), Ok(()));
        }
        assert_eq!(strangers.charge("nobody", start), Err(Duration::from_secs(30)));
        assert_eq!(strangers.charge("other", start), Ok(()));
        let later = start + Duration::from_secs(31);
        assert_eq!(strangers.charge("nobody", later), Ok(()));
        assert_eq!(strangers.charge("nobody", later), Err(Duration::from_secs(60)), "longer each time");
        let much_later = later + Duration::from_secs(3_600);
        for _ in 0..40 {
            let _ = strangers.charge("nobody", much_later);
        }
        assert_eq!(strangers.charge("nobody", much_later), Err(Duration::from_secs(120)));
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        for n in 0..MOST + 10 {
            strangers.charge(&n.to_string(), start + Duration::from_millis(n as u64)).unwrap();
        }
        let kept = strangers.0.lock().unwrap();
        assert!(kept.len() == MOST && !kept.contains_key("0") && kept.contains_key(&MOST.to_string()));
    }
}
