//! What a request brings, parsed into types that cannot be wrong; what does not parse is a problem.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{Kind, Problem};
use crate::strict::Strict;
use crate::waiting;

/// Largest body: a manifest with its SQL, bytes.
pub(crate) const LARGEST_BODY: usize = 8 * 1024 * 1024;

/// Longest reason, characters.
const LONGEST_REASON: usize = 500;

/// What the path names.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(inner)) => {
                Err(Problem::bad_request(format!("the path is not right: {}", inner.body_text())))
            }
            Err(other) => Err(Problem::internal(&other)),
        }
    }
}

/// What the query asks for. Fields it does not know are ignored, as in HTTP at large.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(inner)) => {
                Err(Problem::bad_request(format!("the query is not right: {}", innermost(&inner))))
            }
            Err(other) => Err(Problem::internal(&other)),
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A body as it came, judged only when it is read: so that a refusal of it can be put on record.
pub(crate) struct Sent {
    json: bool,
    body: Result<Bytes, Problem>,
}

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let json = is_json(request.headers());
        let body = read(request.into_body()).await;
        Ok(Self { json, body })
    }
}

/// Reads a body up to the limit.
pub(crate) async fn read(body: axum::body::Body) -> Result<Bytes, Problem> {
    read_up_to(body, LARGEST_BODY).await
}

/// Reads a body of at most so many bytes.
pub(crate) async fn read_up_to(body: axum::body::Body, largest: usize) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, largest).await.map_err(|error| {
        if innermost(&error).contains("length limit") {
            let detail = format!("the body is larger than {} MiB; send less", largest / 1024 / 1024);
            return Problem::new(Kind::TooLarge, detail);
        }
        Problem::bad_request("the body ended before it was complete")
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(text)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}

impl Sent {
    /// The body; `None` where there is none.
    pub(crate) fn optional(self) -> Result<Option<Value>, Problem> {
        let body = self.body?;
        if body.is_empty() {
            return Ok(None);
        }
        if !self.json {
            let detail = "this is not said to be JSON; send it with `Content-Type: application/json`";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        let Strict(value) = serde_json::from_slice(&body)
            .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
        Ok(Some(value))
    }

    /// The body.
    pub(crate) fn required(self) -> Result<Value, Problem> {
        self.optional()?.ok_or_else(|| Problem::bad_request("the body is missing; send JSON"))
    }
}

/// Reads a value into what it should be.
pub(crate) fn parse<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    // A list would be taken for the values of the fields, in their order.
    if value.is_array() {
        return Err(Problem::fields(vec![(String::new(), "is a list, and should be an object".into())]));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } => {
                    pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")))
                }
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        Problem::fields(vec![(pointer, error.into_inner().to_string())])
    })
}

/// How long to wait: `500ms`, `30s`, `1m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Wait(pub(crate) Duration);

impl TryFrom<String> for Wait {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`wait` says how long, like 500ms, 30s or 1m (at most {} s); this is `{}`",
                waiting::LONGEST.as_secs(),
                text.escape_default().take(40).collect::<String>()
            )
        };
        let (number, unit) = number_and_unit(&text).ok_or_else(wrong)?;
        let span = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number * 60),
            _ => return Err(wrong()),
        };
        Ok(Self(span.min(waiting::LONGEST)))
    }
}

/// Seconds in a unit of time.
pub(crate) fn seconds_in(unit: &str) -> Option<i64> {
    match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    }
}

/// One to six digits and what stands behind them.
pub(crate) fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=6).contains(&digits) {
        return None;
    }
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Why, in the caller's words; kept in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Reason(pub(crate) String);

impl TryFrom<String> for Reason {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let length = text.chars().count();
        if length > LONGEST_REASON {
            return Err(format!("`reason` is {length} characters long; write at most {LONGEST_REASON}"));
        }
        match text.chars().find(|c| c.is_control()) {
            Some(bad) => Err(format!(
                "`reason` holds the character {}; write one line of plain text",
                bad.escape_unicode()
            )),
            None => Ok(Self(text)),
        }
    }
}

/// Longest text that is looked for, characters.
pub(crate) const LONGEST_TEXT: usize = 200;

/// Most words that are looked for.
const MOST_WORDS: usize = 10;

/// A text that is looked for as it is written: one line, not empty.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Text(pub(crate) String);

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = (1..=LONGEST_TEXT).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) {
            return Ok(Self(text));
        }
        Err(format!("what is looked for is one line of 1 to {LONGEST_TEXT} characters of plain text"))
    }
}

/// Words that are looked for, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Words(Vec<String>);

impl TryFrom<String> for Words {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Text(text) = Text::try_from(text)?;
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.len() > MOST_WORDS {
            return Err(format!("`q` has {} words; look for at most {MOST_WORDS}", words.len()));
        }
        Ok(Self(words))
    }
}

impl Words {
    /// The words; none where nothing is looked for.
    pub(crate) fn of(words: Option<Self>) -> Vec<String> {
        words.map(|words| words.0).unwrap_or_default()
    }
}

/// What the caller says that the resource is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Nothing.
    None,
    /// It is there.
    Exists,
    /// It is at this generation; 0: it is not there; -1: never.
    Generation(i64),
}

impl Precondition {
    /// Reads `If-Match` and `If-None-Match`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let (is, is_not) = (text_of(headers, IF_MATCH)?, text_of(headers, IF_NONE_MATCH)?);
        if is_not.is_some_and(|tag| tag != "*") {
            return Err(Problem::bad_request(
                "`If-None-Match` takes only `*` here: make it if it is not there",
            ));
        }
        match (is, is_not) {
            (None, None) => Ok(Self::None),
            (None, Some(_)) => Ok(Self::Generation(0)),
            // It shall be there and not be there.
            (Some(_), Some(_)) => Ok(Self::Generation(-1)),
            (Some("*"), None) => Ok(Self::Exists),
            (Some(tag), None) => {
                // People forget the quotes. A weak tag, or one that Stead never gave, matches nothing.
                let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(tag);
                let generation = inner.parse().ok().filter(|number| *number > 0);
                Ok(Self::Generation(generation.unwrap_or(-1)))
            }
        }
    }
}

/// A header that stands once, as text.
pub(crate) fn text_of(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.map(|text| Some(text.trim()))
        .ok_or_else(|| Problem::bad_request(format!("`{name}` has to stand once, as plain text")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_wait_is_a_number_and_a_unit() {
        let wait = |text: &str| Wait::try_from(text.to_owned()).map(|wait| wait.0);
        assert_eq!(wait("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(wait("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(wait("999999m"), Ok(waiting::LONGEST));
        for text in ["", "30", "s", "-1s", "1h", "1.5s", " 1s", "1 s", "9999999s", "1s\0"] {
            assert!(wait(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn preconditions() {
        let of = |headers: &[(HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            Precondition::of(&headers.collect()).ok()
        };
        assert_eq!(of(&[]), Some(Precondition::None));
        assert_eq!(of(&[(IF_MATCH, "\"3\"")]), Some(Precondition::Generation(3)));
        assert_eq!(of(&[(IF_MATCH, "W/\"3\"")]), Some(Precondition::Generation(-1)));
        assert_eq!(of(&[(IF_MATCH, "\"0\"")]), Some(Precondition::Generation(-1)));
        assert_eq!(of(&[(IF_MATCH, "\"abc\"")]), Some(Precondition::Generation(-1)));
        assert_eq!(of(&[(IF_MATCH, "*")]), Some(Precondition::Exists));
        assert_eq!(of(&[(IF_NONE_MATCH, "*")]), Some(Precondition::Generation(0)));
        assert_eq!(of(&[(IF_NONE_MATCH, "*"), (IF_MATCH, "\"3\"")]), Some(Precondition::Generation(-1)));
        assert_eq!(of(&[(IF_MATCH, "3")]), Some(Precondition::Generation(3)));
        assert_eq!(of(&[(IF_MATCH, "\"1\", \"2\"")]), Some(Precondition::Generation(-1)));
        assert_eq!(of(&[(IF_NONE_MATCH, "\"3\"")]), None);
    }
}
