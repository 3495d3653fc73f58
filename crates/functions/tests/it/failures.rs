//! What callers are told of functions that fail, in Lambda's shapes.

use serde_json::{Value, json};

use crate::home::{Home, until};

/// The error of an invocation that fails.
#[track_caller]
fn failure(home: &Home, payload: &str) -> Value {
    let response = home.invoke("f1", &[], payload);
    assert_eq!(response.status, 200, "{response:?}\n{}", home.log());
    assert_eq!(response.header("x-amz-function-error"), Some("Unhandled"), "{response:?}");
    response.json()
}

#[test]
fn errors_of_node_handlers_have_their_type_and_trace() {
    let home = Home::new();
    let route = home.node(
        "class Odd extends Error { constructor(m) { super(m); this.name = 'Odd' } }
         export const handler = async (event) => {
           if (event === 'odd') throw new Odd('strange');
           if (event === 'text') throw 'just text';
           if (event === 'lost') { Promise.reject(new Error('nobody waits')); await new Promise(r => setTimeout(r, 1000)); }
           return event;
         }",
    );
    let error = failure(&home, "\"odd\"");
    assert_eq!((&error["errorType"], &error["errorMessage"]), (&json!("Odd"), &json!("strange")));
    assert!(error["trace"][1].as_str().unwrap().contains("/var/task/index.mjs"), "{error}");
    let error = failure(&home, "\"text\"");
    assert_eq!((&error["errorType"], &error["errorMessage"]), (&json!("string"), &json!("just text")));
    let error = failure(&home, "\"lost\"");
    assert_eq!(error["errorType"], "Runtime.UnhandledPromiseRejection");
    // The process of an error that nobody caught is gone; the next has another.
    assert_eq!(home.invoke("f1", &[], "1").text(), "1");
    // A URL tells nothing of why.
    let response = home.get(&route, "/");
    assert_eq!(response.status, 200);
}

#[test]
fn errors_of_python_handlers_have_their_type_and_trace() {
    let home = Home::new();
    home.python(
        "class Odd(Exception): pass\ndef handler(event, context):\n    if event == 'odd': raise Odd('strange')\n    return {1, 2}\n",
    );
    let error = failure(&home, "\"odd\"");
    assert_eq!((&error["errorType"], &error["errorMessage"]), (&json!("Odd"), &json!("strange")));
    assert!(error["requestId"].as_str().is_some_and(|id| id.len() == 36), "{error}");
    assert!(error["stackTrace"][0].as_str().unwrap().contains("/var/task/index.py"), "{error}");
    assert_eq!(failure(&home, "1")["errorType"], "Runtime.MarshalError");
}

#[test]
fn code_that_cannot_be_loaded_is_told_in_the_runtimes_words() {
    let home = Home::new();
    let mut generation = 0;
    let mut told = |runtime: &str, file: &str, code: &str, handler: &str| {
        generation += 1;
        let version = home.version(runtime, handler, &[(file, code)]);
        let mut route = home.route("f1", version.clone());
        route.generation = generation;
        route.versions = [(generation, version)].into();
        route.live = Some(generation);
        home.put(&route);
        failure(&home, "1")["errorType"].as_str().unwrap().to_owned()
    };
    let (node, python) = ("nodejs20.x", "python3.11");
    assert_eq!(told(node, "index.mjs", "import 'nowhere';", "index.handler"), "Runtime.ImportModuleError");
    assert_eq!(told(node, "index.mjs", "export const other = 1", "index.handler"), "Runtime.HandlerNotFound");
    assert_eq!(told(node, "index.mjs", "export const = ;", "index.handler"), "Runtime.UserCodeSyntaxError");
    assert_eq!(told(node, "index.mjs", "", "absent.handler"), "Runtime.ImportModuleError");
    assert_eq!(told(node, "index.mjs", "process.exit(3)", "index.handler"), "Runtime.ExitError");
    assert_eq!(told(python, "index.py", "import nowhere", "index.handler"), "Runtime.ImportModuleError");
    assert_eq!(told(python, "index.py", "x = 1", "index.handler"), "Runtime.HandlerNotFound");
    assert_eq!(told(python, "index.py", "def", "index.handler"), "Runtime.UserCodeSyntaxError");
    assert_eq!(told(python, "index.py", "1 / 0", "index.handler"), "ZeroDivisionError");
}

#[test]
fn who_takes_too_long_is_ended() {
    let home = Home::new();
    let code = "export const handler = async (event) => { if (event === 1) for (;;); return 'quick' }";
    let mut version = home.version("nodejs20.x", "index.handler", &[("index.mjs", code)]);
    version.timeout_ms = 300;
    version.concurrency = 1;
    home.put(&home.route("f1", version));
    let error = failure(&home, "1");
    assert_eq!(error["errorType"], "Sandbox.Timedout");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(
        message.starts_with("RequestId: ") && message.ends_with(" Error: Task timed out after 0.30 seconds"),
        "{message}"
    );
    assert_eq!(home.invoke("f1", &[], "2").text(), "\"quick\"");
    assert_eq!(home.line("f1", "Status: timeout")["report"]["error_type"], "Sandbox.Timedout");
}

#[test]
fn how_a_process_ended_is_told() {
    let home = Home::new();
    home.node(
        "export const handler = async (event) => {
           if (event === 'exit') process.exit(7);
           if (event === 'kill') process.kill(process.pid, 'SIGKILL');
           const all = []; for (;;) all.push(Buffer.alloc(1 << 24, 1));
         }",
    );
    let error = failure(&home, "\"exit\"");
    assert_eq!(error["errorType"], "Runtime.ExitError");
    assert!(
        error["errorMessage"].as_str().unwrap().ends_with("Error: Runtime exited with error: exit status 7"),
        "{error}"
    );
    let error = failure(&home, "\"memory\"");
    assert_eq!(error["errorType"], "Runtime.OutOfMemory", "{error}\n{}", home.log());
}

#[test]
fn what_is_too_large_is_refused() {
    let home = Home::new();
    let route = home.node(
        "export const handler = async (event) => event === 'big' ? 'x'.repeat(6 * 1024 * 1024 + 200) : 'fine'",
    );
    assert_eq!(failure(&home, "\"big\"")["errorType"], "Function.ResponseSizeTooLarge");
    assert_eq!(home.invoke("f1", &[], "1").text(), "\"fine\"");
    let large = format!("\"{}\"", "x".repeat(6 * 1024 * 1024));
    let response = home.invoke("f1", &[], &large);
    assert_eq!(
        (response.status, response.header("x-amzn-errortype")),
        (413, Some("RequestTooLargeException"))
    );
    let mut connection = crate::http::Connection::tcp(route.url.as_ref().unwrap().port);
    assert_eq!(connection.ask("POST /", &[], large.as_bytes()).status, 413);
}

#[test]
fn the_invoke_api_refuses_in_lambdas_words() {
    let home = Home::new();
    home.node("export const handler = async () => 1");
    let refusal = |function: &str, headers: &[(&str, &str)], payload: &str| {
        let response = home.invoke(function, headers, payload);
        (response.status, response.header("x-amzn-errortype").unwrap_or_default().to_owned())
    };
    assert_eq!(refusal("nobody", &[], "1"), (404, "ResourceNotFoundException".into()));
    assert_eq!(refusal("f1:7", &[], "1"), (404, "ResourceNotFoundException".into()));
    assert_eq!(refusal("f1", &[], "{"), (400, "InvalidRequestContentException".into()));
    assert_eq!(
        refusal("f1", &[("X-Amz-Invocation-Type", "x")], "1"),
        (400, "InvalidParameterValueException".into())
    );
    assert_eq!(refusal("f1", &[("X-Amz-Invocation-Type", "DryRun")], "1").0, 204);
    assert_eq!(refusal("f1:1", &[], "1").0, 200);
    assert_eq!(refusal("arn%3Aaws%3Alambda%3Alocal%3A1%3Afunction%3Af1", &[], "").0, 200);
}

#[test]
fn the_end_of_the_log_comes_with_the_answer() {
    use base64::Engine;
    let home = Home::new();
    home.python(
        "import logging\ndef handler(event, context):\n    print('plainly')\n    logging.error('gravely')\n",
    );
    let response = home.invoke("f1", &[("X-Amz-Log-Type", "Tail")], "1");
    let tail = response.header("x-amz-log-result").unwrap();
    let tail = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(tail).unwrap()).unwrap();
    let lines: Vec<_> = tail.lines().map(|line| line.split(['\t', ' ']).next().unwrap()).collect();
    assert_eq!(lines, ["START", "plainly", "[ERROR]", "END", "REPORT"], "{tail}");
    let id = response.header("x-amzn-requestid").unwrap();
    for (text, level) in [("plainly", "info"), ("gravely", "error")] {
        let line = home.line("f1", text);
        assert_eq!((&line["request_id"], &line["level"]), (&json!(id), &json!(level)));
    }
    assert!(home.line("f1", "REPORT")["report"]["max_memory_mib"].as_u64().unwrap() > 1);
}

#[test]
fn a_flood_of_lines_is_bounded() {
    let home = Home::with(&["log_rate=10000", "log_burst=100000", "rotate_at=30000"]);
    home.node(
        "export const handler = async () => { for (let n = 0; n < 20000; n++) console.log('a line of some length ' + n); return 1 }",
    );
    assert_eq!(home.invoke("f1", &[], "1").text(), "1");
    until("what was dropped is told", || {
        let all = home.log();
        all.contains("lines of about").then_some(())
    });
    let size = home.log_bytes("f1");
    assert!(size < 400_000, "{size}");
}

#[test]
fn every_line_belongs_to_its_invocation() {
    let home = Home::new();
    let code = "import os\ndef handler(event, context):\n    os.write(1, b'I am ' + context.aws_request_id.encode() + b'\\n' * 1)\n    os.write(2, b'I am ' + context.aws_request_id.encode() + b'\\n')\n";
    let mut version = home.version("python3.11", "index.handler", &[("index.py", code)]);
    version.concurrency = 1;
    home.put(&home.route("f1", version));
    let mut connection = crate::http::Connection::unix(&home.path.join("functions/invoke.sock"));
    for _ in 0..300 {
        let response = connection.ask("POST /2015-03-31/functions/f1/invocations", &[], b"1");
        assert_eq!(response.status, 200);
    }
    let own = |line: &&Value| line["message"].as_str().is_some_and(|text| text.starts_with("I am "));
    let lines = until("all lines are there", || {
        let lines = home.lines("f1");
        (lines.iter().filter(|line| line["report"].is_object()).count() == 300).then_some(lines)
    });
    assert_eq!(lines.iter().filter(own).count(), 600);
    for line in lines.iter().filter(own) {
        let id = line["request_id"].as_str().unwrap();
        assert_eq!(line["message"], format!("I am {id}"), "{line}");
    }
    // START, two lines, END, REPORT; of one after the other.
    for five in lines.chunks(5) {
        assert!(five.iter().all(|line| line["request_id"] == five[0]["request_id"]), "{five:?}");
        assert!(five[0]["message"].as_str().unwrap().starts_with("START"), "{five:?}");
    }
}
