//! Which statements are done here: questions, and what drivers say besides.

use datafusion::sql::sqlparser::ast::{Set, Statement};

use crate::refusal::Refusal;

/// Settings that clients send when they connect. None changes what a question sees or may use.
const HARMLESS: [&str; 18] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_read_only",
    "escape_string_warning",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "names",
    "row_security",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_timeout",
];

/// What to do with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Plan and run it.
    Question,
    /// A setting, a transaction or a look at a setting: `datafusion-postgres` knows what to say.
    Session,
    /// Say that it is done.
    Nothing(&'static str),
    /// `DECLARE`, `FETCH` or `CLOSE`.
    Cursor,
}

/// Decides; plans are looked at once more when they are made.
pub(crate) fn allowed(statement: &Statement) -> Result<Kind, Refusal> {
    match statement {
        Statement::Query(_)
        | Statement::Explain { .. }
        | Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowFunctions { .. } => Ok(Kind::Question),
        Statement::ShowVariable { .. }
        | Statement::ShowStatus { .. }
        | Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. } => Ok(Kind::Session),
        Statement::Declare { .. } | Statement::Fetch { .. } | Statement::Close { .. } => Ok(Kind::Cursor),
        Statement::Set(set) => setting(set),
        Statement::Reset(_) => Ok(Kind::Nothing("RESET")),
        Statement::Discard { .. } => Ok(Kind::Nothing("DISCARD ALL")),
        Statement::Deallocate { .. } => Ok(Kind::Nothing("DEALLOCATE")),
        other => Err(Refusal::ReadOnly(verb(other))),
    }
}

fn setting(set: &Set) -> Result<Kind, Refusal> {
    match set {
        Set::SetTimeZone { .. } => Ok(Kind::Session),
        Set::SingleAssignment { variable, .. } => {
            let name = variable.to_string().to_lowercase();
            match name.as_str() {
                "datestyle" | "bytea_output" | "intervalstyle" | "application_name" | "extra_float_digits"
                | "search_path" | "statement_timeout" => Ok(Kind::Session),
                other if HARMLESS.contains(&other) => Ok(Kind::Nothing("SET")),
                _ => Err(Refusal::Setting(name)),
            }
        }
        Set::SetTransaction { .. } | Set::SetNames { .. } | Set::SetNamesDefault {} => {
            Ok(Kind::Nothing("SET"))
        }
        other => Err(Refusal::Setting(other.to_string())),
    }
}

/// `INSERT`, `COPY`, `CREATE`: its first word.
fn verb(statement: &Statement) -> String {
    statement.to_string().split_whitespace().next().unwrap_or_default().to_uppercase()
}
