//! What a client is told when something goes wrong, with PostgreSQL's codes.

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use pgwire::error::{ErrorInfo, PgWireError};

use crate::tables::TableError;

/// What the service itself says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("canceling statement due to user request")]
    Cancelled,
    #[error("canceling statement due to statement timeout")]
    TimedOut,
    #[error("the lake is read-only: {0} is not done here")]
    ReadOnly(String),
    #[error("parameter \"{0}\" cannot be set here")]
    Setting(String),
    #[error("the statement is too deep: it has more than {0} operators, joins and unions")]
    TooDeep(usize),
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    Aborted,
    #[error("{0} is not done here")]
    NotDone(String),
    #[error("{0}")]
    Option(String),
    #[error("{0}")]
    Syntax(String),
    #[error("relation \"{name}\" does not exist{}", near.as_ref().map(|near| format!("; do you mean \"{near}\"?")).unwrap_or_default())]
    NoTable { name: String, near: Option<String> },
    #[error("cursor \"{0}\" does not exist")]
    NoCursor(String),
    #[error("password authentication failed for user \"{0}\"")]
    Password(String),
    #[error("database \"{wanted}\" does not exist; the lake's is \"{there}\"")]
    Database { wanted: String, there: String },
    #[error("the lake has all the sessions it may have; end one or try again later")]
    Full,
    #[error("{0}")]
    Protocol(&'static str),
    #[error("the gateway may ask for verifiers and nothing else")]
    NotTheQuestion,
    #[error("a table's columns have changed since the statement was prepared; prepare it again")]
    Changed,
    #[error("the lake's service stops")]
    Stopping,
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Refusal::Cancelled | Refusal::TimedOut => "57014",
            Refusal::ReadOnly(_) => "25006",
            Refusal::TooDeep(_) => "54001",
            Refusal::Aborted => "25P02",
            Refusal::Setting(_) => "42704",
            Refusal::NotDone(_) | Refusal::Changed => "0A000",
            Refusal::Option(_) => "22023",
            Refusal::Syntax(_) => "42601",
            Refusal::NoCursor(_) => "34000",
            Refusal::NoTable { .. } => "42P01",
            Refusal::Password(_) => "28P01",
            Refusal::Database { .. } => "3D000",
            Refusal::Full => "53300",
            Refusal::Protocol(_) => "08P01",
            Refusal::NotTheQuestion => "42501",
            Refusal::Stopping => "57P01",
        }
    }
}

/// As an error after which the session goes on.
pub(crate) fn plain(refusal: Refusal) -> PgWireError {
    error("ERROR", refusal.code(), refusal.to_string())
}

/// As an error that ends the session.
pub(crate) fn fatal(refusal: Refusal) -> PgWireError {
    error("FATAL", refusal.code(), refusal.to_string())
}

fn error(severity: &str, code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new(severity.to_owned(), code.to_owned(), message)))
}

/// Anything that came up while a statement was done, as the client is to see it.
pub(crate) fn told(found: PgWireError) -> PgWireError {
    match found {
        PgWireError::ApiError(found) => match found.downcast::<DataFusionError>() {
            Ok(found) => of_engine(&found),
            Err(found) => error("ERROR", "XX000", found.to_string()),
        },
        other => other,
    }
}

/// The table that DataFusion did not find: catalog, schema and name.
pub(crate) fn missing(found: &DataFusionError) -> Option<[&str; 3]> {
    let DataFusionError::Plan(why) = found.find_root() else { return None };
    let name = why.strip_prefix("table '")?.split_once("' not found")?.0;
    name.splitn(3, '.').collect::<Vec<_>>().try_into().ok()
}

/// What DataFusion says, with the code that PostgreSQL would give it.
pub(crate) fn of_engine(found: &DataFusionError) -> PgWireError {
    let root = found.find_root();
    if let DataFusionError::External(external) = root
        && let Some(table) = external.downcast_ref::<TableError>()
    {
        return error("ERROR", table.code(), table.to_string());
    }
    let message = found.strip_backtrace();
    let (code, message) = match root {
        DataFusionError::ResourcesExhausted(why) => {
            ("53200", format!("the statement needs more memory than the lake may use: {why}"))
        }
        DataFusionError::SQL(why, _) => ("42601", why.to_string()),
        DataFusionError::SchemaError(why, _) => match &**why {
            SchemaError::FieldNotFound { .. } => ("42703", why.to_string()),
            SchemaError::AmbiguousReference { .. } => ("42702", why.to_string()),
            _ => ("42601", why.to_string()),
        },
        DataFusionError::NotImplemented(why) => ("0A000", why.clone()),
        DataFusionError::Plan(why) if why.starts_with("Invalid function") => ("42883", why.clone()),
        DataFusionError::Plan(why) => ("42601", why.clone()),
        DataFusionError::ArrowError(why, _) => match &**why {
            ArrowError::DivideByZero => ("22012", "division by zero".to_owned()),
            ArrowError::CastError(why) | ArrowError::ParseError(why) => ("22P02", why.clone()),
            ArrowError::ComputeError(why) => ("22000", why.clone()),
            ArrowError::ArithmeticOverflow(why) => ("22003", why.clone()),
            other => ("XX000", other.to_string()),
        },
        _ => ("XX000", message),
    };
    error("ERROR", code, message)
}
