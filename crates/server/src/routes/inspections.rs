//! Inspections: a debugger at a function's worker, through the API.
//!
//! Both routes are HTTP/1.1 upgrades, and what comes after them is the engine's and the inspector's own: it is carried,
//! not read. Whoever inspects a function runs code in it, so it takes what an edit takes, and is on record.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use client::wire::{INSPECTION_ID, INSPECTION_PROTOCOL};
use component::{ComponentName, Kind as ComponentKind, Phase, SteadName, TenantName};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use store::Store;
use store::journal::{Entry, Outcome};
use tokio::io::{AsyncWriteExt, copy, split};
use utoipa::IntoParams;
use uuid::Uuid;

use super::ComponentPath;
use crate::App;
use crate::access::{self, Action, Caller};
use crate::extract::Path;
use crate::functions::{Conversation, Inspection};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;

/// An inspection of a function.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct InspectionPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// Name of the stead.
    #[param(value_type = String, example = "flights")]
    stead: SteadName,
    /// Kind and name of the component.
    #[param(value_type = String)]
    component: ComponentName,
    /// The inspection.
    id: Uuid,
}

/// Inspect a function
///
/// An upgrade to `stead-inspection`, for `stead dev --inspect`; the inspection lasts as long as the connection, and as
/// the token is in force. Meanwhile calls go to one worker to which a debugger can be attached, and have no deadline. It
/// is on record.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/inspections",
    tag = "components", operation_id = "inspect", params(ComponentPath),
    responses((status = 101, description = "It has begun; `Stead-Inspection` names it")))]
pub(crate) async fn begin(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    request: Request,
) -> Result<Response, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let entry = |action| Entry {
        tenant: Some((tenant.id, tenant.name.to_string())),
        stead: Some(at.stead.to_string()),
        component: Some(at.component.to_string()),
        ..Entry::new(&caller.actor, action, Outcome::Done)
    };
    let begun = async {
        let token = access::bearer(request.headers())?;
        let (id, engine, upgrade) = engine(&app, &caller, &at, request, None).await?;
        let after = json!({ "inspection": id });
        app.store.journal(&Entry { after: after.clone(), ..entry("inspection.begun") }).await?;
        let over = Entry { after, ..entry("inspection.ended") };
        let store = app.store.clone();
        let tenant = tenant.id;
        tokio::spawn(async move {
            // With it every connection within it ends.
            tokio::select! {
                () = carry(upgrade, engine) => {}
                () = access::until_it_may_not(&store, &token, tenant, Action::Inspect) => {}
            }
            record(&store, &over).await;
        });
        Ok(switching(id))
    };
    let attempt =
        Attempt::new(&caller, "inspection.begun", Some(&tenant)).stead(&at.stead).component(&at.component);
    attempt.of(&app.store, begun).await
}

/// Reach the inspector of a function
///
/// An upgrade to `stead-inspection` within an inspection, by who knows it and may inspect: from then on it is a connection to the
/// inspector of the function's worker.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/inspections/{id}",
    tag = "components", operation_id = "reach_inspector", params(InspectionPath),
    responses((status = 101, description = "What follows is the inspector's")))]
pub(crate) async fn connect(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<InspectionPath>,
    request: Request,
) -> Result<Response, Problem> {
    let InspectionPath { tenant, stead, component, id } = at;
    let at = ComponentPath { tenant, stead, component };
    let (id, engine, upgrade) = engine(&app, &caller, &at, request, Some(id)).await?;
    tokio::spawn(carry(upgrade, engine));
    Ok(switching(id))
}

/// The engine's side of a conversation, and what the caller's will be.
async fn engine(
    app: &App,
    caller: &Caller,
    at: &ComponentPath,
    mut request: Request,
    inspection: Option<Uuid>,
) -> Result<(Uuid, Box<dyn Conversation>, OnUpgrade), Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Inspect).await?;
    let component = super::components::find(app, &tenant, at).await?;
    if at.component.kind != ComponentKind::Function {
        return Err(Problem::new(Kind::Invalid, format!("{} is no function", at.component)));
    }
    if component.status.phase == Phase::Deleting {
        return Err(Problem::new(Kind::Deleting, format!("{} is being removed", at.component)));
    }
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != INSPECTION_PROTOCOL) {
        return Err(Problem::bad_request(format!("an inspection is an upgrade to `{INSPECTION_PROTOCOL}`")));
    }
    let unanswered = |error: std::io::Error| {
        Problem::new(Kind::Unavailable, format!("the engine of functions does not answer: {error}"))
    };
    match app.functions.inspect(component.id, inspection).await.map_err(unanswered)? {
        Inspection::Begun { id, engine } => Ok((id, engine, hyper::upgrade::on(&mut request))),
        Inspection::Refused { status, message } => Err(Problem::new(
            match status {
                400 => Kind::Invalid,
                404 => Kind::NotFound,
                409 => Kind::InUse,
                _ => Kind::Unavailable,
            },
            message,
        )),
    }
}

/// Carries until the engine has said all: whoever has gone without a word is found out by the engine.
async fn carry(upgrade: OnUpgrade, engine: Box<dyn Conversation>) {
    let Ok(caller) = upgrade.await else { return };
    let (mut from_caller, mut to_caller) = split(TokioIo::new(caller));
    let (mut from_engine, mut to_engine) = split(engine);
    let heard = async {
        let _ = copy(&mut from_caller, &mut to_engine).await;
        let _ = to_engine.shutdown().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = heard => {}
        _ = copy(&mut from_engine, &mut to_caller) => {}
    }
}

async fn record(store: &Store, over: &Entry) {
    if let Err(error) = store.journal(over).await {
        tracing::error!(%error, "the end of an inspection could not be put on record");
    }
}

fn switching(id: Uuid) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(INSPECTION_PROTOCOL));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(HeaderName::from_static(INSPECTION_ID), id);
    }
    response
}
