//! When maintenance may happen: one weekly window in a time zone of the customer's own.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::manifest::shown;

/// A weekly window, `sun 03:00-05:00 Asia/Tokyo`. An end at or before the start is on the next day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MaintenanceWindow {
    weekday: Weekday,
    start: Time,
    end: Time,
    zone: TimeZone,
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMaintenance {
    /// It does not have the three parts.
    #[error("`{0}` is not a maintenance window; write it like `sun 03:00-05:00 Asia/Tokyo`")]
    Shape(String),
    /// The first part is no day.
    #[error("`{0}` is not a day of the week; use mon, tue, wed, thu, fri, sat or sun")]
    Weekday(String),
    /// The second part is not two times.
    #[error("`{0}` is not a span of time; write it like 03:00-05:00, midnight as 00:00")]
    Span(String),
    /// The window has no length.
    #[error("the window starts and ends at {0}; give it at least a minute, like 03:00-05:00")]
    Empty(String),
    /// The third part is no time zone.
    #[error("`{0}` is not a time zone of the IANA database; write it like Europe/Zurich or UTC")]
    Zone(String),
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Files of a zone database that are no place on earth: what they mean depends on the machine.
const PLACEHOLDERS: [&str; 4] = ["localtime", "posixrules", "Factory", "Etc/Unknown"];

impl FromStr for MaintenanceWindow {
    type Err = BadMaintenance;

    fn from_str(text: &str) -> Result<Self, BadMaintenance> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [day, span, zone] = parts[..] else {
            return Err(BadMaintenance::Shape(shown(text)));
        };
        let weekday = DAYS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(day))
            .map(|(_, weekday)| *weekday)
            .ok_or_else(|| BadMaintenance::Weekday(shown(day)))?;
        let (start, end) = span
            .split_once('-')
            .and_then(|(start, end)| Some((clock(start)?, clock(end)?)))
            .ok_or_else(|| BadMaintenance::Span(shown(span)))?;
        if start == end {
            return Err(BadMaintenance::Empty(start.strftime("%H:%M").to_string()));
        }
        let zone = TimeZone::get(zone)
            .ok()
            .filter(|zone| zone.iana_name().is_some_and(|name| !PLACEHOLDERS.contains(&name)))
            .ok_or_else(|| BadMaintenance::Zone(shown(zone)))?;
        Ok(Self { weekday, start, end, zone })
    }
}

/// `HH:MM`, strictly.
fn clock(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl MaintenanceWindow {
    /// The window that is open at `now`, or else the next one: its first and last moment.
    ///
    /// Where daylight saving skips the start or the end, that moment moves with the clock, and a window that
    /// would be left without length keeps the length it is written with; where it repeats an hour, the first
    /// of the two is meant (RFC 5545's rule). `None` only past the end of time.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let today = now.to_zoned(self.zone.clone()).date();
        // From eight days back, so that a window begun last week and still open is found.
        (-8..=8).find_map(|offset: i64| {
            let date = today.checked_add(offset.days()).ok()?;
            if date.weekday() != self.weekday {
                return None;
            }
            let last = if self.end > self.start { date } else { date.tomorrow().ok()? };
            let start = date.to_datetime(self.start).to_zoned(self.zone.clone()).ok()?.timestamp();
            let mut end = last.to_datetime(self.end).to_zoned(self.zone.clone()).ok()?.timestamp();
            if end <= start {
                let written = last.to_datetime(self.end).duration_since(date.to_datetime(self.start));
                end = start.checked_add(written).ok()?;
            }
            (end > now).then_some((start, end))
        })
    }
}

impl fmt::Display for MaintenanceWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = DAYS.iter().find(|(_, weekday)| *weekday == self.weekday).map_or("", |(name, _)| name);
        let zone = self.zone.iana_name().unwrap_or("UTC");
        write!(f, "{day} {}-{} {zone}", self.start.strftime("%H:%M"), self.end.strftime("%H:%M"))
    }
}

impl TryFrom<String> for MaintenanceWindow {
    type Error = BadMaintenance;
    fn try_from(text: String) -> Result<Self, BadMaintenance> {
        text.parse()
    }
}

impl From<MaintenanceWindow> for String {
    fn from(window: MaintenanceWindow) -> Self {
        window.to_string()
    }
}
