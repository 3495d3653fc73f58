//! Which transactions a snapshot sees.
//!
//! A table is copied while others write it, and their changes come by the stream as well. What the copy holds already is
//! told by the snapshot under which it was made: PostgreSQL says of it which transactions it sees, and the stream says of
//! every change which transaction made it. So a copy can be made at any time, of one table alone, and neither waits for
//! the other.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Half of the numbers that a transaction's can be in 32 bits: one that seems further away is on the other side.
const HALF: u64 = 1 << 31;

/// A snapshot, as `pg_current_snapshot()` says it: `xmin:xmax:xip,xip`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Visibility {
    /// All before were over.
    xmin: u64,
    /// None from here on had begun.
    xmax: u64,
    /// Between the two, those that were under way.
    under_way: BTreeSet<u64>,
}

/// A text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no snapshot of PostgreSQL's")]
pub struct BadSnapshot(String);

impl Visibility {
    /// Whether what a transaction did is in the copy, given that it was committed at some time.
    ///
    /// Streams say the last 32 bits of a transaction's number; the others are those of the snapshot's neighbourhood.
    pub fn sees(&self, xid: u32) -> bool {
        let near = (self.xmax >> 32 << 32) | u64::from(xid);
        let xid = match near {
            _ if near > self.xmax + HALF => near.saturating_sub(HALF * 2),
            _ if near + HALF < self.xmax => near + HALF * 2,
            _ => near,
        };
        xid < self.xmin || (xid < self.xmax && !self.under_way.contains(&xid))
    }
}

impl FromStr for Visibility {
    type Err = BadSnapshot;
    fn from_str(text: &str) -> Result<Self, BadSnapshot> {
        let bad = || BadSnapshot(text.chars().take(80).collect());
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(bad);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(bad)?;
        let under_way = list.split(',').filter(|part| !part.is_empty()).map(str::parse);
        let under_way = under_way.collect::<Result<_, _>>().map_err(|_| bad())?;
        if parts.next().is_some() || xmin > xmax {
            return Err(bad());
        }
        Ok(Self { xmin, xmax, under_way })
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way: Vec<String> = self.under_way.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, under_way.join(","))
    }
}

impl TryFrom<String> for Visibility {
    type Error = BadSnapshot;
    fn try_from(text: String) -> Result<Self, BadSnapshot> {
        text.parse()
    }
}

impl From<Visibility> for String {
    fn from(visibility: Visibility) -> Self {
        visibility.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_over_is_seen_and_nothing_else() {
        let snapshot: Visibility = "10:20:12,15".parse().unwrap();
        for seen in [3, 9, 10, 11, 13, 19] {
            assert!(snapshot.sees(seen), "{seen}");
        }
        for not_seen in [12, 15, 20, 21, 1_000] {
            assert!(!snapshot.sees(not_seen), "{not_seen}");
        }
    }

    #[test]
    fn numbers_that_begin_anew_are_understood() {
        // The snapshot is just after the 32 bits were full, and one from before is under way.
        let around = (1_u64 << 32) + 5;
        let snapshot: Visibility =
            format!("{}:{around}:{}", (1_u64 << 32) - 3, (1_u64 << 32) - 3).parse().unwrap();
        assert!(snapshot.sees(u32::MAX) && snapshot.sees(u32::MAX - 100) && snapshot.sees(4));
        assert!(!snapshot.sees(u32::MAX - 2) && !snapshot.sees(5) && !snapshot.sees(1_000));
        // And just before.
        let snapshot: Visibility = format!("{0}:{0}:", (1_u64 << 32) - 3).parse().unwrap();
        assert!(snapshot.sees(u32::MAX - 3) && !snapshot.sees(u32::MAX - 2) && !snapshot.sees(7));
    }

    #[test]
    fn a_snapshot_is_read_as_it_is_written() {
        for text in ["10:20:12,15", "7:7:"] {
            assert_eq!(text.parse::<Visibility>().unwrap().to_string(), text);
        }
        for bad in ["", "1:2", "a:2:", "3:2:", "1:2:x", "1:2:3:4"] {
            assert!(bad.parse::<Visibility>().is_err(), "{bad}");
        }
    }
}
