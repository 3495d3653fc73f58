//! The fields of a server in a manifest, each parsed once for both notations.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

pub use super::migrations::migrations;
use super::{
    Backup, BadBackup, BadIdle, BadMaintenance, Drills, Every, Idle, Keep, MaintenanceWindow, Major,
    Migration, Size, Wish, extension, migrations, network,
};
use crate::Kind;
use crate::manifest::{Fault, Node, Notation, Problems, Table, fields, nearest, shown};

/// A server as a manifest asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// What is wanted. Out of TOML its `schema` is empty until the folder was read in.
    pub wish: Wish,
    /// Folder of the migrations, relative to the manifest; out of TOML only.
    pub schema: Option<PathBuf>,
    /// Texts of the migrations by their SHA-256; out of JSON, or once the folder was read in.
    pub files: BTreeMap<String, String>,
}

/// How a server is written.
pub(crate) const NOTATION: Notation = Notation {
    kind: Kind::Postgres,
    noun: "a server",
    like: "main",
    settings: "{\"size\": \"small\"}",
    fields: FIELDS,
    reserved,
};

/// Every field.
const FIELDS: &[&str] = &[
    "engine",
    "size",
    "allow",
    "maintenance",
    "idle",
    "backup",
    "schema",
    "extensions",
    "protect",
    "owner",
    "runbook",
];

/// Names that no server can have, because its database has the same name.
fn reserved(name: &str) -> Option<Fault> {
    matches!(name, "postgres" | "template0" | "template1").then(|| {
        let message =
            format!("`{name}` is a database of PostgreSQL's own, and a server's database has its name");
        Fault::new(message, "taken", "call the server something else, like main")
    })
}

/// Reads a server.
pub(crate) fn server(table: &Table<'_>, problems: &mut Problems<'_>) -> Server {
    table.refuse_unknown(FIELDS, problems, other_word);
    let mut server = Server {
        wish: Wish {
            engine: table.read("engine", problems, engine),
            size: table.read("size", problems, size),
            allow: table.read_list("allow", "[\"10.0.0.0/8\"]", problems, |item| {
                network::parse(
                    item.text().ok_or_else(|| item.not("a network", "write it like \"10.0.0.0/8\""))?,
                )
            }),
            maintenance: table.read("maintenance", problems, maintenance),
            idle: table.read("idle", problems, idle),
            backup: table.get("backup").and_then(|node| backup(node, problems)),
            schema: Vec::new(),
            extensions: table
                .read_list("extensions", "[\"pg_trgm\"]", problems, |item| {
                    extension::parse(
                        item.text().ok_or_else(|| item.not("an extension", "write it like \"pg_trgm\""))?,
                    )
                })
                .unwrap_or_default(),
            protect: table.read("protect", problems, protect),
            owner: table.read("owner", problems, fields::owner),
            runbook: table.read("runbook", problems, fields::runbook),
        },
        ..Server::default()
    };
    match table.get("schema") {
        Some(node) if node.is_json() => {
            if let Some((schema, files)) = schema_files(node, problems) {
                server.wish.schema = schema;
                server.files = files;
            }
        }
        _ => {
            server.schema = table.read("schema", problems, |node| {
                fields::folder(node, "name a folder beside the manifest, like schema = \"migrations\"")
            })
        }
    }
    server
}

/// What people call a field elsewhere.
fn other_word(key: &str) -> Option<String> {
    let meant = match key.to_ascii_lowercase().replace('-', "_").as_str() {
        "version" | "engine_version" | "major" | "postgres_version" => "engine",
        "plan" | "tier" | "instance" | "instance_class" | "class" | "memory" => "size",
        "allow_list" | "allowlist" | "allowed" | "cidr" | "cidrs" | "networks" | "ip_allow" | "whitelist" => {
            "allow"
        }
        "window" | "maintenance_window" => "maintenance",
        "idle_timeout" | "sleep" | "sleep_after" | "suspend_timeout" | "autosuspend" | "scale_to_zero" => {
            "idle"
        }
        "backups" | "backup_retention" | "retention" | "pitr" => "backup",
        "migrations" | "migration" | "sql" | "folder" => "schema",
        "deletion_protection" | "protected" | "delete_protection" => "protect",
        "team" | "contact" | "owned_by" => "owner",
        "docs" | "documentation" | "playbook" => "runbook",
        "name" | "database" | "dbname" => {
            return Some("a server's name, and its database's, is in the heading: [postgres.main]".into());
        }
        "password" | "user" | "username" | "role" | "port" | "host" => {
            return Some("Stead chooses this; `stead url` shows it".into());
        }
        _ => return None,
    };
    Some(format!("that is called `{meant}` here"))
}

fn engine(node: &Node<'_>) -> Result<Major, Fault> {
    let known = || Major::KNOWN.map(|number| number.to_string()).collect::<Vec<_>>().join(", ");
    let number = node.whole();
    if let Some(number) = number.and_then(|number| u16::try_from(number).ok())
        && Major::KNOWN.contains(&number)
    {
        return Ok(Major::new(number));
    }
    if number.is_some() {
        let message = format!("{} is not a known engine", node.describe());
        return Err(Fault::new(message, "not an engine", format!("the engines are {}", known())));
    }
    // "18", 18.6 and "18.6" all mean 18; a number's own text is what `describe` ends with.
    let meant = node.text().map(str::to_owned).unwrap_or_else(|| node.describe());
    let digits: String =
        meant.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let help = match digits.parse::<u16>() {
        Ok(major) if Major::KNOWN.contains(&major) => {
            format!("write the major version as a number: {major}")
        }
        _ => format!("write the major version as a number: {}", known()),
    };
    Err(node.not("an engine", help))
}

fn size(node: &Node<'_>) -> Result<Size, Fault> {
    let words = || Size::ALL.map(Size::as_str).join(", ");
    let text = node.text().ok_or_else(|| node.not("a size", format!("the sizes are {}", words())))?;
    text.parse().map_err(|()| {
        let help = match nearest(text, Size::ALL.map(Size::as_str)) {
            Some(near) => format!("did you mean \"{near}\"? The sizes are {}", words()),
            None => format!("the sizes are {}", words()),
        };
        Fault::new(format!("\"{}\" is not a size", shown(text)), "not a size", help)
    })
}

fn maintenance(node: &Node<'_>) -> Result<MaintenanceWindow, Fault> {
    const LIKE: &str = "write it like \"sun 03:00-05:00 Asia/Tokyo\"";
    let text = node.text().ok_or_else(|| node.not("a maintenance window", LIKE))?;
    text.parse().map_err(|bad: BadMaintenance| {
        let (label, part) = match &bad {
            BadMaintenance::Shape(_) => ("not a window", None),
            BadMaintenance::Weekday(word) => ("not a day", Some(word)),
            BadMaintenance::Span(word) => ("not a span of time", Some(word)),
            BadMaintenance::Empty(_) => ("no length", None),
            BadMaintenance::Zone(word) => ("not a time zone", Some(word)),
        };
        let mut fault = fields::told(&bad, label, LIKE);
        if let BadMaintenance::Zone(word) = &bad
            && let Some(near) = nearest_zone(word)
        {
            fault.help = format!("did you mean {near}?");
        }
        part.map_or(fault.clone(), |part| fault.part(part))
    })
}

fn nearest_zone(word: &str) -> Option<String> {
    let zones: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
    nearest(word, zones.iter().map(String::as_str)).map(str::to_owned)
}

fn idle(node: &Node<'_>) -> Result<Idle, Fault> {
    const LIKE: &str = "write it like \"5m\"";
    // Elsewhere these say that it never sleeps.
    if node.truth() == Some(false) || node.whole().is_some_and(|number| number <= 0) {
        return Err(node.not("a length of time", "leave `idle` out: the server then never sleeps"));
    }
    let text = node.text().ok_or_else(|| node.not("a length of time", LIKE))?;
    text.parse().map_err(|bad: BadIdle| {
        let label = match &bad {
            BadIdle::Shape(_) | BadIdle::Never(_) => "not a length of time",
            BadIdle::NoUnit(_) => "no unit",
            BadIdle::Unit(_) => "not a unit",
            BadIdle::Fraction(_) => "not whole seconds",
            BadIdle::Zero(_) => "no time",
            BadIdle::Negative(_) => "negative",
            BadIdle::Long(_) => "too long",
        };
        let fault = fields::told(&bad, label, LIKE);
        match &bad {
            BadIdle::Unit(part) | BadIdle::NoUnit(part) => fault.part(part),
            _ => fault,
        }
    })
}

/// What is left out of it is chosen.
fn backup(node: &Node<'_>, problems: &mut Problems<'_>) -> Option<Backup> {
    const LIKE: &str = "write it like { every = \"1d\", keep = \"14d\" }";
    let Some(table) = node.table() else {
        let help = if node.truth() == Some(false) {
            "a server always has backups; leave `backup` out for one a day, kept for 14 days"
        } else {
            LIKE
        };
        problems.add(node, node.not("a table of `every`, `keep` and `drill`", help));
        return None;
    };
    table.refuse_unknown(&["every", "keep", "drill"], problems, |_| None);
    let fault = |bad: BadBackup, label: &str| fields::told(&bad, label, LIKE);
    let every = table.read("every", problems, |node| {
        let text = node.text().ok_or_else(|| node.not("a length of time", "write it like \"1d\""))?;
        text.parse::<Every>().map_err(|bad| fault(bad, "not from 1h to 30d"))
    });
    let keep = table.read("keep", problems, |node| match (node.text(), node.whole()) {
        (Some(text), _) => text.parse::<Keep>().map_err(|bad| fault(bad, "not from 1d to 3650d")),
        (None, Some(count)) => Keep::last(count).map_err(|bad| fault(bad, "not from 1 to 1000")),
        (None, None) => {
            Err(node.not("a length of time or a number of backups", "write it like \"14d\" or 7"))
        }
    });
    let drill = table.read("drill", problems, |node| {
        let text = node.text().ok_or_else(|| node.not("a length of time", "write it like \"7d\""))?;
        text.parse::<Drills>().map_err(|bad| fault(bad, "not from 1h to 365d"))
    });
    let (every, keep) = (every.unwrap_or_default(), keep.unwrap_or_default());
    Some(Backup { every, keep, drill: drill.unwrap_or_default() })
}

fn protect(node: &Node<'_>) -> Result<bool, Fault> {
    node.truth().ok_or_else(|| {
        let meant = node.text().unwrap_or_default().to_ascii_lowercase();
        let help = match meant.as_str() {
            "true" | "yes" | "on" => "write true, without quotes",
            "false" | "no" | "off" => "write false, without quotes",
            _ => "write true or false",
        };
        node.not("true or false", help)
    })
}

fn schema_files(
    node: &Node<'_>,
    problems: &mut Problems<'_>,
) -> Option<(Vec<Migration>, BTreeMap<String, String>)> {
    const LIKE: &str = "[{\"name\": \"0001_tables.sql\", \"sql\": \"create table …\"}]";
    let files = table_of_files(node, LIKE, problems)?;
    match migrations::check(files) {
        Ok(found) => Some(found),
        Err(faults) => {
            for (pointer, fault) in faults {
                problems.add_at(&node.path.below(&pointer), None, fault);
            }
            None
        }
    }
}

/// The files of a JSON `schema`; `None` where one is not even a file, which would shift the others' places.
fn table_of_files(node: &Node<'_>, like: &str, problems: &mut Problems<'_>) -> Option<Vec<(String, String)>> {
    let Some(items) = node.items() else {
        problems.add(node, node.not("a list of migrations", format!("send {like}")));
        return None;
    };
    let mut files = Vec::with_capacity(items.len());
    for item in &items {
        let Some(table) = item.table() else {
            problems.add(item, item.not("a migration", format!("send {like}")));
            continue;
        };
        table.refuse_unknown(&["name", "sql"], problems, |_| None);
        let mut text = |key: &str| {
            if table.get(key).is_none() {
                let fault = Fault::new(format!("`{key}` is missing"), "missing", format!("send {like}"));
                problems.add(item, fault);
                return None;
            }
            table.read(key, problems, |node| {
                node.text().map(str::to_owned).ok_or_else(|| node.not("a text", format!("send {like}")))
            })
        };
        if let (Some(name), Some(sql)) = (text("name"), text("sql")) {
            files.push((name, sql));
        }
    }
    (files.len() == items.len()).then_some(files)
}

impl Server {
    /// The server as an API body has it: what is left out stays left out. A migration whose text was not
    /// read in is left out too.
    pub(crate) fn to_json(&self) -> Value {
        let wish = &self.wish;
        let mut body = serde_json::Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        put("engine", wish.engine.map(|engine| json!(engine)));
        put("size", wish.size.map(|size| json!(size)));
        put("allow", wish.allow.as_ref().map(|allow| json!(allow)));
        put("maintenance", wish.maintenance.as_ref().map(|window| json!(window)));
        put("idle", wish.idle.map(|idle| json!(idle)));
        put("backup", wish.backup.map(|backup| json!(backup)));
        let files: Vec<Value> = wish
            .schema
            .iter()
            .filter_map(|file| Some(json!({"name": file.name, "sql": self.files.get(&file.sha256)?})))
            .collect();
        put("schema", (!files.is_empty()).then(|| json!(files)));
        put("extensions", (!wish.extensions.is_empty()).then(|| json!(wish.extensions)));
        put("protect", wish.protect.map(|protect| json!(protect)));
        put("owner", wish.owner.as_ref().map(|owner| json!(owner)));
        put("runbook", wish.runbook.as_ref().map(|runbook| json!(runbook)));
        Value::Object(body)
    }
}
