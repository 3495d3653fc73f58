//! The engine of functions of this host, for calls through the API: by its Invoke API, on a socket of its own.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::HeaderMap;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use server::functions::{Answer, Call, Functions};
use tokio::net::UnixStream;

/// Longest answer, bytes: six MiB of a handler's, and an error around it.
const LONGEST: usize = 8 * 1024 * 1024;

/// Calls through the engine's socket.
pub(crate) struct InvokeSocket(PathBuf);

impl InvokeSocket {
    /// Of a home.
    pub(crate) fn new(home: &Path) -> Self {
        Self(home.join("functions/invoke.sock"))
    }
}

#[async_trait]
impl Functions for InvokeSocket {
    async fn invoke(&self, call: Call) -> io::Result<Answer> {
        let stream = UnixStream::connect(&self.0).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends with the answer, or with this call.
        tokio::spawn(connection);
        let handle = call.function.handle();
        let request = Request::post(format!("/2015-03-31/functions/{handle}/invocations"))
            .header("host", "engine")
            .header("x-amz-invocation-type", if call.later { "Event" } else { "RequestResponse" })
            .header("x-amz-log-type", "Tail")
            .body(Full::new(call.event))
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let payload = Limited::new(body, LONGEST).collect().await.map_err(io::Error::other)?.to_bytes();
        let log = BASE64_STANDARD.decode(text(&head.headers, "x-amz-log-result").unwrap_or_default());
        Ok(Answer {
            status: head.status.as_u16(),
            request_id: text(&head.headers, "x-amzn-requestid").unwrap_or_default().to_owned(),
            release: text(&head.headers, "x-amz-executed-version").and_then(|version| version.parse().ok()),
            error: text(&head.headers, "x-amz-function-error").map(str::to_owned),
            payload,
            log: String::from_utf8_lossy(&log.unwrap_or_default()).into_owned(),
        })
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
