//! What is asked of a transfer that is there: an edit like any other, so that it is on record.

use component::transfer::Asked;
use component::{ComponentName, OperationId, Spec, SteadName, TenantName};

use super::rows::{announce, next_generation, open_target, update};
use super::{EditError, Line, hold, json_of};
use crate::journal::Actor;
use crate::{Store, fail_point};

impl Store {
    /// Asks something of a transfer.
    ///
    /// # Errors
    /// When there is no such component, it is being removed, or it is no transfer.
    pub async fn ask_transfer(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        name: &ComponentName,
        asked: &Asked,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let current = held.existing(tenant, stead, name)?;
        let Spec::Transfer(spec) = &current.spec else { return Err(EditError::NoTransfer(name.clone())) };
        let wanted = Spec::Transfer(asked.of(spec));
        let (id, operation) = held.open(&mut tx, actor, (tenant, stead, name), asked.operation()).await?;
        let mut line = Line { actor, held: &held, stead, name, operation, reason };
        line.write(&mut tx, asked.line(), json_of(&current.spec)?, json_of(&wanted)?).await?;
        let number = update(&mut tx, id, &wanted).await?;
        open_target(&mut tx, operation, id, name, number, false).await?;
        next_generation(&mut tx, held.stead_of(tenant, stead)?.0).await?;
        announce(&mut tx).await?;
        fail_point!("store::transfer-asked-before-commit");
        tx.commit().await?;
        Ok(operation)
    }
}
