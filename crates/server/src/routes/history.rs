//! The journal, as read.

use axum::Json;
use axum::extract::State;
use client::wire::{self, Page};
use component::{ComponentName, SteadName, TenantId};
use serde::Deserialize;
use store::journal::{Filter, Line};
use utoipa::IntoParams;

use super::TenantPath;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query};
use crate::paging::{self, Cursor, Limit, Since};
use crate::problem::Problem;
use crate::{App, view};

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Only of this stead.
    #[param(value_type = Option<String>)]
    stead: Option<SteadName>,
    /// Only of this component.
    #[param(value_type = Option<String>)]
    component: Option<ComponentName>,
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`, `30m`).
    #[param(value_type = Option<String>)]
    since: Option<Since>,
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// Lines of the whole journal.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WholeHistoryQuery {
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`, `30m`).
    #[param(value_type = Option<String>)]
    since: Option<Since>,
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// What happened in a tenant, newest first
///
/// Edits with what changed from what to what, refused edits with the reason, and what happened by itself.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/history", tag = "history", operation_id = "history",
    params(TenantPath, HistoryQuery),
    responses((status = 200, description = "A page of lines", body = Page<wire::HistoryLine>)))]
pub(crate) async fn of_tenant(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Page<wire::HistoryLine>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let part = WholeHistoryQuery { since: query.since, cursor: query.cursor, limit: query.limit };
    let (stead, component) = (query.stead.map(String::from), query.component.map(String::from));
    lines(&app, Filter { stead, component, ..filter(Some(tenant.id), &part)? }, part.limit).await
}

/// What happened in the whole installation, newest first
///
/// Also what belongs to no tenant, or to one that is gone. Takes a token of scope operator.
#[utoipa::path(get, path = "/v1/history", tag = "history", operation_id = "whole_history", params(WholeHistoryQuery),
    responses((status = 200, description = "A page of lines", body = Page<wire::HistoryLine>),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn of_all(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<WholeHistoryQuery>,
) -> Result<Json<Page<wire::HistoryLine>>, Problem> {
    caller.may(Action::ReadWholeJournal)?;
    lines(&app, filter(None, &query)?, query.limit).await
}

fn filter(tenant: Option<TenantId>, part: &WholeHistoryQuery) -> Result<Filter, Problem> {
    let before = paging::key_of(part.cursor.as_ref())?;
    let since = part.since.map(|since| since.0);
    Ok(Filter { tenant, since, before, limit: part.limit.and_one(), ..Filter::default() })
}

async fn lines(app: &App, filter: Filter, limit: Limit) -> Result<Json<Page<wire::HistoryLine>>, Problem> {
    let found = app.store.history(&filter).await?;
    Ok(Json(paging::page(found, limit, |line: &Line| line.id, view::line)))
}
