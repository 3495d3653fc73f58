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
    /// `apply`, `delete`, `rotate`, `move`, `clone` or `swap`.
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

struct Row {
    id: uuid::Uuid,
    stead: String,
    kind: String,
    state: String,
    error: Option<String>,
    actor: String,
    requested_at: jiff_sqlx::Timestamp,
    finished_at: Option<jiff_sqlx::Timestamp>,
}

impl Store {
    /// One operation of a tenant.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn operation(&self, tenant: TenantId, id: OperationId) -> Result<Option<Operation>, Error> {
        let row = sqlx::query_as!(
            Row,
            r#"select id, stead, kind, state, error, actor, requested_at as "requested_at: jiff_sqlx::Timestamp",
                      finished_at as "finished_at: jiff_sqlx::Timestamp"
               from operations where id = $1 and tenant_id = $2"#,
            id.0,
            tenant.0,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(self.with_targets(row).await?.pop())
    }

    /// Operations of a tenant (of one of its steads), newest first, after the cursor `(requested_at, id)`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn operations(
        &self,
        tenant: TenantId,
        stead: Option<&str>,
        after: Option<(Timestamp, OperationId)>,
        limit: i64,
    ) -> Result<Vec<Operation>, Error> {
        let (before, id) = after.map_or((None, uuid::Uuid::max()), |(at, id)| (Some(at), id.0));
        let rows = sqlx::query_as!(
            Row,
            r#"select id, stead, kind, state, error, actor, requested_at as "requested_at: jiff_sqlx::Timestamp",
                      finished_at as "finished_at: jiff_sqlx::Timestamp"
               from operations
               where tenant_id = $1 and ($2::text is null or stead = $2)
                 and (requested_at, id) < (coalesce($3, 'infinity'::timestamptz), $4)
               order by requested_at desc, id desc limit $5"#,
            tenant.0,
            stead,
            before.map(jiff_sqlx::Timestamp::from) as _,
            id,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        self.with_targets(rows).await
    }

    /// The newest operation of a stead that still runs.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn running_operation(
        &self,
        tenant: TenantId,
        stead: &component::SteadName,
    ) -> Result<Option<OperationId>, Error> {
        let id = sqlx::query_scalar!(
            "select id from operations where tenant_id = $1 and stead = $2 and state = 'running'
             order by requested_at desc limit 1",
            tenant.0,
            stead.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(id.map(OperationId))
    }

    async fn with_targets(&self, rows: Vec<Row>) -> Result<Vec<Operation>, Error> {
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let targets = sqlx::query!(
            "select t.operation_id, t.component, t.state, c.step
             from operation_targets t left join components c on c.id = t.component_id
             where operation_id = any($1) order by t.component",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        let mut operations: Vec<Operation> = rows
            .into_iter()
            .map(|row| Operation {
                id: OperationId(row.id),
                stead: row.stead,
                kind: row.kind,
                state: row.state,
                error: row.error,
                actor: row.actor,
                requested_at: row.requested_at.to_jiff(),
                finished_at: row.finished_at.map(jiff_sqlx::Timestamp::to_jiff),
                targets: Vec::new(),
            })
            .collect();
        for target in targets {
            if let Some(operation) =
                operations.iter_mut().find(|operation| operation.id.0 == target.operation_id)
            {
                let (component, state, step) = (target.component, target.state, target.step);
                operation.targets.push(OperationTarget { component, state, step });
            }
        }
        Ok(operations)
    }
}
