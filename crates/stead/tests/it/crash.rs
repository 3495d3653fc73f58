//! `kill -9` between any two effects, of the control plane at its fail points and of everything else at any
//! moment: after a restart everything is as wanted, and nothing is left over.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::installation::{Installation, text, until};
use crate::story::{Story, THIRD, Writer, ask, kill, manifest};

/// Points that the making of a stead passes.
const CREATE: [&str; 9] = [
    "store::edit-before-commit",
    "store::edit-after-commit",
    "store::claimed",
    "reconciler::before-act",
    "driver-local::before-claim",
    "driver-local::after-claim",
    "reconciler::after-act",
    "driver-local::file-drafted",
    "driver-local::file-written",
];
/// And its second half.
const CREATE_FURTHER: [&str; 8] = [
    "driver-local::unit-declared",
    "driver-local::unit-applied",
    "driver-local::password-set",
    "driver-local::route-written",
    "driver-local::migration-before-commit",
    "driver-local::migration-committed",
    "store::record-before-commit",
    "store::record-after-commit",
];
/// Points that an edit of size, allow-list, extensions and schema passes.
const EDIT: [&str; 5] = [
    "store::edit-before-commit",
    "driver-local::file-drafted",
    "driver-local::route-written",
    "driver-local::extension-made",
    "driver-local::migration-committed",
];
/// Points that the repair of a setting passes that takes a restart.
const REPAIR: [&str; 2] = ["driver-local::settings-cleared", "driver-local::restart-declared"];
/// Points that the repair of roles, database and password passes.
const ROLES: [&str; 3] =
    ["driver-local::helpers-made", "driver-local::database-right", "driver-local::password-set"];
/// Points that a rotation passes.
const ROTATE: [&str; 3] =
    ["store::rotate-before-commit", "driver-local::password-set", "store::record-before-commit"];
/// Points that a removal passes.
const REMOVE: [&str; 8] = [
    "store::delete-before-commit",
    "store::claimed",
    "driver-local::route-removed",
    "driver-local::stop-declared",
    "driver-local::unit-removed",
    "driver-local::tree-removed",
    "reconciler::before-gone",
    "store::gone-before-commit",
];
/// Points that the preparation of a spare passes.
const SPARE: [&str; 5] = [
    "driver-local::spare-archived",
    "driver-local::spare-tree",
    "driver-local::spare-initdb",
    "driver-local::spare-filled",
    "driver-local::spare-marked",
];

/// Points that the waking of a server for an edit passes; see the tests of sleep.
const WAKE: [&str; 1] = ["driver-local::woken"];

/// Points that a move passes.
const MOVE: [&str; 9] = [
    "store::move-before-commit",
    "driver-local::move-held",
    "driver-local::move-stopped",
    "driver-local::move-renamed",
    "driver-local::move-started",
    "driver-local::route-written",
    "driver-local::move-released",
    "driver-local::left",
    "store::record-before-commit",
];

/// No end but a repetition; see the tests of what is done twice.
const REPEAT: [&str; 1] = ["reconciler::twice"];

/// Every fail point of the control plane is in one of the lists above: a new one cannot be forgotten.
#[test]
fn every_fail_point_is_driven() {
    let mut found = BTreeSet::new();
    for name in ["store", "reconciler", "driver-local", "server"] {
        fail_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src"), &mut found);
    }
    let lists: [&[&str]; 26] = [
        &CREATE,
        &CREATE_FURTHER,
        &EDIT,
        &REPAIR,
        &ROLES,
        &ROTATE,
        &REMOVE,
        &SPARE,
        &WAKE,
        &MOVE,
        &REPEAT,
        &crate::gateway::REPLACE,
        &crate::functions::RELEASE,
        &crate::functions::ROLLBACK,
        &crate::functions::REMOVE,
        &crate::canary::PROMOTE,
        &crate::function_secrets::SET,
        &crate::backups::CLONE,
        &crate::backups::SWAP,
        &crate::backups::RECOVER,
        &crate::backups::DRILL,
        &crate::transfers::MADE,
        &crate::transfers::RESYNC,
        &crate::transfers::REMOVED,
        &crate::elsewhere::MADE,
        &crate::elsewhere::REMOVED,
    ];
    let driven = lists.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(found, driven);
}

pub(crate) fn fail_points(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fail_points(&path, found);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let names =
                text.split("fail_point!(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            found.extend(names);
        }
    }
}

/// How often a point is let pass that a start of the control plane passes too: once, by the settings of the
/// gateway or the first look at the component that there is.
fn action(point: &str, components: usize) -> &'static str {
    match point {
        "driver-local::file-drafted" => "1*off->return",
        "store::claimed" | "store::record-before-commit" if components > 0 => "1*off->return",
        _ => "return",
    }
}

/// Runs a verb against a control plane that dies at `point` on the way, then starts another.
pub(crate) fn dies_at(stead: &mut Installation, point: &str, folder: &Path, verb: &[&str]) {
    dies_at_hearing(stead, point, folder, verb, b"");
}

/// The same for a verb that reads standard input.
pub(crate) fn dies_at_hearing(
    stead: &mut Installation,
    point: &str,
    folder: &Path,
    verb: &[&str],
    input: &[u8],
) {
    stead.kill_server();
    let components = stead.list("servers").len();
    stead.spawn(&[("FAILPOINTS", &format!("{point}={}", action(point, components)))]);
    let asking = stead.await_server_or_death().map(|url| {
        let mut command = stead.command(verb);
        // It is told where the control plane is, so that it does not start one of its own.
        command.current_dir(folder).env("STEAD_TENANT", "acme").env("STEAD_URL", url);
        let mut asking =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It may have ended before it read any.
        let _ = asking.stdin.take().unwrap().write_all(input);
        asking
    });
    stead.await_death(point);
    if let Some(mut asking) = asking {
        // It would wait for the control plane to come back where it was.
        asking.kill().unwrap();
        asking.wait().unwrap();
    }
    stead.start();
}

/// The stead is as wanted, works, and nothing is double or left over.
fn is_whole(story: &Story<'_>, migrations: &[&str], point: &str) {
    let component = story.settled();
    assert_eq!(component["conditions"].as_array().unwrap().len(), 0, "{point}: {component}");
    let ran = story.sql("select string_agg(what, ' ' order by what) from ran").unwrap();
    assert_eq!(ran, migrations.join(" "), "{point}: each migration ran once");
    let drift: Vec<_> = story.history().into_iter().filter(|l| l["action"] == "drift.found").collect();
    assert_eq!(drift, Vec::<serde_json::Value>::new(), "{point}: own work taken for drift");
    story.stead.nothing_left_over();
}

fn created(points: &[&str]) {
    let mut stead = Installation::started();
    for (number, point) in points.iter().enumerate() {
        let name = format!("shop{number}");
        let folder = Story::new(&stead, &name, "extensions = [\"pg_trgm\"]\n").folder;
        dies_at(&mut stead, point, &folder, &["up", "--yes"]);
        let story = Story { stead: &stead, name, folder };
        if *point != "store::edit-before-commit" {
            // What was committed is brought about without being asked for again.
            story.settled();
        }
        story.ok(&["up", "--yes"]);
        is_whole(&story, &["0001_first", "0002_second"], point);
        assert_eq!(story.lines("component.created").len(), 1, "{point}");
        assert_eq!(story.lines("component.ready").len(), 1, "{point}");
        story.ok(&["down", "--yes"]);
    }
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn killed_while_a_stead_is_made() {
    created(&CREATE);
}

#[test]
fn killed_while_a_stead_is_made_further_on() {
    created(&CREATE_FURTHER);
}

#[test]
fn killed_while_a_stead_is_edited() {
    let mut stead = Installation::started();
    for (number, point) in EDIT.iter().enumerate() {
        let name = format!("shop{number}");
        let folder = Story::up(&stead, &name, "").folder;
        let more = "allow = [\"127.0.0.0/8\", \"::1/128\", \"10.0.0.0/8\"]\nextensions = [\"pg_trgm\"]\n";
        let changed = manifest(&name, more).replace("nano", "small");
        std::fs::write(folder.join("stead.toml"), changed).unwrap();
        std::fs::write(folder.join("schema").join(THIRD.0), THIRD.1).unwrap();
        dies_at(&mut stead, point, &folder, &["up", "--yes"]);
        let story = Story { stead: &stead, name, folder };
        story.ok(&["up", "--yes"]);
        is_whole(&story, &["0001_first", "0002_second", "0003_third"], point);
        assert_eq!(story.lines("component.edited").len(), 1, "{point}");
        assert_eq!(story.sql("show shared_buffers").unwrap(), story.admin("postgres", "show shared_buffers"));
        assert_eq!(story.sql("show max_wal_size").unwrap(), story.admin("postgres", "show max_wal_size"));
        let route =
            std::fs::read_to_string(stead.home.join(format!("gateway/routes/{}.json", story.handle())));
        assert!(route.unwrap().contains("10.0.0.0/8"), "{point}");
        story.ok(&["down", "--yes"]);
    }
    stead.finish();
}

#[test]
fn killed_while_a_setting_is_repaired() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (folder, tree) = (story.folder.clone(), story.tree());
    let expected = story.admin("main", "show shared_buffers");
    for point in REPAIR {
        // What `alter system` writes, where it is allowed.
        let line = "shared_buffers = ''48MB''";
        let file = "/stead/data/postgresql.auto.conf";
        let meddle = [format!("copy (select '{line}') to '{file}'"), "select pg_reload_conf()".into()];
        until("the setting to be written", || {
            meddle.iter().all(|sql| stead.ask_server(&tree, "postgres", sql).is_ok()).then_some(())
        });
        dies_at(&mut stead, point, &folder, &["status"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        until("the setting to be right", || {
            story.look();
            let is = stead.ask_server(&tree, "postgres", "show shared_buffers").ok()?;
            let rest = "select (select count(*) from pg_file_settings where sourcefile like '%.auto.conf')
                             + (select count(*) from pg_settings where pending_restart)";
            (is == expected && stead.ask_server(&tree, "postgres", rest).ok()? == "0").then_some(())
        });
        story.settled();
    }
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn killed_while_roles_are_repaired() {
    let mut stead = Installation::started();
    let folder = Story::up(&stead, "shop", "").folder;
    for point in ROLES {
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        let url = story.url();
        let meddle = "alter role owner createdb password 'another'; alter database main owner to stead_admin;
                      create role intruder superuser";
        story.admin("postgres", meddle);
        ask(&url, "select 1").unwrap_err();
        dies_at(&mut stead, point, &folder, &["status"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        // It is settled by what was known before; that it is looked at again shows in the server.
        until("the roles to be right", || ask(&url, "select from ran").ok());
        story.settled();
        let rights = "select (select count(*) from pg_roles where rolname = 'owner' and rolcreatedb)
                           + (select count(*) from pg_roles where rolname = 'intruder' and rolsuper)";
        assert_eq!(story.admin("postgres", rights), "0", "{point}");
        story.admin("postgres", "drop role intruder");
        assert!(!story.lines("drift.repaired").is_empty(), "{point}");
    }
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn killed_while_a_password_is_rotated() {
    let mut stead = Installation::started();
    let folder = Story::up(&stead, "shop", "").folder;
    for (number, point) in ROTATE.iter().enumerate() {
        let before = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        let (url, password) = (before.url(), before.password());
        dies_at(&mut stead, point, &folder, &["rotate"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        if *point == "store::rotate-before-commit" {
            assert_eq!(story.password(), password, "nothing was committed");
            story.ok(&["rotate"]);
        }
        is_whole(&story, &["0001_first", "0002_second"], point);
        assert_eq!(story.lines("password.rotated").len(), number + 1, "{point}");
        assert_ne!(story.password(), password, "{point}");
        let refused = ask(&url, "select 1").unwrap_err();
        assert!(refused.contains("password authentication failed"), "{point}: {refused}");
    }
    stead.finish();
}

/// A client that writes all the while: what was acknowledged is there, and there was never a second writer.
#[test]
fn killed_while_a_server_is_moved() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (folder, url) = (story.folder.clone(), story.url());
    story.sql("create table written (n int)").unwrap();
    let mut moves = 0;
    for point in MOVE {
        let writer = Writer::start(&url, moves * 1_000_000);
        until("the writer to write", || (writer.acknowledged() > 0).then_some(()));
        dies_at(&mut stead, point, &folder, &["move"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.settled();
        if point == "store::move-before-commit" {
            story.ok(&["move"]);
        }
        moves += 1;
        until("the writer to write again", || ask(&url, "select 1").ok());
        let acknowledged = writer.stop();
        let first = (moves - 1) * 1_000_000;
        let kept = format!(
            "select count(distinct n) from written where n between {first} + 1 and {first} + {acknowledged}"
        );
        assert_eq!(ask(&url, &kept).unwrap(), acknowledged.to_string(), "{point}");
        let place = if moves % 2 == 0 { story.handle() } else { format!("{}-2", story.handle()) };
        assert_eq!(stead.list("servers"), [place], "{point}");
        is_whole(&story, &["0001_first", "0002_second"], point);
        assert_eq!(story.lines("component.move_requested").len(), usize::try_from(moves).unwrap(), "{point}");
    }
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn killed_while_a_stead_is_removed() {
    let mut stead = Installation::started();
    for (number, point) in REMOVE.iter().enumerate() {
        let name = format!("shop{number}");
        let folder = Story::up(&stead, &name, "").folder;
        dies_at(&mut stead, point, &folder, &["down", "--yes"]);
        let story = Story { stead: &stead, name, folder };
        if *point == "store::delete-before-commit" {
            is_whole(&story, &["0001_first", "0002_second"], point);
            story.ok(&["down", "--yes"]);
        }
        until("the stead to be gone", || (stead.control("select count(*) from steads") == "0").then_some(()));
        stead.nothing_left_over();
        let removed = "select count(*) from journal where action = 'component.removed' and stead = ";
        assert_eq!(stead.control(&format!("{removed}'{}'", story.name)), "1", "{point}");
        for table in ["components", "files", "secrets"] {
            assert_eq!(stead.control(&format!("select count(*) from {table}")), "0", "{point}: {table}");
        }
    }
    stead.finish();
}

#[test]
fn killed_while_a_spare_is_prepared() {
    let mut stead = Installation::new();
    stead.environment.push(("STEAD_SPARES".into(), "1".into()));
    stead.start();
    let ready = |stead: &Installation| until("spares", || (stead.list("spares").len() == 4).then_some(()));
    for point in SPARE {
        let story = Story::new(&stead, "shop", "");
        ready(&stead);
        stead.nothing_left_over();
        let folder = story.folder.clone();
        // The only spare is taken, and the next is begun.
        dies_at(&mut stead, point, &folder, &["up", "--yes"]);
        let story = Story { stead: &stead, name: "shop".into(), folder };
        is_whole(&story, &["0001_first", "0002_second"], point);
        story.ok(&["down", "--yes"]);
    }
    stead.nothing_left_over();
    stead.finish();
}

/// `kill -9` of processes that serve, while a client works, with the control plane down: they come back, and
/// what was committed is there.
#[test]
fn data_planes_come_back_by_themselves() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (url, tree, folder) = (story.url(), story.tree(), story.folder.clone());
    ask(&url, "create table work (n int)").unwrap();
    stead.kill_server();
    let mut done = 0;
    let mut work = || {
        until("the server to serve", || ask(&url, "insert into work values (1)").ok());
        done += 1;
        // A commit whose answer was lost may be there too.
        let count: i64 = ask(&url, "select count(*) from work").unwrap().parse().unwrap();
        assert!(count >= done, "{count} of {done}");
    };
    work();
    for _ in 0..3 {
        for pid in stead.pids(" gateway") {
            kill(pid);
        }
        work();
        stead.kill_server_of(&tree);
        work();
    }
    // Without a keeper everything goes on; the next `stead server` starts one, which adopts what runs.
    let keeper = stead.pids(" keeper");
    assert_eq!(keeper.len(), 1);
    kill(keeper[0]);
    work();
    let started = ask(&url, "select pg_postmaster_start_time()").unwrap();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
    story.look();
    story.settled();
    assert_eq!(ask(&url, "select pg_postmaster_start_time()").unwrap(), started, "it was adopted");
    work();
    // The control plane's own server: the API is back with it.
    kill(stead.control_postmaster().unwrap());
    until("the API", || story.run(&["status"]).status.success().then_some(()));
    story.ok(&["rotate"]);
    // A keeper that died while the control plane runs is said to be gone, and how to have it back.
    kill(stead.pids(" keeper")[0]);
    let doctor = story.run(&["doctor"]);
    let said = text(&doctor.stdout);
    assert!(
        !doctor.status.success() && said.contains("keeper") && said.contains("`stead server` starts it"),
        "{said}"
    );
    stead.kill_server();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.ok(&["up", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// `kill -9` of everything at once, while a stead is being made, at one moment after the other.
#[test]
fn everything_killed_at_once() {
    let mut stead = Installation::started();
    let folder = Story::new(&stead, "shop", "").folder;
    for moment in 0..6_u64 {
        let url = stead.running().unwrap()["url"].as_str().unwrap().to_owned();
        let mut up = stead.command(&["up", "--yes"]);
        up.current_dir(&folder).env("STEAD_TENANT", "acme").env("STEAD_URL", url);
        let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Moments are what is there by then: more and more of the stead.
        until("the moment", || match moment {
            0 => Some(()),
            1 => (stead.list("spares").len() + stead.list("servers").len() > 0).then_some(()),
            2 => stead.list("units").iter().any(|unit| unit.starts_with("spare-")).then_some(()),
            3 => (!stead.list("servers").is_empty()).then_some(()),
            4 => (!stead.list("gateway/routes").is_empty()).then_some(()),
            _ => up.try_wait().unwrap().map(|_| ()),
        });
        let mut all: Vec<i32> = stead.pids("");
        all.retain(|pid| *pid != i32::try_from(up.id()).unwrap());
        for pid in all {
            kill(pid);
        }
        let _ = up.kill();
        up.wait().unwrap();
        stead.kill_server();
        stead.start();
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.ok(&["up", "--yes"]);
        is_whole(&story, &["0001_first", "0002_second"], &format!("moment {moment}"));
        story.ok(&["down", "--yes"]);
        stead.nothing_left_over();
    }
    stead.finish();
}
