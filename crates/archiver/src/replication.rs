//! A session with a server in replication mode, over its Unix socket: the few commands that an archive takes.
//!
//! `tokio-postgres` has no such mode, and the crates that have one are of logical replication or of 50,000 lines;
//! these are three commands of the [streaming replication protocol][protocol].
//!
//! What answers is asked of the kernel: a server that was taken over could have somebody else's socket in its place.
//! Its words are bounded in length, and none of them is trusted to be well formed.
//!
//! [protocol]: https://www.postgresql.org/docs/current/protocol-replication.html

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Lsn;

/// The longest message that a server sends in this mode is a piece of a base backup or of WAL, 128 KiB.
const LONGEST: usize = 4 * 1024 * 1024;
/// Read at once.
const READ: usize = 256 * 1024;
/// How long a server may take to let a session in, and to answer a short command.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a session came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("the server cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error("the server said: {message} ({code})")]
    Server { code: String, message: String },
    #[error("the server's answer is not understood: {0}")]
    Strange(&'static str),
    #[error("the server did not answer within {} s", ANSWER.as_secs())]
    Late,
}

/// A message of the server.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// A session.
pub(crate) struct Session {
    stream: UnixStream,
    read: BytesMut,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    pub(crate) identifier: String,
    pub(crate) timeline: u32,
    pub(crate) flushed: Lsn,
}

impl Failed {
    /// Whether the server is ending the session because it stops, or has.
    pub(crate) fn is_leaving(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match self {
            // Told to end, not accepting anybody, in the last of its states.
            Failed::Server { code, .. } => matches!(code.as_str(), "57P01" | "57P03" | "55000"),
            Failed::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof),
            _ => false,
        }
    }
}

/// A row of text columns; `None` is SQL's null.
pub(crate) type Row = Vec<Option<String>>;

impl Session {
    /// Signs in as `user` at the socket in a server's folder `run`.
    pub(crate) async fn open(folder: &Path, user: &str) -> Result<Self, Failed> {
        let opening = async {
            let stream = UnixStream::connect(folder.join(".s.PGSQL.5432")).await?;
            let (answers, owner) = (stream.peer_cred()?.uid(), std::fs::symlink_metadata(folder)?.uid());
            if answers != owner {
                let why = format!("user {answers} answers at the socket of user {owner}");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why).into());
            }
            let mut session = Self { stream, read: BytesMut::new() };
            let mut hello = BytesMut::new();
            let parameters = [
                ("user", user),
                ("replication", "true"),
                ("application_name", "stead archive"),
                ("client_encoding", "UTF8"),
            ];
            frontend::startup_message(parameters, &mut hello)?;
            session.stream.write_all(&hello).await?;
            session.until_ready().await?;
            Ok(session)
        };
        tokio::time::timeout(ANSWER, opening).await.unwrap_or(Err(Failed::Late))
    }

    /// The next message; errors of the server are errors here.
    pub(crate) async fn next(&mut self) -> Result<Message, Failed> {
        loop {
            if let Some(message) = self.parsed()? {
                return Ok(message);
            }
            self.read.reserve(READ);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// A message that has come already.
    pub(crate) fn parsed(&mut self) -> Result<Option<Message>, Failed> {
        while self.read.len() >= 5 {
            let mut head = &self.read[..5];
            let (tag, length) = (head.get_u8(), head.get_u32() as usize);
            if !(4..=LONGEST).contains(&length) {
                return Err(Failed::Strange("a message of an impossible length"));
            }
            if self.read.len() <= length {
                break;
            }
            let mut message = self.read.split_to(length + 1).freeze();
            message.advance(5);
            match tag {
                b'E' => return Err(server_error(&message)),
                // Notices and parameters of the session are of no interest.
                b'N' | b'S' | b'K' => {}
                _ => return Ok(Some(Message { tag, body: message })),
            }
        }
        Ok(None)
    }

    /// Reads to the next ReadyForQuery; the rows that came on the way.
    async fn until_ready(&mut self) -> Result<Vec<Row>, Failed> {
        let mut rows = Vec::new();
        loop {
            let message = self.next().await?;
            match message.tag {
                b'Z' => return Ok(rows),
                b'R' if message.body.starts_with(&[0; 4]) => {}
                b'R' => return Err(Failed::Strange("it asks for a password")),
                b'D' => rows.push(row(message.body)?),
                b'C' | b'T' | b'I' => {}
                _ => return Err(Failed::Strange("an answer that was not asked for")),
            }
        }
    }

    async fn send(&mut self, command: &str) -> Result<(), Failed> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message)?;
        Ok(self.stream.write_all(&message).await?)
    }

    /// Runs a command that answers with rows.
    pub(crate) async fn command(&mut self, command: &str) -> Result<Vec<Row>, Failed> {
        let running = async {
            self.send(command).await?;
            self.until_ready().await
        };
        tokio::time::timeout(ANSWER, running).await.unwrap_or(Err(Failed::Late))
    }

    /// Which cluster this is, and how far its log is written.
    pub(crate) async fn identify(&mut self) -> Result<System, Failed> {
        let rows = self.command("IDENTIFY_SYSTEM").await?;
        let strange = Failed::Strange("IDENTIFY_SYSTEM");
        let Some([Some(identifier), Some(timeline), Some(flushed), ..]) = rows.first().map(Vec::as_slice)
        else {
            return Err(strange);
        };
        match (timeline.parse(), flushed.parse()) {
            (Ok(timeline), Ok(flushed)) => Ok(System { identifier: identifier.clone(), timeline, flushed }),
            _ => Err(strange),
        }
    }

    /// A setting.
    pub(crate) async fn show(&mut self, name: &'static str) -> Result<String, Failed> {
        let rows = self.command(&format!("SHOW {name}")).await?;
        rows.into_iter().flatten().flatten().next().ok_or(Failed::Strange("SHOW"))
    }

    /// Up to where a slot keeps the log; `None` where there is no such slot.
    pub(crate) async fn slot(&mut self, name: &'static str) -> Result<Option<Lsn>, Failed> {
        let rows = self.command(&format!("READ_REPLICATION_SLOT {name}")).await?;
        let strange = Failed::Strange("READ_REPLICATION_SLOT");
        match rows.first().map(Vec::as_slice) {
            Some([Some(_), Some(lsn), ..]) => lsn.parse().map(Some).map_err(|_| strange),
            // A slot that keeps nothing: it was never used, or lost what it kept.
            Some([Some(_), None, ..]) => Ok(Some(Lsn(0))),
            Some(_) => Ok(None),
            None => Err(strange),
        }
    }

    /// Makes a slot that keeps the log from now on.
    pub(crate) async fn make_slot(&mut self, name: &'static str) -> Result<(), Failed> {
        self.command(&format!("CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL")).await.map(|_| ())
    }

    pub(crate) async fn drop_slot(&mut self, name: &'static str) -> Result<(), Failed> {
        self.command(&format!("DROP_REPLICATION_SLOT {name} WAIT")).await.map(|_| ())
    }

    /// Begins to stream the log; messages `d` follow.
    pub(crate) async fn start_streaming(
        &mut self,
        slot: &'static str,
        from: Lsn,
        timeline: u32,
    ) -> Result<(), Failed> {
        self.send(&format!("START_REPLICATION SLOT {slot} PHYSICAL {from} TIMELINE {timeline}")).await?;
        let answer = tokio::time::timeout(ANSWER, self.next()).await.unwrap_or(Err(Failed::Late))?;
        if answer.tag == b'W' { Ok(()) } else { Err(Failed::Strange("START_REPLICATION")) }
    }

    /// Says how far the log has come. `stored` lets go of what the slot keeps; what has only come lets a server that
    /// is being stopped end.
    pub(crate) async fn confirm(&mut self, received: Lsn, stored: Option<Lsn>) -> Result<(), Failed> {
        let mut data = Vec::with_capacity(34);
        data.push(b'r');
        for lsn in [received, stored.unwrap_or_default(), Lsn(0)] {
            data.extend_from_slice(&lsn.0.to_be_bytes());
        }
        // The time of this message, which the server only shows; and no answer is asked for.
        data.extend_from_slice(&0_i64.to_be_bytes());
        data.push(0);
        let mut message = BytesMut::new();
        frontend::CopyData::new(data.as_slice())?.write(&mut message);
        Ok(self.stream.write_all(&message).await?)
    }

    /// Asks the server to stream no more; it says when it has stopped by a ReadyForQuery.
    pub(crate) async fn stop_streaming(&mut self) -> Result<(), Failed> {
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        Ok(self.stream.write_all(&message).await?)
    }

    /// Begins a base backup; result sets and messages `d` follow, up to ReadyForQuery.
    pub(crate) async fn start_base_backup(&mut self, label: &str) -> Result<(), Failed> {
        let label = label.replace('\'', "''");
        self.send(&format!(
            "BASE_BACKUP (LABEL '{label}', CHECKPOINT 'fast', MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', WAIT false)"
        ))
        .await
    }
}

/// A data row of text columns.
pub(crate) fn row(mut body: Bytes) -> Result<Row, Failed> {
    const SHORT: Failed = Failed::Strange("a row that ends too early");
    if body.len() < 2 {
        return Err(SHORT);
    }
    let mut row = Vec::new();
    for _ in 0..body.get_u16() {
        if body.len() < 4 {
            return Err(SHORT);
        }
        let length = body.get_i32();
        let Ok(length) = usize::try_from(length) else {
            row.push(None);
            continue;
        };
        if body.len() < length {
            return Err(SHORT);
        }
        row.push(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()));
    }
    Ok(row)
}

fn server_error(body: &Bytes) -> Failed {
    let (mut code, mut message) = (String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        // What a server says goes into a log and a status: a length that fits there.
        let text: String = String::from_utf8_lossy(text).chars().take(1_000).collect();
        match kind {
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    Failed::Server { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_lie_about_their_length_are_refused() {
        let good = Bytes::from_static(b"\x00\x02\x00\x00\x00\x01a\xff\xff\xff\xff");
        assert_eq!(row(good.clone()).unwrap(), vec![Some("a".to_owned()), None]);
        for length in 0..good.len() {
            assert!(row(good.slice(..length)).is_err(), "{length}");
        }
        assert!(row(Bytes::from_static(b"\xff\xff\x7f\xff\xff\xff")).is_err());
    }
}
