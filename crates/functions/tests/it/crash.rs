//! `kill -9` of the engine between any two effects: after the next start nothing accepted is lost, nothing is done more
//! often than the contract allows, and what was used is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use functions::UsageLine;
use functions::route::{Missed, Route, Schedule};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::events::{LATER, count, files};
use crate::home::{Home, POINTS_OF_A_START, pause, until};
use crate::http::Connection;

/// Points that a run of a schedule passes.
const CLOCK: [&str; 2] = ["functions::schedule.called", "functions::schedule.remembered"];
/// Points that what was used passes on its way.
const COUNTED: &str = "functions::usage.counted";
const APPENDED: &str = "functions::usage.appended";

/// Every fail point of the engine is in one of the lists: a new one cannot be forgotten.
#[test]
fn every_fail_point_is_driven() {
    let mut found = BTreeSet::new();
    fail_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let lists: [&[&str]; 6] = [
        &POINTS_OF_A_START,
        &CLOCK,
        &[COUNTED, APPENDED],
        &crate::events::WORKED_AT,
        &[crate::events::WRITTEN],
        &[crate::events::BURIED],
    ];
    let driven = lists.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(found, driven);
}

fn fail_points(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fail_points(&path, found);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fail_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
}

const CODE: &str = "export const handler = async (event) => {
  console.log('got ' + JSON.stringify(event));
  await new Promise(done => setTimeout(done, event.wait ?? 0));
  if (event.fail) throw new Error('as asked');
  return 'done';
}";

fn function(home: &Home) -> Route {
    let mut version = home.version("nodejs20.x", "index.handler", &[("index.mjs", CODE)]);
    version.timeout_ms = 30_000;
    home.route("f1", version)
}

#[test]
fn who_is_killed_while_it_starts_serves_after_the_next_start() {
    let mut home = Home::new();
    let route = function(&home);
    home.put(&route);
    for (number, point) in POINTS_OF_A_START.into_iter().enumerate() {
        let event = format!("{{\"number\":{number}}}");
        home.dies_at(crate::events::WORKED_AT[0], &[], |home| home.send("f1", &LATER, &event));
        home.dies_at(point, &[], |_| ());
        home.dies_at(point, &[], |_| ());
        assert_eq!((files(&home, "events/f1").len(), count(&home, "got {\"number")), (1, number), "{point}");
        home.start_engine(&[], &[]);
        // Both sockets and its port are bound again, and what was accepted is worked at.
        assert_eq!(home.get(&route, "/").text(), "\"done\"", "{point}");
        assert_eq!(home.invoke("f1", &[], "{}").text(), "\"done\"", "{point}");
        home.line("f1", &format!("got {event}"));
        until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
        assert_eq!(count(&home, "got {\"number"), number + 1, "{point}");
    }
}

/// A schedule whose only run of this hour is due now: as if the last had been long ago.
fn due(home: &Home) -> (Route, PathBuf) {
    let hour = Timestamp::now().strftime("%H").to_string().parse::<u32>().unwrap();
    let cron = format!("0 {hour} * * *");
    let memory = json!({ "cron": cron, "zone": "UTC", "last": "2026-01-01T02:00:00Z" });
    let path = home.path.join("functions/spool/schedules/f1");
    fs::write(&path, memory.to_string()).unwrap();
    chown(&path, Some(keeper::Host::read(&home.path).unwrap().functions_uid()), None).unwrap();
    let schedule = Schedule { cron, zone: "UTC".into(), missed: Missed::Once };
    (Route { schedule: Some(schedule), ..function(home) }, path)
}

#[test]
fn a_run_of_the_clock_is_neither_lost_nor_doubled() {
    for point in CLOCK {
        let mut home = Home::new();
        let (route, path) = due(&home);
        let route = serde_json::to_vec(&route).unwrap();
        home.dies_at(point, &[], |home| home.write("functions/routes/f1.json", &route));
        assert_eq!(count(&home, "Scheduled Event"), 0, "{point}: nobody has worked at it yet");
        // Killed once more at the same point: it passes it no second time, as the run waits already.
        home.start_engine(&[], &[("FAILPOINTS", &format!("{point}=return"))]);
        until("it is worked at", || (count(&home, "Scheduled Event") >= 1).then_some(()));
        until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
        until("it is remembered", || {
            let memory: Value = serde_json::from_slice(&fs::read(&path).unwrap()).ok()?;
            (memory["last"] != "2026-01-01T02:00:00Z").then_some(())
        });
        // Also after another look at what is remembered.
        home.start_engine(&[], &[]);
        assert_eq!(home.invoke("f1", &[], "{\"last\":true}").text(), "\"done\"");
        home.line("f1", "got {\"last\":true}");
        assert_eq!(count(&home, "Scheduled Event"), 1, "{point}\n{}", home.log());
    }
}

/// What the spool says that a function used, each line once.
fn told(home: &Home) -> Vec<UsageLine> {
    let text = fs::read_to_string(home.path.join("spool/functions.jsonl")).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<UsageLine>(line).ok());
    let by_number: BTreeMap<_, _> = lines.map(|line| ((line.function.clone(), line.number), line)).collect();
    by_number.into_values().collect()
}

/// Invocations, errors and throttles in all, once the function was removed and everything told.
#[track_caller]
fn used(home: &Home) -> (u64, u64, u64) {
    let _ = fs::remove_file(home.path.join("functions/routes/f1.json"));
    home.refresh().unwrap();
    until("everything is told", || {
        let under_way = home.path.join("functions/spool/usage/f1");
        (!under_way.exists()).then_some(())
    });
    let lines = told(home);
    for line in &lines {
        assert_eq!(line.mib_ms, line.duration_ms * 256, "{line:?}");
        assert_eq!((line.tenant.as_str(), line.component.as_str()), ("123456789012", "function.f1"));
    }
    let sum = |number: fn(&UsageLine) -> u64| lines.iter().map(number).sum();
    (sum(|line| line.invocations), sum(|line| line.errors), sum(|line| line.throttles))
}

/// Sets what was counted back by a minute, as if that were over.
fn a_minute_passes(home: &Home) {
    let path = home.path.join("functions/spool/usage/f1");
    let mut bytes = fs::read(&path).unwrap();
    let minute = i64::from_le_bytes(bytes[..8].try_into().unwrap()) - 1;
    bytes[..8].copy_from_slice(&minute.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_minute_is_told_once_though_its_teller_is_killed() {
    let mut home = Home::new();
    home.put(&function(&home));
    for _ in 0..3 {
        home.invoke("f1", &[], "{}");
    }
    home.invoke("f1", &[], "{\"fail\":true}");
    // None runs when the minute passes.
    home.dies_at("functions::sockets_bound", &[], |_| ());
    a_minute_passes(&home);
    home.dies_at(APPENDED, &[], |_| ());
    assert_eq!(told(&home).len(), 1);
    home.start_engine(&[], &[("FAILPOINTS", &format!("{APPENDED}=return"))]);
    home.invoke("f1", &[], "{}");
    home.dies_at(APPENDED, &[], |home| {
        fs::remove_file(home.path.join("functions/routes/f1.json")).unwrap();
    });
    // The function is no more, and its last minute is told.
    home.start_engine(&[], &[]);
    assert_eq!(used(&home), (5, 1, 0));
    assert_eq!(told(&home).len(), 2);
    let text = fs::read_to_string(home.path.join("spool/functions.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn what_a_function_used_is_told_though_it_was_removed_while_no_engine_ran() {
    let mut home = Home::new();
    home.put(&function(&home));
    home.invoke("f1", &[], "{}");
    home.dies_at("functions::sockets_bound", &[], |_| ());
    let file = home.path.join("functions/routes/f1.json");
    let route = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    home.start_engine(&[], &[]);
    assert_eq!(used(&home), (1, 0, 0));
    // One of the same handle that is made later counts for itself.
    home.write("functions/routes/f1.json", &route);
    until("it is there", || home.refresh().unwrap().functions.contains(&"f1".to_owned()).then_some(()));
    home.invoke("f1", &[], "{}");
    home.kill_engine();
    assert_eq!(used(&home), (2, 0, 0));
    // A route that makes no sense is no removal.
    home.write("functions/routes/f1.json", &route);
    home.refresh().unwrap();
    home.invoke("f1", &[], "{}");
    home.dies_at("functions::sockets_bound", &[], |_| ());
    home.write("functions/routes/f1.json", b"nonsense");
    home.start_engine(&[], &[]);
    assert!(home.path.join("functions/spool/usage/f1").exists());
    fs::remove_file(&file).unwrap();
    home.kill_engine();
    assert_eq!(used(&home), (3, 0, 0));
}

#[test]
fn who_was_answered_was_counted_before() {
    let mut home = Home::new();
    home.put(&function(&home));
    let mut connection = None;
    home.dies_at(COUNTED, &[], |home| connection = Some(home.send("f1", &[], "{}")));
    assert!(connection.unwrap().try_read().is_none(), "nobody was answered");
    home.start_engine(&[], &[]);
    // Who is under way when the engine is killed and has not answered is not counted.
    let mut slow: Vec<_> = (0..3).map(|_| home.send("f1", &[], "{\"wait\":20000}")).collect();
    until("they work", || (home.function("f1").workers.busy == 3).then_some(()));
    home.kill_engine();
    for connection in &mut slow {
        assert!(connection.try_read().is_none());
    }
    home.invoke("f1", &[], "{}");
    assert_eq!(used(&home), (2, 0, 0));
}

/// A generator of numbers that look like chance and are the same every time (SplitMix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// Lets time pass in which others work.
pub(crate) fn pass(time: Duration) {
    let began = Instant::now();
    until("time has passed", || (began.elapsed() >= time).then_some(()));
}

/// Whoever was answered is counted, once; of those whose connection broke each at most once.
#[test]
fn usage_is_exact_under_load_whenever_the_engine_is_killed() {
    let home = Home::new();
    home.put(&function(&home));
    let (answered, failed, broken, over) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let mut chance = Chance(7);
    thread::scope(|scope| {
        for client in 0..6 {
            let (home, answered, failed, broken, over) = (&home, &answered, &failed, &broken, &over);
            scope.spawn(move || {
                let mut chance = Chance(client);
                while !over.load(Ordering::Relaxed) {
                    let socket = home.path.join("functions/invoke.sock");
                    let Some(mut connection) = Connection::try_unix(&socket) else {
                        pause();
                        continue;
                    };
                    let fails = chance.below(5) == 0;
                    let payload = format!("{{\"wait\":{},\"fail\":{fails}}}", chance.below(15));
                    let target = "POST /2015-03-31/functions/f1/invocations";
                    connection.send(target, &[], payload.as_bytes());
                    match connection.try_read() {
                        Some(response) if response.status == 200 => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            failed.fetch_add(u64::from(fails), Ordering::Relaxed);
                        }
                        Some(response) => panic!("{response:?}"),
                        None => drop(broken.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        let answers = || {
            let before = answered.load(Ordering::Relaxed);
            until("some are answered", || (answered.load(Ordering::Relaxed) > before + 20).then_some(()));
        };
        for _ in 0..6 {
            answers();
            pass(Duration::from_micros(chance.below(50_000)));
            home.kill_engine();
        }
        answers();
        over.store(true, Ordering::Relaxed);
    });
    let [answered, failed, broken] = [answered, failed, broken].map(AtomicU64::into_inner);
    let (invocations, errors, throttles) = used(&home);
    println!("{answered} answered, {broken} broken, {invocations} counted");
    assert!(answered > 140 && broken > 0, "{answered} {broken}");
    assert!((answered..=answered + broken).contains(&invocations), "{answered} {broken} {invocations}");
    assert!((failed..=failed + broken).contains(&errors), "{failed} {broken} {errors}");
    assert_eq!(throttles, 0);
}

/// As `kill -9` of any process.
pub(crate) fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}
