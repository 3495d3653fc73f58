//! Where secrets must not be, after a story in which all of them were used; and whom the front door does not
//! let in.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::database::{Database, feed, outcome};
use crate::installation::{Installation, until};

/// The files below a folder that hold a text.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut grep = Command::new("grep");
    // By standard input: arguments are for everybody to see.
    grep.args(["-rlaF", "--devices=skip", "-f", "/dev/stdin", "."]).current_dir(folder);
    match feed(&mut grep, text) {
        Ok(found) => found.lines().map(|line| line.trim_start_matches("./").to_owned()).collect(),
        Err(said) if said.is_empty() => Vec::new(),
        Err(said) => panic!("{said}"),
    }
}

/// Looks into every process of the machine, again and again, until it is told to stop: arguments are for
/// everybody to see. Answers the secrets' words that it saw.
fn watch_arguments(stop: &AtomicBool) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else { continue };
            seen.entry(String::from_utf8_lossy(&arguments).into_owned())
                .or_insert_with(|| entry.file_name().to_string_lossy().into_owned());
        }
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
    seen
}

#[test]
fn no_secret_is_where_it_does_not_belong() {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    let stop = AtomicBool::new(false);
    let mut secrets: Vec<(&str, String)> = Vec::new();
    let arguments = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_arguments(&stop));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&mut stead)));
        stop.store(true, Ordering::Relaxed);
        let seen = watch.join().unwrap();
        secrets = told.unwrap_or_else(|why| std::panic::resume_unwind(why));
        seen
    });
    for (what, secret) in &secrets {
        assert!(secret.len() >= 16, "{what}");
        for (line, pid) in &arguments {
            assert!(!line.contains(secret.as_str()), "{what} in the arguments of process {pid}: {line}");
        }
    }
    let (mut wrong, mut right) = (Vec::new(), Vec::new());
    for (what, secret) in &secrets {
        for path in files_with(stead.folder(), secret) {
            // A server keeps verifiers in its catalog, and the operator's own token is a file.
            let catalog = ["/data/global/", "/data/pg_wal/"].iter().any(|folder| path.contains(folder));
            let verifier = what.contains("verifier") && catalog && path.contains("servers/");
            if verifier || (*what == "operator token" && path == "h/operator.token") {
                right.push(*what);
            } else {
                wrong.push(format!("{what} in {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The controls: the search finds what is there.
    assert!(right.contains(&"operator token") && right.contains(&"second verifier"), "{right:?}");
    stead.finish();
}

/// Create, sign in, fail to, rotate and fail to; answers every secret that was in use.
fn story(stead: &mut Installation) -> Vec<(&'static str, String)> {
    stead.start();
    let server = Database::up(stead, "acme", 18, "", &[("1.sql", "create table t (x int);")]);
    let verifier = |server: &Database| {
        server.admin("select rolpassword from pg_authid where rolname = 'owner'").unwrap()
    };
    let mut secrets = vec![
        ("first password", server.told("PGPASSWORD").to_owned()),
        ("first verifier", verifier(&server)),
        (
            "operator token",
            std::fs::read_to_string(stead.home.join("operator.token")).unwrap().trim().to_owned(),
        ),
    ];
    let app = stead.folder().join("acme");
    stead.ok_in(&app, &["sql", "-c", "select count(*) from t"]);
    for scope in ["developer", "viewer"] {
        let token = stead.ok(&["token", "create", scope, "--scope", scope, "--tenant", "acme"]);
        let token = token.trim().to_owned();
        let mut status = stead.command(&["status", "--stead", "shop", "--tenant", "acme"]);
        status.env("STEAD_TOKEN", &token).env("STEAD_URL", stead.running().unwrap()["url"].as_str().unwrap());
        outcome(&status.output().unwrap()).unwrap();
        status.env("STEAD_TOKEN", format!("{token}-wrong"));
        outcome(&status.output().unwrap()).unwrap_err();
        secrets.push(("token", token));
    }
    // A sign-in that fails.
    let wrong = "a-password-that-is-wrong-0815";
    let said = feed(server.psql().env("PGPASSWORD", wrong), "select 1").unwrap_err();
    assert!(said.contains("password authentication failed"), "{said}");
    secrets.push(("wrong password", wrong.to_owned()));
    // Stead's own `alter role ... password` fails, because somebody holds the catalog's lock.
    let mut hold = server.admin_psql();
    hold.env("PGAPPNAME", "hold").args(["-c", "begin; lock pg_authid in exclusive mode; select pg_sleep(8)"]);
    let mut hold = hold.spawn().unwrap();
    until("the lock", || {
        let held =
            "select count(*) from pg_locks where relation = 'pg_authid'::regclass and mode = 'ExclusiveLock'";
        (server.admin(held).unwrap() == "1").then_some(())
    });
    let rotate = stead.run_in(&app, &["rotate"]);
    hold.wait().unwrap();
    until("the new password", || {
        let again = Database::of(stead, "acme", 18);
        (again.told("PGPASSWORD") != server.told("PGPASSWORD") && again.sql("select 1").is_ok()).then_some(())
    });
    let log = server.log();
    assert!(
        log.contains("55P03") || log.contains("still waiting"),
        "the control: it did fail: {rotate:?}\n{log}"
    );
    let server = Database::of(stead, "acme", 18);
    secrets.push(("second password", server.told("PGPASSWORD").to_owned()));
    secrets.push(("second verifier", verifier(&server)));
    server.admin("checkpoint").unwrap();
    secrets
}

/// Whom the allow-list does not name is told so, and the server never hears of it.
#[test]
fn who_is_not_allowed_never_reaches_the_server() {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    stead.start();
    let server = Database::up(&stead, "acme", 18, "allow = [\"127.0.0.1/32\"]\n", &[]);
    // The server is to tell of every connection, as it would not by itself.
    std::fs::write(server.tree.join("guard/test.conf"), "log_connections = on\nlog_disconnections = on\n")
        .unwrap();
    server.admin("select pg_reload_conf()").unwrap();
    until("the setting", || (server.admin("show log_connections").unwrap() == "on").then_some(()));
    let counts = || {
        let sessions = "select sessions from pg_stat_database where datname = 'main'";
        let received = server.log().matches("connection received").count();
        (received, server.admin(sessions).unwrap().parse::<u64>().unwrap())
    };
    // The control: an allowed client is in the server's log.
    let before = counts();
    let allowed = feed(server.psql().env("PGAPPNAME", "allowed client"), "select 1");
    assert_eq!(allowed.unwrap(), "1");
    until("the line of an allowed client", || server.log().contains("allowed client").then_some(()));
    assert!(counts() > before);
    let app = stead.folder().join("acme");
    let manifest = std::fs::read_to_string(app.join("stead.toml")).unwrap();
    std::fs::write(app.join("stead.toml"), manifest.replace("127.0.0.1/32", "192.0.2.0/24")).unwrap();
    stead.ok_in(&app, &["up", "--yes"]);
    // Stead's own sessions of this edit are over when nothing is added any more.
    let mut quiet = counts().0;
    until("the server to be quiet", || {
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
        let now = server.log().matches("connection received").count();
        (std::mem::replace(&mut quiet, now) == now).then_some(())
    });
    for password in [server.told("PGPASSWORD"), "wrong"] {
        let mut psql = server.psql();
        let said = feed(psql.env("PGPASSWORD", password).env("PGAPPNAME", "refused client"), "select 1")
            .unwrap_err();
        assert!(said.contains("is not on the allow-list of this server"), "{said}");
    }
    let log = server.log();
    assert!(!log.contains("refused client"), "{log}");
    assert_eq!(log.matches("connection received").count(), quiet, "nobody came in");
    let gateway = std::fs::read_to_string(stead.home.join("logs/gateway.jsonl")).unwrap_or_default();
    assert!(gateway.contains("not_allowed"), "the gateway's own log has it");
    stead.finish();
}
