//! How much a transfer reads again of what it has read, where it asks for newer rows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::manifest::shown;
use crate::postgres::{seconds, written};

/// The longest time that is read again, seconds: a week.
const LONGEST_OVERLAP: u32 = 7 * 24 * 60 * 60;

/// How much of what was read is read again, because rows are not committed in the order of their cursors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Overlap {
    /// Of a moment or a day: so many seconds, at most a week.
    Seconds(u32),
    /// Of a whole number: so much of it.
    Count(u32),
}

/// A text that is no overlap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that can be read again; write a time up to 7d, like 10m, or a number for a cursor that is one"
)]
pub struct BadOverlap(String);

impl FromStr for Overlap {
    type Err = BadOverlap;
    fn from_str(text: &str) -> Result<Self, BadOverlap> {
        let count = text.parse().ok().map(Self::Count);
        let time = || seconds(text, 0..=LONGEST_OVERLAP).map(Self::Seconds);
        count.or_else(time).ok_or_else(|| BadOverlap(shown(text)))
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => f.pad(&written(*seconds)),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl TryFrom<String> for Overlap {
    type Error = BadOverlap;
    fn try_from(text: String) -> Result<Self, BadOverlap> {
        text.parse()
    }
}

impl From<Overlap> for String {
    fn from(overlap: Overlap) -> Self {
        overlap.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_a_time_or_a_number() {
        assert_eq!("10m".parse(), Ok(Overlap::Seconds(600)));
        assert_eq!("0s".parse(), Ok(Overlap::Seconds(0)));
        assert_eq!("1000".parse(), Ok(Overlap::Count(1_000)));
        for bad in ["", "-1", "8d", "1.5", "ten", "4294967296"] {
            assert!(bad.parse::<Overlap>().is_err(), "{bad}");
        }
        for same in ["10m", "0s", "1000", "1d 2h"] {
            let overlap: Overlap = same.parse().unwrap();
            assert_eq!(overlap.to_string().parse(), Ok(overlap), "{same}");
        }
    }
}
