//! The journal, as read.

use axum::Json;
use axum::extract::State;
use client::wire;
use component::{Category, ComponentName, OperationId, SteadName, TenantId, TenantName};
use jiff::Timestamp;
use serde::Deserialize;
use store::journal::Outcome;
use store::journal::search::{Filter, Found, Part, Position, Way};
use utoipa::IntoParams;
use uuid::Uuid;

use super::TenantPath;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, Text, Words};
use crate::paging::{self, Cursor, Limit, Since, Until};
use crate::problem::{Kind, Problem};
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
    /// Only by this actor: the name of a person or a token, or `stead` for what Stead did by itself.
    #[param(value_type = Option<String>)]
    actor: Option<Text>,
    /// Only this action, like `component.edited`.
    #[param(value_type = Option<String>)]
    action: Option<Text>,
    /// Only of this category.
    #[param(value_type = Option<String>)]
    category: Option<Category>,
    /// Only with this outcome.
    #[param(value_type = Option<String>)]
    outcome: Option<Outcome>,
    /// Only of this operation.
    operation: Option<Uuid>,
    /// Only with each of these words in action, actor, stead, component or reason, in any case of letters.
    #[param(value_type = Option<String>)]
    q: Option<Words>,
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`, `30m`).
    #[param(value_type = Option<String>)]
    since: Option<Since>,
    /// Only before then: a moment (RFC 3339) or a span back from now (`7d`, `2h`, `30m`).
    #[param(value_type = Option<String>)]
    until: Option<Until>,
}

impl HistoryQuery {
    /// As the store is asked.
    pub(crate) fn filter(self, tenant: Option<TenantId>) -> Filter {
        Filter {
            tenant,
            stead: self.stead.map(String::from),
            component: self.component.map(String::from),
            actor: self.actor.map(|text| text.0),
            action: self.action.map(|text| text.0),
            category: self.category,
            outcome: self.outcome,
            operation: self.operation.map(OperationId),
            words: Words::of(self.q),
            since: self.since.map(|since| since.0),
            until: self.until.map(|until| until.0),
        }
    }
}

/// Which part of them.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PartQuery {
    /// `next` or `newer` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

impl PartQuery {
    fn part(&self) -> Result<Part, Problem> {
        let key: Option<(bool, Timestamp, i64)> = paging::key_of(self.cursor.as_ref())?;
        let newer = key.is_some_and(|(newer, ..)| newer);
        // PostgreSQL's own range of moments is shorter than jiff's.
        let from = key.map(|(_, at, id)| Position { at: at.max(Timestamp::UNIX_EPOCH), id });
        let way = if newer { Way::Newer } else { Way::Older };
        Ok(Part { from, way, limit: self.limit.count() })
    }
}

/// What happened in a tenant, newest first
///
/// Edits with what changed from what to what, refused edits with the reason, and what happened by itself. A search
/// that finds little may end before it has looked at everything: `looked_to` says so, and `next` goes on from there.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/history", tag = "history", operation_id = "history",
    params(TenantPath, HistoryQuery, PartQuery),
    responses((status = 200, description = "A page of lines", body = wire::HistoryPage)))]
pub(crate) async fn of_tenant(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<HistoryQuery>,
    Query(part): Query<PartQuery>,
) -> Result<Json<wire::HistoryPage>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    lines(&app, &query.filter(Some(tenant.id)), part.part()?).await
}

/// What happened in the whole installation, newest first
///
/// Also what belongs to no tenant, or to one that is gone. Takes a token of scope operator.
#[utoipa::path(get, path = "/v1/history", tag = "history", operation_id = "whole_history",
    params(HistoryQuery, PartQuery),
    responses((status = 200, description = "A page of lines", body = wire::HistoryPage),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn of_all(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<HistoryQuery>,
    Query(part): Query<PartQuery>,
) -> Result<Json<wire::HistoryPage>, Problem> {
    caller.may(Action::ReadWholeJournal)?;
    lines(&app, &query.filter(None), part.part()?).await
}

/// A line of the journal.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct LinePath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// `id` of the line.
    line: i64,
}

/// One line of a tenant's history
///
/// What a list of lines shows of it, at a place that stays.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/history/{line}", tag = "history", operation_id = "history_line",
    params(LinePath),
    responses((status = 200, description = "The line", body = wire::HistoryLine)))]
pub(crate) async fn line(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<LinePath>,
) -> Result<Json<wire::HistoryLine>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let missing = || Problem::new(Kind::NotFound, format!("tenant `{}` has no line {}", at.tenant, at.line));
    let line = app.store.line(tenant.id, at.line).await?.ok_or_else(missing)?;
    Ok(Json(view::line(line)))
}

async fn lines(app: &App, filter: &Filter, part: Part) -> Result<Json<wire::HistoryPage>, Problem> {
    let found = app.store.history(filter, part).await?;
    Ok(Json(page(found, part)))
}

/// A page with both of its cursors.
fn page(found: Found, part: Part) -> wire::HistoryPage {
    let (first, last) = (found.lines.first(), found.lines.last());
    let (first, last) = (first.map(store::journal::Line::position), last.map(store::journal::Line::position));
    let (older, newer) = match part.way {
        Way::Older => (found.next, first),
        // Whoever came from an older page can go back to it.
        Way::Newer => (last, found.next.or(first).or(part.from)),
    };
    let cursor = |way: Way| {
        move |position: Position| Cursor::new(&(way == Way::Newer, position.at, position.id)).text()
    };
    wire::HistoryPage {
        items: found.lines.into_iter().map(view::line).collect(),
        next: older.map(cursor(Way::Older)),
        newer: newer.map(cursor(Way::Newer)),
        looked_to: found.looked_to,
    }
}
