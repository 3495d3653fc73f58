//! The API, asked in the same process for the person who looks at a page.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use client::wire;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt;

use super::Site;
use crate::access::Caller;
use crate::problem::Problem;

/// Largest answer that a page is made of, bytes.
const LARGEST: usize = 32 * 1024 * 1024;

/// What the API said no to, or what went wrong inside.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) wire::Problem);

impl Refused {
    /// What is wrong with a field of the request; `name` is the last part of its pointer.
    pub(crate) fn of_field(&self, name: &str) -> Option<&str> {
        let of = |error: &&wire::FieldProblem| error.pointer.split('/').any(|part| part == name);
        self.0.errors.iter().find(of).map(|error| error.detail.as_str())
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem.wire())
    }
}

/// Asks for somebody.
pub(crate) struct Api<'a> {
    site: &'a Site,
    caller: &'a Caller,
}

impl<'a> Api<'a> {
    pub(crate) fn new(site: &'a Site, caller: &'a Caller) -> Self {
        Self { site, caller }
    }

    /// The answer as it comes: for what is passed on to the browser.
    pub(crate) async fn raw(&self, mut request: Request) -> Result<Response, Refused> {
        request.extensions_mut().insert(self.caller.clone());
        let Ok(response) = self.site.api.clone().oneshot(request).await;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = bytes(response).await?;
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(Refused(problem)),
            Err(_) => Err(Problem::internal(&format!("the API answered {status} without a problem")).into()),
        }
    }

    /// What a path shows.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refused> {
        self.send(Method::GET, path, None, None).await.map(|(_, shown)| shown)
    }

    /// Does something; `tag` is the `ETag` that it has to be at.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        tag: Option<i64>,
    ) -> Result<(StatusCode, T), Refused> {
        let mut request = Request::new(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
        *request.method_mut() = method;
        // All that a person wrote in a path is escaped; what it can be is too long.
        let too_long = |_| Problem::bad_request("what was written is too long for one field; write less");
        *request.uri_mut() = path.parse().map_err(too_long)?;
        let headers = request.headers_mut();
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        match tag {
            Some(0) => {
                headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            Some(tag) => {
                let tag = HeaderValue::from_str(&format!("\"{tag}\""));
                headers.insert(header::IF_MATCH, tag.map_err(|error| Problem::internal(&error))?);
            }
            None => {}
        }
        let response = self.raw(request).await?;
        let status = response.status();
        let body = bytes(response).await?;
        // What has no body is read as `null`.
        let body = if body.is_empty() { b"null"[..].into() } else { body };
        let shown = serde_json::from_slice(&body).map_err(|error| Problem::internal(&error))?;
        Ok((status, shown))
    }
}

async fn bytes(response: Response) -> Result<axum::body::Bytes, Refused> {
    let read = axum::body::to_bytes(response.into_body(), LARGEST).await;
    read.map_err(|error| Problem::internal(&error).into())
}

/// A value for a query or a path.
pub(crate) fn escaped(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>().replace('+', "%20")
}
