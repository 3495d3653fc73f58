//! The server that a transfer reads: a slot, a publication, and the changes behind them.
//!
//! Changes are *pulled* with SQL: a peek at the slot, as much as is wanted, copied in PostgreSQL's binary form; and once
//! they are durable the slot is advanced. This takes any connection, and several times as much a second as the streaming
//! protocol, which sends a message a row.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use futures::{Stream, StreamExt, pin_mut};
use postgres_types::Type;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::{Client, Config, IsolationLevel, Transaction};

use crate::change::{Cell, Column, Relation, Row};
use crate::visibility::{BadSnapshot, Visibility};
use crate::{Error, Lsn};

/// How values are written, whatever the server's own settings say.
const FORMS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 \
                     -c bytea_output=hex -c client_encoding=UTF8";

/// A name that needs no quotes: of a slot or a publication of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain(String);

/// The name of a replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot(Plain);

/// The name of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication(Plain);

/// A text that is no such name: small letters, digits and underscores, at most 63.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a slot or a publication: small letters, digits and `_`, at most 63")]
pub struct BadName(String);

impl FromStr for Plain {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=63).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName(text.chars().take(80).collect()))
        }
    }
}

impl FromStr for Slot {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse().map(Self)
    }
}

impl FromStr for Publication {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.0)
    }
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.0)
    }
}

/// A connection to the server.
pub struct Source {
    pub(crate) client: Client,
    pub(crate) slot: Slot,
    pub(crate) publication: Publication,
}

impl Source {
    /// Connects, over a Unix socket or in plain text: TLS is whoever's makes the connection.
    pub async fn connect(mut config: Config, slot: Slot, publication: Publication) -> Result<Self, Error> {
        config.application_name("stead transfer").options(FORMS);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(Self { client, slot, publication })
    }

    /// Makes the slot where there is none; from then on the server keeps every change for it.
    pub async fn make_slot(&self) -> Result<(), Error> {
        let name = self.slot.to_string();
        let there = "select from pg_replication_slots where slot_name = $1";
        if self.client.query_opt(there, &[&name]).await?.is_none() {
            let make = "select pg_create_logical_replication_slot($1, 'pgoutput')";
            self.client.execute(make, &[&name]).await?;
        }
        Ok(())
    }

    /// The tables that are published.
    pub async fn tables(&self) -> Result<Vec<Relation>, Error> {
        let published = "select schemaname, tablename, format('%I.%I', schemaname, tablename)
            from pg_publication_tables where pubname = $1 order by 1, 2";
        // What identifies a row is what the replica identity says.
        let of = "select a.attname, a.atttypid, a.atttypmod, coalesce(a.attnum = any(i.indkey), false)
            from pg_attribute a join pg_class c on c.oid = a.attrelid
            left join pg_index i on i.indrelid = c.oid
                and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
            where c.oid = $1::text::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
            order by a.attnum";
        let mut tables = Vec::new();
        for table in self.client.query(published, &[&self.publication.to_string()]).await? {
            let columns = self.client.query(of, &[&table.get::<_, String>(2)]).await?;
            let columns = columns.iter().map(|row| Column {
                name: row.get(0),
                type_id: row.get(1),
                modifier: row.get(2),
                is_key: row.get(3),
            });
            let (schema, name) = (table.get(0), table.get(1));
            tables.push(Relation { schema, name, columns: columns.collect() });
        }
        Ok(tables)
    }

    /// Begins a copy: a transaction that sees one moment.
    pub async fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        let transaction = self
            .client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let moment = "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()";
        let row = transaction.query_one(moment, &[]).await?;
        let visibility: String = row.get(0);
        let visibility =
            visibility.parse().map_err(|error: BadSnapshot| Error::Strange(error.to_string()))?;
        Ok(Snapshot { transaction, visibility, at: row.get(1) })
    }

    /// The next messages of the slot: whole transactions, with at least `most` rows unless there are not so many.
    pub(crate) async fn peek(&self, most: u32) -> Result<Vec<Bytes>, Error> {
        let Self { slot, publication, .. } = self;
        let peek = format!(
            "copy (select data from pg_logical_slot_peek_binary_changes('{slot}', null, {most}, \
             'proto_version', '1', 'publication_names', '{publication}')) to stdout (format binary)"
        );
        let rows = BinaryCopyOutStream::new(self.client.copy_out(peek.as_str()).await?, &[Type::BYTEA]);
        pin_mut!(rows);
        let mut messages = Vec::new();
        while let Some(row) = rows.next().await {
            messages.push(Bytes::copy_from_slice(row?.try_get(0)?));
        }
        Ok(messages)
    }

    /// Lets go of everything before a position.
    pub(crate) async fn advance(&self, to: Lsn) -> Result<(), Error> {
        let advance = "select pg_replication_slot_advance($1, $2)";
        self.client.execute(advance, &[&self.slot.to_string(), &to]).await?;
        Ok(())
    }
}

/// One moment of a server.
pub struct Snapshot<'s> {
    transaction: Transaction<'s>,
    visibility: Visibility,
    at: Lsn,
}

impl Snapshot<'_> {
    /// What it sees.
    pub fn visibility(&self) -> &Visibility {
        &self.visibility
    }

    /// Whatever is committed behind this, it does not see.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// The rows of a table.
    pub(crate) async fn rows(
        &self,
        relation: &Relation,
    ) -> Result<impl Stream<Item = Result<Row, Error>>, Error> {
        let columns: Vec<_> = relation.columns.iter().map(|column| quoted(&column.name)).collect();
        let table = format!("{}.{}", quoted(&relation.schema), quoted(&relation.name));
        let copy = format!("copy (select {} from {table}) to stdout", columns.join(", "));
        let lines = self.transaction.copy_out(copy.as_str()).await?;
        Ok(lines.map(|line| Ok(fields(&line?))))
    }
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The values of a line of `copy`'s text form.
fn fields(line: &Bytes) -> Row {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    if text.is_empty() {
        // A table may have no column; one empty text is told as such.
        return vec![Cell::Text(Bytes::new())];
    }
    text.split(|byte| *byte == b'\t').map(|field| field_of(line, field)).collect()
}

fn field_of(line: &Bytes, field: &[u8]) -> Cell {
    if field == b"\\N" {
        return Cell::Null;
    }
    if !field.contains(&b'\\') {
        return Cell::Text(line.slice_ref(field));
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
    Cell::Text(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_have_to_be_quoted_are_none() {
        assert!("stead_lake_1".parse::<Slot>().is_ok());
        for bad in ["", "A", "a'b", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<Slot>().is_err() && bad.parse::<Publication>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_of_a_copy_are_taken_apart() {
        let line = Bytes::from_static(b"1\t\\N\ta\\tb\\\\\t\n");
        let text = |text: &'static str| Cell::Text(Bytes::from_static(text.as_bytes()));
        assert_eq!(fields(&line), [text("1"), Cell::Null, text("a\tb\\"), text("")]);
    }
}
