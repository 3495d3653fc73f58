//! `kill -9` of a worker, and of a spare, wherever it is: the next call is answered by another, and nothing is left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::crash::{Chance, kill, pass};
use crate::home::{Home, pause, until};
use crate::http::Response;

/// Answers with the name of its worker.
const CODE: &str = "import socket, time
def handler(event, context):
    if event: print('at work', flush=True)
    time.sleep(event)
    return socket.gethostname()";

/// One worker at a time, that answers with its name.
fn single(home: &Home, code: &str) {
    let mut version = home.version("python3.11", "index.handler", &[("index.py", code)]);
    version.concurrency = 1;
    version.timeout_ms = 30_000;
    home.put(&home.route("f1", version));
}

/// The worker that answers now.
#[track_caller]
fn answered(home: &Home) -> String {
    let response = home.invoke("f1", &[], "0");
    assert_eq!(response.header("x-amz-function-error"), None, "{}", response.text());
    response.json().as_str().unwrap_or_else(|| panic!("{response:?}")).to_owned()
}

#[track_caller]
fn killed(response: &Response) {
    let error = response.json();
    assert_eq!(
        (response.status, response.header("x-amz-function-error")),
        (200, Some("Unhandled")),
        "{error}"
    );
    assert_eq!(error["errorType"], "Runtime.ExitError");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(message.ends_with("Error: Runtime exited with error: signal: killed"), "{message}");
}

/// Whether a process has ended; its parent may not have noticed.
fn is_dead(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[test]
fn a_worker_that_is_killed_at_rest_costs_no_call() {
    let home = Home::new();
    single(&home, CODE);
    for frozen in [true, true, false] {
        let worker = answered(&home);
        let pid = home.sandboxes()[&worker];
        if frozen {
            home.frozen(&worker);
        }
        kill(pid);
        if !frozen {
            // Whether one that runs still reads what comes nobody can know.
            until("it has ended", || is_dead(pid).then_some(()));
        }
        assert_ne!(answered(&home), worker, "frozen: {frozen}");
        home.nothing_left_of(&worker, pid);
    }
}

#[test]
fn a_worker_that_is_killed_at_work_is_told_and_the_next_call_has_another() {
    let home = Home::new();
    single(&home, CODE);
    let worker = answered(&home);
    let pid = home.sandboxes()[&worker];
    let mut call = home.send("f1", &[], "20");
    home.line("f1", "at work");
    kill(pid);
    killed(&call.try_read().unwrap());
    assert_ne!(answered(&home), worker);
    home.nothing_left_of(&worker, pid);
}

#[test]
fn a_worker_that_is_killed_while_it_answers_is_told_and_the_next_call_has_another() {
    let home = Home::new();
    // Half of an answer, and then it waits.
    let code = "import socket, time
def handler(event, context):
    if event == 0: return socket.gethostname()
    api = socket.create_connection(('127.0.0.1', 9001))
    path = f'/2018-06-01/runtime/invocation/{context.aws_request_id}/response'
    api.sendall(f'POST {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1000\\r\\n\\r\\n'.encode() + b'\"' + b'x' * 500)
    print('half of it', flush=True)
    time.sleep(20)";
    single(&home, code);
    let worker = answered(&home);
    let pid = home.sandboxes()[&worker];
    let mut call = home.send("f1", &[], "1");
    home.line("f1", "half of it");
    kill(pid);
    let response = call.try_read().unwrap();
    let error = response.json();
    // Whichever is noticed first: that its answer broke off, or that it ended.
    let kinds = ["Runtime.TruncatedResponse", "Runtime.ExitError"].map(Value::from);
    assert!(kinds.contains(&error["errorType"]), "{error}");
    assert_ne!(answered(&home), worker);
    home.nothing_left_of(&worker, pid);
}

#[test]
fn spares_that_are_killed_are_replaced() {
    let home = Home::new();
    single(&home, CODE);
    for _ in 0..3 {
        let spares = until("there are spares", || Some(home.sandboxes()).filter(|all| all.len() >= 2));
        spares.values().for_each(|pid| kill(*pid));
        assert!(!spares.contains_key(&answered(&home)));
        for (spare, pid) in &spares {
            home.nothing_left_of(spare, *pid);
        }
        let file = home.path.join("functions/routes/f1.json");
        let route = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        home.refresh().unwrap();
        home.write("functions/routes/f1.json", &route);
        home.refresh().unwrap();
    }
}

/// Whatever is killed while it is made, claimed, loads, works, or rests.
#[test]
fn killed_at_any_moment() {
    let home = Home::new();
    single(&home, CODE);
    let (calls, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut lost, mut answers) = (0, 0);
    thread::scope(|scope| {
        // One for every two calls.
        let killing = scope.spawn(|| {
            let (mut chance, mut kills) = (Chance(3), 0);
            while !over.load(Ordering::Relaxed) {
                if calls.load(Ordering::Relaxed) < kills * 2 {
                    pause();
                    continue;
                }
                pass(Duration::from_micros(chance.below(30_000)));
                let all: Vec<i32> = home.sandboxes().into_values().collect();
                let nth = chance.below(u64::try_from(all.len().max(1)).unwrap());
                if let Some(pid) = all.get(usize::try_from(nth).unwrap()) {
                    kill(*pid);
                    kills += 1;
                }
            }
            kills
        });
        let call = |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            home.invoke("f1", &[], "0.02")
        };
        let responses: Vec<_> = (0..60).map(call).collect();
        over.store(true, Ordering::Relaxed);
        for response in responses {
            if response.header("x-amz-function-error").is_some() {
                killed(&response);
                lost += 1;
            } else {
                assert_eq!(response.status, 200, "{}", response.text());
                answers += 1;
            }
        }
        let kills = killing.join().unwrap();
        println!("of 60 calls {answers} were answered, {lost} were lost; {kills} were killed");
        assert!(kills > 10 && lost <= kills, "{kills}");
    });
    let before = home.sandboxes();
    // The last one that was killed may have read a call before it noticed; the next call has another.
    let response = home.invoke("f1", &[], "0");
    if response.header("x-amz-function-error").is_some() {
        killed(&response);
    }
    answered(&home);
    std::fs::remove_file(home.path.join("functions/routes/f1.json")).unwrap();
    home.refresh().unwrap();
    until("all have ended", || home.sandboxes().is_empty().then_some(()));
    for (sandbox, pid) in before {
        home.nothing_left_of(&sandbox, pid);
    }
}

#[test]
fn who_waits_for_a_function_that_is_removed_is_told_and_who_has_begun_is_answered() {
    let home = Home::with(&["queue_wait=60000"]);
    single(&home, CODE);
    let worker = answered(&home);
    let pid = home.sandboxes()[&worker];
    let mut begun = home.send("f1", &[], "1");
    home.line("f1", "at work");
    let mut waiting: Vec<_> = (0..3).map(|_| home.send("f1", &[], "0")).collect();
    // Most probably they are in the queue by the time that one who came later is answered.
    home.function("f1");
    assert_eq!(home.invoke("f1", &[("X-Amz-Invocation-Type", "DryRun")], "0").status, 204);
    std::fs::remove_file(home.path.join("functions/routes/f1.json")).unwrap();
    home.refresh().unwrap();
    for call in &mut waiting {
        let response = call.try_read().unwrap();
        let is_told = response.status == 500 && response.text().contains("the function was removed");
        // Or one came only after the removal.
        assert!(is_told || response.status == 404, "{}", response.text());
    }
    assert_eq!(begun.try_read().unwrap().json(), worker.as_str());
    home.nothing_left_of(&worker, pid);
}
