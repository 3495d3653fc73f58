//! `stead token`.

use client::wire::{Token, TokenRequest, TokenScope};

use crate::cli::{Scope, TokenVerb};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(context: &Context, verb: TokenVerb) -> Result<(), Failure> {
    let client = context.client().await?;
    match verb {
        TokenVerb::Create { name, scope, tenant, days } => {
            let scope = match scope {
                Scope::Operator => TokenScope::Operator,
                Scope::Support => TokenScope::Support,
                Scope::Owner => TokenScope::Owner,
                Scope::Developer => TokenScope::Developer,
                Scope::Auditor => TokenScope::Auditor,
                Scope::Viewer => TokenScope::Viewer,
            };
            let tenant = tenant.map(String::from);
            let token = client.create_token(&TokenRequest { name, scope, tenant, days }).await?;
            if context.json {
                return output::json(&token);
            }
            output::remark("this is shown once; use it as STEAD_TOKEN");
            output::line(token.secret.unwrap_or_default())
        }
        TokenVerb::List => {
            let page = client.tokens().await?;
            if context.json {
                return output::json(&page.items);
            }
            let rows: Vec<Vec<String>> = page.items.iter().map(row).collect();
            output::table(&["ID", "NAME", "SCOPE", "TENANT", "UNTIL"], &rows)
        }
        TokenVerb::Revoke { id } => {
            client.revoke_token(id).await?;
            if context.json {
                output::json(&serde_json::json!({ "revoked": id }))
            } else {
                output::line(format!("token {id} has ended"))
            }
        }
    }
}

fn row(token: &Token) -> Vec<String> {
    let scope = match token.scope {
        TokenScope::Operator => "operator",
        TokenScope::Support => "support",
        TokenScope::Owner => "owner",
        TokenScope::Auditor => "auditor",
        TokenScope::Developer => "developer",
        TokenScope::Viewer => "viewer",
    };
    vec![
        token.id.to_string(),
        token.name.clone(),
        scope.to_owned(),
        token.tenant.clone().unwrap_or_else(|| "-".into()),
        token.expires_at.map_or_else(|| "-".into(), output::moment),
    ]
}
