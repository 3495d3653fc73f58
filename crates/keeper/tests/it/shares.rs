//! What is left of a processor for others while a worker takes all that it can get.
//!
//! Everything here is held to one processor, and what a test compares is the time that the kernel gave to each. Others
//! on the machine may take some of that processor as well; they take it from all alike.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::home::*;
use crate::sandboxed::*;
use keeper::wire::*;

/// On the first processor, for ever.
const BUSY: &str = "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass";

/// The same by as many processes as it can make, each in a session of its own, since some kernels share by sessions.
const BOMB: &str = "import os\nos.sched_setaffinity(0, {0})\nfor _ in range(100):\n  try: pid = os.fork()\n  \
                    except OSError: break\n  if pid == 0: break\nos.getpid() == 1 or os.setsid()\nwhile True: pass";

/// Takes more memory than there is, again and again.
const HOG: &str = "import os\nos.sched_setaffinity(0, {0})\nwhile True:\n  if os.fork() == 0:\n    \
                   x = bytearray(400 << 20)\n    os._exit(0)\n  os.wait()";

fn without(layers: &str) -> Home {
    let mut home = Home::empty();
    let left_out = format!("layers.left_out=return({layers})");
    home.start_with(&[("FAILPOINTS", &left_out)]);
    home
}

fn start(home: &Home, name: &str, code: &str, memory_mib: u64) -> Started {
    let limits = WorkerLimits { memory_bytes: memory_mib << 20, ..LIMITS };
    let program = ["/usr/bin/python3", "-S", "-c", code].map(str::to_owned).to_vec();
    Started::order(home, &WorkerOrder { program, limits, ..waiting(name) }).unwrap()
}

/// Time on a processor that all processes of a user had, as far as they live, nanoseconds.
fn taken(uid: u32) -> u64 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of_user = processes.filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == uid));
    of_user.map(|entry| time_of(&entry.path().join("schedstat"))).sum()
}

fn time_of(schedstat: &std::path::Path) -> u64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split_ascii_whitespace().next().map_or(0, |time| time.parse().unwrap())
}

/// How often as much of the processor `one` gets as `other`, measured over a second of both's.
fn ratio(one: impl Fn() -> u64, other: impl Fn() -> u64) -> f64 {
    let began = until("both have begun", || {
        let began = (one(), other());
        (began.0 > 0 && began.1 > 0).then_some(began)
    });
    let (one, other) = until("they have had a second", || {
        let had = (one() - began.0, other() - began.1);
        (had.0 + had.1 > 1_000_000_000).then_some(had)
    });
    println!("{:.3} s to {:.3} s", one as f64 / 1e9, other as f64 / 1e9);
    one as f64 / other.max(1) as f64
}

/// User ids of the first workers that were asked for.
fn uid(home: &Home, nth: u32) -> u32 {
    home.host().uid_first + home.host().uid_count - 1024 + nth
}

fn end(home: &Home, workers: Vec<Started>) {
    for mut worker in workers {
        home.client.stop_worker(&worker.name).unwrap();
        worker.ended();
    }
    home.nothing_left_of_workers();
}

#[test]
fn workers_share_a_processor_by_their_memory() {
    let between = |home: Home| {
        let workers = vec![start(&home, "large", BUSY, 1024), start(&home, "small", BUSY, 256)];
        let ratio = ratio(|| taken(uid(&home, 0)), || taken(uid(&home, 1)));
        end(&home, workers);
        home.finish();
        ratio
    };
    let shared = between(Home::new());
    assert!((2.5..6.0).contains(&shared), "{shared}");
    let unshared = between(without("Shares"));
    assert!((0.5..2.0).contains(&unshared), "{unshared}");
}

#[test]
fn a_claim_changes_the_share() {
    let home = Home::new();
    let package = home.package(&[]);
    let mut worker = Started::order(
        &home,
        &WorkerOrder { limits: WorkerLimits { memory_bytes: 1 << 30, ..LIMITS }, ..waiting("w-1") },
    )
    .unwrap();
    worker.ready();
    let share = || {
        let files = ["cpu.shares", "cpu.weight"];
        let mut paths =
            home.groups_of_workers().into_iter().flat_map(|all| files.map(|file| all.join("w-1").join(file)));
        let text = paths.find_map(|path| fs::read_to_string(path).ok()).unwrap();
        text.trim().parse::<u64>().unwrap()
    };
    let before = share();
    worker.claim(&home, &package, &[]);
    let after = share();
    assert!(LIMITS.memory_bytes == 1 << 28 && (after * 4).abs_diff(before) < 4, "{before} {after}");
    end(&home, vec![worker]);
    home.finish();
}

#[test]
fn a_fork_bomb_and_a_memory_hog_hold_up_no_other_worker() {
    let between = |home: Home| {
        let workers = vec![
            start(&home, "bomb", BOMB, 256),
            start(&home, "hog", HOG, 256),
            start(&home, "w-1", BUSY, 256),
        ];
        until("the bomb has gone off", || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let of_bomb =
                processes.filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == uid(&home, 0)));
            (of_bomb.count() > 50).then_some(())
        });
        let ratio = ratio(|| taken(uid(&home, 2)), || taken(uid(&home, 0)));
        end(&home, workers);
        home.finish();
        ratio
    };
    let shared = between(Home::new());
    assert!(shared > 0.5, "{shared}");
    let unshared = between(without("Shares"));
    assert!(unshared < 0.2, "{unshared}");
}

#[test]
fn all_workers_together_leave_a_server_its_part() {
    let between = |home: Home| {
        let tree = server("one");
        let unit = home.running("pg-one", &tree, 15);
        let mut client = std::process::Command::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-XAtq", "-U", "postgres", "-d", "postgres", "-c", "do 'begin loop end loop; end'", "-h"])
            .arg(home.dir(&tree).join("run"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let asked = "select pid from pg_stat_activity where query like 'do %'";
        let backend = until("the server is busy", || home.sql(&tree, asked).parse::<i32>().ok());
        // What PostgreSQL says is its own namespace's; on the host it is the busiest of the server's user.
        let user = home.uid(&tree);
        let busy = until("it is found", || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let of_user = processes.filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == user));
            let busiest = of_user.max_by_key(|entry| time_of(&entry.path().join("schedstat")))?;
            let status = fs::read_to_string(busiest.path().join("status")).ok()?;
            let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            (inside.split_ascii_whitespace().last()? == backend.to_string()).then(|| busiest.path())
        });
        let mut first = CpuSet::new();
        first.set(0);
        let pid = Pid::from_raw(busy.file_name().unwrap().to_str().unwrap().parse().unwrap());
        sched_setaffinity(pid, &first).unwrap();
        let workers = (0..2).map(|nth| start(&home, &format!("bomb-{nth}"), BOMB, 256)).collect::<Vec<_>>();
        let others = || (0..2).map(|nth| taken(uid(&home, nth))).sum();
        let ratio = ratio(|| time_of(&busy.join("schedstat")), others);
        end(&home, workers);
        home.stop(&unit);
        client.wait().unwrap();
        home.finish();
        ratio
    };
    let shared = between(Home::new());
    assert!(shared > 0.4, "{shared}");
    let unshared = between(without("Shares"));
    assert!(unshared < 0.2, "{unshared}");
}
