//! One way to read a manifest, whichever notation it came in: a [`Node`] is a value of a TOML document (with
//! its place in the file) or of a JSON body, and what is wrong with one is a [`Fault`] that a list of
//! [`Problems`] gives its place.

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

/// Problems told at once; beyond that a file is something else than a manifest.
const MOST: usize = 40;

/// Longest list of settings; every entry of an allow-list is looked at for every connection.
const LONGEST_LIST: usize = 500;

/// What is wrong with a value, without its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is wrong, the value included.
    pub(crate) message: String,
    /// The same in two or three words, to stand under the value.
    pub(crate) label: String,
    /// What would be right.
    pub(crate) help: String,
    /// The part of a text that is meant, where it is not all of it.
    pub(crate) part: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), label: label.into(), help: help.into(), part: None }
    }

    #[must_use]
    pub(crate) fn part(mut self, part: impl Into<String>) -> Self {
        self.part = Some(part.into());
        self
    }
}

/// One thing wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// JSON pointer of the value: `/postgres/main/size`.
    pub pointer: String,
    /// The same as people write it: `postgres.main.size`; empty where the file cannot be read as TOML.
    pub field: String,
    /// Line in the file, from 1; 0 where there is no file.
    pub line: usize,
    /// Column in characters, from 1; 0 where there is no file.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
    pub(crate) label: String,
    pub(crate) span: Option<Range<usize>>,
    pub(crate) earlier: Option<Range<usize>>,
}

/// Where a value is, in both notations of a path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path {
    pointer: String,
    field: String,
}

impl Path {
    pub(crate) fn key(&self, key: &str) -> Self {
        let pointer = format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1"));
        let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let word = if bare { shown(key) } else { format!("\"{}\"", shown(key)) };
        let field = if self.field.is_empty() { word } else { format!("{}.{word}", self.field) };
        Self { pointer, field }
    }

    fn index(&self, index: usize) -> Self {
        Self { pointer: format!("{}/{index}", self.pointer), field: format!("{}[{index}]", self.field) }
    }

    /// Appends a pointer given relative to this path.
    pub(crate) fn below(&self, pointer: &str) -> Self {
        pointer.split('/').skip(1).fold(self.clone(), |path, part| match part.parse() {
            Ok(index) => path.index(index),
            Err(_) => path.key(part),
        })
    }
}

/// The problems found so far.
pub(crate) struct Problems<'a> {
    text: Option<&'a str>,
    found: Vec<Problem>,
    left_out: usize,
}

impl<'a> Problems<'a> {
    /// `text` is the file, where there is one.
    pub(crate) fn new(text: Option<&'a str>) -> Self {
        Self { text, found: Vec::new(), left_out: 0 }
    }

    pub(crate) fn add(&mut self, node: &Node<'_>, fault: Fault) {
        self.add_at(&node.path, node.span.clone(), fault);
    }

    pub(crate) fn add_at(&mut self, path: &Path, span: Option<Range<usize>>, fault: Fault) {
        self.add_twice(path, span, None, fault);
    }

    /// As [`Self::add_at`], with the earlier place that a repetition repeats.
    pub(crate) fn add_twice(
        &mut self,
        path: &Path,
        span: Option<Range<usize>>,
        earlier: Option<Range<usize>>,
        fault: Fault,
    ) {
        if self.full() {
            return;
        }
        let span = self.text.zip(span).map(|(text, span)| narrow(text, within(text, span), &fault));
        let (line, column) =
            self.text.zip(span.as_ref()).map_or((0, 0), |(text, span)| position(text, span.start));
        self.found.push(Problem {
            pointer: path.pointer.clone(),
            field: path.field.clone(),
            line,
            column,
            message: fault.message,
            help: fault.help,
            label: fault.label,
            span,
            earlier,
        });
    }

    /// Counts one more that is not told; true once there are as many as are.
    pub(crate) fn full(&mut self) -> bool {
        let full = self.found.len() == MOST;
        self.left_out += usize::from(full);
        full
    }

    /// All of them in the order of the file, and how many more there were than are worth telling.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, usize) {
        self.found.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        (self.found, self.left_out)
    }
}

/// A span that is surely inside the text and between characters, and no longer than its first line: a list
/// of five hundred lines is not drawn to say that it is too long.
fn within(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    let first_line = text[start..end].find('\n').unwrap_or(end - start);
    start..start + first_line
}

/// The span of the part that a fault means, where the file spells it out exactly once.
fn narrow(text: &str, span: Range<usize>, fault: &Fault) -> Range<usize> {
    let Some(part) = fault.part.as_deref().filter(|part| !part.is_empty()) else { return span };
    let mut places = text[span.clone()].match_indices(part);
    match (places.next(), places.next()) {
        (Some((offset, _)), None) => span.start + offset..span.start + offset + part.len(),
        _ => span,
    }
}

/// Line and column, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) path: Path,
    pub(crate) span: Option<Range<usize>>,
    raw: Raw<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Raw<'a> {
    Toml(&'a DeValue<'a>),
    TomlTable(&'a DeTable<'a>),
    Json(&'a Json),
}

impl<'a> Node<'a> {
    pub(crate) fn toml(table: &'a DeTable<'a>) -> Self {
        Self { path: Path::default(), span: Some(0..0), raw: Raw::TomlTable(table) }
    }

    pub(crate) fn json(value: &'a Json) -> Self {
        Self { path: Path::default(), span: None, raw: Raw::Json(value) }
    }

    pub(crate) fn is_json(&self) -> bool {
        matches!(self.raw, Raw::Json(_))
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.raw {
            Raw::Toml(value) => value.as_str(),
            Raw::TomlTable(_) => None,
            Raw::Json(value) => value.as_str(),
        }
    }

    pub(crate) fn truth(&self) -> Option<bool> {
        match self.raw {
            Raw::Toml(value) => value.as_bool(),
            Raw::TomlTable(_) => None,
            Raw::Json(value) => value.as_bool(),
        }
    }

    /// A whole number; one too big for 64 bits is `i64::MAX`, which is out of every range asked for.
    pub(crate) fn whole(&self) -> Option<i64> {
        match self.raw {
            Raw::Toml(value) => value
                .as_integer()
                .map(|number| i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX)),
            Raw::TomlTable(_) => None,
            Raw::Json(value) => value.as_i64().or_else(|| value.is_u64().then_some(i64::MAX)),
        }
    }

    pub(crate) fn items(&self) -> Option<Vec<Node<'a>>> {
        let item = |index, span, raw| Node { path: self.path.index(index), span, raw };
        match self.raw {
            Raw::Toml(value) => Some(
                value
                    .as_array()?
                    .iter()
                    .enumerate()
                    .map(|(index, value)| item(index, Some(value.span()), Raw::Toml(value.get_ref())))
                    .collect(),
            ),
            Raw::TomlTable(_) => None,
            Raw::Json(value) => Some(
                value
                    .as_array()?
                    .iter()
                    .enumerate()
                    .map(|(index, value)| item(index, None, Raw::Json(value)))
                    .collect(),
            ),
        }
    }

    pub(crate) fn table(&self) -> Option<Table<'a>> {
        let entry = |key: &'a str, key_span, span, raw| Entry {
            key,
            key_span,
            value: Node { path: self.path.key(key), span, raw },
        };
        let toml = |table: &'a DeTable<'a>| {
            table
                .iter()
                .map(|(key, value)| {
                    entry(key.get_ref(), Some(key.span()), Some(value.span()), Raw::Toml(value.get_ref()))
                })
                .collect()
        };
        let entries = match self.raw {
            Raw::Toml(value) => toml(value.as_table()?),
            Raw::TomlTable(table) => toml(table),
            Raw::Json(value) => value
                .as_object()?
                .iter()
                .map(|(key, value)| entry(key, None, None, Raw::Json(value)))
                .collect(),
        };
        Some(Table { entries })
    }

    fn is_null(&self) -> bool {
        matches!(self.raw, Raw::Json(Json::Null))
    }

    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        if let Some(text) = self.text() {
            return format!("the text \"{}\"", shown(text));
        }
        if let Some(truth) = self.truth() {
            return truth.to_string();
        }
        match self.raw {
            Raw::Toml(DeValue::Integer(number)) => format!("the number {}", shown(&number.to_string())),
            Raw::Toml(DeValue::Float(number)) => format!("the number {}", shown(number.as_str())),
            Raw::Json(Json::Number(number)) => format!("the number {}", shown(&number.to_string())),
            Raw::Toml(DeValue::Datetime(_)) => "a date or time".into(),
            Raw::Toml(DeValue::Array(_)) | Raw::Json(Json::Array(_)) => "a list".into(),
            Raw::Json(Json::Null) => "null".into(),
            _ => "a table".into(),
        }
    }

    /// The fault of being something else than what is wanted.
    pub(crate) fn not(&self, wanted: &str, help: impl Into<String>) -> Fault {
        let is = self.describe();
        Fault::new(format!("{is} is not {wanted}"), format!("not {wanted}"), help)
    }
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a str,
    pub(crate) key_span: Option<Range<usize>>,
    pub(crate) value: Node<'a>,
}

/// A value with named fields.
#[derive(Debug, Clone)]
pub(crate) struct Table<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
}

impl<'a> Table<'a> {
    /// The field, unless it is left out (or `null`, which in JSON is the same).
    pub(crate) fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
            .filter(|node| !node.is_null())
    }

    /// Reads a field by its parser; `None` where it is left out or wrong.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        parse: impl FnOnce(&Node<'a>) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = self.get(key)?;
        parse(node).map_err(|fault| problems.add(node, fault)).ok()
    }

    /// Reads a list field by the parser of one of its items; `like` is an example for whoever wrote none.
    pub(crate) fn read_list<T>(
        &self,
        key: &str,
        like: &str,
        problems: &mut Problems<'_>,
        parse: impl Fn(&Node<'a>) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let node = self.get(key)?;
        let Some(items) = node.items() else {
            problems.add(node, node.not("a list", format!("write a list, like {like}")));
            return None;
        };
        if items.len() > LONGEST_LIST {
            let message = format!("has {} entries", items.len());
            problems.add(node, Fault::new(message, "too long", format!("write at most {LONGEST_LIST}")));
            return None;
        }
        let mut read = Vec::with_capacity(items.len());
        for item in &items {
            match parse(item) {
                Ok(value) => read.push(value),
                Err(fault) => problems.add(item, fault),
            }
        }
        Some(read)
    }

    /// Reports every key that is not known. `explain` may know better than the nearest spelling.
    pub(crate) fn refuse_unknown(
        &self,
        known: &[&str],
        problems: &mut Problems<'_>,
        explain: impl Fn(&str) -> Option<String>,
    ) {
        for entry in self.entries.iter().filter(|entry| !known.contains(&entry.key)) {
            let help =
                explain(entry.key).unwrap_or_else(|| match nearest(entry.key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys here are {}", known.join(", ")),
                });
            let fault = Fault::new(format!("unknown key `{}`", shown(entry.key)), "unknown key", help);
            problems.add_at(&entry.value.path, entry.key_span.clone(), fault);
        }
    }
}

/// The candidate nearest to a misspelt word, where one is near enough to be meant.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word: String = word.chars().take(64).collect::<String>().to_lowercase();
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A text of a stranger made fit to be shown: at most 60 characters, and none that a terminal obeys.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == 60 {
            shown.push('…');
            break;
        }
        if unfit(c) {
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control characters, and those that turn the direction of what follows.
pub(crate) fn unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
