//! What a function's URL does with a framework behind it.

use std::thread;

use serde_json::json;

use super::installed::Installed;
use crate::home::Home;
use crate::http::{Connection, Response};
use functions::route::Route;

struct Site<'a> {
    home: &'a Home,
    installed: &'a Installed,
}

/// All of it.
pub(crate) fn everything(home: &Home, installed: &Installed) {
    let site = Site { home, installed };
    site.answers();
    site.passes_bytes_on();
    site.takes_and_gives_much();
    site.keeps_cookies();
    site.fails();
    site.works_at_several();
    site.ends_in_time();
    site.does_not_start();
    site.answers();
}

fn ask(route: &Route, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    Connection::tcp(route.url.as_ref().unwrap().port).ask(request, headers, body)
}

impl Site<'_> {
    #[track_caller]
    fn ask(&self, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let response = ask(&self.installed.whole, request, headers, body);
        let start: String = response.text().chars().take(1000).collect();
        assert!(
            response.status < 300,
            "{}: {request}: {} {start}",
            self.installed.program.name,
            response.status
        );
        response
    }

    fn answers(&self) {
        let name = self.installed.program.name;
        let response = self.ask("GET /context?x=%C3%A4%20b&y=1", &[], b"");
        assert_eq!(response.status, 201, "{name}: {response:?}");
        let id = response.header("x-amzn-requestid").unwrap();
        assert_eq!(
            response.json(),
            json!({ "method": "GET", "path": "/context", "x": "ä b", "id": id }),
            "{name}"
        );
        assert!(response.header("content-type").unwrap().starts_with("application/json"), "{name}");
    }

    fn passes_bytes_on(&self) {
        let name = self.installed.program.name;
        let all: Vec<u8> = (0..=255).collect();
        let response = self.ask("GET /binary", &[], b"");
        assert_eq!(response.body, all, "{name}");
        assert_eq!(response.header("content-type"), Some("application/octet-stream"), "{name}");
        let much = all.repeat(16_000);
        let binary = [("Content-Type", "application/octet-stream")];
        assert!(self.ask("POST /echo", &binary, &much).body == much, "{name}: 4 MB of bytes got lost");
    }

    fn takes_and_gives_much(&self) {
        let name = self.installed.program.name;
        let text = "x".repeat(5_000_000);
        let response =
            self.ask("POST /echo", &[("Content-Type", "text/plain; charset=utf-8")], text.as_bytes());
        assert!(response.body == text.as_bytes(), "{name}: 5 MB of text got lost");
        let response = ask(&self.installed.whole, "GET /text?bytes=7000000", &[], b"");
        assert_eq!(response.status, 502, "{name}: an answer of 7 MB");
        let response = ask(&self.installed.whole, "POST /echo", &[], "x".repeat(7_000_000).as_bytes());
        assert_eq!(response.status, 413, "{name}: a request of 7 MB");
        self.answers();
    }

    fn keeps_cookies(&self) {
        let name = self.installed.program.name;
        let response = self.ask("GET /cookies", &[("Cookie", "c=3; d=\"4 5\"")], b"");
        assert_eq!(response.text(), "c=3; d=\"4 5\"", "{name}");
        let set = response.headers.iter().filter(|(name, _)| name == "set-cookie");
        let set: Vec<_> = set.map(|(_, value)| value.as_str()).collect();
        assert_eq!(set, ["a=1", "b=2; Path=/; Secure"], "{name}");
    }

    fn fails(&self) {
        let program = &self.installed.program;
        let response = ask(&self.installed.whole, "GET /fail", &[], b"");
        assert_eq!(response.status, program.failure, "{}: {response:?}", program.name);
        assert!(!response.text().contains("on purpose") || program.failure == 500, "{response:?}");
    }

    fn works_at_several(&self) {
        let name = self.installed.program.name;
        thread::scope(|scope| {
            for number in 0..20 {
                scope.spawn(move || {
                    let response = self.ask(&format!("GET /wait?ms=100&number={number}"), &[], b"");
                    assert_eq!(response.json(), json!({ "number": number }), "{name}");
                });
            }
        });
    }

    fn ends_in_time(&self) {
        let name = self.installed.program.name;
        let response = ask(&self.installed.short, "GET /wait?ms=30000", &[], b"");
        assert_eq!(response.status, 502, "{name}: {response:?}");
        self.home.line(&self.installed.short.function, "Task timed out after 1.00 seconds");
    }

    fn does_not_start(&self) {
        let name = self.installed.program.name;
        let response = ask(&self.installed.broken, "GET /context", &[], b"");
        assert_eq!((response.status, response.text().as_str()), (502, "Internal Server Error"), "{name}");
        self.home.line(&self.installed.broken.function, self.installed.program.start_error());
    }
}
