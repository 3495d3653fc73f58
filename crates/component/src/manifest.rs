//! The manifest: what a person (in `stead.toml`) or a program (in the body of an API call) asks for.
//!
//! Both notations have the same fields and one reader: a field is parsed in one place, whichever way it
//! came, and a refusal says the same words. They differ in one thing. A `schema` in TOML names a folder,
//! which whoever reads the file reads in with [`migrations`]; in JSON it is the migrations themselves.
//!
//! Every problem of a manifest is told at once. The reader knows no kind: each kind parses its own table
//! in its own folder (`postgres/manifest.rs`), and [`Manifest`] has one field for each.

pub(crate) mod fields;
mod reader;
mod report;
mod syntax;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use toml::de::DeTable;

pub use reader::Problem;
pub(crate) use reader::{Fault, Node, Problems, Table, nearest, shown, unfit};
pub use report::ManifestError;

pub use crate::function::manifest::Function;
pub use crate::postgres::manifest::{Server, migrations};
use crate::{Kind, LocalName, SteadName};
use crate::{function, postgres, transfer};

/// Largest manifest file, bytes.
pub const LARGEST: usize = 1024 * 1024;

/// A stead as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the app is called; the stead too, unless it is given another name.
    pub app: SteadName,
    /// PostgreSQL servers by name.
    pub postgres: BTreeMap<LocalName, Server>,
    /// Functions by name.
    pub function: BTreeMap<LocalName, Function>,
    /// Transfers by name.
    pub transfer: BTreeMap<LocalName, transfer::Wish>,
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

/// The body of an API call that asks for this manifest, with the migrations that were read in and the packages that
/// were made.
#[must_use]
pub fn to_json(manifest: &Manifest) -> Value {
    let Manifest { app, postgres, function, transfer } = manifest;
    let servers: serde_json::Map<String, Value> =
        postgres.iter().map(|(name, server)| (name.to_string(), server.to_json())).collect();
    let mut body = json!({ "app": app, "postgres": servers });
    if !function.is_empty() {
        let functions: serde_json::Map<String, Value> =
            function.iter().map(|(name, function)| (name.to_string(), function.to_json())).collect();
        body["function"] = functions.into();
    }
    if !transfer.is_empty() {
        let transfers: serde_json::Map<String, Value> = transfer
            .iter()
            .map(|(name, wish)| (name.to_string(), transfer::manifest::to_json(wish)))
            .collect();
        body["transfer"] = transfers.into();
    }
    body
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
    let mut components = Components { table: &table, problems };
    let postgres = components.of(&postgres::manifest::NOTATION, postgres::manifest::server);
    let function = components.of(&function::manifest::NOTATION, function::manifest::function);
    let transfer = components.of(&transfer::manifest::NOTATION, transfer::manifest::transfer);
    Some(Manifest { app: app?, postgres, function, transfer })
}

/// How components of a kind are written.
pub(crate) struct Notation {
    /// The kind.
    pub(crate) kind: Kind,
    /// What people call one: `a server`.
    pub(crate) noun: &'static str,
    /// The name that most of them have.
    pub(crate) like: &'static str,
    /// Settings of one, as JSON, for an example.
    pub(crate) settings: &'static str,
    /// Every field.
    pub(crate) fields: &'static [&'static str],
    /// Why a name cannot be had, where it cannot.
    pub(crate) reserved: fn(&str) -> Option<Fault>,
}

const NOTATIONS: [&Notation; 3] =
    [&postgres::manifest::NOTATION, &function::manifest::NOTATION, &transfer::manifest::NOTATION];

/// A key at the top that belongs into a component.
fn misplaced(key: &str) -> Option<String> {
    let notation = NOTATIONS.iter().find(|notation| notation.fields.contains(&key))?;
    let Notation { kind, noun, like, .. } = notation;
    Some(format!("`{key}` is a setting of {noun}: move it below [{kind}.{like}]"))
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

impl Notation {
    /// How a component is written, in the notation of a node.
    fn named(&self, node: &Node<'_>, name: &str) -> String {
        let Self { kind, noun, settings, .. } = self;
        if node.is_json() {
            format!("{noun} has a name and settings: send {{\"{name}\": {settings}}}")
        } else {
            format!("{noun} has a name: write [{kind}.{name}] and its settings below")
        }
    }
}

/// The components of a manifest.
struct Components<'p, 't> {
    table: &'p Table<'p>,
    problems: &'p mut Problems<'t>,
}

impl<'t> Components<'_, 't> {
    /// Reads the table of one kind: a table of components by name.
    fn of<T>(
        &mut self,
        notation: &Notation,
        read: impl Fn(&Table<'_>, &mut Problems<'t>) -> T,
    ) -> BTreeMap<LocalName, T> {
        let mut found = BTreeMap::new();
        let Notation { kind, noun, like, .. } = notation;
        let Some(node) = self.table.get(kind.as_str()) else { return found };
        let bare = noun.split_once(' ').map_or(*noun, |(_, noun)| noun);
        let Some(table) = node.table() else {
            let fault = node.not(&format!("a table of {bare}s"), notation.named(node, like));
            self.problems.add(node, fault);
            return found;
        };
        for entry in &table.entries {
            let node = &entry.value;
            let Some(inner) = node.table() else {
                let fault = if notation.fields.contains(&entry.key) {
                    let message = format!("`{}` is a setting, but of no {bare}", entry.key);
                    let help = format!("{noun} has a name: write [{kind}.{like}] instead of [{kind}]");
                    Fault::new(message, format!("of no {bare}"), help)
                } else {
                    node.not(noun, notation.named(node, &shown(entry.key)))
                };
                self.problems.add_at(&node.path, entry.key_span.clone(), fault);
                continue;
            };
            let name = match (entry.key.parse::<LocalName>(), (notation.reserved)(entry.key)) {
                (Ok(name), None) => Some(name),
                (Ok(_), Some(fault)) => {
                    self.problems.add_at(&node.path, entry.key_span.clone(), fault);
                    None
                }
                (Err(_), _) => {
                    let fault = bad_name(entry.key, noun);
                    self.problems.add_at(&node.path, entry.key_span.clone(), fault);
                    None
                }
            };
            let component = read(&inner, self.problems);
            if let Some(name) = name {
                found.insert(name, component);
            }
        }
        found
    }
}
