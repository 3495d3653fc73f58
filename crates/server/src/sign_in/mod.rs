//! Signing in to the console: who a browser's request is from.
//!
//! A session is a cookie that only this console's pages get (`HttpOnly`, `SameSite=Lax`, `Secure` where people come by
//! TLS). What changes anything is believed only where the browser itself says that one of our own pages sent it
//! (`Sec-Fetch-Site`, or `Origin` from older ones): another site's form brings the cookie along, but not that. The JSON
//! API takes no cookie at all.

pub(crate) mod lent;
pub(crate) mod rules;
pub(crate) mod strangers;

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::{ExposeSecret, SecretString};
use store::session::Session;

use crate::access::{Caller, source};
use crate::console::Console;
use crate::pages::Site;
use crate::pages::failure::Failure;
use crate::problem::{Kind, Problem};

/// Name of the session's cookie.
const SESSION: &str = "stead_session";

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// A person at a browser.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) session: Session,
    pub(crate) caller: Caller,
}

/// The value of a cookie.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// A cookie to set; `seconds` = 0 takes it away.
pub(crate) fn set_cookie(console: &Console, name: &str, value: &str, seconds: u32) -> HeaderValue {
    let secure = if console.secure { "; Secure" } else { "" };
    let path = if console.base().is_empty() { "/" } else { console.base() };
    let text = format!("{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The cookie of a session that was begun.
pub(crate) fn session_cookie(console: &Console, secret: &SecretString) -> HeaderValue {
    let seconds = 86_400 * store::session::LASTS_DAYS.unsigned_abs();
    set_cookie(console, SESSION, secret.expose_secret(), seconds)
}

/// Takes the cookie of a session away.
pub(crate) fn no_session(console: &Console) -> HeaderValue {
    set_cookie(console, SESSION, "", 0)
}

/// From where a request came, for the record.
pub(crate) fn source_of(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    source(peer, request.headers())
}

/// Refuses what would change something and does not come from a page of ours.
pub(crate) async fn own_pages_only(State(site): State<Site>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) || is_own(&site.app.console, request.headers())
    {
        return next.run(request).await;
    }
    let detail =
        "this was not sent by a page of the console, so nothing was done; open the page and do it there";
    Failure::new(&site, Problem::new(Kind::Forbidden, detail)).into_response()
}

fn is_own(console: &Console, headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match text(FETCH_SITE) {
        Some(site) => site == "same-origin",
        // A browser from before 2023, or one that reached us without TLS by a name of its own.
        None => match (text(ORIGIN), text(HOST)) {
            (Some(origin), host) => {
                origin == console.origin()
                    || host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, from)| from == host))
            }
            (None, _) => false,
        },
    }
}

/// The session's cookie that a request brought.
pub(crate) fn session_of(headers: &HeaderMap) -> Option<String> {
    cookie(headers, SESSION)
}

/// Who this is, where a session is in force.
pub(crate) async fn signed(
    site: &Site,
    cookie: Option<String>,
    source: String,
) -> Result<Option<(Signed, SecretString)>, Problem> {
    let Some(secret) = cookie.map(SecretString::from) else { return Ok(None) };
    let Some(session) = site.app.store.session(&secret).await? else { return Ok(None) };
    let caller = Caller::person(session.person.clone(), source);
    Ok(Some((Signed { session, caller }, secret)))
}

/// Lets in who has a session in force; everybody else is asked to sign in, and brought back then.
pub(crate) async fn people_only(State(site): State<Site>, mut request: Request, next: Next) -> Response {
    let (held, source) = (session_of(request.headers()), source_of(&request));
    let (signed, secret) = match signed(&site, held, source).await {
        Ok(Some(signed)) => signed,
        Ok(None) => return ask(&site, &request),
        Err(problem) => return Failure::new(&site, problem).into_response(),
    };
    // Where a page is opened, not where one of its parts is fetched beside others.
    let opens = request.headers().get(FETCH_DEST).is_some_and(|dest| dest == "document");
    let mut fresh = None;
    if signed.session.rotates && opens && *request.method() == Method::GET {
        match site.app.store.rotate_session(&secret).await {
            Ok(rotated) => fresh = rotated,
            Err(error) => tracing::warn!(%error, "a session's cookie could not be replaced; next time"),
        }
    }
    request.extensions_mut().insert(signed);
    let mut response = next.run(request).await;
    if let Some(fresh) = fresh {
        response.headers_mut().append(SET_COOKIE, session_cookie(&site.app.console, &fresh));
    }
    response
}

/// Sends a browser to sign in.
fn ask(site: &Site, request: &Request) -> Response {
    let base = site.app.console.base();
    // What was fetched or sent beside a page cannot be gone back to; the page can.
    let part = request.headers().contains_key("hx-request");
    let back = if part {
        page_of(request.headers(), base)
    } else {
        request.uri().path_and_query().filter(|_| *request.method() == Method::GET).map(ToString::to_string)
    };
    let to = match back.as_deref().unwrap_or("/") {
        "/" => format!("{base}/sign-in"),
        back => {
            let query: String = url::form_urlencoded::byte_serialize(back.as_bytes()).collect();
            format!("{base}/sign-in?to={query}")
        }
    };
    if part {
        return ([("hx-redirect", to)], axum::http::StatusCode::UNAUTHORIZED).into_response();
    }
    Redirect::to(&to).into_response()
}

/// The page that a part of it was fetched for, below ours, as htmx tells it.
fn page_of(headers: &HeaderMap, base: &str) -> Option<String> {
    let page: url::Url = headers.get("hx-current-url")?.to_str().ok()?.parse().ok()?;
    let below = page[url::Position::BeforePath..url::Position::AfterQuery].strip_prefix(base)?;
    Some(own_path(Some(below)).to_owned())
}

/// A page of ours to go to, out of what a stranger may have written: a path below ours, or the first page.
pub(crate) fn own_path(wanted: Option<&str>) -> &str {
    let fits = |path: &&str| {
        path.starts_with('/')
            && !path.starts_with("//")
            && !path.contains('\\')
            && path.len() <= 2_000
            && path.bytes().all(|b| b.is_ascii_graphic())
    };
    wanted.filter(fits).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ConsoleSettings;

    fn console(url: &str) -> Console {
        Console::new(&ConsoleSettings { url: url.parse().unwrap(), provider: None }).unwrap()
    }

    #[test]
    fn only_paths_of_ours_are_gone_back_to() {
        assert_eq!(own_path(Some("/tenants/acme?q=1")), "/tenants/acme?q=1");
        for path in
            ["", "x", "//evil.example", "https://evil.example", "/\\evil.example", "/a b", "/\u{e9}", "/a\nb"]
        {
            assert_eq!(own_path(Some(path)), "/", "{path:?}");
        }
    }

    #[test]
    fn what_another_site_sends_is_not_ours() {
        let console = console("https://console.example.com/stead");
        let own = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_own(&console, &headers.collect())
        };
        assert!(own(&[("sec-fetch-site", "same-origin")]));
        assert!(own(&[("origin", "https://console.example.com")]));
        assert!(own(&[("origin", "http://127.0.0.1:7878"), ("host", "127.0.0.1:7878")]));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!own(&[("sec-fetch-site", site), ("origin", "https://console.example.com")]), "{site}");
        }
        assert!(!own(&[("origin", "https://evil.example"), ("host", "console.example.com")]));
        assert!(!own(&[("origin", "null"), ("host", "null")]));
        assert!(!own(&[("host", "console.example.com")]));
    }

    #[test]
    fn a_cookie_is_ours_alone() {
        let of = |url: &str| set_cookie(&console(url), "a", "b", 5).to_str().unwrap().to_owned();
        assert_eq!(of("http://127.0.0.1:7878"), "a=b; Path=/; Max-Age=5; HttpOnly; SameSite=Lax");
        assert_eq!(
            of("https://x.example/stead/"),
            "a=b; Path=/stead; Max-Age=5; HttpOnly; SameSite=Lax; Secure"
        );
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("x=1; stead_session=abc; y=2"));
        assert_eq!(cookie(&headers, SESSION).as_deref(), Some("abc"));
        assert_eq!(cookie(&headers, "session"), None);
    }
}
