//! The door: sign in by the identity provider or with a password, and out.

use std::time::Instant;

use askama::Template;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, RequestExt};
use identity::oidc;
use identity::second_factor::{recovery_hash, step_of};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use store::person::{Account, Provided};
use uuid::Uuid;

use super::Site;
use super::failure::{Failure, shown};
use super::frame::{Frame, unreadable};
use crate::problem::{Kind, Problem};
use crate::sign_in::{Signed, lent, no_session, own_path, session_cookie, session_of, signed, source_of};

/// The cookie in which a browser keeps what it has to bring back from the identity provider.
const PENDING: &str = "stead_pending";
/// The cookie in which it keeps that the password was right and the code is missing.
const HALF: &str = "stead_half";
/// What somebody is told whom we do not know or whose password is wrong: which of the two is for nobody to know.
const WRONG: &str = "e-mail address or password is wrong";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page<'a> {
    frame: Frame,
    /// The identity provider, where there is one.
    provider: Option<&'a str>,
    to: &'a str,
    name: &'a str,
    error: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "sign_in_code.html")]
struct CodePage<'a> {
    frame: Frame,
    error: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct OutPage {
    frame: Frame,
    /// Where to sign out of the identity provider too.
    provider: Option<String>,
}

/// Where somebody wanted to go.
#[derive(Deserialize)]
pub(crate) struct To {
    to: Option<String>,
}

/// `GET /sign-in`
pub(crate) async fn page(State(site): State<Site>, Query(to): Query<To>, request: Request) -> Response {
    let to = own_path(to.to.as_deref());
    let (held, source) = (session_of(request.headers()), source_of(&request));
    match signed(&site, held, source).await {
        Ok(Some(_)) => Redirect::to(&format!("{}{to}", site.app.console.base())).into_response(),
        Ok(None) => door(&site, to, "", None, StatusCode::OK),
        Err(problem) => Failure::new(&site, problem).into_response(),
    }
}

fn door(site: &Site, to: &str, name: &str, error: Option<&str>, status: StatusCode) -> Response {
    let provider = site.app.console.provider.as_ref().map(|(provider, _)| provider.issuer());
    let mut response = shown(&Page { frame: Frame::open(site), provider, to, name, error });
    *response.status_mut() = status;
    response
}

#[derive(Deserialize)]
pub(crate) struct Credentials {
    name: String,
    password: SecretString,
    #[serde(default)]
    to: String,
}

/// Password right, code missing.
#[derive(Serialize, Deserialize)]
struct Half {
    person: Uuid,
    name: String,
    to: String,
}

/// Why somebody is not let in.
enum NotIn {
    /// What the person is told, and the record.
    Wrong(String),
    Problem(Problem),
}

impl From<store::Error> for NotIn {
    fn from(error: store::Error) -> Self {
        Self::Problem(error.into())
    }
}

/// `POST /sign-in`
pub(crate) async fn password(State(site): State<Site>, request: Request) -> Response {
    let source = source_of(&request);
    let Form(sent) = match request.extract::<Form<Credentials>, _>().await {
        Ok(form) => form,
        Err(rejection) => {
            return Failure::new(&site, unreadable(&FormRejection::body_text(&rejection))).into_response();
        }
    };
    let name: String =
        sent.name.trim().to_lowercase().chars().filter(|c| !c.is_control()).take(200).collect();
    let to = own_path(Some(&sent.to)).to_owned();
    match try_password(&site, &name, sent.password, &source).await {
        Ok(account) if account.totp.is_some() => {
            let half = Half { person: account.person, name, to };
            let base = site.app.console.base();
            match lent::lend(&site.app.store, &site.app.console, HALF, &half) {
                Ok(cookie) => {
                    with_cookies(Redirect::to(&format!("{base}/sign-in/code")).into_response(), [cookie])
                }
                Err(problem) => Failure::new(&site, problem).into_response(),
            }
        }
        Ok(account) => enter(&site, account.person, &source, "a password", None, &to, []).await,
        Err(NotIn::Wrong(why)) => door(&site, &to, &name, Some(&why), StatusCode::UNAUTHORIZED),
        Err(NotIn::Problem(problem)) => Failure::new(&site, problem).into_response(),
    }
}

async fn try_password(
    site: &Site,
    name: &str,
    password: SecretString,
    source: &str,
) -> Result<Account, NotIn> {
    let store = &site.app.store;
    let account = store.account(name).await?;
    match &account {
        Some(account) if !store.charge_attempt(account.person).await? => {
            return Err(waits(account.locked_until));
        }
        Some(_) => {}
        // Whether there is an account is not told by who has to wait.
        None => {
            let waiting = site.app.console.strangers.charge(name, Instant::now());
            waiting.map_err(|left| waits(Timestamp::now().checked_add(left).ok()))?;
        }
    }
    let known = account.as_ref().and_then(|account| account.password.clone());
    let right = site.app.console.passwords.verify(password, known).await.map_err(busy)?;
    match account {
        Some(account) if right => Ok(account),
        other => {
            let person = other.as_ref().map(|account| account.person);
            store.refuse_sign_in(person, name, source, WRONG).await?;
            Err(NotIn::Wrong(format!("{WRONG}; try again, or ask for an invitation")))
        }
    }
}

fn busy(error: identity::password::Error) -> NotIn {
    match error {
        identity::password::Error::Busy => NotIn::Problem(Problem::new(Kind::Unavailable, error.to_string())),
        error @ identity::password::Error::Hash(_) => NotIn::Problem(Problem::internal(&error)),
    }
}

fn waits(until: Option<Timestamp>) -> NotIn {
    let seconds = until.map_or(1, |until| (until.as_second() - Timestamp::now().as_second()).max(1));
    NotIn::Wrong(format!(
        "there were too many wrong passwords for this address; try again in {seconds} seconds"
    ))
}

/// `GET /sign-in/code`
pub(crate) async fn code_page(State(site): State<Site>, headers: HeaderMap) -> Response {
    if lent::returned::<Half>(&site.app.store, &headers, HALF).is_none() {
        return Redirect::to(&format!("{}/sign-in", site.app.console.base())).into_response();
    }
    shown(&CodePage { frame: Frame::open(&site), error: None })
}

#[derive(Deserialize)]
pub(crate) struct Code {
    code: String,
}

/// `POST /sign-in/code`
pub(crate) async fn code(State(site): State<Site>, request: Request) -> Response {
    let (source, headers) = (source_of(&request), request.headers().clone());
    let Form(sent) = match request.extract::<Form<Code>, _>().await {
        Ok(form) => form,
        Err(rejection) => {
            return Failure::new(&site, unreadable(&FormRejection::body_text(&rejection))).into_response();
        }
    };
    let Some(half) = lent::returned::<Half>(&site.app.store, &headers, HALF) else {
        return Redirect::to(&format!("{}/sign-in", site.app.console.base())).into_response();
    };
    match try_code(&site, &half, &sent.code, &source).await {
        Ok(how) => {
            let over = lent::over(&site.app.console, HALF);
            enter(&site, half.person, &source, how, None, own_path(Some(&half.to)), [over]).await
        }
        Err(NotIn::Wrong(why)) => {
            let mut response = shown(&CodePage { frame: Frame::open(&site), error: Some(&why) });
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        }
        Err(NotIn::Problem(problem)) => Failure::new(&site, problem).into_response(),
    }
}

async fn try_code(site: &Site, half: &Half, code: &str, source: &str) -> Result<&'static str, NotIn> {
    let store = &site.app.store;
    let account = store.account(&half.name).await?.filter(|account| account.person == half.person);
    let Some(account) = account else {
        return Err(NotIn::Wrong("this account is gone; sign in anew".into()));
    };
    if !store.charge_attempt(account.person).await? {
        return Err(waits(account.locked_until));
    }
    let step = match &account.totp {
        Some(secret) => step_of(secret, code, Timestamp::now())
            .map_err(|error| NotIn::Problem(Problem::internal(&error)))?,
        // Taken away since the password was asked for.
        None => return Ok("a password"),
    };
    if let Some(step) = step {
        if store.take_totp_step(account.person, step).await? {
            return Ok("a password and a code");
        }
    } else if store.take_recovery_code(account.person, &recovery_hash(code)).await? {
        return Ok("a password and a recovery code");
    }
    let why = "the code is wrong, or was used already";
    store.refuse_sign_in(Some(account.person), &half.name, source, why).await?;
    Err(NotIn::Wrong(format!("{why}; wait for the next one")))
}

/// Begins the session of somebody who proved who they are.
async fn enter<const N: usize>(
    site: &Site,
    person: Uuid,
    source: &str,
    how: &str,
    id_token: Option<&SecretString>,
    to: &str,
    cookies: [HeaderValue; N],
) -> Response {
    match site.app.store.begin_session(person, source, how, id_token).await {
        Ok(secret) => {
            let console = &site.app.console;
            let response = Redirect::to(&format!("{}{to}", console.base())).into_response();
            with_cookies(with_cookies(response, [session_cookie(console, &secret)]), cookies)
        }
        Err(error) => Failure::new(site, Problem::from(error)).into_response(),
    }
}

fn with_cookies<const N: usize>(mut response: Response, cookies: [HeaderValue; N]) -> Response {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// What the browser has to bring back from the identity provider.
#[derive(Serialize, Deserialize)]
struct Pending {
    pending: oidc::Pending,
    to: String,
}

/// `GET /sign-in/provider`
pub(crate) async fn provider(State(site): State<Site>, Query(to): Query<To>) -> Response {
    let Some((provider, _)) = &site.app.console.provider else {
        let problem = Problem::new(Kind::NotFound, "this console has no identity provider");
        return Failure::new(&site, problem).into_response();
    };
    let begun = async {
        let (url, pending) = provider.begin().await.map_err(|error| refused(&error))?;
        let pending = Pending { pending, to: own_path(to.to.as_deref()).to_owned() };
        let cookie = lent::lend(&site.app.store, &site.app.console, PENDING, &pending)?;
        Ok::<_, Problem>(with_cookies(Redirect::to(url.as_str()).into_response(), [cookie]))
    };
    begun.await.unwrap_or_else(|problem| Failure::new(&site, problem).into_response())
}

fn refused(error: &oidc::Error) -> Problem {
    tracing::warn!(%error, "a sign-in by the identity provider failed");
    let kind = match error {
        oidc::Error::Provider { .. } | oidc::Error::Settings(_) => Kind::Unavailable,
        oidc::Error::Untrusted(_) | oidc::Error::Nameless => Kind::Forbidden,
    };
    Problem::new(kind, error.to_string())
}

/// What the provider sends back.
#[derive(Deserialize)]
pub(crate) struct Back {
    #[serde(default)]
    state: String,
    #[serde(default)]
    code: String,
    error: Option<String>,
    error_description: Option<String>,
}

/// `GET /sign-in/back`
pub(crate) async fn back(State(site): State<Site>, Query(back): Query<Back>, request: Request) -> Response {
    let source = source_of(&request);
    let pending = lent::returned::<Pending>(&site.app.store, request.headers(), PENDING);
    let (Some((provider, rules)), Some(pending)) = (&site.app.console.provider, pending) else {
        let detail = "this sign-in was begun in another browser, or long ago; begin again";
        return Failure::new(&site, Problem::new(Kind::Forbidden, detail)).into_response();
    };
    let proven = async {
        if let Some(error) = &back.error {
            let said = back.error_description.as_deref().unwrap_or_default();
            let said: String =
                format!("{error} {said}").chars().filter(|c| !c.is_control()).take(300).collect();
            let detail = format!("the identity provider did not let you in: {}; begin again", said.trim());
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        let proven = provider.finish(&pending.pending, &back.state, &back.code).await;
        let proven = proven.map_err(|error| refused(&error))?;
        let given = rules.given(&proven.groups);
        let provided = Provided {
            issuer: provider.issuer().to_owned(),
            subject: proven.subject,
            name: proven.email,
            staff: given.staff,
            memberships: given.memberships,
        };
        let person = site.app.store.put_provided(&source, &provided).await?;
        Ok((person, proven.id_token))
    };
    match proven.await {
        Ok((person, id_token)) => {
            let over = lent::over(&site.app.console, PENDING);
            let how = format!("the identity provider {}", provider.issuer());
            let to = own_path(Some(&pending.to));
            enter(&site, person.id, &source, &how, Some(&id_token), to, [over]).await
        }
        Err(problem) => {
            let said = site.app.store.refuse_sign_in(None, "somebody", &source, problem.detail()).await;
            if let Err(error) = said {
                tracing::error!(%error, "a refused sign-in could not be put on record");
            }
            Failure::new(&site, problem).into_response()
        }
    }
}

/// `POST /sign-out`
pub(crate) async fn out(State(site): State<Site>, Extension(signed): Extension<Signed>) -> Response {
    let Signed { session, caller } = signed;
    let ended = site.app.store.end_session(&caller.actor, &session.person, session.id).await;
    let id_token = match ended {
        Ok(id_token) => id_token,
        Err(error) => return Failure::new(&site, Problem::from(error)).into_response(),
    };
    let provider = match (&site.app.console.provider, id_token) {
        (Some((provider, _)), Some(token)) => {
            let back = format!("{}/sign-in", site.app.console.url());
            provider.sign_out(&token, &back).await.map(String::from)
        }
        _ => None,
    };
    let response = shown(&OutPage { frame: Frame::open(&site), provider });
    with_cookies(response, [no_session(&site.app.console)])
}

/// The password of a form, for those who compare it.
pub(crate) fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
