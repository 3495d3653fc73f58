//! Releases of a component, and the way back to one.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use client::wire::{self, Page};
use serde::Deserialize;
use store::release::Release;
use utoipa::IntoParams;

use super::ComponentPath;
use super::components::{Edit, edit};
use super::steads::EditQuery;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query};
use crate::paging::{self, Cursor, Limit};
use crate::problem::Problem;
use crate::{App, view};

/// Which releases.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReleasesQuery {
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// Releases of a function, newest first
///
/// Each is a function as it was: code, environment and all. None ever changes.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/releases", tag = "components",
    operation_id = "releases", params(ComponentPath, ReleasesQuery),
    responses((status = 200, description = "A page of releases", body = Page<wire::Release>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<ReleasesQuery>,
) -> Result<Json<Page<wire::Release>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let component = super::components::find(&app, &tenant, &at).await?;
    let before: Option<i64> = paging::key_of(query.cursor.as_ref())?;
    let found = app.store.releases(component.id, before, query.limit.and_one()).await?;
    let shown = |release: Release| view::release(release, &component.status);
    Ok(Json(paging::page(found, query.limit, |release: &Release| release.number, shown)))
}

/// Which release is to run again.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RollbackQuery {
    /// Its number; left out: the one before the newest.
    #[param(minimum = 1)]
    to: Option<i64>,
}

/// Have an earlier release of a function run again
///
/// As a release of its own, so that the way forward is open. It answers once a worker of it has started; until then the
/// one before does.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/rollback", tag = "components",
    operation_id = "rollback", params(ComponentPath, RollbackQuery, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn rollback(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
    Query(asked): Query<RollbackQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Rollback { to: asked.to }).await
}

/// Have the release that is tried on a share of the calls answer all of them
///
/// Tried is a release of an edit with `canary`. One that fails clearly more often than the one before it gets no calls
/// any more by itself; a rollback ends the trial as well.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/promote", tag = "components",
    operation_id = "promote", params(ComponentPath, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn promote(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Promote).await
}
