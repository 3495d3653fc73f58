//! Who is a member of a tenant, and as what.

use askama::Template;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use client::wire::{Invitation, Member, MemberRole, Page};
use component::{Role, TenantName};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Site;
use super::api::{Api, Refused};
use super::failure::{At, shown};
use super::frame::{Frame, unreadable};
use crate::sign_in::Signed;

#[derive(Template)]
#[template(path = "members.html")]
struct Members {
    frame: Frame,
    members: Vec<Member>,
    invitations: Vec<Invitation>,
    /// The invitation that was just made, with its link.
    made: Option<Invitation>,
    /// What was typed, when it was refused.
    name: String,
    error: Option<String>,
}

impl Members {
    fn roles(&self) -> [&'static str; 4] {
        Role::OF_MEMBERS.map(Role::as_str)
    }

    fn word(&self, member: &Member) -> &'static str {
        word(member.role)
    }

    fn is(&self, member: &Member, role: &str) -> bool {
        word(member.role) == role
    }
}

fn word(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Owner => "owner",
        MemberRole::Developer => "developer",
        MemberRole::Auditor => "auditor",
        MemberRole::Viewer => "viewer",
    }
}

fn frame(site: &Site, signed: &Signed, tenant: &TenantName) -> Frame {
    Frame::of(site, &signed.caller, "members").in_tenant(&signed.caller, tenant.as_str())
}

async fn list(
    site: &Site,
    signed: &Signed,
    tenant: &TenantName,
    made: Option<Invitation>,
    refused: Option<(String, Refused)>,
) -> Response {
    let api = Api::new(site, &signed.caller);
    let frame = frame(site, signed, tenant);
    let lists = async {
        let members: Page<Member> = api.get(&format!("/v1/tenants/{tenant}/members")).await?;
        let invitations: Page<Invitation> = api.get(&format!("/v1/tenants/{tenant}/invitations")).await?;
        Ok::<_, Refused>((members.items, invitations.items))
    };
    let (members, invitations) = match lists.await {
        Ok(lists) => lists,
        Err(refused) => return frame.failure(refused).into_response(),
    };
    let status = refused.as_ref().and_then(|(_, refused)| StatusCode::from_u16(refused.0.status).ok());
    // Of a form with one field to write in, the field need not be named as the API names it.
    let words = |refused: Refused| match refused.of_field("name") {
        Some(wrong) => format!("The name {wrong}."),
        None => refused.0.detail,
    };
    let (name, error) = refused.map(|(name, refused)| (name, Some(words(refused)))).unwrap_or_default();
    let mut response = shown(&Members { frame, members, invitations, made, name, error });
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    response
}

/// `GET /tenants/{tenant}/members`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
) -> Response {
    list(&site, &signed, &tenant, None, None).await
}

#[derive(Deserialize)]
pub(crate) struct Invite {
    name: String,
    role: String,
}

/// `POST /tenants/{tenant}/members`
pub(crate) async fn invite(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    sent: Result<Form<Invite>, FormRejection>,
) -> Response {
    let Form(sent) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            return frame(&site, &signed, &tenant).failure(unreadable(&error.body_text())).into_response();
        }
    };
    let api = Api::new(&site, &signed.caller);
    let body = json!({ "name": sent.name, "role": sent.role });
    let path = format!("/v1/tenants/{tenant}/invitations");
    match api.send::<Invitation>(Method::POST, &path, Some(&body), None).await {
        Ok((_, made)) => list(&site, &signed, &tenant, Some(made), None).await,
        Err(refused) => list(&site, &signed, &tenant, None, Some((sent.name, refused))).await,
    }
}

#[derive(Deserialize)]
pub(crate) struct Edit {
    /// A role, or `none`.
    role: String,
}

/// `POST /tenants/{tenant}/members/{id}`
pub(crate) async fn edit(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, id)): At<(TenantName, Uuid)>,
    sent: Result<Form<Edit>, FormRejection>,
) -> Response {
    let Form(sent) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            return frame(&site, &signed, &tenant).failure(unreadable(&error.body_text())).into_response();
        }
    };
    let path = format!("/v1/tenants/{tenant}/members/{id}");
    let (method, body) = match sent.role.as_str() {
        "none" => (Method::DELETE, None),
        role => (Method::PUT, Some(json!({ "role": role }))),
    };
    done(&site, &signed, &tenant, method, &path, body.as_ref()).await
}

/// `POST /tenants/{tenant}/invitations/{id}/withdraw`
pub(crate) async fn withdraw(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, id)): At<(TenantName, Uuid)>,
) -> Response {
    let path = format!("/v1/tenants/{tenant}/invitations/{id}");
    done(&site, &signed, &tenant, Method::DELETE, &path, None).await
}

async fn done(
    site: &Site,
    signed: &Signed,
    tenant: &TenantName,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Response {
    let api = Api::new(site, &signed.caller);
    match api.send::<Value>(method, path, body, None).await {
        Ok(_) => {
            let to = format!("{}/tenants/{tenant}/members", site.app.console.base());
            Redirect::to(&to).into_response()
        }
        Err(refused) => list(site, signed, tenant, None, Some((String::new(), refused))).await,
    }
}
