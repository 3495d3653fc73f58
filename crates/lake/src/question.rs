//! The one thing that the gateway asks for itself: the verifier of a role.

use std::sync::Arc;

use futures::stream;
use pgwire::api::Type;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response};
use pgwire::error::PgWireResult;

use crate::refusal::{self, Refusal};
use crate::session::Prepared;

/// Whom the gateway signs in as to ask.
pub(crate) const ROLE: &str = "stead_gateway";

/// Where it asks.
pub(crate) const DATABASE: &str = "postgres";

/// How it asks.
const QUESTION: &str = "SELECT verifier FROM stead.verifier($1)";

/// The question, prepared; whatever else is said is refused.
pub(crate) fn prepare(sql: &str) -> PgWireResult<Option<Prepared>> {
    if sql != QUESTION {
        return Err(refusal::plain(Refusal::NotTheQuestion));
    }
    Ok(Some(Prepared::Verifier))
}

/// What it is asked with.
pub(crate) fn parameters() -> Vec<Type> {
    vec![Type::TEXT]
}

/// What its answer looks like.
pub(crate) fn fields(format: Option<&Format>) -> Vec<FieldInfo> {
    let format = format.map_or(FieldFormat::Text, |format| format.format_for(0));
    vec![FieldInfo::new("verifier".to_owned(), None, None, Type::TEXT, format)]
}

/// Answers: one row, or none where nobody is called so.
pub(crate) fn answer<'v>(
    portal: &Portal<Prepared>,
    verifier: impl FnOnce(&str) -> Option<&'v str>,
) -> PgWireResult<Response> {
    let role = portal.parameter::<String>(0, &Type::TEXT)?;
    let fields = Arc::new(fields(Some(&portal.result_column_format)));
    let mut rows = Vec::new();
    if let Some(verifier) = role.as_deref().and_then(verifier) {
        let mut row = DataRowEncoder::new(fields.clone());
        row.encode_field(&verifier)?;
        rows.push(Ok(row.take_row()));
    }
    Ok(Response::Query(QueryResponse::new(fields, stream::iter(rows))))
}
