//! `Idempotency-Key`: a request that is sent again, because its answer got lost, is answered as it was the first
//! time instead of being done twice.
//!
//! Kept is the first answer that means anything: done, or refused. An answer that only says "not now" (503) or
//! "our mistake" (500) is not: the same key then tries again.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::idempotency::Known;
use uuid::Uuid;

use crate::access::Caller;
use crate::extract::{read, text_of};
use crate::problem::{Kind, Problem};
use crate::{App, problem};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that this answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key, characters.
const LONGEST_KEY: usize = 200;

/// Replays the first answer to a key, or keeps this one.
pub(crate) async fn replay(
    State(app): State<App>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(next.run(request).await);
    }
    let Some(key) = key_of(request.headers())? else { return Ok(next.run(request).await) };
    // The console's pages send none.
    let Some(token) = caller.token().map(|token| token.id) else { return Ok(next.run(request).await) };
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let mut hash = Sha256::new();
    // With the lengths before them, no two requests read the same.
    for part in [parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or_default()] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let hash = hash.chain_update(&body).finalize();
    match app.store.begin_idempotent(token, &key, &hash).await? {
        Known::Answered { status, response } => return answer(status, response),
        Known::Running => {
            let detail = "a request with this `Idempotency-Key` is still on its way; repeat in a moment";
            return Err(Problem::new(Kind::RequestRunning, detail));
        }
        Known::Other => {
            let detail =
                "this `Idempotency-Key` was used for another request; use a new one for a new request";
            return Err(Problem::new(Kind::KeyReused, detail));
        }
        Known::New => {}
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep(&app, token, &key, response).await
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = text_of(headers, KEY)? else { return Ok(None) };
    if key.is_empty() || key.len() > LONGEST_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let detail = format!("`Idempotency-Key` is 1 to {LONGEST_KEY} visible characters without spaces");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(key.to_owned()))
}

/// What is kept of an answer, and put back when it is given again.
async fn keep(app: &App, token: Uuid, key: &str, response: Response) -> Result<Response, Problem> {
    if response.status().is_server_error() {
        app.store.forget_idempotent(token, key).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = read(body).await?;
    let kept = json!({
        "etag": parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()),
        "body": serde_json::from_slice::<Value>(&body).unwrap_or_default(),
    });
    if let Err(error) = app.store.end_idempotent(token, key, parts.status.as_u16(), &kept).await {
        // It is done all the same; only a repetition within two minutes would be told that it is on its way.
        tracing::error!(%error, "an answer could not be kept for its idempotency key");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn answer(status: u16, mut kept: Value) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(status).map_err(|error| Problem::internal(&error))?;
    let body = kept.get_mut("body").map(Value::take).unwrap_or_default();
    let mut headers = HeaderMap::new();
    let tag = kept.get("etag").and_then(Value::as_str).and_then(|tag| HeaderValue::from_str(tag).ok());
    headers.extend(tag.map(|tag| (header::ETAG, tag)));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if body.is_null() {
        return Ok((status, headers).into_response());
    }
    let media_type = if status.is_success() { "application/json" } else { problem::MEDIA_TYPE };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok((status, headers, body.to_string()).into_response())
}
