//! One's own account: password, second factor, sessions.

use askama::Template;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use identity::password::fits;
use identity::second_factor;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use store::session::Listed;
use uuid::Uuid;

use super::Site;
use super::failure::{At, shown};
use super::frame::{Frame, unreadable};
use super::sign_in::same;
use crate::problem::{Kind, Problem};
use crate::sign_in::Signed;

#[derive(Template)]
#[template(path = "account.html")]
struct Page<'a> {
    frame: Frame,
    signed: &'a Signed,
    sessions: Vec<Listed>,
    error: Option<String>,
    done: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "second_factor.html")]
struct FactorPage {
    frame: Frame,
    picture: String,
    secret: SecretString,
    error: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "recovery_codes.html")]
struct CodesPage {
    frame: Frame,
    codes: Vec<SecretString>,
}

fn frame(site: &Site, signed: &Signed) -> Frame {
    Frame::of(site, &signed.caller, "account")
}

async fn overview(site: &Site, signed: &Signed, error: Option<String>, done: Option<&str>) -> Response {
    match site.app.store.sessions(signed.session.person.id).await {
        Ok(sessions) => shown(&Page { frame: frame(site, signed), signed, sessions, error, done }),
        Err(error) => frame(site, signed).failure(Problem::from(error)).into_response(),
    }
}

/// `GET /account`
pub(crate) async fn page(State(site): State<Site>, Extension(signed): Extension<Signed>) -> Response {
    overview(&site, &signed, None, None).await
}

#[derive(Deserialize)]
pub(crate) struct NewPassword {
    old: SecretString,
    new: SecretString,
    again: SecretString,
}

/// `POST /account/password`
pub(crate) async fn password(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    sent: Result<Form<NewPassword>, FormRejection>,
) -> Response {
    let Form(sent) = match sent {
        Ok(sent) => sent,
        Err(error) => return frame(&site, &signed).failure(unreadable(&error.body_text())).into_response(),
    };
    match change_password(&site, &signed, sent).await {
        Ok(None) => {
            let done = "The password is changed, and every other session of yours has ended.";
            overview(&site, &signed, None, Some(done)).await
        }
        Ok(Some(why)) => overview(&site, &signed, Some(why), None).await,
        Err(problem) => frame(&site, &signed).failure(problem).into_response(),
    }
}

async fn change_password(site: &Site, signed: &Signed, sent: NewPassword) -> Result<Option<String>, Problem> {
    let (store, passwords, person) = (&site.app.store, &site.app.console.passwords, &signed.session.person);
    let failed = |error: identity::password::Error| Problem::new(Kind::Unavailable, error.to_string());
    if !person.local {
        return Ok(Some("your password is your company's to change, not Stead's".into()));
    }
    let account = store.account(&person.name).await?;
    let known = account.and_then(|account| account.password);
    if known.is_some() {
        if !store.charge_attempt(person.id).await? {
            return Ok(Some("there were too many wrong passwords; try again in a minute".into()));
        }
        if !passwords.verify(sent.old, known).await.map_err(failed)? {
            return Ok(Some("the old password is wrong".into()));
        }
    }
    if !same(&sent.new, &sent.again) {
        return Ok(Some("the two new passwords differ".into()));
    }
    if let Err(unfit) = fits(&sent.new, &person.name) {
        return Ok(Some(format!("the new password {unfit}")));
    }
    let phc = passwords.hash(sent.new).await.map_err(failed)?;
    store.set_password(&signed.caller.actor, person, &phc, signed.session.id).await?;
    Ok(None)
}

/// `GET /account/second-factor`
pub(crate) async fn second_factor(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
) -> Response {
    let person = &signed.session.person;
    if !person.local || person.second_factor {
        return Redirect::to(&format!("{}/account", site.app.console.base())).into_response();
    }
    // One that was offered and not confirmed yet is offered again: the page may have been opened twice.
    let offered = async {
        let secret = match site.app.store.offered_totp(person.id).await? {
            Some(secret) => secret,
            None => {
                let secret = second_factor::secret();
                site.app.store.offer_totp(person.id, &secret).await?;
                secret
            }
        };
        Ok::<_, Problem>(secret)
    };
    match offered.await {
        Ok(secret) => offer(&site, &signed, secret, None),
        Err(problem) => frame(&site, &signed).failure(problem).into_response(),
    }
}

fn offer(site: &Site, signed: &Signed, secret: SecretString, error: Option<&'static str>) -> Response {
    let frame = frame(site, signed);
    match second_factor::picture(&secret, &signed.session.person.name) {
        Ok(picture) => {
            // Within a page it stands without the heading of a file.
            let picture = picture.split_once("?>").map_or(picture.clone(), |(_, svg)| svg.to_owned());
            shown(&FactorPage { frame, picture, secret, error })
        }
        Err(error) => frame.failure(Problem::internal(&error)).into_response(),
    }
}

#[derive(Deserialize)]
pub(crate) struct Code {
    code: String,
}

/// `POST /account/second-factor`
pub(crate) async fn confirm(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    sent: Result<Form<Code>, FormRejection>,
) -> Response {
    let Form(sent) = match sent {
        Ok(sent) => sent,
        Err(error) => return frame(&site, &signed).failure(unreadable(&error.body_text())).into_response(),
    };
    let person = &signed.session.person;
    let confirmed = async {
        let Some(secret) = site.app.store.offered_totp(person.id).await? else { return Ok(None) };
        let step = second_factor::step_of(&secret, &sent.code, Timestamp::now())
            .map_err(|error| Problem::internal(&error))?;
        let Some(step) = step else { return Ok(Some(Err(secret))) };
        site.app.store.take_totp_step(person.id, step).await?;
        let (codes, hashes) = second_factor::recovery_codes();
        site.app.store.set_second_factor(&signed.caller.actor, person, Some(&hashes)).await?;
        Ok::<_, Problem>(Some(Ok(codes)))
    };
    match confirmed.await {
        Ok(Some(Ok(codes))) => shown(&CodesPage { frame: frame(&site, &signed), codes }),
        Ok(Some(Err(secret))) => offer(
            &site,
            &signed,
            secret,
            Some("this is not the code of now; type the one that the app shows"),
        ),
        Ok(None) => Redirect::to(&format!("{}/account", site.app.console.base())).into_response(),
        Err(problem) => frame(&site, &signed).failure(problem).into_response(),
    }
}

#[derive(Deserialize)]
pub(crate) struct Proof {
    password: SecretString,
}

/// `POST /account/second-factor/remove`
pub(crate) async fn remove_second_factor(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    sent: Result<Form<Proof>, FormRejection>,
) -> Response {
    let Form(sent) = match sent {
        Ok(sent) => sent,
        Err(error) => return frame(&site, &signed).failure(unreadable(&error.body_text())).into_response(),
    };
    let (store, person) = (&site.app.store, &signed.session.person);
    let removed = async {
        let known = store.account(&person.name).await?.and_then(|account| account.password);
        if !store.charge_attempt(person.id).await? {
            return Ok(Some("there were too many wrong passwords; try again in a minute"));
        }
        let right = site.app.console.passwords.verify(sent.password, known).await;
        if !right.map_err(|error| Problem::new(Kind::Unavailable, error.to_string()))? {
            return Ok(Some("the password is wrong, so the second factor stays"));
        }
        store.set_second_factor(&signed.caller.actor, person, None).await?;
        Ok::<_, Problem>(None)
    };
    match removed.await {
        Ok(None) => Redirect::to(&format!("{}/account", site.app.console.base())).into_response(),
        Ok(Some(why)) => overview(&site, &signed, Some(why.into()), None).await,
        Err(problem) => frame(&site, &signed).failure(problem).into_response(),
    }
}

/// `POST /account/sessions/{id}/end`
pub(crate) async fn end_session(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(id): At<Uuid>,
) -> Response {
    let ended = site.app.store.end_session(&signed.caller.actor, &signed.session.person, id).await;
    match ended {
        Ok(_) => Redirect::to(&format!("{}/account", site.app.console.base())).into_response(),
        Err(error) => frame(&site, &signed).failure(Problem::from(error)).into_response(),
    }
}
