//! When a function is called by the clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A cron expression of five fields in a time zone: `0 6 * * mon-fri Europe/Zurich`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Minute, hour, day of the month, month, day of the week, as cron's.
    pub cron: String,
    /// IANA time zone.
    pub zone: String,
    /// What happens with runs that were missed while nothing could run.
    #[serde(default)]
    pub missed: Missed,
}

/// What happens with runs that were missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// One run makes up for all of them.
    #[default]
    Once,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// Not five fields and perhaps a zone.
    #[error(
        "\"{0}\" is not a schedule; write minute, hour, day, month, weekday and a time zone, like \"0 6 * * mon-fri Europe/Zurich\""
    )]
    Shape(String),
    /// The five fields are no cron expression.
    #[error("\"{given}\" is not a cron expression ({why}); write it like \"0 6 * * mon-fri\"")]
    Cron {
        /// The five fields.
        given: String,
        /// What is wrong with them.
        why: String,
    },
    /// No such time zone.
    #[error("\"{0}\" is not a time zone; write it like Europe/Zurich, or leave it out for UTC")]
    Zone(String),
}

impl FromStr for Schedule {
    type Err = BadSchedule;
    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (cron, zone) = match fields.as_slice() {
            [_, _, _, _, _] => (fields.join(" "), "UTC"),
            [cron @ .., zone] if cron.len() == 5 => (cron.join(" "), *zone),
            _ => return Err(BadSchedule::Shape(crate::manifest::shown(text))),
        };
        croner::Cron::from_str(&cron).map_err(|error| BadSchedule::Cron {
            given: crate::manifest::shown(&cron),
            why: crate::manifest::shown(&error.to_string()),
        })?;
        let zone = jiff::tz::TimeZone::get(zone)
            .ok()
            .and_then(|zone| zone.iana_name().map(str::to_owned))
            .ok_or_else(|| BadSchedule::Zone(crate::manifest::shown(zone)))?;
        Ok(Self { cron, zone, missed: Missed::default() })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cron, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_five_fields_and_a_zone() {
        let schedule: Schedule = "0  6 * * mon-fri  Europe/Zurich".parse().unwrap();
        assert_eq!(schedule.to_string(), "0 6 * * mon-fri Europe/Zurich");
        assert_eq!("*/5 * * * *".parse::<Schedule>().unwrap().zone, "UTC");
        assert!(matches!("0 6 * *".parse::<Schedule>(), Err(BadSchedule::Shape(_))));
        assert!(matches!("0 0 6 * * * UTC".parse::<Schedule>(), Err(BadSchedule::Shape(_))));
        assert!(matches!("61 * * * *".parse::<Schedule>(), Err(BadSchedule::Cron { .. })));
        assert!(matches!("0 6 * * * Europe/Atlantis".parse::<Schedule>(), Err(BadSchedule::Zone(_))));
    }
}
