//! Differences that nobody asked for: found within one look, on record with what was and what is, put right.

use serde_json::{Value, json};

use crate::installation::{Installation, until};
use crate::story::{Story, ask};

/// Does something by hand, has the component looked at, and answers the drift that was put on record.
fn found(story: &Story<'_>, by_hand: impl FnOnce()) -> Vec<(String, Value, Value)> {
    let (found, repaired) = (story.lines("drift.found").len(), story.lines("drift.repaired").len());
    by_hand();
    story.look();
    until("the drift to be put right", || (story.lines("drift.repaired").len() > repaired).then_some(()));
    story.settled();
    let differences = |action: &str, from: usize| -> Vec<(String, Value, Value)> {
        let lines = story.lines(action);
        let of = |line: &Value| line["differences"].as_array().unwrap().clone();
        let all = lines[from..].iter().flat_map(of);
        all.map(|d| (d["field"].as_str().unwrap().to_owned(), d["before"].clone(), d["after"].clone()))
            .collect()
    };
    let is = differences("drift.found", found);
    let back: Vec<_> = is.iter().map(|(field, was, is)| (field.clone(), is.clone(), was.clone())).collect();
    assert_eq!(differences("drift.repaired", repaired), back, "what is repaired is what was found");
    assert_eq!(story.component()["drift"], json!([]));
    // The gateway may have to sign in anew to the server first.
    let ran = until("the front door", || story.sql("select count(*) from ran").ok());
    assert_eq!(ran, "2");
    is
}

fn one(found: Vec<(String, Value, Value)>) -> (String, Value, Value) {
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn settings_changed_by_hand() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "engine = 15\n");
    let conf = story.tree().join("conf");
    let path = conf.join("postgresql.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    let work_mem = story.admin("main", "show work_mem");

    // The file alone, not yet read by the server; then also read.
    let (field, ..) =
        one(found(&story, || std::fs::write(&path, format!("{text}work_mem = '77MB'\n")).unwrap()));
    assert_eq!(field, "files");
    let seen = found(&story, || {
        std::fs::write(&path, format!("{text}work_mem = '77MB'\n")).unwrap();
        story.admin("main", "select pg_reload_conf()");
        until("the server to read it", || (story.admin("main", "show work_mem") == "77MB").then_some(()));
    });
    assert!(seen.contains(&("settings.work_mem".into(), json!(work_mem), json!("77MB"))), "{seen:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    // A file that lets everybody in.
    let hba = conf.join("pg_hba.conf");
    let (field, ..) = one(found(&story, || std::fs::write(&hba, "local all all trust\n").unwrap()));
    assert_eq!(field, "files");
    assert!(!std::fs::read_to_string(&hba).unwrap().contains("trust"));

    // What `alter system` writes outweighs the files.
    let (field, was, is) = one(found(&story, || {
        story.admin("main", "alter system set work_mem = '66MB'");
        story.admin("main", "select pg_reload_conf()");
        until("the server to read it", || (story.admin("main", "show work_mem") == "66MB").then_some(()));
    }));
    assert_eq!((field.as_str(), was, is), ("settings.work_mem", json!(work_mem), json!("66MB")));
    assert_eq!(story.admin("main", "show work_mem"), work_mem);

    // And one that takes a restart to come into force, and another to be gone.
    let fresh = story.admin("main", "show shared_buffers");
    story.admin("main", "alter system set shared_buffers = '48MB'");
    let (field, ..) = one(found(&story, || {
        // Killed, it is started again by the keeper, with what was written.
        stead.kill_server_of(&story.tree());
        until("the server to be back", || {
            let shown = stead.ask_server(&story.tree(), "main", "show shared_buffers").ok()?;
            (shown == "48MB").then_some(())
        });
    }));
    assert_eq!(field, "settings.shared_buffers");
    assert_eq!(story.admin("main", "show shared_buffers"), fresh);
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn roles_password_and_helpers_changed_by_hand() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (field, was, is) = one(found(&story, || {
        story.admin("main", "alter role owner superuser");
    }));
    assert_eq!(field, "roles.owner");
    assert_eq!(was, json!(["login", "in pg_read_all_stats"]));
    assert_eq!(is, json!(["superuser", "login", "in pg_read_all_stats"]));

    let (field, ..) = one(found(&story, || {
        story.admin("main", "grant pg_execute_server_program to owner");
    }));
    assert_eq!(field, "roles.owner");

    let (field, was, is) = one(found(&story, || {
        story.admin("main", "create role stranger superuser login");
    }));
    assert_eq!((field.as_str(), was, is), ("roles.stranger", json!("no superuser"), json!("superuser")));
    assert_eq!(story.admin("main", "select rolsuper from pg_roles where rolname = 'stranger'"), "f");

    // The tenant's own password does not hold, and the one that Stead shows holds again.
    let (field, ..) = one(found(&story, || {
        story.sql("alter role owner password 'mine'").unwrap();
    }));
    assert_eq!(field, "password");
    let mine = story.url().replace(&story.password(), "mine");
    assert!(ask(&mine, "select 1").unwrap_err().contains("password authentication failed"));
    let (field, ..) = one(found(&story, || {
        story.admin("main", "alter role owner nologin");
    }));
    assert_eq!(field, "roles.owner");

    let (field, ..) = one(found(&story, || {
        story.admin("postgres", "drop schema stead cascade");
    }));
    assert_eq!(field, "helpers");
    let (field, ..) = one(found(&story, || {
        story.admin("postgres", "drop owned by stead_gateway; drop role stead_gateway");
    }));
    assert_eq!(field, "roles.stead_gateway");
    let (field, ..) = one(found(&story, || {
        story.admin("main", "alter database main owner to stead_admin");
    }));
    assert_eq!(field, "database");
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn route_and_unit_changed_by_hand() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let handle = story.handle();
    let route = stead.home.join(format!("gateway/routes/{handle}.json"));
    let text = std::fs::read_to_string(&route).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        std::fs::write(&route, text.replace(from, to)).unwrap();
    };
    let (field, was, is) = one(found(&story, || edit("127.0.0.0/8", "0.0.0.0/0")));
    assert_eq!(
        (field.as_str(), was, is),
        ("allow", json!(["127.0.0.0/8", "::1/128"]), json!(["0.0.0.0/0", "::1/128"]))
    );
    let (field, ..) = one(found(&story, || edit("\"max_sessions\":", "\"max_sessions\":9")));
    assert_eq!(field, "route");
    let (field, ..) = one(found(&story, || std::fs::remove_file(&route).unwrap()));
    assert_eq!(field, "allow");
    let (field, ..) = one(found(&story, || std::fs::write(&route, "{").unwrap()));
    assert_eq!(field, "allow");
    assert_eq!(std::fs::read_to_string(&route).unwrap(), text);

    let unit = stead.home.join(format!("units/pg-{handle}.json"));
    let text = std::fs::read_to_string(&unit).unwrap();
    let (field, ..) = one(found(&story, || {
        assert!(text.contains("\"pids\":"), "{text}");
        std::fs::write(&unit, text.replace("\"pids\":", "\"pids\":9")).unwrap();
    }));
    assert_eq!(field, "unit");
    let (field, ..) = one(found(&story, || std::fs::remove_file(&unit).unwrap()));
    assert_eq!(field, "unit");
    stead.nothing_left_over();
    stead.finish();
}

/// The control: what the spec does not own is nobody's drift, and looking alone says nothing.
#[test]
fn what_the_spec_does_not_own_is_left_alone() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    story
        .sql("create extension citext; create schema mine; alter database main set work_mem = '1MB'")
        .unwrap();
    story.sql("alter role owner set statement_timeout = '5s'").unwrap();
    story.admin("main", "create role reader login");
    let looked = || story.component()["observed_at"].clone();
    for _ in 0..2 {
        let before = looked();
        story.look();
        until("a look", || (looked() != before).then_some(()));
    }
    let history = story.history();
    let drift = |line: &&Value| line["action"].as_str().unwrap().starts_with("drift.");
    assert_eq!(history.iter().find(drift), None);
    assert_eq!(story.sql("show statement_timeout").unwrap(), "5s");
    stead.finish();
}
