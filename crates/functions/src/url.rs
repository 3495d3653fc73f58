//! Functions' URLs: a port each, HTTP/1.1, and Lambda's events of format 2.0.
//!
//! TLS is a load balancer's matter, as it is that of AWS in front of Lambda; what it says in `X-Forwarded-*` is passed on.

mod answer;
mod event;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::engine::Engine;
use crate::function::Function;
use crate::invocation::{Call, Refused};
use answer::{Body, said};
use event::Asked;

/// Lambda's limit of a request, bytes.
const MAX_BODY: usize = 6 * 1024 * 1024;
/// A client that has begun a request has so long for its header.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// And then so long for its body.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Address and port.
type Place = (IpAddr, u16);

/// The ports that are open, and those that should be.
pub(crate) struct Ports {
    engine: Arc<Engine>,
    open: BTreeMap<Place, (String, JoinHandle<()>)>,
    troubles: BTreeMap<Place, (String, String)>,
}

impl Ports {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, open: BTreeMap::new(), troubles: BTreeMap::new() }
    }

    /// Opens what is missing and closes what is too much. Connections that were accepted go on.
    pub(crate) fn want(&mut self, wanted: &BTreeMap<Place, String>) {
        self.open.retain(|place, (function, task)| {
            let stays = wanted.get(place) == Some(function) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        self.troubles.retain(|place, _| wanted.contains_key(place));
        for (place, function) in wanted {
            if self.open.contains_key(place) {
                continue;
            }
            match listen((*place).into()) {
                Ok(listener) => {
                    self.troubles.remove(place);
                    let task = tokio::spawn(accept(self.engine.clone(), function.clone(), listener));
                    self.open.insert(*place, (function.clone(), task));
                }
                Err(error) => {
                    let why = format!("cannot listen on {}: {error}", SocketAddr::from(*place));
                    let told = self.troubles.insert(*place, (function.clone(), why.clone()));
                    if told.is_none_or(|(_, before)| before != why) {
                        tracing::error!(function, why, "a function's URL is not open; trying again");
                    }
                }
            }
        }
    }

    /// Whether something is to be tried again.
    pub(crate) fn any_trouble(&self) -> bool {
        !self.troubles.is_empty()
    }

    /// Whether a function's port is open everywhere it should be, and why it is not.
    pub(crate) fn state(&self, function: &str) -> (bool, Option<String>) {
        let trouble = self.troubles.values().find(|(of, _)| of == function).map(|(_, why)| why.clone());
        let open = self.open.values().any(|(of, _)| of == function);
        (open && trouble.is_none(), trouble)
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        for (_, task) in self.open.values() {
            task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Of a process that was killed, connections may linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(engine: Arc<Engine>, function: String, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(engine.limits.connections));
    let function: Arc<str> = function.into();
    loop {
        // With none free, new ones wait in the kernel.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (engine, function) = (engine.clone(), function.clone());
                tokio::spawn(async move {
                    converse(engine, &function, stream, peer).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, %function, "cannot accept at a function's URL; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(engine: Arc<Engine>, function: &str, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().map_or(0, |address| address.port());
    let service = service_fn(move |request| {
        let function = engine.table.get(function);
        async move {
            let answer = match function {
                Some(function) => serve(&function, peer, local, request).await,
                None => said(StatusCode::NOT_FOUND, "Not Found"),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), service);
    // How a client goes away is its own affair.
    let _ = connection.await;
}

async fn serve(
    function: &Function,
    peer: SocketAddr,
    port: u16,
    request: Request<Incoming>,
) -> Response<Body> {
    let route = function.route();
    let Some(url) = &route.url else { return said(StatusCode::NOT_FOUND, "Not Found") };
    if let Some(expected) = &url.token_sha256
        && !may_call(request.headers(), expected)
    {
        return said(StatusCode::FORBIDDEN, "Forbidden");
    }
    let (mut parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    if url.token_sha256.is_some() {
        // It opens this door; the function has no use for it.
        parts.headers.remove(AUTHORIZATION);
    }
    let trace = parts.headers.get("x-amzn-trace-id").and_then(|trace| trace.to_str().ok());
    let mut call = Call::new(Bytes::new()).traced(trace);
    let asked = Asked { parts: &parts, body: &body, peer, port, function: &route.function };
    call.payload = match event::payload(&asked, &call) {
        Ok(payload) => payload,
        Err(error) => {
            tracing::error!(%error, "an event could not be written");
            return said(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
        }
    };
    let id = call.id.clone();
    let address = peer.ip().to_string();
    let agent = parts.headers.get(hyper::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let outcome = function.call(None, Some(&[&address, agent.unwrap_or_default()]), call).await;
    let mut response = match outcome {
        Ok(outcome) => {
            let version = outcome.version;
            let response = answer::respond(outcome.answer).await;
            function.count(version, response.status().is_server_error());
            response
        }
        Err(Refused::NotFound(_)) => said(StatusCode::NOT_FOUND, "Not Found"),
        Err(Refused::Busy) => said(StatusCode::TOO_MANY_REQUESTS, "Rate Exceeded."),
        Err(Refused::Unavailable(why)) => {
            tracing::error!(function = route.function, why, "a function's call found no worker");
            said(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable")
        }
    };
    if let Ok(id) = hyper::header::HeaderValue::from_maybe_shared(Bytes::from(id)) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// Whether the caller brings the token, whose hash alone is known. How long this takes tells nothing about it.
fn may_call(headers: &HeaderMap, expected: &str) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((scheme, token)) = given.split_once(' ') else { return false };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return false;
    }
    let hash = Sha256::digest(token.trim().as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hash.as_bytes().ct_eq(expected.to_ascii_lowercase().as_bytes()).into()
}

async fn read(body: Incoming) -> Result<Bytes, Box<Response<Body>>> {
    let Ok(read) = timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await else {
        return Err(Box::new(said(StatusCode::REQUEST_TIMEOUT, "Request Timeout")));
    };
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let mut refusal = said(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
            // The rest of it is not read.
            let close = hyper::header::HeaderValue::from_static("close");
            refusal.headers_mut().insert(hyper::header::CONNECTION, close);
            Err(Box::new(refusal))
        }
        Err(_) => Err(Box::new(said(StatusCode::BAD_REQUEST, "Bad Request"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_token_opens() {
        let hash: String = Sha256::digest(b"secret").iter().map(|byte| format!("{byte:02x}")).collect();
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            may_call(&headers, &hash)
        };
        assert!(with("Bearer secret") && with("bearer secret"));
        assert!(!with("Bearer secret2") && !with("Basic secret") && !with("secret") && !with(""));
        assert!(!may_call(&HeaderMap::new(), &hash));
    }
}
