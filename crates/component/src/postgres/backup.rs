//! How often a server is backed up, and for how long that is kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::idle::{length, written};
use crate::manifest::shown;

/// Backups of a server. Its log is kept all the time; this is about the base backups that it is replayed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// Between two base backups.
    pub every: Every,
    /// How long every moment can be restored.
    pub keep: Keep,
    /// Between two drills, in which all of it is restored, checked and thrown away.
    pub drill: Drills,
}

/// Between two base backups: whole seconds, from an hour to 30 days; a day unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Every(u32);

/// Between two drills: whole seconds, from an hour to 365 days; a week unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Drills(u32);

/// How long backups are kept: so long, from a day to ten years, or so many, from 1 to 1,000; 14 days unless said
/// otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Keep {
    /// Every moment of so many seconds back can be restored.
    For(u32),
    /// So many base backups are kept, and every moment since the oldest of them can be restored.
    Last(u32),
}

/// A length of time as text, or a count as number.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Count(u32),
    Text(String),
}

/// Why something is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBackup {
    /// `every`.
    #[error("`{0}` is no time between two backups; write it like 12h or 1d, from 1h to 30d")]
    Every(String),
    /// `drill`.
    #[error("`{0}` is no time between two drills; write it like 1d or 7d, from 1h to 365d")]
    Drill(String),
    /// `keep`.
    #[error(
        "`{0}` is not how long backups are kept; write it like 14d, up to 3650d, or a number of backups, up to 1000"
    )]
    Keep(String),
}

const HOUR: u32 = 3_600;
const DAY: u32 = 24 * HOUR;
const LONGEST_EVERY: u32 = 30 * DAY;
const LONGEST_DRILL: u32 = 365 * DAY;
const LONGEST_KEEP: u32 = 3_650 * DAY;
const MOST_KEPT: u32 = 1_000;

impl Every {
    /// Seconds.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        self.0.into()
    }
}

impl Default for Every {
    fn default() -> Self {
        Self(DAY)
    }
}

impl Drills {
    /// Seconds.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        self.0.into()
    }
}

impl Default for Drills {
    fn default() -> Self {
        Self(7 * DAY)
    }
}

impl FromStr for Drills {
    type Err = BadBackup;
    fn from_str(text: &str) -> Result<Self, BadBackup> {
        seconds(text, HOUR..=LONGEST_DRILL).map(Self).ok_or_else(|| BadBackup::Drill(shown(text)))
    }
}

impl fmt::Display for Drills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&written(self.0))
    }
}

impl TryFrom<String> for Drills {
    type Error = BadBackup;
    fn try_from(text: String) -> Result<Self, BadBackup> {
        text.parse()
    }
}

impl From<Drills> for String {
    fn from(drills: Drills) -> Self {
        drills.to_string()
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self::For(14 * DAY)
    }
}

/// Whole seconds in a range.
pub(crate) fn seconds(text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let length = length(text.trim()).ok().filter(|length| length.subsec_nanos() == 0)?;
    u32::try_from(length.as_secs()).ok().filter(|seconds| range.contains(seconds))
}

impl FromStr for Every {
    type Err = BadBackup;
    fn from_str(text: &str) -> Result<Self, BadBackup> {
        seconds(text, HOUR..=LONGEST_EVERY).map(Self).ok_or_else(|| BadBackup::Every(shown(text)))
    }
}

impl FromStr for Keep {
    type Err = BadBackup;
    fn from_str(text: &str) -> Result<Self, BadBackup> {
        seconds(text, DAY..=LONGEST_KEEP).map(Self::For).ok_or_else(|| BadBackup::Keep(shown(text)))
    }
}

impl Keep {
    /// So many base backups.
    ///
    /// # Errors
    /// For none, and for more than 1,000.
    pub fn last(count: i64) -> Result<Self, BadBackup> {
        u32::try_from(count)
            .ok()
            .filter(|count| (1..=MOST_KEPT).contains(count))
            .map(Self::Last)
            .ok_or_else(|| BadBackup::Keep(count.to_string()))
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&written(self.0))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(seconds) => f.pad(&written(*seconds)),
            Self::Last(count) => count.fmt(f),
        }
    }
}

impl TryFrom<String> for Every {
    type Error = BadBackup;
    fn try_from(text: String) -> Result<Self, BadBackup> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

impl TryFrom<Written> for Keep {
    type Error = BadBackup;
    fn try_from(written: Written) -> Result<Self, BadBackup> {
        match written {
            Written::Count(count) => Self::last(count.into()),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Keep> for Written {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::For(_) => Self::Text(keep.to_string()),
            Keep::Last(count) => Self::Count(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lengths_and_counts() {
        let read = |value| serde_json::from_value::<Backup>(value);
        assert_eq!(
            read(json!({})).unwrap(),
            Backup { every: Every(DAY), keep: Keep::For(14 * DAY), drill: Drills(7 * DAY) }
        );
        for good in [
            json!({"every": "12h", "keep": "30d", "drill": "1d"}),
            json!({"every": "1d", "keep": 7, "drill": "7d"}),
        ] {
            assert_eq!(serde_json::to_value(read(good.clone()).unwrap()).unwrap(), good);
        }
        for bad in [
            json!({"every": "59m"}),
            json!({"every": "31d"}),
            json!({"every": "1.5s"}),
            json!({"every": 3}),
            json!({"keep": "23h"}),
            json!({"keep": 0}),
            json!({"keep": 1001}),
            json!({"keep": "ever"}),
            json!({"kept": "1d"}),
            json!({"drill": "366d"}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
