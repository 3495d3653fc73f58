//! A browser without a window: keeps cookies, follows redirects, and says of itself what browsers say.

use std::collections::BTreeMap;

use reqwest::header::{LOCATION, SET_COOKIE};
use reqwest::{Method, StatusCode, Url};

use crate::rig::Rig;

/// Somebody at a browser.
pub(crate) struct Browser {
    http: reqwest::Client,
    base: Url,
    /// By the host and port that set them; all paths are asked for by their own prefix.
    cookies: BTreeMap<(String, String), (String, String)>,
}

/// A page as it came.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) status: StatusCode,
    pub(crate) url: Url,
    pub(crate) text: String,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Shown {
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.url, self.text);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.text.contains(words), "{} does not say {words:?}: {}", self.url, self.text);
        self
    }

    /// The action of the only form that posts, or the first.
    pub(crate) fn form(&self) -> Url {
        let form = self
            .text
            .split("<form")
            .find(|form| form.contains("method=\"post\"") && !form.contains("sign-out"));
        let action = form.and_then(|form| form.split_once("action=\"")).map(|(_, rest)| rest);
        let action = action.and_then(|rest| rest.split_once('"')).map_or("", |(action, _)| action);
        self.url.join(&action.replace("&amp;", "&")).unwrap()
    }
}

impl Browser {
    pub(crate) fn of(rig: &Rig) -> Self {
        let http = reqwest::Client::builder()
            .user_agent("browser/1")
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { http, base: rig.url("/").parse().unwrap(), cookies: BTreeMap::new() }
    }

    /// Another browser with the same cookies.
    pub(crate) fn copied(&self) -> Self {
        Self { http: self.http.clone(), base: self.base.clone(), cookies: self.cookies.clone() }
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let mut found = self.cookies.iter().filter(|((_, key), _)| key == name);
        found.next().map(|(_, (value, _))| value.as_str())
    }

    pub(crate) fn put_cookie(&mut self, name: &str, value: &str) {
        let (host, path) = (origin(&self.base), "/".to_owned());
        self.cookies.insert((host, name.to_owned()), (value.to_owned(), path));
    }

    pub(crate) async fn get(&mut self, path: &str) -> Shown {
        self.go(Method::GET, self.base.join(path).unwrap(), None).await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Shown {
        self.go(Method::POST, self.base.join(path).unwrap(), Some(fields)).await
    }

    /// Fills in the form of a page.
    pub(crate) async fn submit(&mut self, page: &Shown, fields: &[(&str, &str)]) -> Shown {
        self.go(Method::POST, page.form(), Some(fields)).await
    }

    async fn go(&mut self, mut method: Method, mut url: Url, fields: Option<&[(&str, &str)]>) -> Shown {
        let mut body = fields
            .map(|fields| url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish());
        let mut site = "same-origin";
        for _ in 0..12 {
            let shown = self.step(&method, &url, body.take(), site).await;
            if !shown.status.is_redirection() {
                return shown;
            }
            let next = url.join(shown.headers[LOCATION].to_str().unwrap()).unwrap();
            if origin(&next) != origin(&url) {
                site = "cross-site";
            }
            (url, method) = (next, Method::GET);
        }
        panic!("{url} redirects for ever");
    }

    /// One request, without following where it leads.
    pub(crate) async fn step(
        &mut self,
        method: &Method,
        url: &Url,
        body: Option<String>,
        site: &str,
    ) -> Shown {
        let mine = self
            .cookies
            .iter()
            .filter(|((host, _), (_, path))| *host == origin(url) && url.path().starts_with(path.as_str()));
        let cookies: Vec<String> = mine.map(|((_, name), (value, _))| format!("{name}={value}")).collect();
        let mut request = self.http.request(method.clone(), url.clone());
        request = request.header("sec-fetch-site", site).header("sec-fetch-dest", "document");
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        }
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all(SET_COOKIE) {
            self.keep(url, cookie.to_str().unwrap());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let text = String::from_utf8_lossy(&response.bytes().await.unwrap()).into_owned();
        Shown { status, url: url.clone(), text, headers }
    }

    fn keep(&mut self, url: &Url, cookie: &str) {
        let mut parts = cookie.split("; ");
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let attribute = |wanted: &str| {
            let named = |part: &str| {
                part.split_once('=')
                    .filter(|(key, _)| key.eq_ignore_ascii_case(wanted))
                    .map(|(_, v)| v.to_owned())
            };
            cookie.split("; ").find_map(named)
        };
        let over = attribute("max-age").as_deref() == Some("0")
            || attribute("expires").is_some_and(|at| at.contains("1970"));
        let key = (origin(url), name.to_owned());
        if over {
            self.cookies.remove(&key);
        } else {
            let path = attribute("path").unwrap_or_else(|| "/".into());
            self.cookies.insert(key, (value.to_owned(), path));
        }
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
