//! Functions that do not start, or do what no function should: each is told in Lambda's words, costs nobody else
//! anything, and the next call is tried anew.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use functions::route::Route;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::crash::pass;
use crate::events::{LATER, count, files};
use crate::home::{Home, until};

const NODE: &str = "nodejs20.x";
const PYTHON: &str = "python3.11";

/// A function of one file, beside others.
fn deploy(home: &Home, function: &str, runtime: &str, code: &str) -> Route {
    let file = if runtime == NODE { "index.mjs" } else { "index.py" };
    let route = home.route(function, home.version(runtime, "index.handler", &[(file, code)]));
    home.put(&route);
    route
}

/// What an invocation fails with.
#[track_caller]
fn failure(home: &Home, function: &str, payload: &str) -> (String, String) {
    let response = home.invoke(function, &[], payload);
    let error = response.json();
    assert_eq!(
        (response.status, response.header("x-amz-function-error")),
        (200, Some("Unhandled")),
        "{error}"
    );
    (text(&error["errorType"]), text(&error["errorMessage"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// How often a start failed, by the function's log.
fn failed_starts(home: &Home, function: &str) -> usize {
    let is = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("INIT_REPORT"));
    home.lines(function).iter().filter(|line| is(line)).count()
}

#[test]
fn who_does_not_start_is_told_at_each_call_and_started_by_calls_alone() {
    let home = Home::new();
    for (function, code, kind) in [
        ("f1", "def", "Runtime.UserCodeSyntaxError"),
        ("f2", "import os; os._exit(3)", "Runtime.ExitError"),
        ("f3", "raise SystemExit(1)", "Runtime.ExitError"),
        ("f4", "import os; os.abort()", "Runtime.ExitError"),
    ] {
        deploy(&home, function, PYTHON, code);
        for calls in 1..=3 {
            assert_eq!(failure(&home, function, "1").0, kind);
            until("it is logged", || (failed_starts(&home, function) == calls).then_some(()));
        }
        // Many at once are one start each, at most.
        let mut calls: Vec<_> = (0..10).map(|_| home.send(function, &[], "1")).collect();
        for call in &mut calls {
            assert_eq!(call.try_read().unwrap().json()["errorType"], kind);
        }
    }
    // Nobody calls: nothing starts.
    pass(Duration::from_millis(300));
    let before: Vec<_> = ["f1", "f2", "f3", "f4"].map(|function| failed_starts(&home, function)).into();
    assert!(before.iter().all(|starts| (4..=13).contains(starts)), "{before:?}");
    pass(Duration::from_millis(1500));
    let after: Vec<_> = ["f1", "f2", "f3", "f4"].map(|function| failed_starts(&home, function)).into();
    assert_eq!(after, before);
}

#[test]
fn who_starts_after_all_is_answered() {
    let home = Home::new();
    let when = Timestamp::now().as_second() + 3;
    let code = format!(
        "import time\nif time.time() < {when}: raise ValueError('not yet')\ndef handler(event, context): return 'well'"
    );
    deploy(&home, "f1", PYTHON, &code);
    assert_eq!(failure(&home, "f1", "1"), ("ValueError".to_owned(), "not yet".to_owned()));
    until("it starts", || (home.invoke("f1", &[], "1").text() == "\"well\"").then_some(()));
}

#[test]
fn a_start_has_ten_seconds_and_then_those_of_a_call() {
    let home = Home::new();
    let version = |sleeps: u64, timeout_ms| {
        let code = format!("import time\ntime.sleep({sleeps})\ndef handler(event, context): return 'well'");
        let mut version = home.version(PYTHON, "index.handler", &[("index.py", &code)]);
        version.timeout_ms = timeout_ms;
        version
    };
    home.put(&home.route("f1", version(60, 1000)));
    home.put(&home.route("f2", version(11, 30_000)));
    thread::scope(|scope| {
        let slow = scope.spawn(|| home.invoke("f2", &[], "1"));
        let began = Instant::now();
        let (kind, message) = failure(&home, "f1", "1");
        assert_eq!(kind, "Sandbox.Timedout");
        assert!(message.ends_with("Error: Task timed out after 1.00 seconds"), "{message}");
        assert!(began.elapsed() >= Duration::from_secs(11));
        until("both are logged", || (failed_starts(&home, "f1") == 2).then_some(()));
        assert_eq!(slow.join().unwrap().text(), "\"well\"");
    });
}

#[test]
fn an_event_of_a_function_that_does_not_start_fails_three_times() {
    let home = Home::with(&["retry=50"]);
    deploy(&home, "f1", PYTHON, "def");
    home.invoke("f1", &LATER, "{\"n\":1}");
    let kept = until("it is kept", || files(&home, "dead/f1").pop());
    let record: Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(record["responsePayload"]["errorType"], "Runtime.UserCodeSyntaxError");
    until("each is logged", || (failed_starts(&home, "f1") == 3).then_some(()));
}

#[test]
fn an_event_that_is_too_old_goes_to_the_function_for_that_with_the_reason() {
    let home = Home::with(&["retry=1500", "event_age=2500"]);
    let heir = deploy(
        &home,
        "heir",
        NODE,
        "export const handler = async (event) => console.log(JSON.stringify(event))",
    );
    let with = |route: Route| Route { generation: 2, dead_letter: Some(heir.component.clone()), ..route };
    let code = "def handler(event, context):\n    print('got it')\n    raise ValueError(event)";
    home.put(&with(deploy(&home, "f1", PYTHON, code)));
    // It cannot even be tried.
    let mut unknown = home.version("cobol85", "index.handler", &[("index.py", "")]);
    unknown.concurrency = 2;
    home.put(&with(home.route("f2", unknown)));
    for (function, tried) in [("f1", 2), ("f2", 0)] {
        home.invoke(function, &LATER, &format!("{{\"of\":\"{function}\"}}"));
        let line = home.line("heir", &format!("\"requestPayload\":{{\"of\":\"{function}\"}}"));
        let (_, record) = line["message"].as_str().unwrap().rsplit_once('\t').unwrap();
        let record: Value = serde_json::from_str(record).unwrap();
        assert_eq!(record["requestContext"]["condition"], "EventAgeExceeded", "{record}");
        assert_eq!(record["requestContext"]["approximateInvokeCount"], tried, "{record}");
        assert!(files(&home, &format!("dead/{function}")).is_empty());
        home.line(function, "has failed for good (it is too old) and is handed on");
    }
    assert_eq!(count(&home, "got it"), 2);
}

#[test]
fn a_package_whose_program_is_none_is_told() {
    let home = Home::new();
    let deploy = |function: &str, bytes: Option<&[u8]>, mode: u32| {
        let version = home.version("provided.al2023", "", &[("x", function)]);
        let path = home.path.join("packages").join(&version.package).join("bootstrap");
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        home.put(&home.route(function, version));
    };
    deploy("f1", Some(b"\0\x01 neither ELF nor script"), 0o755);
    deploy("f2", Some(b"#!/bin/sh\n"), 0o644);
    deploy("f3", None, 0);
    deploy("f4", Some(b"#!/nowhere\n"), 0o755);
    deploy("f5", Some(b"\x7fELF\x02\x01\x01 and no more"), 0o755);
    for (function, why) in [
        ("f1", "exec format error"),
        ("f2", "permission denied"),
        ("f3", "no such file or directory"),
        ("f4", "no such file or directory"),
        ("f5", "exec format error"),
    ] {
        for _ in 0..2 {
            let (kind, message) = failure(&home, function, "1");
            assert_eq!(kind, "Runtime.InvalidEntrypoint", "{message}");
            assert!(message.ends_with(&format!("Error: fork/exec /var/task/bootstrap: {why}")), "{message}");
        }
    }
}

#[test]
fn what_is_no_json_is_told_and_the_worker_is_as_good_as_before() {
    let home = Home::new();
    let code = "export const handler = async (event) => {
      const circle = {}; circle.itself = circle;
      return event === 1 ? 10n : event === 2 ? circle : 'fine' }";
    deploy(&home, "f1", NODE, code);
    for (payload, what) in [("1", "BigInt"), ("2", "circular")] {
        let (kind, message) = failure(&home, "f1", payload);
        assert!(kind == "TypeError" && message.contains(what), "{kind}: {message}");
    }
    deploy(
        &home,
        "f2",
        PYTHON,
        "def handler(event, context):\n    if event == 1: return object()\n    if event == 2: return 'x' * 7_000_000\n    return 'fine'",
    );
    assert_eq!(failure(&home, "f2", "1").0, "Runtime.MarshalError");
    assert_eq!(failure(&home, "f2", "2").0, "Function.ResponseSizeTooLarge");
    for function in ["f1", "f2"] {
        assert_eq!(home.invoke(function, &[], "3").text(), "\"fine\"");
        assert_eq!(home.function(function).workers.idle, 1, "one has done all of it");
    }
}

/// Bytes that a process has in memory.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn who_prints_a_gigabyte_is_bounded_and_answered() {
    let home = Home::new();
    let code = "import os
def handler(event, context):
    line = b'x' * ((1 << 20) - 1) + b'\\n'
    for _ in range(1024):
        written = 0
        while written < len(line): written += os.write(1, line[written:])
    return 'all of it'";
    let mut version = home.version(PYTHON, "index.handler", &[("index.py", code)]);
    version.timeout_ms = 120_000;
    home.put(&home.route("f1", version));
    deploy(&home, "f2", PYTHON, "def handler(event, context): return 'meanwhile'");
    let mut call = home.send("f1", &[], "1");
    until("it prints", || (home.log_bytes("f1") > 100_000).then_some(()));
    assert_eq!(home.invoke("f2", &[], "1").text(), "\"meanwhile\"");
    assert_eq!(call.try_read().unwrap().text(), "\"all of it\"");
    let (size, memory) = (home.log_bytes("f1"), resident(home.engine_pid()));
    println!("{size} bytes of log, {memory} bytes of memory");
    assert!(size < 128 << 20 && memory < 256 << 20, "{size} {memory}");
}

#[test]
fn a_fork_bomb_is_bounded_costs_nobody_else_anything_and_nothing_of_it_is_left() {
    let home = Home::new();
    let code = "import os, socket, time
def handler(event, context):
    if event == 0: return socket.gethostname()
    forked = 0
    while event:
        try:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            forked += 1
        except BlockingIOError:
            if event == 1: return forked";
    let mut version = home.version(PYTHON, "index.handler", &[("index.py", code)]);
    version.concurrency = 1;
    version.memory_mib = 1024;
    version.timeout_ms = 20_000;
    let mut route = home.route("f1", version);
    home.put(&route);
    deploy(&home, "f2", PYTHON, "def handler(event, context): return 'meanwhile'");
    let worker = text(&home.invoke("f1", &[], "0").json());
    let pid = home.sandboxes()[&worker];
    let forked = home.invoke("f1", &[], "1").json();
    assert!(forked.as_u64().is_some_and(|forked| (100..1024).contains(&forked)), "{forked}");
    // It is at its limit, and goes on.
    let version = route.versions.get_mut(&1).unwrap();
    version.timeout_ms = 2000;
    route.generation = 2;
    home.put(&route);
    home.nothing_left_of(&worker, pid);
    let worker = text(&home.invoke("f1", &[], "0").json());
    let pid = home.sandboxes()[&worker];
    let mut bomb = home.send("f1", &[], "2");
    until("it works", || (home.function("f1").workers.busy == 1).then_some(()));
    assert_eq!(home.invoke("f2", &[], "1").text(), "\"meanwhile\"");
    assert_eq!(bomb.try_read().unwrap().json()["errorType"], json!("Sandbox.Timedout"));
    home.nothing_left_of(&worker, pid);
    assert_ne!(text(&home.invoke("f1", &[], "0").json()), worker);
}
