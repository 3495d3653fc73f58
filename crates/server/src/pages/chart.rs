//! Counts over time as a picture, with what was changed meanwhile on the same axis. It is drawn here, so that it is
//! there without script; colours and sizes are the style's.

use client::wire::{LogBucket, LogChange, LogHistogram};
use jiff::{SignedDuration, Timestamp};

use super::words;

/// Height of the picture in its own units; the style stretches it.
const HEIGHT: u64 = 1000;
/// Width of a part of the time in the same units, the gap behind it included.
const STEP: usize = 10;
/// What is rare is still seen: least height of lines that there are, and of those that say that something failed.
const LEAST: u64 = 12;
const LEAST_BAD: u64 = 45;
/// Changes that a mark of many names.
const NAMED: usize = 4;

/// Severities from the bottom up: what failed stands on the axis, so that it is seen however much else there is.
pub(crate) const SEVERITIES: [&str; 5] = ["fatal", "error", "warning", "info", "debug"];

/// A histogram as it is drawn.
#[derive(Debug, Default)]
pub(crate) struct Chart {
    /// Lines in all.
    pub(crate) total: u64,
    /// Parts of the time, the oldest first.
    pub(crate) columns: Vec<Column>,
    /// Changes, the oldest first.
    pub(crate) marks: Vec<Mark>,
    /// What could not be counted, in words.
    pub(crate) damaged: Vec<String>,
}

/// Lines of a part of the time.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) x: usize,
    /// What is drawn of it.
    pub(crate) bars: Vec<Bar>,
    /// Its first moment.
    pub(crate) from: Timestamp,
    /// The first moment after it.
    pub(crate) until: Timestamp,
    /// Lines of each of [`SEVERITIES`].
    pub(crate) counts: [u64; 5],
}

/// Lines of one severity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) severity: &'static str,
    pub(crate) y: u64,
    pub(crate) height: u64,
}

/// What was changed in a part of the time.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) x: usize,
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
    /// Oldest first.
    pub(crate) changes: Vec<LogChange>,
}

impl Column {
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What is shown where the pointer rests.
    pub(crate) fn words(&self) -> String {
        format!("{}: {}", self.from.strftime("%-d %b %H:%M:%S UTC"), counted(&self.counts))
    }
}

impl Mark {
    /// What was changed, in plain words.
    pub(crate) fn words(&self) -> String {
        let named = self.changes.iter().take(NAMED).map(told);
        let named = named.collect::<Vec<_>>().join("; ");
        match self.changes.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named}; and {more} more"),
        }
    }

    /// The only change of it.
    pub(crate) fn only(&self) -> Option<&LogChange> {
        self.changes.first().filter(|_| self.changes.len() == 1)
    }
}

/// A change in plain words, and of what.
pub(crate) fn told(change: &LogChange) -> String {
    let parts = [change.stead.as_deref(), change.component.as_deref()];
    let of = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
    let words = words::action(&change.action);
    if of.is_empty() { words.to_owned() } else { format!("{words} ({of})") }
}

/// Counts in words, those that there are.
fn counted(counts: &[u64; 5]) -> String {
    let told = SEVERITIES.iter().zip(counts).filter(|(_, count)| **count > 0);
    let told: Vec<String> = told.map(|(severity, count)| format!("{count} {severity}")).collect();
    if told.is_empty() { "no lines".to_owned() } else { told.join(", ") }
}

impl Chart {
    pub(crate) fn new(found: LogHistogram) -> Self {
        let width = SignedDuration::from_millis(i64::try_from(found.width_ms.max(1)).unwrap_or(i64::MAX));
        let end = |from: Timestamp| from.checked_add(width).unwrap_or(Timestamp::MAX);
        let most = found.buckets.iter().map(|bucket| counts(bucket).iter().sum()).max().unwrap_or(0);
        let columns: Vec<Column> = found
            .buckets
            .iter()
            .enumerate()
            .map(|(at, bucket)| Column {
                x: at * STEP,
                bars: bars(counts(bucket), most),
                from: bucket.from,
                until: end(bucket.from),
                counts: counts(bucket),
            })
            .collect();
        let mut marks: Vec<Mark> = Vec::new();
        for change in found.changes.into_iter().rev() {
            let Some(column) = columns.iter().rev().find(|column| column.from <= change.at) else { continue };
            match marks.last_mut().filter(|mark| mark.x == column.x) {
                Some(mark) => mark.changes.push(change),
                None => marks.push(Mark {
                    x: column.x,
                    from: column.from,
                    until: column.until,
                    changes: vec![change],
                }),
            }
        }
        Self { total: found.total, columns, marks, damaged: found.damaged }
    }

    /// Width of the picture in its own units.
    pub(crate) fn width(&self) -> usize {
        self.columns.len().max(1) * STEP
    }

    /// First moment and end of the time that is counted.
    pub(crate) fn span(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.columns.first()?.from, self.columns.last()?.until))
    }

    /// The picture in words.
    pub(crate) fn words(&self) -> String {
        let mut sums = [0_u64; 5];
        for column in &self.columns {
            for (sum, count) in sums.iter_mut().zip(column.counts) {
                *sum = sum.saturating_add(count);
            }
        }
        format!("{} lines over time: {}", self.total, counted(&sums))
    }

    /// Parts of the time in which there was something.
    pub(crate) fn told(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.total() > 0)
    }

    /// All changes, newest first.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &LogChange> {
        self.marks.iter().rev().flat_map(|mark| mark.changes.iter().rev())
    }
}

fn counts(bucket: &LogBucket) -> [u64; 5] {
    [bucket.fatal, bucket.error, bucket.warning, bucket.info, bucket.debug]
}

/// Bars one on the other, where `most` lines are as high as the picture. What is rare is drawn higher than it is; what
/// is not gives way to it.
fn bars(counts: [u64; 5], most: u64) -> Vec<Bar> {
    let (mut bars, mut y) = (Vec::new(), HEIGHT);
    for (at, (severity, count)) in SEVERITIES.into_iter().zip(counts).enumerate() {
        if count == 0 || most == 0 {
            continue;
        }
        let true_height = u128::from(count) * u128::from(HEIGHT) / u128::from(most);
        let least = if at < 2 { LEAST_BAD } else { LEAST };
        let height = u64::try_from(true_height).unwrap_or(HEIGHT).max(least).min(y);
        y -= height;
        bars.push(Bar { severity, y, height });
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(second: i64, [fatal, error, warning, info, debug]: [u64; 5]) -> LogBucket {
        let from = Timestamp::from_second(second).unwrap();
        LogBucket { from, debug, info, warning, error, fatal }
    }

    fn change(id: i64, second: i64) -> LogChange {
        let at = Timestamp::from_second(second).unwrap();
        LogChange { id, at, action: "component.edited".into(), stead: Some("shop".into()), component: None }
    }

    #[test]
    fn what_failed_is_seen_beside_a_million_lines_and_nothing_is_drawn_outside() {
        for counts in [[1, 1, 1, 1_000_000, 1], [0, 0, 0, 7, 0], [u64::MAX / 8; 5], [3, 0, 0, 0, 0], [0; 5]] {
            let most = counts.iter().sum();
            let drawn = bars(counts, most);
            assert_eq!(drawn.len(), counts.iter().filter(|count| **count > 0).count());
            let mut floor = HEIGHT;
            for bar in &drawn {
                assert_eq!(bar.y + bar.height, floor, "{drawn:?}");
                assert!(!matches!(bar.severity, "error" | "fatal") || bar.height >= LEAST_BAD, "{drawn:?}");
                floor = bar.y;
            }
        }
        assert_eq!(bars([0, 0, 0, 5, 0], 10), [Bar { severity: "info", y: 500, height: 500 }]);
    }

    #[test]
    fn changes_of_the_same_time_are_one_mark() {
        let found = LogHistogram {
            width_ms: 10_000,
            buckets: vec![bucket(100, [0, 2, 0, 3, 0]), bucket(110, [0; 5]), bucket(120, [0, 0, 1, 0, 0])],
            total: 6,
            // Newest first, as the API gives them; one is from before.
            changes: vec![change(4, 129), change(3, 105), change(2, 100), change(1, 99)],
            damaged: Vec::new(),
        };
        let chart = Chart::new(found);
        let marks: Vec<(usize, Vec<i64>)> = chart
            .marks
            .iter()
            .map(|mark| (mark.x, mark.changes.iter().map(|change| change.id).collect()))
            .collect();
        assert_eq!(marks, [(0, vec![2, 3]), (20, vec![4])]);
        assert_eq!(chart.changes().map(|change| change.id).collect::<Vec<_>>(), [4, 3, 2]);
        assert_eq!(chart.marks[1].words(), "Settings changed (shop)");
        assert_eq!(chart.words(), "6 lines over time: 2 error, 1 warning, 3 info");
        assert_eq!((chart.told().count(), chart.width()), (2, 30));
    }
}
