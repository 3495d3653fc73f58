//! Operations: what was asked for, and how far it is.

use component::{OperationId, TenantId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, Store};

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Identity.
    pub id: OperationId,
    /// On which stead.
    pub stead: String,
    /// `apply`, `delete` or `rotate`.
    pub kind: String,
    /// `running`, `succeeded` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Who asked.
    pub actor: String,
    /// When.
    pub requested_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What is being done to each of its components.
    pub targets: Vec<OperationTarget>,
}

/// A component that an operation waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationTarget {
    /// Its name.
    pub component: String,
    /// `running`, `succeeded` or `failed`.
    pub state: String,
    /// The step that is being done.
    pub step: Option<String>,
}

impl Store {
    /// One operation of a tenant.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn operation(&self, tenant: TenantId, id: OperationId) -> Result<Option<Operation>, Error> {
        let row = sqlx::query!(
            r#"select stead, kind, state, error, actor, requested_at as "requested_at: jiff_sqlx::Timestamp",
                      finished_at as "finished_at: jiff_sqlx::Timestamp"
               from operations where id = $1 and tenant_id = $2"#,
            id.0,
            tenant.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let targets = sqlx::query_as!(
            OperationTarget,
            "select t.component, t.state, c.step from operation_targets t left join components c on c.id = t.component_id
             where operation_id = $1 order by t.component",
            id.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Some(Operation {
            id,
            stead: row.stead,
            kind: row.kind,
            state: row.state,
            error: row.error,
            actor: row.actor,
            requested_at: row.requested_at.to_jiff(),
            finished_at: row.finished_at.map(jiff_sqlx::Timestamp::to_jiff),
            targets,
        }))
    }

    /// The newest operations of a tenant.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn operations(&self, tenant: TenantId, limit: i64) -> Result<Vec<Operation>, Error> {
        let ids = sqlx::query_scalar!(
            "select id from operations where tenant_id = $1 order by requested_at desc limit $2",
            tenant.0,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let mut operations = Vec::with_capacity(ids.len());
        for id in ids {
            operations.extend(self.operation(tenant, OperationId(id)).await?);
        }
        Ok(operations)
    }
}
