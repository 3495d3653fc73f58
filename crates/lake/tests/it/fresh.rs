//! A table is read as its source is, whether or not its changes are merged.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use test_support::ControlDatabase;
use tokio_postgres::Client;
use transfer::Source;
use transfer::current::Current;
use transfer::lake::{LakeTable, Writer};
use transfer::stream::{Settings, Stream};
use url::Url;

use crate::support::{Lake, count};

type Rows = BTreeMap<(i64, String), (Option<String>, Option<String>)>;

const ROWS: &str = "select id, part, value, note from items";

/// A table of a source, a stream of it into a lake, and the lake's service.
struct Fixture {
    database: ControlDatabase,
    source: Client,
    lake: Lake,
    reader: Client,
    slot: String,
}

impl Fixture {
    async fn new() -> Self {
        let database = ControlDatabase::start().await;
        let source = database.connect().await;
        source
            .batch_execute(
                "set synchronous_commit = on;
                 create table items (note text, id bigint, value text, part text, primary key (part, id));
                 alter table items alter column value set storage external;
                 create publication lake for all tables",
            )
            .await
            .unwrap();
        let lake = Lake::start().await;
        let reader = lake.client().await;
        let name = database.config().get_dbname().unwrap().to_owned();
        let fixture = Self { database, source, lake, reader, slot: format!("f{}", &name[1..20]) };
        fixture.source().await.make_slot().await.unwrap();
        fixture
    }

    async fn source(&self) -> Source {
        let (slot, publication) = (self.slot.parse().unwrap(), "lake".parse().unwrap());
        Source::connect(self.database.config(), slot, publication).await.unwrap()
    }

    async fn sql(&self, sql: &str) {
        self.source.batch_execute(sql).await.unwrap();
    }

    /// Brings the changes, but does not merge them.
    async fn stream(&self) {
        let lake = Url::from_directory_path(self.lake.folder()).unwrap().into();
        let settings = Settings { transfer: "test".into(), epoch: "1".into(), lake, asked: BTreeMap::new() };
        let mut stream = Stream::new(self.source().await, settings);
        while stream.step().await.unwrap().transactions > 0 {}
    }

    async fn current(&self) -> (Current, LakeTable) {
        let relation = self.source().await.tables().await.unwrap().remove(0);
        let writer = || Writer { name: "test/public.items".into(), epoch: "1".into() };
        let place =
            |name| Url::from_directory_path(self.lake.folder().join("public").join(name)).unwrap().into();
        let current = Current::open(&place("items"), writer(), relation.clone()).await.unwrap();
        let changes = LakeTable::open_changes(&place("items__changes"), writer(), &relation).await.unwrap();
        (current, changes)
    }

    async fn copy(&self) {
        let (mut current, _) = self.current().await;
        let mut source = self.source().await;
        let snapshot = source.snapshot().await.unwrap();
        current.copy(&snapshot).await.unwrap();
    }

    async fn merge(&self) {
        let (mut current, changes) = self.current().await;
        current.merge(&changes).await.unwrap();
    }

    async fn rows(client: &Client) -> Rows {
        let rows = client.query(ROWS, &[]).await.unwrap();
        let count = rows.len();
        let rows: Rows =
            rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
        assert_eq!(rows.len(), count, "a row is there twice");
        rows
    }

    async fn is_same(&self) -> bool {
        Self::rows(&self.reader).await == Self::rows(&self.source).await
    }
}

fn transaction(random: &mut StdRng) -> String {
    let mut sql = "begin;".to_owned();
    for _ in 0..random.random_range(1..6) {
        let (id, other) = (random.random_range(0..40), random.random_range(0..40));
        let part = ["a", "b"][random.random_range(0..2)];
        let long = char::from(random.random_range(b'a'..=b'z')).to_string().repeat(3_000);
        let value = if random.random_bool(0.4) { format!("'{long}'") } else { format!("'v{other}'") };
        sql.push_str(&match random.random_range(0..20) {
            0..8 => format!(
                "insert into items (id, part, value) values ({id}, '{part}', {value})
                 on conflict (part, id) do update set value = excluded.value;"
            ),
            8..12 => format!("update items set note = 'n{other}' where id = {id};"),
            12..15 => format!(
                "update items set id = {other} where id = {id} and part = '{part}'
                 and not exists (select 1 from items where id = {other} and part = '{part}');"
            ),
            15..18 => format!("delete from items where id = {id};"),
            18 => format!("savepoint s; delete from items where id > {id}; rollback to s;"),
            _ if random.random_bool(0.2) => "truncate items;".to_owned(),
            _ => format!("update items set value = null where id = {id};"),
        });
    }
    sql + "commit"
}

/// Writes, copies and merges at random; answers whether a reader saw the source as it was, each time.
async fn was_always_the_same(fixture: &Fixture, seed: u64, rounds: usize) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..rounds {
        for _ in 0..random.random_range(1..4) {
            fixture.sql(&transaction(&mut random)).await;
        }
        match random.random_range(0..6) {
            // A copy is ahead of the stream for a while.
            0 => fixture.copy().await,
            1 => fixture.merge().await,
            _ => {}
        }
        fixture.stream().await;
        if random.random_bool(0.1) {
            fixture.merge().await;
        }
        if !fixture.is_same().await {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_table_is_its_source_without_a_merge() {
    let fixture = Fixture::new().await;
    fixture.copy().await;
    assert!(was_always_the_same(&fixture, 5, 30).await);
    let _scenario = fail::FailScenario::setup();
    fail::cfg("lake::fresh.stale", "return").unwrap();
    assert!(!was_always_the_same(&fixture, 6, 60).await, "the control must fail");
}

#[tokio::test]
async fn questions_of_all_kinds_see_later_changes() {
    let fixture = Fixture::new().await;
    fixture
        .sql("insert into items (id, part, value) select i, 'a', 'v' || i from generate_series(1, 1000) i")
        .await;
    fixture.copy().await;
    fixture.stream().await;
    fixture.merge().await;
    let reader = &fixture.reader;
    let plan = async || -> String {
        let rows = reader.query("explain select count(*) from items where id > 3", &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(1)).collect()
    };
    assert!(!plan().await.contains("Union"), "nothing is later, nothing is done");
    fixture
        .sql(
            "update items set value = 'new' where id <= 10; delete from items where id > 990;
              insert into items (id, part) values (5000, 'b')",
        )
        .await;
    fixture.stream().await;
    assert!(plan().await.contains("Union"));
    for (question, answer) in [
        ("select count(*) from items", 991),
        ("select count(1) from items where value = 'new'", 10),
        ("select count(*) from items where value = 'v3'", 0),
        ("select count(*) from items where value is null", 1),
        ("select max(id) from items", 5000),
        ("select count(*) from items a join items b on a.id = b.id and a.part = b.part", 991),
        ("select count(*) from (select part from items where part = 'b' limit 5) x", 1),
        ("select count(*) from items@v0", 0),
    ] {
        assert_eq!(count(reader, question).await, answer, "{question}");
    }
    fixture.merge().await;
    assert!(!plan().await.contains("Union"));
    assert_eq!(count(reader, "select count(*) from items where value = 'new'").await, 10);
}
