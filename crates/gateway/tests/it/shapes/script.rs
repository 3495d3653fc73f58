//! What a client says, as bytes, and which answer it waits for before it goes on.

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

/// When a turn is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// So many messages of a type came.
    Seen(u8, usize),
    /// The server closed.
    Closed,
}

impl Until {
    pub(super) fn counts(self, kind: u8) -> bool {
        matches!(self, Until::Seen(wanted, _) if wanted == kind)
    }

    pub(super) fn wants_more(self, seen: usize) -> bool {
        matches!(self, Until::Closed) || matches!(self, Until::Seen(_, count) if seen < count)
    }
}

/// Bytes that are sent without waiting.
pub(super) struct Turn {
    pub(super) sent: Vec<u8>,
    pub(super) until: Until,
}

/// A conversation, the client's half.
pub(super) struct Script {
    pub(super) name: &'static str,
    turns: Vec<Turn>,
    pending: BytesMut,
    /// ReadyForQuery messages that what was said so far calls for, and that were not waited for.
    owed: usize,
}

/// A parameter of Bind: its format, and its bytes unless it is null.
pub(super) type Value<'a> = (i16, Option<&'a [u8]>);

impl Script {
    pub(super) fn new(name: &'static str) -> Script {
        Script { name, turns: Vec::new(), pending: BytesMut::new(), owed: 0 }
    }

    pub(super) fn turns(&self) -> &[Turn] {
        assert!(self.pending.is_empty(), "{}: a turn is never sent", self.name);
        &self.turns
    }

    /// The size of what is sent, bytes.
    pub(super) fn size(&self) -> usize {
        self.turns.iter().map(|turn| turn.sent.len()).sum()
    }

    /// The same with one byte changed: the first of the last occurrence of a word.
    pub(super) fn tampered(mut self, word: &[u8]) -> Script {
        for turn in &mut self.turns {
            let found = turn.sent.windows(word.len()).rposition(|window| window == word);
            if let Some(at) = found {
                turn.sent[at] ^= 1;
            }
        }
        self
    }

    fn with(mut self, write: impl FnOnce(&mut BytesMut)) -> Script {
        write(&mut self.pending);
        self
    }

    /// Bytes as they are.
    pub(super) fn bytes(self, bytes: &[u8]) -> Script {
        self.with(|buf| buf.extend_from_slice(bytes))
    }

    /// A message of any type.
    pub(super) fn message(self, kind: u8, body: &[u8]) -> Script {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.bytes(&[kind]).bytes(&length).bytes(body)
    }

    /// A simple query.
    pub(super) fn query(mut self, sql: &str) -> Script {
        self.owed += 1;
        self.with(|buf| frontend::query(sql, buf).unwrap())
    }

    /// A simple query, waited for.
    pub(super) fn ask(self, sql: &str) -> Script {
        self.query(sql).answered()
    }

    /// Simple queries one after the other, each waited for.
    pub(super) fn ask_all<'a>(self, all: impl IntoIterator<Item = &'a str>) -> Script {
        all.into_iter().fold(self, Script::ask)
    }

    pub(super) fn parse(self, name: &str, sql: &str) -> Script {
        self.with(|buf| frontend::parse(name, sql, [], buf).unwrap())
    }

    pub(super) fn bind(self, portal: &str, statement: &str, values: &[Value<'_>], results: &[i16]) -> Script {
        let formats = values.iter().map(|(format, _)| *format);
        let write = |value: Option<&[u8]>, buf: &mut BytesMut| match value {
            Some(bytes) => {
                buf.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        };
        let bytes = values.iter().map(|(_, bytes)| *bytes);
        let results = results.iter().copied();
        self.with(|buf| {
            let written = frontend::bind(portal, statement, formats, bytes, write, results, buf);
            assert!(written.is_ok(), "a parameter is too long");
        })
    }

    /// `S` for a statement, `P` for a portal.
    pub(super) fn describe(self, variant: u8, name: &str) -> Script {
        self.with(|buf| frontend::describe(variant, name, buf).unwrap())
    }

    pub(super) fn execute(self, portal: &str, rows: i32) -> Script {
        self.with(|buf| frontend::execute(portal, rows, buf).unwrap())
    }

    /// Parse, Bind and Execute of the unnamed statement, without Sync.
    pub(super) fn run(self, sql: &str, values: &[Value<'_>]) -> Script {
        self.parse("", sql).bind("", "", values, &[]).describe(b'P', "").execute("", 0)
    }

    pub(super) fn close(self, variant: u8, name: &str) -> Script {
        self.with(|buf| frontend::close(variant, name, buf).unwrap())
    }

    pub(super) fn flush(self) -> Script {
        self.message(b'H', b"")
    }

    pub(super) fn sync(mut self) -> Script {
        self.owed += 1;
        self.message(b'S', b"")
    }

    pub(super) fn copy_data(self, data: &[u8]) -> Script {
        self.message(b'd', data)
    }

    pub(super) fn copy_done(self) -> Script {
        self.message(b'c', b"")
    }

    pub(super) fn copy_fail(self, why: &str) -> Script {
        self.message(b'f', &[why.as_bytes(), b"\0"].concat())
    }

    /// A FunctionCall with its arguments and its result in binary.
    pub(super) fn function_call(mut self, oid: u32, arguments: &[&[u8]]) -> Script {
        self.owed += 1;
        let count = u16::try_from(arguments.len()).unwrap().to_be_bytes();
        let mut body = [&oid.to_be_bytes()[..], &[0, 1, 0, 1], &count].concat();
        for argument in arguments {
            body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
            body.extend_from_slice(argument);
        }
        body.extend_from_slice(&[0, 1]);
        self.message(b'F', &body)
    }

    /// Ends the turn when so many messages of a type came since it began.
    pub(super) fn until(mut self, kind: u8, count: usize) -> Script {
        let sent = self.pending.split().to_vec();
        self.turns.push(Turn { sent, until: Until::Seen(kind, count) });
        self
    }

    /// Ends the turn when all that was asked is answered.
    pub(super) fn answered(mut self) -> Script {
        let owed = std::mem::take(&mut self.owed);
        self.until(b'Z', owed)
    }

    /// Ends the script: the server closes.
    pub(super) fn closed(mut self) -> Script {
        let sent = self.pending.split().to_vec();
        self.turns.push(Turn { sent, until: Until::Closed });
        self
    }
}
