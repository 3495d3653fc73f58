//! The shared port: one for every server, told apart by the name that the client asks for in TLS (SNI).
//!
//! Names are `<server>.<domain>`. A server's handle is random, so that nobody can guess whose backends are
//! here; one that does not exist and one that the address may not use are refused in the same words. Only
//! the negotiation and the TLS handshake come before the allow-list here, because only they say which server
//! is meant; nothing of PostgreSQL's protocol does.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::time::{timeout, timeout_at};

use crate::caller::Caller;
use crate::cancel::Target;
use crate::conn::{Conn, Secured};
use crate::door::Door;
use crate::refusal::Refusal;
use crate::session::{Context, Visit};
use crate::startup::CancelRequest;

/// Every door by the handle of its server.
#[derive(Default)]
pub(crate) struct Directory {
    doors: RwLock<HashMap<String, Arc<Door>>>,
}

impl Directory {
    pub(crate) fn put(&self, server: String, door: Arc<Door>) {
        self.doors.write().unwrap_or_else(PoisonError::into_inner).insert(server, door);
    }

    pub(crate) fn remove(&self, server: &str) {
        self.doors.write().unwrap_or_else(PoisonError::into_inner).remove(server);
    }

    /// Every door, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Door>> {
        self.doors.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The door of a server.
    pub(crate) fn of(&self, server: &str) -> Option<Arc<Door>> {
        self.doors.read().unwrap_or_else(PoisonError::into_inner).get(server).cloned()
    }

    /// Sessions of all doors.
    pub(crate) fn sessions(&self) -> u32 {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        doors.values().map(|door| door.sessions()).fold(0, u32::saturating_add)
    }

    /// The door that a name leads to: what counts is its first label.
    fn find(&self, name: &str) -> Option<Arc<Door>> {
        self.of(&name.split('.').next().unwrap_or_default().to_ascii_lowercase())
    }

    /// The statement that a key cancels. Clients older than 17 send it in the clear and without a name; the
    /// key alone is proof enough, here as at PostgreSQL.
    pub(crate) fn find_key(&self, request: &CancelRequest) -> Option<Target> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        doors.values().find_map(|door| door.cancels.find(request))
    }
}

/// Serves a connection of the shared port to its end.
pub(crate) async fn serve(
    context: Arc<Context>,
    directory: Arc<Directory>,
    mut conn: Conn,
    caller: Box<Caller>,
) {
    let certificate = context.certificates.current();
    let close = |outcome| context.turned_away(&caller, outcome);
    let Ok(place) = context.arriving.clone().try_acquire_owned() else {
        let refusal = Refusal::Crowded;
        conn.close_with(&refusal.message()).await;
        return close((refusal.outcome(), Some(refusal.to_string())));
    };
    // Whether the address is allowed is not known yet: it gets the little time of those who are not.
    let patience = context.limits.stranger;
    let until = caller.started + patience;
    let arrived = timeout_at(until, Box::pin(conn.secure(certificate.as_deref()))).await;
    drop(place);
    let outcome = match arrived.unwrap_or(Err(Refusal::Deadline(patience))) {
        Ok(Secured::Cancel(request)) => {
            let target = directory.find_key(&request);
            let found = match &target {
                Some(target) => timeout(patience, target.cancel()).await.is_ok(),
                None => context.drainers.cancel(None, &request).await,
            };
            conn.close_with(b"").await;
            (if found { "cancel_forwarded" } else { "cancel_unknown" }, None)
        }
        Ok(Secured::Tls) => {
            let name = conn.server_name();
            if let Some(door) = name.as_deref().and_then(|name| directory.find(name)) {
                let visit = Visit::new(context.clone(), door, caller, certificate);
                return visit.serve(conn).await;
            }
            let refusal = match name {
                Some(_) => Refusal::NotAllowed(caller.address()),
                None => Refusal::Nameless,
            };
            conn.close_with(&refusal.message()).await;
            ("unknown_name", Some(refusal.to_string()))
        }
        Err(refusal) => {
            conn.refuse(&refusal).await;
            (refusal.outcome(), Some(refusal.to_string()))
        }
    };
    close(outcome);
}
