//! A lake in a bucket: the same rows, whatever is ended and however the store fails, one writer, and what each wrong thing
//! is called.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use deltalake::kernel::{DataType, StructField};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use test_support::{Fault, S3};
use tokio::task::JoinHandle;
use transfer::bucket::open;
use transfer::lake::{LakeTable, Writer};
use transfer::stream::{Settings, Stream};
use transfer::{Error, Place, wire};
use url::Url;

use crate::elsewhere::certificates;
use crate::exactly_once::transaction;
use crate::process::{Process, ROLE, is, publish, table};
use crate::site::{Row, Site, assert_rows, drain, lake_rows, own, refresh, source_rows};
use crate::source::Fixture;

const TABLES: &str = "create table items (id bigint primary key, value text);
     create table others (id int primary key, name text);
     insert into items select n, 'item ' || n from generate_series(1, 500) n; insert into others values (1, 'x')";

/// A store, and a relay by which alone it is reached.
struct Away {
    s3: S3,
    home: tempfile::TempDir,
    relay: JoinHandle<()>,
}

impl Drop for Away {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

impl Away {
    async fn new() -> Self {
        Self::of(S3::start()).await
    }

    async fn of(s3: S3) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("relay/routes")).unwrap();
        std::fs::write(home.path().join("relay/relay.json"), r#"{"networks": ["127.0.0.0/8"]}"#).unwrap();
        let path = home.path().to_owned();
        let relay = tokio::spawn(async move { relay::run(&path, std::future::pending()).await.unwrap() });
        let away = Self { s3, home, relay };
        away.lead(away.endpoint().port().unwrap()).await;
        away
    }

    fn endpoint(&self) -> Url {
        self.s3.endpoint().parse().unwrap()
    }

    async fn lead(&self, port: u16) {
        let route = serde_json::json!({ "host": "127.0.0.1", "port": port }).to_string();
        std::fs::write(self.home.path().join("relay/routes/a.json"), route).unwrap();
        while relay::refresh(self.home.path(), "a").await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    fn bucket(&self) -> wire::Bucket {
        wire::Bucket {
            socket: self.home.path().join("relay/sockets/a").join(relay::SOCKET),
            place: "s3://bucket/some/where".into(),
            endpoint: self.s3.endpoint().to_owned(),
            in_path: true,
            region: "us-east-1".into(),
            ca: None,
            key: "key".into(),
            secret: "secret".into(),
            key_name: "LAKE_KEY".into(),
            secret_name: "LAKE_SECRET".into(),
        }
    }

    fn lake(&self) -> Place {
        open(&self.bucket()).unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.s3.bucket().join("some/where")
    }

    fn table(&self, name: &str) -> PathBuf {
        self.folder().join("public").join(name)
    }

    async fn process(&self, site: &Site, change: impl FnOnce(&mut wire::Settings)) -> Process {
        let bucket = self.bucket();
        let process = Process::start(site, self.home.path(), |settings| {
            settings.bucket = Some(bucket);
            change(settings);
        });
        let mut process = process.await;
        process.lake = self.folder();
        process
    }

    /// The rows of a table as somebody has them who is told where the bucket is.
    fn rows(&self, name: &str) -> Vec<Row> {
        let python = test_support::installed("STEAD_TEST_PYTHON", "python/bin/python").unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/lake.py");
        let mut read = Command::new(python);
        read.args([script, "deltalake", &format!("s3://bucket/some/where/public/{name}")]);
        let read = read.envs(self.s3.environment()).env("AWS_ALLOW_HTTP", "true").output().unwrap();
        assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
        let text = String::from_utf8(read.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn assert_same(&self, site: &Site, name: &str) {
        let relation = site.relation_of(name, ROLE).await;
        let source = source_rows(&site.client, &relation).await;
        let of = |rows: Vec<Row>| rows.into_iter().map(|row| own(row, &relation)).collect();
        assert_rows(source.clone(), of(self.rows(name)), "by the bucket");
        assert_rows(source, of(lake_rows("duckdb", &self.table(name))), "by its files");
    }
}

/// Every change is told once, and all of them together make the table.
fn assert_once(rows: &[Row]) {
    let mut places: Vec<_> = rows.iter().map(|row| (row["_lsn"].clone(), row["_order"].clone())).collect();
    places.sort_by_key(|(lsn, order)| (lsn.to_string(), order.to_string()));
    places.dedup();
    assert_eq!(places.len(), rows.len(), "a change is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_in_a_bucket_holds_what_the_server_holds() {
    let site = Site::new(17, TABLES).await;
    publish(&site, &[]).await;
    let away = Away::new().await;
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..6 {
        // Some answers are lost, some requests are refused, some connections break.
        away.s3.fail_every(if round % 2 == 0 { 0 } else { 9 });
        let process = away.process(&site, |_| ()).await;
        process.says("it follows", |status| is(status, "public.items", "following")).await;
        for _ in 0..random.random_range(3..9) {
            site.sql(&transaction(&mut random)).await;
        }
        if round % 3 == 1 {
            process.kill().await;
        } else {
            process.has_merged(&site, &["items", "others"]).await;
            process.stop().await;
        }
    }
    away.s3.fail_every(0);
    let process = away.process(&site, |_| ()).await;
    site.sql("update others set name = 'y'").await;
    process.has_merged(&site, &["items", "others"]).await;
    process.stop().await;
    away.assert_same(&site, "items").await;
    away.assert_same(&site, "others").await;
    assert_once(&away.rows("items__changes"));
    assert!(site.lake.path().read_dir().unwrap().next().is_none(), "nothing is in the folder");
}

/// Whatever mode, the bucket has the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_comes_into_a_bucket() {
    let site = Site::new(18, TABLES).await;
    publish(&site, &[]).await;
    let away = Away::new().await;
    let process = away.process(&site, |settings| settings.mode = wire::Mode::Snapshot).await;
    process
        .says("copied", |status| {
            is(status, "public.items", "copied") && is(status, "public.others", "copied")
        })
        .await;
    process.stop().await;
    away.assert_same(&site, "items").await;
}

fn settings(lake: Place) -> Settings {
    Settings { transfer: "test".into(), epoch: "1".into(), lake, asked: BTreeMap::new() }
}

/// The first knows one batch, the second as well, and there is something for a next one.
async fn two_writers(fixture: &Fixture, away: &Away) -> (Stream, Stream) {
    fixture.sql("insert into items values (1, 'one')").await;
    let mut first = Stream::new(fixture.source().await, settings(away.lake()));
    let mut second = Stream::new(fixture.source().await, settings(away.lake()));
    first.step().await.unwrap();
    drain(&mut second).await.unwrap();
    fixture.sql("insert into items values (2, 'two')").await;
    (first, second)
}

#[tokio::test]
async fn of_two_writers_of_a_bucket_one_is_told_that_he_is_not_alone() {
    let fixture = Fixture::new().await;
    let away = Away::new().await;
    let (mut first, mut second) = two_writers(&fixture, &away).await;
    second.step().await.unwrap();
    fixture.sql("insert into items values (3, 'three')").await;
    let fenced = first.step().await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { expected: 1, found: 2, .. }), "{fenced}");
    drain(&mut second).await.unwrap();
    let rows = lake_rows("duckdb", &away.table("items__changes"));
    assert_eq!(rows.len(), 3);
    assert_once(&rows);
}

#[tokio::test]
async fn without_the_fence_two_writers_of_a_bucket_write_the_same() {
    let fixture = Fixture::new().await;
    let away = Away::new().await;
    let (mut first, mut second) = two_writers(&fixture, &away).await;
    fail::cfg("transfer::lake.unguarded", "return").unwrap();
    fail::cfg("transfer::stream.written", "return").unwrap();
    assert!(second.step().await.is_err());
    assert!(first.step().await.is_err());
    assert_eq!(lake_rows("duckdb", &away.table("items__changes")).len(), 3, "one is there twice");
}

/// A commit that was made, and of which nobody heard, is no other writer's.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_made_once() {
    let fixture = Fixture::new().await;
    let away = Away::new().await;
    let mut stream = Stream::new(fixture.source().await, settings(away.lake()));
    let (mut rows, mut lost) = (0, 0);
    fixture.sql("insert into items values (0, 'first')").await;
    stream.step().await.unwrap();
    // Whichever of a batch's requests it befalls.
    for before in 0..12 {
        rows += 1;
        fixture.sql(&format!("insert into items values ({rows}, 'x')")).await;
        away.s3.lose_answer_behind(before);
        stream.step().await.unwrap();
        lost += u32::from(away.s3.has_lost());
    }
    assert!(lost >= 5, "{lost}");
    let changes = lake_rows("duckdb", &away.table("items__changes"));
    assert_eq!(changes.len(), rows + 1);
    assert_once(&changes);
}

/// What a bucket does not answer says nothing of what is in it.
#[tokio::test]
async fn a_bucket_that_fails_is_not_taken_for_a_damaged_table() {
    let fixture = Fixture::new().await;
    let away = Away::new().await;
    for n in 0..3 {
        fixture.sql(&format!("insert into items values ({n}, 'x')")).await;
        drain(&mut Stream::new(fixture.source().await, settings(away.lake()))).await.unwrap();
        refresh_in(&fixture, &away).await.unwrap();
    }
    let mut answered = 0;
    loop {
        away.s3.fail_behind(Some((answered, Fault::Denied)));
        let ended = refresh_in(&fixture, &away).await;
        away.s3.fail_behind(None);
        match ended {
            Ok(()) => break,
            Err(Error::Lake(_) | Error::Bucket(_)) => {}
            Err(other) => panic!("behind {answered} requests: {other:?}"),
        }
        answered += 1;
    }
    assert!(answered > 4, "{answered}");
    // The control: what is in it can be damaged.
    truncate(&away.table("items__changes"));
    assert!(matches!(refresh_in(&fixture, &away).await, Err(Error::Damaged { .. })));
}

/// Opens both tables, and merges.
async fn refresh_in(fixture: &Fixture, away: &Away) -> Result<(), Error> {
    refresh(&mut fixture.source().await, &away.lake().below(["public"]), "items").await.map(drop)
}

/// What was written of one commit, as a store that is no good may leave it.
fn truncate(folder: &std::path::Path) {
    let commits = folder.join("_delta_log").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let last = commits.filter(|path| path.extension().is_some_and(|of| of == "json")).max().unwrap();
    let text = std::fs::read(&last).unwrap();
    std::fs::write(last, &text[..text.len() / 2]).unwrap();
}

fn asked(count: u32) -> impl FnOnce(&mut wire::Settings) {
    move |settings| {
        settings.table_resyncs = BTreeMap::from([("public.items".to_owned(), count)]);
        settings.asked = count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_of_a_bucket_stands_still_until_it_is_asked_for() {
    let site = Site::new(18, TABLES).await;
    publish(&site, &[]).await;
    let away = Away::new().await;
    let follows =
        |status: &Value| ["public.items", "public.others"].iter().all(|of| is(status, of, "following"));
    let process = away.process(&site, asked(0)).await;
    process.says("both follow", follows).await;
    site.sql("insert into items values (1001, 'before')").await;
    process.has_merged(&site, &["items"]).await;
    process.stop().await;
    truncate(&away.table("items__changes"));
    let process = away.process(&site, asked(0)).await;
    let one =
        |status: &Value| is(status, "public.items", "stopped") && is(status, "public.others", "following");
    let status = process.says("one stands still", one).await;
    let why = table(&status, "public.items")["why"].as_str().unwrap();
    assert!(why.contains("stead resync --table public.items"), "{why}");
    site.sql("insert into items values (1002, 'meanwhile'); update others set name = 'goes on'").await;
    process.has_merged(&site, &["others"]).await;
    process.stop().await;
    let process = away.process(&site, asked(1)).await;
    process.says("both follow again", follows).await;
    site.sql("insert into items values (1003, 'after')").await;
    process.has_merged(&site, &["items", "others"]).await;
    process.stop().await;
    away.assert_same(&site, "items").await;
    let changes = away.rows("items__changes");
    let ops: Vec<_> = changes.iter().map(|row| row["_op"].as_str().unwrap()).collect();
    assert!(ops.contains(&"gap") && ops.len() <= 2, "{ops:?}");
    let aside = away.folder().join("public/_damaged").read_dir().unwrap();
    let aside: Vec<_> = aside.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(aside.len(), 1, "what was left is kept: {aside:?}");
    assert!(aside[0].join("_delta_log/00000000000000000000.json").exists());

    // Changes that somebody removed are not begun anew without a word: some may not have been merged.
    std::fs::remove_dir_all(away.table("items__changes")).unwrap();
    let process = away.process(&site, asked(1)).await;
    let status = process.says("one stands still again", one).await;
    let why = table(&status, "public.items")["why"].as_str().unwrap();
    assert!(why.contains("it is gone, though its table is there"), "{why}");
    process.stop().await;
    let process = away.process(&site, asked(2)).await;
    process.says("both follow once more", follows).await;
    process.stop().await;
    away.assert_same(&site, "items").await;
    assert!(away.rows("items__changes").iter().any(|row| row["_op"] == "gap"));
}

/// What the process says keeps it.
async fn trouble(away: &Away, site: &Site, change: impl FnOnce(&mut wire::Bucket)) -> String {
    let process = away.process(site, |settings| change(settings.bucket.as_mut().unwrap())).await;
    let status = process.says("what is wrong", |status| !status["trouble"].is_null()).await;
    process.stop().await;
    let said = status.to_string();
    assert!(!said.contains("s3cret-key") && !said.contains("s3cret-word"), "a secret is told: {said}");
    status["trouble"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_named_with_what_to_do() {
    let site = Site::new(17, TABLES).await;
    publish(&site, &[]).await;
    let away = Away::new().await;
    let said = trouble(&away, &site, |bucket| bucket.place = "s3://nowhere/x".into()).await;
    assert!(said.contains("there is no bucket `nowhere` at 127.0.0.1; make it"), "{said}");
    let said = trouble(&away, &site, |bucket| bucket.key = "s3cret-key".into()).await;
    assert!(said.contains("LAKE_KEY"), "{said}");
    let said = trouble(&away, &site, |bucket| bucket.secret = "s3cret-word".into()).await;
    assert!(said.contains("stead secret set LAKE_SECRET"), "{said}");
    away.s3.fail_behind(Some((0, Fault::Denied)));
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("s3:PutObject") && said.contains("s3://bucket/some/where/"), "{said}");
    away.s3.fail_behind(Some((0, Fault::Elsewhere)));
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("is not in the region us-east-1; it is in eu-west-9: write `region`"), "{said}");
    away.s3.fail_behind(None);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    away.lead(closed).await;
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("cannot be reached at 127.0.0.1: Connection refused"), "{said}");
    away.lead(away.endpoint().port().unwrap()).await;

    // Whose it is.
    std::fs::create_dir_all(away.folder()).unwrap();
    std::fs::write(away.folder().join("somebody's"), "x").unwrap();
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("s3://bucket/some/where is not empty"), "{said}");
    std::fs::remove_dir_all(away.s3.bucket().join("some")).unwrap();
    let process = away.process(&site, |settings| settings.name = "another".into()).await;
    process.says("it follows", |status| is(status, "public.items", "following")).await;
    process.stop().await;
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("another transfer has written to s3://bucket/some/where (another"), "{said}");

    // A store that cannot keep two writers apart.
    std::fs::remove_dir_all(away.s3.bucket().join("some")).unwrap();
    let _ = std::fs::remove_file(away.home.path().join("memory.json"));
    away.s3.be_careless();
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("two writers could not be kept apart"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_proves_who_it_is() {
    let site = Site::new(17, TABLES).await;
    publish(&site, &[]).await;
    let (ca, (certificate, key)) = certificates(&["127.0.0.1"]);
    let away = Away::of(S3::with_tls(&certificate, &key)).await;
    let said = trouble(&away, &site, |_| ()).await;
    assert!(said.contains("of an authority that is not known here") && said.contains("LAKE_CA"), "{said}");
    let said = trouble(&away, &site, |bucket| bucket.ca = Some("no certificate".into())).await;
    assert!(said.contains("`ca` names holds no certificate"), "{said}");
    let process = away.process(&site, |settings| settings.bucket.as_mut().unwrap().ca = Some(ca)).await;
    process.says("it follows", |status| is(status, "public.items", "following")).await;
    process.stop().await;
    let relation = site.relation_of("items", ROLE).await;
    let rows = lake_rows("duckdb", &away.table("items")).into_iter().map(|row| own(row, &relation)).collect();
    assert_rows(source_rows(&site.client, &relation).await, rows, "over TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_bucket_is_away_nothing_is_lost() {
    let site = Site::new(16, TABLES).await;
    publish(&site, &[]).await;
    let away = Away::new().await;
    let process = away.process(&site, |_| ()).await;
    process.says("it follows", |status| is(status, "public.items", "following")).await;
    away.s3.fail(Fault::Broken, u32::MAX);
    site.sql("insert into items values (2001, 'while it is away'); delete from items where id < 50").await;
    let gone =
        |status: &Value| status["trouble"].as_str().is_some_and(|why| why.contains("cannot be reached"));
    process.says("it is away", gone).await;
    away.s3.fail(Fault::Broken, 0);
    process
        .says("it goes on", |status| status["trouble"].is_null() && is(status, "public.items", "following"))
        .await;
    process.has_merged(&site, &["items"]).await;
    away.assert_same(&site, "items").await;
    // One that is emptied is not filled as if nothing had been there.
    process.stop().await;
    std::fs::remove_dir_all(away.s3.bucket().join("some")).unwrap();
    let process = away.process(&site, |_| ()).await;
    let emptied = |status: &Value| status["stopped"] == true;
    let status = process.says("it was emptied", emptied).await;
    let why = status["trouble"].as_str().unwrap();
    assert!(why.contains("s3://bucket/some/where was emptied") && why.contains("stead resync"), "{why}");
    process.stop().await;
    let again = |settings: &mut wire::Settings| (settings.resyncs, settings.asked) = (1, 1);
    let process = away.process(&site, again).await;
    process.says("it follows again", |status| is(status, "public.items", "following")).await;
    // Nor while it is written; and what nobody goes on from keeps no log.
    let all = away.s3.bucket().join("some");
    std::fs::remove_dir_all(&all).unwrap();
    site.sql("insert into items values (2002, 'while it is emptied')").await;
    let status = process.says("it was emptied while it was written", emptied).await;
    assert!(status["trouble"].as_str().unwrap().contains("was emptied: "), "{status}");
    let slots = format!("select count(*) from pg_replication_slots where slot_name = '{ROLE}'");
    assert_eq!(site.client.query_one(&slots, &[]).await.unwrap().get::<_, i64>(0), 0);
    process.stop().await;
    std::fs::create_dir_all(all.join("where")).unwrap();
    std::fs::write(all.join("where/left.parquet"), "of a change on its way").unwrap();
    let again = |settings: &mut wire::Settings| (settings.resyncs, settings.asked) = (2, 2);
    let process = away.process(&site, again).await;
    let left =
        |status: &Value| status["trouble"].as_str().is_some_and(|why| why.contains("remove what is left"));
    process.says("something is left", left).await;
    std::fs::remove_dir_all(&all).unwrap();
    process
        .says("it follows once more", |status| {
            status["trouble"].is_null() && is(status, "public.items", "following")
        })
        .await;
    process.stop().await;
    away.assert_same(&site, "items").await;
}

/// Of two processes that make a table at once one does, and both have it.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_make_a_table_one_does() {
    let away = Away::new().await;
    let place = away.lake().below(["public", "items"]);
    let open = || {
        let writer = Writer { name: "test/public.items".into(), epoch: "1".into() };
        let id = StructField::nullable("id", DataType::LONG);
        LakeTable::open(&place, writer, vec![id])
    };
    let (one, other) = tokio::join!(open(), open());
    assert_eq!(one.unwrap().position(), other.unwrap().position());
}
