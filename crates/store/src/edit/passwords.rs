//! Passwords of a component's roles: made anew, and the reader's made at all.

use component::{ComponentName, OperationId, SteadName, TenantName};
use serde_json::{Value, json};

use super::rows::wake_users;
use super::{EditError, Line, hold, touch};
use crate::journal::Actor;
use crate::secret::{self, Account};
use crate::{Store, fail_point};

impl Store {
    /// Gives a component a new password; the old one ends when the server has the new.
    ///
    /// # Errors
    /// When there is no such component, or it is being removed.
    pub async fn rotate(
        &self,
        actor: &Actor,
        tenant: &TenantName,
        stead: &SteadName,
        name: &ComponentName,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let (id, operation) = held.open(&mut tx, actor, (tenant, stead, name), "rotate").await?;
        let version = secret::new_password(&mut tx, &self.key, id, Account::Owner).await?;
        if secret::has_reader(&mut tx, id).await? {
            secret::new_password(&mut tx, &self.key, id, Account::Reader).await?;
        }
        let mut line = Line { actor, held: &held, stead, name, operation, reason };
        let (before, after) = (json!({ "version": version - 1 }), json!({ "version": version }));
        line.write(&mut tx, "password.rotated", before, after).await?;
        touch(&mut tx, operation, id, name).await?;
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        wake_users(&mut tx, stead_id).await?;
        fail_point!("store::rotate-before-commit");
        tx.commit().await?;
        Ok(operation)
    }

    /// Gives a component's reader role a password, where it has none; it can sign in once the operation has ended.
    ///
    /// # Errors
    /// When there is no such component, or it is being removed.
    pub async fn open_reader(
        &self,
        actor: &Actor,
        tenant: &TenantName,
        stead: &SteadName,
        name: &ComponentName,
    ) -> Result<Option<OperationId>, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        if secret::has_reader(&mut tx, held.existing(tenant, stead, name)?.id).await? {
            return Ok(None);
        }
        let (id, operation) = held.open(&mut tx, actor, (tenant, stead, name), "rotate").await?;
        let version = secret::new_password(&mut tx, &self.key, id, Account::Reader).await?;
        let mut line = Line { actor, held: &held, stead, name, operation, reason: None };
        line.write(&mut tx, "reader.opened", Value::Null, json!({ "version": version })).await?;
        touch(&mut tx, operation, id, name).await?;
        tx.commit().await?;
        Ok(Some(operation))
    }
}
