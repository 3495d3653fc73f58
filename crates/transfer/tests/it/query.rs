//! Newer rows, told by a cursor: what is seen, what is not, and what is let be.

use std::collections::BTreeMap;

use transfer::Error;
use transfer::change::Relation;
use transfer::current::{Current, Newer};
use transfer::lake::Writer;
use transfer::wire::{Cursor, Overlap};
use url::Url;

use crate::site::{Site, source_rows};

const PUBLISHED: &str = "create publication lake for all tables";

fn cursor(column: &str, overlap: Option<Overlap>) -> Cursor {
    Cursor { column: column.into(), overlap }
}

/// Reads a table of the server, as its process does.
async fn read(site: &Site, table: &str, cursor: &Cursor) -> Result<Newer, Error> {
    let mut source = site.source().await;
    let snapshot = source.snapshot().await?;
    let is_it = |relation: &&Relation| relation.name == table;
    let relation = snapshot.tables().iter().find(is_it).cloned().unwrap();
    let place = Url::from_directory_path(site.lake.path().join("public").join(table)).unwrap().into();
    let writer = Writer { name: format!("test/public.{table}"), epoch: "1".into() };
    Current::open(&place, writer, relation).await?.read_newer(&snapshot, cursor).await
}

/// The versions that a table of the lake has had.
fn versions(site: &Site, table: &str) -> usize {
    let log = site.lake.path().join("public").join(table).join("_delta_log");
    let entries = std::fs::read_dir(log).unwrap().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|of| of == "json")).count()
}

/// The rows of both, each as often as it is there.
async fn same(site: &Site, table: &str) -> bool {
    let relation = site.relation(table).await;
    let texts = |rows: Vec<serde_json::Map<String, serde_json::Value>>| {
        let sorted =
            |row: serde_json::Map<_, _>| row.into_iter().collect::<BTreeMap<String, serde_json::Value>>();
        let mut texts: Vec<String> =
            rows.into_iter().map(|row| serde_json::to_string(&sorted(row)).unwrap()).collect();
        texts.sort();
        texts
    };
    texts(source_rows(&site.client, &relation).await) == texts(site.lake_rows("duckdb", table))
}

#[tokio::test]
async fn rows_come_in_the_place_of_those_with_their_key() {
    for major in [15, 18] {
        let site = Site::new(
            major,
            &format!(
                "create table items (id int primary key, name text, at timestamptz default clock_timestamp());
                 insert into items select n, 'item ' || n, now() - interval '1 day' from generate_series(1, 1000) n;
                 {PUBLISHED}"
            ),
        )
        .await;
        let by_at = cursor("at", Some(Overlap::Seconds(60)));
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Copied(1_000));
        site.sql("update items set name = 'new', at = clock_timestamp() where id <= 3; insert into items (id, name) values (1001, 'more')")
            .await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(4));
        assert!(same(&site, "items").await);
        // What was read and is the same is not written again.
        let before = versions(&site, "items");
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(0));
        assert_eq!(versions(&site, "items"), before);
        // One that is committed late is seen within the overlap, and not beyond it.
        site.sql("insert into items select 1002, 'late', max(at) - interval '59 seconds' from items").await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(1));
        site.sql("insert into items select 1003, 'too late', max(at) - interval '2 minutes' from items")
            .await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(0));
        site.sql("delete from items where id = 1003").await;
        // One whose clock goes wrong hides no other, and one without a cursor is seen.
        site.sql(
            "insert into items values (2000, 'of the future', '2099-01-01'), (2001, 'ever', 'infinity')",
        )
        .await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(2));
        site.sql(
            "insert into items values (2002, 'of today', clock_timestamp()), (2003, 'of no time', null)",
        )
        .await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(2));
        site.sql("update items set name = 'still of no time' where id = 2003").await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(1));
        assert!(same(&site, "items").await);
        // New columns come with the rows that are read; a value that all rows have at once is theirs too.
        site.sql("alter table items add column price numeric(8, 2) not null default 1.5").await;
        site.sql("update items set price = 2, at = clock_timestamp() where id = 5").await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(1));
        assert!(same(&site, "items").await);
        // What is gone is not seen: this is no stream.
        site.sql("delete from items where id = 7").await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Rows(0));
        assert!(!same(&site, "items").await);
        // Rows that were written anew are read anew, and then it is.
        site.sql("alter table items alter column id type bigint").await;
        assert_eq!(read(&site, "items", &by_at).await.unwrap(), Newer::Copied(1_005));
        assert!(same(&site, "items").await);
    }
}

#[tokio::test]
async fn rows_that_nothing_identifies_are_replaced_by_the_window() {
    let site = Site::new(
        16,
        &format!(
            "create table events (number bigint, what text);
             insert into events select n / 2, 'event' from generate_series(1, 20000) n;
             {PUBLISHED} with (publish = 'insert')"
        ),
    )
    .await;
    let by_number = cursor("number", Some(Overlap::Count(10)));
    assert_eq!(read(&site, "events", &by_number).await.unwrap(), Newer::Copied(20_000));
    let before = versions(&site, "events");
    assert_eq!(read(&site, "events", &by_number).await.unwrap(), Newer::Rows(0));
    assert_eq!(versions(&site, "events"), before);
    // Two that are the same are two.
    site.sql(
        "insert into events values (10001, 'twin'), (10001, 'twin'), (9995, 'late'), (null, 'of no number')",
    )
    .await;
    assert!(matches!(read(&site, "events", &by_number).await.unwrap(), Newer::Rows(_)));
    assert!(same(&site, "events").await);
    // Within the window even what is gone is seen.
    site.sql("delete from events where number = 10001; delete from events where number is null").await;
    assert!(matches!(read(&site, "events", &by_number).await.unwrap(), Newer::Rows(_)));
    assert!(same(&site, "events").await);
    // More than are held at once.
    site.sql("insert into events select n, 'many' from generate_series(10002, 250000) n").await;
    assert!(matches!(read(&site, "events", &by_number).await.unwrap(), Newer::Rows(_)));
    assert!(same(&site, "events").await);
    // Another column tells newer rows from another beginning.
    site.sql("alter table events add column day date not null default '2026-11-23'").await;
    assert!(matches!(read(&site, "events", &cursor("day", None)).await.unwrap(), Newer::Copied(_)));
    site.sql("insert into events values (1, 'today', current_date)").await;
    assert!(matches!(read(&site, "events", &cursor("day", None)).await.unwrap(), Newer::Rows(_)));
    assert!(same(&site, "events").await);
}

#[tokio::test]
async fn a_cursor_that_tells_nothing_is_named() {
    let site = Site::new(
        18,
        &format!(
            "create table items (id uuid primary key, number int, at timestamp);
             insert into items values (gen_random_uuid(), 1, now()); {PUBLISHED}"
        ),
    )
    .await;
    let wrong = async |column: &str, overlap: Option<Overlap>| {
        let cursor = cursor(column, overlap);
        match read(&site, "items", &cursor).await {
            // The first reading begins with the first row, and needs no overlap.
            Ok(Newer::Copied(1)) => read(&site, "items", &cursor).await.unwrap_err().to_string(),
            other => other.unwrap_err().to_string(),
        }
    };
    assert!(wrong("updated_at", None).await.contains("no column `updated_at`"));
    assert!(wrong("id", None).await.contains("read it by a transfer of another mode"));
    assert!(wrong("number", Some(Overlap::Seconds(60))).await.contains("write overlap = 1000"));
    assert!(wrong("at", Some(Overlap::Count(60))).await.contains("write overlap = \"10m\""));
}

/// Whoever is ended anywhere reads again what is not there yet, and no row is there twice.
#[tokio::test]
async fn whoever_is_ended_reads_on() {
    let _alone = fail::FailScenario::setup();
    let site = Site::new(
        16,
        &format!(
            "create table items (id int primary key, name text, number bigint generated always as identity);
             create table events (number bigint generated always as identity, name text);
             {PUBLISHED} with (publish = 'insert')"
        ),
    )
    .await;
    let by_number = cursor("number", Some(Overlap::Count(5)));
    let points = [
        "transfer::lake.written",
        "transfer::lake.checked",
        "transfer::lake.committed",
        "transfer::current.noted",
    ];
    let mut ends = 0;
    for round in 0..16 {
        site.sql(&format!(
            "insert into events (name) select 'event {round}' from generate_series(1, 7);
             delete from items where id % 3 = 0 and number > (select max(number) - 3 from items);
             insert into items (id, name) select n * 100 + {round}, 'item' from generate_series(1, 7) n"
        ))
        .await;
        for table in ["items", "events"] {
            let point = points[round % points.len()];
            fail::cfg(point, "return").unwrap();
            match read(&site, table, &by_number).await {
                Err(Error::Ended(_)) => ends += 1,
                other => drop(other.unwrap()),
            }
            fail::remove(point);
            read(&site, table, &by_number).await.unwrap();
        }
    }
    assert!(ends > 20, "only {ends} were ended");
    assert!(same(&site, "events").await);
    // Deleted rows stay; no key is there twice.
    let rows = site.lake_rows("deltalake", "items");
    let keys: std::collections::BTreeSet<String> = rows.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!(keys.len(), rows.len());
    let missing = site.client.query("select id from items", &[]).await.unwrap();
    assert!(missing.iter().all(|row| keys.contains(&format!("\"{}\"", row.get::<_, i32>(0)))));
}
