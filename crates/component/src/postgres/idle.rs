//! How long a server is left alone before it sleeps.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::fmt::friendly::{Spacing, SpanParser, SpanPrinter};
use jiff::{SignedDuration, SpanRelativeTo, ToSpan};
use serde::{Deserialize, Serialize};

use crate::manifest::shown;

/// A length of time after which a server sleeps: whole seconds, from 1 second to 30 days.
///
/// Reads `5m`, `90s`, `1h 30m`, `2 days`; writes the largest units first and without spaces, `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Idle(u32);

/// Why a text is no such length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdle {
    /// It is something else.
    #[error("`{0}` is not a length of time; write it like 5m, 90s, 1h30m or 2d")]
    Shape(String),
    /// It is a word that says that there is none.
    #[error("`{0}` is not a length of time; leave `idle` out: the server then never sleeps")]
    Never(String),
    /// A number in it stands alone.
    #[error("`{0}` has no unit; write it like 5m, 90s, 1h30m or 2d")]
    NoUnit(String),
    /// A unit that is not there, or that differs in length from one time to the next.
    #[error("`{0}` is not a unit of time here; use s, m, h or d, like 1h30m")]
    Unit(String),
    /// It is finer than a second.
    #[error("`{0}` is not a whole number of seconds; write it like 5m, 90s, 1h30m or 2d")]
    Fraction(String),
    /// It has no length.
    #[error("`{0}` is no time at all; write at least 1s, or leave `idle` out: the server then never sleeps")]
    Zero(String),
    /// It is below zero.
    #[error("`{0}` is negative; write it like 5m, 90s, 1h30m or 2d")]
    Negative(String),
    /// It is longer than the longest.
    #[error(
        "`{0}` is longer than 30 days; write at most 30d, or leave `idle` out: the server then never sleeps"
    )]
    Long(String),
}

/// The longest, seconds: 30 days. What sleeps later than that might as well never.
const LONGEST: u32 = 30 * 24 * 60 * 60;

/// The longest text that is looked into, bytes; every unit spelt out is shorter.
const LONGEST_TEXT: usize = 100;

const PARSER: SpanParser = SpanParser::new();
const PRINTER: SpanPrinter = SpanPrinter::new().spacing(Spacing::None);

impl Idle {
    /// The length in milliseconds, from 1,000 to 2,592,000,000.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::from(self.0) * 1_000
    }
}

impl From<Idle> for Duration {
    fn from(idle: Idle) -> Self {
        Self::from_secs(idle.0.into())
    }
}

impl FromStr for Idle {
    type Err = BadIdle;

    fn from_str(text: &str) -> Result<Self, BadIdle> {
        let text = text.trim();
        if text.len() > LONGEST_TEXT {
            return Err(BadIdle::Shape(shown(text)));
        }
        let length = length(text).map_err(|error| explain(text, &error))?;
        if length.is_negative() {
            return Err(BadIdle::Negative(shown(text)));
        }
        if length.is_zero() {
            return Err(BadIdle::Zero(shown(text)));
        }
        if length > SignedDuration::from_secs(LONGEST.into()) {
            return Err(BadIdle::Long(shown(text)));
        }
        match u32::try_from(length.as_secs()) {
            Ok(seconds) if length.subsec_nanos() == 0 => Ok(Self(seconds)),
            _ => Err(BadIdle::Fraction(shown(text))),
        }
    }
}

/// The length that a text says; a day is 24 hours, a month or a year has none.
pub(super) fn length(text: &str) -> Result<SignedDuration, jiff::Error> {
    PARSER.parse_span(text)?.to_duration(SpanRelativeTo::days_are_24_hours())
}

/// Which part of a text that says no length is to blame.
fn explain(text: &str, error: &jiff::Error) -> BadIdle {
    if error.is_range() {
        return BadIdle::Long(shown(text));
    }
    let digits = text.trim_start_matches(['+', '-']);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        let never = ["never", "none", "no", "off", "false"];
        let says = |word: &&str| text.eq_ignore_ascii_case(word);
        return if never.iter().any(says) { BadIdle::Never } else { BadIdle::Shape }(shown(text));
    }
    if text.bytes().all(|byte| byte == b'0') {
        return BadIdle::Zero(shown(text));
    }
    let mut words = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    if let Some(word) = words.find(|word| length(&format!("1{word}")).is_err()) {
        return BadIdle::Unit(shown(word));
    }
    let tail = text.rsplit(|c: char| c.is_alphabetic() || c.is_whitespace()).next().unwrap_or_default();
    if tail.parse::<f64>().is_ok() { BadIdle::NoUnit(shown(tail)) } else { BadIdle::Shape(shown(text)) }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&written(self.0))
    }
}

/// So many seconds, in the largest units first.
pub(crate) fn written(seconds: u32) -> String {
    let seconds = i64::from(seconds);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    PRINTER.span_to_string(&days.days().hours(hours).minutes(minutes).seconds(seconds % 60))
}

impl TryFrom<String> for Idle {
    type Error = BadIdle;
    fn try_from(text: String) -> Result<Self, BadIdle> {
        text.parse()
    }
}

impl From<Idle> for String {
    fn from(idle: Idle) -> Self {
        idle.to_string()
    }
}
