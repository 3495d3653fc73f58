//! Making a stead.

use askama::Template;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use client::wire::Stead;
use component::TenantName;
use serde::Deserialize;
use serde_json::json;

use super::Site;
use super::api::{Api, Refused, escaped};
use super::failure::{At, shown};
use super::frame::{Frame, unreadable};
use super::settings::{SIZES, Wanted};
use crate::problem::Problem;
use crate::sign_in::Signed;

#[derive(Template)]
#[template(path = "new.html")]
struct Page {
    frame: Frame,
    wanted: New,
    refused: Option<Refused>,
}

impl Page {
    fn sizes(&self) -> [&'static str; 4] {
        SIZES
    }

    fn error(&self, field: &str) -> Option<&str> {
        self.refused.as_ref().and_then(|refused| refused.of_field(field))
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct New {
    name: String,
    #[serde(default)]
    allow: String,
    #[serde(default)]
    size: String,
}

/// `GET /tenants/{tenant}/new`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "steads").in_tenant(&signed.caller, tenant.as_str());
    let wanted = New { name: String::new(), allow: "127.0.0.0/8\n::1/128".into(), size: "small".into() };
    shown(&Page { frame, wanted, refused: None })
}

/// `POST /tenants/{tenant}/new`
pub(crate) async fn make(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    sent: Result<Form<New>, FormRejection>,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "steads").in_tenant(&signed.caller, tenant.as_str());
    let Form(wanted) = match sent {
        Ok(sent) => sent,
        Err(error) => return frame.failure(unreadable(&error.body_text())).into_response(),
    };
    let name = wanted.name.trim();
    if name.parse::<component::SteadName>().is_err() {
        let wrong =
            "is made of small letters, digits and -, begins with a letter, and has at most 40 of them";
        let problem = Problem::fields(vec![("/name".into(), wrong.into())]);
        return again(frame, wanted, problem.into());
    }
    let body =
        json!({ "postgres": { "main": { "allow": Wanted::networks(&wanted.allow), "size": wanted.size } } });
    let path = format!("/v1/tenants/{tenant}/steads/{}", escaped(name));
    let api = Api::new(&site, &signed.caller);
    match api.send::<Stead>(Method::PUT, &path, Some(&body), Some(0)).await {
        Ok(_) => Redirect::to(&format!("{}/steads/{name}", frame.of_tenant())).into_response(),
        Err(refused) => again(frame, wanted, refused),
    }
}

fn again(frame: Frame, wanted: New, refused: Refused) -> Response {
    let status = StatusCode::from_u16(refused.0.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    let mut response = shown(&Page { frame, wanted, refused: Some(refused) });
    *response.status_mut() = status;
    response
}
