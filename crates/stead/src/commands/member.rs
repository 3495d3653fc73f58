//! `stead console` and `stead member`: people, and how they get into the console.

use client::wire::{Invitation, InvitationRequest, MemberRole, StaffRequest, StaffRole};

use crate::cli::{MemberVerb, Scope};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

pub(super) async fn console(context: &Context, name: &str) -> Result<(), Failure> {
    let client = context.client_or_start().await?;
    let wanted = StaffRequest { name: name.to_owned(), role: StaffRole::Operator, once: true };
    let made = client.invite_staff(&wanted).await?;
    if context.json {
        return output::json(&made);
    }
    output::remark("open this in a browser; it signs in once, within five minutes, as an operator");
    output::line(made.link.unwrap_or_default())
}

pub(super) async fn run(context: &Context, verb: MemberVerb) -> Result<(), Failure> {
    let client = context.client().await?;
    match verb {
        MemberVerb::Invite { name, role, tenant } => {
            let staff = |role, tenant: &Option<_>| match tenant {
                None => Ok(StaffRequest { name: name.clone(), role, once: false }),
                Some(_) => Err(Failure::Usage("this role holds in every tenant; leave --tenant out".into())),
            };
            let made = match role {
                Scope::Operator => client.invite_staff(&staff(StaffRole::Operator, &tenant)?).await?,
                Scope::Support => client.invite_staff(&staff(StaffRole::Support, &tenant)?).await?,
                Scope::Owner => member(&client, tenant, name, MemberRole::Owner).await?,
                Scope::Developer => member(&client, tenant, name, MemberRole::Developer).await?,
                Scope::Auditor => member(&client, tenant, name, MemberRole::Auditor).await?,
                Scope::Viewer => member(&client, tenant, name, MemberRole::Viewer).await?,
            };
            if context.json {
                return output::json(&made);
            }
            output::remark(format!(
                "give this link to {}; it is shown this once, and lets in whoever has it until {}",
                made.name,
                output::moment(made.expires_at)
            ));
            output::line(made.link.unwrap_or_default())
        }
        MemberVerb::List { tenant } => {
            let members = client.members(tenant.as_str()).await?.items;
            let invited = client.invitations(tenant.as_str()).await?.items;
            if context.json {
                return output::json(&serde_json::json!({ "members": members, "invitations": invited }));
            }
            let seen = |at: Option<jiff::Timestamp>| at.map_or("never".into(), output::moment);
            let rows = members.iter().map(|member| {
                vec![
                    member.name.clone(),
                    output::plain(&serde_json::json!(member.role)),
                    seen(member.signed_in_at),
                ]
            });
            let invited = invited.iter().map(|one| {
                vec![
                    one.name.clone(),
                    one.role.clone(),
                    format!("invited until {}", output::moment(one.expires_at)),
                ]
            });
            output::table(&["NAME", "ROLE", "LAST SIGNED IN"], &rows.chain(invited).collect::<Vec<_>>())
        }
        MemberVerb::Remove { name, tenant } => {
            let members = client.members(tenant.as_str()).await?.items;
            let found = members.iter().find(|member| member.name == name.to_lowercase());
            let member = found.ok_or_else(|| {
                Failure::Failed(format!("{name} is no member of {tenant}; `stead member list` shows who is"))
            })?;
            client.remove_member(tenant.as_str(), member.id).await?;
            if context.json {
                output::json(&serde_json::json!({ "removed": member.name }))
            } else {
                output::line(format!("{} is no member of {tenant} any more", member.name))
            }
        }
    }
}

async fn member(
    client: &client::Client,
    tenant: Option<component::TenantName>,
    name: String,
    role: MemberRole,
) -> Result<Invitation, Failure> {
    let tenant = tenant.ok_or_else(|| Failure::Usage("say into which tenant: --tenant NAME".into()))?;
    Ok(client.invite(tenant.as_str(), &InvitationRequest { name, role }).await?)
}
