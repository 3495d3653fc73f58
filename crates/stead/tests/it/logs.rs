//! Logs of real servers: stored once each, whoever is killed; found at once, followed, and kept to the last line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::Value;

use crate::installation::{Installation, until};
use crate::story::{Story, ask, kill};

fn lines(story: &Story<'_>, args: &[&str]) -> Vec<Value> {
    let out = story.ok(&[&["logs", "--json", "-n", "all"], args].concat());
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn say(url: &str, n: u32) -> Result<String, String> {
    ask(url, &format!("do $$ begin raise warning 'mark {n}'; end $$"))
}

/// A control plane that is killed while lines are written: each line once.
#[test]
fn killed_again_and_again_it_loses_and_doubles_no_line() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (folder, url, tree) = (story.folder.clone(), story.url(), story.tree());
    let (said, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = said.load(Ordering::Relaxed) + 1;
                say(&url, n).unwrap();
                said.store(n, Ordering::Relaxed);
            }
        });
        for round in 1..=4 {
            until("more lines", || (said.load(Ordering::Relaxed) > round * 20).then_some(()));
            stead.kill_server();
            until("more lines", || (said.load(Ordering::Relaxed) > round * 20 + 10).then_some(()));
            stead.start();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let story = Story { stead: &stead, name: "shop".into(), folder };
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for line in lines(&story, &["-q", "message:mark*"]) {
        *counts.entry(line["message"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let expected: BTreeMap<String, u32> =
        (1..=said.load(Ordering::Relaxed)).map(|n| (format!("mark {n}"), 1)).collect();
    assert_eq!(counts, expected);
    // The control: the server itself wrote each once.
    let file = std::fs::read_dir(tree.join("log")).unwrap().flatten().map(|entry| entry.path());
    let text: String = file
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(text.matches("\"message\":\"mark ").count(), expected.len());
    drop(story);
    stead.finish();
}

/// The gateway's and the keeper's lines of a server are its tenant's, and those of nobody the operators'.
/// The control plane's own database is killed while settings are edited and lines are written: what was answered with
/// success is on record once, what was not at most once, and each line is there once.
#[test]
fn with_its_database_killed_no_event_and_no_line_is_lost_or_doubled() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    let (said, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let (tried, done) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = said.load(Ordering::Relaxed) + 1;
                say(&url, n).unwrap();
                said.store(n, Ordering::Relaxed);
            }
        });
        let editing = scope.spawn(|| {
            let (mut tried, mut done) = (31, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let days = tried.to_string();
                if stead.run(&["tenant", "quota", "acme", "--log-days", &days]).status.success() {
                    done.push(tried);
                }
                tried += 1;
            }
            (tried, done)
        });
        for round in 1..=5 {
            until("more lines", || (said.load(Ordering::Relaxed) > round * 20).then_some(()));
            kill(until("its database", || stead.control_postmaster()));
            until("the API", || story.run(&["status"]).status.success().then_some(()));
        }
        stop.store(true, Ordering::Relaxed);
        editing.join().unwrap()
    });
    let lines_of = |action: &str| {
        let said =
            stead.ok(&["history", "--tenant", "acme", "--all", "--action", action, "-n", "10000", "--json"]);
        serde_json::from_str::<Vec<Value>>(&said).unwrap()
    };
    let recorded: Vec<i64> = lines_of("tenant.edited")
        .iter()
        .filter(|line| line["outcome"] == "done")
        .map(|line| line["differences"][0]["after"].as_i64().unwrap())
        .collect();
    let once: BTreeSet<i64> = recorded.iter().copied().collect();
    assert_eq!(once.len(), recorded.len(), "none twice: {recorded:?}");
    assert!(done.len() > 5 && done.iter().all(|days| once.contains(days)), "{done:?} of {recorded:?}");
    assert!(once.iter().all(|days| (31..tried).contains(days)), "{recorded:?}");
    let expected: BTreeMap<String, u32> =
        (1..=said.load(Ordering::Relaxed)).map(|n| (format!("mark {n}"), 1)).collect();
    let counts = || {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for line in lines(&story, &["-q", "message:mark*"]) {
            *counts.entry(line["message"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        counts
    };
    until("every line", || (counts().len() >= expected.len()).then_some(()));
    assert_eq!(counts(), expected);
    drop(story);
    stead.finish();
}

#[test]
fn what_is_said_of_a_server_is_its_tenants() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    ask(&story.url(), "select 1/0").unwrap_err();
    stead.processes_of(&story.tree()).into_iter().for_each(kill);
    until("the end of the connection in the log", || {
        (!lines(&story, &["--by", "gateway", "-q", "outcome:closed_by_client"]).is_empty()).then_some(())
    });
    until("the restart in the log", || {
        let found = lines(&story, &["--by", "keeper", "-q", "unit.restarted"]);
        found.iter().find(|line| line["level"] == "warning").map(|_| ())
    });
    let errors = lines(&story, &["--grep", "division by zer[o]"]);
    assert_eq!(errors.len(), 1);
    assert_eq!((&errors[0]["level"], &errors[0]["component"]), (&"error".into(), &"postgres.main".into()));
    let own = story.ok(&["logs", "--installation", "--json", "-n", "500"]);
    assert!(own.contains("the Stead server is up") || own.contains("\"source\":\"gateway\""));
    assert!(!own.contains("division by zero"));
    stead.finish();
}

#[test]
fn the_last_lines_of_a_server_that_is_removed_are_kept() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    // Of the very last line, "database system is shut down", nothing is promised: the server is the first process of
    // its namespace, so its end is the end of the process that writes the log.
    let stops = || lines(&story, &["--all", "-q", "\"received fast shutdown request\""]).len();
    // The spare was stopped once before it was anybody's; that is in its log as well.
    assert_eq!(stops(), 1);
    story.ok(&["down", "--yes"]);
    assert_eq!(stops(), 2);
    stead.finish();
}

#[test]
fn who_follows_goes_on_when_the_control_plane_comes_back() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (folder, url) = (story.folder.clone(), story.url());
    say(&url, 1).unwrap();
    let mut command = stead.command(&["logs", "-f", "-q", "mark", "--json"]);
    command.current_dir(&folder).env("STEAD_TENANT", "acme").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut follower = command.spawn().unwrap();
    let mut heard = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || {
        let line: Value = serde_json::from_str(&heard.next().unwrap().unwrap()).unwrap();
        line["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(next(), "mark 1");
    say(&url, 2).unwrap();
    assert_eq!(next(), "mark 2");
    stead.kill_server();
    say(&url, 3).unwrap();
    stead.start();
    say(&url, 4).unwrap();
    assert_eq!([next(), next()], ["mark 3", "mark 4"]);
    follower.kill().unwrap();
    follower.wait().unwrap();
    stead.finish();
}
