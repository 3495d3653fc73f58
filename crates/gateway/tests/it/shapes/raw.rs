//! A client that sends exactly the bytes it is given and keeps exactly the messages it gets: a driver would
//! hide what two ways to a server could differ in.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::script::{Script, Turn, Until};
use crate::support::clients::{encrypted, message, sign_in, tcp};
use crate::support::home::Home;
use crate::support::server::Server;
use gateway::route::Route;

/// How long one turn may take; only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a test may stand on.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One message of the server, or its close.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The server closed; no message is of this type.
    const CLOSED: Answer = Answer { kind: 0, body: Vec::new() };

    /// Without the server's process id and secret, which are another session's each time.
    fn masked(mut self) -> Answer {
        match self.kind {
            b'K' => self.body.fill(0),
            b'A' => self.body[..4].fill(0),
            _ => {}
        }
        self
    }

    /// The SQLSTATE of an error.
    pub(super) fn sqlstate(&self) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        let code = fields.find_map(|field| field.strip_prefix(b"C"))?;
        (self.kind == b'E').then(|| String::from_utf8_lossy(code).into_owned())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(400)];
        write!(f, "{:?} of {} bytes: {}", char::from(self.kind), self.body.len(), shown.escape_ascii())
    }
}

/// A signed-in session.
pub(super) struct Session {
    reader: BufReader<ReadHalf<Box<dyn Stream>>>,
    writer: WriteHalf<Box<dyn Stream>>,
    /// What came after the sign-in up to the first ReadyForQuery, masked.
    pub(super) greeting: Vec<Answer>,
    /// Process id and secret, as a cancel request repeats them.
    pub(super) key: Vec<u8>,
}

impl Session {
    /// Through the gateway, in TLS.
    pub(super) async fn through(home: &Home, route: &Route) -> Session {
        let tcp = tcp(route).await;
        // What is sent as one piece is to travel as one piece.
        tcp.set_nodelay(true).unwrap();
        Session::sign_in(Box::new(encrypted(tcp, home).await.unwrap())).await
    }

    /// At the server's own socket.
    pub(super) async fn direct(server: &Server) -> Session {
        let socket = server.socket_dir().join(".s.PGSQL.5432");
        Session::sign_in(Box::new(UnixStream::connect(socket).await.unwrap())).await
    }

    async fn sign_in(stream: Box<dyn Stream>) -> Session {
        let (reader, writer) = tokio::io::split(stream);
        let (greeting, key) = (Vec::new(), Vec::new());
        let mut session = Session { reader: BufReader::new(reader), writer, greeting, key };
        timeout(PATIENCE, session.authenticate()).await.expect("the sign-in ends");
        session
    }

    async fn authenticate(&mut self) {
        let Session { reader, writer, greeting, key } = self;
        let greeted = |kind, body: Vec<u8>| {
            if kind == b'K' {
                key.clone_from(&body);
            }
            greeting.push(Answer { kind, body }.masked());
        };
        sign_in(reader, writer, "shapes", greeted).await;
    }

    /// Plays a script, cut into pieces of so many bytes, and hangs up; all that came, masked.
    pub(super) async fn play(mut self, script: &Script, cut: usize) -> Vec<Answer> {
        let mut all = std::mem::take(&mut self.greeting);
        for turn in script.turns() {
            all.extend(self.turn(script.name, turn, cut).await);
        }
        self.leave().await;
        all
    }

    /// Sends a turn's bytes while it reads the answers: a server that is not read from stops reading.
    pub(super) async fn turn(&mut self, name: &str, turn: &Turn, cut: usize) -> Vec<Answer> {
        let Session { reader, writer, .. } = self;
        let mut got = Vec::new();
        let sending = async {
            for piece in turn.sent.chunks(cut) {
                // A server may close before it has read all; what it then said is read all the same.
                if writer.write_all(piece).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
            }
        };
        let receiving = async {
            let mut seen = 0;
            while turn.until.wants_more(seen) {
                let Ok((kind, body)) = message(reader).await else {
                    got.push(Answer::CLOSED);
                    break;
                };
                seen += usize::from(turn.until.counts(kind));
                got.push(Answer { kind, body }.masked());
            }
        };
        let ended = timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await;
        assert!(ended.is_ok(), "{name}: only {} answers came, last {:?}", got.len(), got.last());
        let closed = got.last() == Some(&Answer::CLOSED);
        assert_eq!(closed, turn.until == Until::Closed, "{name}: {:?}", got.iter().rev().nth(1));
        got
    }

    /// Says goodbye and waits until the server is gone, and its locks with it.
    pub(super) async fn leave(mut self) {
        let _ = self.writer.write_all(b"X\0\0\0\x04").await;
        let _ = self.writer.flush().await;
        let gone = async { while message(&mut self.reader).await.is_ok() {} };
        timeout(PATIENCE, gone).await.expect("a session ends when it is asked to");
    }
}

/// The first difference of two answers, in words.
pub(super) fn difference(direct: &[Answer], through: &[Answer]) -> Option<String> {
    let longest = direct.len().max(through.len());
    let at = (0..longest).find(|at| direct.get(*at) != through.get(*at))?;
    let byte = direct
        .get(at)
        .zip(through.get(at))
        .and_then(|(one, other)| one.body.iter().zip(&other.body).position(|(one, other)| one != other));
    Some(format!(
        "answer {at} of {} and {}, byte {byte:?}:\n  direct:  {:?}\n  through: {:?}",
        direct.len(),
        through.len(),
        direct.get(at),
        through.get(at)
    ))
}
