//! The journal as a file, for an audit: all of it, however long, read page by page while it is sent.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use client::wire;
use futures::stream;
use serde::Deserialize;
use store::journal::search::{Filter, Part, Way};
use utoipa::IntoParams;

use super::TenantPath;
use super::history::HistoryQuery;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query};
use crate::problem::Problem;
use crate::{App, view};

/// Lines that are read at once: what an export holds in memory.
const AT_ONCE: usize = 1_000;

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// A JSON object a line.
    #[default]
    Ndjson,
    /// Comma-separated values, with a heading.
    Csv,
}

/// How.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FormatQuery {
    /// `ndjson`: a JSON object a line; `csv`: a table for spreadsheets.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    format: Format,
}

/// A tenant's history as a file
///
/// Every line that the filter lets through, newest first, without a limit. In `csv`, texts that a spreadsheet would
/// take for a formula begin with an apostrophe. An answer that breaks off is not complete: ask again.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/history-export", tag = "history", operation_id = "export_history",
    params(TenantPath, HistoryQuery, FormatQuery),
    responses((status = 200, description = "All lines", content(
                  (String = "application/x-ndjson"), (String = "text/csv"))),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<HistoryQuery>,
    Query(FormatQuery { format }): Query<FormatQuery>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Audit).await?;
    file(app, query.filter(Some(tenant.id)), format, at.tenant.as_str()).await
}

/// The history of the whole installation as a file
///
/// As a tenant's, also with what belongs to no tenant, or to one that is gone.
#[utoipa::path(get, path = "/v1/history-export", tag = "history", operation_id = "export_whole_history",
    params(HistoryQuery, FormatQuery),
    responses((status = 200, description = "All lines", content(
                  (String = "application/x-ndjson"), (String = "text/csv"))),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn whole(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<HistoryQuery>,
    Query(FormatQuery { format }): Query<FormatQuery>,
) -> Result<Response, Problem> {
    caller.may(Action::ReadWholeJournal)?;
    file(app, query.filter(None), format, "stead").await
}

/// Begins a file named after whose history it is.
async fn file(app: App, filter: Filter, format: Format, whose: &str) -> Result<Response, Problem> {
    let (media, ending) = match format {
        Format::Ndjson => ("application/x-ndjson", "ndjson"),
        Format::Csv => ("text/csv; charset=utf-8", "csv"),
    };
    let name = format!("attachment; filename=\"{whose}-history.{ending}\"");
    let headers: [(HeaderName, String); 2] =
        [(header::CONTENT_TYPE, media.to_owned()), (header::CONTENT_DISPOSITION, name)];
    // The first lines are read before anything is answered, so that a store that does not answer is a problem
    // document and not half a file.
    let mut export = Export { app, filter, format, next: Some(Part::newest(AT_ONCE)), begun: false };
    let first = export.piece().await?;
    let rest = stream::try_unfold(export, async |mut export| match export.next {
        None => Ok::<_, std::io::Error>(None),
        Some(_) => match export.piece().await {
            Ok(piece) => Ok(Some((piece, export))),
            Err(_) => Err(std::io::Error::other("the store does not answer; the export ends here")),
        },
    });
    let first = stream::once(async { Ok(first) });
    Ok((headers, Body::from_stream(futures::StreamExt::fuse(futures::StreamExt::chain(first, rest))))
        .into_response())
}

/// An export on its way.
struct Export {
    app: App,
    filter: Filter,
    format: Format,
    /// What is read next.
    next: Option<Part>,
    begun: bool,
}

impl Export {
    /// The next piece of the file.
    async fn piece(&mut self) -> Result<Bytes, Problem> {
        let Some(part) = self.next.take() else { return Ok(Bytes::new()) };
        let found = self.app.store.history(&self.filter, part).await?;
        self.next = found.next.map(|from| Part { from: Some(from), way: Way::Older, limit: AT_ONCE });
        let lines = found.lines.into_iter().map(view::line);
        let heading = !std::mem::replace(&mut self.begun, true);
        let written = match self.format {
            Format::Ndjson => ndjson(lines),
            Format::Csv => csv(lines, heading),
        };
        written.map(Bytes::from).map_err(|error| Problem::internal(&error))
    }
}

fn ndjson(lines: impl Iterator<Item = wire::HistoryLine>) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// Columns of the table.
const HEADING: [&str; 14] = [
    "id",
    "at",
    "tenant",
    "stead",
    "component",
    "category",
    "action",
    "outcome",
    "actor",
    "source",
    "reason",
    "operation",
    "differences",
    "payload_hash",
];

fn csv(lines: impl Iterator<Item = wire::HistoryLine>, heading: bool) -> std::io::Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(Vec::new());
    if heading {
        out.write_record(HEADING)?;
    }
    for line in lines {
        let differences = match line.differences.as_slice() {
            [] => String::new(),
            some => serde_json::to_string(some)?,
        };
        let cells: [String; 14] = [
            line.id.to_string(),
            line.at.to_string(),
            line.tenant.unwrap_or_default(),
            line.stead.unwrap_or_default(),
            line.component.unwrap_or_default(),
            line.category,
            line.action,
            line.outcome,
            line.actor,
            line.source,
            line.reason.unwrap_or_default(),
            line.operation.map(|id| id.to_string()).unwrap_or_default(),
            differences,
            line.payload_hash,
        ];
        out.write_record(cells.map(harmless))?;
    }
    out.into_inner().map_err(|error| error.into_error())
}

/// A cell that no spreadsheet takes for a formula.
fn harmless(cell: String) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_would_be_a_formula_is_none() {
        for (cell, written) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@sum", "'@sum"),
            ("\t=1", "'\t=1"),
            ("plain = text", "plain = text"),
            ("", ""),
        ] {
            assert_eq!(harmless(cell.to_owned()), written);
        }
    }
}
