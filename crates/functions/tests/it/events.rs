//! Events that are accepted now and worked at later; and the clock.

use std::fs;

use functions::route::{Missed, Route, Schedule};
use serde_json::{Value, json};

use crate::home::{Home, until};

const LATER: [(&str, &str); 1] = [("X-Amz-Invocation-Type", "Event")];

fn files(home: &Home, folder: &str) -> Vec<String> {
    let folder = home.path.join("functions/spool").join(folder);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// How often a line was printed.
fn count(home: &Home, text: &str) -> usize {
    let lines = home.lines("f1");
    let is = |line: &&Value| {
        line["stream"] == "stdout" && line["message"].as_str().is_some_and(|message| message.contains(text))
    };
    lines.iter().filter(is).count()
}

const CODE: &str = "export const handler = async (event, context) => {
  console.log('got ' + JSON.stringify(event) + ' as ' + context.awsRequestId);
  if (event.fail) throw new Error('as asked');
}";

#[test]
fn an_event_is_accepted_worked_at_and_forgotten() {
    let home = Home::new();
    home.node(CODE);
    let response = home.invoke("f1", &LATER, "{\"n\": 1}");
    assert_eq!((response.status, response.text().as_str()), (202, ""));
    let id = response.header("x-amzn-requestid").unwrap();
    home.line("f1", &format!("got {{\"n\":1}} as {id}"));
    until("its file is gone", || files(&home, "events/f1").is_empty().then_some(()));
    let large = format!("\"{}\"", "x".repeat(1024 * 1024));
    assert_eq!(home.invoke("f1", &LATER, &large).status, 413);
}

#[test]
fn what_fails_three_times_is_kept() {
    let home = Home::with(&["retry=50"]);
    home.node(CODE);
    home.invoke("f1", &LATER, "{\"fail\": true}");
    let kept = until("it is kept", || files(&home, "dead/f1").pop());
    let record: Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
    assert_eq!(record["requestPayload"], json!({ "fail": true }));
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(record["responsePayload"]["errorMessage"], "as asked");
    home.line("f1", "has failed for good");
    assert_eq!(count(&home, "got {\"fail\":true}"), 3);
    assert!(files(&home, "events/f1").is_empty());
}

#[test]
fn what_fails_for_good_goes_to_the_function_for_that() {
    let home = Home::with(&["retry=20"]);
    let version = home.version("nodejs20.x", "index.handler", &[("index.mjs", CODE)]);
    home.put(&Route { url: None, ..home.route("heir", version.clone()) });
    home.put(&Route { dead_letter: Some("function.heir".to_owned()), ..home.route("f1", version) });
    home.invoke("f1", &LATER, "{\"fail\": true}");
    let line = home.line("heir", "RetriesExhausted");
    assert!(line["message"].as_str().unwrap().contains("as asked"), "{line}");
    assert!(files(&home, "dead/f1").is_empty());
}

#[test]
fn an_accepted_event_survives_any_kill() {
    for at in ["functions::event.accepted", "functions::event.done", "functions::event.postponed"] {
        let mut home = Home::new();
        let code = "import fs from 'node:fs';
          let calls = 0;
          export const handler = async (event) => { console.log('worked at'); if (event.fail && !calls++) throw new Error('once') }";
        home.node(code);
        home.start_engine(&["retry=100"], &[("FAILPOINTS", &format!("{at}=1*return"))]);
        let target = "POST /2015-03-31/functions/f1/invocations";
        let mut stream =
            std::os::unix::net::UnixStream::connect(home.path.join("functions/invoke.sock")).unwrap();
        use std::io::Write;
        let body = "{\"fail\":true}";
        let before = home.engine_pid();
        write!(
            stream,
            "{target} HTTP/1.1\r\nHost: x\r\nX-Amz-Invocation-Type: Event\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        if at == "functions::event.done" {
            // It fails once, and is killed when it has succeeded.
            until("it is killed", || (home.try_engine_pid() != Some(before)).then_some(()));
        }
        until("another one runs", || home.try_engine_pid().filter(|pid| *pid != before));
        // The next one dies too, until it runs without.
        home.start_engine(&["retry=100"], &[]);
        until("it was worked at", || (count(&home, "worked at") >= 1).then_some(()));
        until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
        assert!(files(&home, "dead/f1").is_empty(), "{at}");
    }
}

#[test]
fn a_schedule_calls_and_makes_up_for_what_was_missed() {
    let home = Home::new();
    let version = home.version("nodejs20.x", "index.handler", &[("index.mjs", CODE)]);
    let mut route = home.route("f1", version);
    let schedule =
        |cron: &str| Schedule { cron: cron.into(), zone: "Europe/Berlin".into(), missed: Missed::Once };
    // As if the last run had been long ago.
    let memory = json!({ "cron": "0 3 * * *", "zone": "Europe/Berlin", "last": "2026-01-01T02:00:00Z" });
    let path = home.path.join("functions/spool/schedules/f1");
    fs::write(&path, memory.to_string()).unwrap();
    std::os::unix::fs::chown(&path, Some(keeper::Host::read(&home.path).unwrap().functions_uid()), None)
        .unwrap();
    route.schedule = Some(schedule("0 3 * * *"));
    home.put(&route);
    let line = home.line("f1", "Scheduled Event");
    assert!(line["message"].as_str().unwrap().contains("aws.events"), "{line}");
    until("it is remembered", || {
        let memory: Value = serde_json::from_slice(&fs::read(&path).unwrap()).ok()?;
        (memory["last"] != "2026-01-01T02:00:00Z").then_some(())
    });
    home.kill_engine();
    home.invoke("f1", &[], "{\"n\": 2}");
    home.line("f1", "got {\"n\":2}");
    assert_eq!(count(&home, "Scheduled Event"), 1);
}
