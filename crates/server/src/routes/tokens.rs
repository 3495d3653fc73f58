//! Tokens.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use client::wire::{self, Page, TokenScope};
use component::Role;
use component::TenantName;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde::Deserialize;
use store::token::Token;
use utoipa::IntoParams;
use uuid::Uuid;

use super::tenants::ListQuery;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, Sent, parse};
use crate::paging;
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;
use crate::{App, view};

/// Longest name, characters.
const LONGEST_NAME: usize = 60;
/// Most days.
const MOST_DAYS: u16 = 3_650;
/// What the control plane calls itself in the journal: nobody else may.
const OWN_NAME: &str = "stead";

/// Tokens in force, oldest first
///
/// A token of a tenant sees those of its tenant. Secrets are never shown again.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", operation_id = "tokens", params(ListQuery),
    responses((status = 200, description = "A page of tokens", body = Page<wire::Token>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<wire::Token>>, Problem> {
    caller.may(Action::Look)?;
    let after: Option<(Timestamp, Uuid)> = paging::key_of(query.cursor.as_ref())?;
    let key = |token: &Token| (token.created_at, token.id);
    let mut found = app.store.tokens(caller.tenant_ids().as_deref()).await?;
    found.retain(|token| after.is_none_or(|after| key(token) > after));
    Ok(Json(paging::page(found, query.limit, key, view::token)))
}

/// Make a token
///
/// Takes a token of scope operator. The answer holds the secret, which is shown this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", operation_id = "create_token",
    request_body = wire::TokenRequest,
    responses((status = 201, description = "The token, with its secret", body = wire::Token),
              (status = 404, description = "There is no such tenant", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn post(
    State(app): State<App>,
    caller: Caller,
    sent: Sent,
) -> Result<(StatusCode, Json<wire::Token>), Problem> {
    let body = sent.required();
    let mut attempt = Attempt::new(&caller, "token.created", None);
    if let Ok(body) = &body {
        attempt = attempt.wanting(body);
    }
    let edit = async {
        caller.may(Action::EditTokens)?;
        let wanted: wire::TokenRequest = parse(body?)?;
        let tenant = match checked(&wanted)? {
            None => None,
            Some(name) => Some(caller.visible(&app.store, &name).await?),
        };
        let days = wanted.days.map(|days| SignedDuration::from_hours(24 * i64::from(days)));
        let until = days.map(|days| Timestamp::now().saturating_add(days)).transpose();
        let until = until.map_err(|error| Problem::internal(&error))?;
        let tenant = tenant.as_ref().map(|tenant| (tenant.id, &tenant.name));
        let scope = scope(wanted.scope);
        Ok(app.store.create_token(&caller.actor, wanted.name.trim(), tenant, scope, until).await?)
    };
    let (token, secret) = attempt.of(&app.store, edit).await?;
    let token = wire::Token { secret: Some(secret.expose_secret().to_owned()), ..view::token(token) };
    Ok((StatusCode::CREATED, Json(token)))
}

fn scope(wanted: TokenScope) -> Role {
    match wanted {
        TokenScope::Operator => Role::Operator,
        TokenScope::Support => Role::Support,
        TokenScope::Owner => Role::Owner,
        TokenScope::Developer => Role::Developer,
        TokenScope::Auditor => Role::Auditor,
        TokenScope::Viewer => Role::Viewer,
    }
}

/// Checks a wish; answers whose token it shall be.
fn checked(wanted: &wire::TokenRequest) -> Result<Option<TenantName>, Problem> {
    let mut wrong = Vec::new();
    let mut refuse = |pointer: &str, message: String| wrong.push((pointer.to_owned(), message));
    let name = wanted.name.trim();
    if name.is_empty() || wanted.name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        refuse("/name", format!("is 1 to {LONGEST_NAME} characters on one line"));
    } else if name.eq_ignore_ascii_case(OWN_NAME) {
        refuse(
            "/name",
            format!("`{OWN_NAME}` is what the control plane calls itself in the history; use another"),
        );
    }
    if name.contains('@') {
        refuse("/name", "holds an @, by which the history tells people from tokens; leave it out".into());
    }
    if wanted.days.is_some_and(|days| !(1..=MOST_DAYS).contains(&days)) {
        refuse("/days", format!("is a number from 1 to {MOST_DAYS}"));
    }
    let tenant = match (wanted.scope, &wanted.tenant) {
        (TokenScope::Operator | TokenScope::Support, None) => None,
        (TokenScope::Operator | TokenScope::Support, Some(_)) => {
            refuse("/tenant", "a token of this scope belongs to no tenant; leave it out".into());
            None
        }
        (_, None) => {
            refuse("/tenant", "is missing: a token of this scope belongs to a tenant".into());
            None
        }
        (_, Some(name)) => name.parse().map_err(|error| refuse("/tenant", format!("{error}"))).ok(),
    };
    if wrong.is_empty() { Ok(tenant) } else { Err(Problem::fields(wrong)) }
}

/// A token.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TokenPath {
    /// Identity of the token.
    id: Uuid,
}

/// End a token
///
/// Takes a token of scope operator. The token that asks cannot end itself: sign in with another.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", operation_id = "revoke_token", params(TokenPath),
    responses((status = 204, description = "It has ended"),
              (status = 404, description = "No such token is in force", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TokenPath>,
) -> Result<StatusCode, Problem> {
    let edit = async {
        caller.may(Action::EditTokens)?;
        if caller.token().is_some_and(|token| token.id == at.id) {
            let detail =
                "this is the token you are signed in with; end it with another one, or you lock yourself out";
            return Err(Problem::new(Kind::InUse, detail));
        }
        Ok(app.store.revoke_token(&caller.actor, at.id).await?)
    };
    let revoked = Attempt::new(&caller, "token.revoked", None).of(&app.store, edit).await?;
    if revoked {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(Kind::NotFound, format!("no token {} is in force", at.id)))
}
