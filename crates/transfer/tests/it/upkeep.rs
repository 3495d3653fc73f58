//! Small files become large ones, and what no version needs goes; what a reader has stays the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use deltalake::DeltaTableBuilder;
use transfer::current::Current;
use transfer::lake::Writer;
use transfer::{Error, Keep, Lsn};
use url::Url;

use crate::site::{Row, Site};

const LONG: Keep = Keep { versions: Duration::from_secs(7 * 24 * 3_600), changes: None };
const NOTHING: Keep = Keep { versions: Duration::ZERO, changes: None };

const TABLE: &str = "create table items (id int primary key, name text, at timestamptz default now());
     insert into items select n, 'item ' || n from generate_series(1, 100) n;
     create publication lake for all tables";

async fn current(site: &Site) -> Current {
    let place = Url::from_directory_path(site.lake.path().join("public/items")).unwrap().into();
    let writer = Writer { name: "test/public.items".into(), epoch: "1".into() };
    Current::open(&place, writer, site.relation("items").await).await.unwrap()
}

/// The files that the newest version of a table is made of.
async fn files(site: &Site, table: &str) -> BTreeSet<String> {
    let place = Url::from_directory_path(site.lake.path().join("public").join(table)).unwrap();
    let mut opened = DeltaTableBuilder::from_url(place).unwrap().build().unwrap();
    opened.load().await.unwrap();
    let name = |uri: String| uri.rsplit('/').next().unwrap_or_default().to_owned();
    opened.get_file_uris().unwrap().map(name).collect()
}

/// Those that are on the disk.
fn on_disk(site: &Site, table: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(site.lake.path().join("public").join(table)).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| Path::new(name).extension().is_some_and(|of| of == "parquet")).collect()
}

fn changes(site: &Site, reader: &str) -> Vec<String> {
    let text =
        |row: Row| serde_json::to_string(&row.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let mut rows: Vec<String> =
        site.lake_rows(reader, "items__changes").into_iter().map(|row| text(row).unwrap()).collect();
    rows.sort();
    rows
}

/// One transaction a file.
async fn work(site: &Site, from: i32, to: i32) {
    for n in from..to {
        site.sql(&format!(
            "update items set name = 'now {n}' where id = {n}; insert into items values ({n} + 1000)"
        ))
        .await;
        assert_eq!(site.drain().await, []);
    }
}

#[tokio::test]
async fn small_files_become_large_ones_and_nothing_is_another() {
    let site = Site::new(16, TABLE).await;
    site.merge("items").await.unwrap();
    work(&site, 1, 13).await;
    site.merge("items").await.unwrap();
    work(&site, 13, 20).await;
    // What a file does not have was not there: they are not made one.
    site.sql("alter table items add column price int default 5").await;
    work(&site, 20, 40).await;
    let before = changes(&site, "duckdb");
    assert!(files(&site, "items__changes").await.len() >= 38);
    let mut stream = site.stream().await;
    let tables = [site.relation("items").await];
    stream.begin(&tables).await.unwrap();
    stream.tidy(LONG, &tables, |_| Lsn::from(0)).await.unwrap();
    assert_eq!(files(&site, "items__changes").await.len(), 2);
    assert_eq!((changes(&site, "duckdb"), changes(&site, "deltalake")), (before.clone(), before));
    // The same writer goes on, and so does another after it.
    work(&site, 40, 42).await;
    site.follows("items").await;
    for n in 42..60 {
        work(&site, n, n + 1).await;
        site.merge("items").await.unwrap();
    }
    // Each merge made some.
    let many = files(&site, "items").await.len();
    assert!(many < 12, "{many}");
    site.follows("items").await;
}

#[tokio::test]
async fn what_no_version_needs_goes() {
    let site = Site::new(18, TABLE).await;
    site.merge("items").await.unwrap();
    for n in 1..12 {
        work(&site, n, n + 1).await;
        site.merge("items").await.unwrap();
    }
    std::fs::write(site.lake.path().join("public/items/part-of-nobody.parquet"), "x").unwrap();
    let mut table = current(&site).await;
    table.tidy(LONG).await.unwrap();
    assert_eq!(table.vacuum(LONG).await.unwrap(), 0);
    assert!(on_disk(&site, "items").len() > files(&site, "items").await.len());
    table.tidy(NOTHING).await.unwrap();
    assert!(table.vacuum(NOTHING).await.unwrap() > 0);
    assert_eq!(on_disk(&site, "items"), files(&site, "items").await);
    // Only the note that counts is left.
    let notes = std::fs::read_dir(site.lake.path().join("public/items/_stead")).unwrap().count();
    assert!(notes <= 1, "{notes}");
    work(&site, 12, 14).await;
    site.follows("items").await;
}

#[tokio::test]
async fn changes_are_forgotten_when_their_table_has_them() {
    let site = Site::new(16, TABLE).await;
    site.merge("items").await.unwrap();
    // So few that they are not made one.
    work(&site, 1, 5).await;
    let at = site.client.query_one("select pg_current_wal_flush_lsn()", &[]).await.unwrap().get::<_, Lsn>(0);
    let at = Lsn::from(u64::from(at) + 1);
    site.merge("items").await.unwrap();
    work(&site, 5, 8).await;
    let mut stream = site.stream().await;
    let tables = [site.relation("items").await];
    stream.begin(&tables).await.unwrap();
    let keep = Keep { versions: LONG.versions, changes: Some(Duration::ZERO) };
    stream.tidy(keep, &tables, |_| Lsn::from(0)).await.unwrap();
    assert_eq!(changes(&site, "duckdb").len(), 14);
    stream.tidy(keep, &tables, |_| at).await.unwrap();
    assert_eq!(changes(&site, "duckdb").len(), 6);
    stream.tidy(LONG, &tables, |_| Lsn::from(u64::MAX)).await.unwrap();
    assert_eq!(changes(&site, "duckdb").len(), 6);
    site.follows("items").await;
}

#[tokio::test]
async fn whoever_is_ended_while_files_are_made_one_loses_nothing() {
    let _alone = fail::FailScenario::setup();
    let site = Site::new(16, TABLE).await;
    site.merge("items").await.unwrap();
    work(&site, 1, 13).await;
    let before = changes(&site, "duckdb");
    for point in ["transfer::upkeep.compacted", "transfer::lake.written", "transfer::lake.checked"] {
        let mut stream = site.stream().await;
        let tables = [site.relation("items").await];
        stream.begin(&tables).await.unwrap();
        fail::cfg(point, "return").unwrap();
        assert!(
            matches!(stream.tidy(LONG, &tables, |_| Lsn::from(0)).await, Err(Error::Ended(_))),
            "{point}"
        );
        fail::remove(point);
        assert_eq!(changes(&site, "deltalake"), before, "{point}");
    }
    fail::cfg("transfer::lake.committed", "return").unwrap();
    let mut stream = site.stream().await;
    let tables = [site.relation("items").await];
    stream.begin(&tables).await.unwrap();
    assert!(stream.tidy(LONG, &tables, |_| Lsn::from(0)).await.is_err());
    fail::remove("transfer::lake.committed");
    assert_eq!(changes(&site, "deltalake"), before);
    work(&site, 13, 15).await;
    site.follows("items").await;
}
