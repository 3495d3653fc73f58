//! A source for a test, and what a stream of it has written.

use std::collections::BTreeMap;

use deltalake::arrow::array::{Array, AsArray, RecordBatch};
use deltalake::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use test_support::ControlDatabase;
use tokio_postgres::Client;
use transfer::Source;
use transfer::current::Current;
use transfer::lake::{LakeTable, Writer};
use transfer::stream::{Settings, Stream};
use url::Url;

/// A database with a table that is published, and an empty lake.
pub(crate) struct Fixture {
    pub(crate) database: ControlDatabase,
    pub(crate) client: Client,
    pub(crate) lake: tempfile::TempDir,
    slot: String,
    /// Tests that end writers keep one another waiting: fail points are the whole process's.
    _alone: fail::FailScenario<'static>,
}

/// A row of a table of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) op: String,
    pub(crate) lsn: i64,
    pub(crate) order: i64,
    pub(crate) unchanged: Vec<String>,
    pub(crate) id: Option<i64>,
    pub(crate) value: Option<String>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let alone = fail::FailScenario::setup();
        let database = ControlDatabase::start().await;
        let client = database.connect().await;
        // A slot gives what was flushed.
        client
            .batch_execute(
                "set synchronous_commit = on;
                 create table items (id bigint primary key, value text);
                 alter table items alter column value set storage external;
                 create publication lake for all tables",
            )
            .await
            .unwrap();
        let lake = tempfile::tempdir().unwrap();
        // Slots are named for the whole server, which other tests share.
        let name = database.config().get_dbname().unwrap().to_owned();
        let fixture = Self { database, client, lake, slot: format!("s{}", &name[1..20]), _alone: alone };
        fixture.source().await.make_slot().await.unwrap();
        fixture
    }

    pub(crate) async fn source(&self) -> Source {
        let (slot, publication) = (self.slot.parse().unwrap(), "lake".parse().unwrap());
        Source::connect(self.database.config(), slot, publication).await.unwrap()
    }

    /// A process that begins to read.
    pub(crate) async fn stream(&self) -> Stream {
        let lake = Url::from_directory_path(self.lake.path()).unwrap().into();
        let settings = Settings { transfer: "test".into(), epoch: "1".into(), lake, asked: BTreeMap::new() };
        Stream::new(self.source().await, settings)
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// The table as it is, in the lake, and the changes that it is made of.
    pub(crate) async fn current(&self) -> (Current, LakeTable) {
        let relation = self.source().await.tables().await.unwrap().remove(0);
        let writer = || Writer { name: "test/public.items".into(), epoch: "1".into() };
        let current = Current::open(&self.url("items").into(), writer(), relation.clone()).await.unwrap();
        let changes =
            LakeTable::open_changes(&self.url("items__changes").into(), writer(), &relation).await.unwrap();
        (current, changes)
    }

    fn url(&self, table: &str) -> Url {
        Url::from_directory_path(self.lake.path().join("public").join(table)).unwrap()
    }

    async fn batches(&self, table: &str) -> Vec<RecordBatch> {
        let mut opened = deltalake::DeltaTableBuilder::from_url(self.url(table)).unwrap().build().unwrap();
        opened.load().await.unwrap();
        let mut batches = Vec::new();
        for file in opened.get_file_uris().unwrap() {
            let path = Url::parse(&file).ok().and_then(|url| url.to_file_path().ok()).unwrap_or(file.into());
            let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap());
            batches.extend(reader.unwrap().build().unwrap().map(Result::unwrap));
        }
        batches
    }

    /// What is in the lake, in the order of the source.
    pub(crate) async fn changes(&self) -> Vec<Changed> {
        let mut all: Vec<_> = self.batches("items__changes").await.iter().flat_map(read).collect();
        all.sort_by_key(|row| (row.lsn, row.order));
        all
    }

    /// What the table in the lake holds; no key is there twice.
    pub(crate) async fn lake_table(&self) -> BTreeMap<i64, Option<String>> {
        let mut table = BTreeMap::new();
        for batch in self.batches("items").await {
            let (id, value) =
                (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
            for row in 0..batch.num_rows() {
                let value = value.is_valid(row).then(|| value.value(row).to_owned());
                assert_eq!(table.insert(id.value(row), value), None, "a row is there twice");
            }
        }
        table
    }

    /// What the source's table holds.
    pub(crate) async fn table(&self) -> BTreeMap<i64, Option<String>> {
        let rows = self.client.query("select id, value from items", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

fn read(batch: &RecordBatch) -> Vec<Changed> {
    let column = |name: &str| batch.column_by_name(name).unwrap().clone();
    let (op, value) = (column("_op"), column("value"));
    let (op, value) = (op.as_string::<i32>(), value.as_string::<i32>());
    let (lsn, order, id) = (column("_lsn"), column("_order"), column("id"));
    let [lsn, order, id] = [&lsn, &order, &id].map(|column| column.as_primitive::<Int64Type>());
    let unchanged = column("_unchanged_columns");
    let unchanged = unchanged.as_list::<i32>();
    let at = column("_committed_at");
    assert!(at.as_primitive::<TimestampMicrosecondType>().value(0) > 1_700_000_000_000_000);
    let names = |row: usize| -> Vec<String> {
        let names = unchanged.is_valid(row).then(|| unchanged.value(row));
        names.iter().flat_map(|names| names.as_string::<i32>().iter().flatten().map(str::to_owned)).collect()
    };
    (0..batch.num_rows())
        .map(|row| Changed {
            op: op.value(row).to_owned(),
            lsn: lsn.value(row),
            order: order.value(row),
            unchanged: names(row),
            id: id.is_valid(row).then(|| id.value(row)),
            value: value.is_valid(row).then(|| value.value(row).to_owned()),
        })
        .collect()
}

/// The table that changes make, from nothing.
pub(crate) fn replay(changes: &[Changed]) -> BTreeMap<i64, Option<String>> {
    let mut table = BTreeMap::new();
    // Of a row whose identity changes, what is not said again is that of the row that went just before.
    let mut gone = None;
    for change in changes {
        let before = |table: &BTreeMap<i64, Option<String>>, id| table.get(&id).cloned().flatten();
        match (change.op.as_str(), change.id) {
            ("truncate", _) => table.clear(),
            ("delete", Some(id)) => gone = table.remove(&id).flatten(),
            ("insert" | "update", Some(id)) => {
                let kept = || if change.op == "insert" { gone.clone() } else { before(&table, id) };
                let value = if change.unchanged.is_empty() { change.value.clone() } else { kept() };
                table.insert(id, value);
            }
            other => panic!("{other:?}"),
        }
    }
    table
}
