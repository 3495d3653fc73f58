//! Which names a worker may reach, and the addresses that stand for them inside its namespace.
//!
//! A function never learns a real address. Each name that it may reach has one of 198.18.0.0/15 (RFC 2544), which are
//! local inside the namespace and nowhere else; a connection to one tells which name was meant. The address follows from
//! the name, so that one that a worker remembered holds in the next as well, but for a collision.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::route::Egress;

/// The first of the addresses; of them there are 2^17, without the first and the last.
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const COUNT: u32 = (1 << 17) - 2;
/// Names of one worker: a wildcard has any number, and each costs memory.
const MOST: usize = 4096;

/// The names that a worker has asked for.
#[derive(Default)]
pub(crate) struct Names {
    by_address: Mutex<HashMap<Ipv4Addr, String>>,
}

impl Names {
    /// The address that stands for a name; `None` where there are too many.
    pub(crate) fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let mut names = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = Sha256::digest(name.as_bytes());
        let start = hash.iter().take(4).fold(0, |number: u32, byte| number << 8 | u32::from(*byte));
        let full = names.len() >= MOST;
        for step in 0..8 {
            let address = Ipv4Addr::from(FIRST + 1 + start.wrapping_add(step * 7919) % COUNT);
            match names.get(&address) {
                Some(other) if other == name => return Some(address),
                Some(_) => {}
                None if full => return None,
                None => {
                    names.insert(address, name.to_owned());
                    return Some(address);
                }
            }
        }
        None
    }

    /// The name that an address stands for.
    pub(crate) fn name(&self, address: Ipv4Addr) -> Option<String> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }
}

/// Whether a name (lower case) is among those declared, at a port where one is meant.
pub(crate) fn may_reach(egress: &[Egress], name: &str, port: Option<u16>) -> bool {
    egress.iter().any(|declared| {
        let fits = match declared.name.strip_prefix("*.") {
            Some(parent) => name
                .strip_suffix(parent)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
            None => declared.name == name,
        };
        fits && port.is_none_or(|port| port == declared.port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_address_and_an_address_one_name() {
        let names = Names::default();
        let address = names.address("api.example.com").unwrap();
        assert_eq!(names.address("api.example.com"), Some(address));
        assert_eq!(Names::default().address("api.example.com"), Some(address));
        assert_eq!(names.name(address).as_deref(), Some("api.example.com"));
        assert!((18..=19).contains(&address.octets()[1]));
        for n in 0..MOST * 2 {
            let _ = names.address(&format!("{n}.example.com"));
        }
        assert_eq!(names.by_address.lock().unwrap().len(), MOST);
        assert_eq!(names.address("api.example.com"), Some(address));
    }

    #[test]
    fn a_wildcard_means_what_is_below() {
        let egress = |name: &str| vec![Egress { name: name.to_owned(), port: 443 }];
        let wild = egress("*.example.com");
        assert!(may_reach(&wild, "a.example.com", Some(443)) && may_reach(&wild, "a.b.example.com", None));
        assert!(!may_reach(&wild, "example.com", None) && !may_reach(&wild, ".example.com", None));
        assert!(!may_reach(&wild, "evilexample.com", None) && !may_reach(&wild, "a.example.com", Some(80)));
        assert!(may_reach(&egress("example.com"), "example.com", Some(443)));
        assert!(!may_reach(&egress("example.com"), "a.example.com", None));
    }
}
