//! Tenants and their quotas.

use component::{TenantId, TenantName};
use jiff::Timestamp;
use sqlx::PgConnection;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store};

/// What a tenant may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Servers, count.
    pub servers: i64,
    /// Sum of their memory limits, MiB.
    pub memory_mib: i64,
    /// Sum of their disk limits, MiB.
    pub disk_mib: i64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { servers: 20, memory_mib: 32 * 1024, disk_mib: 512 * 1024 }
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Identity.
    pub id: TenantId,
    /// Name.
    pub name: TenantName,
    /// What it may use.
    pub quota: Quota,
    /// Days that its log lines are kept.
    pub log_days: u16,
    /// Since when.
    pub created_at: Timestamp,
}

struct Row {
    id: uuid::Uuid,
    name: String,
    quota_servers: i64,
    quota_memory_mib: i64,
    quota_disk_mib: i64,
    log_days: i32,
    created_at: jiff_sqlx::Timestamp,
}

impl Row {
    fn tenant(self) -> Result<Tenant, Error> {
        Ok(Tenant {
            id: TenantId(self.id),
            name: self.name.parse().map_err(|_| Error::BadName("tenant name"))?,
            quota: Quota {
                servers: self.quota_servers,
                memory_mib: self.quota_memory_mib,
                disk_mib: self.quota_disk_mib,
            },
            log_days: u16::try_from(self.log_days).unwrap_or(crate::logs::LOG_DAYS),
            created_at: self.created_at.to_jiff(),
        })
    }
}

/// Why a tenant could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The tenant still has steads.
    #[error("tenant `{tenant}` still has steads ({steads}); remove them first")]
    HasSteads {
        /// The tenant.
        tenant: String,
        /// Their names.
        steads: String,
    },
    /// A host that cannot keep tenants apart takes only one.
    #[error(
        "this host cannot keep tenants apart, because Stead does not run as root here; \
         it already serves tenant `{0}` and takes no other"
    )]
    NotIsolated(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<sqlx::Error> for TenantError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

pub(crate) async fn find(conn: &mut PgConnection, name: &TenantName) -> Result<Option<Tenant>, Error> {
    sqlx::query_as!(
        Row,
        r#"select id, name, quota_servers, quota_memory_mib, quota_disk_mib, log_days,
                  created_at as "created_at: jiff_sqlx::Timestamp" from tenants where name = $1"#,
        name.as_str()
    )
    .fetch_optional(conn)
    .await?
    .map(Row::tenant)
    .transpose()
}

/// Finds the tenant or makes it, with its line in the journal, inside the caller's transaction.
pub(crate) async fn find_or_make(
    conn: &mut PgConnection,
    actor: &Actor,
    name: &TenantName,
    quota: Quota,
) -> Result<Tenant, TenantError> {
    if let Some(tenant) = find(conn, name).await? {
        return Ok(tenant);
    }
    let unisolated = sqlx::query_scalar!(
        "select t.name from tenants t where exists (select from hosts where not isolated) limit 1"
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(other) = unisolated {
        return Err(TenantError::NotIsolated(other));
    }
    let id = TenantId::random();
    let made = sqlx::query!(
        "insert into tenants (id, name, quota_servers, quota_memory_mib, quota_disk_mib)
         values ($1, $2, $3, $4, $5) on conflict (name) do nothing",
        id.0,
        name.as_str(),
        quota.servers,
        quota.memory_mib,
        quota.disk_mib,
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 1 {
        let line = Entry {
            tenant: Some((id, name.to_string())),
            after: quota_json(quota),
            ..Entry::new(actor, "tenant.created", Outcome::Done)
        };
        journal::write(conn, &line).await?;
    }
    // Somebody else may have made it meanwhile.
    find(conn, name).await?.ok_or_else(|| Error::Database(sqlx::Error::RowNotFound).into())
}

/// Identities as the database takes them.
pub(crate) fn uuids(tenants: Option<&[TenantId]>) -> Option<Vec<uuid::Uuid>> {
    tenants.map(|tenants| tenants.iter().map(|id| id.0).collect())
}

fn quota_json(quota: Quota) -> serde_json::Value {
    serde_json::json!({ "servers": quota.servers, "memory_mib": quota.memory_mib, "disk_mib": quota.disk_mib })
}

impl Store {
    /// Tenants by name, after that of the cursor, at most `limit`; of these, or of all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tenants(
        &self,
        of: Option<&[TenantId]>,
        after: Option<&TenantName>,
        limit: i64,
    ) -> Result<Vec<Tenant>, Error> {
        sqlx::query_as!(
            Row,
            r#"select id, name, quota_servers, quota_memory_mib, quota_disk_mib, log_days,
                      created_at as "created_at: jiff_sqlx::Timestamp"
               from tenants where name > $1 and ($3::uuid[] is null or id = any($3)) order by name limit $2"#,
            after.map_or("", TenantName::as_str),
            limit,
            uuids(of) as _,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Row::tenant)
        .collect()
    }

    /// One tenant.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tenant(&self, name: &TenantName) -> Result<Option<Tenant>, Error> {
        find(&mut *self.pool.acquire().await?, name).await
    }

    /// Makes a tenant, or sets the quota of one.
    ///
    /// # Errors
    /// [`TenantError::NotIsolated`] for a second tenant on a host that cannot keep them apart.
    pub async fn put_tenant(
        &self,
        actor: &Actor,
        name: &TenantName,
        quota: Option<Quota>,
    ) -> Result<Tenant, TenantError> {
        let mut tx = self.pool.begin().await?;
        let mut tenant = find_or_make(&mut tx, actor, name, quota.unwrap_or_default()).await?;
        if let Some(quota) = quota
            && quota != tenant.quota
        {
            sqlx::query!(
                "update tenants set quota_servers = $2, quota_memory_mib = $3, quota_disk_mib = $4 where id = $1",
                tenant.id.0,
                quota.servers,
                quota.memory_mib,
                quota.disk_mib,
            )
            .execute(&mut *tx)
            .await?;
            let line = Entry {
                tenant: Some((tenant.id, name.to_string())),
                before: quota_json(tenant.quota),
                after: quota_json(quota),
                ..Entry::new(actor, "tenant.edited", Outcome::Done)
            };
            journal::write(&mut tx, &line).await?;
            tenant.quota = quota;
        }
        tx.commit().await?;
        Ok(tenant)
    }

    /// Removes a tenant that has no steads, and with it its tokens. False where there is none.
    ///
    /// # Errors
    /// [`TenantError::HasSteads`].
    pub async fn remove_tenant(&self, actor: &Actor, name: &TenantName) -> Result<bool, TenantError> {
        let mut tx = self.pool.begin().await?;
        let Some(tenant) = find(&mut tx, name).await? else { return Ok(false) };
        sqlx::query!("select id from tenants where id = $1 for update", tenant.id.0)
            .fetch_one(&mut *tx)
            .await?;
        let steads =
            sqlx::query_scalar!("select name from steads where tenant_id = $1 order by name", tenant.id.0)
                .fetch_all(&mut *tx)
                .await?;
        if !steads.is_empty() {
            return Err(TenantError::HasSteads { tenant: name.to_string(), steads: steads.join(", ") });
        }
        sqlx::query!("delete from tenants where id = $1", tenant.id.0).execute(&mut *tx).await?;
        let line = Entry {
            tenant: Some((tenant.id, name.to_string())),
            before: quota_json(tenant.quota),
            ..Entry::new(actor, "tenant.removed", Outcome::Done)
        };
        journal::write(&mut tx, &line).await?;
        tx.commit().await?;
        Ok(true)
    }
}
