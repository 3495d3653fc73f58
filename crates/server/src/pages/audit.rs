//! The record for those who have to prove something: looked through as the timeline is, and taken along as a file.

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use component::TenantName;

use super::Site;
use super::api::Api;
use super::asked::Asked;
use super::failure::At;
use super::frame::Frame;
use super::timeline::{FILTERS, Timeline, asked, search};
use crate::access::Action;
use crate::problem::Problem;
use crate::sign_in::Signed;

/// `GET /tenants/{tenant}/audit`
pub(crate) async fn of_tenant(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    RawQuery(query): RawQuery,
) -> Response {
    let caller = &signed.caller;
    let frame = Frame::of(&site, caller, "audit").in_tenant(caller, tenant.as_str());
    // Whoever may look may read these lines in the timeline; the page is for those who may take them along. That the
    // tenant is there at all is the API's to say.
    let may = async {
        let tenant = caller.visible(&site.app.store, &tenant).await?;
        caller.may_in(&tenant, Action::Audit)
    };
    if let Err(problem) = may.await {
        return frame.failure(problem).into_response();
    }
    let path = format!("{}/audit", frame.of_tenant());
    page(&site, &signed, frame, &format!("/v1/tenants/{tenant}/history"), path, query).await
}

/// `GET /audit`
pub(crate) async fn whole(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "audit");
    let path = format!("{}/audit", frame.base);
    page(&site, &signed, frame, "/v1/history", path, query).await
}

async fn page(
    site: &Site,
    signed: &Signed,
    frame: Frame,
    from: &str,
    path: String,
    query: Option<String>,
) -> Response {
    let asked = asked(query.as_deref());
    match search(site, signed, from, &asked).await {
        Ok(found) => Timeline::audit(frame, asked, found, path).shown(),
        Err(refused) => frame.failure(refused).into_response(),
    }
}

/// `GET /tenants/{tenant}/audit/export`
pub(crate) async fn export_of_tenant(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "audit").in_tenant(&signed.caller, tenant.as_str());
    export(&site, &signed, &frame, &format!("/v1/tenants/{tenant}/history-export"), query.as_deref()).await
}

/// `GET /audit/export`
pub(crate) async fn export_of_whole(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "audit");
    export(&site, &signed, &frame, "/v1/history-export", query.as_deref()).await
}

/// Passes the API's file on while it is read.
async fn export(site: &Site, signed: &Signed, frame: &Frame, from: &str, query: Option<&str>) -> Response {
    let asked = Asked::of(query, &[&FILTERS[..], &["format"]].concat());
    let mut request = Request::new(Body::empty());
    match format!("{from}?{}", asked.with(&[], &[])).parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return frame.failure(Problem::internal(&error)).into_response(),
    }
    match Api::new(site, &signed.caller).raw(request).await {
        Ok(file) => file,
        Err(refused) => frame.failure(refused).into_response(),
    }
}
