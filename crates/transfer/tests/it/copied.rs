//! Copies that several sessions make: whole, whatever the table is made of and whichever of them breaks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio_postgres::Client;
use transfer::current::Current;
use transfer::lake::Writer;
use transfer::{Error, Source};
use url::Url;

use crate::site::{READERS, Site, assert_rows, connect, own, source_rows};

/// The application's name of the sessions that help.
const HELPERS: &str = "stead transfer copy";

/// Tables of the ways in which they can be made of pages.
const TABLES: &str = "
    create table wide (id bigint primary key, value text, at timestamptz);
    insert into wide select i, repeat('x', i % 300), now() from generate_series(1, 20000) i;
    delete from wide where id between 4000 and 9000;
    create table keyless (n int, word text);
    insert into keyless select i, 'word ' || i from generate_series(1, 9000) i;
    create table nothing (id bigint primary key, value text);
    create table parts (id bigint, side int, value text, primary key (id, side)) partition by list (side);
    create table parts_0 partition of parts for values in (0);
    create table parts_1 (value text, gone int, side int not null, id bigint not null, primary key (id, side));
    alter table parts_1 drop column gone;
    alter table parts attach partition parts_1 for values in (1);
    create table parts_more partition of parts for values in (2, 3) partition by list (side);
    create table parts_2 partition of parts_more for values in (2);
    create table parts_none partition of parts for values in (4);
    insert into parts select i, case when i % 10 < 8 then 0 else i % 10 - 7 end, md5(i::text)
        from generate_series(1, 20000) i;
    create table childless (id int, side int, primary key (id, side)) partition by list (side);
    create table mother (id bigint primary key, value text);
    create table child (own int) inherits (mother);
    insert into mother select i, 'mother' from generate_series(1, 5000) i;
    insert into child select -i, 'child', i from generate_series(1, 5000) i;
    create publication lake for table wide, keyless, nothing, parts, childless, only mother
        with (publish_via_partition_root = true);";

/// So many bytes are read at once: all of these tables are wider.
fn small_ranges() -> fail::FailScenario<'static> {
    let points = fail::FailScenario::setup();
    fail::cfg("transfer::copy.at_once", "return(65536)").unwrap();
    points
}

async fn open(site: &Site, table: &str) -> Current {
    let place = Url::from_directory_path(site.lake.path().join("public").join(table)).unwrap().into();
    let writer = Writer { name: format!("test/public.{table}"), epoch: "1".into() };
    Current::open(&place, writer, site.relation(table).await).await.unwrap()
}

async fn copy(site: &Site, table: &str) -> Result<u64, Error> {
    let mut current = open(site, table).await;
    current.copy(&site.source().await.snapshot().await?).await
}

/// The files that a table's folder has, and those that are a part of it.
async fn files(site: &Site, table: &str) -> [BTreeSet<String>; 2] {
    let folder = site.lake.path().join("public").join(table);
    let place = Url::from_directory_path(&folder).unwrap();
    let mut opened = deltalake::DeltaTableBuilder::from_url(place).unwrap().build().unwrap();
    opened.load().await.unwrap();
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let known = opened.get_file_uris().unwrap().map(|file| name(&file)).collect();
    let there =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    [there.filter(|file| file.starts_with("part-")).collect(), known]
}

#[tokio::test]
async fn every_page_is_read_once() {
    let _points = small_ranges();
    for major in [15, 18] {
        let site = Site::new(major, TABLES).await;
        for table in ["wide", "keyless", "nothing", "parts", "childless"] {
            let rows = copy(&site, table).await.unwrap();
            let [there, known] = files(&site, table).await;
            assert_eq!(there, known);
            assert_eq!(known.len() > 1, rows > 0, "{table} of {rows} rows has {} files", known.len());
            site.assert_same(table).await;
        }
        let rows = copy(&site, "mother").await.unwrap();
        assert_eq!(rows, 5_000, "its child is a table of its own");
    }
}

/// A copy in which nobody helps is the same.
#[tokio::test]
async fn one_session_is_enough() {
    let _points = small_ranges();
    let site = Site::new(15, TABLES).await;
    site.sql("create role one login connection limit 1; grant select on all tables in schema public to one")
        .await;
    let mut config = site.cluster.config("postgres");
    let mut source =
        Source::connect(config.user("one").clone(), "slot".parse().unwrap(), "lake".parse().unwrap())
            .await
            .unwrap();
    open(&site, "wide").await.copy(&source.snapshot().await.unwrap()).await.unwrap();
    site.assert_same("wide").await;
}

#[tokio::test]
async fn only_what_is_published_is_copied() {
    let _points = small_ranges();
    let sql = "create table items (id bigint primary key, value text, secret text);
        insert into items select i, repeat('x', 100), 's' from generate_series(1, 9000) i;
        create publication lake for table items (id, value) where (id % 3 = 0 or id < 10)";
    let site = Site::new(15, sql).await;
    assert_eq!(copy(&site, "items").await.unwrap(), 3_006);
    site.sql("delete from items where not (id % 3 = 0 or id < 10)").await;
    site.assert_same("items").await;
}

#[tokio::test]
async fn how_far_it_has_come_is_told() {
    let _points = small_ranges();
    let site = Site::new(15, TABLES).await;
    site.sql("analyze wide").await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut current = open(&site, "wide").await;
    let tells = told.clone();
    current.tell(Arc::new(move |rows, expected| tells.lock().unwrap().push((rows, expected))));
    let rows = current.copy(&site.source().await.snapshot().await.unwrap()).await.unwrap();
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(told.iter().map(|(rows, _)| *rows).max(), Some(rows));
    assert!(told.len() > 10 && told.iter().all(|(_, expected)| *expected == Some(rows)), "{told:?}");
}

/// Where a session is to break in the middle of what it reads, that is more than a socket holds.
async fn large() -> (fail::FailScenario<'static>, Site) {
    let points = fail::FailScenario::setup();
    fail::cfg("transfer::copy.at_once", "return(8000000)").unwrap();
    let sql = "create table large (id bigint primary key, value text);
        insert into large select i, repeat('x', 1900) from generate_series(1, 20000) i;
        create publication lake for table large";
    (points, Site::new(15, sql).await)
}

/// Copies a table and does this when every session stands still in the middle of what it reads.
async fn broken(site: &Site, sql: &str) -> Result<u64, Error> {
    let other = connect(&site.cluster).await;
    fail::cfg("transfer::copy.batch", "pause").unwrap();
    let copied = copy(site, "large");
    let breaks = async {
        let in_the_middle = format!(
            "select count(*) from pg_stat_activity where application_name = '{HELPERS}' and wait_event = 'ClientWrite'"
        );
        wait(&other, &in_the_middle, 2).await;
        other.batch_execute(sql).await.unwrap();
        fail::remove("transfer::copy.batch");
    };
    tokio::join!(copied, breaks).0
}

async fn wait(client: &Client, count: &str, wanted: i64) {
    while client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) < wanted {
        tokio::task::yield_now().await;
    }
}

fn end(name: &str, most: usize) -> String {
    format!(
        "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where application_name = '{name}'
             and pid <> pg_backend_pid() limit {most}) one"
    )
}

#[tokio::test]
async fn what_a_session_read_that_broke_is_read_again() {
    let (_points, site) = large().await;
    for most in [1, 9] {
        assert_eq!(broken(&site, &end(HELPERS, most)).await.unwrap(), 20_000);
        site.assert_same("large").await;
    }
    fail::cfg("transfer::copy.careless", "return").unwrap();
    assert!(broken(&site, &end(HELPERS, 1)).await.unwrap() < 20_000, "the control must fail");
}

/// No file is left of what was read for nothing.
#[tokio::test]
async fn what_was_half_read_leaves_no_file() {
    let (_points, site) = large().await;
    broken(&site, &end(HELPERS, 1)).await.unwrap();
    let [there, known] = files(&site, "large").await;
    assert_eq!(there, known);
}

#[tokio::test]
async fn a_copy_ends_with_the_session_that_made_its_snapshot() {
    let (_points, site) = large().await;
    assert!(matches!(broken(&site, &end("stead transfer", 1)).await, Err(Error::Source(_))));
    let [_, known] = files(&site, "large").await;
    assert!(known.is_empty());
    assert_eq!(copy(&site, "large").await.unwrap(), 20_000);
}

/// Whoever waits to declare the table otherwise does not keep the copy waiting, which he waits for.
#[tokio::test]
async fn a_waiting_declaration_waits_for_the_copy_alone() {
    let _points = small_ranges();
    let site = Site::new(15, TABLES).await;
    let other = connect(&site.cluster).await;
    let mut current = open(&site, "wide").await;
    let relation = site.relation("wide").await;
    let mut source = site.source().await;
    let snapshot = source.snapshot().await.unwrap();
    let before = source_rows(&site.client, &relation).await;
    let declares = async { other.batch_execute("alter table wide add column more int").await.unwrap() };
    let copies = async {
        wait(&site.client, "select count(*) from pg_locks where not granted", 1).await;
        current.copy(&snapshot).await.unwrap();
        drop(snapshot);
    };
    tokio::join!(declares, copies);
    let lake = site.lake_rows(READERS[0], "wide").into_iter().map(|row| own(row, &relation));
    assert_rows(before, lake.collect(), "wide");
}
