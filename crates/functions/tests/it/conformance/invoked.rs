//! What a function does with the events of the Invoke API.

use std::thread;

use serde_json::{Value, json};

use super::installed::{CONCURRENCY, Installed, MEMORY_MIB, TIMEOUT_MS};
use crate::home::Home;
use crate::http::Response;

const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

struct Function<'a> {
    home: &'a Home,
    installed: &'a Installed,
}

/// All of it.
pub(crate) fn everything(home: &Home, installed: &Installed) {
    let function = Function { home, installed };
    function.answers();
    function.is_told_of_its_invocation();
    function.fails();
    function.prints();
    function.takes_and_gives_much();
    function.works_at_several();
    function.ends_in_time();
    function.survives_its_end();
    function.does_not_start();
    // After all that it is as it was.
    function.answers();
}

impl Function<'_> {
    fn handle(&self) -> &str {
        &self.installed.whole.function
    }

    #[track_caller]
    fn invoke(&self, event: &Value) -> Value {
        let response = self.home.invoke(self.handle(), &[], &event.to_string());
        self.well(&response);
        response.json()
    }

    #[track_caller]
    fn well(&self, response: &Response) {
        let name = self.installed.program.name;
        let start = response.text().chars().take(2000).collect::<String>();
        assert_eq!(response.status, 200, "{name}: {start}");
        assert_eq!(response.header("x-amz-function-error"), None, "{name}: {start}");
        assert_eq!(response.header("x-amz-executed-version"), Some("1"), "{name}");
    }

    /// An invocation that fails; its error.
    #[track_caller]
    fn failing(&self, handle: &str, event: &Value) -> Value {
        let response = self.home.invoke(handle, &[], &event.to_string());
        let name = self.installed.program.name;
        assert_eq!(response.status, 200, "{name}: {response:?}");
        assert_eq!(response.header("x-amz-function-error"), Some("Unhandled"), "{name}: {response:?}");
        response.json()
    }

    fn answers(&self) {
        let name = self.installed.program.name;
        for event in
            [json!({ "n": 1.5, "s": "ä€😀\u{0}\n", "null": null }), json!(7), json!([]), json!("text")]
        {
            assert_eq!(self.invoke(&event), json!({ "got": event }), "{name}");
        }
        let response = self.home.invoke(self.handle(), &[], "");
        assert_eq!(response.json(), json!({ "got": {} }), "{name}: no payload is an empty one");
    }

    fn is_told_of_its_invocation(&self) {
        let (name, handle) = (self.installed.program.name, self.handle());
        // {"custom": {"k": "v"}, "env": {}, "client": {...}}, as a mobile SDK writes it.
        let client = "eyJjdXN0b20iOnsiayI6InYifSwiZW52Ijp7fSwiY2xpZW50Ijp7Imluc3RhbGxhdGlvbl9pZCI6ImkiLCJhcHBfdGl0bGUiOiJ0IiwiYXBwX3ZlcnNpb25fbmFtZSI6Im4iLCJhcHBfdmVyc2lvbl9jb2RlIjoiYyIsImFwcF9wYWNrYWdlX25hbWUiOiJwIn19";
        let headers = [("X-Amz-Client-Context", client), ("X-Amzn-Trace-Id", TRACE)];
        let response = self.home.invoke(handle, &headers, "{\"do\":\"context\"}");
        self.well(&response);
        let mut told = response.json();
        let remaining = told["remaining_ms"].take().as_i64().unwrap();
        let most = i64::try_from(TIMEOUT_MS).unwrap();
        assert!((most - 20_000..=most).contains(&remaining), "{name}: {remaining} ms remain of {most}");
        let stream = told["log_stream"].take();
        assert!(stream.as_str().is_some_and(|stream| stream.contains("[1]")), "{name}: log stream {stream}");
        let expected = json!({
            "id": response.header("x-amzn-requestid").unwrap(),
            "arn": format!("arn:aws:lambda:local:123456789012:function:{handle}"),
            "function": handle,
            "version": "1",
            "memory": MEMORY_MIB,
            "log_group": format!("/aws/lambda/{handle}"),
            "log_stream": null,
            "trace": TRACE,
            "remaining_ms": null,
            "client": { "k": "v" },
        });
        assert_eq!(told, expected, "{name}");
    }

    fn fails(&self) {
        let name = self.installed.program.name;
        let error = self.failing(self.handle(), &json!({ "do": "fail" }));
        assert_eq!(error["errorType"], "Nasty", "{name}: {error}");
        assert_eq!(error["errorMessage"], "on purpose", "{name}: {error}");
        self.home.line(self.handle(), "Status: error\tError Type: ");
    }

    fn prints(&self) {
        let event = json!({ "do": "print", "text": "hear, hear" }).to_string();
        let response = self.home.invoke(self.handle(), &[("X-Amz-Log-Type", "Tail")], &event);
        self.well(&response);
        assert!(response.header("x-amz-log-result").is_some(), "{}", self.installed.program.name);
        let line = self.home.line(self.handle(), "hear, hear");
        assert_eq!(line["request_id"], response.header("x-amzn-requestid").unwrap(), "{line}");
    }

    /// Lambda takes and gives 6 MB.
    fn takes_and_gives_much(&self) {
        let name = self.installed.program.name;
        let text = "x".repeat(5_000_000);
        assert!(
            self.invoke(&json!({ "text": text }))["got"]["text"] == text.as_str(),
            "{name}: 5 MB got lost"
        );
        let response = self.home.invoke(self.handle(), &[], &format!("\"{}\"", "x".repeat(6 << 20)));
        assert_eq!(response.status, 413, "{name}: {response:?}");
        assert_eq!(response.header("x-amzn-errortype"), Some("RequestTooLargeException"), "{name}");
        let error = self.failing(self.handle(), &json!({ "do": "pad", "bytes": 7_000_000 }));
        assert_eq!(error["errorType"], "Function.ResponseSizeTooLarge", "{name}: {error}");
        let message = error["errorMessage"].as_str().unwrap();
        assert!(
            message.contains("exceeded maximum allowed payload size (6291556 bytes)."),
            "{name}: {message}"
        );
        assert_eq!(self.invoke(&json!(1)), json!({ "got": 1 }), "{name}: after an answer that was too large");
    }

    fn works_at_several(&self) {
        let name = self.installed.program.name;
        thread::scope(|scope| {
            for number in 0..20 {
                scope.spawn(move || {
                    let event = json!({ "do": "wait", "ms": 100, "number": number });
                    assert_eq!(self.invoke(&event), json!({ "number": number }), "{name}");
                });
            }
        });
        let workers = self.home.function(self.handle()).workers;
        assert!((2..=CONCURRENCY).contains(&(workers.busy + workers.idle)), "{name}: {workers:?}");
    }

    fn ends_in_time(&self) {
        let name = self.installed.program.name;
        let short = &self.installed.short.function;
        let error = self.failing(short, &json!({ "do": "wait", "ms": 30_000 }));
        assert_eq!(error["errorType"], "Sandbox.Timedout", "{name}: {error}");
        let message = error["errorMessage"].as_str().unwrap();
        assert!(message.ends_with("Task timed out after 1.00 seconds"), "{name}: {message}");
        let response = self.home.invoke(short, &[], "1");
        assert_eq!(response.json(), json!({ "got": 1 }), "{name}: after one that took too long");
    }

    fn survives_its_end(&self) {
        let name = self.installed.program.name;
        let error = self.failing(self.handle(), &json!({ "do": "exit" }));
        assert_eq!(error["errorType"], "Runtime.ExitError", "{name}: {error}");
        let message = error["errorMessage"].as_str().unwrap();
        assert!(message.ends_with("Runtime exited with error: exit status 3"), "{name}: {message}");
        assert_eq!(self.invoke(&json!(1)), json!({ "got": 1 }), "{name}: after its process ended");
    }

    fn does_not_start(&self) {
        let name = self.installed.program.name;
        for _ in 0..2 {
            let error = self.failing(&self.installed.broken.function, &json!({}));
            assert_eq!(error["errorType"], self.installed.program.start_error(), "{name}: {error}");
        }
    }
}
