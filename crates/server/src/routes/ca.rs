//! The certificate to verify servers by.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::App;
use crate::problem::{Kind, Problem};

/// The certificate of the certificate authority, PEM
///
/// What `sslrootcert` wants, to verify the servers by. Needs no token.
#[utoipa::path(get, path = "/v1/ca", tag = "installation", operation_id = "ca", security(()), responses(
    (status = 200, description = "The certificate", body = String, content_type = "application/x-pem-file"),
    (status = 404, description = "There is none yet", body = client::wire::Problem,
     content_type = "application/problem+json")))]
pub(crate) async fn get(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    match tokio::fs::read_to_string(&app.ca_path).await {
        Ok(pem) => Ok(([(CONTENT_TYPE, "application/x-pem-file")], pem)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Problem::new(
            Kind::NotFound,
            "there is no certificate authority yet; wait a moment and repeat",
        )),
        Err(error) => Err(Problem::internal(&error)),
    }
}
