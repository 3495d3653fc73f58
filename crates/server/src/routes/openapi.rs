//! The description of this API.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| crate::openapi().to_json().unwrap_or_default());

/// The description of this API, OpenAPI 3.1
///
/// Needs no token.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "installation", operation_id = "openapi", security(()),
    responses((status = 200, description = "The document", body = serde_json::Value)))]
pub(crate) async fn get() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}
