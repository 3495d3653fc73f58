//! What is asked of a function, and what comes of it.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

/// A call, before it has a worker.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The request's id, which its logs and its caller know.
    pub(crate) id: String,
    /// The event, JSON.
    pub(crate) payload: Bytes,
    /// X-Ray's header.
    pub(crate) trace: String,
    /// What a mobile SDK says of its client: JSON.
    pub(crate) client_context: Option<String>,
    /// The qualifier in the ARN that the function is told, where the caller named one.
    pub(crate) qualifier: Option<u64>,
    /// The caller wants the end of the log.
    pub(crate) tail: bool,
}

impl Call {
    /// With an id of its own.
    pub(crate) fn new(payload: Bytes) -> Self {
        let id = Uuid::new_v4().to_string();
        Self { id, payload, trace: trace(), client_context: None, qualifier: None, tail: false }
    }

    /// With the trace that a caller brought, if it did.
    pub(crate) fn traced(mut self, trace: Option<&str>) -> Self {
        if let Some(trace) = trace.filter(|trace| trace.len() <= 256) {
            trace.clone_into(&mut self.trace);
        }
        self
    }
}

/// A trace that nobody samples.
fn trace() -> String {
    let seconds = Timestamp::now().as_second();
    let (root, parent): (u128, u64) = (rand::random(), rand::random());
    format!("Root=1-{seconds:08x}-{:024x};Parent={parent:016x};Sampled=0", root >> 32)
}

/// An error as Lambda tells it to whoever called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorShape {
    /// What kind.
    pub(crate) error_type: String,
    /// In words.
    pub(crate) error_message: String,
}

/// What a function, or what happened to it, answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The function's own, whole.
    Whole(Bytes),
    /// The function's own, as it comes.
    Streamed {
        /// `application/vnd.awslambda.http-integration-response` where a prelude comes first.
        content_type: String,
        /// What comes.
        body: mpsc::Receiver<Piece>,
    },
    /// It failed.
    Failed(Failure),
}

/// A piece of a streamed answer. That a stream ends without [`Piece::End`] means that it was cut off.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes of it.
    Data(Bytes),
    /// It is whole, or broke with an error.
    End(Option<Failure>),
}

/// How a function failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Lambda's error type: `Runtime.ExitError`, or one of the function's own.
    pub(crate) error_type: String,
    /// What the caller gets: JSON, as the runtime said it.
    pub(crate) body: Bytes,
    /// Whether the worker is lost with it.
    pub(crate) fatal: bool,
}

impl Failure {
    /// One that the engine finds, not the function.
    pub(crate) fn found(error_type: &str, message: String) -> Self {
        let shape = ErrorShape { error_type: error_type.to_owned(), error_message: message };
        let body = serde_json::to_vec(&shape).unwrap_or_default().into();
        Self { error_type: shape.error_type, body, fatal: true }
    }

    /// The same, told to whoever asked for `id`: an error of the start names no request.
    pub(crate) fn of_request(self, id: &str) -> Self {
        match serde_json::from_slice::<ErrorShape>(&self.body) {
            Ok(shape) if self.fatal && !shape.error_message.starts_with("RequestId: ") => {
                let message = format!("RequestId: {id} {}", shape.error_message);
                Self::found(&shape.error_type, message)
            }
            _ => self,
        }
    }

    /// The message within, for people.
    pub(crate) fn message(&self) -> String {
        match serde_json::from_slice::<serde_json::Value>(&self.body) {
            Ok(value) => match value.get("errorMessage").and_then(serde_json::Value::as_str) {
                Some(message) => message.to_owned(),
                None => value.to_string(),
            },
            Err(_) => String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}

/// What the caller gets.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) answer: Answer,
    /// The end of the log, where it was asked for.
    pub(crate) tail: Option<Vec<u8>>,
    /// The version that ran.
    pub(crate) version: u64,
}

/// Why a call has not become an invocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// No such function or version.
    #[error("Function not found: {0}")]
    NotFound(String),
    /// All workers are busy, and as many wait as may.
    #[error("Rate Exceeded.")]
    Busy,
    /// There is no worker, for no reason that lies in the function.
    #[error("{0}")]
    Unavailable(String),
}
