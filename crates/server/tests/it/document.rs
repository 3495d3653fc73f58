//! The OpenAPI document: as it was when somebody last looked at it.

use reqwest::{Method, StatusCode};

use crate::rig::{Rig, send};

#[test]
fn the_document_is_as_it_was() {
    insta::assert_snapshot!("openapi", server::openapi().to_pretty_json().unwrap());
}

#[tokio::test]
async fn the_document_is_served() {
    let rig = Rig::start().await;
    let served = send(rig.anonymous(Method::GET, "/v1/openapi.json")).await.is(StatusCode::OK);
    assert_eq!(served.body, serde_json::to_value(server::openapi()).unwrap());
    assert_eq!(served.body["openapi"], "3.1.0");
}
