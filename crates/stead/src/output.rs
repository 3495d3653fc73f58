//! What is printed: tables and lines for people, JSON for programs. Every write can fail, and a closed pipe
//! is no error (see [`Failure::ClosedPipe`]).

use std::io::Write;

use client::wire::Difference;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;

/// Prints a line on standard output.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{}", text.as_ref()).map_err(Failure::from)
}

/// Prints without a line's end.
pub(crate) fn raw(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::from)
}

/// Prints a line on standard error: progress and remarks, which are no result.
pub(crate) fn remark(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Prints a question on standard error, without a line's end.
pub(crate) fn ask(text: impl AsRef<str>) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{}", text.as_ref()).and_then(|()| err.flush());
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    line(text)
}

/// Prints rows in columns as wide as they need to be.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for text in columns(std::iter::once(&head).chain(rows)) {
        line(text)?;
    }
    Ok(())
}

/// The rows as lines of text, their columns as wide as they need to be.
pub(crate) fn columns<'a>(rows: impl IntoIterator<Item = &'a Vec<String>>) -> Vec<String> {
    let rows: Vec<&Vec<String>> = rows.into_iter().collect();
    let count = rows.iter().map(|row| row.len()).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let padded = |row: &&Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(padded).collect()
}

/// A JSON value as a person reads it: text without quotes, lists with commas, nothing as `none`.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => match fields.get("name") {
            // A migration: its name says it, its hash does not.
            Some(name) => plain(name),
            None => value.to_string(),
        },
        other => other.to_string(),
    }
}

/// Whether there is nothing to show.
fn empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// Fields that were made, changed or removed, a line each, in columns.
pub(crate) fn differences(differences: &[Difference], indent: usize) -> Vec<String> {
    let rows: Vec<Vec<String>> = differences
        .iter()
        .filter(|difference| !(empty(&difference.before) && empty(&difference.after)))
        .map(|difference| vec![difference.field.clone(), from_to(&difference.before, &difference.after)])
        .collect();
    columns(&rows).into_iter().map(|text| format!("{:indent$}{text}", "")).collect()
}

/// Longest line that shows a list as it was and as it is.
const LONGEST: usize = 90;

/// From what to what; of a long list only what came and what went.
fn from_to(before: &Value, after: &Value) -> String {
    if empty(before) {
        return plain(after);
    }
    let whole = format!("{} -> {}", plain(before), plain(after));
    let (Some(old), Some(new)) = (before.as_array(), after.as_array()) else { return whole };
    let named = old.iter().chain(new).all(Value::is_object);
    if whole.chars().count() <= LONGEST && !named {
        return whole;
    }
    let names = |items: &[Value]| items.iter().map(plain).collect::<Vec<_>>();
    let (old_names, new_names) = (names(old), names(new));
    let mut parts: Vec<String> = new
        .iter()
        .zip(&new_names)
        .filter(|(item, name)| old_names.contains(*name) && !old.contains(*item))
        .map(|(_, name)| format!("{name} is edited"))
        .collect();
    parts.extend(old_names.iter().filter(|name| !new_names.contains(name)).map(|name| format!("- {name}")));
    parts.extend(new_names.iter().filter(|name| !old_names.contains(name)).map(|name| format!("+ {name}")));
    if parts.is_empty() { whole } else { parts.join(", ") }
}

/// A moment as the clock of whoever reads it shows it.
pub(crate) fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_is_told_in_full_or_by_what_came_and_went() {
        assert_eq!(from_to(&json!(null), &json!("small")), "small");
        assert_eq!(from_to(&json!("small"), &json!("large")), "small -> large");
        assert_eq!(from_to(&json!("team"), &json!(null)), "team -> none");
        assert_eq!(from_to(&json!(["::1/128"]), &json!([])), "::1/128 -> none");
        let networks = |count: u8| json!((0..count).map(|n| format!("10.{n}.0.0/16")).collect::<Vec<_>>());
        assert_eq!(from_to(&networks(2), &networks(1)), "10.0.0.0/16, 10.1.0.0/16 -> 10.0.0.0/16");
        assert_eq!(from_to(&networks(40), &networks(41)), "+ 10.40.0.0/16");
        let file = |name: &str, hash: &str| json!({ "name": name, "sha256": hash });
        let (before, after) =
            (json!([file("1", "a"), file("2", "b")]), json!([file("1", "c"), file("3", "d")]));
        assert_eq!(from_to(&before, &after), "1 is edited, - 2, + 3");
    }
}
