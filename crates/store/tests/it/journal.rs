//! What the database itself holds of the journal, whoever writes to it.

use component::postgres::Size;
use serde_json::json;
use store::journal::search::{Filter, Part};
use store::journal::{Entry, Outcome};

use crate::rig::{Rig, actor, settled};

#[tokio::test]
async fn a_line_is_never_rewritten() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    for sql in [
        "update journal set actor = 'nobody'",
        "delete from journal",
        "truncate journal, journal_payloads",
        "truncate journal cascade",
        "update journal_payloads set payload = '{}'",
        "truncate journal_payloads",
    ] {
        let error = rig.sql(sql).await.unwrap_err();
        let said = error.as_db_error().unwrap();
        assert_eq!(said.code().code(), "23001", "{sql}: {error}");
        assert!(said.message().contains("append-only"), "{sql}: {error}");
    }
    // What the law may demand is possible, and the proof of what it was remains.
    rig.sql("delete from journal_payloads").await.unwrap();
    let lines = rig.store.history(&Filter::default(), Part::newest(10)).await.unwrap().lines;
    assert!(lines.iter().all(|line| line.after.is_null() && line.payload_hash.len() == 64));
}

#[tokio::test]
async fn the_hash_is_of_salt_and_payload() {
    let rig = Rig::start().await;
    let entry = Entry { after: json!({"b": 1, "a": "ü"}), ..Entry::new(&actor(), "tested", Outcome::Noted) };
    for _ in 0..2 {
        rig.store.journal(&entry).await.unwrap();
    }
    let proven = "select count(*) from journal
        where payload_hash = sha256(salt || convert_to('{\"after\":{\"a\":\"ü\",\"b\":1},\"before\":null}', 'UTF8'))";
    assert_eq!(rig.number(proven).await, 2);
    assert_eq!(
        rig.number("select count(distinct payload_hash) from journal").await,
        2,
        "each has a salt of its own"
    );
}

#[tokio::test]
async fn nothing_changes_a_spec_without_a_line() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let other = "insert into components (id, stead_id, name, spec, status, host, port)
        select gen_random_uuid(), stead_id, 'postgres.other', spec, status, host, 30050 from components";
    for sql in [
        "update components set spec = jsonb_set(spec, '{size}', '\"large\"')",
        "update components set generation = generation + 1",
        "update components set deletion_requested_at = now()",
        other,
    ] {
        let error = rig.sql(sql).await.unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains("line of the journal"), "{sql}: {error}");
    }
    // Neither a line about another component, nor a refusal, nor one of an earlier transaction will do.
    let line = "insert into journal (tenant_id, stead, component, actor, source, action, outcome, salt, payload_hash)
        select id, 'flights', 'postgres.main', 'x', 'x', 'component.edited', 'done', '', '' from tenants";
    let edit = "update components set spec = jsonb_set(spec, '{size}', '\"large\"')";
    rig.sql(line).await.unwrap();
    for line in
        [line.replace("postgres.main", "postgres.mai"), line.replace("'done'", "'refused'"), "select".into()]
    {
        let client = rig.db.connect().await;
        client.batch_execute(&format!("begin; {line}; {edit}; commit")).await.unwrap_err();
    }
    assert_eq!(rig.number("select count(*) from components where spec ->> 'size' = 'nano'").await, 1);
    // The control: with its line it goes.
    rig.db.connect().await.batch_execute(&format!("begin; {line}; {edit}; commit")).await.unwrap();
    assert_eq!(rig.number("select count(*) from components where spec ->> 'size' = 'large'").await, 1);
}

#[tokio::test]
async fn what_workers_write_needs_no_line() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let before = rig.number("select count(*) from journal").await;
    let lease = rig.claim().await.unwrap();
    rig.store.renew(&lease, "start").await.unwrap();
    rig.store.record(lease, settled()).await.unwrap();
    assert_eq!(rig.number("select count(*) from journal").await, before);
}
