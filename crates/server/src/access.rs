//! Who asks, and what they may: the one table of permissions and the one place where it is asked.
//!
//! Somebody is a token or a person who signed in to the console, and has a role: the platform's own people one that
//! holds in every tenant, everybody else one in each tenant they are of. Who is of no tenant sees nothing of it: asked
//! about another, the API answers as it does for a tenant that does not exist, in the same words, whatever the role.
//! Within a tenant one is told which roles an action takes.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, USER_AGENT};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use component::{Role, TenantId, TenantName};
use secrecy::SecretString;
use store::Store;
use store::journal::Actor;
use store::person::{Membership, Person};
use store::tenant::Tenant;
use store::token::Token;
use uuid::Uuid;

use crate::App;
use crate::extract::text_of;
use crate::problem::{Kind, Problem};

/// Longest program name kept in the journal, characters.
const LONGEST_PROGRAM: usize = 80;

/// How often it is asked whether a token still holds that something goes on for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// See a tenant, its steads, components, operations, history, and what an edit would do.
    Look,
    /// Read logs. What holds data in them is withheld from who may not [`Action::ReadData`].
    ReadLogs,
    /// Take the record of a tenant along: search and export.
    Audit,
    /// Read a server's data.
    ReadData,
    /// Change a server's data.
    WriteData,
    /// Edit or remove a stead, rotate a password, move a server.
    Edit,
    /// Call a function.
    Invoke,
    /// Attach a debugger to a function, and so run any code in it.
    Inspect,
    /// See a password.
    SeePassword,
    /// See and say who the members of a tenant are.
    EditMembers,
    /// Make, edit or remove a tenant.
    EditTenants,
    /// Make or end a token; invite the platform's own people.
    EditTokens,
    /// Read the journal of the whole installation.
    ReadWholeJournal,
}

impl Action {
    /// The table: which roles may, and what it is called when it is refused.
    fn row(self) -> (&'static [Role], &'static str) {
        use Role::{Auditor, Developer, Operator, Owner, Support, Viewer};
        match self {
            Self::Look => (&[Operator, Support, Owner, Developer, Auditor, Viewer], "to look"),
            Self::ReadLogs => (&[Operator, Support, Owner, Developer, Auditor, Viewer], "to read logs"),
            Self::Audit => (&[Operator, Support, Owner, Auditor], "to export the record"),
            Self::ReadData => (&[Operator, Owner, Developer, Viewer], "to read data"),
            Self::WriteData => (&[Operator, Owner, Developer], "to change data"),
            Self::Edit => (&[Operator, Owner, Developer], "to change anything"),
            Self::Invoke => (&[Operator, Owner, Developer], "to call a function"),
            Self::Inspect => (&[Operator, Owner, Developer], "to inspect a function"),
            Self::SeePassword => (&[Operator, Owner, Developer], "to see a password"),
            Self::EditMembers => (&[Operator, Owner], "to see and edit members"),
            Self::EditTenants => (&[Operator], "to make, edit or remove a tenant"),
            Self::EditTokens => (&[Operator], "to make or end a token"),
            Self::ReadWholeJournal => (&[Operator, Support], "to read the journal of all tenants"),
        }
    }

    /// Whether one of these roles may.
    fn takes_any(self, mut roles: impl Iterator<Item = Role>) -> bool {
        roles.any(|role| self.row().0.contains(&role))
    }
}

/// Somebody who signed in.
#[derive(Clone)]
pub(crate) struct Caller {
    who: Who,
    /// As the journal has them.
    pub(crate) actor: Actor,
}

#[derive(Clone)]
enum Who {
    Token(Token),
    Person(Person),
}

impl Caller {
    /// A person, signed in from `source`.
    pub(crate) fn person(person: Person, source: String) -> Self {
        let actor = Actor { name: person.name.clone(), source };
        Self { who: Who::Person(person), actor }
    }

    /// The token, where it is one.
    pub(crate) fn token(&self) -> Option<&Token> {
        match &self.who {
            Who::Token(token) => Some(token),
            Who::Person(_) => None,
        }
    }

    /// Who it is: the identity of the token or the person.
    pub(crate) fn id(&self) -> Uuid {
        match &self.who {
            Who::Token(token) => token.id,
            Who::Person(person) => person.id,
        }
    }

    /// The role that holds in every tenant.
    fn staff(&self) -> Option<Role> {
        match &self.who {
            Who::Token(token) => Some(token.scope).filter(|role| role.is_staff()),
            Who::Person(person) => person.staff,
        }
    }

    fn memberships(&self) -> Vec<Membership> {
        match &self.who {
            Who::Token(Token { tenant: Some((tenant, name)), scope, .. }) => {
                vec![Membership { tenant: *tenant, name: name.clone(), role: *scope }]
            }
            Who::Token(_) => Vec::new(),
            Who::Person(person) => person.memberships.clone(),
        }
    }

    /// The roles that it has in a tenant.
    fn roles_in(&self, tenant: TenantId) -> impl Iterator<Item = Role> {
        let member = self.memberships().into_iter().find(|member| member.tenant == tenant);
        self.staff().into_iter().chain(member.map(|member| member.role))
    }

    /// Whether it may see a tenant.
    pub(crate) fn sees(&self, tenant: TenantId) -> bool {
        self.roles_in(tenant).next().is_some()
    }

    /// Whether it may do something in a tenant of that name: for what a page offers. Whether it is then done, the
    /// route decides.
    pub(crate) fn may_by_name(&self, tenant: &str, action: Action) -> bool {
        let member = self.memberships().into_iter().find(|member| member.name.as_str() == tenant);
        action.takes_any(self.staff().into_iter().chain(member.map(|member| member.role)))
    }

    /// The tenants that it may see; `None` for all.
    pub(crate) fn tenants(&self) -> Option<Vec<(TenantId, TenantName)>> {
        if self.staff().is_some() {
            return None;
        }
        let own = self.memberships().into_iter().map(|member| (member.tenant, member.name));
        Some(own.collect())
    }

    /// The identities of those tenants.
    pub(crate) fn tenant_ids(&self) -> Option<Vec<TenantId>> {
        self.tenants().map(|tenants| tenants.into_iter().map(|(id, _)| id).collect())
    }

    /// The tenant that it is of, where that is one.
    pub(crate) fn own_tenant(&self) -> Option<(TenantId, TenantName)> {
        let mut own = self.tenants()?;
        if own.len() == 1 { own.pop() } else { None }
    }

    /// Whether it is one of the platform's own people, and may make tenants.
    pub(crate) fn is_operator(&self) -> bool {
        self.staff() == Some(Role::Operator)
    }

    /// Asks the table, of what is about no tenant. Lists show each their own.
    pub(crate) fn may(&self, action: Action) -> Result<(), Problem> {
        let roles = self.staff().into_iter().chain(self.memberships().into_iter().map(|member| member.role));
        self.judge(roles, action)
    }

    /// Whether it may do something in the tenant of this identity, where a refusal is no answer of its own.
    pub(crate) fn can(&self, tenant: TenantId, action: Action) -> bool {
        action.takes_any(self.roles_in(tenant))
    }

    /// Asks the table, of what is in a tenant.
    pub(crate) fn may_in(&self, tenant: &Tenant, action: Action) -> Result<(), Problem> {
        self.may_at(tenant.id, action)
    }

    /// Asks the table, of what is in the tenant of this identity.
    pub(crate) fn may_at(&self, tenant: TenantId, action: Action) -> Result<(), Problem> {
        self.judge(self.roles_in(tenant), action)
    }

    fn judge(&self, roles: impl Iterator<Item = Role>, action: Action) -> Result<(), Problem> {
        let roles: Vec<Role> = roles.collect();
        if action.takes_any(roles.iter().copied()) {
            return Ok(());
        }
        let (needed, words) = action.row();
        let needed = needed.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
        let has = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" and ");
        let detail = match &self.who {
            Who::Token(_) => {
                format!("{words} takes a token of scope {needed}; this one has scope {has}; use another")
            }
            Who::Person(_) if has.is_empty() => {
                format!("{words} takes the role {needed}; you have none yet: ask an owner of the tenant")
            }
            Who::Person(_) => {
                format!("{words} takes the role {needed}; you are {has} here: ask an owner of the tenant")
            }
        };
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// The tenant, where there is one that the caller may see.
    pub(crate) async fn find(&self, store: &Store, name: &TenantName) -> Result<Option<Tenant>, Problem> {
        // The question is asked of the database in either case, so that both answers take as long.
        let found = store.tenant(name).await?;
        Ok(found.filter(|tenant| self.roles_in(tenant.id).next().is_some()))
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
        self.may_in(&tenant, action)?;
        Ok(tenant)
    }
}

/// Lets in who has a token in force, and nobody else: every route behind it has a [`Caller`]. The console's pages,
/// which ask the API for a person who signed in, have brought one along.
pub(crate) async fn sign_in(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if request.extensions().get::<Caller>().is_some() {
        return Ok(next.run(request).await);
    }
    let secret = bearer(request.headers())?;
    let token = app.store.token(&secret).await?.ok_or_else(|| {
        Problem::new(
            Kind::Unauthenticated,
            "this token is not in force: it was never made, has expired or was revoked",
        )
    })?;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let actor = Actor { name: token.name.clone(), source: source(peer, request.headers()) };
    request.extensions_mut().insert(Caller { who: Who::Token(token), actor });
    Ok(next.run(request).await)
}

/// Waits until a token is no longer in force, or may no longer do something in a tenant: for what goes on after its
/// request was answered.
pub(crate) async fn until_it_may_not(store: &Store, secret: &SecretString, tenant: TenantId, action: Action) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        match store.token(secret).await {
            Ok(Some(token)) => {
                let actor = Actor { name: token.name.clone(), source: String::new() };
                if !(Caller { who: Who::Token(token), actor }).can(tenant, action) {
                    return;
                }
            }
            Ok(None) => return,
            // Nobody was told no.
            Err(error) => tracing::warn!(%error, "whether a token is in force could not be asked"),
        }
    }
}

pub(crate) fn bearer(headers: &HeaderMap) -> Result<SecretString, Problem> {
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
pub(crate) fn source(peer: Option<SocketAddr>, headers: &HeaderMap) -> String {
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
