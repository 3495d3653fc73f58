//! `stead tenant`.

use client::wire::{Quota, Tenant, TenantRequest};
use client::{Client, Part};

use crate::cli::{QuotaArgs, TenantVerb};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(context: &Context, verb: TenantVerb) -> Result<(), Failure> {
    let client = match verb {
        TenantVerb::Create { .. } => context.client_or_start().await?,
        _ => context.client().await?,
    };
    match verb {
        TenantVerb::Create { name, quota } => {
            let made = client.put_tenant(name.as_str(), &TenantRequest::default()).await?;
            let made = set_quota(&client, made, &quota).await?;
            show(context, &[made])
        }
        TenantVerb::Quota { name, quota } => {
            let known = client.tenant(name.as_str()).await?;
            let changed = set_quota(&client, known, &quota).await?;
            show(context, &[changed])
        }
        TenantVerb::List => {
            let mut tenants = Vec::new();
            let mut part = Part { limit: Some(500), ..Part::default() };
            loop {
                let page = client.tenants(&part).await?;
                tenants.extend(page.items);
                match page.next {
                    Some(next) => part.cursor = Some(next),
                    None => return show(context, &tenants),
                }
            }
        }
        TenantVerb::Remove { name } => {
            client.delete_tenant(name.as_str()).await?;
            if context.json {
                output::json(&serde_json::json!({ "removed": name }))
            } else {
                output::line(format!("tenant {name} is gone"))
            }
        }
    }
}

async fn set_quota(client: &Client, tenant: Tenant, wanted: &QuotaArgs) -> Result<Tenant, Failure> {
    let quota = Quota {
        servers: wanted.servers.unwrap_or(tenant.quota.servers),
        memory_mib: wanted.memory_mib.unwrap_or(tenant.quota.memory_mib),
        disk_mib: wanted.disk_mib.unwrap_or(tenant.quota.disk_mib),
    };
    let quota = Some(quota).filter(|quota| *quota != tenant.quota);
    let log_days = wanted.log_days.filter(|days| *days != tenant.log_days);
    if quota.is_none() && log_days.is_none() {
        return Ok(tenant);
    }
    Ok(client.put_tenant(&tenant.name, &TenantRequest { quota, log_days }).await?)
}

fn show(context: &Context, tenants: &[Tenant]) -> Result<(), Failure> {
    if context.json {
        return output::json(&tenants);
    }
    let rows: Vec<Vec<String>> = tenants
        .iter()
        .map(|tenant| {
            vec![
                tenant.name.clone(),
                tenant.quota.servers.to_string(),
                tenant.quota.memory_mib.to_string(),
                tenant.quota.disk_mib.to_string(),
                tenant.log_days.to_string(),
            ]
        })
        .collect();
    output::table(&["TENANT", "SERVERS", "MEMORY MiB", "DISK MiB", "LOG DAYS"], &rows)
}
