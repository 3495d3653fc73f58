//! Servers beside the manifest: made of another's data, put in its place, and removed.

use std::collections::BTreeMap;

use component::postgres::Origin;
use component::{ComponentName, OperationId, Spec, SteadName, TenantName};
use jiff::Timestamp;
use serde_json::Value;

use super::rows::{
    announce, create, next_generation, open_operation, open_target, request_deletion, wake_users,
};
use super::{EditError, Line, check_quota, hold, json_of};
use crate::journal::Actor;
use crate::{Store, fail_point};

/// A server that is made of another's data.
pub struct Copy<'a> {
    /// Whose.
    pub tenant: &'a TenantName,
    /// In which stead.
    pub stead: &'a SteadName,
    /// Whose data.
    pub from: &'a ComponentName,
    /// What it is called.
    pub to: &'a ComponentName,
    /// As they were then; now where absent.
    pub at: Option<Timestamp>,
    /// Removed by Stead then; never where absent.
    pub until: Option<Timestamp>,
    /// Why, in the actor's words.
    pub reason: Option<&'a str>,
}

impl Store {
    /// Has a server made of another's data as they were at a moment. It has an identity, a password, a port and
    /// backups of its own.
    ///
    /// # Errors
    /// When the other is not there or has no backups that reach the moment, the name is taken, or the quota is used up.
    pub async fn copy(&self, actor: &Actor, copy: &Copy<'_>) -> Result<OperationId, EditError> {
        let Copy { tenant, stead, from, to, .. } = *copy;
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let source = held.existing(tenant, stead, from)?;
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        if held.current.contains_key(to) {
            return Err(EditError::Taken(to.clone()));
        }
        let row = sqlx::query!(
            r#"select host, status -> 'backups' as backups, now() as "now!: jiff_sqlx::Timestamp"
               from components where id = $1"#,
            source.id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        let now = row.now.to_jiff();
        let at = copy.at.unwrap_or(now);
        if at > now {
            return Err(EditError::Moment(format!("{at} is in the future; it is {now} now")));
        }
        if copy.until.is_some_and(|until| until <= now) {
            return Err(EditError::Moment("it would be removed as soon as it was made".to_owned()));
        }
        let backups: Option<component::status::Backups> =
            row.backups.and_then(|backups| serde_json::from_value(backups).ok());
        let nothing =
            || EditError::Moment(format!("{from} has no complete backup yet; repeat in a few seconds"));
        let backups = backups.ok_or_else(nothing)?;
        let oldest = backups.oldest.ok_or_else(nothing)?;
        if at < oldest {
            return Err(EditError::Moment(format!(
                "the oldest moment of {from} that can be restored is {oldest}, and {at} is before it"
            )));
        }
        let origin = Origin { component: from.clone(), id: source.id, archive: backups.archive, at };
        let Spec::Postgres(spec) = &source.spec else { return Err(EditError::NoServer(from.clone())) };
        let spec = Spec::Postgres(component::postgres::Spec {
            beside: true,
            origin: Some(origin),
            until: copy.until,
            protect: false,
            ..spec.clone()
        });
        let mut wanted: BTreeMap<_, _> =
            held.current.iter().map(|(name, held)| (name.clone(), held.spec.clone())).collect();
        wanted.insert(to.clone(), spec.clone());
        check_quota(&mut tx, &held, &wanted).await?;
        let operation = OperationId::random();
        open_operation(&mut tx, operation, &held.tenant, stead, "clone", actor).await?;
        let mut line = Line { actor, held: &held, stead, name: to, operation, reason: copy.reason };
        line.write(&mut tx, "component.created", Value::Null, json_of(&spec)?).await?;
        let id = create(&mut tx, self, stead_id, to, &spec, &row.host).await?;
        sqlx::query!(
            "insert into files (component_id, sha256, body) select $2, sha256, body from files where component_id = $1",
            source.id.0,
            id.0
        )
        .execute(&mut *tx)
        .await?;
        open_target(&mut tx, operation, id, to, 1, false).await?;
        next_generation(&mut tx, stead_id).await?;
        announce(&mut tx).await?;
        fail_point!("store::copy-before-commit");
        tx.commit().await?;
        Ok(operation)
    }

    /// Puts a server that was made of another's data in that one's place: names, ports and passwords change sides.
    /// Clients of `name` then reach the data of `with`; the server that had them goes on under the other name.
    ///
    /// # Errors
    /// When one of the two is not there, or neither was made of the other's data.
    pub async fn swap(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        name: &ComponentName,
        with: &ComponentName,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let (old, new) = (held.existing(tenant, stead, name)?, held.existing(tenant, stead, with)?);
        let (Spec::Postgres(of_old), Spec::Postgres(of_new)) = (&old.spec, &new.spec) else {
            return Err(EditError::Unrelated(with.clone(), name.clone()));
        };
        let of = |spec: &component::postgres::Spec| spec.origin.as_ref().map(|origin| origin.id);
        if of(of_new) != Some(old.id) && of(of_old) != Some(new.id) {
            return Err(EditError::Unrelated(with.clone(), name.clone()));
        }
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        let operation = OperationId::random();
        open_operation(&mut tx, operation, &held.tenant, stead, "swap", actor).await?;
        // What the two are for goes with the names; what they are made of stays with the data.
        let role = |spec: &component::postgres::Spec, own: &component::postgres::Spec| {
            Spec::Postgres(component::postgres::Spec {
                origin: own.origin.clone(),
                engine: own.engine,
                schema: spec.schema.clone(),
                ..spec.clone()
            })
        };
        let (old_becomes, new_becomes) = (role(of_new, of_old), role(of_old, of_new));
        for (name, before, after) in [(name, &old.spec, &new_becomes), (with, &new.spec, &old_becomes)] {
            let mut line = Line { actor, held: &held, stead, name, operation, reason };
            line.write(&mut tx, "component.swapped", json_of(before)?, json_of(after)?).await?;
        }
        let ports = sqlx::query!(
            "select a.port as old, b.port as new from components a, components b where a.id = $1 and b.id = $2",
            old.id.0,
            new.id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        // One of them stands aside for the moment: names and ports are unique.
        sqlx::query!("update components set name = '', port = -1 where id = $1", old.id.0)
            .execute(&mut *tx)
            .await?;
        for (id, name, port, spec) in
            [(new.id, name, ports.old, &new_becomes), (old.id, with, ports.new, &old_becomes)]
        {
            let generation = sqlx::query_scalar!(
                "update components set name = $2, port = $3, spec = $4, generation = generation + 1, wake_at = now(),
                                       wakes = wakes + 1, attempt = 0
                 where id = $1 returning generation",
                id.0,
                name.to_string(),
                port,
                json_of(spec)?,
            )
            .fetch_one(&mut *tx)
            .await?;
            // The one that had the place may be lost: nobody waits for it.
            if id == new.id {
                open_target(&mut tx, operation, id, name, generation, false).await?;
            }
        }
        crate::secret::swap_passwords(&mut tx, &self.key, old.id, new.id).await?;
        for (from, to) in [(old.id, new.id), (new.id, old.id)] {
            sqlx::query!(
                "insert into files (component_id, sha256, body)
                 select $2, sha256, body from files where component_id = $1 on conflict do nothing",
                from.0,
                to.0
            )
            .execute(&mut *tx)
            .await?;
        }
        wake_users(&mut tx, stead_id).await?;
        next_generation(&mut tx, stead_id).await?;
        announce(&mut tx).await?;
        fail_point!("store::swap-before-commit");
        tx.commit().await?;
        Ok(operation)
    }

    /// Has a component removed that stands beside the manifest.
    ///
    /// # Errors
    /// When it is not there, is protected, or is the manifest's.
    pub async fn remove_copy(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        name: &ComponentName,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let current = held.existing(tenant, stead, name)?;
        if !current.spec.is_beside() {
            return Err(EditError::InManifest(name.clone()));
        }
        if current.spec.protect() {
            return Err(EditError::Protected(name.clone()));
        }
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        let operation = OperationId::random();
        open_operation(&mut tx, operation, &held.tenant, stead, "delete", actor).await?;
        let mut line = Line { actor, held: &held, stead, name, operation, reason };
        line.write(&mut tx, "component.deletion_requested", json_of(&current.spec)?, Value::Null).await?;
        request_deletion(&mut tx, current.id).await?;
        open_target(&mut tx, operation, current.id, name, current.generation + 1, true).await?;
        next_generation(&mut tx, stead_id).await?;
        announce(&mut tx).await?;
        fail_point!("store::remove-copy-before-commit");
        tx.commit().await?;
        Ok(operation)
    }

    /// Has everything removed whose time is over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn remove_expired(&self) -> Result<(), EditError> {
        let due = sqlx::query!(
            r#"select t.name as tenant, s.name as stead, c.name as component, c.spec ->> 'until' as "until!"
               from components c join steads s on s.id = c.stead_id join tenants t on t.id = s.tenant_id
               where (c.spec ->> 'until')::timestamptz <= now() and c.deletion_requested_at is null"#
        )
        .fetch_all(&self.pool)
        .await?;
        for row in due {
            let bad = |what| move |_| crate::Error::BadName(what);
            let tenant = row.tenant.parse().map_err(bad("tenant name"))?;
            let stead = row.stead.parse().map_err(bad("stead name"))?;
            let name: ComponentName =
                row.component.parse().map_err(|_| crate::Error::BadName("component name"))?;
            let reason = format!("it was to be removed at {}", row.until);
            match self.remove_copy(&Actor::stead(), (&tenant, &stead), &name, Some(&reason)).await {
                // Swapped, removed or protected meanwhile.
                Ok(_)
                | Err(EditError::NoComponent(..) | EditError::Deleting(_) | EditError::Protected(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
