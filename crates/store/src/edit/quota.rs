//! Whether a tenant may have what it asks for.

use std::collections::BTreeMap;

use component::{ComponentName, Footprint, Spec};
use sqlx::PgConnection;

use super::{EditError, Held};

/// Refuses what would exceed the tenant's quota; an edit that does not grow anything always passes.
pub(super) async fn check_quota(
    conn: &mut PgConnection,
    held: &Held,
    wanted: &BTreeMap<ComponentName, Spec>,
) -> Result<(), EditError> {
    let rows = sqlx::query!(
        "select c.spec, s.id = $2 as \"mine!\" from components c join steads s on s.id = c.stead_id
         where s.tenant_id = $1",
        held.tenant.id.0,
        held.stead.map_or_else(uuid::Uuid::nil, |(id, _)| id),
    )
    .fetch_all(conn)
    .await?;
    let add = |sum: Footprint, spec: &Spec| {
        let one = spec.footprint();
        Footprint {
            servers: sum.servers + one.servers,
            memory_mib: sum.memory_mib + one.memory_mib,
            disk_mib: sum.disk_mib + one.disk_mib,
        }
    };
    let (mut others, mut before) = (Footprint::default(), Footprint::default());
    for row in rows {
        let spec: Spec = serde_json::from_value(row.spec).map_err(crate::error::unreadable("spec"))?;
        before = add(before, &spec);
        if !row.mine {
            others = add(others, &spec);
        }
    }
    // What is being removed counts until it is gone.
    let leaving = held.current.iter().filter(|(name, _)| !wanted.contains_key(name)).map(|(_, c)| &c.spec);
    let after = wanted.values().chain(leaving).fold(others, add);
    let quota = held.tenant.quota;
    for (what, was, wanted, limit) in [
        ("servers", before.servers, after.servers, quota.servers),
        ("MiB of memory", before.memory_mib, after.memory_mib, quota.memory_mib),
        ("MiB of disk", before.disk_mib, after.disk_mib, quota.disk_mib),
    ] {
        let sum = i64::try_from(wanted).unwrap_or(i64::MAX);
        if wanted > was && sum > limit {
            let tenant = held.tenant.name.to_string();
            return Err(EditError::Quota { tenant, what, limit, wanted: sum });
        }
    }
    Ok(())
}
