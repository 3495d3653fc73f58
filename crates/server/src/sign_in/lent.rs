//! What a browser keeps for us for a few minutes: sealed, so that it can neither be read nor made up.

use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Store;

use super::{cookie, set_cookie};
use crate::console::Console;
use crate::problem::Problem;

/// How long it holds, seconds.
const HOLDS_S: u32 = 600;

#[derive(Serialize, Deserialize)]
struct Lent<T> {
    until: Timestamp,
    what: T,
}

/// Lends it, as the cookie of that name.
pub(crate) fn lend<T: Serialize>(
    store: &Store,
    console: &Console,
    name: &str,
    what: &T,
) -> Result<HeaderValue, Problem> {
    let until = Timestamp::now() + SignedDuration::from_secs(i64::from(HOLDS_S));
    let text = serde_json::to_string(&Lent { until, what }).map_err(|error| Problem::internal(&error))?;
    let sealed = store.seal_for(name, &SecretString::from(text))?;
    Ok(set_cookie(console, name, &URL_SAFE_NO_PAD.encode(sealed), HOLDS_S))
}

/// Takes it back; `None` where it was not lent, by us, a few minutes ago.
pub(crate) fn returned<T: DeserializeOwned>(store: &Store, headers: &HeaderMap, name: &str) -> Option<T> {
    let sealed = URL_SAFE_NO_PAD.decode(cookie(headers, name)?).ok()?;
    let text = store.open_for(name, &sealed).ok()?;
    let lent: Lent<T> = serde_json::from_str(text.expose_secret()).ok()?;
    (lent.until > Timestamp::now()).then_some(lent.what)
}

/// Takes it away from the browser.
pub(crate) fn over(console: &Console, name: &str) -> HeaderValue {
    set_cookie(console, name, "", 0)
}
