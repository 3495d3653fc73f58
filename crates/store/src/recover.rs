//! The state of a host that was lost, on the one that takes its place.

use component::postgres::Origin;
use component::{ComponentName, Phase, Spec, Status, TenantId};
use jiff::Timestamp;
use serde_json::json;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store, WAKE_CHANNEL, fail_point, health};

impl Store {
    /// Has every component of a host that was lost made again, on another one, of what its backups hold. One without
    /// backups is left as it is: its data are lost, and it says so. Answers how many are made again.
    ///
    /// Done twice it does nothing more: nothing is on the lost host any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn recover(&self, actor: &Actor, lost: &str, host: &str) -> Result<usize, Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "insert into hosts (name, address, port_first, port_last, engines, isolated)
             select $2, address, port_first, port_last, engines, isolated from hosts where name = $1
             on conflict do nothing",
            lost,
            host
        )
        .execute(&mut *tx)
        .await?;
        let rows = sqlx::query!(
            "select c.id, c.name, c.spec, c.status, s.name as stead, t.id as tenant_id, t.name as tenant
             from components c join steads s on s.id = c.stead_id join tenants t on t.id = s.tenant_id
             where c.host = $1 for no key update of c",
            lost
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut made = 0;
        for row in rows {
            let name: ComponentName = row.name.parse().map_err(|_| Error::BadName("component name"))?;
            let spec: Spec =
                serde_json::from_value(row.spec.clone()).map_err(crate::error::unreadable("spec"))?;
            let mut status: Status =
                serde_json::from_value(row.status).map_err(crate::error::unreadable("status"))?;
            let mut spec = spec;
            if let (Spec::Postgres(wanted), Some(backups)) = (&mut spec, &status.backups) {
                let (component, id, archive) =
                    (name, component::ComponentId(row.id), backups.archive.clone());
                wanted.origin = Some(Origin { component, id, archive, at: Timestamp::now() });
                (status.provisioned_at, status.phase) = (None, Phase::Creating);
                made += 1;
            }
            status.backups = None;
            let spec = serde_json::to_value(spec).map_err(crate::error::unreadable("spec"))?;
            let line = Entry {
                tenant: Some((TenantId(row.tenant_id), row.tenant)),
                stead: Some(row.stead),
                component: Some(row.name),
                reason: Some(format!("its host {lost} was lost; it is made again of its backups")),
                before: row.spec,
                after: spec.clone(),
                ..Entry::new(actor, "component.recovered", Outcome::Done)
            };
            journal::write(&mut tx, &line).await?;
            sqlx::query!(
                "update components set host = $2, spec = $3, status = $4, generation = generation + 1, place = 0,
                                       wake_at = now(), wakes = wakes + 1, attempt = 0, lease = null, lease_until = null
                 where id = $1",
                row.id,
                host,
                spec,
                serde_json::to_value(&status).map_err(crate::error::unreadable("status"))?,
            )
            .execute(&mut *tx)
            .await?;
            health::tell(&mut tx, component::ComponentId(row.id)).await?;
        }
        let line = Entry {
            reason: Some(format!("host {lost} was lost; {host} takes its place")),
            after: json!({ "components": made }),
            ..Entry::new(actor, "host.recovered", Outcome::Done)
        };
        journal::write(&mut tx, &line).await?;
        sqlx::query!("select pg_notify($1, '')", WAKE_CHANNEL).fetch_one(&mut *tx).await?;
        fail_point!("store::recover-before-commit");
        tx.commit().await?;
        Ok(made)
    }
}
