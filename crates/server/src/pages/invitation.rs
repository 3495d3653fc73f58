//! Accepting an invitation. Opening the link changes nothing, so that a mail program that looks at links uses none up.

use askama::Template;
use axum::extract::rejection::FormRejection;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Form, RequestExt};
use identity::password::fits;
use secrecy::SecretString;
use serde::Deserialize;
use store::invitation::Invitation;

use super::Site;
use super::failure::{At, Failure, shown};
use super::frame::{Frame, unreadable};
use super::sign_in::same;
use crate::problem::{Kind, Problem};
use crate::sign_in::{session_cookie, source_of};

#[derive(Template)]
#[template(path = "invitation.html")]
struct Page<'a> {
    frame: Frame,
    invitation: &'a Invitation,
    error: Option<String>,
}

fn over(site: &Site) -> Response {
    let detail = "this invitation was used, taken back, or is over; ask for a new one";
    Failure::new(site, Problem::new(Kind::NotFound, detail)).into_response()
}

/// `GET /invitations/{secret}`
pub(crate) async fn page(State(site): State<Site>, At(secret): At<SecretString>) -> Response {
    match site.app.store.invitation(&secret).await {
        Ok(Some(invitation)) => {
            shown(&Page { frame: Frame::open(&site), invitation: &invitation, error: None })
        }
        Ok(None) => over(&site),
        Err(error) => Failure::new(&site, Problem::from(error)).into_response(),
    }
}

#[derive(Deserialize)]
pub(crate) struct Chosen {
    #[serde(default)]
    password: SecretString,
    #[serde(default)]
    again: SecretString,
}

/// `POST /invitations/{secret}`
pub(crate) async fn accept(
    State(site): State<Site>,
    At(secret): At<SecretString>,
    request: Request,
) -> Response {
    let source = source_of(&request);
    let Form(sent) = match request.extract::<Form<Chosen>, _>().await {
        Ok(form) => form,
        Err(error) => {
            let said = FormRejection::body_text(&error);
            return Failure::new(&site, unreadable(&said)).into_response();
        }
    };
    accepted(&site, &secret, sent, &source)
        .await
        .unwrap_or_else(|problem| Failure::new(&site, problem).into_response())
}

async fn accepted(
    site: &Site,
    secret: &SecretString,
    sent: Chosen,
    source: &str,
) -> Result<Response, Problem> {
    let (store, console) = (&site.app.store, &site.app.console);
    let Some(invitation) = store.invitation(secret).await? else { return Ok(over(site)) };
    let chooses = !invitation.known && !invitation.once;
    if chooses {
        let wrong = if same(&sent.password, &sent.again) {
            fits(&sent.password, &invitation.name).err().map(|unfit| format!("the password {unfit}"))
        } else {
            Some("the two passwords differ".into())
        };
        if wrong.is_some() {
            let mut response =
                shown(&Page { frame: Frame::open(site), invitation: &invitation, error: wrong });
            *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            return Ok(response);
        }
    }
    let phc = if chooses {
        let hashed = console.passwords.hash(sent.password).await;
        Some(hashed.map_err(|error| Problem::new(Kind::Unavailable, error.to_string()))?)
    } else {
        None
    };
    let Some(accepted) = store.accept_invitation(secret, phc.as_ref(), source).await? else {
        return Ok(over(site));
    };
    let mut response = Redirect::to(&format!("{}/", console.base())).into_response();
    if let Some(session) = &accepted.session {
        response.headers_mut().append(SET_COOKIE, session_cookie(console, session));
    }
    Ok(response)
}
