//! The table as it is: copied while it is written, and merged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use transfer::Error;

use crate::exactly_once::{drain, transaction};
use crate::source::Fixture;

/// Where whoever copies or merges can be ended.
const ENDS: [&str; 5] = [
    "transfer::lake.written",
    "transfer::lake.checked",
    "transfer::lake.committed",
    "transfer::current.noted",
    "transfer::current.merged",
];

async fn copy(fixture: &Fixture) -> Result<u64, Error> {
    let (mut current, _) = fixture.current().await;
    let mut source = fixture.source().await;
    let snapshot = source.snapshot().await?;
    current.copy(&snapshot).await
}

async fn merge(fixture: &Fixture) -> Result<bool, Error> {
    let (mut current, changes) = fixture.current().await;
    current.merge(&changes).await
}

#[tokio::test]
async fn a_copy_and_the_changes_after_it_make_the_table() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(3_000);
    fixture
        .sql(&format!("insert into items values (1, 'one'), (2, null), (3, '{long}'), (4, E'a\\tb\\\\\\n')"))
        .await;
    drain(&mut fixture.stream().await).await.unwrap();
    fixture.sql("update items set value = 'two' where id = 2").await;
    assert_eq!(copy(&fixture).await.unwrap(), 4);
    assert_eq!(fixture.lake_table().await, fixture.table().await);
    // The long value is not said again, and moves with its row.
    fixture
        .sql("begin; update items set id = 30 where id = 3; update items set id = 31 where id = 30; commit")
        .await;
    fixture.sql("delete from items where id = 1").await;
    drain(&mut fixture.stream().await).await.unwrap();
    assert!(merge(&fixture).await.unwrap() && !merge(&fixture).await.unwrap());
    assert_eq!(fixture.lake_table().await, fixture.table().await);
    fixture.sql("begin; truncate items; insert into items values (9, 'nine'); commit").await;
    drain(&mut fixture.stream().await).await.unwrap();
    merge(&fixture).await.unwrap();
    assert_eq!(fixture.lake_table().await, fixture.table().await);
}

#[tokio::test]
async fn changes_that_a_copy_saw_do_not_bring_back_what_was() {
    let fixture = Fixture::new().await;
    let went_back = async |fixture: &Fixture| {
        fixture.sql("truncate items; insert into items values (1, 'first')").await;
        drain(&mut fixture.stream().await).await.unwrap();
        fixture.sql("update items set value = 'second'").await;
        copy(fixture).await.unwrap();
        // The stream has not come to the second yet.
        merge(fixture).await.unwrap();
        fixture.lake_table().await[&1].as_deref() != Some("second")
    };
    assert!(!went_back(&fixture).await);
    fail::cfg("transfer::current.blind", "return").unwrap();
    assert!(went_back(&fixture).await, "the control must fail");
}

#[tokio::test]
async fn whoever_is_ended_when_the_table_is_as_the_source() {
    let fixture = Fixture::new().await;
    let mut random = StdRng::seed_from_u64(11);
    let mut ends = 0;
    for round in 0..60 {
        for _ in 0..random.random_range(1..5) {
            fixture.sql(&transaction(&mut random)).await;
        }
        if random.random_bool(0.7) {
            drain(&mut fixture.stream().await).await.unwrap();
        }
        let point = ENDS[round % ENDS.len()];
        fail::cfg(point, "return").unwrap();
        let ended = if round % 7 == 0 { copy(&fixture).await.err() } else { merge(&fixture).await.err() };
        fail::remove(point);
        match ended {
            Some(Error::Ended(_)) => ends += 1,
            Some(other) => panic!("{other}"),
            None => {}
        }
        if round == 0 {
            copy(&fixture).await.unwrap();
        }
        if round % 4 == 3 {
            drain(&mut fixture.stream().await).await.unwrap();
            merge(&fixture).await.unwrap();
            assert_eq!(fixture.lake_table().await, fixture.table().await, "round {round}");
        }
    }
    assert!(ends > 30, "only {ends} were ended");
}

/// Writers of their own go on while the table is copied, again and again.
#[tokio::test]
async fn a_table_is_copied_while_others_write_it() {
    let fixture = Fixture::new().await;
    let enough = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|seed| {
            let config = fixture.database.config();
            let enough = enough.clone();
            tokio::spawn(async move {
                let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                client.batch_execute("set synchronous_commit = on").await.unwrap();
                let mut random = StdRng::seed_from_u64(seed);
                while !enough.load(Ordering::Relaxed) {
                    // Two may want the same key, or each other's.
                    let _ = client.batch_execute(&transaction(&mut random)).await;
                    let _ = client.batch_execute("rollback").await;
                }
            })
        })
        .collect();
    for _ in 0..5 {
        copy(&fixture).await.unwrap();
        fixture.stream().await.step().await.unwrap();
        merge(&fixture).await.unwrap();
    }
    enough.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    drain(&mut fixture.stream().await).await.unwrap();
    merge(&fixture).await.unwrap();
    assert_eq!(fixture.lake_table().await, fixture.table().await);
}
