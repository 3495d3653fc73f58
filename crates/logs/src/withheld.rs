//! What of a line is shown to those who see that something happened, and never the data that it happened to.
//!
//! PostgreSQL puts data into its log: values into messages of constraints, whole statements beside errors. Everything
//! that a session or a worker on its behalf says in words is withheld; who, when, where, which error code stay. What is
//! not on the list here is withheld, so that a field that a later PostgreSQL adds is.

use serde_json::{Map, Value};

use crate::line::Source;

/// How much of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// All of it.
    #[default]
    Whole,
    /// What holds no data of a tenant's database. A search sees the same, so that nothing can be guessed by searching.
    Withheld,
}

/// What PostgreSQL says of every line that names no data.
const STRUCTURE: [&str; 18] = [
    "timestamp",
    "user",
    "dbname",
    "pid",
    "remote_host",
    "remote_port",
    "session_id",
    "line_num",
    "ps",
    "session_start",
    "vxid",
    "txid",
    "error_severity",
    "state_code",
    "backend_type",
    "leader_pid",
    "query_id",
    "file_name",
];
/// Processes that run nothing for a session: what they say themselves is shown, not what they quote (`detail`,
/// `context`, `statement`: the postmaster quotes the statement of a process that crashed).
const OWN: [&str; 8] = [
    "postmaster",
    "startup",
    "checkpointer",
    "background writer",
    "walwriter",
    "archiver",
    "autovacuum launcher",
    "walsummarizer",
];
/// What clients choose freely.
const CHOSEN: [&str; 1] = ["application_name"];
/// Stands in place of what is withheld.
const MARK: &str = "withheld";

/// The line as the view shows it.
pub(crate) fn shown(view: View, source: Source, fields: Value) -> Value {
    match (view, source, fields) {
        (View::Whole, _, fields) => fields,
        (View::Withheld, Source::Postgres, Value::Object(fields)) => postgres(fields),
        (View::Withheld, Source::Function, Value::Object(fields)) => function(fields),
        (View::Withheld, Source::Postgres | Source::Function, _) => marked(Map::new()),
        (View::Withheld, _, Value::Object(mut fields)) => {
            CHOSEN.iter().for_each(|name| drop(fields.remove(*name)));
            Value::Object(fields)
        }
        (View::Withheld, _, fields) => fields,
    }
}

fn postgres(fields: Map<String, Value>) -> Value {
    let own = fields.get("backend_type").and_then(Value::as_str).is_some_and(|kind| OWN.contains(&kind));
    let shows = |name: &str| STRUCTURE.contains(&name) || own && matches!(name, "message" | "hint");
    // No text of a session hides in a field of another kind.
    let plain = |value: &Value| !value.is_object() && !value.is_array();
    let kept: Map<_, _> = fields.into_iter().filter(|(name, value)| shows(name) && plain(value)).collect();
    if own { Value::Object(kept) } else { marked(kept) }
}

/// What became of a call is shown; what code wrote may hold anything.
fn function(fields: Map<String, Value>) -> Value {
    if fields.get("stream").and_then(Value::as_str) == Some("platform") {
        return Value::Object(fields);
    }
    let shows = |name: &str| matches!(name, "at" | "level" | "version" | "request_id" | "stream");
    marked(
        fields
            .into_iter()
            .filter(|(name, value)| shows(name) && value.as_str().is_none_or(|text| text.len() < 64))
            .collect(),
    )
}

fn marked(mut fields: Map<String, Value>) -> Value {
    fields.insert(MARK.into(), Value::Bool(true));
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_session_says_is_withheld_and_what_happened_is_not() {
        let line = json!({"timestamp": "t", "user": "owner", "error_severity": "ERROR", "state_code": "23505",
            "message": "SECRET", "detail": "SECRET", "hint": "SECRET", "context": "SECRET", "statement": "SECRET",
            "internal_query": "SECRET", "application_name": "SECRET", "what_18_adds": "SECRET",
            "pid": {"SECRET": 1}, "backend_type": "client backend"});
        for kind in
            ["client backend", "parallel worker", "autovacuum worker", "logical replication worker", "x", ""]
        {
            let mut line = line.clone();
            line["backend_type"] = json!(kind);
            let shown = shown(View::Withheld, Source::Postgres, line);
            assert!(!shown.to_string().contains("SECRET"), "{kind}: {shown}");
            assert_eq!((&shown["state_code"], &shown["withheld"]), (&json!("23505"), &json!(true)));
        }
        assert_eq!(shown(View::Whole, Source::Postgres, line.clone()), line);
        let text = shown(View::Withheld, Source::Postgres, json!({"text": "SECRET"}));
        assert_eq!(text, json!({"withheld": true}));
    }

    #[test]
    fn a_server_says_itself_what_became_of_it_and_quotes_nobody() {
        let line = json!({"message": "server process (PID 7) was terminated by signal 9: Killed",
            "detail": "Failed process was running: SECRET", "backend_type": "postmaster"});
        let shown = shown(View::Withheld, Source::Postgres, line);
        assert!(shown["message"].is_string() && !shown.to_string().contains("SECRET"), "{shown}");
    }
}
