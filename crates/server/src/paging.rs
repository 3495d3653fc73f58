//! Which part of a list: cursor, limit, since.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::wire::Page;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::extract::{number_and_unit, seconds_in};
use crate::problem::Problem;

/// Where the last page ended: opaque to callers, the sort key of its last item inside.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cursor(String);

impl Cursor {
    pub(crate) fn new(key: &impl Serialize) -> Self {
        Self(URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default()))
    }

    /// As it goes over the wire.
    pub(crate) fn text(self) -> String {
        self.0
    }

    /// The sort key.
    pub(crate) fn key<K: DeserializeOwned>(&self) -> Result<K, Problem> {
        URL_SAFE_NO_PAD.decode(&self.0).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(
            || Problem::bad_request("`cursor` is not one of this list; take `next` of the last page"),
        )
    }
}

/// The sort key of an optional cursor.
pub(crate) fn key_of<K: DeserializeOwned>(cursor: Option<&Cursor>) -> Result<Option<K>, Problem> {
    cursor.map(Cursor::key).transpose()
}

/// At most so many items a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Limit(u16);

impl Limit {
    /// Most items a page.
    pub(crate) const MOST: u16 = 500;

    /// As a count.
    pub(crate) fn count(self) -> usize {
        usize::from(self.0)
    }

    /// How many to ask the store for: one more than is shown tells whether there is another page.
    pub(crate) fn and_one(self) -> i64 {
        i64::from(self.0) + 1
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|limit| (1..=Self::MOST).contains(limit) && text.bytes().all(|b| b.is_ascii_digit()))
            .map(Self)
            .ok_or_else(|| format!("`limit` is a number from 1 to {}", Self::MOST))
    }
}

/// Makes a page of what the store gave when asked for [`Limit::and_one`]; `key` is the sort key of an item.
pub(crate) fn page<S, T, K: Serialize>(
    mut found: Vec<S>,
    limit: Limit,
    key: impl Fn(&S) -> K,
    show: impl Fn(S) -> T,
) -> Page<T> {
    let more = found.len() > limit.count();
    found.truncate(limit.count());
    let next = found.last().filter(|_| more).map(|last| Cursor::new(&key(last)).0);
    Page { items: found.into_iter().map(show).collect(), next }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.0
    }
}

/// Only since then: a moment (RFC 3339), or a span back from now (`7d`, `2h`, `30m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Since(pub(crate) Timestamp);

impl TryFrom<String> for Since {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        moment("since", &text).map(Self)
    }
}

/// Only before then; written as [`Since`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Until(pub(crate) Timestamp);

impl TryFrom<String> for Until {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        moment("until", &text).map(Self)
    }
}

fn moment(what: &str, text: &str) -> Result<Timestamp, String> {
    let back = number_and_unit(text).and_then(|(number, unit)| {
        let seconds = if unit == "w" { 7 * 86_400 } else { seconds_in(unit)? };
        let span = SignedDuration::from_secs(i64::try_from(number).ok()? * seconds);
        Some(Timestamp::now().checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH))
    });
    let moment = back.or_else(|| text.parse::<Timestamp>().ok());
    // Anything older than the epoch is before any line; PostgreSQL's own range, and RFC 3339's, are shorter than jiff's.
    moment.map(|at| at.max(Timestamp::UNIX_EPOCH)).ok_or_else(|| {
        format!("`{what}` is a moment like 2026-11-21T09:00:00Z or a span back from now like 7d, 2h or 30m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_next_only_where_there_is_more() {
        let limit = Limit::try_from("2".to_owned()).unwrap();
        let full = page(vec![1, 2, 3], limit, |n| *n, |n| n);
        assert_eq!(full.items, [1, 2]);
        assert_eq!(Cursor(full.next.unwrap()).key::<i64>().unwrap(), 2);
        assert_eq!(page(vec![1, 2], limit, |n| *n, |n| n).next, None);
    }

    #[test]
    fn no_moment_is_before_the_epoch() {
        for text in ["433982w", "999999w", "-006291-06-23T18:25:23Z", "0000-01-01T00:00:00Z"] {
            assert_eq!(moment("since", text), Ok(Timestamp::UNIX_EPOCH), "{text}");
        }
        assert!(moment("since", "7d").unwrap() < Timestamp::now());
    }

    #[test]
    fn a_broken_cursor_is_refused() {
        for text in ["", "!", "bm8", "IjEi"] {
            assert!(Cursor(text.into()).key::<i64>().is_err(), "{text}");
        }
    }

    #[test]
    fn limits_and_sinces() {
        for text in ["", "0", "501", "-1", "+1", "1.0", "ten"] {
            assert!(Limit::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in
            ["7d", "2h", "30m", "1w", "10s", "999999w", "2026-11-21T09:00:00Z", "2026-11-21T09:00:00+09:00"]
        {
            assert!(Since::try_from(text.to_owned()).is_ok(), "{text}");
        }
        for text in ["", "d", "yesterday", "-7d", "7y", "2026-11-21"] {
            assert!(Since::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
