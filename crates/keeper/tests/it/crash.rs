//! The keeper is killed at every fail point there is; the next one must reach the same end.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::home::*;
use keeper::ClientError;
use keeper::wire::*;

/// Fail points in the keeper's children: there it is the child that dies, again and again.
const IN_CHILDREN: [&str; 2] = ["keeper::launch.noted", "keeper::trash.deleted"];

/// Fail points that only a full disk reaches.
const OF_THE_GUARD: [&str; 4] = [
    "keeper::guard.judged",
    "keeper::guard.reserve_made",
    "keeper::guard.written",
    "keeper::trees.guard_set",
];

/// Fail points that only a worker reaches; they have tests of their own.
pub(crate) const OF_WORKERS: &str = "keeper::worker.";

/// Fail points that are reached without a server.
const WITHOUT_SERVER: [&str; 7] = [
    "keeper::host.",
    "keeper::layout.",
    "keeper::open.",
    "keeper::socket.",
    "keeper::trees.",
    "keeper::trash.",
    "keeper::files.",
];

/// Every fail point that the source names.
pub(crate) fn fail_points() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![source];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let is_dir = entry.file_type().unwrap().is_dir();
            if is_dir { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let names = text.split("fail_point!(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        found.extend(names.filter(|name| name.starts_with("keeper::")).map(str::to_owned));
    }
    found.sort();
    let count = found.len();
    found.dedup();
    assert_eq!(found.len(), count, "the same name twice");
    assert!(count > 25, "{found:?}");
    found
}

/// A driver that asks again until it is answered, and somebody who starts the keeper when it has died.
struct Driver {
    home: RefCell<Home>,
    deaths: RefCell<u32>,
    /// A keeper whose children die is killed by hand after a while.
    kill_at: Option<Instant>,
}

impl Driver {
    fn new(point: &str) -> Self {
        let mut home = Home::empty();
        home.start_to_die(point);
        let child = IN_CHILDREN.iter().any(|name| point.starts_with(name));
        let kill_at = child.then(|| Instant::now() + Duration::from_secs(5));
        Self { home: RefCell::new(home), deaths: RefCell::new(0), kill_at }
    }

    fn revive(&self) {
        let mut home = self.home.borrow_mut();
        let by_hand = self.kill_at.is_some_and(|at| at < Instant::now()) && *self.deaths.borrow() == 0;
        if by_hand {
            home.kill_keeper();
        }
        if by_hand || home.has_died() {
            *self.deaths.borrow_mut() += 1;
            home.start();
        }
    }

    #[track_caller]
    fn ask<T>(&self, what: &str, ask: impl Fn(&Home) -> Result<T, ClientError>) -> T {
        until(what, || {
            self.revive();
            match ask(&self.home.borrow()) {
                Ok(answer) => Some(answer),
                Err(ClientError::Refused(refusal)) if refusal.reason != Reason::Busy => {
                    // A child that dies in the launcher is refused as such.
                    assert!(self.kill_at.is_some(), "{what}: {refusal}");
                    None
                }
                Err(_) => None,
            }
        })
    }

    #[track_caller]
    fn until(&self, what: &str, look: impl Fn(&Home) -> Option<bool>) {
        until(what, || {
            self.revive();
            look(&self.home.borrow()).filter(|found| *found).map(drop)
        });
    }

    fn unit(&self, unit: &Name) -> Option<UnitStatus> {
        self.home.borrow().client.unit(unit).ok().flatten()
    }

    /// A cluster in a tree, however often the job that makes it is killed.
    fn cluster(&self, tree: &Tree) {
        let mut unit = initdb_unit("init", tree, 15);
        loop {
            self.ask("the tree is made", |home| home.client.create_tree(tree));
            let ended = until("initdb has ended", || {
                self.revive();
                // Applied again and again, as a driver may.
                let state = self.home.borrow().apply(&unit).ok()?.state;
                matches!(state, UnitState::Exited { .. }).then_some(state)
            });
            self.ask("the job is forgotten", |home| home.client.remove_unit(&unit.name));
            if ended == (UnitState::Exited { code: Some(0), signal: None }) {
                return;
            }
            // It is not known how it ended: what it left is no cluster.
            self.ask("the tree is removed", |home| home.client.remove_tree(tree));
            unit.generation += 1;
        }
    }

    fn without_server(&self) {
        let (spare, tree) = (Tree::Spares(name("s1")), server("one"));
        self.ask("a spare is made", |home| home.client.create_tree(&spare));
        self.ask("it is moved", |home| home.client.rename_tree(&spare, &tree));
        self.ask("it is looked at", |home| home.client.create_tree(&tree));
        assert!(self.home.borrow().dir(&tree).join("data").is_dir());
        self.ask("it is removed", |home| home.client.remove_tree(&tree));
    }

    fn with_server(&self) {
        let (spare, tree) = (Tree::Spares(name("s1")), server("one"));
        self.cluster(&spare);
        self.ask("it is moved", |home| home.client.rename_tree(&spare, &tree));
        self.home.borrow().configure(&tree);
        let mut unit = Unit { sleeps: true, ..postgres_unit("pg-one", &tree, 15) };
        self.ask("it is applied", |home| home.apply(&unit));
        let runs = |home: &Home| Some(home.psql(&tree, "select 1").status.success());
        self.until("it runs", runs);
        unit.generation = 2;
        self.ask("a new generation is applied", |home| home.apply(&unit));
        self.until("it is in force", |_| {
            let status = self.unit(&unit.name)?;
            Some(status.generation == 2 && status.state == UnitState::Running)
        });
        self.until("it runs", runs);
        self.ask("it is put to sleep", |home| home.client.sleep(&unit.name, "a test"));
        self.until("it sleeps", |_| Some(self.unit(&unit.name)?.state == UnitState::Asleep));
        self.ask("it is woken", |home| home.client.wake(&unit.name, "a test"));
        self.until("it runs", runs);
        let pid = self.unit(&unit.name).unwrap().pid.and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        self.until("it runs again", |home| {
            let other = self.unit(&unit.name)?.pid.is_some_and(|now| now != pid.as_raw_nonzero().get());
            Some(other && runs(home)?)
        });
        let postmasters = |home: &Home| {
            let all = home.processes();
            all.iter().filter(|(_, args)| args.contains("/bin/postgres ")).count()
        };
        // A backend has its own title only a moment after its fork.
        self.until("there is one server", |home| Some(postmasters(home) == 1));
        (unit.wanted, unit.generation) = (Wanted::Stopped, 3);
        self.ask("a stop is applied", |home| home.apply(&unit));
        self.until("it has stopped", |_| Some(self.unit(&unit.name)?.state == UnitState::Stopped));
        self.ask("the unit is removed", |home| home.client.remove_unit(&unit.name));
        self.ask("the tree is removed", |home| home.client.remove_tree(&tree));
    }

    /// Nothing may be left of what was made.
    fn nothing_left(self, point: &str) {
        let reached = *self.deaths.borrow() > 0 || IN_CHILDREN.contains(&point);
        assert!(reached, "{point} was never reached");
        let home = self.home.into_inner();
        until("the trash is empty", || {
            home.path.join("keeper/trash").read_dir().unwrap().next().is_none().then_some(())
        });
        for folder in
            ["servers", "spares", "units", "keeper/new", "keeper/state", "keeper/locks", "keeper/asleep"]
        {
            let left: Vec<_> = fs::read_dir(home.path.join(folder)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{point}: {folder} holds {left:?}");
        }
        home.finish();
    }
}

fn killed_at(point: &str, how: &str) {
    let driver = Driver::new(&format!("{point}={how}"));
    if WITHOUT_SERVER.iter().any(|prefix| point.starts_with(prefix)) && how == "return" {
        driver.without_server();
        // What is reached only while starting a server.
        if *driver.deaths.borrow() == 0 {
            driver.with_server();
        }
    } else {
        driver.with_server();
    }
    driver.nothing_left(point);
}

/// Every fourth fail point, so that four processes share the work.
fn a_quarter(which: usize) {
    let points = fail_points();
    let ours = points.iter().filter(|point| !OF_THE_GUARD.contains(&point.as_str()));
    let ours = ours.filter(|point| !point.starts_with(OF_WORKERS));
    for point in ours.skip(which).step_by(4) {
        println!("{point}");
        killed_at(point, "return");
    }
}

#[test]
fn killed_at_every_fail_point_first_quarter() {
    a_quarter(0);
}

#[test]
fn killed_at_every_fail_point_second_quarter() {
    a_quarter(1);
}

#[test]
fn killed_at_every_fail_point_third_quarter() {
    a_quarter(2);
}

#[test]
fn killed_at_every_fail_point_last_quarter() {
    a_quarter(3);
}

/// Files are written at many places: the host's, a record of a job, of a server, of its new generation.
#[test]
fn killed_while_a_later_file_is_written() {
    for nth in 1..=4 {
        for point in ["keeper::files.temporary_made", "keeper::files.temporary_written"] {
            killed_at(point, &format!("{nth}*off->return"));
        }
    }
}

#[test]
fn killed_while_the_disk_guard_acts() {
    let huge = (1u64 << 60).to_string();
    let full = ["--low", huge.as_str(), "--high", huge.as_str(), "--reserve", "4096"];
    let free = ["--low", "1", "--high", "2", "--reserve", "1048576"];
    for point in OF_THE_GUARD {
        let mut home = Home::empty().with(&["--low", "1", "--high", "2", "--reserve", "0"]);
        home.start();
        let (one, two) = (server("one"), server("two"));
        home.client.create_tree(&one).unwrap();
        home.client.create_tree(&two).unwrap();
        home.kill_keeper();
        let marked =
            |home: &Home| [&one, &two].map(|tree| home.dir(tree).join("guard/read_only.conf").exists());
        let rounds = [(full, true), (free, false)];
        for (args, expected) in rounds {
            home = home.with(&args);
            home.start_to_die(&format!("{point}=return"));
            if point == "keeper::guard.reserve_made" && expected {
                until("it answers", || home.client.host().ok());
                home.kill_keeper();
            } else {
                until("it has died", || home.has_died().then_some(()));
            }
            home.start();
            assert_eq!(home.client.host().unwrap().disk.read_only, expected, "{point}");
            assert_eq!(marked(&home), [expected; 2], "{point}");
            home.kill_keeper();
        }
        home.start();
        home.finish();
    }
}
