//! A debugger at a function that is being developed: a real one, through `stead dev --inspect`.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::installation::{Installation, text, until};

const MANIFEST: &str = r#"app = "demo"
[function.api]
code = "api"
runtime = "nodejs24.x"
handler = "index.handler"
timeout = 1
[function.job]
code = "job"
runtime = "python3.11"
handler = "index.handler"
"#;

/// Waits, by its own clock, until it is past its deadline.
fn code(number: u32) -> String {
    format!(
        "export const handler = async (event, context) => {{
  const answer = event.n + {number};
  while (event.late && context.getRemainingTimeInMillis() > -500) await new Promise(done => setTimeout(done, 10));
  return answer;
}}"
    )
}

fn app(stead: &Installation) -> PathBuf {
    let folder = stead.app("demo", MANIFEST, &[]);
    for (file, text) in
        [("api/index.mjs", code(1)), ("job/index.py", "def handler(event, context): return 1\n".to_owned())]
    {
        std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
    }
    folder
}

/// `stead dev` at work; ended with the test.
struct Dev {
    process: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Dev {
    fn start(stead: &Installation, folder: &Path, token: &str) -> Self {
        let mut command =
            stead.command(&["dev", "--tenant", "acme", "--yes", "--inspect", "--inspect-at", "0"]);
        command.env("STEAD_TOKEN", token).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, said }
    }

    /// Where a debugger of this release connects.
    fn port(&mut self, release: u32) -> u16 {
        let begins = format!("release {release} of function.api waits for a debugger at 127.0.0.1:");
        let mut before = Vec::new();
        loop {
            let Some(line) = self.said.next() else { panic!("it ended: {before:?}") };
            let line = line.unwrap();
            match line.strip_prefix(&begins) {
                Some(port) => return port.parse().unwrap(),
                None => before.push(line),
            }
        }
    }

    fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The debugger of the engine's own tests, with a breakpoint where the answer has been computed.
struct Debugger {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Debugger {
    fn attach(port: u16) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/tests/inspector/debugger.mjs");
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
        serde_json::from_str(&self.said.next().unwrap().unwrap()).unwrap()
    }

    /// Stops a call, looks at it until it is past its deadline, and lets it go on.
    fn looks(&mut self, stead: &Installation, folder: &Path, answer: &Value) {
        std::thread::scope(|scope| {
            let call =
                scope.spawn(|| stead.ok_in(folder, &["invoke", "function.api", "--event", r#"{"n": 41}"#]));
            assert_eq!(self.says(), json!({ "paused": answer }));
            assert!(self.says()["past"].as_i64().is_some_and(|left| left <= -500));
            assert_eq!(serde_json::from_str::<Value>(&call.join().unwrap()).unwrap(), *answer);
        });
        assert_eq!(self.says(), json!({ "rest": "awake" }));
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Which process a debugger would be attached to.
fn target(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET /json/list HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n").unwrap();
    let mut body = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        body.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut list = vec![0; length];
    body.read_exact(&mut list).unwrap();
    serde_json::from_slice::<Value>(&list).unwrap()[0]["webSocketDebuggerUrl"].as_str().unwrap().to_owned()
}

#[test]
fn a_debugger_is_attached_while_a_function_is_developed() {
    let stead = Installation::started();
    let folder = app(&stead);
    let refused = stead.run_in(&folder, &["dev", "--tenant", "acme", "--yes", "--inspect", "function.job"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("function.job runs as python3.11: Python has no"), "{refused:?}");
    assert_eq!(stead.ok(&["status", "--all", "--json"]).trim(), "[]", "nothing was changed");

    let operator = std::fs::read_to_string(stead.home.join("operator.token")).unwrap();
    let mut dev = Dev::start(&stead, &folder, operator.trim());
    let port = dev.port(1);
    let before = target(port);
    assert!(before.starts_with(&format!("ws://127.0.0.1:{port}/")), "{before}");
    let mut debugger = Debugger::attach(port);
    debugger.looks(&stead, &folder, &json!(42));

    // A save: another release, another worker, the same port.
    std::fs::write(folder.join("api/index.mjs"), code(2)).unwrap();
    assert_eq!(dev.port(2), port);
    assert_eq!(debugger.says(), json!({ "closed": true }), "the worker before has gone");
    assert_ne!(target(port), before);
    Debugger::attach(port).looks(&stead, &folder, &json!(43));
    dev.interrupt();
    over(&stead, &folder, 1);

    // It lasts no longer than the right to it.
    let made = stead.ok(&["token", "create", "t", "--scope", "developer", "--tenant", "acme", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let mut dev = Dev::start(&stead, &folder, made["secret"].as_str().unwrap());
    let mut debugger = Debugger::attach(dev.port(2));
    stead.ok(&["token", "revoke", made["id"].as_str().unwrap()]);
    assert_eq!(debugger.says(), json!({ "closed": true }));
    assert!(!dev.process.wait().unwrap().success());
    over(&stead, &folder, 2);
    stead.finish();
}

/// So many inspections have begun and ended, which is on record, and calls have their deadline.
fn over(stead: &Installation, folder: &Path, inspections: usize) {
    let history: Vec<Value> = until("the end to be on record", || {
        let history: Vec<Value> = serde_json::from_str(&stead.ok_in(folder, &["history", "--json"])).unwrap();
        let ended = history.iter().filter(|line| line["action"] == "inspection.ended");
        (ended.count() == inspections).then_some(history)
    });
    let begun: Vec<_> = history.iter().filter(|line| line["action"] == "inspection.begun").collect();
    assert_eq!(begun.len(), inspections);
    assert!(begun.iter().all(|line| line["component"] == "function.api" && line["actor"].is_string()));
    let late = stead.run_in(folder, &["invoke", "function.api", "--event", r#"{"n": 1, "late": true}"#]);
    assert!(text(&late.stderr).contains("Sandbox.Timedout"), "{late:?}");
}
