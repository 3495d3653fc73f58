//! What whoever collects logs has to be told: whose each server is, and how long each tenant's lines are kept.

use component::{ComponentId, TenantId, TenantName};

use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store};

/// Days that lines are kept where nobody says otherwise.
pub const LOG_DAYS: u16 = 30;
/// The most days that lines may be kept.
pub const MOST_LOG_DAYS: u16 = 3650;

/// Whose a server is, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Which.
    pub id: ComponentId,
    /// Whose.
    pub tenant: TenantId,
    /// Part of which stead.
    pub stead: String,
    /// Its name there.
    pub component: String,
}

impl Store {
    /// Every component that there is, also one that is being removed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn servers(&self) -> Result<Vec<Server>, Error> {
        let rows = sqlx::query!(
            "select c.id, c.name as component, s.name as stead, s.tenant_id
             from components c join steads s on s.id = c.stead_id"
        )
        .fetch_all(&self.pool)
        .await?;
        let server = |row: (uuid::Uuid, uuid::Uuid, String, String)| Server {
            id: ComponentId(row.0),
            tenant: TenantId(row.1),
            stead: row.2,
            component: row.3,
        };
        Ok(rows.into_iter().map(|row| server((row.id, row.tenant_id, row.stead, row.component))).collect())
    }

    /// Every tenant, and how many days its lines are kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn log_days(&self) -> Result<Vec<(TenantId, u16)>, Error> {
        let rows = sqlx::query!("select id, log_days from tenants").fetch_all(&self.pool).await?;
        let days = |days: i32| u16::try_from(days).unwrap_or(LOG_DAYS);
        Ok(rows.into_iter().map(|row| (TenantId(row.id), days(row.log_days))).collect())
    }

    /// Sets how many days a tenant's lines are kept. False where there is no such tenant.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn keep_logs(&self, actor: &Actor, name: &TenantName, days: u16) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let found =
            sqlx::query!("select id, log_days from tenants where name = $1 for update", name.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        let Some(found) = found else { return Ok(false) };
        if found.log_days != i32::from(days) {
            sqlx::query!("update tenants set log_days = $2 where id = $1", found.id, i32::from(days))
                .execute(&mut *tx)
                .await?;
            let line = Entry {
                tenant: Some((TenantId(found.id), name.to_string())),
                before: serde_json::json!({ "log_days": found.log_days }),
                after: serde_json::json!({ "log_days": days }),
                ..Entry::new(actor, "tenant.edited", Outcome::Done)
            };
            journal::write(&mut tx, &line).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}
