//! Logs over HTTP: found, paged, streamed, counted, followed; each tenant its own.

use std::collections::BTreeSet;
use std::time::Duration;

use client::wire::LogLine;
use client::{LogNext, LogPart};
use component::Role;
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Answer, Rig, ends_compressed, send};

/// A line as PostgreSQL writes it.
pub(crate) fn line(second: i64, severity: &str, message: &str) -> Value {
    let at = Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(600 - second)).unwrap();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string();
    json!({"timestamp": at, "pid": 7, "error_severity": severity, "message": message,
           "backend_type": "client backend"})
}

fn messages(answer: &Answer) -> Vec<&str> {
    let items = answer.body["items"].as_array().unwrap();
    items.iter().map(|item| item["message"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lines_are_found_paged_and_streamed() {
    let rig = Rig::with_flights().await;
    let at = "/v1/tenants/acme/logs";
    assert_eq!(rig.get(at).await.is(StatusCode::OK).body, json!({"items": []}));
    let lines: Vec<Value> = (0..250).map(|n| line(n, "LOG", &format!("line number{n}"))).collect();
    rig.log("acme", &lines).await;
    rig.log("globex", &[line(1, "LOG", "of globex")]).await;

    assert_eq!(messages(&rig.get(&format!("{at}?q=number7")).await), ["line number7"]);
    assert_eq!(messages(&rig.get(&format!("{at}?q=/r24[89]/")).await), ["line number249", "line number248"]);
    assert_eq!(messages(&rig.get(&format!("{at}?q=globex")).await), [""; 0]);
    let since = "since=5s&until=2099-01-01T00:00:00Z";
    assert_eq!(messages(&rig.get(&format!("{at}?{since}")).await), [""; 0]);
    assert_eq!(messages(&rig.get(&format!("{at}?component=postgres.other")).await), [""; 0]);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rig.get(&format!("{at}?limit=100{cursor}")).await.is(StatusCode::OK);
        seen.extend(messages(&page).into_iter().map(str::to_owned));
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected: Vec<String> = (0..250).rev().map(|n| format!("line number{n}")).collect();
    assert_eq!(seen, expected);

    let mut stream = rig.client(&rig.operator).logs_stream("acme", &LogPart::default()).await.unwrap();
    let mut streamed = Vec::new();
    let end = loop {
        match stream.next().await.unwrap().unwrap() {
            LogNext::Line(line) => streamed.push(line.message),
            LogNext::End(end) => break end,
            LogNext::Behind => panic!("nothing is left out of a stream"),
        }
    };
    assert_eq!((streamed, end.lines, end.error), (expected, 250, None));
    ends_compressed(rig.request(Method::GET, &format!("{at}/stream"))).await;

    let component = "/v1/tenants/acme/steads/flights/components/postgres.main/logs?limit=2";
    assert_eq!(messages(&rig.get(component).await), ["line number248", "line number249"]);
    rig.get(&component.replace("main", "none")).await.problem(404, "not-found");
}

#[tokio::test]
async fn lines_are_counted_beside_what_was_changed() {
    let rig = Rig::with_flights().await;
    let severities = ["LOG", "WARNING", "ERROR", "FATAL"];
    let lines: Vec<Value> =
        (0..100_u32).map(|n| line(i64::from(n), severities[n as usize % 4], "counted")).collect();
    rig.log("acme", &lines).await;
    let counts = rig.get("/v1/tenants/acme/logs/histogram?since=1h&buckets=60").await.is(StatusCode::OK).body;
    assert_eq!((counts["total"].as_u64(), counts["buckets"].as_array().unwrap().len()), (Some(100), 60));
    let sum = |name: &str| {
        let buckets = counts["buckets"].as_array().unwrap();
        buckets.iter().map(|bucket| bucket[name].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(["info", "warning", "error", "fatal", "debug"].map(sum), [25, 25, 25, 25, 0]);
    let changes = counts["changes"].as_array().unwrap();
    assert!(changes.iter().any(|change| change["action"] == "component.created"), "{changes:?}");
    let errors = rig.get("/v1/tenants/acme/logs/histogram?since=1h&q=severity:error").await.body;
    assert_eq!(errors["total"], 25);
    let before = "/v1/tenants/acme/logs/histogram?since=1h&until=2h";
    rig.get(before).await.problem(400, "bad-request");
}

#[tokio::test]
async fn lines_are_followed_as_they_are_written() {
    let rig = Rig::with_flights().await;
    rig.log("acme", &[line(1, "LOG", "old")]).await;
    let client = rig.client(&rig.operator);
    let part = LogPart { q: Some("-quiet".into()), since: Some("1h".into()), ..LogPart::default() };
    let mut followers = Vec::new();
    for _ in 0..20 {
        followers.push(client.follow_logs(Some("acme"), &part).await.unwrap());
    }
    rig.log("globex", &[line(2, "LOG", "of globex")]).await;
    rig.log("acme", &[line(3, "LOG", "quiet"), line(4, "ERROR", "new")]).await;
    for follower in &mut followers {
        let mut next = async || match tokio::time::timeout(Duration::from_secs(10), follower.next()).await {
            Ok(Ok(Some(LogNext::Line(line)))) => line.message,
            other => panic!("{other:?}"),
        };
        assert_eq!([next().await, next().await], ["old", "new"]);
    }
    // A server that stops ends them, and so can stop.
    rig.stop().await;
    for follower in &mut followers {
        assert!(matches!(follower.next().await, Ok(None) | Err(_)));
    }
}

#[tokio::test]
async fn each_tenant_sees_its_own_lines_and_operators_the_installations() {
    let rig = Rig::with_flights().await;
    rig.log("acme", &[line(1, "LOG", "of acme")]).await;
    rig.log("globex", &[line(2, "LOG", "of globex")]).await;
    let token = rig.token("viewer", Role::Viewer, Some("acme")).await;
    for route in ["", "/stream", "/histogram", "/tail"] {
        let ask = |path: String| send(rig.request_as(&token, Method::GET, &path));
        let other = ask(format!("/v1/tenants/globex/logs{route}")).await.problem(404, "not-found");
        let none = ask(format!("/v1/tenants/nobody/logs{route}")).await.problem(404, "not-found");
        let words = |body: &Value| body["detail"].as_str().unwrap().replace("globex", "nobody");
        assert_eq!(words(&other), words(&none));
    }
    let own: Vec<LogLine> = rig.client(&token).logs(Some("acme"), &LogPart::default()).await.unwrap().items;
    let said: BTreeSet<&str> = own.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(said, BTreeSet::from(["of acme"]));
    send(rig.request_as(&token, Method::GET, "/v1/logs/tail")).await.problem(403, "forbidden");
}

#[tokio::test]
async fn what_is_no_question_is_refused_with_the_reason() {
    let rig = Rig::with_flights().await;
    for (part, why) in [
        ("q=%22open", "no second"),
        ("q=/(/", "cannot be read"),
        ("since=yesterday", "`since`"),
        ("until=x", "`until`"),
        ("limit=0", "`limit`"),
        ("cursor=x", "`cursor`"),
        ("stead=..", ""),
    ] {
        let problem = rig.get(&format!("/v1/tenants/acme/logs?{part}")).await.problem(400, "bad-request");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{part}: {problem}");
    }
    // What is odd and can be meant is a question with few answers.
    for q in ["%00", "%F0%9F%A6%80", "-", "*", "a:b:c", "../../etc/passwd", "%25s%25n", "'%20or%201=1"] {
        rig.get(&format!("/v1/tenants/acme/logs?q={q}")).await.is(StatusCode::OK);
    }
}

#[tokio::test]
async fn how_long_lines_are_kept_is_the_tenants() {
    let rig = Rig::with_flights().await;
    assert_eq!(rig.get("/v1/tenants/acme").await.body["log_days"], 30);
    rig.put("/v1/tenants/acme", &json!({"log_days": 7})).await.is(StatusCode::OK);
    assert_eq!(rig.get("/v1/tenants/acme").await.body["log_days"], 7);
    let line = &rig.history("acme").await[0];
    assert_eq!(line["action"], "tenant.edited");
    assert_eq!(line["differences"][0], json!({"field": "log_days", "before": 30, "after": 7}));
    for days in [json!(0), json!(3651), json!(-1), json!("7")] {
        let answer = rig.put("/v1/tenants/acme", &json!({"log_days": days})).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
    }
}
