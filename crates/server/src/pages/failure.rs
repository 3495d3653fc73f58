//! A page that cannot be shown: what happened, and what to do.

use askama::Template;
use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{Html, IntoResponse, Response};
use client::wire;
use serde::de::DeserializeOwned;

use super::Site;
use super::api::Refused;
use super::frame::Frame;
use crate::problem::{Kind, Problem};

/// Why a page cannot be shown.
pub(crate) struct Failure {
    problem: wire::Problem,
    frame: Frame,
}

#[derive(Template)]
#[template(path = "failure.html")]
struct Page<'a> {
    frame: &'a Frame,
    problem: &'a wire::Problem,
}

impl Failure {
    pub(crate) fn new(site: &Site, problem: impl Into<Refused>) -> Self {
        Self { problem: problem.into().0, frame: Frame::open(site) }
    }

    /// Around it what surrounds the person's other pages.
    pub(crate) fn within(frame: Frame, problem: impl Into<Refused>) -> Self {
        Self { problem: problem.into().0, frame }
    }
}

impl Page<'_> {
    /// What happened, to a person: the API's own title speaks of tokens.
    fn title(&self) -> &str {
        if self.problem.status == StatusCode::FORBIDDEN.as_u16() {
            "Not for your role"
        } else {
            &self.problem.title
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let page = Page { frame: &self.frame, problem: &self.problem };
        (status, shown(&page)).into_response()
    }
}

/// A path at which there is no page.
pub(crate) fn nothing_here(site: &Site) -> Response {
    let detail = "there is no page at this address; it may have been moved, or removed";
    Failure::new(site, Problem::new(Kind::NotFound, detail)).into_response()
}

/// A template as a page.
pub(crate) fn shown(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// What the path of a page names; a path that can name nothing is a page that is not there.
pub(crate) struct At<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Site> for At<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Failure> {
        match Path::<T>::from_request_parts(parts, site).await {
            Ok(Path(named)) => Ok(Self(named)),
            Err(_) => {
                let detail = "there is no such page; look at how its address is written";
                Err(Failure::new(site, Problem::new(Kind::NotFound, detail)))
            }
        }
    }
}
