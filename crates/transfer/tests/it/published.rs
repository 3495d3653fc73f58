//! What is written while a table comes to be published, or ceases to be.

use fail::FailScenario;
use serde_json::Value;

use crate::process::{Process, ROLE, is, publish, table};
use crate::site::{READERS, Site, assert_rows, connect, own, source_rows};

const TABLES: &str = "create table items (id int primary key, name text);
     create table parted (id int, name text, primary key (id)) partition by range (id);
     create table parted_1 partition of parted for values from (0) to (1000);
     insert into items values (0, 'x'); insert into parted values (0, 'x')";

fn follow(status: &Value) -> bool {
    ["public.items", "public.parted"].iter().all(|name| is(status, name, "following"))
        && status["behind"]["bytes"] == 0
}

async fn assert_same(site: &Site, name: &str) -> Result<(), String> {
    let relation = site.relation_of(name, ROLE).await;
    let source = source_rows(&site.client, &relation).await;
    for reader in READERS {
        let lake: Vec<_> = site.lake_rows(reader, name).into_iter().map(|row| own(row, &relation)).collect();
        if lake.len() != source.len() {
            return Err(format!("{name} by {reader}: {} rows of {}", lake.len(), source.len()));
        }
        assert_rows(source.clone(), lake, reader);
    }
    Ok(())
}

/// Transactions that write tables before they are published, and after.
async fn spanning() -> Result<(), String> {
    let site = Site::new(18, TABLES).await;
    let other = connect(&site.cluster).await;
    let third = connect(&site.cluster).await;
    publish(&site, &[]).await;
    // The slot is there and no table is published: as it is at a process's first beginning.
    site.sql(&format!("select pg_create_logical_replication_slot('{ROLE}', 'pgoutput')")).await;
    other
        .batch_execute("begin; insert into items values (1, 'a'); insert into parted_1 values (1, 'a')")
        .await
        .unwrap();
    third.batch_execute("begin; insert into parted values (2, 'b')").await.unwrap();
    let beside = tempfile::tempdir().unwrap();
    let memory = format!(
        "{{\"history\":{{\"system\":\"{}\",\"timeline\":1}},\"slot\":true,\"resyncs\":0,\"copied_at\":null}}",
        site.client
            .query_one("select system_identifier::text from pg_control_system()", &[])
            .await
            .unwrap()
            .get::<_, String>(0),
    );
    std::fs::write(beside.path().join("memory.json"), memory).unwrap();
    let process = Process::start(&site, beside.path(), |_| ()).await;
    let published = format!(
        "select count(*) from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = '{ROLE}'"
    );
    while site.client.query_one(&published, &[]).await.unwrap().get::<_, i64>(0) < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let begun = |status: &Value| {
        let is_begun = |name| is(status, name, "following") || table(status, name)["why"].is_string();
        is_begun("public.items") && is_begun("public.parted")
    };
    process.says("both wait, or are copied", begun).await;
    other
        .batch_execute("insert into items values (3, 'c'); update items set name = 'd' where id = 0; commit")
        .await
        .unwrap();
    third.batch_execute("insert into parted values (4, 'e'); commit").await.unwrap();
    process.says("both follow", follow).await;
    process.has_merged(&site, &["items", "parted"]).await;
    process.stop().await;
    assert_same(&site, "items").await?;
    assert_same(&site, "parted").await
}

#[tokio::test]
async fn a_transaction_that_began_before_a_table_was_published_is_there() {
    let scenario = FailScenario::setup();
    spanning().await.unwrap();
    scenario.teardown();
}

/// The control: nobody waits for it.
#[tokio::test]
async fn without_waiting_it_is_not() {
    let scenario = FailScenario::setup();
    fail::cfg("transfer::settling.hasty", "return").unwrap();
    assert!(spanning().await.is_err());
    scenario.teardown();
}

/// A table that cannot be published for a time says so for good: what it was in between is a gap.
#[tokio::test]
async fn what_was_written_while_a_table_was_not_published_is_a_gap() {
    let site = Site::new(17, TABLES).await;
    publish(&site, &[]).await;
    let beside = tempfile::tempdir().unwrap();
    let process = Process::start(&site, beside.path(), |_| ()).await;
    process.says("both follow", follow).await;
    site.sql("insert into items values (1, 'a')").await;
    process.has_merged(&site, &["items"]).await;
    site.sql("alter table items drop constraint items_pkey").await;
    let stands =
        |status: &Value| is(status, "public.items", "stopped") && is(status, "public.parted", "following");
    process.says("one stands still", stands).await;
    // It does so already when it is to be merged.
    let published = format!(
        "select count(*) from pg_publication_tables where pubname = '{ROLE}' and tablename = 'items'"
    );
    while site.client.query_one(&published, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    site.sql("insert into items values (2, 'lost to the changes'); insert into parted values (2, 'b')").await;
    process.has_merged(&site, &["parted"]).await;
    process.stop().await;
    let process = Process::start(&site, beside.path(), |_| ()).await;
    process.says("it stands still", stands).await;
    site.sql("insert into items values (3, 'as well'); alter table items add primary key (id)").await;
    process.says("both follow", follow).await;
    site.sql("insert into items values (4, 'd')").await;
    process.has_merged(&site, &["items", "parted"]).await;
    process.stop().await;
    assert_same(&site, "items").await.unwrap();
    let mut changes = site.lake_rows("duckdb", "items__changes");
    changes.sort_by_key(|row| row["_lsn"].as_str().unwrap().parse::<i64>().unwrap());
    let ops: Vec<_> = changes.iter().map(|row| row["_op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["insert", "gap", "insert"], "{changes:#?}");
}
