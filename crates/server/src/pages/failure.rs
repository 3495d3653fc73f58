//! A page that cannot be shown: what happened, and what to do.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use client::wire;

use super::Site;
use super::api::Refused;
use super::frame::Frame;
use crate::problem::Problem;

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

impl Page<'_> {
    /// What happened, for somebody who has no token.
    fn title(&self) -> &str {
        if self.problem.status == 403 { "Not allowed" } else { &self.problem.title }
    }
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

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let page = Page { frame: &self.frame, problem: &self.problem };
        (status, shown(&page)).into_response()
    }
}

/// A template as a page.
pub(crate) fn shown(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}
