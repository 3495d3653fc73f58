//! A server of any engine, a lake, and both compared row for row, the lake as independent readers have it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postgres_types::{Kind, Type};
use serde_json::{Map, Value};
use test_support::{Cluster, installed};
use tokio_postgres::Client;
use transfer::change::{Column, Relation};
use transfer::current::Current;
use transfer::lake::{LakeTable, Writer};
use transfer::stream::{Settings, Stopped, Stream};
use transfer::{Error, Keep, Place, Source};
use url::Url;

/// A row: the texts of its values.
pub(crate) type Row = Map<String, Value>;

/// For how long versions are kept.
pub(crate) const KEEP: Keep = Keep { versions: Duration::from_secs(7 * 24 * 3_600), changes: None };

/// Whoever reads a lake, besides who wrote it.
pub(crate) const READERS: [&str; 2] = ["duckdb", "deltalake"];

pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) lake: tempfile::TempDir,
    /// See [`Source::hold_as_text`].
    pub(crate) texts: Vec<[String; 3]>,
    compared: AtomicUsize,
}

impl Site {
    /// A server where these statements were run, and then its slot made.
    pub(crate) async fn new(major: u16, sql: &str) -> Self {
        let cluster = Cluster::start(major).await;
        let client = connect(&cluster).await;
        client.batch_execute(sql).await.unwrap();
        let lake = tempfile::tempdir().unwrap();
        let site = Self { cluster, client, lake, texts: Vec::new(), compared: AtomicUsize::new(0) };
        site.source().await.make_slot().await.unwrap();
        site
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn source(&self) -> Source {
        let config = self.cluster.config("postgres");
        let mut source =
            Source::connect(config, "slot".parse().unwrap(), "lake".parse().unwrap()).await.unwrap();
        source.hold_as_text(self.texts.clone());
        source
    }

    pub(crate) async fn stream(&self) -> Stream {
        let lake = Url::from_directory_path(self.lake.path()).unwrap().into();
        Stream::new(
            self.source().await,
            Settings { transfer: "test".into(), epoch: "1".into(), lake, asked: BTreeMap::new() },
        )
    }

    /// Takes all that the slot has; answers which tables had what was not written.
    pub(crate) async fn drain(&self) -> Vec<Stopped> {
        drain(&mut self.stream().await).await.unwrap()
    }

    pub(crate) async fn relation(&self, table: &str) -> Relation {
        let tables = self.source().await.tables().await.unwrap();
        tables.into_iter().find(|relation| relation.name == table).unwrap()
    }

    /// The same as a publication of another name has it.
    pub(crate) async fn relation_of(&self, table: &str, publication: &str) -> Relation {
        let config = self.cluster.config("postgres");
        let names = ("slot".parse().unwrap(), publication.parse().unwrap());
        let tables = Source::connect(config, names.0, names.1).await.unwrap().tables().await.unwrap();
        tables.into_iter().find(|relation| relation.name == table).unwrap()
    }

    /// Merges a table, and copies it first where it has to be; answers why it had to.
    pub(crate) async fn merge(&self, table: &str) -> Result<Option<String>, Error> {
        let lake = Url::from_directory_path(self.lake.path().join("public")).unwrap().into();
        refresh(&mut self.source().await, &lake, table).await
    }

    /// Everything is taken and merged, without a copy, and the table is the source's.
    pub(crate) async fn follows(&self, table: &str) {
        assert_eq!(self.drain().await, []);
        assert_eq!(self.merge(table).await.unwrap(), None, "{table}");
        self.assert_same(table).await;
    }

    /// The rows of a table of the lake, as a reader has them.
    pub(crate) fn lake_rows(&self, reader: &str, table: &str) -> Vec<Row> {
        lake_rows(reader, &self.lake.path().join("public").join(table))
    }

    /// The table in the lake is the source's, for one reader after the other; what was dropped there is left out.
    pub(crate) async fn assert_same(&self, table: &str) {
        let reader = READERS[self.compared.fetch_add(1, Ordering::Relaxed) % 2];
        let relation = self.relation(table).await;
        let source = source_rows(&self.client, &relation).await;
        let lake = self.lake_rows(reader, table).into_iter().map(|row| own(row, &relation));
        assert_rows(source, lake.collect(), &format!("{table} by {reader}"));
    }
}

pub(crate) async fn connect(cluster: &Cluster) -> Client {
    let client = cluster.connect("postgres").await;
    // A slot gives what was flushed.
    client.batch_execute("set synchronous_commit = on").await.unwrap();
    client
}

pub(crate) async fn drain(stream: &mut Stream) -> Result<Vec<Stopped>, Error> {
    let mut stopped = Vec::new();
    loop {
        let step = stream.step().await?;
        stopped.extend(step.stopped);
        if step.transactions == 0 {
            return Ok(stopped);
        }
    }
}

/// Merges a table of a lake, and copies it first where it has to be; answers why it had to.
pub(crate) async fn refresh(source: &mut Source, lake: &Place, table: &str) -> Result<Option<String>, Error> {
    let place = |table: &str| lake.below([table]);
    let writer = || Writer { name: format!("test/public.{table}"), epoch: "1".into() };
    let find = |tables: Vec<Relation>| tables.into_iter().find(|relation| relation.name == table);
    let Some(relation) = find(source.tables().await?) else { return Ok(None) };
    let changes = LakeTable::open_changes(&place(&format!("{table}__changes")), writer(), &relation).await?;
    let Some(relation) = find(source.tables().await?) else { return Ok(None) };
    let mut current = Current::open(&place(table), writer(), relation).await?;
    current.tidy(KEEP).await?;
    match current.merge(&changes).await {
        Err(Error::CopyAnew { why, .. }) => {
            current.copy(&source.snapshot().await?).await?;
            current.merge(&changes).await?;
            Ok(Some(why))
        }
        merged => merged.map(|_| None),
    }
}

pub(crate) fn lake_rows(reader: &str, folder: &std::path::Path) -> Vec<Row> {
    let Some(python) = installed("STEAD_TEST_PYTHON", "python/bin/python") else { panic!("no reader") };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/lake.py");
    let read = Command::new(python).args([script, reader]).arg(folder).output().unwrap();
    assert!(read.status.success(), "{reader} {folder:?}: {}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The columns that the source has.
pub(crate) fn own(row: Row, relation: &Relation) -> Row {
    row.into_iter().filter(|(name, _)| relation.columns.iter().any(|column| column.name == *name)).collect()
}

pub(crate) fn assert_rows(source: Vec<Row>, lake: Vec<Row>, what: &str) {
    let sorted = |rows: Vec<Row>| -> BTreeMap<String, Row> {
        let count = rows.len();
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (text(&row), row)).collect();
        assert_eq!(rows.len(), count, "{what}: a row is there twice");
        rows
    };
    let (source, lake) = (sorted(source), sorted(lake));
    let alone = |from: &BTreeMap<String, Row>, other: &BTreeMap<String, Row>| -> Vec<Row> {
        from.iter().filter(|(text, _)| !other.contains_key(*text)).map(|(_, row)| row.clone()).collect()
    };
    let (there, here) = (alone(&source, &lake), alone(&lake, &source));
    if there.is_empty() && here.is_empty() {
        return;
    }
    // Of two with one key what differs is said, else how they begin.
    let differ = |row: &Row| {
        let other = here.iter().find(|other| other.get("id") == row.get("id"))?;
        let differing = row.iter().filter(|(name, value)| other.get(*name) != Some(value));
        Some(
            differing
                .map(|(name, value)| format!("{name}: {value} is {:?}", other.get(name)))
                .collect::<Vec<_>>(),
        )
    };
    let first = there.iter().chain(&here).next().map(text).unwrap_or_default();
    let first: String = first.chars().take(300).collect();
    panic!(
        "{what}: {} of {} rows only in the source, {} of {} only in the lake: {:#?} {first}",
        there.len(),
        source.len(),
        here.len(),
        lake.len(),
        there.first().and_then(differ),
    );
}

fn text(row: &Row) -> String {
    let sorted: BTreeMap<_, _> = row.iter().collect();
    serde_json::to_string(&sorted).unwrap()
}

/// The rows of the source, with the texts that `lake.py` has of them.
pub(crate) async fn source_rows(client: &Client, relation: &Relation) -> Vec<Row> {
    let columns: Vec<_> = relation
        .columns
        .iter()
        .map(|column| {
            let name = format!("\"{}\"", column.name.replace('"', "\"\""));
            format!("{} as {name}", expression(&name, column))
        })
        .collect();
    let rows = format!(
        "select to_jsonb(a_row)::text from (select {} from \"{}\".\"{}\") a_row",
        columns.join(", "),
        relation.schema,
        relation.name
    );
    let rows = client.query(&rows, &[]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

fn expression(name: &str, column: &Column) -> String {
    match Type::from_oid(column.type_id) {
        Some(of) if [Type::INT2_VECTOR, Type::OID_VECTOR, Type::BOX_ARRAY].contains(&of) => {
            scalar(name, &Type::TEXT)
        }
        Some(of) => match of.kind() {
            Kind::Array(element) => {
                let all = format!(
                    "select coalesce(jsonb_agg({}), '[]') from unnest({name}) e",
                    scalar("e", element)
                );
                format!("case when {name} is not null then ({all}) end")
            }
            _ => scalar(name, &of),
        },
        None => scalar(name, &Type::TEXT),
    }
}

fn scalar(name: &str, of: &Type) -> String {
    let infinite = |last: &str, finite: &str| {
        format!(
            "case {name}::text when 'infinity' then '{last}' when '-infinity' then '-{last}' else ({finite})::text end"
        )
    };
    match *of {
        Type::BOOL => format!("case when {name} then 't' when not {name} then 'f' end"),
        Type::FLOAT4 => format!("float4send({name})::text"),
        Type::FLOAT8 => format!("float8send({name})::text"),
        Type::DATE => infinite("2147483647", &format!("{name} - date '1970-01-01'")),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => infinite(
            "9223372036854775807",
            &format!("(extract(epoch from {name}) * 1000000)::numeric::bigint"),
        ),
        // Not a cast, which some types do in another way than they are written.
        _ => format!("case when {name} is not null then format('%s', {name}) end"),
    }
}
