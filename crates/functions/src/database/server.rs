//! A connection to a server, signed in.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use rustix::net::RecvFlags;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::frames::{Frames, Piece, Want, strange};
use super::hello::Key;
use crate::route::Database;

/// How long signing in may take; a server that sleeps is woken meanwhile.
const SIGN_IN: Duration = Duration::from_secs(30);
/// A transaction that a frozen worker left open is not to hold others' rows for ever: no invocation takes longer.
const IDLE_IN_TRANSACTION_MS: &str = "900000";
/// Prepared statements of one connection, at most.
const PREPARED: usize = 200;

/// How long a server may take to let a connection go.
const GOODBYE: Duration = Duration::from_secs(5);

/// What is said at the gateway's inner door before PostgreSQL's protocol begins: a length of four bytes and this as
/// JSON (`gateway/src/inner.rs`).
#[derive(Serialize)]
struct Call<'a> {
    server: &'a str,
    who: &'a str,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failed {
    /// What the server said: the whole ErrorResponse.
    Refused(Bytes),
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// See above.
pub(super) struct Server {
    pub(super) reader: OwnedReadHalf,
    pub(super) writer: OwnedWriteHalf,
    pub(super) frames: Frames,
    /// What cancels its statement.
    pub(super) key: Option<Key>,
    /// What it says of itself: ParameterStatus messages.
    pub(super) statuses: Bytes,
    /// What the client asked for when it began.
    pub(super) parameters: BTreeMap<String, String>,
    prepared: HashSet<String>,
    /// The same, the oldest first.
    by_age: VecDeque<String>,
    /// Tells it from every other.
    pub(super) number: u64,
}

impl Server {
    /// Calls the gateway and signs in.
    pub(super) async fn open(
        home: &Path,
        database: &Database,
        who: &str,
        parameters: BTreeMap<String, String>,
    ) -> Result<Self, Failed> {
        timeout(SIGN_IN, Self::sign_in(home, database, who, parameters))
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    async fn sign_in(
        home: &Path,
        database: &Database,
        who: &str,
        parameters: BTreeMap<String, String>,
    ) -> Result<Self, Failed> {
        let (reader, writer) = call(home, &database.server, who).await?.into_split();
        let mut server = Self {
            reader,
            writer,
            frames: Frames::default(),
            key: None,
            statuses: Bytes::new(),
            parameters,
            prepared: HashSet::new(),
            by_age: VecDeque::new(),
            number: rand::random(),
        };
        let mut hello = BytesMut::new();
        let own = [
            ("user", database.role.as_str()),
            ("database", database.database.as_str()),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_MS),
        ];
        let theirs = server.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        frontend::startup_message(own.into_iter().chain(theirs), &mut hello)?;
        server.writer.write_all(&hello).await?;
        server.prove(&database.password).await?;
        server.settle().await?;
        Ok(server)
    }

    async fn prove(&mut self, password: &str) -> Result<(), Failed> {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let offered = self.asked(10).await?;
        if !offered.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(strange("the server does not ask for SCRAM-SHA-256").into());
        }
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut message)?;
        self.writer.write_all(&message).await?;
        scram.update(&self.asked(11).await?)?;
        message.clear();
        frontend::sasl_response(scram.message(), &mut message)?;
        self.writer.write_all(&message).await?;
        scram.finish(&self.asked(12).await?)?;
        self.asked(0).await.map(drop)
    }

    /// The body of an authentication message of a kind.
    async fn asked(&mut self, wanted: u32) -> Result<Bytes, Failed> {
        loop {
            let (tag, mut body) = self.message().await?;
            match tag {
                b'N' | b'v' => {}
                b'R' if body.try_get_u32().is_ok_and(|kind| kind == wanted) => return Ok(body),
                _ => return Err(strange("the server's sign-in goes another way than SCRAM").into()),
            }
        }
    }

    async fn settle(&mut self) -> Result<(), Failed> {
        let mut statuses = BytesMut::new();
        loop {
            let (tag, mut body) = self.message().await?;
            match tag {
                b'S' => statuses.extend_from_slice(&message(b'S', &body)),
                b'K' if body.len() >= 8 => self.key = Some((body.get_i32(), body.get_i32())),
                b'Z' => {
                    self.statuses = statuses.freeze();
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<(u8, Bytes), Failed> {
        loop {
            match self.frames.next(|_| Want::Whole)? {
                Some(Piece::Whole(b'E', body)) => return Err(Failed::Refused(message(b'E', &body))),
                Some(Piece::Whole(tag, body)) => return Ok((tag, body)),
                _ => {}
            }
            if !self.frames.fill(&mut self.reader).await? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Whether nothing was said while nobody listened. What a server says unasked is most often its last word.
    pub(super) fn is_quiet(&self) -> bool {
        // Asked of the kernel itself: the runtime knows only what it was told of at its last look.
        let stream: &UnixStream = self.reader.as_ref();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(stream, &mut [0u8; 1], flags), Err(rustix::io::Errno::AGAIN))
    }

    /// Says goodbye, and waits until the server has let it go: then another may come in its place.
    pub(super) async fn end(mut self) {
        let gone = async {
            self.writer.write_all(&message(b'X', b"")).await?;
            let mut rest = [0; 4096];
            while self.reader.read(&mut rest).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // What does not end within that ends with its connection.
        let _ = timeout(GOODBYE, gone).await;
    }

    /// Whether a statement is prepared here.
    pub(super) fn has(&self, name: &str) -> bool {
        self.prepared.contains(name)
    }

    /// From now on it is; another one that has to go for it.
    pub(super) fn add(&mut self, name: &str) -> Option<String> {
        if self.prepared.insert(name.to_owned()) {
            self.by_age.push_back(name.to_owned());
        }
        if self.by_age.len() <= PREPARED {
            return None;
        }
        let oldest = self.by_age.pop_front()?;
        self.prepared.remove(&oldest);
        Some(oldest)
    }

    /// It is not, after all.
    pub(super) fn remove(&mut self, name: &str) {
        if self.prepared.remove(name) {
            self.by_age.retain(|other| other != name);
        }
    }

    /// None is any more.
    pub(super) fn clear(&mut self) {
        self.prepared.clear();
        self.by_age.clear();
    }
}

/// Calls the gateway.
pub(super) async fn call(home: &Path, server: &str, who: &str) -> io::Result<UnixStream> {
    let json = serde_json::to_vec(&Call { server, who })?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut stream = UnixStream::connect(home.join("gateway/inner.sock")).await?;
    stream.write_all(&[&length.to_be_bytes()[..], &json].concat()).await?;
    Ok(stream)
}

/// Has a statement cancelled.
pub(super) async fn cancel(home: &Path, server: &str, who: &str, (pid, secret): Key) -> io::Result<()> {
    let mut stream = call(home, server, who).await?;
    let mut request = BytesMut::new();
    frontend::cancel_request(pid, secret, &mut request);
    stream.write_all(&request).await?;
    // The answer is the close.
    let _ = timeout(Duration::from_secs(1), stream.read(&mut [0; 1])).await;
    Ok(())
}

/// A message as it is sent.
pub(super) fn message(tag: u8, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag][..], &length.to_be_bytes(), body].concat().into()
}

/// An ErrorResponse that ends a session.
pub(super) fn fatal(code: &str, text: &str) -> Bytes {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
}
