//! Clients that are none: what the gateway says, as bytes.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// All that comes until the other side closes.
pub(crate) async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut all))
        .await
        .expect("the gateway must close");
    all
}

/// The SQLSTATE of an ErrorResponse.
pub(crate) fn sqlstate_of(message: &[u8]) -> Option<String> {
    let body = message.strip_prefix(b"E")?.get(4..)?;
    let code = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))?;
    Some(String::from_utf8_lossy(code).into_owned())
}

/// What the first of some connections heard before it was closed.
pub(crate) async fn first_to_end(streams: &mut [TcpStream]) -> Vec<u8> {
    let ends = streams.iter_mut().map(|stream| Box::pin(rest(stream)));
    futures::future::select_all(ends).await.0
}
