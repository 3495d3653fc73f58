//! The engine of functions of this host, for calls and debuggers that come through the API: by its Invoke API, on a socket of its own.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use component::ComponentId;
use functions::route::{INSPECTION_ID, INSPECTION_PROTOCOL};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use server::functions::{Answer, Call, Functions, Inspection};
use tokio::net::UnixStream;
use uuid::Uuid;

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

impl InvokeSocket {
    async fn connect(&self) -> io::Result<http1::SendRequest<Full<Bytes>>> {
        let stream = UnixStream::connect(&self.0).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends with the answer, or with this call.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

#[async_trait]
impl Functions for InvokeSocket {
    async fn invoke(&self, call: Call) -> io::Result<Answer> {
        let mut sender = self.connect().await?;
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

    async fn inspect(&self, function: ComponentId, inspection: Option<Uuid>) -> io::Result<Inspection> {
        let mut sender = self.connect().await?;
        let within = inspection.map_or_else(String::new, |inspection| format!("/{inspection}"));
        let request = Request::post(format!("/stead/functions/{}/inspections{within}", function.handle()))
            .header("host", "engine")
            .header("connection", "upgrade")
            .header("upgrade", INSPECTION_PROTOCOL)
            .body(Full::default())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status().as_u16();
            let body =
                Limited::new(response.into_body(), LONGEST).collect().await.map_err(io::Error::other)?;
            let said: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            let message = said["message"].as_str().unwrap_or("it did not say why").to_owned();
            return Ok(Inspection::Refused { status, message });
        }
        let id = text(response.headers(), INSPECTION_ID).and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| io::Error::other("an inspection without a name"))?;
        let engine = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        Ok(Inspection::Begun { id, engine: Box::new(TokioIo::new(engine)) })
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
