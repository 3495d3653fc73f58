//! The way out for a process that has no network: a socket that leads to one place outside, and TLS from here to there.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::Error;

/// The longest that a relay says of a connection that failed, bytes.
const LONGEST: usize = 1_000;

/// See above.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub(crate) socket: PathBuf,
    /// What is there, as its certificate has it.
    pub(crate) host: String,
    /// Nothing where all is to be sent in the clear.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Relay {
    /// A connection, without TLS yet. The first line is the relay's own: empty, or why there is none.
    pub(crate) async fn connect(&self) -> Result<UnixStream, Error> {
        let broken =
            |error: std::io::Error| Error::Unreachable(format!("the way out of this host is shut: {error}"));
        let mut stream = UnixStream::connect(&self.socket).await.map_err(broken)?;
        let mut said = Vec::new();
        loop {
            match stream.read_u8().await.map_err(broken)? {
                b'\n' => break,
                byte if said.len() < LONGEST => said.push(byte),
                _ => break,
            }
        }
        match String::from_utf8_lossy(&said).trim() {
            "" => Ok(stream),
            why => Err(Error::Unreachable(why.to_owned())),
        }
    }
}
