//! Who works on what, and who may no longer.

use component::postgres::Size;
use store::Error;
use store::journal::{Actor, Entry, Outcome};
use store::lease::Record;

use crate::rig::{HOST, Rig, actor, settled};

const EXPIRE: &str = "update components set lease_until = now() - interval '1 second'";

#[tokio::test]
async fn one_component_has_one_worker() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let (first, second) = tokio::join!(rig.claim(), rig.claim());
    let lease = first.xor(second).expect("exactly one has it");
    assert!(rig.claim().await.is_none());
    assert!(rig.store.claim("elsewhere").await.unwrap().is_none());
    rig.store.record(lease, settled()).await.unwrap();
    assert!(rig.claim().await.is_none(), "it is looked at again in a minute");
    let due = rig.store.next_due_ms(HOST).await.unwrap().unwrap();
    assert!((50_000..=60_000).contains(&due), "{due}");
}

#[tokio::test]
async fn a_worker_whose_lease_ran_out_writes_nothing() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let first = rig.claim().await.unwrap();
    rig.sql(EXPIRE).await.unwrap();
    let second = rig.claim().await.expect("another may have it now");
    assert!(matches!(rig.store.renew(&first, "start").await, Err(Error::Fenced)));
    let noted = Entry::new(&actor(), "noted", Outcome::Noted);
    let late = Record { step: Some("late".into()), lines: vec![noted], ..settled() };
    assert!(matches!(rig.store.record(first, late).await, Err(Error::Fenced)));
    assert_eq!(
        rig.number("select count(*) from components where step = 'late' or observed_generation > 0").await,
        0
    );
    assert_eq!(rig.number("select count(*) from journal where action = 'noted'").await, 0);
    rig.store.renew(&second, "start").await.unwrap();
    rig.store.record(second, settled()).await.unwrap();
    assert_eq!(rig.number("select observed_generation from components").await, 1);
}

#[tokio::test]
async fn a_late_removal_removes_nothing() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    rig.store.delete(&actor(), &rig.tenant, &rig.stead, false, None, None).await.unwrap();
    let first = rig.claim().await.unwrap();
    rig.sql(EXPIRE).await.unwrap();
    let second = rig.claim().await.unwrap();
    let line = || Entry::new(&Actor::stead(), "component.removed", Outcome::Done);
    assert!(matches!(rig.store.next_port(&first).await, Err(Error::Fenced)));
    assert!(matches!(rig.store.record_gone(first, &[line()]).await, Err(Error::Fenced)));
    assert_eq!(rig.number("select count(*) from components").await, 1);
    rig.store.record_gone(second, &[line()]).await.unwrap();
    assert_eq!(rig.number("select count(*) from components").await, 0);
    assert_eq!(rig.number("select count(*) from steads").await, 0);
    assert_eq!(rig.number("select count(*) from secrets").await, 0);
    // The removal is done; what else was under way will never be, and says so.
    let ended = |kind: &str, state: &str| {
        format!("select count(*) from operations where kind = '{kind}' and state = '{state}'")
    };
    assert_eq!(rig.number(&ended("delete", "succeeded")).await, 1);
    assert_eq!(
        rig.number(&format!("{} and error like '%removed before%'", ended("apply", "failed"))).await,
        1
    );
}

#[tokio::test]
async fn an_edit_during_the_work_makes_it_due_at_once() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let lease = rig.claim().await.unwrap();
    let edited = rig.apply(Size::Small).await.unwrap();
    assert!(rig.claim().await.is_none(), "the first still works on it");
    assert!(
        matches!(rig.store.renew(&lease, "start").await, Err(Error::Fenced)),
        "it hears that it was overtaken"
    );
    rig.store.record(lease, settled()).await.unwrap();
    assert_eq!(rig.store.next_due_ms(HOST).await.unwrap(), Some(0));
    // What it brought about was the old spec: the operation of the edit still runs.
    let tenant = rig.store.tenant(&rig.tenant).await.unwrap().unwrap().id;
    let state = |id| {
        let rig = &rig;
        async move { rig.store.operation(tenant, id).await.unwrap().unwrap().state }
    };
    let operation = edited.operation.unwrap();
    assert_eq!(state(operation).await, "running");
    let lease = rig.claim().await.expect("it is due at once");
    assert_eq!(lease.target.generation, 2);
    rig.store.record(lease, settled()).await.unwrap();
    assert_eq!(state(operation).await, "succeeded");
}

#[tokio::test]
async fn a_deletion_during_the_work_is_not_painted_over() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let lease = rig.claim().await.unwrap();
    rig.store.delete(&actor(), &rig.tenant, &rig.stead, false, None, None).await.unwrap();
    rig.store.record(lease, settled()).await.unwrap();
    assert_eq!(rig.number("select count(*) from components where status ->> 'phase' = 'deleting'").await, 1);
    assert!(rig.claim().await.unwrap().component.deletion_requested_at.is_some());
}

#[tokio::test]
async fn a_clock_that_jumped_back_leaves_nothing_waiting() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let lease = rig.claim().await.unwrap();
    rig.store.record(lease, settled()).await.unwrap();
    assert!(rig.claim().await.is_none());
    rig.sql("update components set wake_at = now() + interval '3 years'").await.unwrap();
    let lease = rig.claim().await.expect("a moment that no worker can have asked for is due");
    rig.sql("update components set lease_until = now() + interval '3 years'").await.unwrap();
    let stuck = lease;
    let lease = rig.claim().await.expect("nor is a lease of years one");
    assert!(matches!(rig.store.record(stuck, settled()).await, Err(Error::Fenced)));
    rig.store.record(lease, settled()).await.unwrap();
    // Who sleeps until then is not told to sleep for years.
    rig.sql("update components set wake_at = now() + interval '3 years'").await.unwrap();
    assert!(rig.store.next_due_ms(HOST).await.unwrap().unwrap() <= 120_000);
}

#[tokio::test]
async fn failures_are_counted_and_an_edit_starts_anew() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let failed = || Record { settled: false, again_ms: 0, error: Some("no".into()), ..settled() };
    for attempt in 0..3 {
        let lease = rig.claim().await.unwrap();
        assert_eq!(lease.attempt, attempt);
        rig.store.record(lease, failed()).await.unwrap();
    }
    rig.apply(Size::Small).await.unwrap();
    assert_eq!(rig.claim().await.unwrap().attempt, 0);
}

#[tokio::test]
async fn leases_of_a_worker_that_is_gone_are_dropped() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let lost = rig.claim().await.unwrap();
    rig.store.drop_leases("elsewhere").await.unwrap();
    assert!(rig.claim().await.is_none());
    rig.store.drop_leases(HOST).await.unwrap();
    assert!(rig.claim().await.is_some());
    assert!(matches!(rig.store.record(lost, settled()).await, Err(Error::Fenced)));
}

#[tokio::test]
async fn ports_are_given_once_and_found_anew() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let lease = rig.claim().await.unwrap();
    assert_eq!(lease.target.port, 30_000);
    assert!(rig.store.next_port(&lease).await.unwrap());
    assert_eq!(rig.number("select port::int8 from components").await, 30_001);
    rig.sql("update hosts set port_last = 30000").await.unwrap();
    assert!(!rig.store.next_port(&lease).await.unwrap());
}
