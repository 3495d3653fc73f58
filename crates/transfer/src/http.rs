//! HTTP to the one place outside that a bucket is at, over its relay.
//!
//! Whatever is no answer to what was asked becomes a [`Failed`] here, where status and body are known: behind this an
//! error goes through several crates, and some keep nothing but its text.

use std::error::Error as Cause;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpService,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::Service;

use crate::bucket::{About, Failed};
use crate::relay::Relay;
use crate::{Error, explain};

/// How long a request may take until it is answered: one of 8 MiB over a slow line.
const ANSWER: Duration = Duration::from_secs(120);
/// How long an answer may be interrupted.
const SILENT: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read where it is a refusal, about.
const REFUSAL: usize = 16 * 1024;
/// Connections that are kept for the next request, and for how long.
const IDLE: usize = 8;
const IDLE_FOR: Duration = Duration::from_secs(20);

/// See above.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<Dial, HttpRequestBody>,
    about: Arc<About>,
}

impl Http {
    /// Without a relay each request fails with why there is none.
    pub(crate) fn new(relay: Result<Relay, Failed>, about: Arc<About>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(IDLE_FOR)
            .build(Dial { relay });
        Self { client, about }
    }

    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, (HttpErrorKind, Failed)> {
        let silent = |_| (HttpErrorKind::Timeout, self.about.unreachable("it does not answer"));
        let answer = timeout(ANSWER, self.client.request(request)).await.map_err(silent)?;
        let (head, mut body) = answer.map_err(|error| self.broken(&error))?.into_parts();
        let mut held = BytesMut::with_capacity(expected(&body));
        while let Some(frame) = timeout(SILENT, body.frame()).await.map_err(silent)? {
            let frame = frame.map_err(|error| self.broken(&error))?;
            held.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if !head.status.is_success() && held.len() > REFUSAL {
                break;
            }
        }
        if head.status.is_success() {
            return Ok(Response::from_parts(head, held.freeze().into()));
        }
        match self.refused(head.status, &head.headers, &held) {
            Some(failed) => Err(failed),
            // The status says it all, and what else is said there would be repeated in messages.
            None => Ok(Response::from_parts(head, Bytes::new().into())),
        }
    }

    /// A connection that could not be made, or ended.
    fn broken(&self, error: &(dyn Cause + 'static)) -> (HttpErrorKind, Failed) {
        let about = &self.about;
        let mut causes = explain::causes(error);
        let certificate = causes.find_map(|cause| cause.downcast_ref::<rustls::Error>());
        if let Some(certificate) = certificate {
            return (HttpErrorKind::Unknown, about.not_believed(certificate));
        }
        if let Some(failed) = explain::causes(error).find_map(|cause| cause.downcast_ref::<Failed>()) {
            return (HttpErrorKind::Unknown, failed.clone());
        }
        match explain::causes(error).find_map(|cause| cause.downcast_ref::<Error>()) {
            Some(Error::Unreachable(why)) => (HttpErrorKind::Connect, about.unreachable(why)),
            _ => {
                let why = format!("the connection broke: {}", explain::root(error));
                (HttpErrorKind::Interrupted, about.unreachable(&why))
            }
        }
    }

    /// What an answer says that is none. That something is not there, or is there already, is one.
    fn refused(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<(HttpErrorKind, Failed)> {
        let text = String::from_utf8_lossy(body);
        let code = element(&text, "Code").unwrap_or_default();
        let is_known = matches!(
            status,
            StatusCode::NOT_FOUND
                | StatusCode::NOT_MODIFIED
                | StatusCode::CONFLICT
                | StatusCode::PRECONDITION_FAILED
        );
        if is_known && code != "NoSuchBucket" {
            return None;
        }
        let again = status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        let kind = if again { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
        let region = headers.get("x-amz-bucket-region").and_then(|region| word(region.to_str().ok()?));
        let region = region.or_else(|| element(&text, "Region"));
        Some((kind, self.about.refused(status.as_u16(), code, region)))
    }
}

/// Bytes that an answer may have, as far as they are reserved at once.
fn expected(body: &Incoming) -> usize {
    usize::try_from(body.size_hint().lower()).unwrap_or_default().min(64 << 20)
}

/// The word in an element of XML; an error of S3 has each once.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    after.split_once("</").and_then(|(inside, _)| word(inside.trim()))
}

/// What a store says is repeated where it is a word, and so no more than that.
fn word(text: &str) -> Option<&str> {
    let fits = (1..=64).contains(&text.len());
    (fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')).then_some(text)
}

#[async_trait::async_trait]
impl HttpService for Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.ask(request).await.map_err(|(kind, failed)| {
            self.about.has_failed(&failed);
            HttpError::new(kind, failed)
        })
    }
}

impl HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// Makes connections, whatever is asked for: there is one place.
#[derive(Debug, Clone)]
struct Dial {
    relay: Result<Relay, Failed>,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Connection for Box<dyn Duplex> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Box<dyn Duplex>>;
    type Error = Box<dyn Cause + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let relay = self.relay.clone();
        Box::pin(async move {
            let relay = relay?;
            let stream = relay.connect().await?;
            let stream: Box<dyn Duplex> = match &relay.tls {
                None => Box::new(stream),
                Some(tls) => {
                    let name = ServerName::try_from(relay.host.clone())?;
                    Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await?)
                }
            };
            Ok(TokioIo::new(stream))
        })
    }
}
