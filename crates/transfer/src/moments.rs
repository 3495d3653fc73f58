//! Days and moments in PostgreSQL's ISO form, counted from 1970 as the lake counts them.

/// Days since 1970-01-01 of `2026-11-23`, `0044-03-15 BC`, `infinity`.
pub(crate) fn days(text: &str) -> Option<i32> {
    match text {
        "infinity" => Some(i32::MAX),
        "-infinity" => Some(-i32::MAX),
        _ => {
            let (text, is_before_christ) = era(text);
            i32::try_from(day(text, is_before_christ)?).ok()
        }
    }
}

/// Microseconds since 1970 of `2026-11-23 04:28:53.123456+00`, with or without the zone, which is always UTC.
pub(crate) fn micros(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(-i64::MAX),
        _ => {}
    }
    let (text, is_before_christ) = era(text);
    let (date, time) = text.split_once(' ')?;
    let time = time.strip_suffix("+00").unwrap_or(time);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || fraction.len() > 6 {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    let seconds = day(date, is_before_christ)? * 86_400 + hours * 3_600 + minutes * 60 + seconds;
    seconds.checked_mul(1_000_000)?.checked_add(fraction)
}

/// A day as the log of a Delta table has it; nothing for one that not every reader understands.
pub(crate) fn day_said(days: i64) -> Option<String> {
    said(days.checked_mul(86_400_000)?, "%F")
}

/// A moment as the log of a Delta table has it, to the millisecond before, or behind where `up`; nothing for one that not
/// every reader understands.
pub(crate) fn moment_said(micros: i64, up: bool, has_zone: bool) -> Option<String> {
    let millis = micros.div_euclid(1_000) + i64::from(up && micros.rem_euclid(1_000) > 0);
    said(millis, if has_zone { "%FT%T%.3fZ" } else { "%FT%T%.3f" })
}

fn said(millis: i64, form: &str) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(millis).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
    (1..=9_999).contains(&at.year()).then(|| at.strftime(form).to_string())
}

/// What one of these two said, as the lake counts it; however it was written again since.
pub(crate) fn heard(text: &str) -> Option<i64> {
    match text.split_once(['T', ' ']) {
        None => days(text).map(i64::from),
        Some((day, time)) => {
            let time = time.strip_suffix('Z').or(time.strip_suffix("+00:00")).unwrap_or(time);
            micros(&format!("{day} {time}"))
        }
    }
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, after [Howard Hinnant's `days_from_civil`][days].
///
/// [days]: https://howardhinnant.github.io/date_algorithms.html#days_from_civil
fn day(text: &str, is_before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    // The year before 1 is 1 BC.
    let year = if is_before_christ { 1 - year } else { year };
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_moments_are_counted_from_1970() {
        assert_eq!(days("1970-01-01"), Some(0));
        assert_eq!(days("2000-02-29"), Some(11_016));
        assert_eq!(days("0001-01-01"), Some(-719_162));
        assert_eq!(days("0001-12-31 BC"), Some(-719_163));
        assert_eq!(days("infinity"), Some(i32::MAX));
        assert_eq!(micros("1970-01-01 00:00:01.5+00"), Some(1_500_000));
        assert_eq!(micros("1969-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(micros("294276-12-31 23:59:59.999999+00"), None);
        assert_eq!((micros("x"), days("2026-11"), micros("2026-11-23")), (None, None, None));
    }

    #[test]
    fn what_is_said_of_files_is_heard_again() {
        assert_eq!(day_said(11_016).as_deref(), Some("2000-02-29"));
        assert_eq!(heard("2000-02-29"), Some(11_016));
        assert_eq!(moment_said(-1, false, true).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(moment_said(1_500_001, true, false).as_deref(), Some("1970-01-01T00:00:01.501"));
        assert_eq!(heard("1970-01-01T00:00:01.501"), Some(1_501_000));
        assert_eq!(heard("1970-01-01 00:00:01.501000+00:00"), Some(1_501_000));
        assert_eq!((moment_said(i64::MAX, true, true), day_said(-800_000)), (None, None));
    }
}
