//! One stream of events a browser: which steads have something new to show.
//!
//! A browser has one, however many tabs it has open (`assets/console.js`), and fetches anew the parts of pages that
//! show what an event names. An event says that something happened, never what: a page is the only place where it is
//! decided what somebody may see.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use secrecy::SecretString;
use tokio::time::Instant;

use super::Site;
use crate::sign_in::{Signed, session_of};

/// How often it is asked whether the session still holds.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long events are gathered before they are told: many steps of one pass are one event.
const GATHERED: Duration = Duration::from_millis(100);

/// `GET /events`
pub(crate) async fn stream(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let secret = session_of(&headers).map(SecretString::from).unwrap_or_default();
    let state = Listener { news: site.app.seen.news(), looked: Instant::now(), signed, secret, site };
    let stream = futures::stream::unfold(state, |mut state| async move {
        let told = state.next().await?;
        let text = told.into_iter().collect::<Vec<_>>().join("\n");
        Some((Ok(Event::default().event("changed").data(text)), state))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10)))
}

struct Listener {
    news: tokio::sync::broadcast::Receiver<crate::waiting::News>,
    looked: Instant,
    signed: Signed,
    secret: SecretString,
    site: Site,
}

impl Listener {
    /// What is new to somebody: `tenant/stead` each; a lone `*` where some of it was missed. `None` where the session
    /// has ended.
    async fn next(&mut self) -> Option<std::collections::BTreeSet<String>> {
        use tokio::sync::broadcast::error::RecvError;
        let mut told = std::collections::BTreeSet::new();
        let mut until = self.looked + LOOK_AGAIN;
        loop {
            match tokio::time::timeout_at(until, self.news.recv()).await {
                Ok(Ok(news)) => {
                    if let Some(name) = self.name_of(&news) {
                        told.insert(name);
                        until = until.min(Instant::now() + GATHERED);
                    }
                }
                Ok(Err(RecvError::Lagged(_))) => {
                    told.insert("*".to_owned());
                    until = until.min(Instant::now() + GATHERED);
                }
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) if !told.is_empty() => return Some(told),
                Err(_) => {
                    let session = self.site.app.store.session(&self.secret).await.ok()??;
                    self.signed.caller = crate::access::Caller::person(session.person, String::new());
                    self.looked = Instant::now();
                    until = self.looked + LOOK_AGAIN;
                }
            }
        }
    }

    fn name_of(&self, news: &crate::waiting::News) -> Option<String> {
        if self.signed.caller.sees(news.tenant?) {
            return Some(format!("{}/{}", news.tenant_name, news.stead));
        }
        None
    }
}
