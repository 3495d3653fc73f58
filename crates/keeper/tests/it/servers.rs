//! A server's life: made, started, asked, stopped, removed; and what survives the keeper.

use std::fs;

use crate::home::*;
use keeper::ClientError;
use keeper::wire::*;
use rustix::process::{Pid, Signal, kill_process};

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn lives(major: u32) {
    let home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, major);
    assert_eq!(home.sql(&tree, "show server_version_num").parse::<u32>().unwrap() / 10000, major);
    assert!(home.processes().len() > 4);
    home.stop(&unit);
    assert_eq!(home.processes(), []);
    home.client.remove_unit(&unit.name).unwrap();
    home.client.remove_tree(&tree).unwrap();
    assert!(!home.dir(&tree).exists());
    until("its files are deleted", || {
        home.path.join("keeper/trash").read_dir().unwrap().next().is_none().then_some(())
    });
    assert!(home.client.unit(&unit.name).unwrap().is_none());
    assert!(!home.path.join("keeper/state/pg-one.json").exists());
    for folder in home.cgroups() {
        assert!(!folder.join("pg-one").exists());
    }
    home.finish();
}

#[test]
fn a_server_lives_on_debians_engine() {
    lives(15);
}

#[test]
fn a_server_lives_on_an_engine_of_its_own_folder() {
    lives(18);
}

#[test]
fn a_killed_keeper_leaves_servers_running_and_takes_them_up_again() {
    let mut home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    let started = home.sql(&tree, "select pg_postmaster_start_time()");
    home.kill_keeper();
    assert_eq!(home.sql(&tree, "select pg_postmaster_start_time()"), started);
    home.start();
    assert_eq!(home.pid("pg-one"), pid);
    assert_eq!(home.apply(&unit).unwrap().state, UnitState::Running);
    assert_eq!(home.sql(&tree, "select pg_postmaster_start_time()"), started);
    // One that this keeper did not launch is watched and started again all the same.
    kill(pid);
    until("it has been started again", || {
        (home.client.unit(&unit.name).unwrap()?.restarts == 1).then_some(())
    });
    home.until_answers(&tree);
    home.stop(&unit);
    home.finish();
}

#[test]
fn a_killed_server_is_started_again_and_its_backends_die_with_it() {
    let home = Home::new();
    let tree = server("one");
    home.running("pg-one", &tree, 15);
    home.sql(&tree, "create table t as select 1 as a; checkpoint");
    let pid = home.pid("pg-one");
    let before: Vec<i32> = home.processes().into_iter().map(|(pid, _)| pid).collect();
    assert!(before.len() > 3, "{before:?}");
    kill(pid);
    until("it has been started again", || {
        let status = home.client.unit(&name("pg-one")).unwrap().unwrap();
        (status.state == UnitState::Running && status.restarts == 1).then_some(())
    });
    let now = home.processes();
    assert!(before.iter().all(|pid| now.iter().all(|(other, _)| other != pid)), "{before:?} {now:?}");
    home.until_answers(&tree);
    assert_eq!(home.sql(&tree, "select a from t"), "1");
    let actions: Vec<String> = home.spool().into_iter().map(|line| line.action).collect();
    assert!(actions.contains(&"unit.exited".into()) && actions.contains(&"unit.restarted".into()));
    home.finish();
}

#[test]
fn a_new_generation_restarts_and_the_same_one_does_not() {
    let home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    assert_eq!(home.apply(&unit).unwrap().pid, Some(pid));
    let mut next = Unit { generation: 2, ..unit };
    next.args.extend(["-c".into(), "max_connections=33".into()]);
    assert_eq!(home.apply(&next).unwrap().state, UnitState::Stopping);
    until("the second generation runs", || {
        let status = home.client.unit(&next.name).unwrap().unwrap();
        (status.state == UnitState::Running && status.generation == 2 && status.restarts == 0).then_some(())
    });
    home.until_answers(&tree);
    assert_eq!(home.sql(&tree, "show max_connections"), "33");
    home.finish();
}

#[test]
fn a_reload_reads_the_configuration_again() {
    let home = Home::new();
    let tree = server("one");
    home.running("pg-one", &tree, 15);
    let conf = home.dir(&tree).join("data/postgresql.conf");
    let had = fs::read_to_string(&conf).unwrap();
    fs::write(conf, had + "work_mem = 7MB\n").unwrap();
    home.client.reload(&name("pg-one")).unwrap();
    until("it is in force", || (home.sql(&tree, "show work_mem") == "7MB").then_some(()));
    let refused = home.client.reload(&name("nobody")).unwrap_err();
    assert!(matches!(refused, ClientError::Refused(Refusal { reason: Reason::Absent, .. })), "{refused}");
    home.finish();
}

#[test]
fn a_server_that_will_not_stop_is_killed() {
    let home = Home::new();
    let tree = server("one");
    let mut unit = home.running("pg-one", &tree, 15);
    // Smart shutdown waits for its clients for ever.
    unit.stop = Stop { signal: StopSignal::Term, timeout_ms: 100 };
    unit.generation = 2;
    home.apply(&unit).unwrap();
    until("generation 2", || (home.client.unit(&unit.name).unwrap()?.generation == 2).then_some(()));
    home.until_answers(&tree);
    let mut client = std::process::Command::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-U", "postgres", "-d", "postgres", "-c", "select pg_sleep(600)", "-h"])
        .arg(home.dir(&tree).join("run"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let sleeping =
        "select count(*) from pg_stat_activity where query like '%sleep(600)%' and pid <> pg_backend_pid()";
    until("the client sleeps", || (home.sql(&tree, sleeping) == "1").then_some(()));
    home.stop(&unit);
    client.wait().unwrap();
    assert!(home.spool().iter().any(|line| line.action == "unit.killed"), "{}", home.log());
    home.finish();
}

#[test]
fn a_server_that_cannot_start_backs_off_and_says_why() {
    let home = Home::new();
    let tree = server("one");
    home.cluster(&tree, 15);
    let mut unit = postgres_unit("pg-one", &tree, 15);
    unit.args.push("--nonsense=1".into());
    home.apply(&unit).unwrap();
    let error = until("it backs off", || match home.state("pg-one") {
        UnitState::Backoff { last_error, .. } => Some(last_error),
        _ => None,
    });
    assert!(error.contains("nonsense"), "{error}");
    until("it has tried again", || (home.client.unit(&unit.name).unwrap()?.restarts >= 2).then_some(()));
    let fixed = Unit { generation: 2, ..postgres_unit("pg-one", &tree, 15) };
    home.apply(&fixed).unwrap();
    home.until_answers(&tree);
    home.finish();
}

/// A boot: nothing runs any more, and pids and start times mean nothing.
#[test]
fn after_a_boot_what_is_wanted_runs_again_and_strangers_are_left_alone() {
    let mut home = Home::new();
    let tree = server("one");
    home.running("pg-one", &tree, 15);
    let off = server("two");
    home.cluster(&off, 15);
    let stopped = Unit { wanted: Wanted::Stopped, ..postgres_unit("pg-two", &off, 15) };
    assert_eq!(home.apply(&stopped).unwrap().state, UnitState::Stopped);
    let pid = home.pid("pg-one");
    home.kill_keeper();
    kill(pid);
    until("nothing runs", || home.processes().is_empty().then_some(()));
    // A stranger with the recorded pid, of another boot: this test's own process.
    let record = home.path.join("keeper/state/pg-one.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json["identity"]["pid"] = std::process::id().into();
    json["identity"]["boot"] = "an earlier boot".into();
    fs::write(&record, json.to_string()).unwrap();
    home.start();
    home.until_answers(&tree);
    assert_ne!(home.pid("pg-one"), i32::try_from(std::process::id()).unwrap());
    assert_eq!(home.state("pg-two"), UnitState::Stopped);
    home.finish();
}

#[test]
fn a_lost_record_is_found_again_by_the_lock() {
    let mut home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    home.kill_keeper();
    fs::write(home.path.join("keeper/state/pg-one.json"), "{").unwrap();
    home.start();
    assert_eq!((home.state("pg-one"), home.pid("pg-one")), (UnitState::Running, pid));
    home.stop(&unit);
    home.finish();
}

#[test]
fn a_tree_in_use_takes_no_second_process_and_is_not_removed() {
    let home = Home::new();
    let tree = server("one");
    home.running("pg-one", &tree, 15);
    let second = postgres_unit("pg-two", &tree, 15);
    let UnitState::Backoff { last_error, .. } = home.apply(&second).unwrap().state else {
        panic!("{}", home.log())
    };
    assert!(last_error.contains("pg-one"), "{last_error}");
    let busy = |error: ClientError| matches!(error, ClientError::Refused(r) if r.reason == Reason::Busy);
    assert!(busy(home.client.remove_tree(&tree).unwrap_err()));
    assert!(busy(home.client.rename_tree(&tree, &server("other")).unwrap_err()));
    assert!(busy(home.client.remove_unit(&name("pg-one")).unwrap_err()));
    home.stop(&Unit { generation: 2, ..second });
    home.client.remove_unit(&name("pg-two")).unwrap();
    home.finish();
}

#[test]
fn a_job_runs_once_however_often_it_is_applied() {
    let mut home = Home::new();
    let tree = server("one");
    home.client.create_tree(&tree).unwrap();
    let unit = initdb_unit("init", &tree, 15);
    home.apply(&unit).unwrap();
    let done = UnitState::Exited { code: Some(0), signal: None };
    home.until_state("init", &done);
    assert_eq!(home.apply(&unit).unwrap().state, done);
    home.restart_keeper();
    assert_eq!(home.apply(&unit).unwrap().state, done);
    // A new generation is a new job; this one fails, since there is a cluster already.
    home.apply(&Unit { generation: 2, ..unit }).unwrap();
    home.until_state("init", &UnitState::Exited { code: Some(1), signal: None });
    home.finish();
}

#[test]
fn every_request_can_be_made_twice() {
    let home = Home::new();
    let (spare, tree) = (Tree::Spares(name("s1")), server("one"));
    let twice = |what: &dyn Fn() -> Result<(), ClientError>| {
        what().unwrap();
        what().unwrap();
    };
    twice(&|| home.client.create_tree(&spare));
    let init = initdb_unit("init", &spare, 15);
    twice(&|| home.apply(&init).map(drop));
    home.until_state("init", &UnitState::Exited { code: Some(0), signal: None });
    twice(&|| home.client.remove_unit(&init.name));
    let uid = home.uid(&spare);
    twice(&|| home.client.rename_tree(&spare, &tree));
    assert_eq!(home.uid(&tree), uid);
    assert!(!home.dir(&spare).exists());
    home.configure(&tree);
    let unit = postgres_unit("pg-one", &tree, 15);
    twice(&|| home.apply(&unit).map(drop));
    home.until_answers(&tree);
    assert_eq!(home.client.unit(&unit.name).unwrap().unwrap().restarts, 0);
    twice(&|| home.client.reload(&unit.name));
    twice(&|| home.client.create_tree(&tree));
    let stopped = Unit { wanted: Wanted::Stopped, generation: 2, ..unit };
    twice(&|| home.apply(&stopped).map(drop));
    home.until_state("pg-one", &UnitState::Stopped);
    twice(&|| home.client.remove_unit(&stopped.name));
    twice(&|| home.client.remove_tree(&tree));
    home.finish();
}

#[test]
fn sigterm_ends_the_keeper_alone_and_shutdown_ends_all_until_the_next_start() {
    let mut home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    kill_process(Pid::from_raw(home.keeper_pid()).unwrap(), Signal::TERM).unwrap();
    assert!(home.keeper_ended().success());
    assert!(matches!(home.client.host().unwrap_err(), ClientError::Unreachable { .. }));
    home.until_answers(&tree);
    home.start();
    assert_eq!(home.pid("pg-one"), pid);
    home.client.shutdown(true).unwrap();
    assert!(home.keeper_ended().success());
    assert_eq!(home.processes(), []);
    home.start();
    home.until_answers(&tree);
    home.stop(&unit);
    home.finish();
}

#[test]
fn the_control_server_runs_as_the_control_user() {
    let home = Home::new();
    home.running("control", &Tree::Control, 15);
    assert_eq!(home.uid(&Tree::Control), home.host().control_uid());
    assert_eq!(home.sql(&Tree::Control, "select 1"), "1");
    home.finish();
}

#[test]
fn the_gateway_runs_from_the_keepers_own_binary_as_its_own_user() {
    let mut home = Home::new();
    let unit = unit("gateway", Runs::Gateway, &[]);
    assert_eq!(home.apply(&unit).unwrap().state, UnitState::Running, "{}", home.log());
    let socket = home.path.join("gateway/gateway.sock");
    until("it listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let status = fs::read_to_string(format!("/proc/{}/status", home.pid("gateway"))).unwrap();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    let (uid, gid) = (home.host().gateway_uid().to_string(), home.host().gid().to_string());
    assert!(field("Uid:").split('\t').all(|id| id == uid) && field("Gid:").split('\t').all(|id| id == gid));
    assert_eq!(field("Groups:"), "");
    assert_eq!((field("CapPrm:"), field("CapBnd:")), ("0000000000000000".into(), "0000000000000000".into()));
    assert_eq!(field("NoNewPrivs:"), "1");
    let pid = home.pid("gateway");
    home.restart_keeper();
    assert_eq!(home.pid("gateway"), pid);
    home.stop(&unit);
    home.client.remove_unit(&unit.name).unwrap();
    assert!(home.path.join("keeper/locks").read_dir().unwrap().next().is_none());
    home.finish();
}

/// Another has taken its work over: it ends by itself, and only then, unless everything is stopped.
#[test]
fn what_is_retired_is_left_to_end_and_not_started_again() {
    let mut home = Home::new();
    let mut units = ["gateway", "gateway-2"].map(|name| unit(name, Runs::Gateway, &[]));
    for unit in &units {
        home.apply(unit).unwrap();
        home.until_state(unit.name.as_str(), &UnitState::Running);
    }
    let pids = ["gateway", "gateway-2"].map(|unit| home.pid(unit));
    for unit in &mut units {
        unit.wanted = Wanted::Retired;
        // Also where more than that is new about it.
        unit.generation += 1;
        assert_eq!(home.apply(unit).unwrap().state, UnitState::Running);
    }
    home.restart_keeper();
    assert_eq!(["gateway", "gateway-2"].map(|unit| home.pid(unit)), pids);
    kill(pids[0]);
    home.until_state("gateway", &UnitState::Stopped);
    home.restart_keeper();
    assert_eq!(home.state("gateway"), UnitState::Stopped);
    home.client.remove_unit(&name("gateway")).unwrap();
    assert_eq!(home.pid("gateway-2"), pids[1]);
    // And `finish` stops what is left.
    home.finish();
}

#[test]
fn a_server_is_ready_by_its_own_word_and_not_by_an_older_ones() {
    let home = Home::new();
    let tree = server("one");
    let mut unit = home.running("pg-one", &tree, 18);
    let ready = || home.client.ready(&unit_name()).unwrap();
    fn unit_name() -> Name {
        name("pg-one")
    }
    until("it is ready", || ready().then_some(()));
    home.sql(&tree, "select 1");
    let word = home.dir(&tree).join("data/postmaster.pid");
    let said = fs::read(&word).unwrap();
    home.stop(&unit);
    assert!(!ready());
    // What a killed one left behind, and a successor that does not get far.
    fs::write(&word, &said).unwrap();
    unit.generation += 1;
    unit.args.extend(["-c".to_owned(), "no_such_setting=1".to_owned()]);
    home.apply(&unit).unwrap();
    until("it has failed", || matches!(home.state("pg-one"), UnitState::Backoff { .. }).then_some(()));
    assert!(!ready());
    assert!(!word.exists(), "nobody may take the old word for the new server's");
    // A word that lies elsewhere is nobody's.
    unit.generation += 1;
    unit.args.truncate(unit.args.len() - 2);
    home.apply(&unit).unwrap();
    until("it is ready", || ready().then_some(()));
    let elsewhere = home.dir(&tree).join("data/elsewhere");
    fs::rename(&word, &elsewhere).unwrap();
    std::os::unix::fs::symlink("elsewhere", &word).unwrap();
    assert!(!ready());
    fs::rename(&elsewhere, &word).unwrap();
    assert!(ready());
    home.stop(&unit);
    home.finish();
}

#[test]
fn a_server_sleeps_until_it_is_woken_also_through_restarts() {
    let mut home = Home::new();
    let tree = server("one");
    let plain = home.running("pg-one", &tree, 15);
    // One that is not declared as such is left alone.
    let refused = home.client.sleep(&plain.name, "a test").unwrap_err().to_string();
    assert!(refused.contains("not declared as one that sleeps"), "{refused}");
    let unit = Unit { sleeps: true, generation: 2, ..plain.clone() };
    home.apply(&unit).unwrap();
    home.until_answers(&tree);
    // An earlier word to the contrary counts no more; asking twice is as good as once.
    for _ in 0..2 {
        home.client.sleep(&unit.name, "nobody uses it").unwrap();
    }
    home.until_state("pg-one", &UnitState::Asleep);
    assert_eq!(home.processes(), []);
    home.apply(&unit).unwrap();
    assert_eq!(home.state("pg-one"), UnitState::Asleep, "a declaration wakes nobody");
    home.kill_keeper();
    home.start();
    assert_eq!(home.state("pg-one"), UnitState::Asleep);
    for _ in 0..2 {
        home.client.wake(&unit.name, "somebody needs it").unwrap();
    }
    home.until_answers(&tree);
    let told: Vec<String> = home.spool().into_iter().map(|line| line.action).collect();
    for action in ["unit.asleep", "unit.woken"] {
        assert_eq!(told.iter().filter(|told| *told == action).count(), 1, "{told:?}");
    }
    // Woken while it is still on its way down.
    home.client.sleep(&unit.name, "nobody uses it").unwrap();
    home.client.wake(&unit.name, "somebody needs it").unwrap();
    home.until_answers(&tree);
    // One that shall not sleep any more is awake, and does not fall asleep by what was asked before.
    home.client.sleep(&unit.name, "nobody uses it").unwrap();
    home.until_state("pg-one", &UnitState::Asleep);
    home.apply(&Unit { generation: 3, ..plain.clone() }).unwrap();
    home.until_answers(&tree);
    home.apply(&Unit { generation: 3, sleeps: true, ..plain.clone() }).unwrap();
    assert_eq!(home.state("pg-one"), UnitState::Running);
    home.stop(&Unit { generation: 3, ..plain });
    home.finish();
}
