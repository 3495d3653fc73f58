//! Numbers for whoever asks by HTTP: `GET /metrics`, and nothing else. One request a connection, few
//! connections at once, little time and small headers; a body is not read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::metrics::{self, Sources};

/// OpenMetrics, as its specification names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at once.
const PLACES: usize = 8;
/// Longest request line and headers together, bytes.
const HEADERS: usize = 16 * 1024;
/// Until the headers are there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until the answer is taken.
const WHOLE: Duration = Duration::from_secs(10);

/// Answers questions.
pub(crate) struct Scrapes {
    sources: Sources,
    places: Semaphore,
}

impl Scrapes {
    /// Of these numbers.
    pub(crate) fn new(sources: Sources) -> Arc<Scrapes> {
        Arc::new(Scrapes { sources, places: Semaphore::new(PLACES) })
    }

    /// Serves one connection to its end; closes it at once where there are too many.
    pub(crate) async fn serve(&self, tcp: TcpStream) {
        let Ok(_place) = self.places.try_acquire() else { return };
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(HEADERS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(tcp), service);
        match timeout(WHOLE, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a question for metrics ended"),
            Err(_) => tracing::debug!("the answer to a question for metrics was not taken"),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let plain = |status: StatusCode, text: &'static str| {
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = status;
            response
        };
        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "there is /metrics only\n");
        }
        if request.method() != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
            return response;
        }
        match metrics::text(&self.sources) {
            Ok(text) => {
                let mut response = Response::new(Full::from(text));
                let kind = hyper::header::HeaderValue::from_static(OPEN_METRICS);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "cannot write the metrics");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "see the gateway's log\n")
            }
        }
    }
}
