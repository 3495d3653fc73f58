//! Operations: what was asked for, and how far it is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::wire::{self, Page};
use component::{OperationId, SteadName, TenantId, TenantName};
use jiff::Timestamp;
use serde::Deserialize;
use store::operation::Operation;
use utoipa::IntoParams;
use uuid::Uuid;

use super::TenantPath;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, Wait};
use crate::paging::{self, Cursor, Limit};
use crate::problem::{Kind, Problem};
use crate::{App, view};

/// Which operations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OperationsQuery {
    /// Only of this stead.
    #[param(value_type = Option<String>)]
    stead: Option<SteadName>,
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// Operations of a tenant, newest first
///
/// What was asked for, and how far it has come; those that have ended too.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/operations", tag = "operations", operation_id = "operations",
    params(TenantPath, OperationsQuery),
    responses((status = 200, description = "A page of operations", body = Page<wire::Operation>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<OperationsQuery>,
) -> Result<Json<Page<wire::Operation>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let after: Option<(Timestamp, OperationId)> = paging::key_of(query.cursor.as_ref())?;
    let stead = query.stead.as_ref().map(SteadName::as_str);
    let found = app.store.operations(tenant.id, stead, after, query.limit.and_one()).await?;
    let key = |operation: &Operation| (operation.requested_at, operation.id);
    Ok(Json(paging::page(found, query.limit, key, view::operation)))
}

/// An operation.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OperationPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// Identity of the operation.
    id: Uuid,
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// How long to wait for the end of it, like `500ms`, `30s` or `1m`; at most a minute.
    #[serde(default)]
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,6}(ms|s|m)$", example = "30s")]
    wait: Wait,
}

/// One operation, waited for
///
/// Answers when it has ended, or when `wait` is over.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/operations/{id}", tag = "operations", operation_id = "operation",
    params(OperationPath, WaitQuery),
    responses((status = 200, description = "The operation, ended or not", body = wire::Operation)))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<OperationPath>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<wire::Operation>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let operation = app.seen.end_of(&app.store, tenant.id, OperationId(at.id), query.wait.0).await?;
    let missing =
        || Problem::new(Kind::NotFound, format!("tenant `{}` has no operation {}", at.tenant, at.id));
    Ok(Json(view::operation(operation.ok_or_else(missing)?)))
}

/// Answers an edit with its operation: 200 once it has ended, 202 while it runs.
pub(crate) async fn answer(
    app: &App,
    tenant: TenantId,
    operation: Option<OperationId>,
    wait: Wait,
) -> Result<Response, Problem> {
    let lost = || Problem::internal(&"an edit has no operation");
    let id = operation.ok_or_else(lost)?;
    let operation = app.seen.end_of(&app.store, tenant, id, wait.0).await?.ok_or_else(lost)?;
    let status = if operation.state == "running" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(view::operation(operation))).into_response())
}
