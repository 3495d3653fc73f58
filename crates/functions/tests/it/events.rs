//! Events that are accepted now and worked at later; and the clock.

use std::fs;

use functions::route::{Missed, Route, Schedule};
use serde_json::{Value, json};

use crate::home::{Home, pause, until};

pub(crate) const LATER: [(&str, &str); 1] = [("X-Amz-Invocation-Type", "Event")];

pub(crate) fn files(home: &Home, folder: &str) -> Vec<String> {
    let folder = home.path.join("functions/spool").join(folder);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.path().display().to_string());
    names.filter(|name| !name.contains("/.new-")).collect()
}

/// How often a line was printed, once the log is at rest: lines are gathered for a moment before they are written.
pub(crate) fn count(home: &Home, text: &str) -> usize {
    let mut before = home.lines("f1").len();
    let lines = until("the log is at rest", || {
        pause();
        let lines = home.lines("f1");
        let is_at_rest = lines.len() == before;
        before = lines.len();
        is_at_rest.then_some(lines)
    });
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

/// Points that an event passes that is worked at.
pub(crate) const WORKED_AT: [&str; 3] =
    ["functions::event.accepted", "functions::event.done", "functions::event.postponed"];
/// Before it is accepted.
pub(crate) const WRITTEN: &str = "functions::event.written";
/// When it has failed for good.
pub(crate) const BURIED: &str = "functions::event.buried";

#[test]
fn an_accepted_event_survives_any_kill() {
    for point in WORKED_AT {
        let mut home = Home::new();
        home.node(CODE);
        let fails = point == "functions::event.postponed";
        let event = format!("{{\"fail\":{fails}}}");
        home.dies_at(point, &["retry=100"], |home| home.send("f1", &LATER, &event));
        assert_eq!(files(&home, "events/f1").len(), 1, "{point}");
        let before = count(&home, "got");
        home.start_engine(&["retry=100"], &[]);
        until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
        assert_eq!(files(&home, "dead/f1").len(), usize::from(fails), "{point}");
        // Of its three attempts one was made before. One that is done and not forgotten is repeated once.
        let again = if fails { 2 } else { 1 };
        until("it is worked at again", || (count(&home, "got") >= before + again).then_some(()));
        home.invoke("f1", &[], "{\"last\":true}");
        home.line("f1", "got {\"last\":true}");
        assert_eq!(count(&home, "got {\"fail\""), before + again, "{point}");
    }
}

#[test]
fn an_event_that_was_not_accepted_leaves_nothing() {
    let mut home = Home::new();
    home.node(CODE);
    home.dies_at(WRITTEN, &[], |home| home.send("f1", &LATER, "{}"));
    home.start_engine(&[], &[]);
    until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
    assert_eq!(count(&home, "got"), 0);
}

#[test]
fn an_event_is_buried_once_whoever_is_killed() {
    let mut home = Home::new();
    home.node(CODE);
    home.dies_at(BURIED, &["retry=20"], |home| home.send("f1", &LATER, "{\"fail\":true}"));
    home.start_engine(&["retry=20"], &[]);
    until("it is kept", || (files(&home, "dead/f1").len() == 1).then_some(()));
    until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
    assert_eq!(files(&home, "dead/f1").len(), 1);
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
    // What was done and not yet forgotten would be done again.
    until("nothing waits", || files(&home, "events/f1").is_empty().then_some(()));
    home.kill_engine();
    home.invoke("f1", &[], "{\"n\": 2}");
    home.line("f1", "got {\"n\":2}");
    assert_eq!(count(&home, "Scheduled Event"), 1);
}
