//! Lambda's Invoke API: `POST /2015-03-31/functions/{name}/invocations`, and the same with a streamed response.
//!
//! [`answer`] is a service by itself, whatever it listens on; here it listens on a Unix socket, `functions/invoke.sock`,
//! for Stead's own processes, which the kernel tells apart from others. A function's name is its handle, `handle:version`,
//! or an ARN. Beside it, for the same callers, inspections.

mod event_stream;
mod inspections;
mod refusal;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use keeper::Host;
use serde::de::IgnoredAny;
use tokio::net::{UnixListener, UnixStream};

use crate::engine::Engine;
use crate::events::Origin;
use crate::function::Function;
use crate::invocation::{Answer, Call, Outcome, Piece};
use refusal::Refusal;

/// Lambda's limit of an event that is answered at once, bytes.
const MAX_EVENT: usize = 6 * 1024 * 1024;
/// Lambda's limit of one that is worked at later, bytes: 1 MiB since 2025, 256 KiB before.
const MAX_LATER: usize = 1024 * 1024;

const INVOCATION_TYPE: &str = "x-amz-invocation-type";
const LOG_TYPE: &str = "x-amz-log-type";
const CLIENT_CONTEXT: &str = "x-amz-client-context";
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const REMAPPED_TYPE: HeaderName = HeaderName::from_static("x-amzn-remapped-content-type");

/// The body of a response.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves the Unix socket for ever.
pub(crate) async fn serve(engine: Arc<Engine>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_of_stead(&engine, &stream) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let engine = engine.clone();
                        async move { Ok::<_, Infallible>(answer(&engine, request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    // How a client goes away is its own affair.
                    let _ = connection.await;
                });
            }
            Ok(_) => tracing::error!("somebody else than Stead's own processes called at the Invoke API"),
            Err(error) => {
                tracing::error!(%error, "cannot accept at the Invoke API; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Root, the control plane, or this process's own user.
fn is_of_stead(engine: &Engine, stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else { return false };
    let own = rustix::process::geteuid().as_raw();
    let control = Host::read(&engine.home).map(|host| host.control_uid());
    peer.uid() == 0 || peer.uid() == own || control.is_ok_and(|control| peer.uid() == control)
}

/// Answers a request, whoever was let in with it.
pub(crate) async fn answer(engine: &Arc<Engine>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let result = match (request.method(), parts.as_slice()) {
        (&Method::POST, ["2015-03-31", "functions", name, "invocations"]) => {
            invoke(engine, name, request, Form::Whole).await
        }
        (&Method::POST, ["2021-11-15", "functions", name, "response-streaming-invocations"]) => {
            invoke(engine, name, request, Form::Streamed).await
        }
        (&Method::POST, ["stead", "functions", handle, "inspections"]) => {
            inspections::begin(engine, handle, request)
        }
        (&Method::POST, ["stead", "functions", handle, "inspections", id]) => {
            inspections::connect(engine, handle, id, request).await
        }
        _ => Err(Refusal::UnknownOperation),
    };
    result.unwrap_or_else(|refusal| refusal.response())
}

/// How the caller wants the response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Streamed,
}

/// When the caller wants it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Now,
    Later,
    Never,
}

async fn invoke(
    engine: &Arc<Engine>,
    name: &str,
    request: Request<Incoming>,
    form: Form,
) -> Result<Response<Body>, Refusal> {
    let (parts, body) = request.into_parts();
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let kind = match text(INVOCATION_TYPE) {
        None | Some("RequestResponse") => Kind::Now,
        Some("Event") => Kind::Later,
        Some("DryRun") => Kind::Never,
        Some(other) => {
            return Err(Refusal::InvalidParameter(format!(
                "`{other}` is no invocation type; use RequestResponse, Event or DryRun"
            )));
        }
    };
    let (function, qualifier) = find(engine, name, parts.uri.query())?;
    // That there is such a version is told before anything is read.
    function.pool(qualifier, None)?;
    if kind == Kind::Never {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    let payload = read(body, if kind == Kind::Later { MAX_LATER } else { MAX_EVENT }).await?;
    let mut call = Call::new(payload).traced(text("x-amzn-trace-id"));
    call.qualifier = qualifier;
    call.client_context = client_context(&parts.headers)?;
    call.tail = text(LOG_TYPE) == Some("Tail");
    let id = call.id.clone();
    let mut response = if kind == Kind::Later {
        engine.events.accept(engine, &function, call, Origin::Invoke).await?;
        empty(StatusCode::ACCEPTED)
    } else {
        let outcome = function.call(qualifier, None, call).await?;
        match form {
            Form::Whole => whole(outcome).await,
            Form::Streamed => streamed(outcome).await,
        }
    };
    insert(&mut response, REQUEST_ID, &id);
    Ok(response)
}

/// The function that a name means, and the version where it names one.
fn find(engine: &Engine, name: &str, query: Option<&str>) -> Result<(Arc<Function>, Option<u64>), Refusal> {
    // Clients write the colons of a name as they like.
    let decoded = url::form_urlencoded::parse(format!("name={}", name.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    let short = decoded.rsplit_once(":function:").map_or(decoded.as_str(), |(_, short)| short);
    let short = short.strip_prefix("function:").unwrap_or(short);
    let (handle, in_name) = match short.split_once(':') {
        Some((handle, qualifier)) => (handle, Some(qualifier.to_owned())),
        None => (short, None),
    };
    let in_query = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(key, _)| key == "Qualifier")
        .map(|(_, value)| value.into_owned());
    let not_found = || Refusal::NotFound(format!("Function not found: {decoded}"));
    let qualifier = match in_query.or(in_name).as_deref() {
        None | Some("$LATEST" | "") => None,
        Some(version) => Some(version.parse().map_err(|_| not_found())?),
    };
    Ok((engine.table.get(handle).ok_or_else(not_found)?, qualifier))
}

/// The event: JSON, `{}` where there is none.
async fn read(body: Incoming, most: usize) -> Result<Bytes, Refusal> {
    let body = match Limited::new(body, most).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge(most)),
        Err(error) => return Err(Refusal::InvalidContent(error.to_string())),
    };
    if body.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    match serde_json::from_slice::<IgnoredAny>(&body) {
        Ok(_) => Ok(body),
        Err(error) => {
            Err(Refusal::InvalidContent(format!("Could not parse request body into json: {error}")))
        }
    }
}

/// What a mobile SDK says of its client: JSON, in base64, of which Lambda takes 3,583 bytes.
fn client_context(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(given) = headers.get(CLIENT_CONTEXT) else { return Ok(None) };
    let bad =
        || Refusal::InvalidContent("Client context must be a valid Base64-encoded JSON object.".to_owned());
    let decoded = STANDARD.decode(given.as_bytes()).ok().filter(|decoded| decoded.len() <= 3583);
    let decoded = decoded.ok_or_else(bad)?;
    let object: serde_json::Map<_, _> = serde_json::from_slice(&decoded).map_err(|_| bad())?;
    let text = serde_json::to_string(&object).map_err(|_| bad())?;
    // It goes on in a header.
    let escape = |c: char| match c {
        ' '..='~' => vec![c],
        other => {
            let mut units = [0; 2];
            let units = other.encode_utf16(&mut units).iter();
            units.flat_map(|unit| format!("\\u{unit:04x}").chars().collect::<Vec<_>>()).collect()
        }
    };
    Ok(Some(text.chars().flat_map(escape).collect()))
}

async fn whole(outcome: Outcome) -> Response<Body> {
    let Outcome { answer, tail, version } = outcome;
    let (body, failed) = match answer {
        Answer::Whole(body) => (body, false),
        Answer::Failed(failure) => (failure.body, true),
        Answer::Streamed { body, .. } => collect(body).await,
    };
    let mut response = json(StatusCode::OK, body);
    insert(&mut response, EXECUTED_VERSION, &version.to_string());
    if failed {
        insert(&mut response, FUNCTION_ERROR, "Unhandled");
    }
    if let Some(tail) = tail {
        insert(&mut response, LOG_RESULT, &STANDARD.encode(tail));
    }
    response
}

/// A streamed answer for somebody who wants it whole.
async fn collect(mut pieces: tokio::sync::mpsc::Receiver<Piece>) -> (Bytes, bool) {
    let mut all = Vec::new();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Data(data) => all.extend_from_slice(&data),
            Piece::End(None) => return (all.into(), false),
            Piece::End(Some(failure)) => return (failure.body, true),
        }
    }
    (all.into(), true)
}

async fn streamed(outcome: Outcome) -> Response<Body> {
    let Outcome { answer, tail, version } = outcome;
    let (body, content_type) = match answer {
        Answer::Whole(body) => {
            (messages([event_stream::chunk(&body), event_stream::complete(None, tail)]), None)
        }
        Answer::Failed(failure) => {
            (messages([Bytes::new(), event_stream::complete(Some(&failure), tail)]), None)
        }
        Answer::Streamed { content_type, body } => (passed_on(body), Some(content_type)),
    };
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/vnd.amazon.eventstream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    insert(&mut response, EXECUTED_VERSION, &version.to_string());
    insert(&mut response, REMAPPED_TYPE, content_type.as_deref().unwrap_or("application/json"));
    response
}

fn messages(messages: [Bytes; 2]) -> Body {
    Full::new(messages.concat().into()).boxed_unsync()
}

fn passed_on(pieces: tokio::sync::mpsc::Receiver<Piece>) -> Body {
    let frames = stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        let (message, rest) = match pieces.recv().await {
            Some(Piece::Data(data)) => (event_stream::chunk(&data), Some(pieces)),
            Some(Piece::End(failure)) => (event_stream::complete(failure.as_ref(), None), None),
            None => (event_stream::complete(Some(&event_stream::cut_off()), None), None),
        };
        Some((Ok(Frame::data(message)), rest))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn insert(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
