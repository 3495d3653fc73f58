//! What is in every line in which an expression is found, so that most lines need not be taken apart to ask it.
//!
//! An expression is looked for in the values of a line, which stands in a block as JSON. Of the literals that every match
//! begins or ends with (as `regex_syntax` finds them), the longest run is taken that JSON writes as it is. The search for it
//! is generous: it may find lines in which the expression is not, and never passes over one in which it is.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::literal::{ExtractKind, Extractor};

/// Shorter parts are in too many lines.
const SHORTEST: usize = 3;

/// Finds one of the parts that every line has in which the expression is found, in letters of either case; `None` where
/// there are none. A block in which letters are written as numbers (`\u`) has to be looked through without it.
pub(crate) fn of(expression: &str) -> Option<Regex> {
    let tree = regex_syntax::parse(expression).ok()?;
    let ends = [ExtractKind::Prefix, ExtractKind::Suffix].map(|kind| {
        let literals = Extractor::new().kind(kind).extract(&tree);
        let parts = literals.literals()?.iter().map(|literal| plain(literal.as_bytes()));
        parts.collect::<Option<Vec<String>>>().filter(|parts| !parts.is_empty())
    });
    let shortest = |parts: &Vec<String>| parts.iter().map(String::len).min();
    let mut parts = ends.into_iter().flatten().max_by_key(shortest)?;
    parts.sort_unstable();
    parts.dedup();
    let pattern = parts.iter().map(|part| regex::escape(part)).collect::<Vec<_>>().join("|");
    // In Unicode's sense of case, as the expression itself: ſ is an s.
    RegexBuilder::new(&pattern).case_insensitive(true).build().ok()
}

/// The longest run of a literal that stands in JSON as it is, in small letters; none where it is short, or could be a
/// number, which need not be written as it is shown.
fn plain(literal: &[u8]) -> Option<String> {
    let stands = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'/');
    let runs = literal.split(|byte| !stands(byte));
    let run = runs.max_by_key(|run| run.len()).filter(|run| run.len() >= SHORTEST)?;
    let numeric = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'e' | b'E' | b'+' | b'-' | b'.');
    let text = std::str::from_utf8(run).ok().filter(|_| !run.iter().all(numeric))?;
    Some(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng};
    use serde_json::json;

    use super::*;

    fn found(expression: &str) -> String {
        of(expression).map(|parts| parts.as_str().to_owned()).unwrap_or_default()
    }

    #[test]
    fn the_parts_of_an_expression() {
        for (expression, parts) in [
            ("deadlock", "deadlock"),
            ("Deadlock|canceling statement", "canceling statement|deadlock"),
            ("time(d )?out", "timed out|timeout"),
            ("^could not", "could not"),
            (r"\bword\b", "word"),
            (".*at the end$", "at the end"),
            (r"[a-z]+ connection", " connection"),
            (r"duplicate key .* \d+", "duplicate key "),
            // What could be anything has none.
            ("a?", ""),
            ("de", ""),
            (r"\d+", ""),
            ("deadlock|x", ""),
            ("(?:abc)*", ""),
            // A quotation mark is written otherwise in JSON; the rest of it is not.
            (r#"relation "flights" does"#, "relation "),
            ("a/b/c", ""),
            // A number is not always written as it is shown.
            ("12345", ""),
            ("1e5", ""),
        ] {
            assert_eq!(found(expression), parts, "{expression}");
        }
    }

    /// Whatever the expression and whatever the value: where it is found, so is one of the parts.
    #[test]
    fn no_line_is_passed_over() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let pieces = [
            "dead",
            "lock",
            "Key",
            " ",
            "s",
            "K",
            "(?:ab|cd)",
            "(time)?",
            "out",
            "[a-c]",
            "[^x]",
            ".",
            "\\w",
            "\\s",
            "x*",
            "y+",
            "\"",
            "\\\\",
            "\\/",
            "12",
            "e5",
            "-",
            "ſ",
            "\u{212a}",
            "ü",
            "\\b",
            "^",
            "$",
            "|",
            "(?i)",
            "z{2,3}",
            "\n",
        ];
        let texts = [
            "dead",
            "LOCK",
            "key",
            " ",
            "ſ",
            "\u{212a}ey",
            "ab",
            "cd",
            "time",
            "out",
            "b",
            "x",
            "yy",
            "\"",
            "\\",
            "/",
            "12",
            "e5",
            "-",
            "ü",
            "zz",
            "\n",
            "\t",
        ];
        let mut hits = 0;
        for _ in 0..4_000 {
            let expression: String = (0..random.random_range(1..7))
                .map(|_| pieces[random.random_range(0..pieces.len())])
                .collect();
            let Ok(whole) = regex::RegexBuilder::new(&expression).case_insensitive(true).build() else {
                continue;
            };
            let Some(parts) = of(&expression) else { continue };
            for _ in 0..4 {
                let value: String = (0..random.random_range(1..10))
                    .map(|_| texts[random.random_range(0..texts.len())])
                    .collect();
                let line = json!({ "message": value }).to_string();
                let is = whole.is_match(&value);
                hits += usize::from(is);
                assert!(
                    !is || line.contains("\\u") || parts.is_match(line.as_bytes()),
                    "/{expression}/ in {line}"
                );
            }
        }
        assert!(hits > 100, "only {hits} were found at all");
    }
}
