//! The fleet: every stead that the person may see.

use askama::Template;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use client::wire::{FleetHealth, Page, Stead};
use component::TenantName;

use super::Site;
use super::api::{Api, Refused};
use super::asked::Asked;
use super::failure::{At, shown};
use super::frame::Frame;
use super::words;
use crate::access::Action;
use crate::sign_in::Signed;

/// Steads a page.
const A_PAGE: u16 = 50;

/// What is looked for, and the part of it.
const FIELDS: [&str; 3] = ["q", "health", "cursor"];

#[derive(Template)]
#[template(path = "fleet.html", blocks = ["rows"])]
struct Fleet {
    frame: Frame,
    steads: Vec<Stead>,
    /// How many there are of each health, of those with the names that are looked for.
    counts: FleetHealth,
    asked: Asked,
    next: Option<String>,
    /// The path of this page.
    path: String,
    /// Whether the person may make a stead here.
    edits: bool,
}

impl Fleet {
    fn is_filtered(&self) -> bool {
        self.asked.any(&FIELDS)
    }

    /// The address of this list, for its live parts.
    fn here(&self) -> String {
        format!("{}?{}", self.path, self.asked.with(&[], &[]))
    }

    /// Where the next page is.
    fn next_page(&self, cursor: &str) -> String {
        format!("{}?{}", self.path, self.asked.with(&["cursor"], &[("cursor", cursor)]))
    }

    /// Where those of one health are.
    fn by(&self, health: &str) -> String {
        format!("{}?{}", self.path, self.asked.with(&["health", "cursor"], &[("health", health)]))
    }

    /// Healths with their words, their colours, and how many have them; those that none has are left out.
    fn counted(&self) -> Vec<(&'static str, &'static str, &'static str, i64)> {
        let count = |health| match health {
            "attention" => self.counts.attention,
            "busy" => self.counts.busy,
            "deleting" => self.counts.deleting,
            "ready" => self.counts.ready,
            _ => self.counts.asleep,
        };
        let all =
            words::HEALTHS.iter().map(|(health, words, colour)| (*health, *words, *colour, count(health)));
        all.filter(|(health, .., count)| *count > 0 || self.asked.get("health") == *health).collect()
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
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "fleet");
    let path = format!("{}/fleet", frame.base);
    let asked = Asked::of(query.as_deref(), &FIELDS);
    match list(&site, &signed, "/v1/steads", "", &asked).await {
        Ok((page, counts)) => {
            let (steads, next) = (page.items, page.next);
            Fleet { frame, steads, counts, asked, next, path, edits: false }.shown(&headers)
        }
        Err(refused) => frame.failure(refused).into_response(),
    }
}

/// `GET /tenants/{tenant}`
pub(crate) async fn tenant(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "steads").in_tenant(&signed.caller, tenant.as_str());
    let path = frame.of_tenant();
    let asked = Asked::of(query.as_deref(), &FIELDS);
    let edits = signed.caller.may_by_name(tenant.as_str(), Action::Edit);
    match list(&site, &signed, &format!("/v1/tenants/{tenant}/steads"), tenant.as_str(), &asked).await {
        Ok((page, counts)) => {
            let (steads, next) = (page.items, page.next);
            Fleet { frame, steads, counts, asked, next, path, edits }.shown(&headers)
        }
        Err(refused) => frame.failure(refused).into_response(),
    }
}

impl Fleet {
    fn shown(&self, headers: &HeaderMap) -> Response {
        if headers.contains_key("hx-request") { shown(&self.as_rows()) } else { shown(self) }
    }
}

async fn list(
    site: &Site,
    signed: &Signed,
    from: &str,
    tenant: &str,
    asked: &Asked,
) -> Result<(Page<Stead>, FleetHealth), Refused> {
    let api = Api::new(site, &signed.caller);
    let query = asked.with(&[], &[("limit", &A_PAGE.to_string())]);
    let page = api.get(&format!("{from}?{query}")).await?;
    let query = asked.with(&["health", "cursor"], &[("tenant", tenant)]);
    let counts = api.get(&format!("/v1/steads/health?{query}")).await?;
    Ok((page, counts))
}
