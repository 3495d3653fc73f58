//! `stead advise`: what is measured in a real server, what is asked at a terminal, and that what it says to paste works.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::installation::{Installation, STEAD, text, until};
use crate::story::{Story, manifest};
use crate::transcript::Transcript;

const TABLES: &str = "create table items (id bigint generated always as identity primary key, name text,
                          updated_at timestamptz not null default now());
     create index on items (updated_at);
     create table parts (id int, at timestamptz not null, primary key (id, at)) partition by range (at);
     create table parts_1 partition of parts for values from ('2026-01-01') to ('2027-01-01');
     insert into items (name) select 'item ' || n from generate_series(1, 1000) n;
     insert into parts select n, '2026-11-20' from generate_series(1, 500) n;
     delete from items where id > 990";

/// The advice once the counters of the server, which follow within a second, have all of it.
fn measured(story: &Story<'_>, args: &[&str]) -> Value {
    until("the server to have counted its rows", || {
        let answer = story.json(&[&["advise"], args].concat());
        (answer["situation"]["changes"]["deletes"] == true).then_some(answer)
    })
}

#[test]
fn what_is_measured_leads_to_a_block_that_works() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    story.sql(TABLES).unwrap();
    story.sql("vacuum analyze").unwrap();
    let answer = measured(&story, &["--fresh", "1s", "--history=no", "--team", "same"]);
    let situation = &answer["situation"];
    assert_eq!(situation["from"], "postgres.main");
    // Partitions belong to their table; that of the migrations has no key.
    assert_eq!(situation["volume"]["tables"], 3);
    assert_eq!(situation["volume"]["rows"], 990 + 500 + 2);
    assert_eq!(situation["volume"]["largest"]["name"], "public.items");
    assert!(situation["volume"]["bytes"].as_u64().unwrap() > 50_000);
    assert_eq!(situation["keyless"], json!(["public.ran"]));
    let cursor = &situation["cursor"]["column"];
    assert_eq!((&cursor["column"], &cursor["grows"]), (&json!("updated_at"), &json!("with_updates")));
    assert_eq!(
        (&cursor["without"], &cursor["unindexed"]),
        (&json!(["public.parts", "public.ran"]), &json!([]))
    );
    let server = &situation["server"];
    assert_eq!((&server["wal_level"], &server["sleeps"]), (&json!("logical"), &json!(false)));
    assert_eq!(server["log_room"], 256 * 1024 * 1024, "that of a nano");
    assert_eq!(answer["recommended"]["mode"], "stream");
    assert!(answer["warnings"].to_string().contains("`public.ran`"), "{}", answer["warnings"]);

    // Only what is meant is measured, and what is said goes before what is.
    let answer = story.json(&["advise", "main", "--tables", "public.it*", "--fresh", "1d", "--size", "2GB"]);
    assert_eq!(answer["situation"]["volume"]["tables"], 1);
    assert_eq!(answer["situation"]["volume"]["bytes"], 2_000_000_000_u64);
    assert_eq!(answer["recommended"]["mode"], "snapshot");
    let block = answer["recommended"]["manifest"].as_str().unwrap();
    assert!(block.contains("every = \"1d\"\ntables = [\"public.it*\"]"), "{block}");

    // Nothing was changed by it, and nothing is left of it.
    let left = "select (select count(*) from pg_replication_slots where slot_type = 'logical')
                     + (select count(*) from pg_publication)";
    assert_eq!(story.sql(left).unwrap(), "0");
    story.write_manifest(&manifest("shop", block));
    story.ok(&["up", "--yes"]);
    let lake = story.ok(&["url", "lake"]);
    until("the items to be in the lake", || {
        let asked = Command::new("psql")
            .args(["-XAtq", "-c", "select count(*) from items", lake.trim()])
            .output()
            .unwrap();
        (text(&asked.stdout).trim() == "990").then_some(())
    });
    stead.finish();
}

#[test]
fn what_cannot_be_advised_on_is_said() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let refused = |args: &[&str]| story.refused(&[&["advise"], args].concat());
    assert!(refused(&["--tables", "public.nothing"]).contains("no such table yet"));
    assert!(refused(&["postgres.other"]).contains("no component `postgres.other`"));
    // Whoever waits for a lock that somebody holds is told, soon.
    story.sql("create table items (id int primary key)").unwrap();
    let mut holder = Command::new("psql")
        .args(["-XAtq", &story.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sql = "begin; lock table items;\nselect 'held';\n";
    holder.stdin.as_mut().unwrap().write_all(sql.as_bytes()).unwrap();
    let held = "select count(*) from pg_locks where relation = 'items'::regclass and mode = 'AccessExclusiveLock' and granted";
    until("the lock to be held", || (story.sql(held).as_deref() == Ok("1")).then_some(()));
    assert!(refused(&[]).contains("lock timeout"));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    stead.finish();
}

#[test]
fn without_a_server_the_options_are_what_is_known() {
    let stead = Installation::new();
    let mut said = Transcript::of(&stead);
    let nowhere = stead.folder().to_owned();
    for line in [
        "advise --help",
        "advise --fresh 1h --size 20GB --rows 60M --changes-per-day 2M --deletes=no --cursor updated_at --team other",
        "advise --flags-only --fresh 1s --history --team outside --replication=no --engine 13 --wal-level replica",
        "advise --flags-only --json --fresh 1d --size 3GB --team same --history=no --deletes --cursor none",
        "advise --fresh soon",
        "advise --size 20",
        "advise --rows many",
        "advise --team them",
        "advise --history=maybe",
        "advise --tables items",
        "advise --engine 3",
        "advise --cursor ''",
        "advise --wal-level high",
        "advise postgres.main --flags-only",
        "advise postgres.main",
        "advise --tenant acme",
        "advise --json --fresh soon",
    ] {
        said.run(&nowhere, line);
    }
    said.compare("advise");
}

/// At a terminal it asks what it does not know, and once more what it cannot read.
#[test]
fn at_a_terminal_it_asks() {
    let stead = Installation::new();
    let answers = "1m\nno\nthem\nother\nno\n20GB\nupdated_at\n\n";
    let ask = |options: &str| {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{STEAD} advise {options}"), "/dev/null"]);
        command.current_dir(stead.folder()).env("STEAD_HOME", &stead.home);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let said = ask("");
    assert!(said.contains("say same, other or outside") && said.contains("query, because"), "{said}");
    assert!(said.contains("every = \"1m\""), "{said}");
    // What was said is not asked, and a program is asked nothing.
    let said = ask("--fresh 1d --team same");
    assert!(!said.contains("How old may") && !said.contains("Whose is"), "{said}");
    assert!(!ask("--json").contains('?'));
}
