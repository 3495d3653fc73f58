//! Wrong passwords, counted by address and server, so that guessing is slow.
//!
//! A bucket of tokens each: a wrong password takes one, time gives one back, and while there is none left
//! nobody from that address is asked for a password of that server. A right password takes nothing, so that
//! connecting often is no guessing. Other addresses, and other servers, notice nothing: a tenant whose app
//! still has its old password must not lock out the neighbour who comes through the same router.
//!
//! A bucket is one moment, the one at which it will be full again (the generic cell rate algorithm). A full
//! one is forgotten, and there are never more than [`BUCKETS`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::crowd::Neighbourhood;

/// Buckets kept; about 100 bytes each. Whoever has more addresses than this is not slowed by counting them.
const BUCKETS: usize = 16_384;

/// Every bucket that is not full.
pub(crate) struct Guessing {
    /// Tokens of a full bucket.
    tokens: u32,
    /// Until one comes back.
    refill: Duration,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    /// When each will be full.
    full_at: HashMap<(Neighbourhood, String), Instant>,
    /// When full ones were last looked for.
    swept: Option<Instant>,
}

impl Guessing {
    /// Full buckets for everybody.
    pub(crate) fn new(tokens: u32, refill: Duration) -> Guessing {
        Guessing { tokens, refill, buckets: Mutex::default() }
    }

    /// How long nobody from there may try at this server; `None` where there is a token left.
    pub(crate) fn pause(&self, address: IpAddr, server: &str) -> Option<Duration> {
        self.pause_at(Instant::now(), address, server)
    }

    /// Takes a token for a wrong password.
    pub(crate) fn failed(&self, address: IpAddr, server: &str) {
        self.failed_at(Instant::now(), address, server);
    }

    fn pause_at(&self, now: Instant, address: IpAddr, server: &str) -> Option<Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.full_at.get(&(address.into(), server.to_owned()))?;
        let spare = self.refill * self.tokens.saturating_sub(1);
        full_at.saturating_duration_since(now).checked_sub(spare).filter(|pause| !pause.is_zero())
    }

    fn failed_at(&self, now: Instant, address: IpAddr, server: &str) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.into(), server.to_owned());
        if !buckets.full_at.contains_key(&key) && !buckets.make_room(now, self.refill) {
            return;
        }
        let full_at = buckets.full_at.entry(key).or_insert(now);
        // Those who tried at the same time may take more than there were, but not for ever.
        let latest = now + self.refill * self.tokens;
        *full_at = ((*full_at).max(now) + self.refill).min(latest);
    }
}

impl Buckets {
    /// Forgets full ones where there is no room; not at each failure, because it looks at all of them.
    fn make_room(&mut self, now: Instant, refill: Duration) -> bool {
        if self.full_at.len() < BUCKETS {
            return true;
        }
        if self.swept.is_none_or(|swept| now >= swept + refill) {
            self.swept = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn wrong_passwords_empty_a_bucket_and_time_fills_it() {
        let (guessing, now) = (Guessing::new(3, SECOND), Instant::now());
        for _ in 0..3 {
            assert_eq!(guessing.pause_at(now, ip(1), "a"), None);
            guessing.failed_at(now, ip(1), "a");
        }
        assert_eq!(guessing.pause_at(now, ip(1), "a"), Some(SECOND));
        assert_eq!(guessing.pause_at(now, ip(2), "a"), None, "another address");
        assert_eq!(guessing.pause_at(now, ip(1), "b"), None, "another server");
        assert_eq!(guessing.pause_at(now + SECOND, ip(1), "a"), None, "one token");
        guessing.failed_at(now + SECOND, ip(1), "a");
        assert_eq!(guessing.pause_at(now + SECOND, ip(1), "a"), Some(SECOND));
        // Full again, and no fuller.
        let later = now + SECOND * 100;
        for _ in 0..3 {
            assert_eq!(guessing.pause_at(later, ip(1), "a"), None);
            guessing.failed_at(later, ip(1), "a");
        }
        assert!(guessing.pause_at(later, ip(1), "a").is_some());
    }

    #[test]
    fn a_thousand_at_once_are_waited_for_no_longer_than_a_full_bucket() {
        let (guessing, now) = (Guessing::new(3, SECOND), Instant::now());
        (0..1000).for_each(|_| guessing.failed_at(now, ip(1), "a"));
        assert_eq!(guessing.pause_at(now, ip(1), "a"), Some(SECOND));
        assert_eq!(guessing.pause_at(now + SECOND, ip(1), "a"), None);
    }

    #[test]
    fn memory_is_bounded_and_full_buckets_make_room() {
        let (guessing, now) = (Guessing::new(1, SECOND), Instant::now());
        let many = u32::try_from(BUCKETS).unwrap() + 100;
        (0..many).for_each(|n| guessing.failed_at(now, ip(n), "a"));
        let count = || guessing.buckets.lock().unwrap().full_at.len();
        assert_eq!(count(), BUCKETS);
        assert_eq!(guessing.pause_at(now, ip(many - 1), "a"), None, "no room: not counted");
        assert!(guessing.pause_at(now, ip(1), "a").is_some(), "those that are counted stay");
        guessing.failed_at(now + SECOND * 2, ip(many), "a");
        assert_eq!(count(), 1);
    }
}
