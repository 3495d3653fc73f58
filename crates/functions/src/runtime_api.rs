//! The runtime API, version 2018-06-01, on a worker's own listener.
//!
//! Whoever speaks here is the worker, known by the listener; no header is believed in that. What Lambda's API does where
//! its description says nothing is as AWS's own emulator does it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::hearing::{Ear, Line};
use crate::invocation::{Answer, ErrorShape, Failure, Piece};
use crate::worker::{Delivery, Ending, Worker, Wrong};

/// Most that a whole answer may be, bytes: 6 MiB, and what Lambda adds for an envelope.
pub(crate) const MAX_ANSWER: usize = 6 * 1024 * 1024 + 100;
/// Most that a streamed answer may be, bytes.
const MAX_STREAM: usize = 200 * 1024 * 1024;
/// Most that an error may be, bytes; what is longer is cut off by the runtime's own trace first.
const MAX_ERROR: usize = 256 * 1024;

/// The processes of a worker that is let go end within less.
const FAREWELL: Duration = Duration::from_secs(10);

const PREFIX: &str = "/2018-06-01/runtime/";
const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
const ARN: HeaderName = HeaderName::from_static("lambda-runtime-invoked-function-arn");
const TRACE: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("lambda-runtime-client-context");
const NONCE: HeaderName = HeaderName::from_static("lambda-runtime-invocation-id");
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");
const ERROR_BODY: HeaderName = HeaderName::from_static("lambda-runtime-function-error-body");
/// Our own: with `next`, the next invocation is what is said to an answer that is taken, so that a runtime that comes with
/// Stead is woken once an invocation, not twice.
const THEN: HeaderName = HeaderName::from_static("stead-then");
const MODE: HeaderName = HeaderName::from_static("lambda-runtime-function-response-mode");

type Answered = Response<Full<Bytes>>;

/// Serves a worker's runtime until the worker has ended.
pub(crate) async fn serve(worker: Arc<Worker>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.ended() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(converse(worker.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, worker = %worker.name, "cannot accept at a runtime API");
                return;
            }
        }
    }
}

async fn converse(worker: Arc<Worker>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let line = Line::new(stream);
    let of = (worker.clone(), line.clone());
    let service = service_fn(move |request| {
        let (worker, line) = of.clone();
        async move { Ok::<_, Infallible>(answer(&worker, &line, request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(Ear(line)), service);
    tokio::select! {
        _ = connection => {}
        () = forgotten(&worker) => {}
    }
}

/// Waits until a worker has ended, and its processes had time to. Until then its runtime is told nothing: it would only
/// write into the log that nobody is there any more.
async fn forgotten(worker: &Worker) {
    worker.ended().await;
    tokio::time::sleep(FAREWELL).await;
}

async fn answer(worker: &Arc<Worker>, line: &Arc<Line>, request: Request<Incoming>) -> Answered {
    worker.lives();
    let path = request.uri().path().to_owned();
    let Some(rest) = path.strip_prefix(PREFIX) else { return not_found() };
    let parts: Vec<_> = rest.split('/').collect();
    let then = text(request.headers(), &THEN) == Some("next");
    let answered = match (request.method(), parts.as_slice()) {
        (&Method::GET, ["invocation", "next"]) => return next(worker, line).await,
        (&Method::POST, ["invocation", id, "response"]) => response(worker, id, request).await,
        (&Method::POST, ["invocation", id, "error"]) => error(worker, id, request).await,
        (&Method::POST, ["init", "error"]) => return init_error(worker, request).await,
        _ => return not_found(),
    };
    if then && answered.status() == StatusCode::ACCEPTED { next(worker, line).await } else { answered }
}

async fn next(worker: &Arc<Worker>, line: &Arc<Line>) -> Answered {
    let delivery = match worker.next(line) {
        Ok(delivery) => delivery.await,
        Err(wrong) => return refuse(wrong),
    };
    match delivery {
        Ok(delivery) => deliver(delivery),
        Err(_) if worker.has_ended() => std::future::pending().await,
        // It was asked for again on another connection.
        Err(_) => refuse(Wrong::State("Exited")),
    }
}

fn deliver(delivery: Delivery) -> Answered {
    let mut answer = Response::new(Full::new(delivery.payload));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(DEADLINE, delivery.deadline_ms.into());
    let texts = [
        (REQUEST_ID, Some(delivery.id)),
        (NONCE, Some(delivery.nonce)),
        (ARN, Some(delivery.arn)),
        (TRACE, Some(delivery.trace)),
        (CLIENT_CONTEXT, delivery.client_context),
    ];
    for (name, text) in texts {
        // What cannot stand in a header was refused where it came in.
        if let Some(value) = text.and_then(|text| HeaderValue::from_maybe_shared(Bytes::from(text)).ok()) {
            headers.insert(name, value);
        }
    }
    answer
}

async fn response(worker: &Arc<Worker>, id: &str, request: Request<Incoming>) -> Answered {
    let (parts, body) = request.into_parts();
    let nonce = text(&parts.headers, &NONCE);
    if let Err(wrong) = worker.may_answer(id, nonce) {
        return refuse(wrong);
    }
    if text(&parts.headers, &MODE).is_some_and(|mode| mode.eq_ignore_ascii_case("streaming")) {
        return stream(worker, id, &parts.headers, body).await;
    }
    let answered = match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => worker.answer(id, nonce, Answer::Whole(body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => return too_large(worker, id, nonce, &parts.headers),
        Err(error) => {
            let message = format!("the answer was cut off: {error}");
            worker.answer(id, nonce, Answer::Failed(failed("Runtime.TruncatedResponse", message)))
        }
    };
    end(answered).await
}

/// An invocation that has ended. The caller's turn comes first, then the log's and the runtime's.
async fn end(ended: Result<Ending<'_>, Wrong>) -> Answered {
    tokio::task::yield_now().await;
    accept(ended.map(drop))
}

fn too_large(worker: &Worker, id: &str, nonce: Option<&str>, headers: &HeaderMap) -> Answered {
    let size = headers.get(hyper::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let message = format!(
        "Response payload size ({} bytes) exceeded maximum allowed payload size ({MAX_ANSWER} bytes).",
        size.unwrap_or("more")
    );
    let failure = Answer::Failed(failed("Function.ResponseSizeTooLarge", message));
    if let Err(wrong) = worker.answer(id, nonce, failure) {
        return refuse(wrong);
    }
    let message = format!("Exceeded maximum allowed payload size ({MAX_ANSWER} bytes).");
    // The rest of the answer is not read.
    let mut answer = told(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message);
    answer.headers_mut().insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// An error that costs nobody a worker.
fn failed(kind: &str, message: String) -> Failure {
    Failure { fatal: false, ..Failure::found(kind, message) }
}

async fn stream(worker: &Arc<Worker>, id: &str, headers: &HeaderMap, mut body: Incoming) -> Answered {
    let content_type = text(headers, &CONTENT_TYPE).unwrap_or("application/octet-stream").to_owned();
    let pieces = match worker.begin_stream(id, text(headers, &NONCE), content_type) {
        Ok(pieces) => pieces,
        Err(wrong) => return refuse(wrong),
    };
    let failure = copy(&mut body, &pieces).await;
    worker.end_stream(id, failure);
    accept(Ok(()))
}

/// Passes on what comes; what was wrong with it in the end.
async fn copy(body: &mut Incoming, pieces: &mpsc::Sender<Piece>) -> Option<Failure> {
    let mut sent = 0;
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                return Some(failed("Runtime.TruncatedResponse", format!("the answer was cut off: {error}")));
            }
        };
        match frame.into_data() {
            Ok(data) => {
                sent += data.len();
                if sent > MAX_STREAM {
                    let message = format!("Response payload size exceeded {MAX_STREAM} bytes.");
                    return Some(failed("Function.ResponseSizeTooLarge", message));
                }
                // Where nobody reads any more the function still comes to its end.
                let _ = pieces.send(Piece::Data(data)).await;
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return in_trailers(&trailers);
                }
            }
        }
    }
    None
}

/// The error that stands behind a streamed answer, if any.
fn in_trailers(trailers: &HeaderMap) -> Option<Failure> {
    let kind = text(trailers, &ERROR_TYPE)?;
    let body = text(trailers, &ERROR_BODY).and_then(|body| STANDARD.decode(body).ok()).unwrap_or_default();
    Some(Failure { error_type: kind.to_owned(), body: body.into(), fatal: false })
}

async fn error(worker: &Arc<Worker>, id: &str, request: Request<Incoming>) -> Answered {
    let (parts, body) = request.into_parts();
    let nonce = text(&parts.headers, &NONCE).map(str::to_owned);
    if let Err(wrong) = worker.may_answer(id, nonce.as_deref()) {
        return refuse(wrong);
    }
    match read_error(&parts.headers, body).await {
        Ok(failure) => end(worker.answer(id, nonce.as_deref(), Answer::Failed(failure))).await,
        Err(answer) => *answer,
    }
}

async fn init_error(worker: &Arc<Worker>, request: Request<Incoming>) -> Answered {
    let (parts, body) = request.into_parts();
    match read_error(&parts.headers, body).await {
        Ok(failure) => accept(worker.init_failed(failure)),
        Err(answer) => *answer,
    }
}

async fn read_error(headers: &HeaderMap, body: Incoming) -> Result<Failure, Box<Answered>> {
    let body = match Limited::new(body, MAX_ERROR).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            let message = format!("Exceeded maximum allowed payload size ({MAX_ERROR} bytes).");
            return Err(Box::new(told(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)));
        }
    };
    let kind = text(headers, &ERROR_TYPE).map(str::to_owned);
    let kind =
        kind.or_else(|| serde_json::from_slice::<ErrorShape>(&body).ok().map(|shape| shape.error_type));
    Ok(Failure { error_type: kind.unwrap_or_else(|| "Runtime.Unknown".to_owned()), body, fatal: false })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn accept(result: Result<(), Wrong>) -> Answered {
    match result {
        Ok(()) => json(StatusCode::ACCEPTED, Bytes::from_static(b"{\"status\":\"OK\"}\n")),
        Err(wrong) => refuse(wrong),
    }
}

fn refuse(wrong: Wrong) -> Answered {
    match wrong {
        Wrong::RequestId => {
            told(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID".to_owned())
        }
        Wrong::State(state) => {
            let message = format!("State transition from {state} failed for runtime. Error: not allowed");
            told(StatusCode::FORBIDDEN, "InvalidStateTransition", message)
        }
        Wrong::Stale => {
            let message = "The invocation is over; this answer is to an earlier attempt of it".to_owned();
            told(StatusCode::GONE, "InvocationTimeout", message)
        }
    }
}

fn told(status: StatusCode, kind: &str, message: String) -> Answered {
    let shape = ErrorShape { error_type: kind.to_owned(), error_message: message };
    json(status, serde_json::to_vec(&shape).unwrap_or_default().into())
}

fn json(status: StatusCode, body: Bytes) -> Answered {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn not_found() -> Answered {
    let mut answer = Response::new(Full::new(Bytes::from_static(b"404 page not found\n")));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}
