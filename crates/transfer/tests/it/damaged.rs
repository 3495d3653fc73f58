//! A table of the lake that cannot be read stands still and says so, the others go on, and it begins anew when it is asked
//! for. A lake whose disk is full loses nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fail::FailScenario;
use serde_json::Value;
use transfer::Error;
use transfer::stream::{Settings, Stream};
use transfer::wire;
use url::Url;

use crate::process::{Process, ROLE, is, publish, table};
use crate::site::{Site, assert_rows, lake_rows, own, source_rows};

const TABLES: &str = "create table items (id int primary key, name text);
     create table others (id int primary key, name text);
     insert into items values (1, 'x'); insert into others values (1, 'x')";

/// What was written of one commit, as a machine that went off may leave it.
fn damage(table: &Path) {
    let log = table.join("_delta_log");
    let mut commits: Vec<PathBuf> =
        std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    commits.retain(|path| path.extension().is_some_and(|of| of == "json"));
    commits.sort();
    let last = commits.last().unwrap();
    let text = std::fs::read(last).unwrap();
    std::fs::write(last, &text[..text.len() / 2]).unwrap();
}

fn ops(site: &Site, table: &str) -> Vec<String> {
    let mut rows = site.lake_rows("duckdb", table);
    rows.sort_by_key(|row| row["_lsn"].as_str().unwrap().parse::<i64>().unwrap());
    rows.iter().map(|row| row["_op"].as_str().unwrap().to_owned()).collect()
}

async fn stream(site: &Site, asked: u32) -> Stream {
    let lake = Url::from_directory_path(site.lake.path()).unwrap().into();
    let asked = BTreeMap::from([("public.items".to_owned(), asked)]);
    let settings = Settings { transfer: "test".into(), epoch: "1".into(), lake, asked };
    Stream::new(site.source().await, settings)
}

#[tokio::test]
async fn a_damaged_table_of_changes_stands_still_until_it_is_asked_for() {
    let scenario = FailScenario::setup();
    let site = Site::new(16, &format!("{TABLES}; create publication lake for all tables")).await;
    let tables = [site.relation("items").await, site.relation("others").await];
    site.sql("insert into items values (2, 'a'); insert into others values (2, 'a')").await;
    assert_eq!(site.drain().await, []);
    let folder = site.lake.path().join("public/items__changes");
    damage(&folder);
    site.sql("insert into items values (3, 'b'); insert into others values (3, 'b')").await;
    for _ in 0..2 {
        let mut stream = stream(&site, 0).await;
        stream.begin(&tables).await.unwrap();
        assert_ne!(stream.stopped(&tables[0]).await.unwrap(), None);
        assert_eq!(stream.stopped(&tables[1]).await.unwrap(), None);
        let step = stream.step().await.unwrap();
        assert!(step.stopped.iter().all(|stopped| stopped.table == "items"), "{step:?}");
    }
    assert_eq!(ops(&site, "others__changes"), ["insert", "insert"]);
    for point in ["transfer::stream.put-aside", "transfer::stream.begun-anew"] {
        fail::cfg(point, "return").unwrap();
        assert!(matches!(stream(&site, 1).await.begin(&tables).await, Err(Error::Ended(_))), "{point}");
        fail::remove(point);
    }
    let mut again = stream(&site, 1).await;
    again.begin(&tables).await.unwrap();
    assert_eq!(again.stopped(&tables[0]).await.unwrap(), None);
    drop(again);
    site.sql("insert into items values (4, 'c')").await;
    let mut stream = stream(&site, 1).await;
    stream.begin(&tables).await.unwrap();
    assert_eq!(stream.step().await.unwrap().stopped, []);
    assert_eq!(ops(&site, "items__changes"), ["gap", "insert"], "all before is told as not there");
    let aside = std::fs::read_dir(site.lake.path().join("public/_damaged")).unwrap().count();
    assert_eq!(aside, 2, "what was left is kept, and the beginning of whoever was ended behind it");
    scenario.teardown();
}

/// Files that are gone are noticed by whoever needs them.
#[tokio::test]
async fn a_table_whose_file_is_gone_stands_still() {
    let site = Site::new(17, &format!("{TABLES}; create publication lake for all tables")).await;
    let tables = [site.relation("items").await, site.relation("others").await];
    let folder = site.lake.path().join("public/items__changes");
    for n in 10..20 {
        site.sql(&format!("insert into items values ({n}); insert into others values ({n})")).await;
        site.drain().await;
    }
    let is_rows = |path: &PathBuf| path.extension().is_some_and(|of| of == "parquet");
    let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    std::fs::remove_file(files.find(is_rows).unwrap()).unwrap();
    let mut stream = stream(&site, 0).await;
    stream.begin(&tables).await.unwrap();
    let stopped = stream.tidy(crate::site::KEEP, &tables, |_| transfer::Lsn::from(0)).await.unwrap();
    assert_eq!(stopped.len(), 1, "{stopped:?}");
    assert_eq!(stopped[0].table, "items");
    std::fs::remove_dir_all(folder.join("_delta_log")).unwrap();
    std::fs::remove_file(site.lake.path().join("public/_damaged/items__changes.json")).unwrap();
    let mut stream = self::stream(&site, 0).await;
    let why = stream.stopped(&tables[0]).await.unwrap().unwrap();
    assert!(why.contains("no log"), "{why}");
}

fn asked(count: u32) -> impl FnOnce(&mut wire::Settings) {
    move |settings| {
        settings.table_resyncs = BTreeMap::from([("public.items".to_owned(), count)]);
        settings.asked = count;
    }
}

#[tokio::test]
async fn a_damaged_table_is_copied_anew_when_it_is_asked_for() {
    let site = Site::new(18, TABLES).await;
    publish(&site, &[]).await;
    let beside = tempfile::tempdir().unwrap();
    let follows =
        |status: &Value| ["public.items", "public.others"].iter().all(|of| is(status, of, "following"));
    let process = Process::start(&site, beside.path(), asked(0)).await;
    process.says("both follow", follows).await;
    process.stop().await;
    damage(&site.lake.path().join("public/items"));
    let process = Process::start(&site, beside.path(), asked(0)).await;
    let both =
        |status: &Value| is(status, "public.items", "stopped") && is(status, "public.others", "following");
    let status = process.says("one stands still", both).await;
    let why = table(&status, "public.items")["why"].as_str().unwrap();
    assert!(why.contains("stead resync --table public.items"), "{why}");
    process.stop().await;
    site.sql("update items set name = 'y'; update others set name = 'y'; insert into items values (2, 'z')")
        .await;
    let process = Process::start(&site, beside.path(), asked(1)).await;
    process.says("both follow again", follows).await;
    process.has_merged(&site, &["items", "others"]).await;
    process.stop().await;
    let relation = site.relation_of("items", ROLE).await;
    let source = source_rows(&site.client, &relation).await;
    for reader in crate::site::READERS {
        let lake = site.lake_rows(reader, "items").into_iter().map(|row| own(row, &relation)).collect();
        assert_rows(source.clone(), lake, reader);
    }
}

const SMALL_DISK: &str = "STEAD_TEST_SMALL_DISK";

/// In a mount namespace of its own, so that no mount outlives it however it ends.
#[test]
fn a_full_disk_loses_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let test = std::env::current_exe().unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private", "--"]).arg(test);
    inside.args(["--exact", "damaged::on_a_small_disk", "--ignored", "--nocapture"]).env(SMALL_DISK, "1");
    assert!(inside.status().unwrap().success());
}

fn mount(words: &[&str], at: &Path) {
    assert!(Command::new("mount").args(words).arg(at).status().unwrap().success());
}

#[tokio::test]
#[ignore = "a part of another test"]
async fn on_a_small_disk() {
    assert!(std::env::var_os(SMALL_DISK).is_some(), "it makes a mount");
    let site = Site::new(18, TABLES).await;
    mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"], site.lake.path());
    publish(&site, &[]).await;
    let beside = tempfile::tempdir().unwrap();
    let process = Process::start(&site, beside.path(), asked(0)).await;
    process.says("it follows", |status| is(status, "public.items", "following")).await;
    for part in 0..8 {
        site.sql(&format!(
            "insert into items select n, md5(n::text) || md5((n + 1)::text) from generate_series({part}00010, {part}09999) n"
        ))
        .await;
    }
    let is_full = |status: &Value| {
        let why = [&status["trouble"], &table(status, "public.items")["why"]];
        why.iter().any(|why| why.as_str().is_some_and(|why| why.contains("disk is full")))
    };
    process.says("the disk is full", is_full).await;
    mount(&["-o", "remount,size=256m"], site.lake.path());
    let all = |status: &Value| {
        status["trouble"].is_null()
            && status["behind"]["bytes"] == 0
            && is(status, "public.items", "following")
    };
    process.says("it goes on", all).await;
    process.has_merged(&site, &["items"]).await;
    process.stop().await;
    let rows = |table: &str| lake_rows("duckdb", &site.lake.path().join("public").join(table));
    let relation = site.relation_of("items", ROLE).await;
    let lake = rows("items").into_iter().map(|row| own(row, &relation)).collect();
    assert_rows(source_rows(&site.client, &relation).await, lake, "items");
    let changes = rows("items__changes");
    assert_eq!(changes.len(), 8 * 9_990, "each change once");
}
