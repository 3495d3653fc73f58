//! What a person, a disk or another program can do to an installation: nothing is lost, and what is said of it
//! says what to do.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::installation::{Installation, text, until};
use crate::story::{SECOND, Story, THIRD, manifest};

/// Whether all the words are in it.
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

#[test]
fn a_migration_that_fails_or_was_tampered_with() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let good = |count: &str| assert_eq!(story.sql("select count(*) from ran").unwrap(), count);
    let fails = |text: &str, words: &[&str]| {
        story.write_schema((THIRD.0, text));
        let said = story.refused(&["up", "--yes"]);
        says(&said, words);
        says(&story.condition("migration_failed"), words);
        // What ran before is in place, nothing of this one is, and the server is reachable.
        good("2");
    };
    fails(
        "insert into ran values ('half');\n\ninsert into nowhere values (1);\n",
        &["0003_third.sql line 3", "relation \"nowhere\" does not exist", "rolled back", "correct the file"],
    );
    fails("insert into ran values ('half');\ncommit;\n", &["0003_third.sql", "one transaction"]);
    fails("copy ran from stdin;\n", &["0003_third.sql", "copy from stdin", "use insert"]);
    fails("select 1 into mine;\n", &["0003_third.sql", "create table as"]);
    fails("selekt 1;\n", &["0003_third.sql line 1", "syntax error"]);
    // Put right, it goes on where it ended.
    story.write_schema(THIRD);
    story.ok(&["up", "--yes"]);
    story.settled();
    good("3");
    assert_eq!(story.component()["conditions"], json!([]));

    let tampered = |words: &[&str]| {
        let said = story.refused(&["up", "--yes"]);
        says(&said, words);
        says(&story.condition("migration_edited"), words);
        good("3");
    };
    story.write_schema((SECOND.0, "insert into ran values ('other');\n"));
    tampered(&["0002_second.sql was edited after it ran", "put its text back", "new migration"]);
    std::fs::remove_file(story.folder.join("schema").join(SECOND.0)).unwrap();
    tampered(&["0002_second.sql ran on this server but is not in the schema folder", "put the file back"]);
    story.write_schema(SECOND);
    story.write_schema(("0001b_between.sql", "insert into ran values ('between');\n"));
    tampered(&["0001b_between.sql comes before 0003_third.sql", "a name that sorts after"]);
    std::fs::remove_file(story.folder.join("schema/0001b_between.sql")).unwrap();
    story.ok(&["up", "--yes"]);
    story.settled();
    good("3");
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn a_wish_that_cannot_be_granted_changes_nothing() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "engine = 16\n");
    let before = story.component();
    let refused = |more: &str, words: &[&str]| {
        story.write_manifest(&manifest("shop", more));
        says(&story.refused(&["up", "--yes"]), words);
        let after = story.component();
        assert_eq!((&after["spec"], &after["generation"]), (&before["spec"], &before["generation"]));
    };
    refused("engine = 15\n", &["engine", "15", "16"]);
    refused("engine = 17\n", &["engine", "17", "16"]);
    refused("engine = 14\n", &["14", "15"]);
    refused("allow = [\"10.0.0.0/33\"]\n", &["10.0.0.0/33"]);
    // On record, though nothing changed.
    let lines = story.history();
    let on_record = lines.iter().filter(|line| line["outcome"] == "refused").count();
    assert!(on_record >= 2, "{lines:#?}");

    // The server is there and reachable, the extension is not.
    story.write_manifest(&manifest("shop", "engine = 16\nextensions = [\"no_such_thing\"]\n"));
    let words = ["no_such_thing", "engine 16", "take it off the list"];
    says(&story.refused(&["up", "--yes"]), &words);
    says(&story.condition("extension_missing"), &words);
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "2");

    story.write_manifest(&manifest("shop", "engine = 16\n").replace("protect = false", "protect = true"));
    story.ok(&["up", "--yes"]);
    says(&story.refused(&["down", "--yes"]), &["postgres.main is protected", "protect = false"]);

    stead.ok(&["tenant", "quota", "acme", "--servers", "1"]);
    let more = manifest("shop", "engine = 16\n[postgres.second]\nsize = \"nano\"\n");
    story.write_manifest(&more);
    says(&story.refused(&["up", "--yes"]), &["1 servers", "2"]);
    stead.ok(&["tenant", "quota", "acme", "--servers", "9", "--memory-mib", "200"]);
    says(&story.refused(&["up", "--yes"]), &["200 MiB of memory"]);
    stead.ok(&["tenant", "quota", "acme", "--memory-mib", "99999", "--disk-mib", "1500"]);
    says(&story.refused(&["up", "--yes"]), &["1500 MiB of disk"]);
    assert_eq!(stead.list("servers").len(), 1);
    story.ok(&["down", "--yes", "--unprotect"]);
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn folders_deleted_or_closed_by_hand() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (tree, folder) = (story.tree(), story.folder.clone());
    // Wrong owners and modes are put right when the server, or the keeper, starts next.
    for (part, mode) in [("conf", 0o000), ("run", 0o700), ("data", 0o777)] {
        std::fs::set_permissions(tree.join(part), PermissionsExt::from_mode(mode)).unwrap();
    }
    stead.kill_server_of(&tree);
    until("the server to be back", || story.sql("select 1").ok());
    stead.ok(&["server", "stop", "--all"]);
    stead.kill_server();
    std::fs::set_permissions(stead.home.join("servers"), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(stead.home.join("servers"), Some(0), Some(0)).unwrap();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.settled();
    until("the server to be back", || story.sql("select 1").ok());

    // Data that are gone are gone: nothing is put in their place.
    std::fs::rename(tree.join("data"), stead.folder().join("data")).unwrap();
    stead.kill_server_of_uid(&stead.folder().join("data"));
    story.look();
    let said = story.condition("data_lost");
    says(&said, &["data directory is gone", "nothing was put in its place", "put it back", "stead down"]);
    assert!(!tree.join("data").exists());
    // Put back, all is well again.
    std::fs::rename(stead.folder().join("data"), tree.join("data")).unwrap();
    until("the server to be well", || {
        story.look();
        (story.component()["phase"] == "ready").then_some(())
    });
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "2");

    std::fs::remove_dir_all(&tree).unwrap();
    story.look();
    story.condition("data_lost");
    let said = story.refused(&["up", "--yes"]);
    says(&said, &["data directory is gone"]);
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn a_port_that_a_stranger_has() {
    let mut stead = Installation::started();
    let port = stead.first_port();
    let stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let folder = Story::up(&stead, "shop", "").folder;
    let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
    assert_eq!(story.component()["endpoint"]["port"], port + 1, "never reachable, it gets the next port");
    drop(stranger);
    // Once its URL was given out it keeps its port, whoever has it.
    stead.ok(&["server", "stop", "--all"]);
    stead.kill_server();
    let stranger = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.look();
    let said = story.condition("port_taken");
    says(&said, &[&format!("port {} on 127.0.0.1 is taken by another program", port + 1), "stop it"]);
    drop(stranger);
    until("the port to be taken back", || {
        story.look();
        (story.component()["phase"] == "ready").then_some(())
    });
    assert_eq!(story.component()["endpoint"]["port"], port + 1);
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "2");
    stead.finish();
}

#[test]
fn homes_keys_and_clocks() {
    let mut stead = Installation::started();
    let folder = Story::up(&stead, "shop", "").folder;
    let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };

    let second = stead.run(&["server"]);
    assert_eq!(second.status.code(), Some(1));
    let pid = stead.running().unwrap()["pid"].to_string();
    says(&text(&second.stderr), &["already runs for", &format!("process {pid}"), "stead server stop"]);
    let long = format!("/tmp/{}", "x".repeat(60));
    let refused = stead.command(&["server"]).env("STEAD_HOME", &long).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    says(&text(&refused.stderr), &["65 bytes long", "60", "shorter STEAD_HOME"]);
    assert!(!std::path::Path::new(&long).exists());

    // A clock that jumped back leaves moments far in the future: they count as due.
    let seen = story.component()["observed_at"].clone();
    stead.control(
        "update components set wake_at = now() + interval '10 days', lease = gen_random_uuid(),
                lease_until = now() + interval '9 days'; notify stead_wake",
    );
    until("a look in spite of the clock", || (story.component()["observed_at"] != seen).then_some(()));

    // Another key opens nothing, and is told at once.
    stead.kill_server();
    let key = stead.home.join("keys/installation.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, [7; 32]).unwrap();
    stead.spawn(&[]);
    assert_eq!(stead.await_server_or_death(), None);
    says(
        &stead.said(),
        &["the installation key is not the one", "put the right file back", "installation.key"],
    );
    stead.kill_server();
    std::fs::write(&key, right).unwrap();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "2");
    stead.finish();
}
