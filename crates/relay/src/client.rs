//! Asks the relay to go by its files as they are now.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::files::Paths;
use crate::wire::Status;

/// Longest answer, bytes.
const LONGEST: u64 = 1024 * 1024;

/// Why the relay does not go by its files.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It does not answer.
    #[error("the relay to servers elsewhere does not answer: {0}")]
    Silent(#[from] io::Error),
    /// It says something else than it should.
    #[error("the relay to servers elsewhere answers strangely: {0}")]
    Strange(#[from] serde_json::Error),
    /// One of its ways is not open.
    #[error("the relay to servers elsewhere cannot open a way: {0}")]
    Trouble(String),
}

/// Has the relay of a home go by its files; `name` is the way that matters to the caller.
///
/// # Errors
/// When it does not run, or that way is not open.
pub async fn refresh(home: &Path, name: &str) -> Result<(), Failed> {
    let stream = UnixStream::connect(Paths::new(home).socket).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let mut status: Status = serde_json::from_slice(&answer)?;
    status.troubles.remove(name).map_or(Ok(()), |trouble| Err(Failed::Trouble(trouble)))
}
