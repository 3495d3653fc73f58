//! The fleet: every stead that the person may see.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use client::wire::{Component, Page, Stead};
use component::TenantName;
use serde::Deserialize;

use super::Site;
use super::api::{Api, escaped};
use super::failure::shown;
use super::frame::Frame;
use crate::sign_in::Signed;

/// Steads a page.
const A_PAGE: u16 = 50;

#[derive(Template)]
#[template(path = "fleet.html", blocks = ["rows"])]
struct Fleet {
    frame: Frame,
    steads: Vec<Stead>,
    query: FleetQuery,
    next: Option<String>,
    /// The address of this list, for its live parts.
    here: String,
}

/// What is looked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct FleetQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    health: String,
    cursor: Option<String>,
}

/// How a component is, in a word, and the word that colours it.
pub(crate) fn health(component: &Component) -> (&'static str, &'static str) {
    match component.phase.as_str() {
        "deleting" => ("Being removed", "busy"),
        "blocked" => ("Needs attention", "bad"),
        _ if !component.conditions.is_empty() => ("Needs attention", "bad"),
        "creating" => ("Being created", "busy"),
        "updating" => ("Being changed", "busy"),
        _ if component.asleep => ("Asleep", "asleep"),
        _ => ("Ready", "good"),
    }
}

impl Fleet {
    fn health(&self, component: &Component) -> (&'static str, &'static str) {
        health(component)
    }

    fn is_filtered(&self) -> bool {
        !self.query.q.is_empty() || !self.query.health.is_empty()
    }

    /// Where the next page is.
    fn next_page(&self, cursor: &str) -> String {
        let (q, health) = (escaped(&self.query.q), escaped(&self.query.health));
        format!("?q={q}&health={health}&cursor={}", escaped(cursor))
    }
}

/// `GET /`: the fleet, or the one tenant that somebody is of.
pub(crate) async fn first(State(site): State<Site>, Extension(signed): Extension<Signed>) -> Response {
    let base = site.app.console.base();
    match signed.caller.own_tenant() {
        Some((_, tenant)) => Redirect::to(&format!("{base}/tenants/{tenant}")).into_response(),
        None => Redirect::to(&format!("{base}/fleet")).into_response(),
    }
}

/// `GET /fleet`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<FleetQuery>,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "fleet");
    list(&site, &signed, frame, "/v1/steads", &uri, &headers, query).await
}

/// `GET /tenants/{tenant}`
pub(crate) async fn tenant(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    Path(tenant): Path<TenantName>,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<FleetQuery>,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "steads").in_tenant(&signed.caller, tenant.as_str());
    let path = format!("/v1/tenants/{tenant}/steads");
    list(&site, &signed, frame, &path, &uri, &headers, query).await
}

async fn list(
    site: &Site,
    signed: &Signed,
    frame: Frame,
    path: &str,
    uri: &Uri,
    headers: &HeaderMap,
    query: FleetQuery,
) -> Response {
    let mut asked = format!("{path}?limit={A_PAGE}");
    if !query.q.is_empty() {
        asked.push_str(&format!("&q={}", escaped(&query.q)));
    }
    if !query.health.is_empty() {
        asked.push_str(&format!("&health={}", escaped(&query.health)));
    }
    if let Some(cursor) = &query.cursor {
        asked.push_str(&format!("&cursor={}", escaped(cursor)));
    }
    let page: Page<Stead> = match Api::new(site, &signed.caller).get(&asked).await {
        Ok(page) => page,
        Err(refused) => return frame.failure(refused).into_response(),
    };
    let here = format!("{}{}", frame.base, uri.path_and_query().map_or("/", |path| path.as_str()));
    let fleet = Fleet { frame, steads: page.items, query, next: page.next, here };
    if headers.contains_key("hx-request") { shown(&fleet.as_rows()) } else { shown(&fleet) }
}
