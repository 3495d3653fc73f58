//! What is said of a session rather than asked: settings and transactions.
//!
//! Settings are about how values look; what counts elsewhere cannot be set. Transactions are words: each statement sees
//! what is newest when it begins, in a transaction too.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Set, Statement};
use futures::{Sink, SinkExt, stream};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::{ClientInfo, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::ParameterStatus;

use crate::refusal::{Refusal, plain};

/// What the service says it is.
pub(crate) const VERSION: &str = "16.6 (Stead lake)";

/// Settings that are kept, as the client is told of them, and what they are before they are set.
const KEPT: [(&str, &str, &str); 7] = [
    ("application_name", "application_name", ""),
    ("bytea_output", "bytea_output", "hex"),
    ("datestyle", "DateStyle", "ISO, YMD"),
    ("extra_float_digits", "extra_float_digits", "1"),
    ("intervalstyle", "IntervalStyle", "postgres"),
    ("search_path", "search_path", "public"),
    ("timezone", "TimeZone", "Etc/UTC"),
];

/// What is always the same.
const FIXED: [(&str, &str); 9] = [
    ("client_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", VERSION),
    ("server_version_num", "160006"),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "read committed"),
];

/// Clients send these as well; they change nothing.
const IGNORED: [&str; 10] = [
    "client_encoding",
    "client_min_messages",
    "default_transaction_read_only",
    "escape_string_warning",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "row_security",
    "standard_conforming_strings",
    "statement_timeout",
    "transaction_timeout",
];

/// The client's own time for a statement, milliseconds, among what is known of it.
const TIMEOUT: &str = "statement_timeout";

/// How long a statement may work by the client's own wish; 0 is for ever.
pub(crate) fn timeout(client: &impl ClientInfo) -> Option<Duration> {
    let wanted = client.metadata().get(TIMEOUT).and_then(|text| milliseconds(text));
    wanted.filter(|wanted| *wanted > 0).map(Duration::from_millis)
}

fn milliseconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
    let factor = match text.get(digits.len()..)?.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Answers; in a transaction that failed everything but its end is refused.
pub(crate) async fn answer<C>(client: &mut C, statement: &Statement) -> PgWireResult<Response>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let status = client.transaction_status();
    let done = |tag: &str| Ok(Response::Execution(Tag::new(tag)));
    match statement {
        Statement::Commit { .. } if status != TransactionStatus::Error => {
            Ok(Response::TransactionEnd(Tag::new("COMMIT")))
        }
        Statement::Commit { .. } | Statement::Rollback { .. } => {
            Ok(Response::TransactionEnd(Tag::new("ROLLBACK")))
        }
        _ if status == TransactionStatus::Error => Err(plain(Refusal::Aborted)),
        Statement::StartTransaction { .. } if status == TransactionStatus::Idle => {
            Ok(Response::TransactionStart(Tag::new("BEGIN")))
        }
        Statement::StartTransaction { .. } => done("BEGIN"),
        Statement::Set(set) => {
            self::set(client, set).await?;
            done("SET")
        }
        Statement::ShowVariable { variable } => {
            let (fields, value) = (shown(variable), shown_value(client, variable)?);
            let fields = Arc::new(vec![fields]);
            let mut row = DataRowEncoder::new(fields.clone());
            row.encode_field(&value)?;
            let rows = stream::iter([Ok(row.take_row())]);
            let mut answer = QueryResponse::new(fields, rows);
            answer.set_command_tag("SHOW");
            Ok(Response::Query(answer))
        }
        Statement::Reset(_) => done("RESET"),
        Statement::Discard { .. } => done("DISCARD ALL"),
        Statement::Deallocate { .. } => done("DEALLOCATE"),
        other => Err(plain(Refusal::NotDone(other.to_string()))),
    }
}

/// The column of an answer; none where nothing is shown.
pub(crate) fn fields(statement: &Statement) -> Vec<FieldInfo> {
    match statement {
        Statement::ShowVariable { variable } => vec![shown(variable)],
        _ => Vec::new(),
    }
}

fn shown(variable: &[Ident]) -> FieldInfo {
    FieldInfo::new(name_of(variable), None, None, Type::TEXT, FieldFormat::Text)
}

fn name_of(variable: &[Ident]) -> String {
    let words: Vec<String> = variable.iter().map(|word| word.value.to_lowercase()).collect();
    match words.join(" ").as_str() {
        "time zone" => "timezone".to_owned(),
        "transaction isolation level" => "transaction_isolation".to_owned(),
        other => other.to_owned(),
    }
}

fn shown_value(client: &impl ClientInfo, variable: &[Ident]) -> PgWireResult<String> {
    let name = name_of(variable);
    if let Some(value) = client.metadata().get(&name) {
        return Ok(value.clone());
    }
    let kept = KEPT.iter().map(|(name, _, value)| (name, value));
    let known = kept.chain(FIXED.iter().map(|(name, value)| (name, value)));
    let value = known.into_iter().find(|(known, _)| **known == name).map(|(_, value)| (*value).to_owned());
    match value {
        None if name == TIMEOUT => Ok("0".to_owned()),
        None => Err(plain(Refusal::Setting(name))),
        Some(value) => Ok(value),
    }
}

async fn set<C>(client: &mut C, set: &Set) -> PgWireResult<()>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let (name, value) = match set {
        Set::SetTransaction { .. } | Set::SetNames { .. } | Set::SetNamesDefault {} => return Ok(()),
        Set::SetTimeZone { value, .. } => ("timezone".to_owned(), text(value)),
        Set::SingleAssignment { variable, values, .. } => {
            let values: Vec<String> = values.iter().map(text).collect();
            (variable.to_string().to_lowercase(), values.join(", "))
        }
        other => return Err(plain(Refusal::Setting(other.to_string()))),
    };
    let refused = || plain(Refusal::Setting(name.clone()));
    match name.as_str() {
        TIMEOUT if milliseconds(&value).is_none() => return Err(refused()),
        // Names without a schema are those of `public`, whatever is said.
        "search_path" if !value.split(',').any(|schema| schema.trim() == "public") => return Err(refused()),
        _ => {}
    }
    let kept = KEPT.iter().find(|(kept, ..)| *kept == name);
    if kept.is_none() && !IGNORED.contains(&name.as_str()) {
        return Err(refused());
    }
    if let Some((_, called, _)) = kept {
        let status = ParameterStatus::new((*called).to_owned(), value.clone());
        client.send(PgWireBackendMessage::ParameterStatus(status)).await?;
    }
    if kept.is_some() || name == TIMEOUT {
        client.metadata_mut().insert(name, value);
    }
    Ok(())
}

/// What was written, without its quotes.
fn text(value: &Expr) -> String {
    value.to_string().trim_matches(['\'', '"']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, time) in [
            ("250", Some(250)),
            ("250ms", Some(250)),
            ("5 s", Some(5_000)),
            ("2min", Some(120_000)),
            ("0", Some(0)),
        ] {
            assert_eq!(milliseconds(text), time);
        }
        for bad in ["", "s", "-1", "5 days", "1.5s"] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
    }
}
