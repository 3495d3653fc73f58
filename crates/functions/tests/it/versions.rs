//! Versions: brought up beside each other, flipped, drained, shared out; and how many work at once.

use std::thread;
use std::time::{Duration, Instant};

use functions::route::{Canary, Prepared, Route};
use serde_json::json;

use crate::home::{Home, until};
use crate::http::Connection;

fn answering(home: &Home, text: &str) -> functions::route::Version {
    let code = format!(
        "export const handler = async (event) => {{
           const wait = event.wait ?? Number(event.queryStringParameters?.wait ?? 0);
           await new Promise(done => setTimeout(done, wait)); return '{text}' }}"
    );
    home.version("nodejs20.x", "index.handler", &[("index.mjs", &code)])
}

fn edit(route: &mut Route, change: impl FnOnce(&mut Route)) {
    route.generation += 1;
    change(route);
}

#[test]
fn a_version_is_prepared_flipped_and_the_old_one_drains() {
    let home = Home::new();
    let mut route = home.route("f1", answering(&home, "one"));
    home.put(&route);
    assert_eq!(home.get(&route, "/").text(), "\"one\"");
    edit(&mut route, |route| drop(route.versions.insert(2, answering(&home, "two"))));
    home.put(&route);
    assert_eq!(home.prepare("f1", 2), Prepared::Ready, "{}", home.log());
    let status = home.function("f1");
    assert_eq!((status.live, status.ready, status.workers.idle), (Some(1), vec![1, 2], 2));
    thread::scope(|scope| {
        let slow = scope.spawn(|| home.get(&route, "/?wait=500").text());
        until("it has begun", || (home.function("f1").workers.busy == 1).then_some(()));
        let mut flipped = route.clone();
        edit(&mut flipped, |route| route.live = Some(2));
        home.put(&flipped);
        assert_eq!(home.get(&flipped, "/").text(), "\"two\"");
        assert_eq!(slow.join().unwrap(), "\"one\"");
    });
    // The worker of the old version has gone.
    until("only one is left", || {
        let workers = home.function("f1").workers;
        (workers.busy == 0 && workers.idle == 1).then_some(())
    });
    // It can still be asked for by name.
    assert_eq!(home.invoke("f1:1", &[], "{}").text(), "\"one\"");
}

/// A worker that is let go is told nothing that it could complain of in the function's log.
#[test]
fn who_is_let_go_goes_in_silence() {
    let home = Home::new();
    // Their answer is the name of their worker.
    let node = "import os from 'node:os'; export const handler = async () => os.hostname()";
    let python = "import socket\ndef handler(event, context):\n    return socket.gethostname()";
    for (function, runtime, file, code) in
        [("f1", "nodejs20.x", "index.mjs", node), ("f2", "python3.11", "index.py", python)]
    {
        let version = home.version(runtime, "index.handler", &[(file, code)]);
        let mut route = home.route(function, version.clone());
        home.put(&route);
        for number in 2..8 {
            let worker = home.get(&route, "/").json().as_str().unwrap().to_owned();
            let pid = home.sandboxes()[&worker];
            edit(&mut route, |route| {
                route.versions = [(number, version.clone())].into();
                route.live = Some(number);
            });
            home.put(&route);
            home.nothing_left_of(&worker, pid);
        }
        // What follows is written after all that came before.
        home.get(&route, "/");
        until("the last call is in the log", || {
            let reports = home.log().matches("REPORT RequestId").count();
            (reports >= if function == "f1" { 7 } else { 14 }).then_some(())
        });
        let said: Vec<_> = home.lines(function).into_iter().filter(|line| line["level"] != "info").collect();
        assert_eq!(said, Vec::<serde_json::Value>::new());
    }
}

/// A version that is taken away answers what had come to it, also what waits for a worker, and leaves nobody behind.
#[test]
fn a_version_that_is_no_more_answers_those_who_came_before() {
    let home = Home::new();
    // Its answer is the name of its worker.
    let code = "import os from 'node:os';
                export const handler = async (event) => {
                  if (event.wait) console.log('at work');
                  await new Promise(done => setTimeout(done, event.wait ?? 0)); return os.hostname() }";
    let mut one = home.version("nodejs20.x", "index.handler", &[("index.mjs", code)]);
    one.concurrency = 1;
    let mut route = home.route("f1", one);
    home.put(&route);
    let worker = home.get(&route, "/").json().as_str().unwrap().to_owned();
    let pid = home.sandboxes()[&worker];
    thread::scope(|scope| {
        let ask = || scope.spawn(|| home.invoke("f1", &[], "{\"wait\": 700}"));
        let calls = [ask(), ask(), ask()];
        until("one has begun", || home.log().contains("at work").then_some(()));
        edit(&mut route, |route| {
            route.versions = [(2, answering(&home, "two"))].into();
            route.live = Some(2);
        });
        home.put(&route);
        assert_eq!(home.get(&route, "/").text(), "\"two\"");
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!((answer.status, answer.text()), (200, format!("\"{worker}\"")));
        }
    });
    home.nothing_left_of(&worker, pid);
}

#[test]
fn a_version_that_does_not_start_is_told_and_serves_nobody() {
    let home = Home::new();
    let mut route = home.route("f1", answering(&home, "one"));
    let code = "console.log('here I am'); throw new TypeError('not today')";
    let broken = home.version("nodejs20.x", "index.handler", &[("index.mjs", code)]);
    route.versions.insert(2, broken);
    let mut unknown = answering(&home, "three");
    unknown.runtime = "cobol85".to_owned();
    route.versions.insert(3, unknown);
    home.put(&route);
    match home.prepare("f1", 2) {
        Prepared::Broken { error_type, message, log } => {
            assert_eq!((error_type.as_str(), message.as_str()), ("TypeError", "not today"));
            assert!(log.contains("here I am"), "{log}");
        }
        other => panic!("{other:?}"),
    }
    for version in [3, 4] {
        assert!(matches!(home.prepare("f1", version), Prepared::Unavailable { .. }));
    }
    assert_eq!(home.get(&route, "/").text(), "\"one\"");
    assert_eq!(home.function("f1").ready, [1]);
}

#[test]
fn a_canary_keeps_its_callers() {
    let home = Home::new();
    let mut route = home.route("f1", answering(&home, "one"));
    route.versions.insert(2, answering(&home, "two"));
    route.canary = Some(Canary { version: 2, percent: 50, returned: None });
    home.put(&route);
    let port = route.url.as_ref().unwrap().port;
    let of = |agent: &str| Connection::tcp(port).ask("GET /", &[("User-Agent", agent)], b"").text();
    let agents: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    let first: Vec<_> = agents.iter().map(|agent| of(agent)).collect();
    assert!(first.contains(&"\"one\"".to_owned()) && first.contains(&"\"two\"".to_owned()));
    let second: Vec<_> = agents.iter().map(|agent| of(agent)).collect();
    assert_eq!(first, second);
}

#[test]
fn no_more_work_at_once_than_may_and_who_waits_too_long_is_told() {
    let home = Home::with(&["queue_wait=200"]);
    let mut version = answering(&home, "one");
    version.concurrency = 2;
    home.put(&home.route("f1", version));
    home.invoke("f1", &[], "{}");
    let statuses: Vec<u16> = thread::scope(|scope| {
        let calls: Vec<_> =
            (0..5).map(|_| scope.spawn(|| home.invoke("f1", &[], "{\"wait\": 1500}").status)).collect();
        until("two work", || (home.function("f1").workers.busy == 2).then_some(()));
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(200), count(429)), (2, 3), "{statuses:?}");
}

#[test]
fn who_rests_is_frozen_thawed_for_a_call_and_ended_in_the_end() {
    let home = Home::with(&["idle=1500"]);
    let code = "let ticks = 0; setInterval(() => ticks++, 5);
                export const handler = async () => ticks";
    let route = home.serve("nodejs20.x", "index.mjs", code);
    let ticks = || home.get(&route, "/").json().as_u64().unwrap();
    let before = ticks();
    let began = Instant::now();
    until("a second has passed", || (began.elapsed() > Duration::from_secs(1)).then_some(()));
    let after = ticks();
    // Of 200 ticks in a second it made those of the first moments.
    assert!(after - before < 60, "{before} {after}");
    until("it has ended", || (home.function("f1").workers.idle == 0).then_some(()));
    assert_eq!(home.get(&route, "/").status, 200);
}

#[test]
fn a_keeper_that_is_killed_costs_no_invocation() {
    let mut home = Home::new();
    let code = "export const handler = async (event) => {
      console.log('begun'); await new Promise(done => setTimeout(done, 1000)); if (event.exit) process.exit(4); return process.uptime() }";
    home.node(code);
    let socket = home.path.join("functions/invoke.sock");
    let call = |payload: &'static str| {
        let socket = socket.clone();
        thread::spawn(move || {
            let target = "POST /2015-03-31/functions/f1/invocations";
            Connection::unix(&socket).ask(target, &[], payload.as_bytes())
        })
    };
    let slow = call("{}");
    until("it has begun", || {
        home.lines("f1").iter().any(|line| line["message"].as_str().unwrap().contains("begun")).then_some(())
    });
    home.restart_keeper();
    let response = slow.join().unwrap();
    assert_eq!((response.status, response.header("x-amz-function-error")), (200, None), "{}", home.log());
    // That one goes, of whose end nobody would tell.
    until("it has gone", || {
        (home.function("f1").workers == functions::route::Workers::default()).then_some(())
    });
    let lost = call("{\"exit\": true}");
    until("it has begun", || (home.function("f1").workers.busy == 1).then_some(()));
    home.restart_keeper();
    let response = lost.join().unwrap().json();
    assert_eq!(response["errorType"], "Runtime.ExitError", "{response}");
}

#[test]
fn others_of_stead_reach_what_is_theirs_to_reach() {
    use std::os::unix::fs::MetadataExt;
    let home = Home::new();
    home.node("export const handler = async () => console.log('hello')");
    home.invoke("f1", &[], "1");
    home.line("f1", "hello");
    let gid = keeper::Host::read(&home.path).unwrap().gid();
    for (path, mode) in [
        ("functions/functions.sock", 0o660),
        ("functions/invoke.sock", 0o660),
        ("logs/function-f1.jsonl", 0o640),
        ("spool/functions.jsonl", 0o640),
    ] {
        let meta = std::fs::metadata(home.path.join(path)).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o777), (gid, mode), "{path}");
    }
}

#[test]
fn a_token_is_asked_for_where_one_is_declared() {
    use sha2::{Digest, Sha256};
    let home = Home::new();
    let code = "export const handler = async (event) => event.headers.authorization ?? 'nothing'";
    let mut route = home.route("f1", home.version("nodejs20.x", "index.handler", &[("index.mjs", code)]));
    let hash: String = Sha256::digest(b"secret").iter().map(|byte| format!("{byte:02x}")).collect();
    let url = route.url.as_mut().unwrap();
    url.token_sha256 = Some(hash);
    let port = url.port;
    home.put(&route);
    let with = |headers: &[(&str, &str)]| {
        let response = Connection::tcp(port).ask("GET /", headers, b"");
        (response.status, response.text())
    };
    assert_eq!(with(&[]), (403, "{\"Message\":\"Forbidden\"}".into()));
    assert_eq!(with(&[("Authorization", "Bearer wrong")]).0, 403);
    assert_eq!(with(&[("Authorization", "Bearer secret")]), (200, "\"nothing\"".into()));
}

#[test]
fn a_route_that_makes_no_sense_changes_nothing_and_is_told() {
    let home = Home::new();
    let mut route = home.route("f1", answering(&home, "one"));
    home.put(&route);
    let good = route.clone();
    edit(&mut route, |route| route.live = Some(9));
    home.write("functions/routes/f1.json", &serde_json::to_vec(&route).unwrap());
    let status = home.function("f1");
    assert_eq!(status.generation, 1);
    assert!(status.trouble.unwrap().contains("none of `versions`"));
    assert_eq!(home.get(&good, "/").text(), "\"one\"");
    std::fs::remove_file(home.path.join("functions/routes/f1.json")).unwrap();
    assert!(home.refresh().unwrap().functions.is_empty());
    until("its port is closed", || {
        std::net::TcpStream::connect(("127.0.0.1", good.url.as_ref().unwrap().port)).is_err().then_some(())
    });
}

#[test]
fn variables_that_interpreters_read_at_their_start_are_there_at_their_start() {
    let home = Home::new();
    let code = "export const handler = async () => [new Date(0).getHours(), process.execArgv, process.env.NODE_OPTIONS, process.env.MINE]";
    let mut version = home.version("nodejs20.x", "index.handler", &[("index.mjs", code)]);
    version.environment = [("TZ", "Asia/Tokyo"), ("NODE_OPTIONS", "--no-warnings"), ("MINE", "yes")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    home.put(&home.route("f1", version));
    let response = home.invoke("f1", &[], "1");
    assert_eq!(response.json(), json!([9, [], "--no-warnings", "yes"]), "{}", home.log());
}
