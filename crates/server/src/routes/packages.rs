//! Packages of functions: uploaded once, named by their hash.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::wire;
use component::TenantName;
use component::function::{Digest, LARGEST_ZIP};
use serde::Deserialize;
use store::journal::{Entry, Outcome};
use utoipa::IntoParams;

use crate::App;
use crate::access::{Action, Caller};
use crate::extract::Path;
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;

/// A package of a tenant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct PackagePath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// SHA-256 of the zip, in hexadecimal.
    #[param(value_type = String, pattern = "^(sha256:)?[0-9a-f]{64}$",
            example = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")]
    package: Digest,
}

/// Whether a package is there
///
/// One that was asked for stays for a day at least, also where no function runs it yet.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/packages/{package}", tag = "packages", operation_id = "package",
    params(PackagePath),
    responses((status = 200, description = "It is there", body = wire::Package),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<PackagePath>,
) -> Result<Json<wire::Package>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::Edit).await?;
    if app.store.has_package(tenant.id, at.package).await? {
        return Ok(Json(wire::Package { sha256: at.package.hex() }));
    }
    Err(Problem::new(Kind::NotFound, format!("there is no package {}; upload it", at.package)))
}

/// Upload a package
///
/// A zip of at most 50 MiB, and 250 MiB once unpacked, as AWS Lambda takes them. Only what has the hash that the path
/// names, and can be unpacked without leading anywhere else, is kept. A tenant that is not there yet is made where the
/// token is an operator's.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/packages/{package}", tag = "packages", operation_id = "put_package",
    params(PackagePath),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The zip"),
    responses((status = 200, description = "It is there", body = wire::Package),
              (status = 201, description = "It was not there before", body = wire::Package)))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<PackagePath>,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = caller.find(&app.store, &at.tenant).await?;
    if tenant.is_none() && !caller.is_operator() {
        return Err(Problem::no_tenant(&at.tenant));
    }
    let attempt = Attempt::new(&caller, "package.uploaded", tenant.as_ref()).about(&at.tenant);
    let upload = async {
        super::steads::may(&caller, tenant.as_ref(), Action::Edit)?;
        let zip = read(body).await?;
        let (found, is) = (at.package, package::digest(&zip));
        if found != is {
            let detail = format!(
                "what was sent is the package {is}, and not {found}; it was cut off on the way, or named wrongly"
            );
            return Err(Problem::new(Kind::Invalid, detail));
        }
        // Unpacking takes its time: off the threads that answer.
        let looked = tokio::task::spawn_blocking(move || (package::check(&zip), zip)).await;
        let (looked, zip) = looked.map_err(|error| Problem::internal(&error))?;
        let contents = looked.map_err(|refused| Problem::new(Kind::Invalid, refused.to_string()))?;
        let tenant = match &tenant {
            Some(tenant) => tenant.clone(),
            None => app.store.put_tenant(&caller.actor, &at.tenant, None).await?,
        };
        let new = app.store.put_package(tenant.id, at.package, &zip, contents.bytes).await?;
        if new {
            let entry = Entry {
                tenant: Some((tenant.id, tenant.name.to_string())),
                after: serde_json::json!({ "package": at.package, "bytes": zip.len(), "files": contents.files }),
                ..Entry::new(&caller.actor, "package.uploaded", Outcome::Done)
            };
            app.store.journal(&entry).await?;
        }
        Ok(new)
    };
    let new = attempt.of(&app.store, upload).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(wire::Package { sha256: at.package.hex() })).into_response())
}

async fn read(body: Body) -> Result<axum::body::Bytes, Problem> {
    let largest = usize::try_from(LARGEST_ZIP).unwrap_or(usize::MAX);
    crate::extract::read_up_to(body, largest).await
}
