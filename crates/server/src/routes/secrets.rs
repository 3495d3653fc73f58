//! Secrets of a stead: what its functions find in their environment and nobody reads.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use client::wire::{self, Page};
use component::function::Variable;
use component::{SteadName, TenantName};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::SteadPath;
use super::steads::EditQuery;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, Sent};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;
use crate::{App, view};

/// Longest value, bytes: Lambda's limit of a whole environment.
const LONGEST: usize = 4_096;

/// A secret of a stead.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SecretPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// Name of the stead.
    #[param(value_type = String, example = "flights")]
    stead: SteadName,
    /// Its name, which is that of the variable.
    #[param(value_type = String, pattern = "^[A-Za-z_][A-Za-z0-9_]{0,127}$", example = "STRIPE_KEY")]
    secret: Variable,
}

/// Secrets of a stead, by name
///
/// What they are is never told.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/secrets", tag = "secrets", operation_id = "secrets",
    params(SteadPath),
    responses((status = 200, description = "All of them, in one page", body = Page<wire::Secret>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SteadPath>,
) -> Result<Json<Page<wire::Secret>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Look).await?;
    let secrets = app.store.secrets(tenant.id, &at.stead).await?;
    let secrets = secrets.ok_or_else(|| Problem::no_stead(&at.tenant, &at.stead))?;
    Ok(Json(Page { items: secrets.into_iter().map(view::secret).collect(), next: None }))
}

/// Set a secret
///
/// Functions that name it in `secrets` find it in their environment, with the end of the operation the new value; no
/// release is made.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/steads/{stead}/secrets/{secret}", tag = "secrets",
    operation_id = "put_secret", params(SecretPath, EditQuery), request_body = wire::SecretRequest,
    responses((status = 200, description = "The operation has ended", body = wire::Operation),
              (status = 202, description = "The operation still runs", body = wire::Operation)))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SecretPath>,
    Query(query): Query<EditQuery>,
    sent: Sent,
) -> Result<Response, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may_in(&tenant, Action::Edit)?;
        // Not by the usual way, whose words repeat what was sent.
        let value = text_of(sent.required()?);
        let value =
            value.ok_or_else(|| Problem::new(Kind::Invalid, "the body is no object with a text `value`"))?;
        let wrong = if value.is_empty() {
            Some("is empty; give it a value, or remove the secret".to_owned())
        } else if value.len() > LONGEST {
            Some(format!("has {} bytes; {LONGEST} are the most", value.len()))
        } else if value.contains('\0') {
            Some("holds a NUL, which no environment can".to_owned())
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(Problem::fields(vec![("/value".to_owned(), wrong)]));
        }
        let (stead, value) = ((&at.tenant, &at.stead), SecretString::from(value));
        Ok(app.store.set_secret(&caller.actor, stead, &at.secret, &value, query.reason()).await?)
    };
    // What was sent stays out of the record, also where it is refused.
    let attempt = Attempt::new(&caller, "secret.set", Some(&tenant)).stead(&at.stead);
    let operation = attempt.of(&app.store, edit).await?;
    super::operations::answer(&app, tenant.id, Some(operation), query.wait).await
}

/// The value in a body that has nothing else.
fn text_of(body: Value) -> Option<String> {
    match body {
        Value::Object(mut object) if object.len() == 1 => match object.remove("value")? {
            Value::String(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// Remove a secret
///
/// One that a component uses stays.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/steads/{stead}/secrets/{secret}", tag = "secrets",
    operation_id = "delete_secret", params(SecretPath, EditQuery),
    responses((status = 204, description = "It is gone"),
              (status = 409, description = "A component uses it", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<SecretPath>,
    Query(query): Query<EditQuery>,
) -> Result<StatusCode, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may_in(&tenant, Action::Edit)?;
        let stead = (&at.tenant, &at.stead);
        Ok(app.store.remove_secret(&caller.actor, stead, &at.secret, query.reason()).await?)
    };
    let attempt = Attempt::new(&caller, "secret.removed", Some(&tenant)).stead(&at.stead);
    attempt.of(&app.store, edit).await?;
    Ok(StatusCode::NO_CONTENT)
}
