//! Positions in a server's write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log, bytes from its beginning. Reads and writes PostgreSQL's notation, `0/3000028`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position in a write-ahead log; one looks like 0/3000028")]
pub struct BadLsn(String);

impl Lsn {
    /// The position so many bytes further.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; none where that is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Where the segment that it lies in begins.
    #[must_use]
    pub fn floor(self, segment_bytes: u64) -> Self {
        Self(self.0 - self.0 % segment_bytes.max(1))
    }

    /// Sixteen digits, which sort as the positions do: for names of objects.
    pub(crate) fn digits(self) -> String {
        format!("{:016X}", self.0)
    }

    pub(crate) fn from_digits(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;
    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let half = |digits: &str| {
            let fits = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let parsed = text.split_once('/').and_then(|(high, low)| Some(half(high)? << 32 | half(low)?));
        parsed.map(Self).ok_or_else(|| BadLsn(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = BadLsn;
    fn try_from(text: String) -> Result<Self, BadLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for (text, number) in [("0/0", 0), ("0/3000028", 0x300_0028), ("1A/FF", 0x1A_0000_00FF)] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(Lsn::from_digits(&Lsn(number).digits()), Some(Lsn(number)));
        }
        for bad in ["", "0", "/", "0/", "/1", "0/123456789", "0/x", "-1/0", "0/+1", "0/1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
