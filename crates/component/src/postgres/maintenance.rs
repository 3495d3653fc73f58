//! When maintenance may happen: one weekly window in a time zone of the customer's own.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

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
    #[error("`{0}` is not a span of time; write it like 03:00-05:00")]
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

impl FromStr for MaintenanceWindow {
    type Err = BadMaintenance;

    fn from_str(text: &str) -> Result<Self, BadMaintenance> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [day, span, zone] = parts[..] else {
            return Err(BadMaintenance::Shape(text.to_owned()));
        };
        let weekday = DAYS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(day))
            .map(|(_, weekday)| *weekday)
            .ok_or_else(|| BadMaintenance::Weekday(day.to_owned()))?;
        let (start, end) = span
            .split_once('-')
            .and_then(|(start, end)| Some((clock(start)?, clock(end)?)))
            .ok_or_else(|| BadMaintenance::Span(span.to_owned()))?;
        if start == end {
            return Err(BadMaintenance::Empty(start.strftime("%H:%M").to_string()));
        }
        let zone = TimeZone::get(zone).map_err(|_| BadMaintenance::Zone(zone.to_owned()))?;
        Ok(Self { weekday, start, end, zone })
    }
}

/// `HH:MM`, strictly.
fn clock(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl MaintenanceWindow {
    /// The window that is open at `now`, or else the next one: its first and last moment.
    ///
    /// Where daylight saving skips the start or the end, the window moves with the clock; where it repeats
    /// an hour, the first of the two is meant (RFC 5545's rule). `None` only past the end of time.
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
            let end = last.to_datetime(self.end).to_zoned(self.zone.clone()).ok()?.timestamp();
            (end > now && end.duration_since(start) > SignedDuration::ZERO).then_some((start, end))
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
