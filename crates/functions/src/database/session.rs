//! A session of a function: relayed, transaction by transaction, over whichever connection is free.
//!
//! Each message that waits for an answer is an entry of a queue, in order ([`Expect`]), and what the server says takes
//! entries off it; so it is known when all is answered, and the connection at rest. That queue is also what makes
//! prepared statements work. A named statement goes to the server under a name that follows from its text. Where a
//! connection does not have it yet, a Parse is put in front and its answer kept back; where it has it already, the
//! client's own Parse is not sent, and its answer is made here, when everything before it has been answered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::frames::{Frames, Piece, Want, strange};
use super::pool::{Current, Databases, Lease, Pool};
use super::server::{fatal, message};
use crate::engine::Engine;
use crate::environment;
use crate::route::{Database, Route};

/// With so much unsent, nothing is read from the other side, bytes.
const AHEAD: usize = 256 * 1024;
/// Statements that one session has prepared, at most.
const STATEMENTS: usize = 10_000;

/// An answer that is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expect {
    /// To a Parse of the client's, of a name at the server.
    Parse(String),
    /// To a Parse of ours; it is kept back.
    OwnParse(String),
    /// To a Parse that was not sent: it is made here.
    MadeParse,
    Bind,
    Describe,
    Execute,
    Close,
    /// To a Close of ours.
    OwnClose,
    /// To a Close that was not sent.
    MadeClose,
    /// ReadyForQuery.
    Sync,
    /// Everything up to ReadyForQuery.
    Query,
}

/// What a client prepared: the name at servers, and all of its Parse behind the name.
#[derive(Clone)]
struct Statement {
    name: String,
    rest: Bytes,
}

/// Runs a session to its end.
pub(super) async fn run(
    engine: &Engine,
    databases: &Arc<Databases>,
    route: &Route,
    database: &str,
    parameters: BTreeMap<String, String>,
    mut stream: TcpStream,
) -> io::Result<()> {
    let Some((name, declared)) = find(&route.databases, database) else {
        let known: Vec<_> = route.databases.keys().map(String::as_str).collect();
        let text = format!("the function uses no database `{database}`; it uses: {}", known.join(", "));
        return stream.write_all(&fatal("3D000", &text)).await;
    };
    let pool = databases.pool(name, declared);
    let who = format!("function {}", route.function);
    let lease = match pool.take(engine, &who, &parameters).await {
        Ok(lease) => lease,
        Err(refusal) => return stream.write_all(&refusal).await,
    };
    let key = databases.enter();
    let mut greeting = BytesMut::new();
    greeting.put_slice(&message(b'R', &[0; 4]));
    greeting.put_slice(&lease.server.statuses);
    greeting.put_slice(&message(b'K', &[key.0.to_be_bytes(), key.1.to_be_bytes()].concat()));
    greeting.put_slice(&message(b'Z', b"I"));
    pool.put_back(lease);
    let (reader, writer) = stream.into_split();
    let mut session = Session {
        engine,
        databases,
        pool,
        who,
        parameters,
        key,
        reader,
        writer,
        from_client: Frames::default(),
        to_client: greeting,
        to_server: BytesMut::new(),
        statements: HashMap::new(),
        unnamed_at: None,
        expected: VecDeque::new(),
        skipping: false,
        lease: None,
        over: false,
    };
    session.relay().await
}

/// By the name that the function's code uses, or by the database's own; whoever names neither means the first.
fn find<'a>(databases: &'a BTreeMap<String, Database>, name: &str) -> Option<(&'a String, &'a Database)> {
    let by_name = databases.get_key_value(name);
    let by_database = || databases.iter().find(|(_, database)| database.database == name);
    let only = || environment::first_database(databases.iter()).filter(|(_, database)| database.role == name);
    by_name.or_else(by_database).or_else(only)
}

struct Session<'a> {
    engine: &'a Engine,
    databases: &'a Databases,
    pool: Arc<Pool>,
    who: String,
    parameters: BTreeMap<String, String>,
    key: (i32, i32),
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    from_client: Frames,
    to_client: BytesMut,
    to_server: BytesMut,
    statements: HashMap<Bytes, Statement>,
    /// Which connection has the client's unnamed statement.
    unnamed_at: Option<u64>,
    expected: VecDeque<Expect>,
    /// After an error nothing is answered until the client's next Sync.
    skipping: bool,
    lease: Option<Lease>,
    /// The client has said goodbye.
    over: bool,
}

/// However it ends, and if in the middle of something, because its worker has ended.
impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.databases.leave(self.key);
        if let Some(lease) = self.lease.take() {
            let begun = !self.to_server.is_empty() || !self.from_client.between();
            let (home, server) = (self.engine.home.clone(), self.pool.server().to_owned());
            let who = std::mem::take(&mut self.who);
            tokio::spawn(async move { lease.abandon(&home, &server, &who, begun).await });
        }
    }
}

impl Session<'_> {
    async fn relay(&mut self) -> io::Result<()> {
        loop {
            self.take_from_client().await?;
            self.take_from_server()?;
            if self.over {
                return Ok(());
            }
            let (reads, writes) = (self.to_server.len() < AHEAD, !self.to_server.is_empty());
            let (answers, told) = (self.to_client.len() < AHEAD, !self.to_client.is_empty());
            let Some(lease) = &mut self.lease else {
                tokio::select! {
                    came = self.from_client.fill(&mut self.reader) => if !came? { return Ok(()) },
                    written = self.writer.write_buf(&mut self.to_client), if told => drop(written?),
                }
                continue;
            };
            let server = &mut lease.server;
            tokio::select! {
                came = self.from_client.fill(&mut self.reader), if reads => if !came? { return Ok(()) },
                written = self.writer.write_buf(&mut self.to_client), if told => drop(written?),
                written = server.writer.write_buf(&mut self.to_server), if writes => drop(written?),
                came = server.frames.fill(&mut server.reader), if answers => if !came? {
                    return self.lost().await;
                },
            }
        }
    }

    /// The server hung up: what it said goes to the client, and then there is no session.
    async fn lost(&mut self) -> io::Result<()> {
        self.to_client.put_slice(&fatal("08006", "the server closed the connection"));
        self.writer.write_all(&self.to_client).await
    }

    /// Takes what the client sent, as far as it is whole.
    async fn take_from_client(&mut self) -> io::Result<()> {
        while self.to_server.len() < AHEAD {
            let want = |tag| match tag {
                b'P' | b'D' | b'C' | b'X' | b'S' | b'H' => Want::Whole,
                b'B' => Want::Names,
                _ => Want::Passing,
            };
            let Some(piece) = self.from_client.next(want)? else { return Ok(()) };
            if matches!(piece, Piece::Whole(b'X', _)) {
                self.over = true;
                return Ok(());
            }
            if self.lease.is_none() && !self.lend().await? {
                self.over = true;
                return Ok(());
            }
            match piece {
                Piece::Whole(b'P' | b'D' | b'C' | b'H', _) if self.skipping => {}
                Piece::Whole(b'P', body) => self.parse(&body)?,
                Piece::Whole(b'D', body) => self.describe(&body)?,
                Piece::Whole(b'C', body) => self.close(&body),
                Piece::Whole(tag, body) => {
                    if tag == b'S' {
                        self.skipping = false;
                        self.expected.push_back(Expect::Sync);
                    }
                    self.to_server.put_slice(&message(tag, &body));
                }
                Piece::Bind { portal, statement, rest } => self.bind(&portal, &statement, rest),
                Piece::Begin(tag, bytes) => {
                    match tag {
                        _ if self.skipping => {}
                        b'Q' | b'F' => {
                            // A query by itself does away with the unnamed statement.
                            self.unnamed_at = None;
                            self.expected.push_back(Expect::Query);
                        }
                        b'E' => self.expected.push_back(Expect::Execute),
                        _ => {}
                    }
                    self.to_server.put_slice(&bytes);
                }
                Piece::More(bytes) => self.to_server.put_slice(&bytes),
            }
        }
        Ok(())
    }

    /// Takes a connection; answers whether there is one.
    async fn lend(&mut self) -> io::Result<bool> {
        match self.pool.take(self.engine, &self.who, &self.parameters).await {
            Ok(lease) => {
                let (server, key) = (self.pool.server().to_owned(), lease.server.key);
                let current = Current { server, who: self.who.clone(), key };
                self.databases.set(self.key, current);
                self.lease = Some(lease);
                Ok(true)
            }
            Err(refusal) => {
                self.to_client.put_slice(&refusal);
                self.writer.write_all(&self.to_client).await?;
                Ok(false)
            }
        }
    }

    fn parse(&mut self, body: &Bytes) -> io::Result<()> {
        let (client, rest) = split(body).ok_or_else(|| strange("a Parse has no name"))?;
        let unnamed = client.is_empty();
        let statement = Statement { name: if unnamed { String::new() } else { name_of(&rest) }, rest };
        if !unnamed && self.statements.len() >= STATEMENTS {
            return Err(strange("too many prepared statements"));
        }
        self.statements.insert(client, statement.clone());
        let Some(lease) = &mut self.lease else { return Ok(()) };
        if unnamed {
            self.unnamed_at = Some(lease.server.number);
        } else if lease.server.has(&statement.name) {
            self.expected.push_back(Expect::MadeParse);
            return Ok(());
        }
        self.send_parse(&statement, Expect::Parse(statement.name.clone()));
        Ok(())
    }

    fn send_parse(&mut self, statement: &Statement, expect: Expect) {
        let body = [statement.name.as_bytes(), &[0], &statement.rest].concat();
        self.to_server.put_slice(&message(b'P', &body));
        self.expected.push_back(expect);
        let Some(lease) = &mut self.lease else { return };
        if !statement.name.is_empty()
            && let Some(oldest) = lease.server.add(&statement.name)
        {
            let close = [b"S", oldest.as_bytes(), &[0]].concat();
            self.to_server.put_slice(&message(b'C', &close));
            self.expected.push_back(Expect::OwnClose);
        }
    }

    /// The name at the server of a client's statement, which is there afterwards.
    fn ready(&mut self, client: &Bytes) -> Bytes {
        let Some(statement) = self.statements.get(client).cloned() else {
            // Prepared by SQL, or not at all: the server knows.
            return client.clone();
        };
        let Some(lease) = &self.lease else { return client.clone() };
        let is_there = if client.is_empty() {
            self.unnamed_at.replace(lease.server.number) == Some(lease.server.number)
        } else {
            lease.server.has(&statement.name)
        };
        if !is_there {
            self.send_parse(&statement, Expect::OwnParse(statement.name.clone()));
        }
        statement.name.into()
    }

    fn describe(&mut self, body: &Bytes) -> io::Result<()> {
        let kind = *body.first().ok_or_else(|| strange("a Describe has no kind"))?;
        if kind == b'S' {
            let (client, _) = split(&body.slice(1..)).ok_or_else(|| strange("a Describe has no name"))?;
            let name = self.ready(&client);
            self.to_server.put_slice(&message(b'D', &[b"S", &name[..], &[0]].concat()));
        } else {
            self.to_server.put_slice(&message(b'D', body));
        }
        self.expected.push_back(Expect::Describe);
        Ok(())
    }

    fn close(&mut self, body: &Bytes) {
        if body.first() == Some(&b'S')
            && let Some((client, _)) = split(&body.slice(1..))
            && self.statements.remove(&client).is_some()
        {
            // Others may use it, so it stays at the server.
            self.expected.push_back(Expect::MadeClose);
        } else {
            self.to_server.put_slice(&message(b'C', body));
            self.expected.push_back(Expect::Close);
        }
    }

    fn bind(&mut self, portal: &Bytes, statement: &Bytes, rest: usize) {
        let name = if self.skipping { statement.clone() } else { self.ready(statement) };
        let length = u32::try_from(portal.len() + name.len() + rest + 6).unwrap_or(u32::MAX);
        self.to_server.put_u8(b'B');
        self.to_server.put_u32(length);
        for name in [portal, &name] {
            self.to_server.put_slice(name);
            self.to_server.put_u8(0);
        }
        if !self.skipping {
            self.expected.push_back(Expect::Bind);
        }
    }

    /// Takes what the server said, as far as it is whole.
    fn take_from_server(&mut self) -> io::Result<()> {
        loop {
            let Some(lease) = &mut self.lease else { return Ok(()) };
            if lease.server.frames.between() {
                self.tell_made();
            }
            let Some(lease) = &mut self.lease else { return Ok(()) };
            let want =
                |tag| if matches!(tag, b'Z' | b'C' | b'1' | b'3') { Want::Whole } else { Want::Passing };
            match lease.server.frames.next(want)? {
                None => return Ok(()),
                Some(Piece::More(bytes)) => self.to_client.put_slice(&bytes),
                Some(Piece::Begin(tag, bytes)) => {
                    self.heard(tag);
                    self.to_client.put_slice(&bytes);
                }
                Some(Piece::Whole(tag, body)) => self.heard_whole(tag, &body),
                Some(Piece::Bind { .. }) => return Err(strange("a server binds nothing")),
            }
        }
    }

    /// Answers that are made here, and whose turn it is.
    fn tell_made(&mut self) {
        loop {
            let tag = match self.expected.front() {
                Some(Expect::MadeParse) => b'1',
                Some(Expect::MadeClose) => b'3',
                _ => return,
            };
            self.expected.pop_front();
            self.to_client.put_slice(&message(tag, b""));
        }
    }

    /// A message has begun that ends what was expected.
    fn heard(&mut self, tag: u8) {
        match (tag, self.expected.front()) {
            (b'2', Some(Expect::Bind))
            | (b'T' | b'n', Some(Expect::Describe))
            | (b's' | b'I', Some(Expect::Execute)) => drop(self.expected.pop_front()),
            (b'E', _) => self.failed(),
            _ => {}
        }
    }

    /// After an error the server passes over everything up to the next Sync.
    fn failed(&mut self) {
        while let Some(expect) = self.expected.front() {
            if matches!(expect, Expect::Sync | Expect::Query) {
                return;
            }
            if let Some(Expect::Parse(name) | Expect::OwnParse(name)) = self.expected.pop_front() {
                if name.is_empty() {
                    self.unnamed_at = None;
                }
                if let Some(lease) = &mut self.lease {
                    lease.server.remove(&name);
                }
            }
        }
        self.skipping = true;
    }

    fn heard_whole(&mut self, tag: u8, body: &[u8]) {
        let mut kept_back = false;
        match (tag, self.expected.front()) {
            (b'1', Some(Expect::OwnParse(_))) | (b'3', Some(Expect::OwnClose)) => {
                kept_back = true;
                self.expected.pop_front();
            }
            (b'1', Some(Expect::Parse(_))) | (b'3', Some(Expect::Close)) => drop(self.expected.pop_front()),
            (b'C', front) => {
                if front == Some(&Expect::Execute) {
                    self.expected.pop_front();
                }
                if matches!(body, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0") {
                    self.statements.clear();
                    if let Some(lease) = &mut self.lease {
                        lease.server.clear();
                    }
                }
            }
            (b'Z', Some(Expect::Sync | Expect::Query)) => drop(self.expected.pop_front()),
            _ => {}
        }
        if !kept_back {
            self.to_client.put_slice(&message(tag, body));
        }
        if tag == b'Z'
            && body == b"I"
            && self.expected.is_empty()
            && self.to_server.is_empty()
            && self.from_client.between()
        {
            self.put_back();
        }
    }

    /// Everything is answered and no transaction is open: the connection is the next one's.
    fn put_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.databases.set(self.key, Current::default());
            self.pool.put_back(lease);
            // The next session that gets it has an unnamed statement of its own.
            self.unnamed_at = None;
        }
    }
}

/// A name, and what stands behind it.
fn split(body: &Bytes) -> Option<(Bytes, Bytes)> {
    let end = body.iter().position(|byte| *byte == 0)?;
    Some((body.slice(..end), body.slice(end + 1..)))
}

/// The name of a statement at servers, by its text and the types of its parameters.
fn name_of(rest: &[u8]) -> String {
    let hash = Sha256::digest(rest);
    let hash: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("stead_{hash}")
}
