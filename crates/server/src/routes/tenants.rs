//! Tenants and their quotas.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use client::wire::{self, Page};
use component::TenantName;
use serde::Deserialize;
use store::logs::MOST_LOG_DAYS;
use store::tenant::Quota;
use utoipa::IntoParams;

use super::TenantPath;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, Sent, parse};
use crate::paging::{self, Cursor, Limit};
use crate::problem::Problem;
use crate::refusals::Attempt;
use crate::{App, view};

/// Largest numbers of a quota, as the document has them: servers, MiB of memory, MiB of disk.
const LARGEST: [i64; 3] = [1_000_000, 1_000_000_000, 1_000_000_000_000];

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    pub(crate) cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    pub(crate) limit: Limit,
}

/// Tenants, by name
///
/// A token of a tenant sees its own.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", operation_id = "tenants", params(ListQuery),
    responses((status = 200, description = "A page of tenants", body = Page<wire::Tenant>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<wire::Tenant>>, Problem> {
    caller.may(Action::Look)?;
    let after: Option<TenantName> = paging::key_of(query.cursor.as_ref())?;
    let own = caller.tenant_ids();
    let found = app.store.tenants(own.as_deref(), after.as_ref(), query.limit.and_one()).await?;
    Ok(Json(paging::page(found, query.limit, |tenant| tenant.name.clone(), view::tenant)))
}

/// One tenant
///
/// With its quota.
#[utoipa::path(get, path = "/v1/tenants/{tenant}", tag = "tenants", operation_id = "tenant", params(TenantPath),
    responses((status = 200, description = "The tenant", body = wire::Tenant)))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
) -> Result<Json<wire::Tenant>, Problem> {
    Ok(Json(view::tenant(caller.tenant(&app.store, &at.tenant, Action::Look).await?)))
}

/// Make a tenant, or set its quota and how long its logs are kept
///
/// Takes a token of scope operator. Without `quota` a new tenant gets the default and another keeps what it has.
#[utoipa::path(put, path = "/v1/tenants/{tenant}", tag = "tenants", operation_id = "put_tenant", params(TenantPath),
    request_body = wire::TenantRequest,
    responses((status = 200, description = "The tenant as it is now", body = wire::Tenant),
              (status = 201, description = "The new tenant", body = wire::Tenant)))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    sent: Sent,
) -> Result<(StatusCode, Json<wire::Tenant>), Problem> {
    let found = caller.find(&app.store, &at.tenant).await?;
    if found.is_none() && !caller.is_operator() {
        return Err(Problem::no_tenant(&at.tenant));
    }
    let body = sent.optional();
    let mut attempt = Attempt::new(&caller, "tenant.edited", found.as_ref()).about(&at.tenant);
    if let Ok(Some(body)) = &body {
        attempt = attempt.wanting(body);
    }
    let edit = async {
        caller.may(Action::EditTenants)?;
        let wanted: wire::TenantRequest = body?.map(parse).transpose()?.unwrap_or_default();
        let quota = wanted.quota.map(quota).transpose()?;
        let days = wanted.log_days.map(log_days).transpose()?;
        let mut tenant = app.store.put_tenant(&caller.actor, &at.tenant, quota).await?;
        if let Some(days) = days
            && app.store.keep_logs(&caller.actor, &at.tenant, days).await?
        {
            tenant.log_days = days;
        }
        Ok(tenant)
    };
    let tenant = attempt.of(&app.store, edit).await?;
    let status = if found.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(view::tenant(tenant))))
}

fn quota(wanted: wire::Quota) -> Result<Quota, Problem> {
    let fields =
        [("servers", wanted.servers), ("memory_mib", wanted.memory_mib), ("disk_mib", wanted.disk_mib)];
    let wrong: Vec<_> = fields
        .into_iter()
        .zip(LARGEST)
        .filter(|((_, value), largest)| !(0..=*largest).contains(value))
        .map(|((field, _), largest)| (format!("/quota/{field}"), format!("is a number from 0 to {largest}")))
        .collect();
    if !wrong.is_empty() {
        return Err(Problem::fields(wrong));
    }
    Ok(Quota { servers: wanted.servers, memory_mib: wanted.memory_mib, disk_mib: wanted.disk_mib })
}

fn log_days(days: u16) -> Result<u16, Problem> {
    if (1..=MOST_LOG_DAYS).contains(&days) {
        return Ok(days);
    }
    Err(Problem::fields(vec![("/log_days".into(), format!("is a number from 1 to {MOST_LOG_DAYS}"))]))
}

/// Remove a tenant that has no steads
///
/// Takes a token of scope operator. Its tokens and its logs end with it; its history stays.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}", tag = "tenants", operation_id = "delete_tenant",
    params(TenantPath), responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
) -> Result<StatusCode, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may(Action::EditTenants)?;
        Ok(app.store.remove_tenant(&caller.actor, &at.tenant).await?)
    };
    let removed = Attempt::new(&caller, "tenant.removed", Some(&tenant)).of(&app.store, edit).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::no_tenant(&at.tenant)) }
}
