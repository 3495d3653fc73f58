//! The manifest: what a person (in `stead.toml`) or a program (in the body of an API call) asks for.
//!
//! Both notations have the same fields and one reader: a field is parsed in one place, whichever way it
//! came, and a refusal says the same words. They differ in one thing. A `schema` in TOML names a folder,
//! which whoever reads the file reads in with [`migrations`]; in JSON it is the migrations themselves.
//!
//! Every problem of a manifest is told at once. The reader knows no kind: each kind parses its own table
//! in its own folder (`postgres/manifest.rs`), and [`Manifest`] has one field for each.

mod reader;
mod report;
mod syntax;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use toml::de::DeTable;

pub use reader::Problem;
pub(crate) use reader::{Fault, Node, Problems, Table, nearest, shown, unfit};
pub use report::ManifestError;

use crate::postgres;
pub use crate::postgres::manifest::{Server, migrations};
use crate::{Kind, LocalName, SteadName};

/// Largest manifest file, bytes.
pub const LARGEST: usize = 1024 * 1024;

/// A stead as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the app is called; the stead too, unless it is given another name.
    pub app: SteadName,
    /// PostgreSQL servers by name.
    pub postgres: BTreeMap<LocalName, Server>,
}

/// One refused field of an API body.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) of the value: `/postgres/main/size`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl From<Problem> for FieldError {
    fn from(problem: Problem) -> Self {
        let Problem { pointer, message, help, .. } = problem;
        Self { pointer, message: if help.is_empty() { message } else { format!("{message}; {help}") } }
    }
}

/// Reads a manifest file; `file_name` is what reports call it.
///
/// # Errors
/// Everything that is wrong with it, as one report.
pub fn parse(file_name: &str, text: &str) -> Result<Manifest, ManifestError> {
    if text.len() > LARGEST {
        let mut problems = Problems::new(None);
        let fault = Fault::new(
            format!("{file_name} is larger than 1 MiB"),
            "",
            "a manifest holds settings only; keep SQL in the schema folder",
        );
        problems.add(&Node::json(&Value::Null), fault);
        let (problems, left_out) = problems.finish();
        return Err(ManifestError::new(file_name, "", problems, left_out));
    }
    let mut problems = Problems::new(Some(text));
    let (document, errors) = DeTable::parse_recoverable(text);
    let readable = syntax::add(text, &errors, &mut problems);
    let manifest =
        if readable { document_of(&Node::toml(document.get_ref()), None, &mut problems) } else { None };
    let (problems, left_out) = problems.finish();
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(ManifestError::new(file_name, text, problems, left_out)),
    }
}

/// Reads the body of an API call. Where it names no `app`, that is `default_app`. A field that is `null`
/// is left out.
///
/// # Errors
/// Everything that is wrong with it, at most some forty entries.
pub fn from_json(value: &Value, default_app: &SteadName) -> Result<Manifest, Vec<FieldError>> {
    let mut problems = Problems::new(None);
    let manifest = document_of(&Node::json(value), Some(default_app), &mut problems);
    let (problems, _) = problems.finish();
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(problems.into_iter().map(FieldError::from).collect()),
    }
}

/// The body of an API call that asks for this manifest, with the migrations that were read in.
#[must_use]
pub fn to_json(manifest: &Manifest) -> Value {
    let servers: serde_json::Map<String, Value> =
        manifest.postgres.iter().map(|(name, server)| (name.to_string(), server.to_json())).collect();
    json!({ "app": manifest.app, "postgres": servers })
}

fn document_of(
    root: &Node<'_>,
    default_app: Option<&SteadName>,
    problems: &mut Problems<'_>,
) -> Option<Manifest> {
    let Some(table) = root.table() else {
        problems.add(root, root.not("a manifest", "send an object, like {\"postgres\": {\"main\": {}}}"));
        return None;
    };
    let kinds = Kind::ALL.map(Kind::as_str);
    let known: Vec<&str> = ["app"].into_iter().chain(kinds).collect();
    table.refuse_unknown(&known, problems, misplaced);
    let app = match (table.get("app"), default_app) {
        (Some(_), _) => table.read("app", problems, |node| name_of(node, "app = \"flights\"")),
        (None, Some(default)) => Some(default.clone()),
        (None, None) => {
            let help = "name the app in the first line, like app = \"flights\"";
            problems.add_at(
                &root.path.key("app"),
                Some(0..0),
                Fault::new("is missing", "app is missing", help),
            );
            None
        }
    };
    let servers = table.get(Kind::Postgres.as_str()).map_or_else(BTreeMap::new, |node| {
        components(
            node,
            problems,
            postgres::manifest::FIELDS,
            postgres::manifest::reserved,
            postgres::manifest::server,
        )
    });
    Some(Manifest { app: app?, postgres: servers })
}

/// A key at the top that belongs into a component.
fn misplaced(key: &str) -> Option<String> {
    postgres::manifest::FIELDS
        .contains(&key)
        .then(|| format!("`{key}` is a setting of a server: move it below [postgres.main]"))
}

fn name_of(node: &Node<'_>, like: &str) -> Result<SteadName, Fault> {
    let text = node.text().ok_or_else(|| node.not("a name", format!("write {like}")))?;
    text.parse().map_err(|_| bad_name(text, "an app"))
}

/// Why a text is no name, with the nearest that is one.
fn bad_name(text: &str, what: &str) -> Fault {
    let rule = "use 1 to 40 lower-case letters, digits and -, starting with a letter and not ending with -";
    let mut near: String = text
        .chars()
        .take(SteadName::MAX)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    near = near.trim_matches('-').trim_start_matches(|c: char| !c.is_ascii_lowercase()).to_owned();
    let help = if near.is_empty() { rule.to_owned() } else { format!("{rule}, like {near}") };
    Fault::new(format!("`{}` cannot be the name of {what}", shown(text)), "not a name", help)
}

/// How a component is written, in the notation of a node.
fn named(node: &Node<'_>, name: &str) -> String {
    if node.is_json() {
        format!("a server has a name and settings: send {{\"{name}\": {{\"size\": \"small\"}}}}")
    } else {
        format!("a server has a name: write [postgres.{name}] and its settings below")
    }
}

/// Reads the table of one kind: a table of components by name.
fn components<T>(
    node: &Node<'_>,
    problems: &mut Problems<'_>,
    fields: &[&str],
    reserved: impl Fn(&str) -> Option<Fault>,
    read: impl Fn(&Table<'_>, &mut Problems<'_>) -> T,
) -> BTreeMap<LocalName, T> {
    let mut found = BTreeMap::new();
    let Some(table) = node.table() else {
        problems.add(node, node.not("a table of servers", named(node, "main")));
        return found;
    };
    for entry in &table.entries {
        let node = &entry.value;
        let Some(inner) = node.table() else {
            let fault = if fields.contains(&entry.key) {
                let message = format!("`{}` is a setting, but of no server", entry.key);
                Fault::new(
                    message,
                    "of no server",
                    "a server has a name: write [postgres.main] instead of [postgres]",
                )
            } else {
                node.not("a server", named(node, &shown(entry.key)))
            };
            problems.add_at(&node.path, entry.key_span.clone(), fault);
            continue;
        };
        let name = match (entry.key.parse::<LocalName>(), reserved(entry.key)) {
            (Ok(name), None) => Some(name),
            (Ok(_), Some(fault)) => {
                problems.add_at(&node.path, entry.key_span.clone(), fault);
                None
            }
            (Err(_), _) => {
                problems.add_at(&node.path, entry.key_span.clone(), bad_name(entry.key, "a server"));
                None
            }
        };
        let component = read(&inner, problems);
        if let Some(name) = name {
            found.insert(name, component);
        }
    }
    found
}
