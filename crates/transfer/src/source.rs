//! The server that a transfer reads: a slot, a publication, and the changes behind them.
//!
//! Changes are *pulled* with SQL: a peek at the slot, as much as is wanted, copied in PostgreSQL's binary form; and once
//! they are durable the slot is advanced. This takes any connection, and several times as much a second as the streaming
//! protocol, which sends a message a row.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use postgres_types::Type;
use tokio::sync::OnceCell;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::change::Relation;
use crate::decode::Decoder;
use crate::elsewhere::Meant;
use crate::parts::Parts;
use crate::visibility::{BadSnapshot, Visibility};
use crate::way::Way;
use crate::wire::Part;
use crate::{Error, Lsn, catalog};

/// How values are written, and that a session may take its time, whatever the server's own settings say: one that made
/// a snapshot is idle while others read by it.
const FORMS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 \
                     -c bytea_output=hex -c client_encoding=UTF8 -c lc_monetary=C -c search_path= \
                     -c statement_timeout=0 -c idle_in_transaction_session_timeout=0";

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
    way: Way,
    pub(crate) slot: Slot,
    pub(crate) publication: Publication,
    /// What is read of it, where it is elsewhere.
    pub(crate) meant: Option<Meant>,
    texts: Texts,
    parts: Parts,
}

/// Schema, name, columns and row filter of the tables that are read, as SQL that stands in a `from`.
pub(crate) struct Which(String);

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Columns that are held as text, whatever their type is: schema, table, column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts(Arc<BTreeSet<[String; 3]>>);

impl Texts {
    pub(crate) fn apply(&self, relation: &mut Relation) {
        let Relation { schema, name, columns, .. } = relation;
        for column in columns {
            if self.0.contains(&[schema.clone(), name.clone(), column.name.clone()]) {
                (column.type_id, column.modifier) = (Type::TEXT.oid(), -1);
            }
        }
    }
}

impl Source {
    /// Connects.
    ///
    /// # Errors
    /// Where there is no way to the server, or it does not let in.
    pub async fn connect(way: impl Into<Way>, slot: Slot, publication: Publication) -> Result<Self, Error> {
        let mut way = way.into();
        way.session("stead transfer", FORMS);
        let (client, connection) = way.connect().await?;
        tokio::spawn(connection);
        let (texts, parts) = (Texts::default(), Parts::default());
        Ok(Self { client, way, slot, publication, meant: None, texts, parts })
    }

    /// Reads tables of the catalog, in a server in which nothing is published by a function of Stead's.
    pub(crate) fn elsewhere(self, meant: Meant) -> Self {
        Self { meant: Some(meant), ..self }
    }

    fn which(&self) -> Which {
        let Self { meant, publication, .. } = self;
        Which(match meant {
            Some(meant) => meant.tables(publication),
            None => format!(
                "(select schemaname, tablename, attnames, rowfilter from pg_publication_tables
                  where pubname = '{publication}')"
            ),
        })
    }

    /// Holds columns as PostgreSQL's own text of them, each a schema, a table and a column: for what the form of their
    /// type cannot hold ([`crate::Error::Value`]).
    pub fn hold_as_text(&mut self, columns: impl IntoIterator<Item = [String; 3]>) {
        self.texts = Texts(Arc::new(columns.into_iter().collect()));
    }

    /// Leaves out what of tables is not meant.
    pub fn leave_out(&mut self, parts: Vec<Part>) {
        self.parts = Parts::new(parts);
    }

    pub(crate) fn decoder(&self) -> Decoder {
        Decoder::new(self.texts.clone(), self.parts.clone())
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

    /// The tables that are read: those that are published, and elsewhere those that are meant.
    pub async fn tables(&self) -> Result<Vec<Relation>, Error> {
        catalog::tables(&self.client, &self.which(), &self.texts, &self.parts).await
    }

    /// Begins a copy of all tables that are read: a transaction that sees one moment. Until it is over none of them can be
    /// declared otherwise or emptied: PostgreSQL would show a table whose rows were written anew in the meantime as
    /// empty.
    pub async fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        let names = catalog::names(&self.client, &self.which()).await?;
        self.snapshot_with(&names).await
    }

    /// The same for a copy of one table, which keeps nobody from declaring the others otherwise.
    pub async fn snapshot_of(&mut self, table: &Relation) -> Result<Snapshot<'_>, Error> {
        self.snapshot_with(&[named(table)]).await
    }

    async fn snapshot_with(&mut self, names: &[String]) -> Result<Snapshot<'_>, Error> {
        let which = self.which();
        let transaction = self
            .client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        if !names.is_empty() {
            // It sees the moment of its first query, which this is not.
            let lock = format!("lock table {} in access share mode", names.join(", "));
            transaction.batch_execute(&lock).await?;
        }
        // A standby writes no log of its own.
        let moment = "select pg_current_snapshot()::text, case when pg_is_in_recovery()
            then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end";
        let row = transaction.query_one(moment, &[]).await?;
        let visibility: String = row.get(0);
        let visibility =
            visibility.parse().map_err(|error: BadSnapshot| Error::Strange(error.to_string()))?;
        let tables = catalog::tables(transaction.client(), &which, &self.texts, &self.parts).await?;
        let (way, exported) = (self.way.clone(), OnceCell::new());
        Ok(Snapshot { transaction, way, exported, visibility, at: row.get(1), tables })
    }

    /// Another session of the same sign-in.
    pub(crate) async fn another(&self, name: &str) -> Result<Client, Error> {
        let (client, connection) = self.way.called(name).connect().await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The next messages of the slot: whole transactions, with at least `most` rows unless there are not so many.
    pub(crate) async fn peek(&self, most: u32) -> Result<Messages, Error> {
        let Self { client, slot, publication, .. } = self;
        Messages::of(client, "pg_logical_slot_peek_binary_changes", &slot.to_string(), publication, most)
            .await
    }

    /// Lets go of everything before a position.
    pub(crate) async fn advance(&self, to: Lsn) -> Result<(), Error> {
        let advance = "select pg_replication_slot_advance($1, $2)";
        self.client.execute(advance, &[&self.slot.to_string(), &to]).await?;
        Ok(())
    }

    /// What it was told last that it can let go of.
    pub(crate) async fn let_go_of(&self) -> Result<Lsn, Error> {
        let confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = $1";
        let row = self.client.query_opt(confirmed, &[&self.slot.to_string()]).await?;
        row.map(|row| row.get(0)).ok_or_else(|| Error::Strange(format!("there is no slot {}", self.slot)))
    }

    /// How many bytes of the server's log the slot has not let go of, which need not be its own.
    pub(crate) async fn behind(&self) -> Result<u64, Error> {
        let (end, let_go_of) = (self.end().await?, self.let_go_of().await?);
        Ok(u64::from(end).saturating_sub(let_go_of.into()))
    }

    /// Waits until everybody sees what these transactions did: a stream is told of a commit a moment earlier.
    pub(crate) async fn sees(&self, transactions: &[u32]) -> Result<(), Error> {
        if transactions.is_empty() {
            return Ok(());
        }
        let numbers: BTreeSet<String> = transactions.iter().map(u32::to_string).collect();
        let numbers: Vec<_> = numbers.into_iter().collect();
        let under_way = "select exists (select from pg_locks
            where locktype = 'transactionid' and granted and transactionid::text = any($1))";
        while self.client.query_one(under_way, &[&numbers]).await?.get(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// Messages of a slot, as they come.
pub(crate) struct Messages {
    rows: Pin<Box<BinaryCopyOutStream>>,
    /// What was waited for.
    first: Option<Bytes>,
    is_over: bool,
    most: u32,
}

impl Messages {
    async fn of(
        client: &Client,
        function: &str,
        slot: &str,
        publication: &Publication,
        most: u32,
    ) -> Result<Self, Error> {
        let ask = format!(
            "copy (select data from {function}('{slot}', null, {most}, 'proto_version', '1', \
             'publication_names', '{publication}')) to stdout (format binary)"
        );
        let rows = BinaryCopyOutStream::new(client.copy_out(ask.as_str()).await?, &[Type::BYTEA]);
        Ok(Self { rows: Box::pin(rows), first: None, is_over: false, most })
    }

    /// Those of a slot, which begins behind them afterwards.
    pub(crate) async fn used_up(
        client: &Client,
        slot: &str,
        publication: &Publication,
        most: u32,
    ) -> Result<Self, Error> {
        Self::of(client, "pg_logical_slot_get_binary_changes", slot, publication, most).await
    }

    /// How many were asked for.
    pub(crate) fn most(&self) -> u32 {
        self.most
    }

    /// Waits until the server has all of them: it says none before.
    pub(crate) async fn wait(&mut self) -> Result<(), Error> {
        self.first = self.next().await?;
        Ok(())
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.is_over {
            return Ok(None);
        }
        let row = self.rows.next().await.transpose()?;
        self.is_over = row.is_none();
        row.map(|row| Ok(Bytes::copy_from_slice(row.try_get(0)?))).transpose()
    }
}

/// One moment of a server.
pub struct Snapshot<'s> {
    transaction: Transaction<'s>,
    /// How other sessions reach the server, and what they call this moment there.
    pub(crate) way: Way,
    pub(crate) exported: OnceCell<String>,
    visibility: Visibility,
    at: Lsn,
    tables: Vec<Relation>,
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

    /// The tables that are read, as they are at this moment and stay until it is over.
    pub fn tables(&self) -> &[Relation] {
        &self.tables
    }

    /// Asks for one row.
    pub(crate) async fn ask(&self, sql: &str) -> Result<tokio_postgres::Row, Error> {
        Ok(self.client().query_one(sql, &[]).await?)
    }

    pub(crate) fn client(&self) -> &Client {
        self.transaction.client()
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table as SQL has it.
pub(crate) fn named(table: &Relation) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
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
}
