//! What is looked for.
//!
//! ```text
//! deadlock                  a word, in any value of a line; letters of either case
//! dead*                     a word that begins so
//! "duplicate key"           words in this order; \" and \\ stand for " and \
//! /time(d )?out/            a regular expression, in any value; letters of either case; \/ stands for /
//! severity:error            a field that is this; in any case
//! user:"the owner"          the same, with spaces
//! message:/^could not/      a field in which the expression is found
//! -autovacuum  -user:app    not
//! ```
//!
//! All of it must be true of a line. Words are looked for whole, because that is what an index can answer; a part of a
//! word is what `*` and expressions are for.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::line::{Line, Severity};
use crate::{filter, parts};

/// Longest query, bytes.
const LONGEST: usize = 4096;
/// Most terms.
const TERMS: usize = 64;
/// Memory that a compiled expression may take, bytes.
const COMPILED: usize = 1024 * 1024;

/// Why a text is no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

/// What must be true of a line.
#[derive(Debug, Clone, Default)]
pub struct Query {
    terms: Vec<Term>,
    text: String,
    /// Finds something that is in every line that matches, where that can be said.
    needle: Option<regex::bytes::Regex>,
}

#[derive(Debug, Clone)]
struct Term {
    negated: bool,
    field: Option<String>,
    what: What,
    /// Words that are in every line of which the term is true.
    words: Vec<String>,
    /// Finds something that is in every such line, where that is more than words.
    parts: Option<regex::bytes::Regex>,
}

#[derive(Debug, Clone)]
enum What {
    /// A value in which this is found.
    Found(Regex),
    /// A value that is this.
    Is(String),
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        if text.len() > LONGEST {
            return Err(QueryError(format!(
                "the query is {} bytes long; write at most {LONGEST}",
                text.len()
            )));
        }
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (term, behind) = term(rest)?;
            terms.push(term);
            rest = behind.trim_start();
        }
        if terms.len() > TERMS {
            return Err(QueryError(format!("the query has {} terms; write at most {TERMS}", terms.len())));
        }
        let needle = needle(&terms);
        Ok(Self { terms, text: text.to_owned(), needle })
    }
}

/// The longest word that is asked for; else what every match of an expression has.
fn needle(terms: &[Term]) -> Option<regex::bytes::Regex> {
    let asked = || terms.iter().filter(|term| !term.negated);
    match asked().flat_map(|term| &term.words).max_by_key(|word| word.len()) {
        Some(word) => {
            let mut builder = regex::bytes::RegexBuilder::new(&regex::escape(word));
            builder.case_insensitive(true).unicode(false).build().ok()
        }
        None => asked().find_map(|term| term.parts.clone()),
    }
}

fn term(text: &str) -> Result<(Term, &str), QueryError> {
    let (negated, text) = match text.strip_prefix('-') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(char::is_whitespace) => (true, rest),
        _ => (false, text),
    };
    let (field, text) = field(text);
    let mut parts = None;
    let (what, words, rest) = match text.chars().next() {
        Some('"') => {
            let (phrase, rest) =
                delimited(text, '"', "a phrase has no second \"; write \\\" for one inside it")?;
            let (what, words) = literal(field, &phrase, false)?;
            (what, words, rest)
        }
        Some('/') if !is_address(text) => {
            let (pattern, rest) =
                delimited(text, '/', "an expression has no second /; write \\/ for one inside it")?;
            // What is not read from the text of a line does not stand in it.
            parts = Some(&pattern)
                .filter(|_| !field.is_some_and(is_known))
                .and_then(|pattern| parts::of(pattern));
            (What::Found(expression(&pattern)?), Vec::new(), rest)
        }
        _ => {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            let begins = word.strip_suffix('*').filter(|word| !word.is_empty());
            let (what, words) = literal(field, begins.unwrap_or(word), begins.is_some())?;
            (what, words, rest)
        }
    };
    Ok((Term { negated, field: field.map(str::to_owned), what, words, parts }, rest))
}

/// Whether it goes on like `//host` of an address, and is no expression.
fn is_address(text: &str) -> bool {
    text.strip_prefix("//").is_some_and(|rest| rest.starts_with(|c: char| !c.is_whitespace()))
}

/// The name before a colon, where there is one.
fn field(text: &str) -> (Option<&str>, &str) {
    let end =
        text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match rest.strip_prefix(':') {
        Some(value) if name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            match value.starts_with(char::is_whitespace) || value.is_empty() {
                true => (None, text),
                false => (Some(name), value),
            }
        }
        _ => (None, text),
    }
}

/// What stands between two marks; a backslash before the mark takes its meaning, in a phrase also before itself.
fn delimited<'a>(text: &'a str, mark: char, unended: &str) -> Result<(String, &'a str), QueryError> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == mark {
            return Ok((inside, text.get(at + 1..).unwrap_or_default()));
        }
        if c != '\\' {
            inside.push(c);
            continue;
        }
        match chars.next() {
            Some((_, next)) if next == mark || mark == '"' && next == '\\' => inside.push(next),
            Some((_, next)) => inside.extend(['\\', next]),
            None => inside.push('\\'),
        }
    }
    Err(QueryError(unended.to_owned()))
}

fn expression(pattern: &str) -> Result<Regex, QueryError> {
    if pattern.is_empty() {
        return Err(QueryError("an expression between // is empty; write what to look for".into()));
    }
    build(pattern, true).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            QueryError(format!("the expression /{pattern}/ is too large; write a smaller one"))
        }
        other => {
            let text = other.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            QueryError(format!("the expression /{pattern}/ cannot be read: {why}"))
        }
    })
}

fn build(pattern: &str, any_case: bool) -> Result<Regex, regex::Error> {
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(any_case).size_limit(COMPILED).dfa_size_limit(COMPILED).nest_limit(64).build()
}

/// Words as they are: the value of a field, or found whole in any value.
fn literal(field: Option<&str>, text: &str, begins: bool) -> Result<(What, Vec<String>), QueryError> {
    if text.is_empty() {
        return Err(QueryError("a phrase between \"\" is empty; write what to look for".into()));
    }
    let mut words: Vec<String> = filter::words(text).map(str::to_ascii_lowercase).collect();
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    if begins && is_word(text.chars().last()) {
        words.pop();
    }
    if let (Some(name), false) = (field, begins) {
        // What is normalised does not stand in the text as it is asked for.
        if is_known(name) {
            words.clear();
        }
        return Ok((What::Is(text.to_owned()), words));
    }
    if field.is_some() {
        words.clear();
    }
    // Of ASCII letters only ASCII ones count as the other case, as in the filter of a block.
    let mut pattern = String::from(if field.is_some() { "^" } else { "" });
    let edge = |c: Option<char>| if is_word(c) { r"(?-u:\b)" } else { "" };
    pattern.push_str(edge(text.chars().next()));
    for c in text.chars() {
        let one = regex::escape(c.encode_utf8(&mut [0; 4]));
        let flags = if c.is_ascii() { "i-u" } else { "i" };
        pattern.push_str(&format!("(?{flags}:{one})"));
    }
    if !begins {
        pattern.push_str(edge(text.chars().last()));
    }
    let found =
        build(&pattern, false).map_err(|_| QueryError("a phrase is too long; write less of it".into()))?;
    Ok((What::Found(found), words))
}

/// Fields that are not read from the text of a line.
fn is_known(name: &str) -> bool {
    matches!(name, "severity" | "source" | "stead" | "component" | "server" | "id")
}

/// What people call a field, and what programs call it.
fn names(field: &str) -> &[&str] {
    match field {
        "database" => &["dbname", "database"],
        "application" => &["application_name"],
        "sqlstate" | "code" => &["state_code"],
        "client" | "address" => &["client", "remote_host"],
        "pid" => &["pid", "backend_pid"],
        "statement" | "query" => &["statement", "query"],
        "request" => &["span.id"],
        _ => &[],
    }
}

impl Query {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Words of which every line that matches has all, in small letters.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        let wanted = self.terms.iter().filter(|term| !term.negated);
        wanted.flat_map(|term| &term.words).map(String::as_str)
    }

    /// Finds something that is in every line that matches; `None` where nothing can be said. A block in which letters are
    /// written as numbers (`\u`) has to be looked through without it.
    pub(crate) fn needle(&self) -> Option<&regex::bytes::Regex> {
        self.needle.as_ref()
    }

    /// The severity of every line that matches, where it asks for one.
    pub(crate) fn severity(&self) -> Option<Severity> {
        self.terms.iter().find_map(Term::severity)
    }

    /// Whether it asks for nothing but a severity, so that no text has to be read.
    pub(crate) fn is_severity_alone(&self) -> bool {
        self.terms.len() <= 1 && self.terms.iter().all(|term| term.severity().is_some())
    }

    /// Whether it is true of a line.
    #[must_use]
    pub fn matches(&self, line: &Line) -> bool {
        self.terms.iter().all(|term| term.matches(line) != term.negated)
    }
}

impl Term {
    /// The severity that it asks for: every word of a program that reads the same means the same.
    fn severity(&self) -> Option<Severity> {
        let What::Is(text) = &self.what else { return None };
        let asked = !self.negated && self.field.as_deref() == Some("severity");
        Severity::ALL.into_iter().find(|severity| asked && severity.as_str().eq_ignore_ascii_case(text))
    }

    fn matches(&self, line: &Line) -> bool {
        let Some(field) = &self.field else { return any(&line.fields, &|value| self.what.is_true_of(value)) };
        let label = &line.label;
        let text = |text: Option<&str>| text.is_some_and(|text| self.what.is_true_of(text));
        match field.as_str() {
            "severity" => text(Some(line.severity.as_str())) || text(Some(line.word())),
            "source" => text(Some(label.source.as_str())),
            "stead" => text(label.stead.as_deref()),
            "component" => text(label.component.as_deref()),
            "server" => text(label.server.as_deref()),
            "id" => text(Some(&line.id.to_string())),
            "message" => text(Some(line.message())),
            name => {
                let known = names(name);
                let asked = if known.is_empty() { std::slice::from_ref(&name) } else { known };
                asked.iter().any(|name| {
                    let value = at(&line.fields, name);
                    value.is_some_and(|value| any(value, &|value| self.what.is_true_of(value)))
                })
            }
        }
    }
}

impl What {
    fn is_true_of(&self, value: &str) -> bool {
        match self {
            Self::Found(pattern) => pattern.is_match(value),
            Self::Is(text) => value.eq_ignore_ascii_case(text),
        }
    }
}

/// A value by its name: of the line itself, of what it holds (`fields.status`), or of its `fields` and `span`, where the
/// processes of Stead put theirs.
fn at<'a>(fields: &'a Value, name: &str) -> Option<&'a Value> {
    let deep = |from: &'a Value| name.split('.').try_fold(from, |value, name| value.get(name));
    deep(fields).or_else(|| fields.get("fields").and_then(deep)).or_else(|| fields.get("span").and_then(deep))
}

/// Whether it is true of a value or of one within it.
fn any(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Null => false,
        Value::Array(values) => values.iter().any(|value| any(value, is)),
        Value::Object(fields) => fields.values().any(|value| any(value, is)),
        Value::Bool(_) | Value::Number(_) => is(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::line::{Label, LineId, Source};
    use serde_json::json;

    fn line() -> Line {
        let label = Label {
            source: Source::Postgres,
            stead: Some("shop".into()),
            component: Some("postgres.main".into()),
            server: Some("00112233aabbccdd".into()),
        };
        Line {
            id: LineId { file: 1, offset: 2 },
            at: 0,
            severity: Severity::Error,
            label: Arc::new(label),
            cut: false,
            fields: json!({"error_severity": "ERROR", "pid": 42, "user": "owner", "dbname": "main",
                "state_code": "23505", "application_name": "pg_dump 18",
                "message": "duplicate key value \"x\" violates\nunique constraint of café", "fields": {"status": 500},
                "span": {"id": "abc-def"}}),
        }
    }

    #[test]
    fn what_is_true_of_a_line() {
        for text in [
            "",
            "duplicate",
            "DUPLICATE",
            "dup*",
            "\"duplicate key\"",
            "\"key value \\\"x\\\" violates\"",
            "unique",
            "/dupl?icate\\s+KEY/",
            "/violates.unique/s",
            "severity:error",
            "severity:ERROR",
            "user:owner",
            "pid:42",
            "42",
            "database:main",
            "sqlstate:23505",
            "application:\"pg_dump 18\"",
            "application:pg_d*",
            "source:postgres",
            "stead:shop",
            "component:postgres.main",
            "message:/^dup.*caf/s",
            "status:500",
            "fields.status:500",
            "request:abc-def",
            "-warning -user:app duplicate",
            "café",
            "CAFÉ",
            "caf*",
            "pg_dump",
            "server:00112233aabbccdd",
        ] {
            // A flag is written inside the expression.
            let text = text.replace("/violates.unique/s", "/(?s)violates.unique/").replace("caf/s", "caf/");
            let text = text.replace("/^dup.*caf", "/(?s)^dup.*caf");
            assert!(text.parse::<Query>().unwrap().matches(&line()), "{text}");
        }
        for text in [
            "dupl",
            "uplicate",
            "\"key duplicate\"",
            "severity:warning",
            "user:own",
            "-duplicate",
            "-severity:error",
            "/^key/",
            "nothing:x",
            "message:duplicate",
            "pid:4",
            "application:pg_d",
            "error_severity",
            "duplicate none",
        ] {
            assert!(!text.parse::<Query>().unwrap().matches(&line()), "{text}");
        }
    }

    #[test]
    fn what_is_no_query_says_why() {
        for (text, why) in [
            ("\"open", "no second \""),
            ("/open", "no second /"),
            ("/(/", "cannot be read"),
            ("//", "empty"),
            ("\"\"", "empty"),
            ("/(\\w{300}){300}/", "too large"),
        ] {
            let error = text.parse::<Query>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!("x ".repeat(3000).parse::<Query>().is_err());
        assert!("x ".repeat(100).parse::<Query>().is_err());
        // What is odd but can be meant is taken as it is.
        for text in ["-", "a:", ":", "12:30", "http://x", "*", "-*", "a\\b", "\u{0}"] {
            assert!(text.parse::<Query>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn words_that_every_match_has() {
        let words =
            |text: &str| text.parse::<Query>().unwrap().words().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words("Deadlock \"of two\" dead* -not /re/ user:Owner severity:error a"),
            ["deadlock", "of", "two", "owner"]
        );
        assert_eq!(words("caf\u{e9}s"), ["caf"]);
    }
}
