//! Who asks, and what they may: the one table of permissions and the one place where it is asked.
//!
//! A token of a tenant sees that tenant and nothing else. Asked about another, the API answers as it does for a
//! tenant that does not exist: the same words, whatever the scope. Within its own tenant a token is told which
//! scope an action needs.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, USER_AGENT};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use component::TenantName;
use secrecy::SecretString;
use store::Store;
use store::journal::Actor;
use store::tenant::Tenant;
use store::token::{Scope, Token};

use crate::App;
use crate::extract::text_of;
use crate::problem::{Kind, Problem};

/// Longest program name kept in the journal, characters.
const LONGEST_PROGRAM: usize = 80;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// See a tenant, its steads, components, operations, history, and what an edit would do.
    Look,
    /// Read a server's log.
    ReadLogs,
    /// Look at what is in a database.
    ReadData,
    /// Change what is in a database.
    WriteData,
    /// Edit or remove a stead, rotate a password, move a server.
    Edit,
    /// See a password.
    SeePassword,
    /// Make, edit or remove a tenant.
    EditTenants,
    /// Make or end a token.
    EditTokens,
    /// Read the journal of the whole installation.
    ReadWholeJournal,
}

impl Action {
    /// The table: which scope an action needs, and what it is called when it is refused.
    fn needs(self) -> (Scope, &'static str) {
        match self {
            Self::Look => (Scope::Viewer, "to look"),
            Self::ReadLogs => (Scope::Viewer, "to read logs"),
            Self::ReadData => (Scope::Viewer, "to look at data"),
            Self::WriteData => (Scope::Developer, "to change data"),
            Self::Edit => (Scope::Developer, "to change anything"),
            Self::SeePassword => (Scope::Developer, "to see a password"),
            Self::EditTenants => (Scope::Operator, "to make, edit or remove a tenant"),
            Self::EditTokens => (Scope::Operator, "to make or end a token"),
            Self::ReadWholeJournal => (Scope::Operator, "to read the journal of all tenants"),
        }
    }
}

fn rank(scope: Scope) -> u8 {
    match scope {
        Scope::Viewer => 0,
        Scope::Developer => 1,
        Scope::Operator => 2,
    }
}

/// Somebody who signed in.
#[derive(Clone)]
pub(crate) struct Caller {
    token: Token,
    /// As the journal has them.
    pub(crate) actor: Actor,
}

impl Caller {
    /// The token.
    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Whether it is one of the platform's own people.
    pub(crate) fn is_operator(&self) -> bool {
        self.token.scope == Scope::Operator
    }

    /// Asks the table.
    pub(crate) fn may(&self, action: Action) -> Result<(), Problem> {
        let (needed, words) = action.needs();
        if rank(self.token.scope) >= rank(needed) {
            return Ok(());
        }
        let (needed, has) = (needed.as_str(), self.token.scope.as_str());
        let detail =
            format!("{words} takes a token of scope {needed}, and this one has scope {has}; use another");
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// The tenant, where there is one that the token may see.
    pub(crate) async fn find(&self, store: &Store, name: &TenantName) -> Result<Option<Tenant>, Problem> {
        // The question is asked of the database in either case, so that both answers take as long.
        let found = store.tenant(name).await?;
        Ok(match &self.token.tenant {
            Some((own, _)) => found.filter(|tenant| tenant.id == *own),
            None => found,
        })
    }

    /// The tenant, to see it.
    pub(crate) async fn visible(&self, store: &Store, name: &TenantName) -> Result<Tenant, Problem> {
        self.find(store, name).await?.ok_or_else(|| Problem::no_tenant(name))
    }

    /// The tenant, to do something there.
    pub(crate) async fn tenant(
        &self,
        store: &Store,
        name: &TenantName,
        action: Action,
    ) -> Result<Tenant, Problem> {
        let tenant = self.visible(store, name).await?;
        self.may(action)?;
        Ok(tenant)
    }
}

/// Lets in who has a token in force, and nobody else: every route behind it has a [`Caller`].
pub(crate) async fn sign_in(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let secret = bearer(request.headers())?;
    let token = app.store.token(&secret).await?.ok_or_else(|| {
        Problem::new(
            Kind::Unauthenticated,
            "this token is not in force: it was never made, has expired or was revoked",
        )
    })?;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let actor = Actor { name: token.name.clone(), source: source(peer, request.headers()) };
    request.extensions_mut().insert(Caller { token, actor });
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Result<SecretString, Problem> {
    let none = || {
        Problem::new(
            Kind::Unauthenticated,
            "send a token: `Authorization: Bearer stead_...`; `stead token` makes one",
        )
    };
    let given = text_of(headers, AUTHORIZATION).ok().flatten().ok_or_else(none)?;
    let (scheme, token) = given.split_once(' ').ok_or_else(none)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(none());
    }
    Ok(SecretString::from(token.trim()))
}

/// From where, by which program: `127.0.0.1 stead/0.1.0`.
fn source(peer: Option<SocketAddr>, headers: &HeaderMap) -> String {
    let address = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_canonical().to_string());
    let program = headers.get(USER_AGENT).map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let program: String =
        program.unwrap_or_default().chars().filter(|c| !c.is_control()).take(LONGEST_PROGRAM).collect();
    match program.trim() {
        "" => address,
        program => format!("{address} {program}"),
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| Problem::internal(&"a route without sign-in asks who calls"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_source_is_one_short_line() {
        let mut headers = HeaderMap::new();
        let peer = Some("[::ffff:127.0.0.1]:4000".parse().unwrap());
        assert_eq!(source(peer, &headers), "127.0.0.1");
        headers.insert(USER_AGENT, HeaderValue::from_bytes(b"stead/0.1\tx\xff").unwrap());
        assert_eq!(source(peer, &headers), "127.0.0.1 stead/0.1x\u{fffd}");
        headers.insert(USER_AGENT, HeaderValue::from_str(&"x".repeat(4_000)).unwrap());
        assert_eq!(source(None, &headers).len(), "unknown ".len() + LONGEST_PROGRAM);
    }

    #[test]
    fn only_a_bearer_token_is_one() {
        let with =
            |text: &'static str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(text))]);
        for text in ["", "Bearer", "Bearer ", "Basic YTpi", "stead_x"] {
            assert_eq!(bearer(&with(text)).unwrap_err().kind(), Kind::Unauthenticated, "{text}");
        }
        assert!(bearer(&with("bearer stead_x")).is_ok());
    }
}
