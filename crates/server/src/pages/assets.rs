//! Files that pages need: style, script, pictures. They are in the binary, and kept by browsers until they change.

use std::sync::OnceLock;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Site;
use super::failure::Failure;
use crate::problem::{Kind, Problem};

/// Name, media type, contents.
const FILES: &[(&str, &str, &[u8])] = &[
    ("console.css", "text/css; charset=utf-8", include_bytes!("../../assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/console.js")),
    ("database.css", "text/css; charset=utf-8", include_bytes!("../../assets/database.css")),
    ("database.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/database.js")),
    ("editor.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/editor.js")),
    ("htmx.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/htmx.min.js")),
    ("stead.svg", "image/svg+xml", include_bytes!("../../assets/stead.svg")),
];

/// Changes with any of them.
pub(crate) fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let mut hash = Sha256::new();
        for (_, _, contents) in FILES {
            hash.update(contents);
        }
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    })
}

/// One of them.
pub(crate) async fn get(State(site): State<Site>, Path((_, name)): Path<(String, String)>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, media, contents)) => {
            let headers = [
                (header::CONTENT_TYPE, *media),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (StatusCode::OK, headers, *contents).into_response()
        }
        None => Failure::new(&site, Problem::new(Kind::NotFound, "there is no such file")).into_response(),
    }
}
