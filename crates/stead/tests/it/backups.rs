//! Backups: there from the first second, and what comes back is what was there.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::archive::newest_piece;
use crate::crash::dies_at;
use crate::database::programs;
use crate::installation::{Installation, text, until};
use crate::story::{Story, ask};

impl Story<'_> {
    pub(crate) fn backups(&self, component: &str) -> Value {
        let all = self.json(&["backups"]);
        let found = all.as_array().unwrap().iter().find(|one| one["component"] == component);
        found.unwrap_or_else(|| panic!("{all}"))["backups"].clone()
    }

    /// Waits until the first backup of a component is told of.
    pub(crate) fn backed_up(&self, component: &str) {
        until("the first backup to be told of", || {
            (!self.backups(component)["oldest"].is_null()).then_some(())
        });
    }

    pub(crate) fn url_of(&self, component: &str) -> String {
        self.ok(&["url", component]).trim().to_owned()
    }

    /// Objects of the archive of the component whose data are asked for.
    pub(crate) fn archive(&self) -> PathBuf {
        archive_of(self.stead, &self.tree())
    }
}

/// Objects of the archive of a tree.
fn archive_of(stead: &Installation, tree: &std::path::Path) -> PathBuf {
    let text = std::fs::read_to_string(tree.join("conf/archive.json")).unwrap();
    let of: Value = serde_json::from_str(&text).unwrap();
    stead.home.join("backups/archives").join(of["archive"].as_str().unwrap())
}

/// Everything in the tables of pgbench, row for row.
pub(crate) const EVERYTHING: &str = "select md5(string_agg(md5, '' order by what)) from (
    select 'a' as what, md5(string_agg(t::text, '|' order by aid)) from pgbench_accounts t
    union all select 'b', md5(string_agg(t::text, '|' order by bid)) from pgbench_branches t
    union all select 't', md5(string_agg(t::text, '|' order by tid)) from pgbench_tellers t
    union all select 'h', coalesce(md5(string_agg(t::text, '|' order by t::text)), '') from pgbench_history t) all_of";

pub(crate) fn pgbench(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(programs(15).join("pgbench"));
    command.args(args).arg(url).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(crate) fn load(url: &str) -> Child {
    pgbench(url, &["-n", "-c", "4", "-T", "600"]).spawn().unwrap()
}

/// While nobody can commit: the moment, and what was there then.
pub(crate) fn witnessed(url: &str) -> (String, String) {
    let all = "pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history";
    let sql = format!(
        "begin; lock table {all} in share mode; select clock_timestamp() at time zone 'utc'; {EVERYTHING}; commit"
    );
    let said = ask(url, &sql).unwrap();
    let (at, sum) = said.split_once('\n').unwrap();
    (format!("{at}Z").replace(' ', "T"), sum.to_owned())
}

#[test]
fn five_moments_under_load_come_back_row_for_row() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    // From its first second: its spare brought a backup.
    let oldest = story.backups("postgres.main")["oldest"].clone();
    assert!(oldest.is_string(), "{oldest}");
    let url = story.url();
    assert!(pgbench(&url, &["-i", "-q", "-s", "1"]).status().unwrap().success());
    let mut clients = load(&url);
    let moments: Vec<_> = (0..5)
        .map(|_| {
            // Some hundred transactions between one moment and the next.
            let before: i64 = ask(&url, "select count(*) from pgbench_history").unwrap().parse().unwrap();
            until("the load to go on", || {
                let now: i64 = ask(&url, "select count(*) from pgbench_history").unwrap().parse().unwrap();
                (now > before + 100).then_some(())
            });
            witnessed(&url)
        })
        .collect();
    for (number, (at, sum)) in moments.iter().enumerate() {
        let name = format!("then{number}");
        let said = story.ok(&["restore", "postgres.main", "--at", at, "--as", &name]);
        assert!(said.contains(&format!("postgres.{name} holds the data of postgres.main")), "{said}");
        let restored = story.url_of(&format!("postgres.{name}"));
        assert_eq!(ask(&restored, EVERYTHING).unwrap(), *sum, "at {at}");
        assert_ne!(ask(&url, EVERYTHING).unwrap(), *sum, "time goes on");
        story.ok(&["drop", &format!("postgres.{name}"), "--yes"]);
    }
    clients.kill().unwrap();
    clients.wait().unwrap();
    // Nothing committed since: the newest moment is all there is.
    let sum = ask(&url, EVERYTHING).unwrap();
    story.ok(&["clone", "postgres.main", "--as", "try"]);
    let copy = story.url_of("postgres.try");
    assert_eq!(ask(&copy, EVERYTHING).unwrap(), sum);
    // It is a cluster of its own, and what is written to one is not in the other.
    let system = "select system_identifier from pg_control_system()";
    assert_ne!(ask(&copy, system).unwrap(), ask(&url, system).unwrap());
    assert_ne!(story.url_of("postgres.try").split('@').next(), url.split('@').next());
    ask(&copy, "truncate pgbench_history").unwrap();
    assert_eq!(ask(&url, EVERYTHING).unwrap(), sum);
    // The manifest does not know it, and leaves it alone.
    story.ok(&["up", "--yes"]);
    ask(&copy, "select 1").unwrap();
    story.backed_up("postgres.try");
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn a_restored_server_takes_the_place_and_the_old_one_stays() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    ask(&url, "create table t (n int); insert into t values (1)").unwrap();
    let at = ask(&url, "select clock_timestamp()").unwrap();
    ask(&url, "delete from t; insert into t values (2)").unwrap();
    story.ok(&["restore", "postgres.main", "--at", &at]);
    assert_eq!(ask(&story.url_of("postgres.main-restored"), "select n from t").unwrap(), "1");
    // A session of the old time is ended, and told why.
    let mut old = Command::new(crate::story::psql());
    old.args(["-XAtq", "-c", "select pg_sleep(60)", &url]).stderr(Stdio::piped()).stdout(Stdio::null());
    let old = old.spawn().unwrap();
    until("the session to be there", || {
        let count =
            "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and state = 'active'";
        (ask(&url, count).unwrap() == "2").then_some(())
    });
    let said = story.ok(&["swap", "postgres.main", "postgres.main-restored", "--yes"]);
    assert!(said.contains("postgres.main holds what postgres.main-restored held"), "{said}");
    let ended = text(&old.wait_with_output().unwrap().stderr);
    assert!(ended.contains("terminating connection"), "{ended}");
    // The same address, password and database; the other data.
    assert_eq!(story.url_of("postgres.main"), url);
    assert_eq!(ask(&url, "select n from t").unwrap(), "1");
    assert_eq!(ask(&story.url_of("postgres.main-restored"), "select n from t").unwrap(), "2");
    story.ok(&["up", "--yes"]);
    assert_eq!(ask(&url, "select n from t").unwrap(), "1");
    // And back.
    story.ok(&["swap", "postgres.main", "postgres.main-restored", "--yes"]);
    assert_eq!(ask(&url, "select n from t").unwrap(), "2");
    story.ok(&["drop", "postgres.main-restored", "--yes"]);
    story.ok(&["down", "--yes"]);
    stead.finish();
}

#[test]
fn what_cannot_be_brought_back_is_refused_in_words_that_help() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    story.backed_up("postgres.main");
    let said = |args: &[&str]| story.refused(args);
    let restore = |at: &str| said(&["restore", "postgres.main", "--at", at]);
    assert!(restore("2001-01-01").contains("the oldest moment of postgres.main that can be restored is 20"));
    assert!(restore("2999-01-01").contains("is in the future"));
    assert!(restore("soon").contains("--at `soon` is no time"));
    assert!(
        said(&["clone", "postgres.main", "--as", "main"])
            .contains("there is a component postgres.main already")
    );
    assert!(said(&["clone", "postgres.main", "--as", "No!"]).contains("name"));
    assert!(said(&["clone", "postgres.other", "--as", "try"]).contains("has no component `postgres.other`"));
    assert!(
        said(&["clone", "postgres.main", "--as", "try", "--ttl", "0s"]).contains("`ttl` says for how long")
    );
    assert!(said(&["drop", "postgres.main", "--yes"]).contains("is in the manifest"));
    assert!(said(&["swap", "postgres.main", "postgres.main", "--yes"]).contains("was not made of the data"));
    stead.ok(&["tenant", "quota", "acme", "--servers", "1"]);
    assert!(said(&["clone", "postgres.main", "--as", "try"]).contains("may have 1 servers"));
    stead.ok(&["tenant", "quota", "acme", "--servers", "3"]);
    // One that is made for a while goes by itself, and says so.
    story.ok(&["clone", "postgres.main", "--as", "try", "--ttl", "20s"]);
    until("it to be gone", || {
        (story.json(&["status"])["components"].as_array().unwrap().len() == 1).then_some(())
    });
    let line = story.lines("component.deletion_requested").pop().unwrap();
    assert_eq!(line["actor"], "stead");
    assert!(line["reason"].as_str().unwrap().contains("it was to be removed at"), "{line}");
    stead.finish();
}

#[test]
fn a_damaged_backup_is_named_and_nothing_is_made_of_it() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    story.backed_up("postgres.main");
    let archive = story.archive();
    let base = std::fs::read_dir(archive.join("base")).unwrap().next().unwrap().unwrap().path();
    let part = base.join("000000.zst.age");
    let whole = std::fs::read(&part).unwrap();
    let fails = |name: &str, says: &str| {
        let said = story.refused(&["clone", "postgres.main", "--as", name]);
        assert!(said.contains(says), "{says}: {said}");
        story.ok(&["drop", &format!("postgres.{name}"), "--yes"]);
    };
    let mut bent = whole.clone();
    bent[whole.len() / 2] ^= 1;
    std::fs::write(&part, &bent).unwrap();
    fails("bent", "000000.zst.age` in the store of backups is damaged: its checksum is another");
    std::fs::write(&part, &whole[..whole.len() - 1]).unwrap();
    fails("short", "is damaged: it has");
    std::fs::write(&part, &whole).unwrap();
    // A piece of the log that is bent, and one under another's name.
    let wal = archive.join("wal/00000001");
    let mut pieces: Vec<_> = std::fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().path()).collect();
    pieces.sort();
    let piece = pieces.last().unwrap();
    let whole = std::fs::read(piece).unwrap();
    let mut bent = whole.clone();
    bent[whole.len() - 1] ^= 1;
    std::fs::write(piece, &bent).unwrap();
    fails("log", "is damaged");
    std::fs::copy(&pieces[0], piece).unwrap();
    if pieces.len() > 1 {
        fails("swapped", "another piece has its name");
    }
    std::fs::write(piece, &whole).unwrap();
    story.ok(&["clone", "postgres.main", "--as", "good"]);
    ask(&story.url_of("postgres.good"), "select 1").unwrap();
    stead.finish();
}

/// Points that the making of a server of another's data passes.
pub(crate) const CLONE: [&str; 9] = [
    "store::copy-before-commit",
    "driver-local::restore-tree",
    "driver-local::restore-unpacked",
    "driver-local::restore-replayed",
    "driver-local::restored",
    "driver-local::restore-taken",
    "driver-local::archive-named",
    "driver-local::archive-declared",
    "driver-local::password-set",
];
/// Points that a swap and a removal pass.
pub(crate) const SWAP: [&str; 3] =
    ["store::swap-before-commit", "store::remove-copy-before-commit", "driver-local::archive-forgotten"];

#[test]
fn killed_while_a_server_is_cloned() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    ask(&story.url(), "create table t as select 42 as n").unwrap();
    story.backed_up("postgres.main");
    let folder = story.folder.clone();
    for (number, point) in CLONE.iter().enumerate() {
        let name = format!("postgres.copy{number}");
        dies_at(&mut stead, point, &folder, &["clone", "postgres.main", "--as", &name]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        if *point == "store::copy-before-commit" {
            story.ok(&["clone", "postgres.main", "--as", &name]);
        }
        until("the clone to be ready", || {
            let shown = story.json(&["status"]);
            let all = shown["components"].as_array().unwrap();
            (all.len() == 2 && all.iter().all(|one| one["phase"] == "ready")).then_some(())
        });
        assert_eq!(ask(&story.url_of(&name), "select n from t").unwrap(), "42", "{point}");
        stead.nothing_left_over();
        story.ok(&["drop", &name, "--yes"]);
        stead.nothing_left_over();
    }
    stead.finish();
}

#[test]
fn killed_while_servers_change_places() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    ask(&url, "create table t as select 0 as n").unwrap();
    story.backed_up("postgres.main");
    let folder = story.folder.clone();
    for (number, point) in SWAP.iter().enumerate() {
        let name = format!("postgres.copy{number}");
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.ok(&["clone", "postgres.main", "--as", &name]);
        ask(&story.url_of(&name), "update t set n = n + 1").unwrap();
        let verb: &[&str] = if *point == "store::swap-before-commit" {
            &["swap", "postgres.main", &name, "--yes"]
        } else {
            story.ok(&["swap", "postgres.main", &name, "--yes"]);
            &["drop", &name, "--yes"]
        };
        story.backed_up("postgres.main");
        dies_at(&mut stead, point, &folder, verb);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        if *point == "store::swap-before-commit" {
            story.ok(&["swap", "postgres.main", &name, "--yes"]);
        }
        let there = || story.json(&["status"])["components"].as_array().unwrap().len();
        if there() == 2 && *point != "driver-local::archive-forgotten" {
            story.ok(&["drop", &name, "--yes"]);
        }
        until("the old one to be gone", || (there() == 1).then_some(()));
        assert_eq!(ask(&url, "select n from t").unwrap(), (number + 1).to_string(), "{point}");
        story.backed_up("postgres.main");
    }
    stead.finish();
}

/// Points that a recovery passes.
pub(crate) const RECOVER: [&str; 3] =
    ["driver-local::restore-unpacked", "driver-local::control-recovered", "store::recover-before-commit"];

#[test]
fn everything_comes_back_on_an_empty_host() {
    let stead = Installation::started();
    let first = Story::up(&stead, "shop", "extensions = [\"pg_trgm\"]\n");
    let second = Story::up(&stead, "desk", "");
    let (first_url, second_url) = (first.url(), second.url());
    ask(&first_url, "create table t as select generate_series(1, 1000) as n").unwrap();
    ask(&second_url, "create table t as select 7 as n").unwrap();
    for story in [&first, &second] {
        story.backed_up("postgres.main");
    }
    // All of it has been stored, the control plane's own log too.
    let control = archive_of(&stead, &stead.home.join("control"));
    until("the control plane to be backed up", || control.join("base").is_dir().then_some(()));
    let now = ask(&first_url, "select (extract(epoch from clock_timestamp()) * 1000)::int8").unwrap();
    stead.look();
    until("what was written until now to be stored", || (newest_piece(&control)? > now).then_some(()));
    let before = stead.control("select count(*) from journal");
    let store = stead.folder().join("elsewhere");
    let key = stead.folder().join("installation.key");
    std::fs::copy(stead.home.join("keys/installation.key"), &key).unwrap();
    // Everything but the store is lost; what was on its way to it gets there, as it is stopped in order.
    stead.ok(&["server", "stop", "--all"]);
    let copied = Command::new("cp").arg("-a").arg(stead.home.join("backups")).arg(&store).status().unwrap();
    assert!(copied.success());
    let (folders, names) = ([first.folder.clone(), second.folder.clone()], ["shop", "desk"]);
    let mut stead = stead.lost();
    let recover = |stead: &Installation, key: &std::path::Path, environment: &[(&str, &str)]| {
        let mut command = stead.command(&["recover"]);
        command.arg("--backups").arg(&store).arg("--key").arg(key).envs(environment.iter().copied());
        let output = command.output().unwrap();
        (output.status.success(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    };
    // With another key nothing opens.
    let other = stead.folder().join("other.key");
    std::fs::write(&other, [7; 32]).unwrap();
    let (done, said) = recover(&stead, &other, &[]);
    assert!(!done && said.contains("sealed with another installation key"), "{said}");
    stead = stead.lost();
    for point in RECOVER {
        let (done, said) = recover(&stead, &key, &[("FAILPOINTS", &format!("{point}=return"))]);
        assert!(!done, "{point}: {said}");
        if point != "driver-local::restore-unpacked" {
            // Behind its marker the control plane is there, and there is nothing to be recovered into.
            stead = stead.lost();
        }
    }
    let (done, said) = recover(&stead, &key, &[]);
    assert!(done && said.contains("2 servers will be made again of their backups"), "{said}");
    let again = recover(&stead, &key, &[]);
    assert!(!again.0 && again.1.contains("has a control plane already"), "{}", again.1);
    // In another store there is nothing of it, which is said.
    stead.start();
    let lines = || stead.control("select string_agg(last_error, ' ') from components");
    until("what is missing to be told", || {
        lines().contains("with the --backups that it is in").then_some(())
    });
    stead.kill_server();
    stead.environment.push(("STEAD_BACKUPS".into(), store.display().to_string()));
    stead.start();
    for (folder, name) in folders.into_iter().zip(names) {
        let story = Story { stead: &stead, name: name.into(), folder };
        story.settled();
        assert_eq!(story.lines("component.recovered").len(), 1);
    }
    assert!(stead.control("select count(*) from journal").parse::<i64>().unwrap() > before.parse().unwrap());
    // The same addresses and passwords, the same data, row for row.
    assert_eq!(ask(&first_url, "select count(*), sum(n) from t").unwrap(), "1000|500500");
    assert_eq!(ask(&second_url, "select n from t").unwrap(), "7");
    stead.finish();
}

/// Points that a drill passes.
pub(crate) const DRILL: [&str; 1] = ["driver-local::drill-restored"];

#[test]
fn backups_are_tried_on_a_schedule_and_a_flipped_byte_is_found() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "extensions = [\"pg_trgm\"]\n");
    ask(&story.url(), "create table t (n int primary key); insert into t select generate_series(1, 1000)")
        .unwrap();
    story.backed_up("postgres.main");
    let (folder, archive) = (story.folder.clone(), story.archive());
    // As if it had been made long ago.
    let due = |stead: &Installation| {
        stead.control(
            "update components set status = jsonb_set(status - 'drill', '{ready_at}', '\"2001-01-01T00:00:00Z\"')",
        );
        stead.look();
    };
    // Killed in the midst of it, the next one begins anew; nothing is left of the first.
    stead.kill_server();
    stead.spawn(&[("FAILPOINTS", &format!("{}=return", DRILL[0]))]);
    until("the control plane", || stead.running());
    due(&stead);
    stead.await_death(DRILL[0]);
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    let drill = || {
        let drill = story.backups("postgres.main")["drill"].clone();
        stead.look();
        (!drill.is_null()).then_some(drill)
    };
    let passed = until("the drill", drill);
    assert_eq!(passed["error"], Value::Null, "{passed}");
    assert!(passed["reached"].is_string() && passed["took_ms"].as_u64().unwrap() > 0, "{passed}");
    assert_eq!(story.lines("backup.drilled").len(), 1);
    stead.nothing_left_over();
    let base = std::fs::read_dir(archive.join("base")).unwrap().next().unwrap().unwrap().path();
    let part = base.join("000000.zst.age");
    let mut bent = std::fs::read(&part).unwrap();
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    std::fs::write(&part, bent).unwrap();
    due(&stead);
    let said = story.condition("drill_failed");
    assert!(said.contains("000000.zst.age` in the store of backups is damaged"), "{said}");
    let line = story.lines("backup.drill_failed").pop().unwrap();
    assert!(line["reason"].as_str().unwrap().contains("is damaged"), "{line}");
    stead.nothing_left_over();
    stead.finish();
}
