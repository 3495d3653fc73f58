//! One session of a server, through the inner door of the gateway.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use component::ComponentId;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::wire::{self, Message, Reader, strange};
use super::{Sessions, Stream};
use client::wire::ServerMessage;

/// How long signing in may take; a server that sleeps is woken meanwhile.
const SIGN_IN: Duration = Duration::from_secs(30);
/// How long a gateway that does not answer is called again: one takes another's place in less.
const CALL_AGAIN: Duration = Duration::from_secs(3);
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(50);
/// What is held of a message that is no row, bytes. PostgreSQL's own are shorter, but a tenant's function may say more.
pub(super) const LONGEST_WORD: usize = 64 * 1024;
/// Of a description, which has 1,664 columns at most.
const LONGEST_DESCRIPTION: usize = 256 * 1024;
/// All that a question of Stead's own is answered with, bytes.
const LONGEST_ANSWER: u64 = 16 * 1024 * 1024;
/// Longest name that PostgreSQL shows of a session, bytes.
const LONGEST_NAME: usize = 63;

/// Why there is no session, or none any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The gateway, or the server behind it.
    #[error("the server cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// What the server, or the gateway, says itself.
    #[error("{}", .0.message)]
    Server(Box<ServerMessage>),
    /// It takes too long.
    #[error("the server did not let the session in within {} s", SIGN_IN.as_secs())]
    Late,
}

/// Who signs in, and how the session is to be.
#[derive(Clone)]
pub(crate) struct SignIn {
    pub(crate) component: ComponentId,
    pub(crate) database: String,
    pub(crate) role: &'static str,
    pub(crate) password: SecretString,
    /// The person, for the server's log.
    pub(crate) who: String,
    /// Transactions begin as read-only ones.
    pub(crate) read_only: bool,
    /// The server itself ends a statement after so long.
    pub(crate) statement: Duration,
}

/// A session that is ready for queries.
pub(crate) struct Session {
    pub(super) stream: Stream,
    pub(super) reader: Reader,
    /// What cancels its statement.
    key: Option<(i32, i32)>,
    sessions: Arc<dyn Sessions>,
    call: (ComponentId, String),
}

/// What cancels a session's statement, from anywhere.
#[derive(Clone)]
pub(super) struct Canceller {
    key: Option<(i32, i32)>,
    sessions: Arc<dyn Sessions>,
    call: (ComponentId, String),
}

impl Canceller {
    /// Asks the server to stop the statement; it may have ended by itself.
    pub(super) async fn cancel(&self) -> io::Result<()> {
        let Some((pid, secret)) = self.key else { return Ok(()) };
        let mut stream = self.sessions.open(self.call.0, &self.call.1).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(pid, secret, &mut request);
        stream.write_all(&request).await?;
        // The answer is the close.
        let _ = timeout(PAUSE * 20, stream.read(&mut [0; 1])).await;
        Ok(())
    }
}

impl Session {
    /// Signs in.
    pub(crate) async fn open(sessions: &Arc<dyn Sessions>, sign_in: &SignIn) -> Result<Self, Failed> {
        timeout(SIGN_IN, Self::call_until_answered(sessions, sign_in)).await.unwrap_or(Err(Failed::Late))
    }

    /// A gateway that is being replaced or started again is called again, as long as nothing was answered.
    async fn call_until_answered(sessions: &Arc<dyn Sessions>, sign_in: &SignIn) -> Result<Self, Failed> {
        let until = Instant::now() + CALL_AGAIN;
        loop {
            match Self::try_to_open(sessions, sign_in).await {
                Err(Failed::Io(error)) if is_of_the_gateway(&error) && Instant::now() < until => {
                    sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn try_to_open(sessions: &Arc<dyn Sessions>, sign_in: &SignIn) -> Result<Self, Failed> {
        let call = (sign_in.component, sign_in.who.clone());
        let stream = sessions.open(call.0, &call.1).await?;
        let sessions = Arc::clone(sessions);
        let mut session = Self { stream, reader: Reader::default(), key: None, sessions, call };
        let mut hello = BytesMut::new();
        let statement = sign_in.statement.as_millis().to_string();
        let name = application_name(&sign_in.who);
        let parameters = [
            ("user", sign_in.role),
            ("database", &sign_in.database),
            ("application_name", &name),
            ("client_encoding", "UTF8"),
            ("statement_timeout", &statement),
            // The control plane may end without a word: its statements end with it.
            ("client_connection_check_interval", "1000"),
            ("default_transaction_read_only", if sign_in.read_only { "on" } else { "off" }),
        ];
        // A disk that is nearly full makes servers read-only, which is not the session's to lift.
        let parameters = parameters
            .into_iter()
            .filter(|(name, value)| *name != "default_transaction_read_only" || *value == "on");
        frontend::startup_message(parameters, &mut hello)?;
        session.send(&hello).await?;
        session.prove(&sign_in.password).await?;
        session.settle().await?;
        Ok(session)
    }

    async fn prove(&mut self, password: &SecretString) -> Result<(), Failed> {
        let password = password.expose_secret().as_bytes();
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let offered = self.asked(10).await?;
        if !offered.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(strange("it does not ask for SCRAM-SHA-256").into());
        }
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut message)?;
        self.send(&message).await?;
        scram.update(&self.asked(11).await?)?;
        message.clear();
        frontend::sasl_response(scram.message(), &mut message)?;
        self.send(&message).await?;
        scram.finish(&self.asked(12).await?)?;
        self.asked(0).await.map(drop)
    }

    /// The body of an authentication message of a kind.
    async fn asked(&mut self, wanted: u32) -> Result<Bytes, Failed> {
        loop {
            let Message { tag, mut body, .. } = self.next().await?;
            match tag {
                b'N' | b'v' => {}
                b'R' if body.try_get_u32().is_ok_and(|kind| kind == wanted) => return Ok(body),
                _ => return Err(strange("its sign-in goes another way than SCRAM").into()),
            }
        }
    }

    async fn settle(&mut self) -> Result<(), Failed> {
        loop {
            let Message { tag, mut body, .. } = self.next().await?;
            match tag {
                b'K' if body.len() >= 8 => self.key = Some((body.get_i32(), body.get_i32())),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// The next message; an error of the server is one here.
    async fn next(&mut self) -> Result<Message, Failed> {
        let message = self.reader.next(&mut self.stream, |_| LONGEST_WORD).await?;
        if message.tag == b'E' {
            return Err(Failed::Server(Box::new(wire::said(message.body))));
        }
        Ok(message)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    pub(super) fn canceller(&self) -> Canceller {
        Canceller { key: self.key, sessions: Arc::clone(&self.sessions), call: self.call.clone() }
    }

    /// Has the session in a transaction that cannot write, whatever is said in it: a read-only one may be made to
    /// write only until its first look at data, which this takes.
    pub(crate) async fn begin_read_only(&mut self) -> Result<(), Failed> {
        let mut message = BytesMut::new();
        frontend::query("begin transaction read only; select 1", &mut message)?;
        self.send(&message).await?;
        while self.next().await?.tag != b'Z' {}
        Ok(())
    }

    /// Asks a question of Stead's own: its rows, as text.
    pub(crate) async fn ask(
        &mut self,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Vec<Vec<Option<String>>>, Failed> {
        self.send(&one_statement(sql, parameters, 0)?).await?;
        let (mut rows, mut bytes, mut refused) = (Vec::new(), 0, None);
        loop {
            let keep = |tag| if tag == b'D' { 4 * 1024 * 1024 } else { LONGEST_WORD };
            let message = self.reader.next(&mut self.stream, keep).await?;
            bytes += message.length;
            if bytes > LONGEST_ANSWER {
                return Err(strange("it says more than it was asked").into());
            }
            match message.tag {
                b'D' => {
                    let text = |value: Bytes| String::from_utf8_lossy(&value).into_owned();
                    rows.push(wire::row(message.body)?.into_iter().map(|value| value.map(text)).collect());
                }
                b'E' => refused = Some(wire::said(message.body)),
                b'Z' => break,
                _ => {}
            }
        }
        refused.map_or(Ok(rows), |said| Err(Failed::Server(Box::new(said))))
    }

    /// Ends it in order.
    pub(crate) async fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        let _ = timeout(PAUSE, self.send(&message)).await;
    }
}

/// One statement by the extended protocol, which takes no more than one; `rows`: at most so many, 0 for all.
pub(super) fn one_statement(sql: &str, parameters: &[&str], rows: i32) -> io::Result<BytesMut> {
    let mut message = BytesMut::with_capacity(sql.len() + 64);
    frontend::parse("", sql, [], &mut message)?;
    let put = |value: &&str, buffer: &mut BytesMut| {
        buffer.extend_from_slice(value.as_bytes());
        Ok(IsNull::No)
    };
    frontend::bind("", "", [], parameters, put, [], &mut message).map_err(|error| match error {
        frontend::BindError::Serialization(error) => io::Error::new(io::ErrorKind::InvalidInput, error),
        frontend::BindError::Conversion(error) => io::Error::new(io::ErrorKind::InvalidInput, error),
    })?;
    frontend::describe(b'P', "", &mut message)?;
    frontend::execute("", rows, &mut message)?;
    frontend::sync(&mut message);
    Ok(message)
}

/// What is held of a message at most, rows apart.
pub(super) fn longest(tag: u8) -> usize {
    if tag == b'T' { LONGEST_DESCRIPTION } else { LONGEST_WORD }
}

/// How a session is named in the server's log and lists.
fn application_name(who: &str) -> String {
    let name = format!("stead console: {who}");
    name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(LONGEST_NAME).collect()
}

/// Nobody listened, or somebody hung up who was about to stop.
fn is_of_the_gateway(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotFound | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_a_name_that_postgresql_shows_whole() {
        assert_eq!(application_name("ann"), "stead console: ann");
        assert_eq!(application_name("\u{e4}nn\0\n"), "stead console: ?nn??");
        assert_eq!(application_name(&"x".repeat(100)).len(), LONGEST_NAME);
    }
}
