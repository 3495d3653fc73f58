//! Columns and rows that are not meant never come to the lake, and the application can do what it could before.

use serde_json::Value;
use transfer::wire::{Part, Rows};

use crate::process::{Process, ROLE, is, publish, table};
use crate::site::{READERS, Row, Site, assert_rows, own, source_rows};

const TABLES: &str = "create table customers (id int primary key, name text, email text);
     create table orders (id int primary key, status text, total int);
     create table events (id int primary key, kind text, body text, at int);
     insert into customers select n, 'c' || n, 'c' || n || '@example.com' from generate_series(1, 20) n;
     insert into orders select n, case n % 2 when 0 then 'draft' else 'it''s $publish$ \\ done' end, n from generate_series(1, 20) n;
     insert into events select n, 'k', 'b', n from generate_series(1, 20) n";

fn part(name: &str) -> Part {
    let names = ("public".to_owned(), name.to_owned());
    let like = ("public".to_owned(), name.replace('*', "%"));
    Part { like, names, ..Part::default() }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

fn rows(sql: &str, columns: &[&str]) -> Option<Rows> {
    Some(Rows { sql: sql.to_owned(), columns: texts(columns) })
}

fn parts() -> Vec<Part> {
    vec![
        Part { without: texts(&["email"]), ..part("customers") },
        Part { rows: rows(r#""status" = E'it''s $publish$ \\ done'"#, &["status"]), ..part("orders") },
        Part { columns: texts(&["kind"]), ..part("events") },
    ]
}

/// The rows of the server of which a condition is true, and those of the lake, with these columns.
async fn assert_same(site: &Site, name: &str, columns: &[&str], condition: &str) {
    site.sql(&format!("create view seen as select {} from {name} where {condition}", columns.join(", ")))
        .await;
    let mut relation = site.relation_of(name, ROLE).await;
    relation.columns.retain(|column| columns.contains(&column.name.as_str()));
    relation.name = "seen".to_owned();
    let source = source_rows(&site.client, &relation).await;
    site.sql("drop view seen").await;
    assert!(!source.is_empty(), "{name}");
    for reader in READERS {
        let lake = site.lake_rows(reader, name);
        let are_meant = |row: &Row| row.keys().all(|column| columns.contains(&column.as_str()));
        assert!(lake.iter().all(are_meant), "{name}: {:?}", lake.first());
        let lake = lake.into_iter().map(|row| own(row, &relation)).collect();
        assert_rows(source.clone(), lake, &format!("{name} by {reader}"));
    }
}

async fn works(major: u16) {
    let site = Site::new(major, TABLES).await;
    publish(&site, &parts()).await;
    let beside = tempfile::tempdir().unwrap();
    let process = Process::start(&site, beside.path(), |settings| settings.parts = parts()).await;
    let told = |status: &Value| {
        is(status, "public.orders", "stopped") && is(status, "public.customers", "following")
    };
    let status = process.says("one table cannot be read", told).await;
    let why = table(&status, "public.orders")["why"].as_str().unwrap();
    assert!(why.contains("status") && why.contains("replica identity full"), "{why}");
    // The application's updates are not refused.
    site.sql("update orders set total = total + 1; alter table orders replica identity full").await;
    let all = |status: &Value| {
        ["public.orders", "public.customers", "public.events"]
            .iter()
            .all(|name| is(status, name, "following"))
            && status["behind"]["bytes"] == 0
    };
    process.says("all follow", all).await;
    site.sql(
        "update customers set email = 'x', name = 'y' where id < 5; delete from customers where id = 6;
         update orders set status = 'draft' where id = 1; update orders set status = 'it''s $publish$ \\ done' where id = 2;
         update orders set total = 7 where id in (3, 4); delete from orders where id in (5, 8);
         insert into events values (30, 'z', 'z', 30); update events set body = 'w' where id = 1",
    )
    .await;
    // Columns that are left out can go, and come.
    site.sql(
        "alter table customers drop column email; alter table customers add column country text default 'DE'",
    )
    .await;
    site.sql("alter table customers add column email text; update customers set email = 'z', country = 'FR' where id = 9").await;
    process.has_merged(&site, &["customers", "orders", "events"]).await;
    process.stop().await;
    assert_same(&site, "customers", &["id", "name", "country"], "true").await;
    assert_same(&site, "orders", &["id", "status", "total"], "status <> 'draft'").await;
    assert_same(&site, "events", &["id", "kind"], "true").await;
    for reader in READERS {
        let changes = site.lake_rows(reader, "customers__changes");
        assert!(!changes.is_empty() && changes.iter().all(|row| !row.contains_key("email")));
        let changes = site.lake_rows(reader, "orders__changes");
        assert!(changes.iter().all(|row| row["status"] != "draft"), "{changes:?}");
    }
}

#[tokio::test]
async fn what_is_not_meant_is_not_in_the_lake_15() {
    works(15).await;
}

#[tokio::test]
async fn what_is_not_meant_is_not_in_the_lake_18() {
    works(18).await;
}

/// Other rows are meant, and a table is no longer meant in part: it is copied anew.
#[tokio::test]
async fn other_rows_are_meant() {
    let site = Site::new(16, TABLES).await;
    site.sql("alter table orders replica identity full").await;
    let beside = tempfile::tempdir().unwrap();
    for (parts, condition) in [
        (vec![], "true"),
        (vec![Part { rows: rows("\"total\" > 5", &["total"]), ..part("orders") }], "total > 5"),
        (vec![Part { rows: rows("\"total\" <= 5", &["total"]), ..part("ord*") }], "total <= 5"),
        (vec![Part { rows: rows("\"total\" > \"id\"", &["total", "id"]), ..part("orders") }], "total > id"),
        (vec![], "true"),
    ] {
        publish(&site, &parts).await;
        let process = Process::start(&site, beside.path(), |settings| settings.parts = parts).await;
        let follows =
            |status: &Value| is(status, "public.orders", "following") && status["behind"]["bytes"] == 0;
        process.says("it follows", follows).await;
        site.sql("update orders set total = total + 1 where id = 19").await;
        process.has_merged(&site, &["orders"]).await;
        process.stop().await;
        assert_same(&site, "orders", &["id", "status", "total"], condition).await;
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let site = Site::new(17, TABLES).await;
    let beside = tempfile::tempdir().unwrap();
    for (part, word) in [
        (Part { without: texts(&["emial"]), ..part("customers") }, "no column emial"),
        (Part { without: texts(&["id"]), ..part("customers") }, "cannot be left out: id"),
        (Part { columns: texts(&["nmae"]), ..part("customers") }, "no column nmae"),
        (Part { rows: rows("\"id\" = 'x'", &["id"]), ..part("customers") }, "refuses"),
    ] {
        publish(&site, std::slice::from_ref(&part)).await;
        let process = Process::start(&site, beside.path(), |settings| settings.parts = vec![part]).await;
        let said = |status: &Value| {
            let why = &table(status, "public.customers")["why"];
            is(status, "public.orders", "following") && why.as_str().is_some_and(|why| why.contains(word))
        };
        process.says(word, said).await;
        process.stop().await;
    }
}
