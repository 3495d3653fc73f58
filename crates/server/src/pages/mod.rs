//! The console: pages for people, one file a screen.
//!
//! Pages are made on the server (`templates/`), work without script where they can, and are kept fresh by small parts
//! that are fetched anew when something happened ([`events`]). A page knows nothing but what the API tells the person
//! who looks: it asks the same routes in the same process ([`api`]), so that no page shows or does what the permission
//! table does not allow.

pub(crate) mod account;
pub(crate) mod api;
pub(crate) mod asked;
pub(crate) mod assets;
pub(crate) mod audit;
pub(crate) mod chart;
pub(crate) mod database;
pub(crate) mod events;
pub(crate) mod failure;
pub(crate) mod fleet;
pub(crate) mod frame;
pub(crate) mod invitation;
pub(crate) mod logs;
pub(crate) mod members;
pub(crate) mod new;
pub(crate) mod run;
pub(crate) mod settings;
pub(crate) mod sign_in;
pub(crate) mod stead;
pub(crate) mod timeline;
pub(crate) mod words;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};

use crate::App;
use crate::sign_in::{own_pages_only, people_only};

/// What every page can reach.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) app: App,
    /// The API, for somebody who signed in already.
    pub(crate) api: Router,
}

/// What browsers are told of every page: nothing from elsewhere, no script in the page itself, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; manifest-src 'self'";

/// Every page.
pub(crate) fn router(site: &Site) -> Router {
    let open = Router::new()
        .route("/sign-in", get(sign_in::page).post(sign_in::password))
        .route("/sign-in/code", get(sign_in::code_page).post(sign_in::code))
        .route("/sign-in/provider", get(sign_in::provider))
        .route("/sign-in/back", get(sign_in::back))
        .route("/invitations/{secret}", get(invitation::page).post(invitation::accept))
        .route("/assets/{version}/{name}", get(assets::get));
    let people = Router::new()
        .route("/", get(fleet::first))
        .route("/fleet", get(fleet::page))
        .route("/events", get(events::stream))
        .route("/sign-out", post(sign_in::out))
        .route("/account", get(account::page))
        .route("/account/password", post(account::password))
        .route("/account/second-factor", get(account::second_factor).post(account::confirm))
        .route("/account/second-factor/remove", post(account::remove_second_factor))
        .route("/account/sessions/{id}/end", post(account::end_session))
        .route("/audit", get(audit::whole))
        .route("/audit/export", get(audit::export_of_whole))
        .route("/tenants/{tenant}", get(fleet::tenant))
        .route("/tenants/{tenant}/new", get(new::page).post(new::make))
        .route("/tenants/{tenant}/members", get(members::page).post(members::invite))
        .route("/tenants/{tenant}/members/{id}", post(members::edit))
        .route("/tenants/{tenant}/invitations/{id}/withdraw", post(members::withdraw))
        .route("/tenants/{tenant}/timeline", get(timeline::page))
        .route("/tenants/{tenant}/timeline/{id}", get(timeline::line))
        .route("/tenants/{tenant}/logs", get(logs::page))
        .route("/tenants/{tenant}/runs/{operation}", get(run::page))
        .route("/tenants/{tenant}/audit", get(audit::of_tenant))
        .route("/tenants/{tenant}/audit/export", get(audit::export_of_tenant))
        .route("/tenants/{tenant}/steads/{stead}", get(stead::page))
        .route("/tenants/{tenant}/steads/{stead}/state", get(stead::state))
        .route(
            "/tenants/{tenant}/steads/{stead}/components/{component}/settings",
            get(settings::page).post(settings::submit),
        )
        .merge(databases())
        .route_layer(from_fn_with_state(site.clone(), people_only));
    people
        .merge(open)
        .layer(from_fn_with_state(site.clone(), own_pages_only))
        .layer(from_fn(policy))
        .with_state(site.clone())
}

/// The page of a database, and what it fetches.
fn databases() -> Router<Site> {
    let at = |below: &str| {
        format!("/tenants/{{tenant}}/steads/{{stead}}/components/{{component}}/database{below}")
    };
    Router::new()
        .route(&at(""), get(database::page).post(database::submit))
        .route(&at("/query"), post(database::query))
        .route(&at("/export"), post(database::export))
        .route(&at("/schema"), get(database::tree))
        .route(&at("/history"), get(database::history))
        .route(&at("/lake"), get(database::lake::part))
        .route(&at("/resync"), post(database::lake::resync))
        .route(&at("/queries/{id}"), get(database::text))
        .route(&at("/queries/{id}/cancel"), post(database::cancel))
        .layer(DefaultBodyLimit::max(database::LONGEST_FORM))
}

async fn policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    response
}
