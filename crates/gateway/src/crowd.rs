//! How many may be somewhere at once, counted by a key: connections that sign in by address, for example.
//!
//! A key takes memory only as long as somebody is there, so that all keys together never take more than the
//! connections themselves do.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who is there, by key.
pub(crate) struct Crowd<K> {
    limit: usize,
    there: Mutex<HashMap<K, usize>>,
}

/// The right to be there. Given back when dropped.
pub(crate) struct Place<K: Eq + Hash> {
    crowd: Arc<Crowd<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Crowd<K> {
    /// Nobody yet, and at most `limit` of one key at once.
    pub(crate) fn new(limit: usize) -> Arc<Crowd<K>> {
        Arc::new(Crowd { limit, there: Mutex::default() })
    }

    /// A place, if there is one.
    pub(crate) fn join(self: &Arc<Crowd<K>>, key: K) -> Option<Place<K>> {
        let mut all = self.there();
        let there = all.entry(key.clone()).or_insert(0);
        if *there >= self.limit {
            // With a limit of 0 the entry was made just now.
            if *there == 0 {
                all.remove(&key);
            }
            return None;
        }
        *there += 1;
        drop(all);
        Some(Place { crowd: self.clone(), key })
    }
}

impl<K> Crowd<K> {
    /// The most of one key at once.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn there(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut all = self.crowd.there();
        let Some(there) = all.get_mut(&self.key) else { return };
        *there -= 1;
        if *there == 0 {
            all.remove(&self.key);
        }
    }
}

/// What counts as one address: of IPv6 the network of 64 bits that one customer of a provider has at least
/// (RFC 6177), because inside it everybody has as many addresses as he likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Neighbourhood(IpAddr);

impl From<IpAddr> for Neighbourhood {
    fn from(address: IpAddr) -> Neighbourhood {
        Neighbourhood(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_leave_nothing() {
        let crowd = Crowd::new(2);
        let (first, second) = (crowd.join("a"), crowd.join("a"));
        assert!(first.is_some() && second.is_some() && crowd.join("a").is_none());
        assert!(crowd.join("b").is_some(), "others have their own");
        drop(first);
        assert!(crowd.join("a").is_some());
        drop(second);
        assert!(crowd.there().is_empty());
        assert!(Crowd::new(0).join("a").is_none());
    }

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        let of = |text: &str| Neighbourhood::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
