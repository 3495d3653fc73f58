//! What a function answered, as an HTTP response.
//!
//! An object with `statusCode` says what the response is to be; anything else is the body, as JSON. A streamed answer may
//! begin with such an object too, its prelude, which ends with eight NULs, wherever they fall.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, SET_COOKIE};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::invocation::{Answer, Piece};

/// The body of a response.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a streamed answer with a prelude is called.
const WITH_PRELUDE: &str = "application/vnd.awslambda.http-integration-response";
/// Longest prelude, bytes.
const MAX_PRELUDE: usize = 128 * 1024;
const END_OF_PRELUDE: &[u8] = &[0; 8];

/// Headers that belong to the connection, which is not the function's.
const NOT_THEIRS: [&str; 6] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// The response.
pub(super) async fn respond(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Whole(body) => whole(body).unwrap_or_else(failed),
        Answer::Failed(_) => failed(),
        Answer::Streamed { content_type, body } if content_type.starts_with(WITH_PRELUDE) => {
            with_prelude(body).await.unwrap_or_else(failed)
        }
        Answer::Streamed { content_type, body } => {
            let mut response = Response::new(streamed(Bytes::new(), body));
            if let Ok(value) = HeaderValue::from_str(&content_type) {
                response.headers_mut().insert(CONTENT_TYPE, value);
            }
            response
        }
    }
}

/// A response of the engine's own.
pub(super) fn said(status: StatusCode, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "Message": message }).to_string();
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What a caller sees of a function that failed: nothing of why.
fn failed() -> Response<Body> {
    let mut response = Response::new(full(Bytes::from_static(b"Internal Server Error")));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// `None` where it makes no response.
fn whole(body: Bytes) -> Option<Response<Body>> {
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let mut object = match is_object.then(|| serde_json::from_slice::<Map<String, Value>>(&body)) {
        Some(Ok(object)) if object.contains_key("statusCode") => object,
        _ => {
            let mut response = Response::new(full(body));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Some(response);
        }
    };
    let body = match object.remove("body") {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(text)) if object.get("isBase64Encoded") == Some(&Value::Bool(true)) => {
            STANDARD.decode(text).ok()?.into()
        }
        Some(Value::String(text)) => text.into(),
        Some(other) => serde_json::to_vec(&other).ok()?.into(),
    };
    let mut response = Response::new(full(body));
    dress(&mut response, object)?;
    Some(response)
}

/// Gives a response the status, headers and cookies that an object names.
fn dress<T>(response: &mut Response<T>, object: Map<String, Value>) -> Option<()> {
    let status = match object.get("statusCode") {
        None => 200,
        Some(Value::String(text)) => text.parse().ok()?,
        Some(number) => u16::try_from(number.as_u64()?).ok()?,
    };
    *response.status_mut() = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 200)?;
    for (key, value) in object {
        match (key.as_str(), value) {
            ("headers", Value::Object(headers)) => {
                for (name, value) in headers {
                    header(response, &name, &value)?;
                }
            }
            ("multiValueHeaders", Value::Object(headers)) => {
                for (name, values) in headers {
                    for value in values.as_array()? {
                        header(response, &name, value)?;
                    }
                }
            }
            ("cookies", Value::Array(cookies)) => {
                for cookie in cookies {
                    header(response, SET_COOKIE.as_str(), &cookie)?;
                }
            }
            _ => {}
        }
    }
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().entry(CONTENT_TYPE).or_insert(json);
    Some(())
}

fn header<T>(response: &mut Response<T>, name: &str, value: &Value) -> Option<()> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    if NOT_THEIRS.contains(&name.as_str()) {
        return Some(());
    }
    let value = match value {
        Value::Null => return Some(()),
        Value::String(text) => HeaderValue::from_bytes(text.as_bytes()),
        other => HeaderValue::from_str(&other.to_string()),
    };
    response.headers_mut().append(name, value.ok()?);
    Some(())
}

/// `None` where the prelude is none, or never ends.
async fn with_prelude(mut pieces: mpsc::Receiver<Piece>) -> Option<Response<Body>> {
    let mut start = Vec::new();
    let end = loop {
        if let Some(end) = start.windows(END_OF_PRELUDE.len()).position(|window| window == END_OF_PRELUDE) {
            break end;
        }
        match pieces.recv().await {
            Some(Piece::Data(data)) if start.len() < MAX_PRELUDE => start.extend_from_slice(&data),
            _ => return None,
        }
    };
    let object = serde_json::from_slice(start.get(..end)?).ok()?;
    let rest = Bytes::copy_from_slice(start.get(end + END_OF_PRELUDE.len()..)?);
    let mut response = Response::new(streamed(rest, pieces));
    dress(&mut response, object)?;
    Some(response)
}

/// What is there, then what comes. A stream that breaks off breaks the connection, so that nobody takes it for whole; but
/// what came before is sent first, for which the server must find nothing to do.
fn streamed(first: Bytes, pieces: mpsc::Receiver<Piece>) -> Body {
    let first = Some(first).filter(|first| !first.is_empty());
    let frames = stream::unfold(Some((first, pieces)), |state| async move {
        let (first, mut pieces) = state?;
        if let Some(first) = first {
            return Some((Ok(Frame::data(first)), Some((None, pieces))));
        }
        let broken: io::Error = match pieces.recv().await {
            Some(Piece::Data(data)) => return Some((Ok(Frame::data(data)), Some((None, pieces)))),
            Some(Piece::End(None)) => return None,
            Some(Piece::End(Some(failure))) => io::Error::other(failure.error_type),
            None => io::ErrorKind::UnexpectedEof.into(),
        };
        tokio::task::yield_now().await;
        Some((Err(broken), None))
    });
    StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::Failure;

    async fn of(answer: &'static str) -> (u16, Vec<(String, String)>, String) {
        read(respond(Answer::Whole(Bytes::from_static(answer.as_bytes()))).await).await
    }

    async fn read(response: Response<Body>) -> (u16, Vec<(String, String)>, String) {
        let (parts, body) = response.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let headers = headers.collect();
        let body = match body.collect().await {
            Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
            Err(error) => format!("broken: {error}"),
        };
        (parts.status.as_u16(), headers, body)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[tokio::test]
    async fn anything_without_a_status_is_the_body() {
        let json = vec![pair("content-type", "application/json")];
        for text in ["\"Hello, world!\"", "{\"message\":\"hi\"}", "null", "[1]", "{\"a\":"] {
            assert_eq!(of(text).await, (200, json.clone(), text.to_owned()));
        }
    }

    #[tokio::test]
    async fn an_object_with_a_status_says_what_the_response_is() {
        let (status, headers, body) = of(
            r#"{"statusCode":201,"headers":{"Content-Type":"text/plain","X-N":7,"Transfer-Encoding":"chunked"},
                "multiValueHeaders":{"x-m":["a","b"]},"cookies":["a=1","b=2; Secure"],"body":"aGk=","isBase64Encoded":true}"#,
        )
        .await;
        assert_eq!((status, body.as_str()), (201, "hi"));
        let expected = [
            pair("content-type", "text/plain"),
            pair("x-n", "7"),
            pair("x-m", "a"),
            pair("x-m", "b"),
            pair("set-cookie", "a=1"),
            pair("set-cookie", "b=2; Secure"),
        ];
        for header in &expected {
            assert!(headers.contains(header), "{header:?} in {headers:?}");
        }
        assert_eq!(headers.len(), expected.len());
        assert_eq!(of(r#"{"statusCode":"404"}"#).await.0, 404);
    }

    #[tokio::test]
    async fn what_makes_no_response_is_a_bad_gateway() {
        for text in [
            r#"{"statusCode":"x"}"#,
            r#"{"statusCode":99}"#,
            r#"{"statusCode":200,"headers":{"bad name":"x"}}"#,
            r#"{"statusCode":200,"body":"%","isBase64Encoded":true}"#,
        ] {
            let (status, _, body) = of(text).await;
            assert_eq!((status, body.as_str()), (502, "Internal Server Error"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_prelude_may_end_anywhere() {
        let whole = b"{\"statusCode\":202,\"headers\":{\"x-a\":\"b\"}}\0\0\0\0\0\0\0\0body";
        for cut in 0..whole.len() {
            let (pieces, body) = mpsc::channel(8);
            let (start, rest) = whole.split_at(cut);
            for part in [start, rest] {
                pieces.send(Piece::Data(Bytes::copy_from_slice(part))).await.unwrap();
            }
            pieces.send(Piece::End(None)).await.unwrap();
            let answer = Answer::Streamed { content_type: WITH_PRELUDE.to_owned(), body };
            let (status, headers, body) = read(respond(answer).await).await;
            assert_eq!((status, body.as_str()), (202, "body"), "cut at {cut}");
            assert!(headers.contains(&pair("x-a", "b")));
        }
    }

    #[tokio::test]
    async fn what_came_before_a_stream_broke_off_is_sent() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let failure = Failure { error_type: "Broken".into(), body: Bytes::new(), fatal: false };
        for end in [Some(Piece::End(Some(failure))), None] {
            let (pieces, body) = mpsc::channel(8);
            for text in ["first", "last"] {
                pieces.send(Piece::Data(Bytes::from_static(text.as_bytes()))).await.unwrap();
            }
            if let Some(end) = end {
                pieces.send(end).await.unwrap();
            }
            drop(pieces);
            let answer = Answer::Streamed { content_type: "text/plain".to_owned(), body };
            let answer = std::sync::Mutex::new(Some(answer));
            let service = hyper::service::service_fn(|_: hyper::Request<hyper::body::Incoming>| {
                let answer = answer.lock().unwrap().take().unwrap();
                async { Ok::<_, std::convert::Infallible>(respond(answer).await) }
            });
            let (mut client, server) = tokio::io::duplex(4096);
            let server = hyper_util::rt::TokioIo::new(server);
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(server, service);
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut said = Vec::new();
            let (served, read) = tokio::join!(serving, client.read_to_end(&mut said));
            read.unwrap();
            assert!(served.is_err(), "nobody may take it for whole");
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains("first") && said.contains("last"), "{said}");
            assert!(!said.ends_with("0\r\n\r\n"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_not_whole() {
        let (pieces, body) = mpsc::channel(8);
        pieces.send(Piece::Data(Bytes::from_static(b"half"))).await.unwrap();
        drop(pieces);
        let answer = Answer::Streamed { content_type: "text/plain".to_owned(), body };
        assert!(read(respond(answer).await).await.2.starts_with("broken"));
    }
}
