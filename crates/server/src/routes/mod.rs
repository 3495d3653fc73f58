//! The routes, one file a noun.

pub(crate) mod ca;
pub(crate) mod components;
pub(crate) mod export;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod inspections;
pub(crate) mod invocations;
pub(crate) mod logs;
pub(crate) mod members;
pub(crate) mod openapi;
pub(crate) mod operations;
pub(crate) mod packages;
pub(crate) mod plan;
pub(crate) mod queries;
pub(crate) mod releases;
pub(crate) mod secrets;
pub(crate) mod steads;
pub(crate) mod tenants;
pub(crate) mod tokens;

use component::{ComponentName, SteadName, TenantName};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

/// Routes that need no token.
pub(crate) fn open() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health::get)).routes(routes!(ca::get)).routes(routes!(openapi::get))
}

/// Routes that need one.
pub(crate) fn signed_in() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::get, tenants::put, tenants::delete))
        .routes(routes!(steads::fleet))
        .routes(routes!(steads::health))
        .routes(routes!(steads::list))
        .routes(routes!(steads::get, steads::put, steads::patch, steads::delete))
        .routes(routes!(plan::post, plan::patch))
        .routes(routes!(components::get))
        .routes(routes!(components::credentials))
        .routes(routes!(components::rotate))
        .routes(routes!(components::relocate))
        .routes(routes!(components::resync))
        .routes(routes!(components::pause))
        .routes(routes!(components::resume))
        .routes(routes!(components::clone))
        .routes(routes!(components::swap))
        .routes(routes!(components::remove))
        .routes(routes!(releases::list))
        .routes(routes!(releases::rollback))
        .routes(routes!(releases::promote))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::delete))
        .routes(routes!(packages::get))
        .routes(routes!(logs::of_component))
        .routes(routes!(logs::of_tenant))
        .routes(routes!(logs::stream))
        .routes(routes!(logs::histogram))
        .routes(routes!(logs::tail))
        .routes(routes!(logs::of_installation))
        .routes(routes!(logs::tail_of_installation))
        .routes(routes!(queries::list))
        .routes(routes!(queries::cancel))
        .routes(routes!(queries::schema))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(history::of_tenant))
        .routes(routes!(history::line))
        .routes(routes!(export::get))
        .routes(routes!(export::whole))
        .routes(routes!(history::of_all))
        .routes(routes!(members::list))
        .routes(routes!(members::put, members::delete))
        .routes(routes!(members::invitations, members::invite))
        .routes(routes!(members::withdraw))
        .routes(routes!(members::invite_staff))
        .routes(routes!(tokens::list, tokens::post))
        .routes(routes!(tokens::delete))
}

/// Routes that need one, and whose requests or answers are too large to be kept to be given again, or are conversations.
pub(crate) fn streaming() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(queries::run))
        .routes(routes!(packages::put))
        // Nothing of a secret is kept, not even to know it again.
        .routes(routes!(secrets::put))
        .routes(routes!(invocations::post))
        .routes(routes!(inspections::begin))
        .routes(routes!(inspections::connect))
}

/// A tenant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TenantPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    pub(crate) tenant: TenantName,
}

/// A stead.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SteadPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    pub(crate) tenant: TenantName,
    /// Name of the stead.
    #[param(value_type = String, example = "flights")]
    pub(crate) stead: SteadName,
}

/// A component.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ComponentPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    pub(crate) tenant: TenantName,
    /// Name of the stead.
    #[param(value_type = String, example = "flights")]
    pub(crate) stead: SteadName,
    /// Kind and name of the component.
    #[param(value_type = String, example = "postgres.main")]
    pub(crate) component: ComponentName,
}
