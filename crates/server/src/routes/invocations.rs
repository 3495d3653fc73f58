//! Calls of a function by people and programs that are signed in.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::wire;
use component::{Kind as ComponentKind, Phase};
use serde::Deserialize;
use serde_json::{Value, json};
use store::journal::{Entry, Outcome};
use utoipa::IntoParams;

use super::ComponentPath;
use crate::App;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query};
use crate::functions::{Answer, Call};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;

/// Largest event of a call, bytes, as on Lambda.
const LARGEST_EVENT: usize = 6 * 1024 * 1024;

/// How it is called.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InvokeQuery {
    /// Answer as soon as the event is safely taken; it is worked at later, and tried again where that fails.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    later: bool,
}

/// Call a function
///
/// The body is the event, any JSON; none is the empty object. The call is on record, its event is not.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/invocations",
    tag = "components", operation_id = "invoke", params(ComponentPath, InvokeQuery), request_body = Value,
    responses((status = 200, description = "It was called; `error` says whether its handler failed", body = wire::Invocation),
              (status = 202, description = "The event is taken", body = wire::Invocation),
              (status = 429, description = "As many calls as it may have are being answered", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn post(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<InvokeQuery>,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let invoke = async {
        caller.may_in(&tenant, Action::Invoke)?;
        let component = super::components::find(&app, &tenant, &at).await?;
        if at.component.kind != ComponentKind::Function {
            return Err(Problem::new(Kind::Invalid, format!("{} is no function", at.component)));
        }
        if component.status.live.is_none() || component.status.phase == Phase::Deleting {
            return Err(Problem::new(Kind::NotReady, format!("no release of {} answers yet", at.component)));
        }
        let event = crate::extract::read_up_to(body, LARGEST_EVENT).await?;
        let event = if event.is_empty() { "{}".into() } else { event };
        serde_json::from_slice::<serde::de::IgnoredAny>(&event)
            .map_err(|error| Problem::bad_request(format!("the event is not JSON: {error}")))?;
        let call = Call { function: component.id, event, later: query.later };
        let answer = app.functions.invoke(call).await.map_err(|error| {
            Problem::new(Kind::Unavailable, format!("the engine of functions does not answer: {error}"))
        })?;
        let entry = Entry {
            tenant: Some((tenant.id, tenant.name.to_string())),
            stead: Some(at.stead.to_string()),
            component: Some(at.component.to_string()),
            after: json!({ "request": answer.request_id, "status": answer.status, "error": answer.error }),
            ..Entry::new(&caller.actor, "invocation.made", Outcome::Done)
        };
        app.store.journal(&entry).await?;
        Ok(answer)
    };
    let attempt =
        Attempt::new(&caller, "invocation.made", Some(&tenant)).stead(&at.stead).component(&at.component);
    let answer = attempt.of(&app.store, invoke).await?;
    shown(answer)
}

fn shown(answer: Answer) -> Result<Response, Problem> {
    let Answer { status, request_id, release, error, payload, log } = answer;
    let text = || String::from_utf8_lossy(&payload).into_owned();
    let status = match status {
        200 | 202 => StatusCode::from_u16(status).unwrap_or_default(),
        429 => {
            return Err(Problem::new(
                Kind::Busy,
                "as many calls as it may have are being answered; try again",
            ));
        }
        413 => return Err(Problem::new(Kind::TooLarge, format!("the event is too large: {}", text()))),
        _ => return Err(Problem::new(Kind::Unavailable, format!("the function was not called: {}", text()))),
    };
    let payload = match serde_json::from_slice(&payload) {
        Ok(payload) => payload,
        Err(_) if payload.is_empty() => Value::Null,
        Err(_) => Value::String(text()),
    };
    Ok((status, Json(wire::Invocation { request_id, release, error, payload, log })).into_response())
}
