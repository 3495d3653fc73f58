//! What the keeper does not do, and what it puts right.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::home::*;
use keeper::wire::*;
use keeper::{Client, ClientError};

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, reason: Reason, says: &str) {
    match result.unwrap_err() {
        ClientError::Refused(refusal) => {
            assert_eq!(refusal.reason, reason, "{refusal}");
            assert!(refusal.message.contains(says), "{refusal}");
        }
        other => panic!("{other}"),
    }
}

fn connect(home: &Home) -> UnixStream {
    UnixStream::connect(home.path.join("keeper/keeper.sock")).unwrap()
}

/// The answer to a raw line.
fn say(home: &Home, line: &[u8]) -> String {
    let mut stream = connect(home);
    // Of what is too long the rest is not taken: the answer is there, and the line breaks off.
    if let Err(error) = stream.write_all(line) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn what_is_no_request_is_answered_and_harms_nobody() {
    let home = Home::new();
    for line in [
        "nonsense\n",
        "{}\n",
        "\n",
        "[1]\n",
        "{\"op\": \"format\"}\n",
        "{\"op\": \"apply\", \"unit\": \"../../etc/passwd\"}\n",
        "{\"op\": \"create_tree\", \"tree\": {\"servers\": \"..\"}}\n",
        "{\"op\": \"create_tree\", \"tree\": {\"servers\": \"a/b\"}}\n",
        "{\"op\": \"remove_tree\", \"tree\": {\"servers\": \"\"}}\n",
        "{\"op\": \"remove_tree\", \"tree\": {\"engines\": \"18\"}}\n",
        "{\"op\": \"rename_tree\", \"from\": \"control\", \"to\": {\"servers\": \"x\"}}\n",
    ] {
        let answer = say(&home, line.as_bytes());
        assert!(answer.contains("\"reason\":\"invalid\""), "{line}: {answer}");
    }
    assert!(say(&home, &[0xff, 0xfe, b'\n']).contains("invalid"));
    assert!(say(&home, &vec![b'x'; 1_150_000]).contains("longer"));
    // Several requests on one connection, and two in one write.
    let mut stream = connect(&home);
    stream.write_all(b"bad\n{\"op\":\"host\"}\n{\"op\":\"host\"}\n").unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().take(3).map(Result::unwrap).collect();
    assert!(lines[0].contains("invalid") && lines[1].contains("\"host\"") && lines[2].contains("\"host\""));
    home.finish();
}

#[test]
fn slow_peers_hold_nobody_up() {
    let home = Home::new();
    // Connected, and nothing more.
    let idle: Vec<_> = (0..70).map(|_| connect(&home)).collect();
    let began = Instant::now();
    home.client.host().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(idle);
    // Half a line each, from more peers than are served at once.
    let mut slow = Vec::new();
    for _ in 0..70 {
        let mut stream = connect(&home);
        stream.write_all(b"{\"op\":").unwrap();
        slow.push(stream);
    }
    // And peers that ask for much and read nothing.
    let patient = Client::new(&home.path).with_timeouts(Duration::from_secs(20), Duration::from_secs(20));
    let began = Instant::now();
    patient.host().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let mut deaf = connect(&home);
    deaf.set_nonblocking(true).unwrap();
    while deaf.write(b"{\"op\":\"host\"}\n").is_ok() {}
    let began = Instant::now();
    patient.host().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // The slow ones are dropped.
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(matches!(stream.read(&mut [0; 10]), Ok(0) | Err(_)));
    }
    home.finish();
}

#[test]
fn only_root_and_the_control_plane_are_served() {
    let home = Home::new();
    let (host, binary) = (home.host(), home.binary_for_all());
    let ask = |uid: u32, gid: u32| {
        let out = as_user(uid, gid, &binary).arg("ask").arg("--home").arg(&home.path).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert!(ask(host.control_uid(), host.gid()).0);
    // The gateway may ask for sleep and waking, and is told so; others cannot even reach the socket.
    let (served, said) = ask(host.gateway_uid(), host.gid());
    assert!(!served && said.contains("sleep and waking only"), "{said}");
    let (served, said) = ask(host.uid_first + 15, host.gid());
    assert!(!served && said.contains("only Stead"), "{said}");
    let (served, said) = ask(host.uid_first + 16, host.uid_first + 16);
    assert!(!served && said.contains("ermission"), "{said}");
    let socket = fs::metadata(home.path.join("keeper/keeper.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid(), socket.gid()), (0o660, 0, host.gid()));
    home.finish();
}

#[test]
fn units_that_are_none_are_refused_and_leave_what_runs_alone() {
    let mut home = Home::new();
    let tree = server("one");
    let good = home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    let file = home.path.join("units/pg-one.json");
    let good_text = serde_json::to_string(&good).unwrap();
    let apply = || home.client.apply(&good.name);
    for (text, says) in [
        ("{", "not a unit"),
        ("", "not a unit"),
        (&good_text.replace("pg-one", "pg-two"), "named like its unit"),
        (&good_text.replace("\"args\"", "\"argz\""), "argz"),
        (&good_text.replace("/stead/data", "a\\u0000b"), "NUL"),
        (&good_text.replace("/usr/lib/postgresql/15/bin", "/tmp/15/bin"), "no engine"),
        (&good_text.replace("/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/15/bin/../bin"), "no engine"),
        (&good_text.replace("/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/77/bin"), "cannot be found"),
        (&good_text.replace("\"env\":{}", "\"env\":{\"A=B\":\"c\"}"), "environment"),
        (&good_text.replace("536870912", "4096"), "memory_bytes"),
        (&good_text.replace("\"postgres\"", "\"initdb\""), "never"),
        (&"x".repeat(200_000), "larger"),
    ] {
        fs::write(&file, text).unwrap();
        refused(apply(), Reason::Invalid, says);
    }
    fs::write(&file, good_text.replace("{\"servers\":\"one\"}", "{\"servers\":\"nobody\"}")).unwrap();
    refused(apply(), Reason::Absent, "create the tree");
    // Neither links nor pipes are read.
    fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    refused(apply(), Reason::Invalid, "cannot be read");
    fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    refused(apply(), Reason::Invalid, "cannot be read");
    refused(home.client.apply(&name("nobody")), Reason::Absent, "not declared");
    // A keeper that finds such a file leaves the server as it is.
    home.restart_keeper();
    assert_eq!(home.pid("pg-one"), pid);
    fs::remove_file(&file).unwrap();
    fs::write(&file, good_text).unwrap();
    assert_eq!(home.client.apply(&good.name).unwrap().pid, Some(pid));
    // A declaration that is gone: the server is left until somebody applies that.
    fs::remove_file(&file).unwrap();
    home.restart_keeper();
    assert_eq!(home.pid("pg-one"), pid);
    home.client.apply(&good.name).unwrap();
    home.until_state("pg-one", &UnitState::Stopped);
    home.finish();
}

#[test]
fn an_engine_that_others_could_change_is_not_run() {
    let engines = tempfile::Builder::new().prefix("sk").tempdir_in("/tmp").unwrap();
    fs::set_permissions(engines.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let bin = engines.path().join("15/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/usr/lib/postgresql/15/bin/postgres", bin.join("postgres")).unwrap();
    let mut home = Home::empty().with(&["--engines", engines.path().to_str().unwrap()]);
    home.start();
    let tree = server("one");
    home.client.create_tree(&tree).unwrap();
    let runs = Runs::Engine { tree, bin: bin.clone(), program: EngineProgram::Postgres };
    let unit = unit("pg-one", runs, &["--version"]);
    let unit = Unit { restart: Restart::Never, ..unit };
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o777)).unwrap();
    refused(home.apply(&unit), Reason::Invalid, "may change");
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
    chown(engines.path().join("15"), Some(12345), None).unwrap();
    refused(home.apply(&unit), Reason::Invalid, "may change");
    chown(engines.path().join("15"), Some(0), None).unwrap();
    fs::rename(bin.join("postgres"), bin.join("real")).unwrap();
    symlink("real", bin.join("postgres")).unwrap();
    refused(home.apply(&unit), Reason::Invalid, "link");
    fs::rename(bin.join("real"), bin.join("postgres")).unwrap();
    home.apply(&unit).unwrap();
    home.until_state("pg-one", &UnitState::Exited { code: Some(0), signal: None });
    home.finish();
}

#[test]
fn planted_links_are_not_followed() {
    let mut home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    home.stop(&unit);
    let victim = home.path.join("victim");
    fs::write(&victim, "untouched").unwrap();
    let dir = home.dir(&tree);
    let uid = home.uid(&tree);
    let mut generation = 10;
    let mut start = |home: &Home| {
        generation += 2;
        home.apply(&Unit { generation, ..unit.clone() })
    };
    // By the tenant, where its server may write.
    let output = dir.join("log/stderr.log");
    fs::remove_file(&output).unwrap();
    symlink(&victim, &output).unwrap();
    assert!(matches!(start(&home).unwrap().state, UnitState::Backoff { .. }));
    fs::remove_file(&output).unwrap();
    // By a control plane gone bad, which owns the tree's folder.
    let stranger = server("two");
    home.client.create_tree(&stranger).unwrap();
    for part in ["conf", "run", "log", "guard", "data"] {
        let (path, aside) = (dir.join(part), dir.join("aside"));
        fs::rename(&path, &aside).unwrap();
        symlink(home.dir(&stranger).join(part), &path).unwrap();
        let refusal = start(&home);
        assert!(!matches!(&refusal, Ok(UnitStatus { state: UnitState::Running, .. })), "{part}: {refusal:?}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    // Another's data in its place is not taken for its own.
    assert_ne!(home.uid(&stranger), uid);
    fs::remove_file(dir.join("lock")).unwrap();
    symlink(&victim, dir.join("lock")).unwrap();
    start(&home).unwrap();
    home.until_answers(&tree);
    // Where the spool's readers may write.
    let spool = home.path.join("spool/keeper.jsonl");
    home.kill_keeper();
    fs::remove_file(&spool).unwrap();
    symlink(&victim, &spool).unwrap();
    home.start();
    assert!(home.spool().iter().any(|line| line.action == "keeper.started"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::metadata(&victim).unwrap().uid(), 0);
    home.finish();
}

#[test]
fn wrong_owners_and_modes_are_put_right() {
    let mut home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    home.stop(&unit);
    let access = |path: &str| {
        let meta = fs::metadata(home.path.join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    let paths = [
        "units",
        "keeper",
        "keeper/state",
        "servers",
        "gateway",
        "logs",
        "servers/one",
        "servers/one/data",
        "servers/one/run",
        "servers/one/log",
        "servers/one/conf",
        "servers/one/guard",
    ];
    let before = paths.map(access);
    assert_eq!(before[0].2, 0o700, "`units` is the control plane's alone");
    for path in paths {
        let path = home.path.join(path);
        chown(&path, Some(12345), Some(12345)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // One of its folders still says whose the tree is.
    chown(home.path.join("servers/one/run"), Some(before[8].0), None).unwrap();
    home.restart_keeper();
    home.apply(&Unit { generation: 5, ..unit.clone() }).unwrap();
    home.until_answers(&tree);
    let access = |path: &str| {
        let meta = fs::metadata(home.path.join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(paths.map(access), before);
    let repaired = home.spool().into_iter().filter(|line| line.action == "keeper.repaired").count();
    assert_eq!(repaired, paths.len());

    // Data that is gone, or that nobody can say whose it is: said, with what to do.
    home.stop(&Unit { generation: 5, ..unit.clone() });
    let data = home.dir(&tree).join("data");
    fs::rename(&data, home.path.join("aside")).unwrap();
    let state = home.apply(&Unit { generation: 7, ..unit.clone() }).unwrap().state;
    assert!(
        matches!(&state, UnitState::Backoff { last_error, .. } if last_error.contains("backup")),
        "{state:?}"
    );
    fs::rename(home.path.join("aside"), &data).unwrap();
    for part in ["data", "run", "log"] {
        chown(home.dir(&tree).join(part), Some(0), None).unwrap();
    }
    let state = home.apply(&Unit { generation: 8, ..unit }).unwrap().state;
    assert!(
        matches!(&state, UnitState::Backoff { last_error, .. } if last_error.contains("chown")),
        "{state:?}"
    );
    home.finish();
}

#[test]
fn a_second_keeper_says_who_runs() {
    let home = Home::new();
    let out = home.command().output().unwrap();
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains(&format!("AlreadyRunning {{ pid: \"{}\"", home.keeper_pid())), "{said}");
    home.client.host().unwrap();
    home.finish();
}

#[test]
fn a_home_that_is_none_is_refused() {
    for (home, says) in [("relative", "absolute"), (&*format!("/tmp/{}", "x".repeat(60)), "60 bytes")] {
        let out = std::process::Command::new(example()).args(["--home", home]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(says), "{said}");
    }
    fs::remove_dir(format!("/tmp/{}", "x".repeat(60))).unwrap();
    let mut home = Home::empty();
    fs::write(home.path.join("host.json"), "{").unwrap();
    let out = home.command().output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("restore it"));
    fs::remove_file(home.path.join("host.json")).unwrap();
    // What the host is stays, and is found again by its folders when the file is lost.
    home.start();
    let host = home.host();
    home.restart_keeper();
    assert_eq!(home.host(), host);
    fs::remove_file(home.path.join("host.json")).unwrap();
    home.restart_keeper();
    assert_eq!(home.host(), host);
    home.finish();
}
