//! `stead move`: a new process on a moved data directory, and clients that do not notice.

use std::process::Stdio;

use serde_json::json;

use crate::database::Database;
use crate::installation::{Installation, text, until};
use crate::story::{Story, Writer, ask, kill};

/// Sessions of pgbench in every protocol, one that connects for each transaction, and one that is at rest.
#[test]
fn pgbench_does_not_notice_a_move() {
    let stead = Installation::started();
    for (tenant, engine) in [("acme", 18), ("bolt", 15)] {
        let server = Database::up(&stead, tenant, engine, "", &[]);
        let run = |args: &[&str]| server.program("pgbench").args(args).output().unwrap();
        assert!(run(&["-i", "-q"]).status.success());
        for protocol in ["simple", "extended", "prepared"] {
            let bench = |args: &[&str]| {
                let mut bench = server.program("pgbench");
                bench.args(["-n", "-M", protocol]).args(args);
                bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            };
            let before: i64 = server.sql("select count(*) from pgbench_history").unwrap().parse().unwrap();
            let benches = [bench(&["-c", "8", "-t", "300"]), bench(&["-S", "-C", "-c", "2", "-t", "100"])];
            // Past the first transactions, in which pgbench prepares, and waits for each client's alone.
            until("pgbench to be under way", || {
                let now: i64 = server.sql("select count(*) from pgbench_history").unwrap().parse().unwrap();
                (now > before + 100).then_some(())
            });
            for _ in 0..3 {
                stead.ok(&["move", "--tenant", tenant, "--stead", "shop"]);
            }
            for bench in benches {
                let output = bench.wait_with_output().unwrap();
                let said = text(&output.stdout) + &text(&output.stderr);
                assert!(output.status.success(), "{engine}, {protocol}: {said}");
                assert!(said.contains("number of failed transactions: 0 "), "{engine}, {protocol}: {said}");
            }
            let now: i64 = server.sql("select count(*) from pgbench_history").unwrap().parse().unwrap();
            assert_eq!(now, before + 2400, "{engine}, {protocol}: each acknowledged commit once");
        }
    }
    stead.finish();
}

/// Where everything is afterwards, and what is told of it.
#[test]
fn a_moved_server_is_the_same_server() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (url, before) = (story.url(), story.tree());
    let system = "select system_identifier from pg_control_system()";
    let identity = story.admin("postgres", system);
    let started = ask(&url, "select pg_postmaster_start_time()").unwrap();
    let said = story.ok(&["move", "--reason", "a better place"]);
    assert!(said.contains("postgres.main runs as another process, in another folder"), "{said}");
    assert_eq!(story.url(), url, "clients need to know nothing");
    assert_ne!(ask(&url, "select pg_postmaster_start_time()").unwrap(), started);
    assert_ne!(story.tree(), before);
    assert!(!before.exists());
    assert_eq!(story.admin("postgres", system), identity);
    assert_eq!(stead.list("units").iter().filter(|unit| unit.starts_with("pg-")).count(), 1);
    let [asked] = &story.lines("component.move_requested")[..] else { panic!("one line") };
    assert_eq!(asked["reason"], "a better place");
    assert_eq!(asked["differences"], json!([{ "field": "place", "before": 0, "after": 1 }]));
    assert!(story.lines("drift.found").is_empty());
    // All that is done to a server goes on as before.
    story.ok(&["rotate"]);
    assert!(!story.ok(&["logs"]).is_empty());
    story.write_manifest(
        &crate::story::manifest("shop", "extensions = [\"pg_trgm\"]\n").replace("nano", "small"),
    );
    story.ok(&["up", "--yes"]);
    stead.kill_server_of(&story.tree());
    until("the server to be started again", || story.sql("select 1").ok());
    stead.nothing_left_over();
    story.ok(&["move"]);
    assert_eq!(story.tree(), before, "there and back");
    story.ok(&["move"]);
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// A session that is idle in a transaction: the move is tried again, says so, and ends it in the end.
#[test]
fn an_open_transaction_delays_a_move_and_does_not_prevent_it() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "idle = \"1h\"\n");
    story.sql("create table a (n int)").unwrap();
    let mut idle = std::process::Command::new(crate::story::psql());
    idle.args(["-Xq", "-v", "ON_ERROR_STOP=1", &story.url()]);
    let mut idle = idle.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(idle.stdin.as_mut().unwrap(), b"begin; insert into a values (1);\n").unwrap();
    let open = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    until("the transaction", || (story.sql(open).unwrap() == "1").then_some(()));
    let first = stead.command(&["move", "--tenant", "acme", "--stead", "shop"]);
    let mut first = { first }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the move to begin", || (!story.lines("component.move_requested").is_empty()).then_some(()));
    let refused = story.refused(&["move"]);
    assert!(refused.contains("is being moved already"), "{refused}");
    // Others wait for a moment at a time, and fail never.
    while first.try_wait().unwrap().is_none() {
        story.sql("insert into a values (2)").unwrap();
    }
    assert!(first.wait().unwrap().success());
    let output = {
        std::io::Write::write_all(idle.stdin.as_mut().unwrap(), b"commit;\n").unwrap();
        idle.wait_with_output().unwrap()
    };
    assert!(
        text(&output.stderr).contains("this transaction did not end in time"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(story.sql("select count(*) from a where n = 1").unwrap(), "0");
    let log = std::fs::read_to_string(stead.home.join("logs/gateway.jsonl")).unwrap();
    assert!(log.contains("\"outcome\":\"in_the_way\""));
    stead.finish();
}

/// One that sleeps is woken to be moved, and can sleep and be woken at its new place.
#[test]
fn a_server_that_sleeps_can_be_moved() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "idle = \"2s\"\n");
    until("it to sleep", || (story.component()["asleep"] == true).then_some(()));
    story.ok(&["move"]);
    until("it to sleep", || (story.component()["asleep"] == true).then_some(()));
    assert_eq!(story.sql("select 1").unwrap(), "1");
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// The gateway, the server at its old and at its new place, or the keeper, killed at one moment of a move after
/// the other: no acknowledged commit is lost, and the server is at one place.
#[test]
fn anybody_killed_during_a_move() {
    let mut stead = Installation::started();
    let folder = {
        let story = Story::up(&stead, "shop", "");
        story.sql("create table written (n int)").unwrap();
        story.folder
    };
    for round in 0..9_i64 {
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        let (url, from) = (story.url(), story.tree());
        let to = if from.ends_with(story.handle()) {
            from.with_file_name(format!("{}-2", story.handle()))
        } else {
            from.with_file_name(story.handle())
        };
        let writer = Writer::start(&url, round * 1_000_000);
        until("the writer to write", || (writer.acknowledged() > 0).then_some(()));
        let api = stead.running().unwrap()["url"].as_str().unwrap().to_owned();
        let mut moving = stead.command(&["move", "--tenant", "acme", "--stead", "shop"]);
        let mut moving =
            moving.env("STEAD_URL", api).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // What is to be killed, and when, by what is there: nothing yet, the old process gone, the new one there.
        let moment = match round % 3 {
            0 => {
                let asked = "select count(*) from operations where kind = 'move'";
                until("the move to be on record", || {
                    (stead.control(asked) == (round + 1).to_string()).then_some(())
                });
                "asked for"
            }
            1 => {
                until("the switch", || (!from.exists() || to.exists()).then_some(()));
                "renamed"
            }
            _ => {
                until("the new process", || to.join("run/.s.PGSQL.5432").exists().then_some(()));
                "started"
            }
        };
        let whom = match round / 3 {
            0 => {
                stead.pids(" gateway").into_iter().for_each(kill);
                "gateway"
            }
            1 => {
                let tree = if to.exists() { &to } else { &from };
                stead.kill_server_of(tree);
                "server"
            }
            _ => {
                // It would wait for the control plane to come back where it was.
                moving.kill().unwrap();
                stead.pids(" keeper").into_iter().for_each(kill);
                stead.kill_server();
                stead.start();
                "keeper"
            }
        };
        let what = format!("{whom} killed when the move was {moment}");
        moving.wait().unwrap();
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.look();
        story.settled();
        until(&what, || ask(&url, "select 1").ok());
        let acknowledged = writer.stop();
        let first = round * 1_000_000;
        let kept = format!(
            "select count(distinct n) from written where n between {first} + 1 and {first} + {acknowledged}"
        );
        assert_eq!(ask(&url, &kept).unwrap(), acknowledged.to_string(), "{what}");
        assert!(to.exists() && !from.exists(), "{what}");
        stead.nothing_left_over();
    }
    stead.finish();
}
