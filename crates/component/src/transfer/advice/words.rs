//! How numbers and names are said.

use crate::manifest::shown;
use crate::postgres::written;

/// Names that are listed before the rest is counted.
const LISTED: usize = 4;

/// Names in a row, at most a few of them.
pub(super) fn names<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|name| format!("`{}`", shown(name.as_ref()))).collect();
    let listed = all.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// So many.
pub(super) fn amount(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A length of time as a person says it, from seconds: `2h30m`.
#[must_use]
pub fn time(seconds: u64) -> String {
    let rounded = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    u32::try_from(rounded).map_or_else(|_| format!("{} years", seconds / (365 * 86_400)), written)
}

/// Bytes as a person says them, by thousands as disks are sold: `757 MB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut whole, mut tenths, mut unit) = (bytes, 0, "B");
    for next in UNITS {
        if whole < 1_000 {
            break;
        }
        (tenths, unit) = (whole % 1_000 / 100, next);
        whole /= 1_000;
    }
    if whole < 10 && tenths > 0 { format!("{whole}.{tenths} {unit}") } else { format!("{whole} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        for (number, said) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1 kB"),
            (1_500, "1.5 kB"),
            (757_000_000, "757 MB"),
            (10_000_000_000, "10 GB"),
            (u64::MAX, "18446 PB"),
        ] {
            assert_eq!(bytes(number), said);
        }
        for (number, said) in [(0, "0s"), (61, "1m1s"), (9_061, "2h31m"), (90_061, "1d1h"), (86_400, "1d")] {
            assert_eq!(time(number), said);
        }
        assert_eq!(time(u64::MAX), "584942417355 years");
        assert_eq!(names(["a", "b"]), "`a`, `b`");
        assert_eq!(names(["a", "b", "c", "d", "e", "f"]), "`a`, `b`, `c`, `d` and 2 more");
        assert_eq!(names(["\u{1b}[2J"]), "`\\u{1b}[2J`");
    }
}
