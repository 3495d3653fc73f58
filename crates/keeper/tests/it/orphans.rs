//! No worker outlives who asked for it, whatever happens to the keeper meanwhile; and none is lost or doubled.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::crash::{OF_WORKERS, fail_points};
use crate::home::*;
use crate::sandboxed::*;
use keeper::ClientError;
use keeper::wire::*;

fn functions(worker: &str) -> Unit {
    Unit { restart: Restart::Never, ..unit("functions", Runs::Functions, &["--worker", worker]) }
}

impl Home {
    /// Runs the function front door's stand-in until it has made its worker; the worker's process.
    fn with_functions(&self, worker: &str) -> i32 {
        let _ = fs::remove_file(self.path.join("functions/started"));
        self.apply(&functions(worker)).unwrap();
        until("it has made a worker", || {
            let log = fs::read_to_string(self.path.join("logs/functions.log")).unwrap_or_default();
            assert_eq!(log, "");
            fs::metadata(self.path.join("functions/started")).ok()
        });
        self.worker(worker).unwrap()
    }

    /// Freezes a worker, as whoever asked for it may.
    fn freeze(&self, worker: &str) {
        for folder in self.groups_of_workers() {
            for (file, state) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
                let file = folder.join(worker).join(file);
                if file.exists() {
                    fs::write(file, state).unwrap();
                }
            }
        }
    }

    /// The process of a worker, as its record has it.
    fn worker(&self, worker: &str) -> Option<i32> {
        let text = fs::read(self.path.join(format!("keeper/workers/{worker}.json"))).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        record["identity"]["pid"].as_i64()?.try_into().ok()
    }
}

#[test]
fn the_function_front_door_has_its_files_for_itself_and_asks_for_workers_only() {
    let home = Home::new();
    let host = home.host();
    let route = home.path.join("functions/routes/one.json");
    fs::write(&route, "{}").unwrap();
    std::os::unix::fs::chown(&route, Some(host.control_uid()), None).unwrap();
    fs::set_permissions(&route, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(&route).unwrap().gid(), host.functions_gid(), "by the folder's set-group-id bit");
    home.with_functions("w-1");
    let pid = home.pid("functions");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    assert!(field("Uid:").starts_with(&host.functions_uid().to_string()));
    assert!(field("Gid:").starts_with(&host.gid().to_string()));
    assert_eq!(field("Groups:"), host.functions_gid().to_string());
    let cat = |path: &str| {
        let path = home.path.join(path).display().to_string();
        let mut command = as_user(host.gateway_uid(), host.gid(), "/bin/cat".as_ref());
        command.arg(path).output().unwrap().status.success()
    };
    assert!(!cat("functions/routes/one.json") && !cat("functions/spool/x"));
    // As that user, what it may not ask for.
    let binary = home.binary_for_all();
    let mut ask = as_user(host.functions_uid(), host.gid(), &binary);
    let asked = ask.arg("ask").arg("--home").arg(&home.path).output().unwrap();
    assert!(!asked.status.success());
    assert!(String::from_utf8_lossy(&asked.stderr).contains("workers only"), "{asked:?}");
    home.finish();
}

#[test]
fn a_worker_ends_with_its_owner() {
    let mut home = Home::new();
    home.with_functions("w-1");
    home.stop(&functions("w-1"));
    home.nothing_left_of_workers();

    // Nor does it matter whether a keeper is there to see it, or how the owner ends.
    for (worker, restarted, frozen) in
        [("w-2", false, false), ("w-3", true, false), ("w-4", true, true), ("w-5", false, true)]
    {
        let mut command = std::process::Command::new(example());
        command.args(["functions", "--worker", worker, "--home"]).arg(&home.path);
        let mut owner = command.spawn().unwrap();
        let pid = until("it has made a worker", || home.worker(worker));
        if frozen {
            home.freeze(worker);
        }
        home.kill_keeper();
        if restarted {
            home.start();
            assert_eq!(home.worker(worker), Some(pid), "it is found again");
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        if !restarted {
            assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "nobody has ended it yet");
            home.start();
        }
        home.nothing_left_of_workers();
    }
    home.finish();
}

#[test]
fn a_worker_outlives_its_keeper_and_is_stopped_by_the_next() {
    let mut home = Home::new();
    let package = home.package(&[]);
    let mut worker = Started::running(&home, "w-1", &["/bin/sh", "-c", "while echo 1; do sleep 0.01; done"]);
    let mut waiting = Started::waiting(&home, "w-2");
    worker.ready();
    waiting.ready();
    home.restart_keeper();
    worker.until_writes();
    match waiting.try_claim(&home, &package, &[]) {
        Err(ClientError::Refused(refusal)) => {
            assert!(refusal.message.contains("earlier keeper"), "{refusal}")
        }
        other => panic!("{other:?}"),
    }
    // Its user id is not given to another.
    let mut third = Started::running(&home, "w-3", &["/usr/bin/id", "-u"]);
    assert_eq!(third.ended().0, Some(0));
    assert_eq!(third.output(), format!("{}\n", home.host().uid_first + home.host().uid_count - 1022));
    for worker in [&worker, &waiting] {
        home.client.stop_worker(&worker.name).unwrap();
    }
    home.nothing_left_of_workers();
    home.finish();
}

/// Makes, claims and ends a worker, each until it is answered, with somebody who starts the keeper when it has died.
fn killed_at(point: &str) {
    println!("{point}");
    let mut home = Home::empty();
    home.start_to_die(&format!("{point}=1*return"));
    let (mut deaths, mut round) = (0, 0);
    // Where it is the child that dies, again and again, the keeper is killed by hand.
    let mut by_hand = (point == "keeper::worker.mounted").then_some(3);
    let mut revive = |home: &mut Home| {
        by_hand = by_hand.map(|rounds: i32| rounds - 1);
        if by_hand == Some(0) {
            home.kill_keeper();
        }
        if home.has_died() {
            deaths += 1;
            home.start();
        }
    };
    until("a worker has run to its end", || {
        revive(&mut home);
        let digest = home.client.host().ok().map(|_| home.package(&[]))?;
        round += 1;
        let worker = Started::order(&home, &waiting(&format!("w-{round}"))).ok();
        let claimed = worker.as_ref().map(|worker| {
            let mut claimed = worker.try_claim(&home, &digest, &[80]);
            while matches!(&claimed, Err(ClientError::Refused(refusal)) if refusal.reason == Reason::Busy) {
                claimed = worker.try_claim(&home, &digest, &[80]);
            }
            claimed
        });
        let stopped = worker.as_ref().map(|worker| home.client.stop_worker(&worker.name));
        revive(&mut home);
        (matches!(claimed, Some(Ok(()))) && matches!(stopped, Some(Ok(()))) && round > 1).then_some(())
    });
    until("whatever was begun is stopped", || {
        revive(&mut home);
        let stop = |nth| home.client.stop_worker(&name(&format!("w-{nth}"))).ok();
        (1..=round).try_for_each(stop)
    });
    home.nothing_left_of_workers();
    assert!(deaths > 0, "{point} was never reached");
    home.finish();
}

#[test]
fn nothing_is_left_of_workers_when_the_keeper_is_killed_at_any_fail_point() {
    let points: Vec<String> =
        fail_points().into_iter().filter(|point| point.starts_with(OF_WORKERS)).collect();
    assert!(points.len() > 8, "{points:?}");
    points.iter().for_each(|point| killed_at(point));
}
