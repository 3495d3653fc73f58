//! An earlier release wanted again: an edit like any other, so that it is on record, and a release of its own.

use component::{ComponentName, OperationId, SteadName, TenantName};

use super::rows::{announce, next_generation, open_operation, open_target, update};
use super::{EditError, Line, canary, hold, json_of};
use crate::journal::Actor;
use crate::release::{self, Made};
use crate::{Store, fail_point};

/// What is to be brought back.
pub struct Rollback<'a> {
    /// Of which component.
    pub name: &'a ComponentName,
    /// Which release; the one before the one in force where none is said.
    pub to: Option<i64>,
    /// Why, in the actor's words.
    pub reason: Option<&'a str>,
}

impl Store {
    /// Has an earlier release of a component run again.
    ///
    /// # Errors
    /// When there is no such component or release, or its kind has none.
    pub async fn rollback(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        rollback: &Rollback<'_>,
    ) -> Result<OperationId, EditError> {
        let Rollback { name, to, reason } = *rollback;
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let current = held.existing(tenant, stead, name)?;
        let Some(newest) = release::newest(&mut tx, current.id).await? else {
            return Err(EditError::NoReleases(name.clone()));
        };
        let to = match (to, current.canary) {
            (Some(to), _) => to,
            // While a release is tried, what it is tried against is what there was before.
            (None, Some(canary)) => canary.base,
            (None, None) => sqlx::query_scalar!(
                // What a rollback brought back stands for what it was. What never answered is not what there was before.
                "select coalesce(
                     was.replaces,
                     (select max(number) from releases where component_id = $1 and number < was.number)) as number
                 from releases newest
                 join releases was on was.component_id = newest.component_id
                                  and was.number = coalesce(newest.brings_back, newest.number)
                 where newest.component_id = $1 and newest.number = $2",
                current.id.0,
                newest
            )
            .fetch_one(&mut *tx)
            .await?
            .ok_or_else(|| EditError::OnlyRelease(name.clone()))?,
        };
        let earlier = release::spec(&mut tx, current.id, to).await?;
        let wanted = earlier.and_then(|earlier| current.spec.with_release_of(&earlier));
        let wanted = wanted.ok_or_else(|| EditError::NoRelease(name.clone(), to))?;
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        let operation = OperationId::random();
        open_operation(&mut tx, operation, &held.tenant, stead, "rollback", actor).await?;
        let mut line = Line { actor, held: &held, stead, name, operation, reason };
        line.write(&mut tx, "component.rolled_back", json_of(&current.spec)?, json_of(&wanted)?).await?;
        let number = update(&mut tx, current.id, &wanted).await?;
        let made =
            Made { tenant: held.tenant.id, component: current.id, number, actor, brings_back: Some(to) };
        release::keep(&mut tx, &made, Some(&current.spec), &wanted).await?;
        canary::end(&mut tx, current.id).await?;
        open_target(&mut tx, operation, current.id, name, number, false).await?;
        next_generation(&mut tx, stead_id).await?;
        announce(&mut tx).await?;
        fail_point!("store::rollback-before-commit");
        tx.commit().await?;
        Ok(operation)
    }
}
