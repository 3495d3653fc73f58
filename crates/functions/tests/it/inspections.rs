//! A debugger at a function's worker: Node's own inspector protocol, spoken from outside the sandbox.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use functions::route::{INSPECTION_PROTOCOL, Notice, Prepared, Route};
use serde_json::{Value, json};

use crate::home::{Home, until};
use crate::http::{Connection, Response};

/// Waits, by its own clock, until it is past its deadline.
const HANDLER: &str = "export const handler = async (event, context) => {
  const answer = event.n + 1;
  while (event.late && context.getRemainingTimeInMillis() > -500) await new Promise(done => setTimeout(done, 10));
  while (event.ever) await new Promise(done => setTimeout(done, 10));
  return answer;
}";

/// Asks for an upgrade; what it became, and the answer's head.
fn upgrade(home: PathBuf, path: &str) -> (BufReader<UnixStream>, u16, Vec<(String, String)>) {
    let mut stream = UnixStream::connect(home.join("functions/invoke.sock")).unwrap();
    let head = format!(
        "POST /stead/functions/{path} HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: {INSPECTION_PROTOCOL}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    (stream, status, headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// An inspection under way, as `stead dev --inspect` holds one.
struct Inspection {
    notices: BufReader<UnixStream>,
    id: String,
    port: u16,
}

impl Inspection {
    fn begin(home: &Home) -> Self {
        let (notices, status, headers) = upgrade(home.path.clone(), "f1/inspections");
        assert_eq!(status, 101, "{}", home.log());
        let id = headers.into_iter().find(|(name, _)| name == "stead-inspection").unwrap().1;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (path, carried) = (home.path.clone(), format!("f1/inspections/{id}"));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (path, carried) = (path.clone(), carried.clone());
                thread::spawn(move || carry(path, &carried, stream.unwrap()));
            }
        });
        Self { notices, id, port }
    }

    fn notice(&mut self) -> Notice {
        let mut line = String::new();
        self.notices.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// What the inspector itself says of what it inspects.
    fn targets(&self) -> Response {
        // Node refuses every other name, for browsers' sake.
        Connection::tcp(self.port).ask("GET /json/list", &[("Host", "localhost")], b"")
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        let _ = self.notices.get_ref().shutdown(Shutdown::Both);
    }
}

fn carry(home: PathBuf, path: &str, debugger: TcpStream) {
    let (inspector, status, _) = upgrade(home, path);
    if status != 101 {
        return;
    }
    let (mut said, mut told) = (debugger.try_clone().unwrap(), inspector.get_ref().try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut said, &mut told);
        let _ = told.shutdown(Shutdown::Write);
    });
    let (mut inspector, mut debugger) = (inspector, debugger);
    let _ = std::io::copy(&mut inspector, &mut debugger);
    let _ = debugger.shutdown(Shutdown::Both);
}

/// A debugger with a breakpoint where the answer is computed.
struct Debugger {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Debugger {
    fn attach(port: u16) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inspector/debugger.mjs");
        let mut process = Command::new("/usr/bin/node")
            .args(["--no-warnings", "--experimental-websocket", script, &port.to_string(), "2", "answer"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut debugger = Self { process, said };
        assert_eq!(debugger.says(), json!({ "attached": true }));
        debugger
    }

    fn says(&mut self) -> Value {
        let line = self.said.next().expect("it goes on").unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn route(home: &Home, handler: &str) -> Route {
    let mut version = home.version("nodejs20.x", "index.handler", &[("index.mjs", handler)]);
    version.timeout_ms = 1000;
    let route = home.route("f1", version);
    home.put(&route);
    route
}

fn timed_out(response: &Response) -> bool {
    response.json()["errorType"] == "Sandbox.Timedout"
}

#[test]
fn a_call_at_a_breakpoint_has_the_time_that_somebody_takes() {
    let home = Home::new();
    route(&home, HANDLER);
    let late = json!({ "n": 1, "late": true }).to_string();
    let control = home.invoke("f1", &[], &late);
    assert!(timed_out(&control), "without a debugger it is ended: {control:?}");

    let mut inspection = Inspection::begin(&home);
    assert_eq!(inspection.notice(), Notice::Ready { version: 1 }, "{}", home.log());
    let mut debugger = Debugger::attach(inspection.port);
    thread::scope(|scope| {
        let call = scope.spawn(|| home.invoke("f1", &[], "{\"n\": 41}"));
        assert_eq!(debugger.says(), json!({ "paused": 42 }));
        // Meanwhile another waits for its turn, however long, and then has no deadline either.
        let beside = scope.spawn(|| home.invoke("f1", &[], &late));
        assert!(debugger.says()["past"].as_i64().is_some_and(|left| left <= -500));
        for (call, answer) in [(call, "42"), (beside, "2")] {
            let answered = call.join().unwrap();
            assert_eq!((answered.status, answered.text().as_str()), (200, answer), "{}", home.log());
        }
    });
    // It is not frozen when nobody calls: a timer that a debugger has set comes to its end.
    assert_eq!(debugger.says(), json!({ "rest": "awake" }));

    drop(inspection);
    assert_eq!(debugger.says(), json!({ "closed": true }));
    let control = home.invoke("f1", &[], &late);
    assert!(timed_out(&control), "and so it is afterwards: {control:?}");
}

#[test]
fn a_call_that_is_left_alone_has_its_whole_time_again() {
    let home = Home::new();
    route(&home, HANDLER);
    let mut inspection = Inspection::begin(&home);
    assert_eq!(inspection.notice(), Notice::Ready { version: 1 });
    thread::scope(|scope| {
        let calls = [(); 2].map(|()| scope.spawn(|| home.invoke("f1", &[], "{\"ever\": true}")));
        until("one is under way", || (home.function("f1").workers.busy == 1).then_some(()));
        // The other waits, and is taken over by the workers that there are without an inspection.
        drop(inspection);
        for call in calls {
            let call = call.join().unwrap();
            assert!(timed_out(&call), "{call:?}");
        }
    });
    until("its worker has gone", || (home.function("f1").workers.busy == 0).then_some(()));
}

#[test]
fn the_worker_of_the_version_that_is_live_is_inspected() {
    let home = Home::new();
    let mut route = route(&home, HANDLER);
    let mut inspection = Inspection::begin(&home);
    assert_eq!(inspection.notice(), Notice::Ready { version: 1 });
    // More than there are sockets: they are used again.
    let before: Vec<_> = (0..40).map(|_| inspection.targets().json()[0]["id"].clone()).collect();
    assert!(before[0].is_string() && before.iter().all(|id| *id == before[0]), "{before:?}");

    let mut edit = |handler: &str, file: &str| {
        let number = route.generation + 1;
        let mut version = home.version("nodejs20.x", "index.handler", &[(file, handler)]);
        version.timeout_ms = 1000;
        route.generation = number;
        route.versions.insert(number, version);
        home.put(&route);
        let prepared = home.prepare("f1", number);
        if prepared == Prepared::Ready {
            route.generation += 1;
            route.live = Some(number);
            home.put(&route);
        }
        (prepared, number)
    };
    let (prepared, number) = edit("export const handler = async () => 'new'", "index.mjs");
    assert_eq!(prepared, Prepared::Ready, "{}", home.log());
    assert_eq!(inspection.notice(), Notice::Ready { version: number });
    assert_ne!(inspection.targets().json()[0]["id"], before[0], "it is another process");
    assert_eq!(home.invoke("f1", &[], "{}").text(), "\"new\"");
    until("the worker of the old one has gone", || {
        let workers = home.function("f1").workers;
        (workers.idle + workers.busy == 1).then_some(())
    });
    // One that does not start leaves the debugger with the one that answers.
    let live = inspection.targets().json()[0]["id"].clone();
    let (prepared, _) = edit("throw new Error('no')", "index.mjs");
    assert!(matches!(prepared, Prepared::Broken { .. }), "{prepared:?}");
    assert_eq!(inspection.targets().json()[0]["id"], live);
    assert_eq!(home.invoke("f1", &[], "{}").text(), "\"new\"");
}

#[test]
fn a_worker_that_ends_is_followed_by_one_that_can_be_inspected() {
    let home = Home::new();
    route(&home, "export const handler = async () => process.exit(1)");
    let mut inspection = Inspection::begin(&home);
    assert_eq!(inspection.notice(), Notice::Ready { version: 1 });
    let before = inspection.targets().json()[0]["id"].clone();
    assert_eq!(home.invoke("f1", &[], "{}").json()["errorType"], "Runtime.ExitError");
    assert_eq!(inspection.notice(), Notice::Ready { version: 1 }, "{}", home.log());
    assert_ne!(inspection.targets().json()[0]["id"], before);
}

#[test]
fn what_cannot_be_inspected_is_said() {
    let home = Home::new();
    let refused = |path: &str| {
        let (mut answer, status, _) = upgrade(home.path.clone(), path);
        let mut body = String::new();
        let _ = answer.get_ref().shutdown(Shutdown::Write);
        answer.read_to_string(&mut body).unwrap();
        (status, body)
    };
    home.python("def handler(event, context): return 1\n");
    let (status, body) = refused("f1/inspections");
    assert_eq!(status, 400);
    assert!(body.contains("inspecting is for Node.js: `python3.11` has no inspector"), "{body}");
    assert_eq!(refused("f2/inspections").0, 404);

    let mut route = home.node("export const handler = async () => process.env.STEAD_INSPECT ?? 'nothing'");
    route.generation += 1;
    home.put(&route);
    let inspection = Inspection::begin(&home);
    let (status, body) = refused("f1/inspections");
    assert_eq!(status, 409);
    assert!(body.contains("somebody inspects this function already"), "{body}");
    // Who did not begin it has no way in.
    assert_eq!(refused("f1/inspections/00000000-0000-4000-8000-000000000000").0, 404);
    assert_eq!(home.invoke("f1", &[], "{}").text(), "\"nothing\"", "the function is told nothing of it");
    let id = inspection.id.clone();
    drop(inspection);
    until("it has ended", || (refused(&format!("f1/inspections/{id}")).0 == 404).then_some(()));
}
