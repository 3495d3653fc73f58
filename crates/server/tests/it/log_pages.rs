//! The console's screen of logs: who sees what, that no line becomes markup, and that it is kept fresh.

use component::Role;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::logs::line;
use crate::pages::{Browser, LARGEST_PAGE, NASTY, link};
use crate::rig::Rig;

const AT: &str = "/tenants/acme/logs";

async fn rig() -> Rig {
    let rig = Rig::start().await;
    rig.flights().await;
    rig
}

fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The first address in an attribute.
fn attribute(text: &str, name: &str) -> String {
    let (_, rest) = text.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("no {name}: {text}"));
    rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&")
}

#[tokio::test]
async fn lines_are_shown_newest_first_beside_what_was_changed() {
    let rig = rig().await;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Developer, Some("acme")).await;
    let empty = browser.see(AT, 200).await.holds(&["No lines in this time", "?since=6h\"", "?since=30d\""]);
    drop(empty.lacks(&["?since=15m\"", "hx-get"]));
    let severities = ["LOG", "WARNING", "ERROR", "FATAL"];
    let lines: Vec<Value> =
        (0..120_u32).map(|n| line(i64::from(n), severities[n as usize % 4], &format!("said {n}."))).collect();
    rig.log("acme", &lines).await;

    let page = browser.see(AT, 200).await.text();
    for part in [
        "<strong>120 lines</strong>",
        "aria-label=\"120 lines over time: 30 fatal, 30 error, 30 warning, 30 info\"",
        "<rect class=\"of-error\"",
        "Component created (flights/postgres.main)",
        "<span class=\"pill bad\">fatal</span> <span>postgres · <bdi>flights</bdi> / postgres.main",
        "<dt>error_severity</dt><dd class=\"mono\">WARNING</dd>",
        "<option value=\"1h\" selected>",
    ] {
        assert!(page.contains(part), "no {part}: {page}");
    }
    assert!(page.find("said 119.").unwrap() < page.find("said 118.").unwrap());
    assert!(!page.contains("said 19.") && !page.contains(" style=") && !page.contains("is withheld"));
    let older = link(&page, "next");
    let older = browser.see(&older, 200).await.holds(&["said 19.", "said 0.", ">Newest<"]);
    drop(older.lacks(&["said 20.", ">Older<", "hx-get"]));
    // What is looked for stays in every link, and each change has a place.
    let some = browser.see(&format!("{AT}?q=severity:error&stead=flights&since=24h"), 200).await;
    drop(some.holds(&[
        "<strong>30 lines</strong>",
        "said 2.",
        "q=severity%3Aerror&#38;stead=flights&#38;since=24h&#38;follow=1",
        "<option value=\"24h\" selected>",
    ]));
    let line =
        rig.history("acme").await.into_iter().find(|line| line["action"] == "component.created").unwrap();
    assert!(page.contains(&format!("/tenants/acme/timeline/{}\"", line["id"])), "{page}");
    let mark = page.split("class=\"marks\"").nth(1).unwrap();
    browser.see(&attribute(mark, "href"), 200).await.holds(&["Component created"]);
    let none = browser.see(&format!("{AT}?q=nowhere&since=24h"), 200).await;
    drop(none.holds(&["Nothing fits", "the last 7 days", "?q=nowhere&#38;since=30d"]));
    // A part of the time has an address, found in the numbers.
    let part = page.split("<tbody>").nth(1).unwrap();
    browser.see(&attribute(part, "href"), 200).await.holds(&["said ", "name=\"from\" value=\"20"]);
    let stead = browser.see("/tenants/acme/steads/flights", 200).await;
    drop(stead.holds(&["/tenants/acme/logs?stead=flights&amp;component=postgres.main\">Logs<"]));
}

#[tokio::test]
async fn whoever_follows_is_told_what_is_new_and_when_nothing_is() {
    let rig = rig().await;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Developer, Some("acme")).await;
    let page = browser.see(&format!("{AT}?follow=1&q=-quiet"), 200).await;
    let page = page.holds(&["hx-trigger=\"every 1s\"", "aria-live=\"off\"", "Stop following"]).text();
    let part = [("hx-request", "true"), ("hx-target", "lines")];
    let mut fresh = attribute(page.split("id=\"lines\"").nth(1).unwrap(), "hx-get");
    assert_eq!(browser.ask(&fresh, &part).await.status, 204, "{fresh}");
    for (n, severity) in (0..5).zip(["LOG", "ERROR", "LOG", "WARNING", "FATAL"]) {
        // Second 600 is now.
        rig.log("acme", &[line(600, severity, &format!("said {n}.")), line(600, "LOG", "quiet")]).await;
        let seen = browser.ask(&fresh, &part).await;
        assert_eq!(seen.status, 200);
        let seen =
            seen.holds(&[&format!("said {n}."), "hx-preserve"]).lacks(&["<html", "<form", "<svg", ">quiet<"]);
        fresh = attribute(&seen.text(), "hx-get");
        assert!(fresh.contains("q=-quiet") && fresh.contains("follow=1"), "{fresh}");
        assert_eq!(browser.ask(&fresh, &part).await.status, 204, "{fresh}");
    }
    let counts =
        browser.ask(&format!("{AT}?follow=1"), &[("hx-request", "true"), ("hx-target", "counts")]).await;
    drop(counts.holds(&["id=\"counts\"", "hx-trigger=\"every 10s\"", "<svg"]).lacks(&["<html", "said 0."]));
    browser.see(&format!("{AT}?q=said"), 200).await.lacks(&["hx-get", "Stop following"]);
}

#[tokio::test]
async fn no_line_and_no_question_becomes_markup() {
    let rig = rig().await;
    let script = "</title></svg><script>alert(1)</script>";
    let mut written = line(1, script, script);
    written[script] = json!({script: [script]});
    let long = line(2, "LOG", &"<b>".repeat(20_000));
    rig.log("acme", &[written, long]).await;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Owner, Some("acme")).await;
    for query in [
        String::new(),
        format!("?q={}", escaped("\"</title></svg><script>alert(1)</script>\"")),
        "?follow=1".into(),
    ] {
        let seen = browser.see(&format!("{AT}{query}"), 200).await;
        drop(seen.holds(&["&#60;script&#62;alert(1)"]).lacks(&["<script>", "<b>"]));
    }
    let seen = browser.see(&format!("{AT}?q=-script"), 200).await;
    drop(seen.holds(&["more characters)"]));
}

#[tokio::test]
async fn a_question_that_is_none_is_told_at_its_field() {
    let rig = rig().await;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Viewer, Some("acme")).await;
    for (query, field, why) in [
        ("q=%22open&stead=keep", "q", "no second"),
        ("q=/(/&stead=keep", "q", "cannot be read"),
        ("since=yesterday&stead=keep", "since", "is a moment"),
        ("from=tomorrow&stead=keep", "from", "is a moment"),
        ("from=2026-01-02&until=2026-01-01&stead=keep", "from", "has to be before"),
        ("until=x&stead=keep", "until", "is a moment"),
    ] {
        let seen = browser.see(&format!("{AT}?{query}"), 400).await;
        let wrong = format!("{field}-wrong");
        let seen = seen.lacks(&["the query is not right"]);
        let seen = seen.holds(&[why, &format!("id=\"{wrong}\""), "aria-invalid=\"true\"", "value=\"keep\""]);
        let text = seen.lacks(&["id=\"lines\"", "<svg"]).text();
        let described = text.split("aria-describedby=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        assert_eq!(described.filter(|ids| ids.contains(&wrong)).count(), 1, "{query}: {text}");
    }
    let elsewhere = browser.see(&format!("{AT}?stead=.."), 400).await;
    drop(elsewhere.holds(&["name=\"stead\" value=\"..\""]));
    let day = Timestamp::now().checked_sub(SignedDuration::from_hours(24)).unwrap().strftime("%Y-%m-%d");
    browser.see(&format!("{AT}?from={day}"), 200).await.holds(&["No lines in this time"]);
}

#[tokio::test]
async fn who_reads_no_data_sees_that_something_happened() {
    let rig = rig().await;
    rig.log("acme", &[line(1, "ERROR", "the secret is swordfish")]).await;
    rig.put("/v1/tenants/globex", &json!({})).await;
    for (role, reads) in [
        (Role::Operator, true),
        (Role::Support, false),
        (Role::Owner, true),
        (Role::Developer, true),
        (Role::Auditor, false),
    ] {
        let tenant = (!role.is_staff()).then_some("acme");
        let browser = Browser::of(&rig, &format!("{}@x.example", role.as_str()), role, tenant).await;
        let seen = browser.see(AT, 200).await;
        assert_eq!(seen.text().contains("swordfish"), reads, "{role:?}");
        assert_eq!(seen.text().contains("it is withheld"), !reads, "{role:?}");
        let seen = seen.holds(&["<span class=\"pill bad\">error</span>", "<strong>1 line</strong>"]);
        assert_eq!(seen.text().contains("<span class=\"soft\">withheld</span>"), !reads, "{role:?}");
        if let Some(own) = tenant {
            let foreign = browser.see("/tenants/globex/logs", 404).await.text();
            let nobodys = browser.see("/tenants/nobody/logs", 404).await.text();
            assert_eq!(foreign.replace("globex", "nobody"), nobodys, "{own}");
        }
    }
}

#[tokio::test]
async fn nothing_that_is_asked_for_makes_the_logs_fail() {
    let rig = rig().await;
    rig.log("acme", &[line(1, "ERROR", "one")]).await;
    let browser = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    let long = "!".repeat(20_000);
    for parameter in ["q", "since", "from", "until", "stead", "component", "cursor", "follow", "seen"] {
        let nasty = NASTY.iter().copied().chain([long.as_str(), "a/b", "/", "2026-11-22T00:00:00Z/x"]);
        let raw = [String::new(), "%ff%fe".into(), "a&a=b;c=%zz".into()];
        for value in nasty.map(escaped).chain(raw) {
            for headers in
                [&[][..], &[("hx-request", "true")], &[("hx-request", "true"), ("hx-target", "counts")]]
            {
                let seen = browser.ask(&format!("{AT}?{parameter}={value}"), headers).await;
                let text = seen.text();
                let well = [200, 400].contains(&seen.status) || seen.status == 204 && !headers.is_empty();
                assert!(well, "{} {parameter}={value}: {text}", seen.status);
                assert!(!text.contains("<script>") && !text.contains("onmouseover='"), "{parameter}={value}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_lines_is_light_and_one_of_giants_is_shown() {
    let rig = rig().await;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Developer, Some("acme")).await;
    let lines: Vec<Value> = (0..100)
        .map(|n| {
            let mut line = line(n, "ERROR", &format!("duplicate key value violates unique constraint {n}"));
            line["detail"] = format!("Key (id)=({n}{n}) already exists.").into();
            line["statement"] = format!("insert into bookings (id, seat) values ({n}, {})", n * 7919).into();
            line["session_id"] = format!("6920{:04x}.{:x}", n * 31, n * 17).into();
            line
        })
        .collect();
    rig.log("acme", &lines).await;
    let page = browser.see(AT, 200).await.text();
    let files: std::collections::BTreeSet<&str> =
        page.split('"').filter(|text| text.starts_with("/assets/")).collect();
    let mut sent = 0;
    for file in files.into_iter().chain([AT]) {
        let packed = browser.ask(file, &[("accept-encoding", "gzip")]).await;
        sent += packed.bytes.len();
    }
    assert!(sent <= LARGEST_PAGE, "{sent} bytes");
    // More than the API's answers may be long when a page is made of them.
    let giant = "\u{1}".repeat(250_000 / 6);
    let giants: Vec<Value> = (200..300).map(|n| line(n, "LOG", &giant)).collect();
    rig.log("acme", &giants).await;
    browser.see(AT, 200).await.holds(&["more characters)", ">Older<"]);
}
