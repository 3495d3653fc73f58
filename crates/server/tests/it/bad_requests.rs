//! Requests that no client of ours would send. Each is answered with a problem, and none with a 500.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Rig, send};

const FLIGHTS: &str = "/v1/tenants/acme/steads/flights";

#[tokio::test]
async fn bodies() {
    let rig = Rig::start().await;
    let put = |media_type: &'static str, body: Vec<u8>| {
        send(rig.request(Method::PUT, FLIGHTS).header("content-type", media_type).body(body))
    };
    let json = "application/json";
    for body in
        ["{", "\u{feff}{}", "{} {}", "{\"a\": 1e999}", "nul", "{\"a\": 1, \"a\": 2}", &"[".repeat(10_000)]
    {
        put(json, body.into()).await.problem(400, "bad-request");
    }
    put(json, b"{\"app\": \"\xff\"}".to_vec()).await.problem(400, "bad-request");
    put(json, b"{\"app\": \"\\ud800\"}".to_vec()).await.problem(400, "bad-request");
    for body in [
        "null",
        "[]",
        "1",
        "\"x\"",
        "{\"app\": \"a\\u0000\"}",
        "{\"postgres\": {\"main\": {\"engine\": 1e300}}}",
    ] {
        put(json, body.into()).await.problem(422, "invalid");
    }
    // What they wanted is on record, and can be read back.
    assert_eq!(rig.get("/v1/history").await.is(StatusCode::OK).body["items"][0]["outcome"], "refused");
    let nul = r#"{"postgres": {"main": {"schema": [{"name": "1.sql", "sql": "select '\u0000'"}]}}}"#;
    put(json, nul.into()).await.problem(422, "invalid");
    for media_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", "\u{e4}"]
    {
        put(media_type, b"{}".to_vec()).await.problem(415, "unsupported-media-type");
    }
    send(rig.request(Method::PUT, FLIGHTS).body("{}")).await.problem(415, "unsupported-media-type");
    put("application/vnd.stead+json; charset=utf-8", b"{}".to_vec()).await.is(StatusCode::CREATED);
    put(json, Vec::new()).await.is(StatusCode::ACCEPTED);
    send(rig.request(Method::POST, "/v1/tokens")).await.problem(400, "bad-request");
}

#[tokio::test]
async fn a_body_may_be_large_but_not_too_large() {
    let rig = Rig::start().await;
    let with =
        |size: usize| json!({"postgres": {"main": {"schema": [{"name": "1.sql", "sql": "x".repeat(size)}]}}});
    rig.put(FLIGHTS, &with(7 << 20)).await.is(StatusCode::ACCEPTED);
    let problem = rig.put(FLIGHTS, &with(8 << 20)).await.problem(413, "too-large");
    assert!(problem["detail"].as_str().unwrap().contains("8 MiB"), "{problem}");
    let request = rig.request(Method::PUT, FLIGHTS).header("idempotency-key", "k").json(&with(8 << 20));
    send(request).await.problem(413, "too-large");
}

#[tokio::test]
async fn paths_and_methods() {
    let rig = Rig::start().await;
    for path in
        ["/v1/tenants/Acme", "/v1/tenants/a%00b", "/v1/tenants/..%2f..", "/v1/tenants/%ff", "/v1/tenants/-a"]
    {
        rig.get(path).await.problem(400, "bad-request");
    }
    let long = "x".repeat(41);
    let problem = rig.get(&format!("/v1/tenants/{long}")).await.problem(400, "bad-request");
    assert!(problem["detail"].as_str().unwrap().contains("1 to 40"), "{problem}");
    rig.get("/v1/tenants/acme/operations/1").await.problem(400, "bad-request");
    for path in ["/v1", "/v1/tenants/", "/v1/nothing", "/v1/tenants/acme/steads/x/y"] {
        rig.get(path).await.problem(404, "not-found");
    }
    let answer = rig.post(FLIGHTS, &json!({})).await;
    let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH", "PUT"]);
    answer.problem(405, "method-not-allowed");
    send(rig.anonymous(Method::POST, "/v1/health")).await.problem(405, "method-not-allowed");
    send(rig.request(Method::from_bytes(b"BREW").unwrap(), "/v1/tenants"))
        .await
        .problem(405, "method-not-allowed");
    send(rig.request(Method::HEAD, "/v1/tenants")).await.is(StatusCode::OK);
}

#[tokio::test]
async fn queries() {
    let rig = Rig::start().await;
    for query in [
        "wait=x",
        "wait=-1s",
        "wait=1h",
        "wait=",
        "wait=1s&wait=1s",
        "reason=%00",
        "reason=a%0ab",
        "reason=%c2%9f",
    ] {
        rig.put(&format!("{FLIGHTS}?{query}"), &json!({})).await.problem(400, "bad-request");
    }
    let long = "x".repeat(501);
    rig.put(&format!("{FLIGHTS}?reason={long}"), &json!({})).await.problem(400, "bad-request");
    rig.delete(&format!("{FLIGHTS}?unprotect=maybe")).await.problem(400, "bad-request");
    rig.put(&format!("{FLIGHTS}?reason=%ff"), &json!({})).await.is(StatusCode::CREATED);
    let reason = "%F0%9F%8C%B3%20it%27s%20%22mine%22";
    rig.put(&format!("{FLIGHTS}?reason={reason}"), &json!({"app": "x", "postgres": {"a": {}}}))
        .await
        .is(StatusCode::ACCEPTED);
    assert_eq!(rig.history("acme").await[0]["reason"], "\u{1f333} it's \"mine\"");
}

#[tokio::test]
async fn every_answer_says_how_to_treat_it() {
    let rig = Rig::start().await;
    let open = send(rig.anonymous(Method::GET, "/v1/health")).await;
    let refused = send(rig.anonymous(Method::GET, "/v1/tenants")).await;
    let nothing = rig.get("/nothing").await;
    for answer in [open, refused, nothing] {
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"));
        assert_eq!(answer.header("x-request-id").len(), 36);
    }
}

/// What a caller can only do by hand, on the bare connection.
async fn raw(rig: &Rig, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bytes_that_are_no_request_end_the_connection_only() {
    let rig = Rig::start().await;
    let auth = format!("authorization: Bearer {}\r\nhost: x\r\nconnection: close\r\n", rig.operator);
    let cut_off = format!(
        "PUT {FLIGHTS} HTTP/1.1\r\n{auth}content-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    );
    TcpStream::connect(rig.address).await.unwrap().write_all(cut_off.as_bytes()).await.unwrap();
    assert!(raw(&rig, b"\x16\x03\x01\x02\x00\x01\x00").await.contains("400"));
    let twice = format!("GET /v1/tenants HTTP/1.1\r\n{auth}authorization: Bearer x\r\n\r\n");
    assert!(raw(&rig, twice.as_bytes()).await.starts_with("HTTP/1.1 401"));
    let binary = format!("PUT {FLIGHTS} HTTP/1.1\r\n{auth}if-match: \"\u{e4}\"\r\nuser-agent: a\tb\r\n\r\n");
    assert!(raw(&rig, binary.as_bytes()).await.starts_with("HTTP/1.1 400"));
    rig.get("/v1/tenants").await.is(StatusCode::OK);
}
