//! What stands around every route.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use crate::problem::{Kind, Problem};

/// Longer than the longest wait: who is answered with this hit a fault of Stead's own.
const DEADLINE: Duration = Duration::from_secs(90);
/// Longer than any function may take.
const LONGEST_CALL: Duration = Duration::from_secs(930);

/// The request's id, in the answer and in every line logged for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of every answer that says nothing else: what is answered is for the asker alone, and is what it says it is.
const ALWAYS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// Gives the request an id, logs how it went, and adds the headers of every answer. The query is not logged: it
/// may hold a reason in somebody's words.
pub(crate) async fn traced(request: Request, next: Next) -> Response {
    let id = Uuid::new_v4().to_string();
    let started = Instant::now();
    let path = loggable(request.uri().path());
    let span = tracing::info_span!("request", id, method = %request.method(), path);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::info!(status, ms, "answered"));
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// A path without the secret that the link of an invitation is.
fn loggable(path: &str) -> &str {
    const INVITATION: &str = "/invitations/";
    match path.split_once(INVITATION) {
        Some((before, _)) if !before.contains("/v1/") => &path[..before.len() + INVITATION.len()],
        _ => path,
    }
}

/// Ends a request that takes too long.
pub(crate) async fn deadline(request: Request, next: Next) -> Response {
    // A function has its own deadline.
    let calls = request.uri().path().ends_with("/invocations");
    let deadline = if calls { LONGEST_CALL } else { DEADLINE };
    match tokio::time::timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            Kind::Unavailable,
            "this took too long and was given up; look at the stead, then repeat",
        )
        .into_response(),
    }
}

/// Runs an edit in a task of its own: a caller who hangs up neither stops it half way nor keeps its refusal off
/// the record.
pub(crate) async fn to_the_end(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request).in_current_span()).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panicked(payload),
            Err(error) => Problem::internal(&error).into_response(),
        },
    }
}

/// A handler panicked: a mistake of ours, of which the caller is told that it is one.
pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let words = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    Problem::internal(&words).into_response()
}

/// Whether a request is one of the API's, and not of a page's.
pub(crate) fn is_of_the_api(request: &Request) -> bool {
    request.uri().path() == "/v1" || request.uri().path().starts_with("/v1/")
}

/// Takes the prefix of the console off a path that has it.
pub(crate) fn strip(base: &str, request: &mut Request) {
    let Some(path) = request.uri().path_and_query() else { return };
    let Some(rest) = path.as_str().strip_prefix(base) else { return };
    let rest = match rest.chars().next() {
        Some('/') => rest.to_owned(),
        None | Some('?') => format!("/{rest}"),
        Some(_) => return,
    };
    if let Ok(uri) = rest.parse() {
        *request.uri_mut() = uri;
    }
}

/// A path that is no route.
pub(crate) fn nothing_here() -> Response {
    let detail = "there is nothing at this path; /v1/openapi.json describes every route";
    Problem::new(Kind::NotFound, detail).into_response()
}

/// A route without this method; `Allow` says which it has.
pub(crate) async fn no_such_method(method: Method) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not a method of this resource; `Allow` names those it has"),
    )
}
