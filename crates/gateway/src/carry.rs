//! What a session at rest holds inside its server: asked for before it leaves, put in place at the next.
//!
//! Carried are changed settings (`SET`, `SET ROLE`), prepared statements, of the protocol and of SQL, and the
//! statement without a name. Not carried, so that a session that holds one of them ends: temporary tables,
//! advisory locks, cursors with hold, LISTEN. `currval` starts anew, and says so itself when it is asked. Settings
//! of an application's own are asked for by name (`own_settings.rs`).
//!
//! The session is asked as itself, in its own database, with PostgreSQL's own functions by their full names:
//! nothing of the tenant's runs, and nothing but the session's own is seen. The question is a prepared
//! statement, because a simple query would end the one without a name.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::net::UnixStream;

use crate::conversation::{Conversation, Unnamed};
use crate::refusal::Refusal;
use crate::wire::{Frames, send};

/// Name of the question among the session's prepared statements.
const NAME: &[u8] = b"stead: what does this session hold?\0";
/// More prepared statements than this, or longer ones in all, are not carried, count and bytes.
const MOST: (usize, usize) = (2000, 1 << 20);
/// Longest row: what is longer than [`MOST`] is cut at 1.1 million characters, of four bytes at most.
pub(crate) const LONGEST_ROW: usize = 5 << 20;

/// Rows are (what it is, name, text, types). A row of the kind `holds` names what cannot be carried.
const QUESTION: &str = "\
select 'setting', name, pg_catalog.left(setting, 1100000), null from pg_catalog.pg_show_all_settings() where source operator(pg_catalog.=) 'session'
union all
select 'setting', name, pg_catalog.left(pg_catalog.current_setting(name, true), 1100000), null
from pg_catalog.unnest($1::pg_catalog.text[]) name where pg_catalog.current_setting(name, true) is not null
union all
select 'setting', 'role', pg_catalog.current_setting('role'), null
where pg_catalog.current_setting('role') operator(pg_catalog.<>) 'none'
union all
select case when from_sql then 'sql' else 'statement' end, name, pg_catalog.left(statement, 1100000),
       pg_catalog.array_to_string(parameter_types::pg_catalog.oid[], ' ')
from pg_catalog.pg_prepared_statement() where name operator(pg_catalog.<>) 'stead: what does this session hold?'
union all
select 'holds', 'a cursor with hold', null, null from pg_catalog.pg_cursor() where is_holdable
union all
select 'holds', 'a LISTEN', null, null from pg_catalog.pg_listening_channels()
union all
select 'holds', 'an advisory lock', null, null from pg_catalog.pg_lock_status()
where locktype operator(pg_catalog.=) 'advisory' and pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()
union all
select 'holds', 'a temporary table', null, null
where case when pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0 then exists (
    select from pg_catalog.pg_depend
    where refclassid operator(pg_catalog.=) 2615 and refobjid operator(pg_catalog.=) pg_catalog.pg_my_temp_schema()
      and deptype operator(pg_catalog.=) 'n') end";

/// The names of settings that functions of the database set, those of PostgreSQL itself aside, which set none:
/// of functions that a transaction made which is not older than `$1`. And what to say as `$1` next time.
const IN_FUNCTIONS: &str = "\
select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.xid::pg_catalog.text, null
union all
(select distinct null, pg_catalog.lower(found[1])
from pg_catalog.pg_proc,
     pg_catalog.regexp_matches(case when prosqlbody is null then prosrc else pg_catalog.pg_get_function_sqlbody(oid) end, '(?:set_config\\s*\\(\\s*''|\\mset\\s+(?:session\\s+)?)([[:alnum:]_$]+(?:[.][[:alnum:]_$]+)+)', 'gi') found
where pronamespace operator(pg_catalog.<>) 11 and pg_catalog.octet_length(prosrc) operator(pg_catalog.<) 1000000
  and pg_catalog.octet_length(found[1]) operator(pg_catalog.<=) 128
  and pg_catalog.age(xmin) operator(pg_catalog.<=) pg_catalog.age($1::pg_catalog.xid)
limit 256)";

/// Names of settings.
pub(crate) type Names = Arc<[Box<str>]>;

/// What is known of the functions of a database.
pub(crate) struct OfFunctions {
    /// Names of settings that they set.
    pub(crate) names: Names,
    /// The oldest transaction that was under way when they were looked at.
    as_of: Bytes,
    /// They were looked at while the sessions rested, not ahead of that.
    pub(crate) at_rest: bool,
}

/// What a session takes along.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    settings: Vec<(Bytes, Bytes)>,
    statements: Vec<Prepared>,
}

/// A prepared statement.
#[derive(Debug)]
struct Prepared {
    /// Made by `PREPARE`, and the text is all of that.
    from_sql: bool,
    name: Bytes,
    text: Bytes,
    types: Vec<u32>,
}

/// What a session answered.
#[derive(Debug)]
pub(crate) enum Holdings {
    /// All of it can be carried.
    Carried(Carried),
    /// This cannot.
    Holds(&'static str),
}

/// That a session did not say what it holds.
pub(crate) const NOT_SAID: &str = "what could not be asked for";

/// Asks a session at rest what its database's functions may have set in it, besides what is known from
/// `before`; nothing where it cannot be asked. What the server said besides goes into `told`.
pub(crate) async fn settings_of_functions(
    server: &mut Frames<UnixStream>,
    told: &mut BytesMut,
    before: Option<&OfFunctions>,
    at_rest: bool,
) -> std::io::Result<Option<OfFunctions>> {
    // Every transaction is younger than number 0, as PostgreSQL counts.
    let as_of = before.map_or(Bytes::from_static(b"0"), |before| before.as_of.clone());
    let answer = question(server, told, IN_FUNCTIONS, &[&as_of]).await?;
    let (mut names, mut next) = (Vec::<Box<str>>::new(), None);
    if let Answer::Rows(rows) = answer {
        for mut row in rows {
            match columns(&mut row) {
                Some([Some(as_of), None]) => next = Some(as_of),
                Some([None, Some(name)]) => {
                    names.extend(String::from_utf8(name.to_vec()).ok().map(Into::into))
                }
                _ => {}
            }
        }
    }
    let known = before.map(|before| before.names.clone()).unwrap_or_default();
    names.retain(|name| !known.contains(name));
    // The very same where there is nothing new: who was asked with them need not be asked again.
    let names = if names.is_empty() { known } else { known.iter().cloned().chain(names).collect() };
    Ok(next.map(|as_of| OfFunctions { names, as_of, at_rest }))
}

/// Asks a session at rest what it holds. The server is at rest again afterwards, unless this fails. What it
/// said besides goes into `told`.
pub(crate) async fn ask(
    server: &mut Frames<UnixStream>,
    told: &mut BytesMut,
    conversation: &Conversation,
    of_functions: &[Box<str>],
) -> std::io::Result<Holdings> {
    let own = conversation.own_settings().names();
    let names = own.unwrap_or_default().iter().chain(of_functions);
    let answer = question(server, told, QUESTION, &[&array(names)]).await?;
    let (mut carried, mut holds) = (Carried::default(), None);
    if own.is_none() {
        holds = Some("a setting of its own whose name is not known");
    }
    if matches!(conversation.unnamed(), Unnamed::TooLong) {
        holds = Some("a prepared statement of more than 32 KiB without a name");
    }
    match answer {
        Answer::Refused => holds = Some(NOT_SAID),
        Answer::TooMuch => holds = Some("too many prepared statements"),
        Answer::Rows(rows) => rows.into_iter().for_each(|row| holds = holds.or(carried.take(row))),
    }
    Ok(holds.map_or(Holdings::Carried(carried), Holdings::Holds))
}

/// What came of a question.
enum Answer {
    Rows(Vec<Bytes>),
    /// The server said no.
    Refused,
    /// More than [`MOST`].
    TooMuch,
}

/// What the server says besides, notifications, notices and settings, is for the client: it goes into `told`.
async fn question(
    server: &mut Frames<UnixStream>,
    told: &mut BytesMut,
    sql: &str,
    values: &[&Bytes],
) -> std::io::Result<Answer> {
    let mut messages = Messages::default();
    // One that was left by a question that failed.
    messages.close(NAME);
    messages.parse(NAME, sql.as_bytes(), &[]);
    messages.bind(NAME, values);
    messages.execute();
    messages.close(NAME);
    send(&mut server.stream, &messages.sync()).await?;
    let (mut answer, mut bytes) = (Answer::Rows(Vec::new()), 0);
    loop {
        let frame = server.next().await?;
        match (frame.kind, &mut answer) {
            (b'Z', _) => return Ok(answer),
            (b'E', _) => {
                tracing::debug!(answer = ?frame.raw, "a session could not be asked what it holds");
                answer = Answer::Refused;
            }
            (b'D', Answer::Rows(rows)) => {
                bytes += frame.body.len();
                if bytes > MOST.1 || rows.len() >= MOST.0 {
                    answer = Answer::TooMuch;
                } else {
                    // A copy: the row itself keeps all that was read with it.
                    rows.push(Bytes::copy_from_slice(&frame.body));
                }
            }
            (b'A' | b'S' | b'N', _) if told.len() < MOST.1 => told.extend_from_slice(&frame.raw),
            _ => {}
        }
    }
}

/// Names as PostgreSQL reads an array.
fn array<'a>(names: impl Iterator<Item = &'a Box<str>>) -> Bytes {
    let quoted = |name: &str| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    let names: Vec<String> = names.map(|name| quoted(name)).collect();
    format!("{{{}}}", names.join(",")).into()
}

impl Carried {
    /// Takes a row; what it is if it cannot be carried.
    fn take(&mut self, mut row: Bytes) -> Option<&'static str> {
        const ODD: Option<&str> = Some("what could not be understood");
        let Some([Some(kind), Some(name), text, types]) = columns(&mut row) else { return ODD };
        match (&kind[..], text) {
            (b"setting", Some(value)) => self.settings.push((name, value)),
            (b"statement" | b"sql", Some(text)) => {
                let types = types.map_or(Some(Vec::new()), |types| numbers(&types));
                let Some(types) = types else { return ODD };
                // The text is all that came with it: behind other statements it cannot be said again.
                if kind == b"sql"[..] && !text.trim_ascii_start().to_ascii_lowercase().starts_with(b"prepare")
                {
                    return Some("a PREPARE that came together with other statements");
                }
                self.statements.push(Prepared { from_sql: kind == b"sql"[..], name, text, types });
            }
            (b"holds", None) => {
                let known = ["a cursor with hold", "a LISTEN", "an advisory lock", "a temporary table"];
                return known.into_iter().find(|known| known.as_bytes() == &name[..]).or(ODD);
            }
            _ => return ODD,
        }
        None
    }

    /// The messages that put it in place.
    fn messages(&self, unnamed: &Unnamed) -> Messages {
        let mut messages = Messages::default();
        let first = |name: &[u8]| name == b"client_encoding";
        let last = |name: &[u8]| match name {
            b"role" | b"session_authorization" => 2,
            // What is put in place may take longer than they allow.
            _ if name.ends_with(b"_timeout") => 1,
            _ => 0,
        };
        let mut settings: Vec<&(Bytes, Bytes)> = self.settings.iter().collect();
        // What follows is written in the session's encoding, and a role may be allowed less than its member.
        settings.sort_by_key(|(name, _)| (!first(name), last(name)));
        if !settings.is_empty() {
            messages.parse(b"\0", b"select pg_catalog.set_config($1, $2, false)", &[25, 25]);
        }
        for (name, value) in settings {
            messages.bind(b"\0", &[name, value]);
            messages.execute();
        }
        for prepared in &self.statements {
            if prepared.from_sql {
                messages.parse(b"\0", &prepared.text, &[]);
                messages.bind(b"\0", &[]);
                messages.execute();
            } else {
                let name = [&prepared.name[..], b"\0"].concat();
                messages.parse(&name, &prepared.text, &prepared.types);
            }
        }
        messages.add(b'S', |_| ());
        // Alone, because it may have failed when it came, and then fails again: the session has none then either.
        match unnamed {
            Unnamed::Parsed(body) => messages.add(b'P', |to| to.put_slice(body)),
            Unnamed::None | Unnamed::TooLong => {}
        }
        messages
    }

    /// Puts all of it in place at a server that is ready for queries. Gives back the settings that the server
    /// told of meanwhile, for the client, and what was read behind the answer.
    pub(crate) async fn put(
        &self,
        mut server: UnixStream,
        unnamed: &Unnamed,
    ) -> Result<(UnixStream, Vec<Bytes>, BytesMut), Refusal> {
        let (mut told, mut refused) = (Vec::new(), None);
        // Written while it is read: a server that cannot say what it has to takes nothing more.
        let (reader, mut writer) = server.split();
        let mut reading = Frames::new(reader);
        let messages = self.messages(unnamed).sync();
        let read = async {
            let (mut ready, mut bytes) = (0, 0);
            while ready < 2 {
                let frame = reading.next().await?;
                match frame.kind {
                    b'Z' => ready += 1,
                    b'S' if bytes < MOST.1 => {
                        bytes += frame.raw.len();
                        told.push(frame.raw);
                    }
                    b'E' if ready == 0 => refused = refused.take().or(Some(frame)),
                    _ => {}
                }
            }
            Ok::<(), std::io::Error>(())
        };
        tokio::try_join!(read, send(&mut writer, &messages))?;
        if let Some(frame) = refused {
            return Err(crate::backend::server_error(&frame));
        }
        let (_, rest) = reading.into_parts();
        Ok((server, told, rest))
    }
}

/// Messages of the extended protocol, one behind the other.
#[derive(Default)]
struct Messages(BytesMut);

impl Messages {
    fn add(&mut self, kind: u8, body: impl FnOnce(&mut BytesMut)) {
        self.0.put_u8(kind);
        let at = self.0.len();
        self.0.put_u32(0);
        body(&mut self.0);
        let length = u32::try_from(self.0.len() - at).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// `name` with its end.
    fn parse(&mut self, name: &[u8], text: &[u8], types: &[u32]) {
        self.add(b'P', |body| {
            body.put_slice(name);
            body.put_slice(text);
            body.put_u8(0);
            body.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
            types.iter().for_each(|oid| body.put_u32(*oid));
        });
    }

    fn bind(&mut self, name: &[u8], values: &[&Bytes]) {
        self.add(b'B', |body| {
            body.put_u8(0);
            body.put_slice(name);
            body.put_u16(0);
            body.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
            for value in values {
                body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                body.put_slice(value);
            }
            body.put_u16(0);
        });
    }

    fn execute(&mut self) {
        self.add(b'E', |body| body.put_slice(&[0; 5]));
    }

    /// Forgets a prepared statement; `name` with its end.
    fn close(&mut self, name: &[u8]) {
        self.add(b'C', |body| {
            body.put_u8(b'S');
            body.put_slice(name);
        });
    }

    fn sync(mut self) -> BytesMut {
        self.add(b'S', |_| ());
        self.0
    }
}

/// The columns of a DataRow.
fn columns<const N: usize>(body: &mut Bytes) -> Option<[Option<Bytes>; N]> {
    if usize::from(body.try_get_u16().ok()?) != N {
        return None;
    }
    let mut columns = [const { None }; N];
    for column in &mut columns {
        let length = body.try_get_i32().ok()?;
        if let Ok(length) = usize::try_from(length) {
            if body.len() < length {
                return None;
            }
            *column = Some(body.split_to(length));
        }
    }
    Some(columns)
}

/// `23 25`
fn numbers(text: &[u8]) -> Option<Vec<u32>> {
    std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}
