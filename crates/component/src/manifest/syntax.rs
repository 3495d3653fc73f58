//! What the TOML parser refuses, in words that say what to write instead. The parser describes what its
//! grammar hoped for ("invalid float, expected `nan`" for `size = nano`); a person wants to hear of quotes.

use std::ops::Range;

use super::reader::{Fault, Path, Problems, shown};

/// What the parser calls a key or table that is there twice.
const DUPLICATE: &str = "duplicate key";

/// Adds what the parser said, one problem a line. Returns whether the document can be read on all the same:
/// it can when keys are repeated and nothing else is wrong.
pub(crate) fn add(text: &str, errors: &[toml::de::Error], problems: &mut Problems<'_>) -> bool {
    let mut last = None;
    let readable = errors.iter().all(|error| error.message() == DUPLICATE);
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (span, message) in errors {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let same_line = last.replace(start).is_some_and(|last: usize| !text[last..start].contains('\n'));
        if same_line {
            continue;
        }
        // Looking for the first of a pair costs a pass over the file: only for those that are told.
        if problems.full() {
            continue;
        }
        if message == DUPLICATE {
            let key = text.get(span.clone()).unwrap_or_default();
            let (_, line) = line_at(text, start);
            let what = if line.starts_with('[') { line.trim_end() } else { key };
            let fault = Fault::new(
                format!("`{}` is written twice", shown(what)),
                "again here",
                "keep one of the two, or give this one another name",
            );
            problems.add_twice(&Path::default(), Some(span), first(text, start, key), fault);
        } else {
            let (span, fault) = explain(text, start..span.end, message);
            problems.add_at(&Path::default(), Some(span), fault);
        }
    }
    readable
}

fn line_start(text: &str, offset: usize) -> usize {
    text[..offset].rfind('\n').map_or(0, |newline| newline + 1)
}

fn line_at(text: &str, offset: usize) -> (usize, &str) {
    let start = line_start(text, offset);
    (start, text[start..].lines().next().unwrap_or_default())
}

/// Where a repeated key or table header stands first, found line by line.
fn first(text: &str, again: usize, key: &str) -> Option<Range<usize>> {
    let (this, line) = line_at(text, again);
    let header = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let mut offset = 0;
    let mut found = None;
    for earlier in text[..this].split_inclusive('\n') {
        let place = offset..offset + earlier.trim_end().len();
        offset += earlier.len();
        if line.starts_with('[') {
            if header(earlier) == header(line) {
                return Some(place);
            }
        } else if earlier.starts_with('[') {
            found = None;
        } else if earlier.split_once('=').is_some_and(|(before, _)| before.trim() == key) {
            found = Some(place);
        }
    }
    found
}

fn explain(text: &str, span: Range<usize>, message: &str) -> (Range<usize>, Fault) {
    if text.trim_start().starts_with('{') {
        let help = "write TOML: app = \"flights\", then [postgres.main] and its settings below";
        return (span, Fault::new("this is not TOML; it looks like JSON", "JSON", help));
    }
    let value =
        ["invalid boolean", "invalid float", "string values must be quoted", "unexpected leading zero"];
    if value.iter().any(|start| message.starts_with(start)) {
        let word = word_at(text, span.start);
        if !word.is_empty() {
            return (word.clone(), unquoted(&text[word]));
        }
        return (span, Fault::new("there is no value", "no value", "write one, like size = \"small\""));
    }
    let (message, label, help) = match message {
        "key with no value, expected `=`" => {
            ("a key without a value", "expected `=`", "write key = value, like size = \"small\"")
        }
        "unclosed table, expected `]`" => {
            ("the table's name is not closed", "expected `]`", "write [postgres.main]")
        }
        "unclosed array, expected `]`" => {
            ("the list is not closed", "expected `]`", "write a list as [\"10.0.0.0/8\", \"::1/128\"]")
        }
        "missing comma between array elements, expected `,`" => {
            ("there is no comma between two items of the list", "expected `,`", "put a comma between them")
        }
        "invalid basic string, expected `\"`" | "invalid literal string, expected `'`" => {
            ("the text is not closed", "expected a quote", "end the text with the quote that it began with")
        }
        _ if message.starts_with("invalid unquoted key") => (
            "a key is letters, digits, _ and -",
            "not part of a key",
            "write key = value, like size = \"small\"",
        ),
        _ if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") => {
            ("a text has only visible characters", "not visible", "take the control character out")
        }
        _ if message.starts_with("cannot recurse further") || message.starts_with("recursion limit") => (
            "the nesting is too deep",
            "too deep",
            "a manifest has tables like [postgres.main] and no deeper ones",
        ),
        _ if message.starts_with("cannot extend value") => (
            "this is a value above and a table here",
            "not a table",
            "write its settings below [postgres.main]",
        ),
        _ => (message, "here", "a manifest is TOML: key = value, texts in quotes, lists in [ ]"),
    };
    (span, Fault::new(message, label, help))
}

/// The run of characters around an offset that someone meant as one value.
fn word_at(text: &str, offset: usize) -> Range<usize> {
    let part =
        |c: char| !c.is_whitespace() && !matches!(c, '=' | ',' | '[' | ']' | '{' | '}' | '#' | '"' | '\'');
    let start = text[..offset]
        .rfind(|c| !part(c))
        .map_or(0, |before| before + text[before..].chars().next().map_or(1, char::len_utf8));
    let end = text[offset..].find(|c| !part(c)).map_or(text.len(), |after| offset + after);
    start..end
}

fn unquoted(word: &str) -> Fault {
    let lower = word.to_ascii_lowercase();
    if matches!(&lower[..], "true" | "yes" | "on") {
        return Fault::new(
            format!("`{}` is not TOML's true", shown(word)),
            "not a value",
            "write true, in small letters",
        );
    }
    if matches!(&lower[..], "false" | "no" | "off") {
        return Fault::new(
            format!("`{}` is not TOML's false", shown(word)),
            "not a value",
            "write false, in small letters",
        );
    }
    let bare = shown(word.trim_matches(['“', '”', '„', '‘', '’', '`']));
    Fault::new(
        format!("`{}` is a text without quotes", shown(word)),
        "needs quotes",
        format!("write \"{bare}\""),
    )
}
