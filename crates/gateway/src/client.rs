//! Asking a running gateway, for drivers and tools.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::files::Paths;
use crate::route::{Hold, Request, RouteStatus, Status};

/// Why a gateway could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the conversation broke off.
    #[error("the gateway does not answer on {path}: {source}; is it running?")]
    Unreachable {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Not what this version expects.
    #[error("the gateway answered something else than expected: {0}")]
    Answer(#[from] serde_json::Error),
}

/// A connection to the status socket.
#[derive(Debug)]
pub struct Client {
    path: String,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the gateway of a `$STEAD_HOME`.
    pub async fn connect(home: &Path) -> Result<Client, ClientError> {
        let socket = Paths::new(home).socket;
        let path = socket.display().to_string();
        match UnixStream::connect(&socket).await {
            Ok(stream) => Ok(Client { path, stream: BufReader::new(stream) }),
            Err(source) => Err(ClientError::Unreachable { path, source }),
        }
    }

    /// What it serves now.
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(&Request::Status).await
    }

    /// Has it read all its files again, and asks what it serves then.
    pub async fn refresh(&mut self) -> Result<Status, ClientError> {
        self.ask(&Request::Refresh).await
    }

    /// Has it read one server's route again; `None` where it has none.
    pub async fn route(&mut self, server: &str) -> Result<Option<RouteStatus>, ClientError> {
        self.ask(&Request::Route { server: server.to_owned() }).await
    }

    /// Has the sessions of a server leave it; see [`Request::Hold`].
    pub async fn hold(
        &mut self,
        server: &str,
        patience: Duration,
        deadline: Duration,
        insist: bool,
    ) -> Result<Hold, ClientError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (patience_ms, deadline_ms) = (ms(patience), ms(deadline));
        self.ask(&Request::Hold { server: server.to_owned(), patience_ms, deadline_ms, insist }).await
    }

    /// Lets them go on; false where the hold had ended by itself.
    pub async fn release(&mut self, server: &str) -> Result<bool, ClientError> {
        self.ask(&Request::Release { server: server.to_owned() }).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let mut answer = String::new();
        let talk = async {
            self.stream.write_all(line.as_bytes()).await?;
            match self.stream.read_line(&mut answer).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }
        };
        talk.await.map_err(|source| ClientError::Unreachable { path: self.path.clone(), source })?;
        Ok(serde_json::from_str(&answer)?)
    }
}
