//! How many lines of each severity, over time.

use crate::line::Severity;
use crate::search::{Damage, Search, in_parallel, scan};
use crate::store::days;
use crate::{Error, Store};

/// Lines between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its first moment, microseconds since 1970.
    pub from: i64,
    /// Lines of each severity, from the least.
    pub severities: [u64; 5],
}

/// Lines over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Microseconds of each bucket.
    pub width: i64,
    /// One after the other, without gaps.
    pub buckets: Vec<Bucket>,
    /// What could not be counted.
    pub damage: Vec<Damage>,
}

impl Histogram {
    /// Lines in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.buckets.iter().flat_map(|bucket| bucket.severities).sum()
    }

    fn add(&mut self, at: i64, severity: usize, count: u64) {
        let number = self.number(at);
        let bucket = number.and_then(|number| self.buckets.get_mut(number));
        if let Some(cell) = bucket.and_then(|bucket| bucket.severities.get_mut(severity)) {
            *cell += count;
        }
    }

    fn number(&self, at: i64) -> Option<usize> {
        let from = self.buckets.first()?.from;
        usize::try_from(at.checked_sub(from)? / self.width).ok().filter(|_| at >= from)
    }
}

impl Store {
    /// Counts the lines that are meant, in `buckets` equal parts of the search's time.
    ///
    /// # Errors
    /// When files cannot be read at all.
    pub fn histogram(&self, search: &Search, buckets: usize) -> Result<Histogram, Error> {
        let count = i64::try_from(buckets.max(1)).unwrap_or(1);
        let span = search.until.saturating_sub(search.since).max(1);
        let width = span / count + i64::from(span % count != 0);
        let from = |number: i64| search.since.saturating_add(width.saturating_mul(number));
        let empty = Histogram {
            width,
            buckets: (0..count).map(|number| Bucket { from: from(number), severities: [0; 5] }).collect(),
            damage: Vec::new(),
        };
        let mut sum = empty;
        for (_, folder) in search.days(days(&self.folder(search.owner))?) {
            let mut damage = Vec::new();
            let places = self.places(&folder, search, &mut damage)?;
            sum.damage.extend(damage);
            // Of whole blocks in one bucket all is known.
            let (known, asked): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| {
                let meta = &place.found.meta;
                let inside = meta.first >= search.since && meta.last < search.until;
                let one = sum.number(meta.first) == sum.number(meta.last);
                search.query.is_empty() && search.after.is_none() && inside && one
            });
            for place in &known {
                for (severity, count) in place.found.meta.severities.iter().enumerate() {
                    sum.add(place.found.meta.first, severity, u64::from(*count));
                }
            }
            for (counts, hurt) in in_parallel(&asked, |place| counts(place, search)) {
                counts.into_iter().for_each(|(at, severity)| sum.add(at, usize::from(severity as u8), 1));
                sum.damage.extend(hurt);
            }
        }
        Ok(sum)
    }
}

/// Moment and severity of each line that is meant.
fn counts(place: &crate::search::Place, search: &Search) -> (Vec<(i64, Severity)>, Option<Damage>) {
    let mut counts = Vec::new();
    if search.query.is_severity_alone() {
        // Nothing is asked of the text, so it is not read.
        if let Ok(Some(rows)) = place.found.read_rows(&place.file.0) {
            let meant = rows.iter().map(|row| &row.about).filter(|about| search.may_take(about));
            counts.extend(meant.map(|about| (about.at, about.severity)));
            return (counts, None);
        }
    }
    let hurt = scan(place, search, |row, _| counts.push((row.about.at, row.about.severity)));
    (counts, hurt)
}
