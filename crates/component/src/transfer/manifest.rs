//! The fields of a transfer in a manifest, each parsed once for both notations.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Bucket, Column, Condition, Elsewhere, Endpoint, Every, Kept, Location, Mode, Origin, Overlap, Part,
    Pattern, Region, Tables, Wish,
};
use crate::function::Variable;
use crate::manifest::{Fault, Node, Notation, Problems, Table, fields};
use crate::postgres::network;
use crate::{ComponentName, Kind};

/// How a transfer is written.
pub(crate) const NOTATION: Notation = Notation {
    kind: Kind::Transfer,
    noun: "a transfer",
    like: "lake",
    settings: "{\"from\": \"postgres.main\", \"mode\": \"stream\", \"tables\": [\"public.*\"]}",
    fields: FIELDS,
    reserved: |_| None,
};

/// Every field.
const FIELDS: &[&str] = &[
    "from",
    "mode",
    "tables",
    "every",
    "cursor",
    "overlap",
    "keep",
    "keep_changes",
    "to",
    "allow",
    "owner",
    "consumers",
    "runbook",
];

/// Reads a transfer.
pub(crate) fn transfer(table: &Table<'_>, problems: &mut Problems<'_>) -> Wish {
    table.refuse_unknown(FIELDS, problems, other_word);
    Wish {
        from: from(table, problems),
        mode: table.read("mode", problems, mode),
        tables: tables(table, problems),
        every: table.read("every", problems, every),
        cursor: table.read("cursor", problems, column),
        overlap: table.read("overlap", problems, overlap),
        keep: table.read("keep", problems, kept),
        keep_changes: table.read("keep_changes", problems, kept),
        to: to(table, problems),
        allow: table.read_list("allow", "[\"10.0.0.0/8\"]", problems, |item| {
            network::parse(item.text().ok_or_else(|| item.not("a network", "write it like \"10.0.0.0/8\""))?)
        }),
        owner: table.read("owner", problems, fields::owner),
        consumers: table
            .read_list("consumers", "[\"team-analytics\"]", problems, fields::owner)
            .map_or_else(BTreeSet::new, |names| names.into_iter().collect()),
        runbook: table.read("runbook", problems, fields::runbook),
    }
}

/// What people call a field elsewhere.
fn other_word(key: &str) -> Option<String> {
    let meant = match key.to_ascii_lowercase().replace('-', "_").as_str() {
        "source" | "database" | "server" | "uses" => "from",
        "type" | "kind" | "method" | "capture" => "mode",
        "table" | "include" | "table_include_list" | "streams" => "tables",
        "interval" | "schedule" | "frequency" | "refresh" => "every",
        "cursor_field" | "cursor_column" | "incremental" | "updated_at" | "watermark" => "cursor",
        "retention" | "versions" | "vacuum" => "keep",
        "history" | "changes_retention" => "keep_changes",
        "destination" | "target" | "sink" | "bucket" | "into" => "to",
        "lookback" | "safety_window" => "overlap",
        "allow_list" | "allowlist" | "networks" => "allow",
        "team" | "contact" | "owned_by" => "owner",
        "readers" | "consumer" | "subscribers" => "consumers",
        "docs" | "documentation" | "playbook" => "runbook",
        "name" => return Some("a transfer's name is in the heading: [transfer.lake]".into()),
        _ => return None,
    };
    Some(format!("that is called `{meant}` here"))
}

/// A server of the stead by its name, any other by a secret.
fn from(table: &Table<'_>, problems: &mut Problems<'_>) -> Option<Origin> {
    let elsewhere = table.get("from").and_then(Node::table);
    let Some(elsewhere) = elsewhere else { return table.read("from", problems, server).map(Origin::Server) };
    elsewhere.refuse_unknown(&["secret", "ca"], problems, |key| match key {
        "url" | "host" | "password" | "dsn" | "uri" => Some(
            "that belongs into a secret: write { secret = \"LEGACY_URL\" } and `stead secret set LEGACY_URL`"
                .into(),
        ),
        _ => None,
    });
    let ca = elsewhere.read("ca", problems, secret);
    match elsewhere.get("secret") {
        Some(_) => {
            Some(Origin::Elsewhere(Elsewhere { secret: elsewhere.read("secret", problems, secret)?, ca }))
        }
        None => {
            let help = "name the secret that holds the server's URL, like { secret = \"LEGACY_URL\" }";
            problems.add(table.get("from")?, Fault::new("names no secret", "no secret", help));
            None
        }
    }
}

/// A bucket. What is written nowhere else is a key: so nothing that should be a secret's name is repeated.
fn to(table: &Table<'_>, problems: &mut Problems<'_>) -> Option<Bucket> {
    const LIKE: &str = "write { bucket = \"s3://acme-lake/flights\", region = \"eu-central-1\", key = \"LAKE_KEY\", \
                        secret = \"LAKE_SECRET\" }, or leave it out for the stead's own lake";
    let node = table.get("to")?;
    let Some(to) = node.table() else {
        problems.add(node, Fault::new("is no bucket", "no bucket", LIKE));
        return None;
    };
    to.refuse_unknown(&["bucket", "region", "endpoint", "key", "secret", "ca"], problems, |key| {
        let meant = match key.to_ascii_lowercase().replace('-', "_").as_str() {
            "url" | "uri" | "path" | "prefix" | "location" => "bucket",
            "access_key" | "access_key_id" | "aws_access_key_id" => "key",
            "secret_key" | "secret_access_key" | "aws_secret_access_key" => "secret",
            "endpoint_url" | "host" => "endpoint",
            _ => return None,
        };
        Some(format!("that is called `{meant}` here"))
    });
    for key in ["bucket", "key", "secret"] {
        if to.get(key).is_none() {
            problems.add(node, Fault::new(format!("has no `{key}`"), format!("no `{key}`"), LIKE));
        }
    }
    let location = to.read("bucket", problems, location);
    let region = to.read("region", problems, region);
    let endpoint = to.read("endpoint", problems, endpoint);
    let (key, secret) = (to.read("key", problems, hidden), to.read("secret", problems, hidden));
    let ca = to.read("ca", problems, self::secret);
    Some(Bucket { bucket: location?, region, endpoint, key: key?, secret: secret?, ca })
}

fn location(node: &Node<'_>) -> Result<Location, Fault> {
    const LIKE: &str = "write it like \"s3://acme-lake/flights\"";
    let text = node.text().ok_or_else(|| node.not("a place in a bucket", LIKE))?;
    text.parse::<Location>().map_err(|bad| fields::told(&bad, "no place in a bucket", LIKE))
}

fn region(node: &Node<'_>) -> Result<Region, Fault> {
    const LIKE: &str = "write it like \"eu-central-1\"";
    let text = node.text().ok_or_else(|| node.not("a region", LIKE))?;
    text.parse::<Region>().map_err(|bad| fields::told(&bad, "no region", LIKE))
}

fn endpoint(node: &Node<'_>) -> Result<Endpoint, Fault> {
    const LIKE: &str = "write it like \"https://minio.acme.internal:9000\"";
    let text = node.text().ok_or_else(|| node.not("an address of a store", LIKE))?;
    text.parse::<Endpoint>().map_err(|bad| fields::told(&bad, "no such address", LIKE))
}

/// The name of a secret, where somebody may write the secret itself.
fn hidden(node: &Node<'_>) -> Result<Variable, Fault> {
    const LIKE: &str =
        "write the name of a secret of the stead, like \"LAKE_KEY\", and `stead secret set LAKE_KEY`";
    let text = node.text().ok_or_else(|| node.not("the name of a secret", LIKE))?;
    let is_key = text.len() == 20 && (text.starts_with("AKIA") || text.starts_with("ASIA"));
    let name = text.parse::<Variable>().ok().filter(|_| !is_key && text.len() < 40);
    name.ok_or_else(|| Fault::new("is no name of a secret", "no name", LIKE))
}

fn server(node: &Node<'_>) -> Result<ComponentName, Fault> {
    const LIKE: &str =
        "write it like \"postgres.main\", or { secret = \"LEGACY_URL\" } for a server elsewhere";
    let text = node.text().ok_or_else(|| node.not("a server", LIKE))?;
    if text.contains("://") {
        // It may hold a password, which is not repeated.
        return Err(Fault::new("is a URL, which belongs into a secret", "a URL", LIKE));
    }
    text.parse::<ComponentName>().map_err(|bad| fields::told(&bad, "not a server", LIKE))
}

fn secret(node: &Node<'_>) -> Result<Variable, Fault> {
    const LIKE: &str = "write it like \"LEGACY_URL\"";
    let text = node.text().ok_or_else(|| node.not("the name of a secret", LIKE))?;
    if text.contains("://") || text.contains("-----") {
        return Err(Fault::new("is no name of a secret", "no name", "write its name, like \"LEGACY_URL\""));
    }
    text.parse::<Variable>().map_err(|bad| fields::told(&bad, "not the name of a secret", LIKE))
}

fn mode(node: &Node<'_>) -> Result<Mode, Fault> {
    const LIKE: &str = "write \"stream\" (every change, within a second), \"snapshot\" (whole tables, again and again) or \
                        \"query\" (newer rows, by a cursor)";
    match node.text() {
        Some("stream") => Ok(Mode::Stream),
        Some("snapshot") => Ok(Mode::Snapshot),
        Some("query") => Ok(Mode::Query),
        _ => Err(node.not("a mode", LIKE)),
    }
}

fn pattern(node: &Node<'_>) -> Result<Pattern, Fault> {
    const LIKE: &str =
        "write it like \"public.*\", or { name = \"public.customers\", without = [\"email\"] }";
    let text = node.text().ok_or_else(|| node.not("a table", LIKE))?;
    text.parse::<Pattern>().map_err(|bad| fields::told(&bad, "not a table", LIKE))
}

/// Tables by name, or by name with what of them is meant.
fn tables(table: &Table<'_>, problems: &mut Problems<'_>) -> Option<Tables> {
    let items = table.read_list("tables", "[\"public.*\"]", problems, |item| Ok(item.clone()))?;
    if let (true, Some(node)) = (items.is_empty(), table.get("tables")) {
        let help = "name some, like [\"public.orders\"], or leave it out for public.*";
        problems.add(node, Fault::new("names no table", "no table", help));
    }
    let mut tables = Vec::with_capacity(items.len());
    for item in &items {
        let read = match item.table() {
            Some(fields) => part(item, &fields, problems),
            None => match pattern(item) {
                Ok(name) => Some((name, Part::default())),
                Err(fault) => {
                    problems.add(item, fault);
                    None
                }
            },
        };
        tables.extend(read);
    }
    Some(tables.into_iter().collect())
}

/// A table of which not everything is meant.
fn part(node: &Node<'_>, fields: &Table<'_>, problems: &mut Problems<'_>) -> Option<(Pattern, Part)> {
    const FIELDS: &[&str] = &["name", "columns", "without", "where"];
    fields.refuse_unknown(FIELDS, problems, |key| {
        let meant = match key.to_ascii_lowercase().as_str() {
            "table" | "pattern" => "name",
            "only" | "include" | "select" => "columns",
            "except" | "exclude" | "omit" => "without",
            "filter" | "rows" | "condition" => "where",
            _ => return None,
        };
        Some(format!("that is called `{meant}` here"))
    });
    let names = |key: &str, problems: &mut Problems<'_>| -> BTreeSet<Column> {
        let names = fields.read_list(key, "[\"id\", \"country\"]", problems, column);
        names.unwrap_or_default().into_iter().collect()
    };
    let (columns, without) = (names("columns", problems), names("without", problems));
    if !columns.is_empty() && !without.is_empty() {
        let help = "name the columns that are meant, or those that are not";
        problems.add(node, Fault::new("has both `columns` and `without`", "one of both", help));
    }
    let rows = fields.read("where", problems, condition);
    let name = fields.read("name", problems, pattern);
    if fields.get("name").is_none() {
        let help = "write { name = \"public.customers\", without = [\"email\"] }";
        problems.add(node, Fault::new("names no table", "no `name`", help));
    }
    Some((name?, Part { columns, without, rows }))
}

fn condition(node: &Node<'_>) -> Result<Condition, Fault> {
    const LIKE: &str = "write it like \"status <> 'draft'\"";
    let text = node.text().ok_or_else(|| node.not("a condition", LIKE))?;
    text.parse::<Condition>().map_err(|bad| fields::told(&bad, "not a condition of rows", LIKE))
}

fn every(node: &Node<'_>) -> Result<Every, Fault> {
    const LIKE: &str = "write it like \"60s\"";
    let text = node.text().ok_or_else(|| node.not("a length of time", LIKE))?;
    text.parse::<Every>().map_err(|bad| fields::told(&bad, "not a length of time", LIKE))
}

fn column(node: &Node<'_>) -> Result<Column, Fault> {
    const LIKE: &str = "write it like \"updated_at\"";
    let text = node.text().ok_or_else(|| node.not("a column", LIKE))?;
    text.parse::<Column>().map_err(|bad| fields::told(&bad, "not a column", LIKE))
}

fn overlap(node: &Node<'_>) -> Result<Overlap, Fault> {
    const LIKE: &str = "write it like \"10m\", or 1000 for a cursor that is a number";
    let count = node.whole().map(|count| count.to_string());
    let text = count.as_deref().or(node.text()).ok_or_else(|| node.not("an overlap", LIKE))?;
    text.parse::<Overlap>().map_err(|bad| fields::told(&bad, "not an overlap", LIKE))
}

fn kept(node: &Node<'_>) -> Result<Kept, Fault> {
    const LIKE: &str = "write it like \"7d\"";
    let text = node.text().ok_or_else(|| node.not("a length of time", LIKE))?;
    text.parse::<Kept>().map_err(|bad| fields::told(&bad, "not a length of time", LIKE))
}

/// The transfer as an API body has it: what is left out stays left out.
pub(crate) fn to_json(wish: &Wish) -> Value {
    let Wish {
        from,
        mode,
        tables,
        every,
        cursor,
        overlap,
        keep,
        keep_changes,
        to,
        allow,
        owner,
        consumers,
        runbook,
    } = wish;
    let mut body = serde_json::Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    put("from", from.as_ref().map(|from| json!(from)));
    put("mode", mode.map(|mode| json!(mode)));
    put("tables", tables.as_ref().map(|tables| json!(tables)));
    put("every", every.map(|every| json!(every)));
    put("cursor", cursor.as_ref().map(|cursor| json!(cursor)));
    put("overlap", overlap.map(|overlap| json!(overlap)));
    put("keep", keep.map(|keep| json!(keep)));
    put("keep_changes", keep_changes.map(|keep| json!(keep)));
    put("to", to.as_ref().map(|to| json!(to)));
    put("allow", allow.as_ref().map(|allow| json!(allow)));
    put("owner", owner.as_ref().map(|owner| json!(owner)));
    put("consumers", (!consumers.is_empty()).then(|| json!(consumers)));
    put("runbook", runbook.as_ref().map(|runbook| json!(runbook)));
    Value::Object(body)
}
