//! Components: state, credentials, rotation.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use client::wire;
use component::ComponentName;
use component::transfer::Asked;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde::Deserialize;
use store::edit::{Copy, Rollback};
use store::journal::{Entry, Outcome};
use store::stead::Component;
use store::tenant::Tenant;
use utoipa::IntoParams;

use super::ComponentPath;
use super::steads::EditQuery;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, number_and_unit, seconds_in};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;
use crate::{App, view};

/// The component, to do something with it.
pub(super) async fn find(app: &App, tenant: &Tenant, at: &ComponentPath) -> Result<Component, Problem> {
    let stead = app.store.stead(tenant.id, &at.stead).await?;
    let stead = stead.ok_or_else(|| Problem::no_stead(&at.tenant, &at.stead))?;
    let component = stead.components.into_iter().find(|component| component.name == at.component);
    component.ok_or_else(|| Problem::no_component(&at.stead, &at.component))
}

/// Refuses to ask a component whose data are asked for elsewhere.
pub(super) fn asked_here(component: &Component) -> Result<(), Problem> {
    let Some(place) = component.spec.asked_elsewhere() else { return Ok(()) };
    let detail = format!(
        "the tables of {} are in {place}, and not in a lake of the stead's: ask them there, as Delta tables, with any engine \
         that reads these, like DuckDB, Spark, Athena or delta-rs",
        component.name
    );
    Err(Problem::new(Kind::Invalid, detail))
}

/// One component
///
/// What is wanted of it, and what was last observed.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}", tag = "components",
    operation_id = "component", params(ComponentPath),
    responses((status = 200, description = "The component", body = wire::Component)))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
) -> Result<Json<wire::Component>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    Ok(Json(view::component(find(&app, &tenant, &at).await?)))
}

/// How to sign in to a server
///
/// Takes a token of scope developer. That it was asked is on record.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/credentials",
    tag = "components", operation_id = "credentials", params(ComponentPath),
    responses((status = 200, description = "Address, role and password", body = wire::Credentials),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "It has no address yet", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn credentials(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
) -> Result<Json<wire::Credentials>, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let shown = async {
        caller.may_in(&tenant, Action::SeePassword)?;
        let component = find(&app, &tenant, &at).await?;
        asked_here(&component)?;
        let password = app.store.password(component.id).await?;
        let (Some(password), Some(endpoint)) = (password, component.status.endpoint) else {
            let detail = format!("{} has no address yet; wait until it is ready", at.component);
            return Err(Problem::new(Kind::NotReady, detail));
        };
        // On record first: who cannot be put on record is not told.
        let entry = Entry {
            tenant: Some((tenant.id, tenant.name.to_string())),
            stead: Some(at.stead.to_string()),
            component: Some(at.component.to_string()),
            ..Entry::new(&caller.actor, "credentials.shown", Outcome::Done)
        };
        app.store.journal(&entry).await?;
        Ok(wire::Credentials {
            host: endpoint.host,
            port: endpoint.port,
            database: endpoint.database,
            role: endpoint.role,
            password: password.password.expose_secret().to_owned(),
            shared: app.shared.as_ref().map(|shared| wire::SharedAddress {
                host: format!("{}.{}", component.id.handle(), shared.domain),
                port: shared.port,
            }),
        })
    };
    let attempt =
        Attempt::new(&caller, "credentials.shown", Some(&tenant)).stead(&at.stead).component(&at.component);
    attempt.of(&app.store, shown).await.map(Json)
}

/// Give a server a new password
///
/// The old one ends when the server has the new.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/rotate",
    tag = "components", operation_id = "rotate", params(ComponentPath, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Rotate).await
}

/// Move a server to another process and folder
///
/// Clients wait for a moment and go on: transactions that are open come to their end first, and sessions take
/// along their settings and prepared statements.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/move",
    tag = "components", operation_id = "move", params(ComponentPath, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn relocate(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Move).await
}

/// What is to be copied anew.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResyncQuery {
    /// One table, like `public.orders`; left out: all of them.
    #[param(example = "public.orders")]
    table: Option<String>,
}

/// Have a transfer copy everything anew, or one table
///
/// It lets go of what the server keeps for it, and begins again: what a transfer needs that cannot go on by itself. With
/// `table` that one is copied anew while the others go on; one that stands still goes on, and its changes say what is
/// missing.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/resync",
    tag = "components", operation_id = "resync", params(ComponentPath, ResyncQuery, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn resync(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(what): Query<ResyncQuery>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    let asked = match what.table {
        None => Asked::Resync,
        Some(table) => Asked::table(&table)
            .map_err(|bad| Problem::fields(vec![("table".to_owned(), bad.to_string())]))?,
    };
    edit(&app, &caller, &at, &query, Edit::Transfer(asked)).await
}

/// Have a transfer read nothing until it is to go on
///
/// What is in its lake can be asked for. The server keeps its changes for it, as far as there is room.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/pause",
    tag = "components", operation_id = "pause", params(ComponentPath, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Transfer(Asked::Pause)).await
}

/// Have a paused transfer go on
///
/// It reads what the server kept for it meanwhile, and then what is new.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/resume",
    tag = "components", operation_id = "resume", params(ComponentPath, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Transfer(Asked::Resume)).await
}

/// A server that is made of another's data.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CloneQuery {
    /// What it is called, like `postgres.try`.
    #[serde(rename = "as")]
    #[param(value_type = String, pattern = "^postgres\\.[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", example = "postgres.try")]
    name: ComponentName,
    /// The data as they were then (RFC 3339); left out: as they are now.
    #[param(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    /// Stead removes it after this long, like `30m`, `12h` or `2d`; left out: it stays.
    #[param(value_type = Option<String>, pattern = "^[1-9][0-9]{0,5}(s|m|h|d)$", example = "2d")]
    ttl: Option<Ttl>,
}

/// How long something is there.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Ttl(SignedDuration);

impl TryFrom<String> for Ttl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let seconds = number_and_unit(&text)
            .filter(|_| !text.starts_with('0'))
            .and_then(|(number, unit)| Some(i64::try_from(number).ok()? * seconds_in(unit)?));
        let span = seconds.map(SignedDuration::from_secs);
        span.map(Self).ok_or_else(|| "`ttl` says for how long, like 30m, 12h or 2d".to_owned())
    }
}

/// The other server of a swap.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SwapQuery {
    /// The one that takes the place, like `postgres.main-restored`.
    #[param(value_type = String, pattern = "^postgres\\.[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", example = "postgres.main-restored")]
    with: ComponentName,
}

/// Make a server of another's data
///
/// As they are now, or as they were at a moment that its backups reach. The new server has an address, a password and
/// backups of its own, and stands beside the manifest: an edit of the stead leaves it alone.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/clone",
    tag = "components", operation_id = "clone", params(ComponentPath, CloneQuery, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn clone(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
    Query(asked): Query<CloneQuery>,
) -> Result<Response, Problem> {
    let CloneQuery { name, at: moment, ttl } = asked;
    edit(&app, &caller, &at, &query, Edit::Clone { name, moment, ttl }).await
}

/// Put a server that was made of another's data in its place
///
/// Names, addresses and passwords change sides: clients then reach the other data, and sessions are ended, because
/// time has gone back for them. The server that was there before goes on under the other name.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/swap",
    tag = "components", operation_id = "swap", params(ComponentPath, SwapQuery, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn swap(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
    Query(asked): Query<SwapQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Swap { with: asked.with }).await
}

/// Remove a server that was made of another's data
///
/// One that the manifest names is removed by taking it out of there.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}",
    tag = "components", operation_id = "remove_component", params(ComponentPath, EditQuery),
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<EditQuery>,
) -> Result<Response, Problem> {
    edit(&app, &caller, &at, &query, Edit::Remove).await
}

/// What is asked for of one component.
pub(super) enum Edit {
    Rotate,
    Move,
    Clone { name: ComponentName, moment: Option<Timestamp>, ttl: Option<Ttl> },
    Swap { with: ComponentName },
    Rollback { to: Option<i64> },
    Promote,
    Transfer(Asked),
    Remove,
}

/// Makes an edit of one component, and answers with its operation; one that is refused is on record as well.
pub(super) async fn edit(
    app: &App,
    caller: &Caller,
    at: &ComponentPath,
    query: &EditQuery,
    what: Edit,
) -> Result<Response, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may_in(&tenant, Action::Edit)?;
        let (store, actor, reason) = (&app.store, &caller.actor, query.reason());
        let stead = (&at.tenant, &at.stead);
        Ok(match &what {
            Edit::Rotate => store.rotate(actor, &at.tenant, &at.stead, &at.component, reason).await?,
            Edit::Move => store.move_component(actor, &at.tenant, &at.stead, &at.component, reason).await?,
            Edit::Clone { name, moment, ttl } => {
                let until = ttl.as_ref().and_then(|ttl| Timestamp::now().checked_add(ttl.0).ok());
                let (tenant, stead, from) = (&at.tenant, &at.stead, &at.component);
                let copy = Copy { tenant, stead, from, to: name, at: *moment, until, reason };
                store.copy(actor, &copy).await?
            }
            Edit::Swap { with } => store.swap(actor, stead, &at.component, with, reason).await?,
            Edit::Rollback { to } => {
                store.rollback(actor, stead, &Rollback { name: &at.component, to: *to, reason }).await?
            }
            Edit::Promote => store.promote(actor, stead, &at.component, reason).await?,
            Edit::Transfer(asked) => store.ask_transfer(actor, stead, &at.component, asked, reason).await?,
            Edit::Remove => store.remove_copy(actor, stead, &at.component, reason).await?,
        })
    };
    let line = match &what {
        Edit::Rotate => "password.rotated",
        Edit::Move => "component.move_requested",
        Edit::Clone { .. } => "component.created",
        Edit::Swap { .. } => "component.swapped",
        Edit::Rollback { .. } => "component.rolled_back",
        Edit::Promote => "component.promoted",
        Edit::Transfer(asked) => asked.line(),
        Edit::Remove => "component.deletion_requested",
    };
    let attempt = Attempt::new(caller, line, Some(&tenant)).stead(&at.stead).component(&at.component);
    let operation = attempt.of(&app.store, edit).await?;
    super::operations::answer(app, tenant.id, Some(operation), query.wait).await
}
