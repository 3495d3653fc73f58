//! Whether the control plane can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use client::wire::Health;

use crate::App;
use crate::problem::{Kind, Problem};

/// A database that takes longer to say anything counts as not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the control plane can do its work
///
/// Asks the control database. Needs no token.
#[utoipa::path(get, path = "/v1/health", tag = "installation", operation_id = "health", security(()),
    responses((status = 200, description = "It can", body = Health)))]
pub(crate) async fn get(State(app): State<App>) -> Result<Json<Health>, Problem> {
    match tokio::time::timeout(PATIENCE, app.store.ping()).await {
        Ok(Ok(())) => Ok(Json(Health { status: "ok".into(), version: app.version.into() })),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Problem::new(Kind::Unavailable, "the control database does not answer at the moment")),
    }
}
