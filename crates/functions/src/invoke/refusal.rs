//! Errors of the Invoke API, as AWS's SDKs know them.

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::{Body, json};
use crate::invocation::Refused;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Why a request is not an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    UnknownOperation,
    NotFound(String),
    InvalidContent(String),
    InvalidParameter(String),
    /// Not now.
    Conflict(String),
    /// More than so many bytes.
    TooLarge(usize),
    TooMany,
    Unavailable(String),
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound(_) => Self::NotFound(refused.to_string()),
            Refused::Busy => Self::TooMany,
            Refused::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl Refusal {
    pub(super) fn response(self) -> Response<Body> {
        let (status, kind, message) = match self {
            Self::UnknownOperation => {
                (StatusCode::NOT_FOUND, "UnknownOperationException", "there is no such operation".to_owned())
            }
            Self::NotFound(message) => (StatusCode::NOT_FOUND, "ResourceNotFoundException", message),
            Self::InvalidContent(message) => {
                (StatusCode::BAD_REQUEST, "InvalidRequestContentException", message)
            }
            Self::InvalidParameter(message) => {
                (StatusCode::BAD_REQUEST, "InvalidParameterValueException", message)
            }
            Self::Conflict(message) => (StatusCode::CONFLICT, "ResourceConflictException", message),
            Self::TooLarge(most) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestTooLargeException",
                format!("Request must be smaller than {most} bytes for the InvokeFunction operation"),
            ),
            Self::TooMany => {
                (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", "Rate Exceeded.".to_owned())
            }
            Self::Unavailable(why) => (StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", why),
        };
        let mut body = serde_json::json!({ "Type": "User", "message": message, "Message": message });
        if kind == "ServiceException" {
            body["Type"] = "Service".into();
        }
        if kind == "TooManyRequestsException" {
            body["Reason"] = "ConcurrentInvocationLimitExceeded".into();
        }
        let mut response = json(status, Bytes::from(body.to_string()));
        response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(kind));
        response
    }
}
