//! Steads: the one call that makes, edits and removes them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use client::wire::{self, Page};
use component::{Health, SteadName, TenantId, TenantName};
use serde::Deserialize;
use store::edit::{Edited, SteadEdit};
use store::stead::{Filter, Stead};
use store::tenant::Tenant;
use utoipa::IntoParams;

use super::{SteadPath, TenantPath};
use crate::access::{Action, Caller};
use crate::extract::{Path, Precondition, Query, Reason, Sent, Wait, Words};
use crate::paging::{self, Cursor, Limit};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;
use crate::schema::SteadRequest;
use crate::wanted::Wanted;
use crate::{App, view};

/// Which steads.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FleetQuery {
    /// Only those whose `tenant/stead app` contains each of these words, in any case of letters.
    #[param(value_type = Option<String>)]
    q: Option<Words>,
    /// Only those that are doing like this, as their worst component.
    #[param(value_type = Option<String>)]
    health: Option<Health>,
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// Every stead, by tenant and name
///
/// The fleet. A token of a tenant sees its own.
#[utoipa::path(get, path = "/v1/steads", tag = "steads", operation_id = "fleet", params(FleetQuery),
    responses((status = 200, description = "A page of steads", body = Page<wire::Stead>)))]
pub(crate) async fn fleet(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<FleetQuery>,
) -> Result<Json<Page<wire::Stead>>, Problem> {
    caller.may(Action::Look)?;
    steads(&app, caller.tenant_ids(), query).await.map(Json)
}

/// A tenant's steads, by name
///
/// With their components, as last observed.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads", tag = "steads", operation_id = "steads",
    params(TenantPath, FleetQuery),
    responses((status = 200, description = "A page of steads", body = Page<wire::Stead>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<FleetQuery>,
) -> Result<Json<Page<wire::Stead>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    steads(&app, Some(vec![tenant.id]), query).await.map(Json)
}

async fn steads(
    app: &App,
    tenants: Option<Vec<TenantId>>,
    query: FleetQuery,
) -> Result<Page<wire::Stead>, Problem> {
    let after: Option<(TenantName, SteadName)> = paging::key_of(query.cursor.as_ref())?;
    let after = after.as_ref().map(|(tenant, stead)| (tenant.as_str(), stead.as_str()));
    let filter = Filter { tenants, words: Words::of(query.q), health: query.health };
    let found = app.store.steads(&filter, after, query.limit.and_one()).await?;
    let key = |stead: &Stead| (stead.tenant.clone(), stead.name.clone());
    Ok(paging::page(found, query.limit, key, view::stead))
}

/// Which steads are counted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HealthQuery {
    /// Only of this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// Only those whose `tenant/stead app` contains each of these words, in any case of letters.
    #[param(value_type = Option<String>)]
    q: Option<Words>,
}

/// How many steads are doing how
///
/// Of all that the token may see.
#[utoipa::path(get, path = "/v1/steads/health", tag = "steads", operation_id = "fleet_health", params(HealthQuery),
    responses((status = 200, description = "Counts by health", body = wire::FleetHealth),
              (status = 404, description = "The tenant is not there, or not for this token to see",
               body = wire::Problem, content_type = "application/problem+json")))]
pub(crate) async fn health(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<HealthQuery>,
) -> Result<Json<wire::FleetHealth>, Problem> {
    let tenants = match &query.tenant {
        Some(name) => Some(vec![caller.tenant(&app.store, name, Action::Look).await?.id]),
        None => {
            caller.may(Action::Look)?;
            caller.tenant_ids()
        }
    };
    let filter = Filter { tenants, words: Words::of(query.q), health: None };
    Ok(Json(view::fleet_health(&app.store.health(&filter).await?)))
}

/// One stead
///
/// The `ETag` counts edits; what is observed of its components changes without one.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}", tag = "steads", operation_id = "stead",
    params(SteadPath),
    responses((status = 200, description = "The stead", body = wire::Stead,
               headers(("ETag" = String, description = "Its generation, for `If-Match`")))))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let stead = app.store.stead(tenant.id, &at.stead).await?;
    let stead = stead.ok_or_else(|| Problem::no_stead(&at.tenant, &at.stead))?;
    let tag = tag(stead.generation);
    Ok((tag, Json(view::stead(stead))).into_response())
}

fn tag(generation: i64) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("\"{generation}\"")).ok();
    value.map(|value| (header::ETAG, value)).into_iter().collect()
}

/// How an edit is made.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EditQuery {
    /// How long to wait for the end of it, like `500ms`, `30s` or `1m`; at most a minute.
    #[serde(default)]
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,6}(ms|s|m)$", example = "30s")]
    pub(crate) wait: Wait,
    /// Why; kept in the history.
    #[param(value_type = Option<String>, max_length = 500, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub(crate) reason: Option<Reason>,
}

/// On how many calls a new release is tried.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CanaryQuery {
    /// Per cent of the calls of a function that releases of this edit are tried on; all where it is left out. A trial
    /// that runs already goes on with this share.
    #[param(value_type = Option<u8>, minimum = 1, maximum = 99)]
    canary: Option<Percent>,
}

/// A share of the calls.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Percent(u8);

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let percent = text.parse().ok().filter(|percent| (1..=99).contains(percent));
        percent.map(Self).ok_or_else(|| "`canary` is a whole number of per cent from 1 to 99".to_owned())
    }
}

impl EditQuery {
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_ref().map(|reason| reason.0.as_str())
    }
}

/// Make a stead, or edit it
///
/// The body says what shall be: components that it does not name are removed (unless they are protected). Without
/// a body the stead is one server, `postgres.main`, with defaults. The same call again changes nothing.
///
/// The answer holds the operation that brings the edit about, as far as it has come within `wait`. An edit that
/// was accepted answers 200 or 201 also when that operation then *failed*: look at `operation.state` and
/// `operation.error`; Stead goes on trying. A tenant that is not there yet is made where the token is an
/// operator's.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/steads/{stead}", tag = "steads", operation_id = "put_stead",
    params(SteadPath, EditQuery, CanaryQuery,
        ("If-Match" = Option<String>, Header, description = "Only if it is still at this `ETag`; `*`: only if it is there"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if it is not there yet")),
    request_body = SteadRequest,
    responses(
        (status = 200, description = "The stead; the operation has ended, or there was nothing to do",
         body = wire::Stead, headers(("ETag" = String, description = "Its generation, for `If-Match`"))),
        (status = 201, description = "The new stead; the operation has ended", body = wire::Stead,
         headers(("ETag" = String, description = "Its generation, for `If-Match`"))),
        (status = 202, description = "The stead; the operation still runs", body = wire::Stead,
         headers(("ETag" = String, description = "Its generation, for `If-Match`"))),
        (status = 412, description = "It was changed meanwhile", body = wire::Problem,
         content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
    Query(query): Query<EditQuery>,
    Query(CanaryQuery { canary }): Query<CanaryQuery>,
    headers: HeaderMap,
    sent: Sent,
) -> Result<Response, Problem> {
    let precondition = Precondition::of(&headers)?;
    let tenant = caller.find(&app.store, &at.tenant).await?;
    if tenant.is_none() && !caller.is_operator() {
        return Err(Problem::no_tenant(&at.tenant));
    }
    let body = sent.optional();
    let mut attempt =
        Attempt::new(&caller, "stead.edited", tenant.as_ref()).about(&at.tenant).stead(&at.stead);
    if let Ok(Some(body)) = &body {
        attempt = attempt.wanting(body);
    }
    let edit = async {
        may(&caller, tenant.as_ref(), Action::Edit)?;
        let wanted = Wanted::read(body?.as_ref(), &at.stead)?;
        let if_generation =
            expected(&app, tenant.as_ref().map(|tenant| tenant.id), &at, precondition).await?;
        let how = How { make_tenant: caller.is_operator(), canary, if_generation, reason: query.reason() };
        apply(&app, &caller, &at, &wanted, how).await
    };
    let edited = attempt.of(&app.store, edit).await?;
    edit_answer(&app, &caller, &at, &edited, query.wait).await
}

/// Edit some of a stead
///
/// Only what the body names counts: components that are there, and their fields; all else stays as it is. A field
/// that is `null` goes back to its default. Answers like the edit of the whole.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}/steads/{stead}", tag = "steads", operation_id = "amend_stead",
    params(SteadPath, EditQuery, CanaryQuery,
        ("If-Match" = Option<String>, Header, description = "Only if it is still at this `ETag`")),
    request_body = SteadRequest,
    responses(
        (status = 200, description = "The stead; the operation has ended, or there was nothing to do",
         body = wire::Stead, headers(("ETag" = String, description = "Its generation, for `If-Match`"))),
        (status = 202, description = "The stead; the operation still runs", body = wire::Stead,
         headers(("ETag" = String, description = "Its generation, for `If-Match`"))),
        (status = 412, description = "It was changed meanwhile", body = wire::Problem,
         content_type = "application/problem+json")))]
pub(crate) async fn patch(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
    Query(query): Query<EditQuery>,
    Query(CanaryQuery { canary }): Query<CanaryQuery>,
    headers: HeaderMap,
    sent: Sent,
) -> Result<Response, Problem> {
    let precondition = Precondition::of(&headers)?;
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let body = sent.required();
    let mut attempt = Attempt::new(&caller, "stead.edited", Some(&tenant)).stead(&at.stead);
    if let Ok(body) = &body {
        attempt = attempt.wanting(body);
    }
    let edit = async {
        caller.may_in(&tenant, Action::Edit)?;
        let stead = app.store.stead(tenant.id, &at.stead).await?;
        let stead = stead.ok_or_else(|| Problem::no_stead(&at.tenant, &at.stead))?;
        let wanted = Wanted::amendment(&body?, &stead)?;
        let if_generation = expected(&app, Some(tenant.id), &at, precondition).await?;
        let how = How { make_tenant: false, canary, if_generation, reason: query.reason() };
        apply(&app, &caller, &at, &wanted, how).await
    };
    let edited = attempt.of(&app.store, edit).await?;
    edit_answer(&app, &caller, &at, &edited, query.wait).await
}

/// How an edit is brought about.
struct How<'a> {
    make_tenant: bool,
    canary: Option<Percent>,
    if_generation: Option<i64>,
    reason: Option<&'a str>,
}

/// Brings about what is wanted.
async fn apply(
    app: &App,
    caller: &Caller,
    at: &SteadPath,
    wanted: &Wanted,
    how: How<'_>,
) -> Result<Edited, Problem> {
    let How { make_tenant, canary, if_generation, reason } = how;
    let edit = SteadEdit {
        tenant: &at.tenant,
        stead: &at.stead,
        app: &wanted.app,
        make_tenant,
        decide: &|current, offer| wanted.decide(current, offer),
        files: &wanted.files,
        canary: canary.map(|Percent(percent)| percent),
        if_generation,
        reason,
    };
    Ok(app.store.apply(&caller.actor, &edit).await?)
}

/// Answers an edit with the stead, and the operation that brings it about as far as it has come within `wait`.
async fn edit_answer(
    app: &App,
    caller: &Caller,
    at: &SteadPath,
    edited: &Edited,
    wait: Wait,
) -> Result<Response, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    // The same call again changes nothing, but may well be somebody who waits for the first to end.
    let operation = match edited.operation {
        Some(operation) => Some(operation),
        None => app.store.running_operation(tenant.id, &at.stead).await?,
    };
    let operation = match operation {
        Some(id) => app.seen.end_of(&app.store, tenant.id, id, wait.0).await?,
        None => None,
    };
    let stead = app.store.stead(tenant.id, &at.stead).await?;
    let stead = stead.ok_or_else(|| {
        Problem::new(
            Kind::Deleting,
            "the stead was made, but somebody removed it before this could be answered",
        )
    })?;
    let status = match &operation {
        Some(operation) if operation.state == "running" => StatusCode::ACCEPTED,
        _ if edited.generation == 1 && edited.operation.is_some() => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    let tag = tag(stead.generation);
    let stead = wire::Stead { operation: operation.map(view::operation), ..view::stead(stead) };
    Ok((status, tag, Json(stead)).into_response())
}

/// Asks the table; of a tenant that is not there yet, which an operator's edit makes, as of none.
pub(super) fn may(caller: &Caller, tenant: Option<&Tenant>, action: Action) -> Result<(), Problem> {
    tenant.map_or_else(|| caller.may(action), |tenant| caller.may_in(tenant, action))
}

/// The generation that the store is to insist on.
async fn expected(
    app: &App,
    tenant: Option<TenantId>,
    at: &SteadPath,
    precondition: Precondition,
) -> Result<Option<i64>, Problem> {
    match precondition {
        Precondition::None => Ok(None),
        Precondition::Generation(generation) => Ok(Some(generation)),
        Precondition::Exists => {
            let stead = match tenant {
                Some(tenant) => app.store.stead(tenant, &at.stead).await?,
                None => None,
            };
            Ok(stead.is_none().then_some(-1))
        }
    }
}

/// How a stead is removed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteQuery {
    /// Remove it although it is protected.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    unprotect: bool,
    /// How long to wait for the end of it, like `500ms`, `30s` or `1m`; at most a minute.
    #[serde(default)]
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,6}(ms|s|m)$", example = "30s")]
    wait: Wait,
    /// Why; kept in the history.
    #[param(value_type = Option<String>, max_length = 500, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    reason: Option<Reason>,
}

/// Remove a stead, and every trace of it but its history
///
/// Asked again while it is going, it answers with an operation that ends with the removal; once it is gone, 404.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/steads/{stead}", tag = "steads", operation_id = "delete_stead",
    params(SteadPath, DeleteQuery,
        ("If-Match" = Option<String>, Header, description = "Only if it is still at this `ETag`")),
    responses(
        (status = 200, description = "The operation has ended: it is gone, or `error` says why not", body = wire::Operation),
        (status = 202, description = "The operation still runs", body = wire::Operation),
        (status = 412, description = "It was changed meanwhile", body = wire::Problem,
         content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
    Query(query): Query<DeleteQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let if_generation = match Precondition::of(&headers)? {
        Precondition::Generation(generation) => Some(generation),
        Precondition::None | Precondition::Exists => None,
    };
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may_in(&tenant, Action::Edit)?;
        let reason = query.reason.as_ref().map(|reason| reason.0.as_str());
        let (actor, unprotect) = (&caller.actor, query.unprotect);
        Ok(app.store.delete(actor, &at.tenant, &at.stead, unprotect, if_generation, reason).await?)
    };
    let attempt = Attempt::new(&caller, "stead.removed", Some(&tenant)).stead(&at.stead);
    let edited = attempt.of(&app.store, edit).await?;
    super::operations::answer(&app, tenant.id, edited.operation, query.wait).await
}
