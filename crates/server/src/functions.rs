//! Ways to functions, wherever they are: for calls that people and programs make through the API, and debuggers.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use component::ComponentId;
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Of which function.
    pub function: ComponentId,
    /// What its handler is given: JSON.
    pub event: Bytes,
    /// Whether it is only to be taken, and worked at later.
    pub later: bool,
}

/// What came of it, as AWS Lambda's Invoke API says it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status: 200, 202 where it was taken for later, or why it was not called.
    pub status: u16,
    /// Identity of the invocation.
    pub request_id: String,
    /// The release that answered.
    pub release: Option<i64>,
    /// `Unhandled` where the handler failed.
    pub error: Option<String>,
    /// The handler's answer, or what went wrong.
    pub payload: Bytes,
    /// The end of what it wrote, at most 4 KiB.
    pub log: String,
}

/// What is said both ways between a debugger and a function, or about that.
pub trait Conversation: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Conversation for T {}

/// What came of a wish to inspect a function.
pub enum Inspection {
    /// It is so.
    Begun {
        /// The inspection.
        id: Uuid,
        /// What the engine says and hears.
        engine: Box<dyn Conversation>,
    },
    /// It is not.
    Refused {
        /// HTTP status: 400 where the function has nothing to be inspected, 404 without such an inspection, 409 where
        /// another is under way or no release answers.
        status: u16,
        /// Why, in words.
        message: String,
    },
}

/// Calls functions.
#[async_trait]
pub trait Functions: Send + Sync {
    /// Calls one, and waits for its answer.
    ///
    /// # Errors
    /// When nobody is there to be asked.
    async fn invoke(&self, call: Call) -> io::Result<Answer>;

    /// Begins an inspection of a function, which lasts as long as this conversation; or, where one is named, connects
    /// to the inspector of the function's worker.
    ///
    /// # Errors
    /// When nobody is there to be asked.
    async fn inspect(&self, function: ComponentId, inspection: Option<Uuid>) -> io::Result<Inspection>;
}

/// No engine anywhere.
#[derive(Debug, Clone, Copy)]
pub struct NoEngine;

#[async_trait]
impl Functions for NoEngine {
    async fn invoke(&self, _: Call) -> io::Result<Answer> {
        Err(nobody())
    }

    async fn inspect(&self, _: ComponentId, _: Option<Uuid>) -> io::Result<Inspection> {
        Err(nobody())
    }
}

fn nobody() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "there is no engine of functions here")
}
