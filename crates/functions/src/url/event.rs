//! The event of a request at a URL, payload format 2.0.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, COOKIE, HOST, HeaderMap, USER_AGENT};
use hyper::http::request::Parts;
use jiff::Timestamp;
use serde::Serialize;

use crate::invocation::Call;

/// A request, and how it came.
pub(super) struct Asked<'a> {
    pub(super) parts: &'a Parts,
    pub(super) body: &'a Bytes,
    pub(super) peer: SocketAddr,
    pub(super) port: u16,
    pub(super) function: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'static str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<&'a str>,
    headers: BTreeMap<Cow<'a, str>, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<Cow<'a, str>, String>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'static str,
    api_id: &'a str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'static str,
    stage: &'static str,
    time: String,
    time_epoch: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: String,
    source_ip: String,
    user_agent: &'a str,
}

/// The event as JSON.
pub(super) fn payload(asked: &Asked<'_>, call: &Call) -> Result<Bytes, serde_json::Error> {
    let Asked { parts, body, peer, port, function } = asked;
    let now = Timestamp::now();
    let uri = &parts.uri;
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = if uri.path().is_empty() { "/" } else { uri.path() };
    let (body, is_base64_encoded) = encode(text(CONTENT_TYPE), body);
    let body_length = body.as_ref().map_or(0, |body| body.len());
    let event = Event {
        version: "2.0",
        route_key: "$default",
        raw_path: path,
        raw_query_string: uri.query().unwrap_or_default(),
        cookies: cookies(&parts.headers),
        headers: headers(&parts.headers, *peer, *port, &call.trace),
        query_string_parameters: query(uri.query().unwrap_or_default()),
        request_context: Context {
            account_id: "anonymous",
            api_id: function,
            domain_name: text(HOST),
            domain_prefix: function,
            http: Http {
                method: parts.method.as_str(),
                path,
                protocol: format!("{:?}", parts.version),
                source_ip: peer.ip().to_canonical().to_string(),
                user_agent: text(USER_AGENT),
            },
            request_id: &call.id,
            route_key: "$default",
            stage: "$default",
            time: now.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            time_epoch: now.as_millisecond(),
        },
        body,
        is_base64_encoded,
    };
    // What stands around a body, in most requests.
    let mut bytes = Vec::with_capacity(1536 + body_length);
    serde_json::to_writer(&mut bytes, &event)?;
    Ok(bytes.into())
}

/// Text as it is, everything else in base64; nothing where there is nothing.
fn encode<'a>(content_type: &str, body: &'a Bytes) -> (Option<Cow<'a, str>>, bool) {
    if body.is_empty() {
        return (None, false);
    }
    let kind = content_type.to_ascii_lowercase();
    let is_text = ["text", "json", "xml", "javascript"].iter().any(|word| kind.contains(word));
    match std::str::from_utf8(body) {
        Ok(text) if is_text => (Some(text.into()), false),
        _ => (Some(STANDARD.encode(body).into()), true),
    }
}

fn cookies(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).map(str::trim).filter(|cookie| !cookie.is_empty()).collect()
}

/// Lower-case, each once, values of the same name joined by commas. Cookies have a place of their own.
fn headers<'a>(
    headers: &'a HeaderMap,
    peer: SocketAddr,
    port: u16,
    trace: &str,
) -> BTreeMap<Cow<'a, str>, String> {
    let mut all: BTreeMap<Cow<'a, str>, String> = BTreeMap::new();
    for (name, value) in headers {
        if name != COOKIE {
            let value = String::from_utf8_lossy(value.as_bytes());
            join(&mut all, name.as_str().into(), &value);
        }
    }
    join(&mut all, "x-forwarded-for".into(), &peer.ip().to_canonical().to_string());
    // A load balancer in front knows better.
    all.entry("x-forwarded-proto".into()).or_insert_with(|| "http".to_owned());
    all.entry("x-forwarded-port".into()).or_insert_with(|| port.to_string());
    all.insert("x-amzn-trace-id".into(), trace.to_owned());
    all
}

fn query(query: &str) -> BTreeMap<Cow<'_, str>, String> {
    let mut all = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        join(&mut all, name, &value);
    }
    all
}

fn join<'a>(all: &mut BTreeMap<Cow<'a, str>, String>, name: Cow<'a, str>, value: &str) {
    all.entry(name)
        .and_modify(|before| {
            before.push(',');
            before.push_str(value);
        })
        .or_insert_with(|| value.to_owned());
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use serde_json::{Value, json};

    use super::*;

    fn event(request: Request<()>, body: &'static [u8]) -> Value {
        let (parts, ()) = request.into_parts();
        let asked = Asked {
            parts: &parts,
            body: &Bytes::from_static(body),
            peer: "203.0.113.9:4000".parse().unwrap(),
            port: 8080,
            function: "f1",
        };
        serde_json::from_slice(&payload(&asked, &Call::new(Bytes::new())).unwrap()).unwrap()
    }

    #[test]
    fn what_lambda_says_of_a_request_is_said() {
        let request = Request::get("/a%20b/c?x=1&y=two+words&x=2&z")
            .header("Host", "shop.example")
            .header("User-Agent", "curl/8")
            .header("Cookie", "a=1; b=2")
            .header("Cookie", "c=3")
            .header("X-Many", "one")
            .header("X-Many", "two")
            .body(())
            .unwrap();
        let event = event(request, b"");
        assert_eq!(event["version"], "2.0");
        assert_eq!(event["rawPath"], "/a%20b/c");
        assert_eq!(event["rawQueryString"], "x=1&y=two+words&x=2&z");
        assert_eq!(event["queryStringParameters"], json!({ "x": "1,2", "y": "two words", "z": "" }));
        assert_eq!(event["cookies"], json!(["a=1", "b=2", "c=3"]));
        assert_eq!(event["headers"]["x-many"], "one,two");
        assert_eq!(event["headers"].get("cookie"), None);
        assert_eq!(event["headers"]["x-forwarded-for"], "203.0.113.9");
        let http = &event["requestContext"]["http"];
        assert_eq!((&http["method"], &http["protocol"]), (&json!("GET"), &json!("HTTP/1.1")));
        assert_eq!((&http["sourceIp"], &http["userAgent"]), (&json!("203.0.113.9"), &json!("curl/8")));
        assert_eq!((event.get("body"), &event["isBase64Encoded"]), (None, &json!(false)));
        assert!(event["requestContext"]["timeEpoch"].as_i64().unwrap() > 1_700_000_000_000);
    }

    #[test]
    fn what_is_absent_is_not_empty() {
        let event = event(Request::get("/").body(()).unwrap(), b"");
        for name in ["queryStringParameters", "cookies", "body"] {
            assert_eq!(event.get(name), None, "{name}");
        }
    }

    #[test]
    fn text_stays_text_and_bytes_go_in_base64() {
        let of = |kind: &str, body| {
            let request = Request::post("/").header("Content-Type", kind).body(()).unwrap();
            let event = event(request, body);
            (event["body"].as_str().unwrap().to_owned(), event["isBase64Encoded"] == true)
        };
        assert_eq!(
            of("application/json; charset=utf-8", "{\"ü\":1}".as_bytes()),
            ("{\"ü\":1}".into(), false)
        );
        assert_eq!(of("image/png", b"abc"), ("YWJj".into(), true));
        assert_eq!(of("application/x-www-form-urlencoded", b"a=b"), ("YT1i".into(), true));
        assert_eq!(of("text/plain", b"\xff"), ("/w==".into(), true));
    }
}
