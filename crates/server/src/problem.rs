//! What is answered when the answer is no: RFC 9457 problems.
//!
//! Every refusal of the API is one of the [`Kind`]s below, and its HTTP status is chosen here and nowhere else.
//! What went wrong inside is logged under the request's id; the caller is told the id, never the cause.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use client::wire;
use component::{ComponentName, TenantName};
use store::edit::EditError;
use store::tenant::TenantError;

/// Media type of a problem.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// Seconds after which what is unavailable may be asked for again.
const RETRY_AFTER: &str = "1";

/// Kinds of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request cannot be understood.
    BadRequest,
    /// No token, or none in force.
    Unauthenticated,
    /// The token does not allow it.
    Forbidden,
    /// It is not there, or not for this token to see.
    NotFound,
    /// The resource does not have this method.
    MethodNotAllowed,
    /// A protected component would be removed.
    Protected,
    /// It is on its way out.
    Deleting,
    /// A quota would be exceeded.
    QuotaExceeded,
    /// Something else stands in the way.
    InUse,
    /// It has no address or password yet.
    NotReady,
    /// A request with the same key is on its way.
    RequestRunning,
    /// It was changed since the caller looked.
    Moved,
    /// The body is too large.
    TooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// Well-formed, but cannot be granted.
    Invalid,
    /// An `Idempotency-Key` was used for another request.
    KeyReused,
    /// A mistake of Stead's own.
    Internal,
    /// As much as may be is being done already.
    Busy,
    /// Something that Stead needs does not answer.
    Unavailable,
}

impl Kind {
    /// Every kind, for the document.
    #[cfg(test)]
    const ALL: [Self; 19] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Protected,
        Self::Deleting,
        Self::QuotaExceeded,
        Self::InUse,
        Self::NotReady,
        Self::RequestRunning,
        Self::Moved,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::KeyReused,
        Self::Internal,
        Self::Busy,
        Self::Unavailable,
    ];

    /// Its word for programs, its HTTP status, and its title.
    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "The request cannot be understood"),
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "Not signed in"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "The token does not allow this"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "Not found"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Not a method of this resource")
            }
            Self::Protected => ("protected", StatusCode::CONFLICT, "Protected from deletion"),
            Self::Deleting => ("deleting", StatusCode::CONFLICT, "Being removed"),
            Self::QuotaExceeded => ("quota-exceeded", StatusCode::CONFLICT, "Over the quota"),
            Self::InUse => ("in-use", StatusCode::CONFLICT, "Something stands in the way"),
            Self::NotReady => ("not-ready", StatusCode::CONFLICT, "Not ready yet"),
            Self::RequestRunning => {
                ("request-running", StatusCode::CONFLICT, "The same request is on its way")
            }
            Self::Moved => ("moved", StatusCode::PRECONDITION_FAILED, "Changed since you looked"),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not JSON")
            }
            Self::Invalid => ("invalid", StatusCode::UNPROCESSABLE_ENTITY, "Cannot be granted"),
            Self::KeyReused => {
                ("key-reused", StatusCode::UNPROCESSABLE_ENTITY, "The key belongs to another request")
            }
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "A mistake of Stead's own"),
            Self::Busy => ("busy", StatusCode::TOO_MANY_REQUESTS, "Busy"),
            Self::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Not available at the moment")
            }
        }
    }
}

/// A refusal.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<wire::FieldProblem>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }

    /// The request cannot be understood.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, detail)
    }

    /// Fields that are wrong: JSON pointer and message.
    pub(crate) fn fields(errors: Vec<(String, String)>) -> Self {
        let detail = match &errors[..] {
            [(pointer, message)] if pointer.is_empty() => message.clone(),
            [(pointer, message)] => format!("{pointer}: {message}"),
            several => format!("{} fields are wrong", several.len()),
        };
        let errors =
            errors.into_iter().map(|(pointer, detail)| wire::FieldProblem { pointer, detail }).collect();
        Self { kind: Kind::Invalid, detail, errors }
    }

    /// No such tenant. Also what a token of another tenant is told, so the words are always the same.
    pub(crate) fn no_tenant(name: &TenantName) -> Self {
        Self::new(Kind::NotFound, format!("there is no tenant `{name}`, or this token may not see it"))
    }

    /// No such stead.
    pub(crate) fn no_stead(tenant: &dyn std::fmt::Display, name: &dyn std::fmt::Display) -> Self {
        Self::new(Kind::NotFound, format!("tenant `{tenant}` has no stead `{name}`"))
    }

    /// No such component.
    pub(crate) fn no_component(stead: &dyn std::fmt::Display, name: &ComponentName) -> Self {
        Self::new(Kind::NotFound, format!("stead `{stead}` has no component `{name}`"))
    }

    /// A mistake of Stead's own: logged here, told to nobody.
    pub(crate) fn internal(what: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %what, "a request failed inside");
        Self::new(
            Kind::Internal,
            "something went wrong inside Stead; repeat the request, and if it stays so look into \
             logs/server.log for the request id in this answer's `x-request-id`",
        )
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened and what to do.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// As it goes over the wire.
    pub(crate) fn wire(self) -> wire::Problem {
        let (kind, status, title) = self.kind.row();
        wire::Problem {
            kind: kind.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            errors: self.errors,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, status, _) = self.kind.row();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match self.kind {
            Kind::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"stead\""));
            }
            Kind::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            _ => {}
        }
        let body = serde_json::to_vec(&self.wire()).unwrap_or_default();
        (status, headers, body).into_response()
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        if !error.is_transient() {
            return Self::internal(&error);
        }
        tracing::warn!(%error, "the store does not answer");
        Self::new(
            Kind::Unavailable,
            "the control database does not answer at the moment; repeat in a few seconds",
        )
    }
}

impl From<TenantError> for Problem {
    fn from(error: TenantError) -> Self {
        match error {
            TenantError::Store(error) => error.into(),
            TenantError::HasSteads { .. } | TenantError::NotIsolated(_) => {
                Self::new(Kind::InUse, error.to_string())
            }
        }
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        let kind = match error {
            EditError::Store(error) => return error.into(),
            EditError::Tenant(error) => return error.into(),
            EditError::Refused { component, refused } => {
                let pointer = format!("/{}/{}/{}", component.kind, component.local, refused.field);
                return Self::fields(vec![(pointer, refused.message)]);
            }
            EditError::NoTenant(_)
            | EditError::NoStead(..)
            | EditError::NoComponent(..)
            | EditError::NoRelease(..)
            | EditError::NoSecret(..) => Kind::NotFound,
            EditError::Moved { .. } => Kind::Moved,
            EditError::Protected(_) => Kind::Protected,
            EditError::Deleting(_) => Kind::Deleting,
            EditError::Moving(_)
            | EditError::Taken(_)
            | EditError::InManifest(_)
            | EditError::SecretUsed(..) => Kind::InUse,
            EditError::Moment(_)
            | EditError::Unrelated(..)
            | EditError::NoReleases(_)
            | EditError::NoTransfer(_)
            | EditError::OnlyRelease(_)
            | EditError::NothingToTry
            | EditError::NotTried(_)
            | EditError::NoServer(_) => Kind::Invalid,
            EditError::Quota { .. } => Kind::QuotaExceeded,
            EditError::NoHost | EditError::NoPort(_) => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        let mut words: Vec<_> = Kind::ALL.iter().map(|kind| kind.row().0).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Kind::ALL.len());
    }

    #[test]
    fn what_went_wrong_inside_is_not_told() {
        let problem = Problem::from(store::Error::Sealed);
        assert_eq!(problem.kind(), Kind::Internal);
        assert!(!problem.detail().contains("seal"));
    }
}
