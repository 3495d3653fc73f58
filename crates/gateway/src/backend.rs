//! Signing in to the server in the client's name, over its Unix socket.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgwire::messages::startup::{BackendKeyData, SASLInitialResponse, SASLResponse, SecretKey};
use tokio::net::UnixStream;

use crate::refusal::{Refusal, encode};
use crate::startup::Startup;
use crate::wire::{Frame, Frames, send};
use scram::{Keys, Login, ScramError};

/// What a server may say between sign-in and its first ReadyForQuery, bytes: settings, and what a trigger at
/// login has to say. It is kept until the client is greeted.
const MAX_GREETING: usize = 1 << 20;

/// The server's socket inside its folder: its port is always the default one.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

/// Connects to the server of a folder, and to nobody else.
///
/// The folder belongs to the server's user, who may put anything there: where the socket should be, a link to
/// that of another tenant, or of the control plane. The kernel says whose process it is that answers.
pub(crate) async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket(folder)).await?;
    let (answers, owner) = (stream.peer_cred()?.uid(), std::fs::symlink_metadata(folder)?.uid());
    if answers == owner {
        return Ok(stream);
    }
    let why = format!("user {answers} answers at the socket of user {owner} in {}", folder.display());
    tracing::error!(why, "the server's socket is somebody else's: not used");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// What cancels a session's statement at the server.
#[derive(Clone)]
pub(crate) struct BackendKey {
    /// The backend's process id, as the server sees it.
    pub(crate) pid: u32,
    /// Its secret.
    pub(crate) secret: Bytes,
}

/// A session of the server, signed in and ready for queries.
pub(crate) struct Backend {
    /// Where it speaks.
    pub(crate) stream: UnixStream,
    /// Its settings and notices, for the client.
    pub(crate) greeting: BytesMut,
    /// ReadyForQuery, which goes last.
    pub(crate) ready: Bytes,
    /// What came after; usually nothing.
    pub(crate) rest: BytesMut,
    /// Its own key, `None` where the server gave none.
    pub(crate) key: Option<BackendKey>,
}

/// Signs in. The server must ask for SCRAM: a role that could come in without a proof (by peer or trust,
/// as Stead's own do) must not be reachable from outside, whatever pg_hba.conf says.
pub(crate) async fn log_in(folder: &Path, startup: &Startup, keys: Keys) -> Result<Backend, Refusal> {
    let stream = connect(folder).await.map_err(|error| down(&error))?;
    let mut server = Frames::new(stream);
    talk(send(&mut server.stream, &startup.for_server()).await)?;
    prove(&mut server, keys, startup).await?;
    settle(server).await
}

async fn prove(server: &mut Frames<UnixStream>, keys: Keys, startup: &Startup) -> Result<(), Refusal> {
    let (code, mechanisms) = authentication(server).await?;
    if code != 10 || !mechanisms.split(|byte| *byte == 0).any(|name| name == scram::PLAIN.as_bytes()) {
        return Err(broken("it did not ask for SCRAM-SHA-256; see pg_hba.conf"));
    }
    let mut login = Login::new(keys);
    let first = SASLInitialResponse::new(scram::PLAIN.to_owned(), Some(login.client_first().into()));
    talk(send(&mut server.stream, &encode(&first)).await)?;
    let challenge = expect(server, 11).await?;
    let last = login.client_final(&challenge).map_err(|error| scram_failed(error, startup))?;
    talk(send(&mut server.stream, &encode(&SASLResponse::new(last.into()))).await)?;
    let signature = expect(server, 12).await?;
    login.check(&signature).map_err(|error| scram_failed(error, startup))?;
    expect(server, 0).await?;
    Ok(())
}

/// Everything from AuthenticationOk to the first ReadyForQuery.
async fn settle(mut server: Frames<UnixStream>) -> Result<Backend, Refusal> {
    let mut greeting = BytesMut::with_capacity(1024);
    let mut key = None;
    loop {
        let mut frame = next(&mut server).await?;
        match frame.kind {
            b'K' if frame.body.len() >= 8 => {
                key = Some(BackendKey { pid: frame.body.get_u32(), secret: frame.body });
            }
            b'Z' => {
                let (stream, rest) = server.into_parts();
                return Ok(Backend { stream, greeting, ready: frame.raw, rest, key });
            }
            _ if greeting.len() + frame.raw.len() > MAX_GREETING => {
                return Err(broken("it does not come to an end before it is ready for queries"));
            }
            _ => greeting.put_slice(&frame.raw),
        }
    }
}

/// The key message for the client: the server's process id, so that `pg_backend_pid()` and the sender of
/// a notification agree with what the driver was told, and a key of our own.
pub(crate) fn key_message(pid: u32, secret: Bytes) -> BytesMut {
    encode(&BackendKeyData::new(pid.cast_signed(), SecretKey::Bytes(secret)))
}

/// The next message; the server's error as a refusal.
async fn next(server: &mut Frames<UnixStream>) -> Result<Frame, Refusal> {
    let frame = talk(server.next().await)?;
    if frame.kind == b'E' { Err(server_error(&frame)) } else { Ok(frame) }
}

async fn authentication(server: &mut Frames<UnixStream>) -> Result<(u32, Bytes), Refusal> {
    let mut frame = next(server).await?;
    while frame.kind == b'N' {
        frame = next(server).await?;
    }
    if frame.kind != b'R' || frame.body.len() < 4 {
        return Err(broken("it sent something else than an authentication request"));
    }
    Ok((frame.body.get_u32(), frame.body))
}

async fn expect(server: &mut Frames<UnixStream>, wanted: u32) -> Result<Bytes, Refusal> {
    match authentication(server).await? {
        (code, body) if code == wanted => Ok(body),
        _ => Err(broken("its sign-in went another way than SCRAM")),
    }
}

/// An ErrorResponse as the client is to see it.
pub(crate) fn server_error(frame: &Frame) -> Refusal {
    let field = |wanted: u8| {
        frame
            .body
            .split(|byte| *byte == 0)
            .find_map(|field| field.strip_prefix(&[wanted]))
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    };
    Refusal::Server { code: field(b'C'), message: field(b'M'), raw: frame.raw.clone() }
}

fn scram_failed(error: ScramError, startup: &Startup) -> Refusal {
    match error {
        // The password changed in between: what the client proved is true no more.
        ScramError::WrongProof => Refusal::SignIn(String::from_utf8_lossy(startup.user()).into_owned()),
        other => broken(&other.to_string()),
    }
}

/// A server that cannot be reached: it starts, stops or is stopped.
pub(crate) fn down(error: &io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::PermissionDenied {
        tracing::error!(%error, "the gateway may not use the server's socket; see the folder's owner and mode");
        return Refusal::Unready;
    }
    tracing::debug!(%error, "the server is not up");
    Refusal::Down
}

fn talk<T>(result: io::Result<T>) -> Result<T, Refusal> {
    result.map_err(|error| down(&error))
}

fn broken(why: &str) -> Refusal {
    tracing::error!(why, "the server cannot be signed in to");
    Refusal::Unready
}
