//! What an edit would do.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::Json;
use axum::extract::State;
use client::wire;
use component::{ComponentName, Spec};
use store::edit::{ChangeAction, SteadEdit};
use store::tenant::Tenant;

use super::SteadPath;
use crate::access::{Action, Caller};
use crate::extract::{Path, Sent};
use crate::problem::Problem;
use crate::schema::SteadRequest;
use crate::wanted::Wanted;
use crate::{App, view};

/// What an edit would do, without doing it
///
/// Takes the body of the edit, and refuses what the edit would refuse.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/plan", tag = "steads", operation_id = "plan_stead",
    params(SteadPath), request_body = SteadRequest,
    responses((status = 200, description = "The plan; its `generation` is for the `If-Match` of the edit",
               body = wire::Plan)))]
pub(crate) async fn post(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
    sent: Sent,
) -> Result<Json<wire::Plan>, Problem> {
    let tenant = caller.find(&app.store, &at.tenant).await?;
    if tenant.is_none() && !caller.is_operator() {
        return Err(Problem::no_tenant(&at.tenant));
    }
    super::steads::may(&caller, tenant.as_ref(), Action::Look)?;
    let wanted = Wanted::read(sent.optional()?.as_ref(), &at.stead)?;
    plan(&app, &caller, &at, tenant.as_ref(), &wanted).await
}

/// What an amendment would do, without doing it
///
/// Takes the body of the amendment, and refuses what it would refuse.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}/steads/{stead}/plan", tag = "steads", operation_id = "plan_amendment",
    params(SteadPath), request_body = SteadRequest,
    responses((status = 200, description = "The plan; its `generation` is for the `If-Match` of the amendment",
               body = wire::Plan)))]
pub(crate) async fn patch(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
    sent: Sent,
) -> Result<Json<wire::Plan>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let stead = app.store.stead(tenant.id, &at.stead).await?;
    let stead = stead.ok_or_else(|| Problem::no_stead(&at.tenant, &at.stead))?;
    let wanted = Wanted::amendment(&sent.required()?, &stead)?;
    plan(&app, &caller, &at, Some(&tenant), &wanted).await
}

async fn plan(
    app: &App,
    caller: &Caller,
    at: &SteadPath,
    tenant: Option<&Tenant>,
    wanted: &Wanted,
) -> Result<Json<wire::Plan>, Problem> {
    // The store shows the deciding function what is and what shall be; whether that takes a restart is noted there.
    let restarts: Mutex<BTreeMap<ComponentName, bool>> = Mutex::default();
    let decide = |current: &BTreeMap<ComponentName, Spec>, offer: &_| {
        let specs = wanted.decide(current, offer)?;
        let both = specs.iter().filter_map(|(name, spec)| Some((name, spec.restarts(current.get(name)?))));
        if let Ok(mut restarts) = restarts.lock() {
            restarts.extend(both.map(|(name, restarts)| (name.clone(), restarts)));
        }
        Ok(specs)
    };
    let edit = SteadEdit {
        tenant: &at.tenant,
        stead: &at.stead,
        app: &wanted.app,
        make_tenant: caller.is_operator(),
        decide: &decide,
        files: &wanted.files,
        canary: None,
        if_generation: None,
        reason: None,
    };
    let planned = app.store.plan(&caller.actor, &edit).await?;
    let changed = planned.changes.iter().any(|change| change.action != ChangeAction::Keep);
    let stead = match tenant {
        Some(tenant) => app.store.stead(tenant.id, &at.stead).await?,
        None => None,
    };
    let restarts = restarts.into_inner().unwrap_or_default();
    let changes = planned
        .changes
        .into_iter()
        .map(|change| wire::ComponentChange {
            restarts: restarts.get(&change.component).copied().unwrap_or_default(),
            component: change.component.into(),
            action: view::action(change.action).into(),
            differences: change.differences.into_iter().map(view::difference).collect(),
        })
        .collect();
    // The store answers with the generation after the edit; the plan is made for the one before it.
    let generation = if changed || stead.is_none() { planned.generation - 1 } else { planned.generation };
    Ok(Json(wire::Plan { generation, changes }))
}
