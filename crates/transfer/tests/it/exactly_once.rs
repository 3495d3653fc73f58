//! Every change is in the lake once, whatever is ended when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;
use transfer::Error;
use transfer::stream::Stream;

use crate::site::Site;
use crate::source::{Changed, Fixture, replay};

/// Where a writer can be ended.
const ENDS: [&str; 5] = [
    "transfer::lake.written",
    "transfer::lake.checked",
    "transfer::lake.committed",
    "transfer::stream.written",
    "transfer::stream.advanced",
];

pub(crate) async fn drain(stream: &mut Stream) -> Result<(), Error> {
    while stream.step().await?.transactions > 0 {}
    Ok(())
}

/// No change twice, and all of them together make the source's table.
async fn assert_exact(fixture: &Fixture) -> Vec<Changed> {
    let changes = fixture.changes().await;
    let mut places: Vec<_> = changes.iter().map(|change| (change.lsn, change.order)).collect();
    places.dedup();
    assert_eq!(places.len(), changes.len(), "a change is there twice");
    assert_eq!(replay(&changes), fixture.table().await);
    changes
}

#[tokio::test]
async fn changes_arrive_as_they_were_made() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(3_000);
    fixture.sql("insert into items values (1, 'one'), (2, null)").await;
    fixture.sql(&format!("insert into items values (3, '{long}')")).await;
    fixture.sql("begin; update items set value = 'two' where id = 2; savepoint s; delete from items; rollback to s; commit").await;
    fixture.sql("begin; insert into items values (9, 'never'); rollback").await;
    fixture.sql("update items set id = 30 where id = 3").await;
    fixture.sql("delete from items where id = 1").await;
    let mut stream = fixture.stream().await;
    drain(&mut stream).await.unwrap();
    let changes = assert_exact(&fixture).await;
    let ops: Vec<_> = changes.iter().map(|change| (change.op.as_str(), change.id.unwrap())).collect();
    let expected = [("insert", 1), ("insert", 2), ("insert", 3), ("update", 2)];
    let moved = [("delete", 3), ("insert", 30), ("delete", 1)];
    assert_eq!(ops, [&expected[..], &moved[..]].concat());
    assert_eq!(changes[5].unchanged, ["value"], "what is long is not said again");
    fixture.sql("truncate items").await;
    drain(&mut stream).await.unwrap();
    assert_eq!(assert_exact(&fixture).await.last().unwrap().op, "truncate");
}

#[tokio::test]
async fn whatever_is_ended_when_every_change_is_there_once() {
    let fixture = Fixture::new().await;
    let mut random = StdRng::seed_from_u64(7);
    let mut ends = 0;
    for round in 0..40 {
        for _ in 0..random.random_range(1..6) {
            fixture.sql(&transaction(&mut random)).await;
        }
        let point = ENDS[round % ENDS.len()];
        fail::cfg(point, "return").unwrap();
        let mut stream = fixture.stream().await;
        match drain(&mut stream).await {
            Err(Error::Ended(at)) => {
                assert_eq!(at, point);
                ends += 1;
            }
            other => other.unwrap(),
        }
        fail::remove(point);
        if round % 3 == 0 {
            drain(&mut fixture.stream().await).await.unwrap();
            assert_exact(&fixture).await;
        }
    }
    drain(&mut fixture.stream().await).await.unwrap();
    assert!(assert_exact(&fixture).await.len() > 100);
    assert!(ends > 30, "only {ends} writers were ended");
}

#[tokio::test]
async fn a_slot_is_not_asked_to_go_back() {
    let fixture = Fixture::new().await;
    let mut stream = fixture.stream().await;
    let now = "select pg_current_wal_flush_lsn()";
    let before = fixture.client.query_one(now, &[]).await.unwrap().get(0);
    fixture.sql("insert into items values (1, 'one')").await;
    stream.step().await.unwrap();
    stream.let_go(before).await.unwrap();
    assert_exact(&fixture).await;
}

/// How many sessions read ahead.
async fn ahead(client: &Client) -> i64 {
    let ask = "select count(*) from pg_stat_activity
        where application_name = 'stead transfer, ahead' and datname = current_database()";
    client.query_one(ask, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_is_read_ahead_of_the_slot_is_there_once() {
    let fixture = Fixture::new().await;
    fail::cfg("transfer::ahead.always", "return").unwrap();
    fail::cfg("transfer::ahead.first", "return(5)").unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let (mut ends, mut read) = (0, 0);
    for round in 0..30 {
        for _ in 0..random.random_range(10..40) {
            fixture.sql(&transaction(&mut random)).await;
        }
        let point = ENDS[round % ENDS.len()];
        // Not at once, so that others are on their way.
        fail::cfg(point, "3*off->return").unwrap();
        let mut stream = fixture.stream().await;
        loop {
            match stream.step().await {
                Ok(step) if step.transactions == 0 => break,
                Ok(_) => read += ahead(&fixture.client).await,
                Err(Error::Ended(_)) => {
                    ends += 1;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        fail::remove(point);
    }
    drain(&mut fixture.stream().await).await.unwrap();
    assert!(assert_exact(&fixture).await.len() > 500);
    assert!(ends > 10 && read > 10, "{ends} were ended, {read} sessions read ahead");
    while ahead(&fixture.client).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let slots = "select count(*) from pg_replication_slots where temporary and database = current_database()";
    assert_eq!(fixture.client.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn where_there_is_no_room_for_more_slots_nobody_reads_ahead() {
    let alone = fail::FailScenario::setup();
    let site =
        Site::new(16, "create table items (id int primary key); create publication lake for all tables")
            .await;
    let take = "select pg_create_physical_replication_slot('other_' || n, false, true)
        from generate_series(1, current_setting('max_replication_slots')::int - 2) n";
    site.sql(take).await;
    fail::cfg("transfer::ahead.always", "return").unwrap();
    fail::cfg("transfer::ahead.first", "return(5)").unwrap();
    for id in 0..20 {
        site.sql(&format!("insert into items values ({id})")).await;
    }
    let (mut stream, mut rows) = (site.stream().await, 0);
    loop {
        let step = stream.step().await.unwrap();
        rows += step.rows;
        if step.transactions == 0 {
            break;
        }
    }
    assert_eq!(rows, 20);
    alone.teardown();
}

/// The first knows one batch, the second as well, and there is something for a next one.
async fn two_writers(fixture: &Fixture) -> (Stream, Stream) {
    fixture.sql("insert into items values (1, 'one')").await;
    let (mut first, mut second) = (fixture.stream().await, fixture.stream().await);
    first.step().await.unwrap();
    drain(&mut second).await.unwrap();
    fixture.sql("insert into items values (2, 'two')").await;
    (first, second)
}

#[tokio::test]
async fn of_two_writers_one_is_told_that_he_is_not_alone() {
    let fixture = Fixture::new().await;
    let (mut first, mut second) = two_writers(&fixture).await;
    second.step().await.unwrap();
    fixture.sql("insert into items values (3, 'three')").await;
    let fenced = first.step().await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { expected: 1, found: 2, .. }), "{fenced}");
    drain(&mut second).await.unwrap();
    assert_exact(&fixture).await;
}

#[tokio::test]
async fn without_the_position_a_change_is_there_twice() {
    let fixture = Fixture::new().await;
    fixture.sql("insert into items values (1, 'one')").await;
    fail::cfg("transfer::lake.forgetful", "return").unwrap();
    fail::cfg("transfer::stream.written", "return").unwrap();
    assert!(fixture.stream().await.step().await.is_err());
    fail::remove("transfer::stream.written");
    drain(&mut fixture.stream().await).await.unwrap();
    let changes = fixture.changes().await;
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0], changes[1]);
}

#[tokio::test]
async fn without_the_fence_two_writers_write_the_same() {
    let fixture = Fixture::new().await;
    let (mut first, mut second) = two_writers(&fixture).await;
    // Both have read it before one of them lets the source forget it.
    fail::cfg("transfer::lake.unguarded", "return").unwrap();
    fail::cfg("transfer::stream.written", "return").unwrap();
    assert!(second.step().await.is_err());
    assert!(first.step().await.is_err());
    let twice = fixture.changes().await.iter().filter(|change| change.id == Some(2)).count();
    assert_eq!(twice, 2);
}

/// Something that an application may do.
pub(crate) fn transaction(random: &mut StdRng) -> String {
    let mut sql = String::from("begin;");
    for _ in 0..random.random_range(1..8) {
        let (id, other) = (random.random_range(0..40), random.random_range(0..40));
        let value = "v".repeat(random.random_range(0..2) * 2_500) + &random.random::<u32>().to_string();
        sql += &match random.random_range(0..10) {
            0..=4 => format!(
                "insert into items values ({id}, '{value}') on conflict (id) do update set value = excluded.value;"
            ),
            5..=6 => format!("delete from items where id = {id};"),
            7 => format!(
                "update items set id = {id} where id = {other} and not exists (select from items where id = {id});"
            ),
            8 => format!("update items set value = value where id = {id};"),
            _ if random.random_range(0..20) == 0 => "truncate items;".to_owned(),
            _ => format!("savepoint s; delete from items where id < {id}; rollback to s;"),
        };
    }
    sql + "commit"
}
