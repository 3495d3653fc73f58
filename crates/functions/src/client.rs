//! Asks the engine, by its status socket.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::route::Request;

/// Longest answer, bytes: a broken release tells the end of its log.
const LONGEST: u64 = 1024 * 1024;

/// Asks the engine of a home; answers with a line of JSON, as [`Request`] says of which type.
///
/// # Errors
/// When it does not run, or ends before it has answered.
pub async fn ask(home: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(home.join("functions/functions.sock")).await?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut answer).await?;
    if answer.last() == Some(&b'\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
