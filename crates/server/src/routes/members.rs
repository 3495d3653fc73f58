//! Members of a tenant, and invitations.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use client::wire::{self, MemberRole, Page, StaffRole};
use component::{Role, TenantId, TenantName};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use store::invitation::Invitation;
use store::person::Member;
use utoipa::IntoParams;
use uuid::Uuid;

use super::TenantPath;
use crate::App;
use crate::access::{Action, Caller};
use crate::extract::{Path, Sent, parse};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;

/// Longest e-mail address, characters.
const LONGEST_NAME: usize = 200;

fn role(wanted: MemberRole) -> Role {
    match wanted {
        MemberRole::Owner => Role::Owner,
        MemberRole::Developer => Role::Developer,
        MemberRole::Auditor => Role::Auditor,
        MemberRole::Viewer => Role::Viewer,
    }
}

fn member(member: Member) -> wire::Member {
    wire::Member {
        id: member.person,
        name: member.name,
        role: match member.role {
            Role::Owner => MemberRole::Owner,
            Role::Developer => MemberRole::Developer,
            Role::Auditor => MemberRole::Auditor,
            Role::Viewer | Role::Operator | Role::Support => MemberRole::Viewer,
        },
        provided: member.provided,
        second_factor: member.second_factor,
        since: member.since,
        signed_in_at: member.signed_in_at,
    }
}

fn invitation(invitation: Invitation, link: Option<String>) -> wire::Invitation {
    wire::Invitation {
        id: invitation.id,
        name: invitation.name,
        role: invitation.role.to_string(),
        made_by: invitation.made_by,
        expires_at: invitation.expires_at,
        link,
    }
}

/// An e-mail address as accounts have it: lower case, one `@` with something on both sides.
pub(crate) fn person_name(text: &str) -> Result<String, Problem> {
    let name = text.trim().to_lowercase();
    let fits = name.chars().count() <= LONGEST_NAME
        && !name.chars().any(|c| c.is_control() || c.is_whitespace())
        && name
            .split_once('@')
            .is_some_and(|(who, domain)| !who.is_empty() && !domain.is_empty() && !domain.contains('@'));
    let wrong =
        || Problem::fields(vec![("/name".into(), "is an e-mail address, like ann@example.com".into())]);
    fits.then_some(name).ok_or_else(wrong)
}

/// Members of a tenant, by name
///
/// Takes the role owner, or operator.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/members", tag = "members", operation_id = "members",
    params(TenantPath),
    responses((status = 200, description = "The members", body = Page<wire::Member>),
              (status = 403, description = "The role does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
) -> Result<Json<Page<wire::Member>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::EditMembers).await?;
    let items = app.store.members(tenant.id).await?.into_iter().map(member).collect();
    Ok(Json(Page { items, next: None }))
}

/// A member.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct MemberPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// Identity of the person.
    person: Uuid,
}

/// Give a member another role
///
/// Takes the role owner, or operator. One whom the company's identity provider put here is edited there.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/members/{person}", tag = "members", operation_id = "put_member",
    params(MemberPath), request_body = wire::MemberRequest,
    responses((status = 204, description = "It is so")))]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<MemberPath>,
    sent: Sent,
) -> Result<StatusCode, Problem> {
    let body = sent.required();
    edit(&app, &caller, &at, move || Ok(Some(role(parse::<wire::MemberRequest>(body?)?.role)))).await
}

/// End a membership
///
/// Takes the role owner, or operator. The account stays, and what it is in other tenants.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/members/{person}", tag = "members",
    operation_id = "remove_member", params(MemberPath),
    responses((status = 204, description = "They are no member any more")))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<MemberPath>,
) -> Result<StatusCode, Problem> {
    edit(&app, &caller, &at, || Ok(None)).await
}

async fn edit(
    app: &App,
    caller: &Caller,
    at: &MemberPath,
    wanted: impl FnOnce() -> Result<Option<Role>, Problem>,
) -> Result<StatusCode, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may_in(&tenant, Action::EditMembers)?;
        let wanted = wanted()?;
        if caller.id() == at.person {
            let detail = "this is you; have another owner do it, or nobody might be left who can";
            return Err(Problem::new(Kind::InUse, detail));
        }
        let members = app.store.members(tenant.id).await?;
        match members.iter().find(|member| member.person == at.person) {
            Some(member) if member.provided => {
                let detail = format!(
                    "the company's identity provider says what {} is here; edit it there",
                    member.name
                );
                return Err(Problem::new(Kind::InUse, detail));
            }
            Some(_) => {}
            None => {
                let detail = format!("tenant `{}` has no such member", at.tenant);
                return Err(Problem::new(Kind::NotFound, detail));
            }
        }
        Ok(app.store.edit_member(&caller.actor, (tenant.id, &tenant.name), at.person, wanted).await?)
    };
    Attempt::new(caller, "member.edited", Some(&tenant)).of(&app.store, edit).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Invitations that are still open
///
/// Without their links, which are shown once.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/invitations", tag = "members", operation_id = "invitations",
    params(TenantPath),
    responses((status = 200, description = "The invitations", body = Page<wire::Invitation>),
              (status = 403, description = "The role does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn invitations(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
) -> Result<Json<Page<wire::Invitation>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::EditMembers).await?;
    let open = app.store.invitations(Some(tenant.id)).await?;
    Ok(Json(Page { items: open.into_iter().map(|open| invitation(open, None)).collect(), next: None }))
}

/// Invite somebody
///
/// The answer holds a link, which is shown this once: whoever has it chooses a password and is a member. It holds
/// for three days.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/invitations", tag = "members", operation_id = "invite",
    params(TenantPath), request_body = wire::InvitationRequest,
    responses((status = 201, description = "The invitation, with its link", body = wire::Invitation)))]
pub(crate) async fn invite(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    sent: Sent,
) -> Result<(StatusCode, Json<wire::Invitation>), Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let body = sent.required();
    let mut attempt = Attempt::new(&caller, "member.invited", Some(&tenant));
    if let Ok(body) = &body {
        attempt = attempt.wanting(body);
    }
    let edit = async {
        caller.may_in(&tenant, Action::EditMembers)?;
        let wanted: wire::InvitationRequest = parse(body?)?;
        let name = person_name(&wanted.name)?;
        let into: (TenantId, &TenantName) = (tenant.id, &tenant.name);
        Ok(app.store.invite(&caller.actor, &name, Some(into), role(wanted.role), false).await?)
    };
    let (made, secret) = attempt.of(&app.store, edit).await?;
    Ok((StatusCode::CREATED, Json(invitation(made, Some(link(&app, &secret))))))
}

/// Invite one of the platform's own people, or sign them in once
///
/// Takes the role operator.
#[utoipa::path(post, path = "/v1/invitations", tag = "members", operation_id = "invite_staff",
    request_body = wire::StaffRequest,
    responses((status = 201, description = "The invitation, with its link", body = wire::Invitation)))]
pub(crate) async fn invite_staff(
    State(app): State<App>,
    caller: Caller,
    sent: Sent,
) -> Result<(StatusCode, Json<wire::Invitation>), Problem> {
    let body = sent.required();
    let mut attempt = Attempt::new(&caller, "member.invited", None);
    if let Ok(body) = &body {
        attempt = attempt.wanting(body);
    }
    let edit = async {
        caller.may(Action::EditTokens)?;
        let wanted: wire::StaffRequest = parse(body?)?;
        let role = match wanted.role {
            StaffRole::Operator => Role::Operator,
            StaffRole::Support => Role::Support,
        };
        let name = person_name(&wanted.name)?;
        Ok(app.store.invite(&caller.actor, &name, None, role, wanted.once).await?)
    };
    let (made, secret) = attempt.of(&app.store, edit).await?;
    Ok((StatusCode::CREATED, Json(invitation(made, Some(link(&app, &secret))))))
}

/// Opening it changes nothing: a page asks before it is used.
fn link(app: &App, secret: &SecretString) -> String {
    format!("{}/invitations/{}", app.console.url(), secret.expose_secret())
}

/// An invitation.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct InvitationPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// Identity of the invitation.
    id: Uuid,
}

/// Take an invitation back
///
/// Its link lets nobody in any more.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/invitations/{id}", tag = "members",
    operation_id = "withdraw_invitation", params(InvitationPath),
    responses((status = 204, description = "It does not hold any more")))]
pub(crate) async fn withdraw(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<InvitationPath>,
) -> Result<StatusCode, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let edit = async {
        caller.may_in(&tenant, Action::EditMembers)?;
        let whose = Some((tenant.id, &tenant.name));
        Ok(app.store.withdraw_invitation(&caller.actor, whose, at.id).await?)
    };
    let attempt = Attempt::new(&caller, "member.invitation_withdrawn", Some(&tenant));
    if attempt.of(&app.store, edit).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(Kind::NotFound, format!("tenant `{}` has no such invitation open", at.tenant)))
}
