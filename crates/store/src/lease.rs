//! The lease queue: who works on which component, for how long, and when it is looked at next.
//!
//! Work is handed out by `FOR NO KEY UPDATE SKIP LOCKED`, so that two workers never wait for one another. A
//! lease is a random token: whatever a worker writes names it, and a worker whose lease ran out writes
//! nothing ([`Error::Fenced`]). An edit that comes while a worker is busy bumps `wakes`; the worker's record
//! then makes the component due at once instead of at the moment the worker asked for.
//!
//! A wall clock that jumps back would leave moments far in the future: no wake-up and no lease is ever
//! longer than [`FARTHEST`], so anything farther away is taken to be due.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use component::function::Digest;
use component::{
    ComponentId, ComponentName, DriverError, Files, Health, Phase, Spec, Status, SteadName, Target, TenantId,
    Trial, Used,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::journal::{self, Entry};
use crate::stead::{Component, ComponentRow};
use crate::{Error, Store, fail_point};

/// How long a lease lasts before another worker may take the component, seconds.
pub const LEASE_SECONDS: f64 = 30.0;
/// The farthest moment a wake-up or a lease can be away, seconds.
pub const FARTHEST: f64 = 120.0;

/// The right to work on one component.
pub struct Lease {
    /// Proof of it.
    token: Uuid,
    wakes: i64,
    /// The component as it was when claimed.
    pub component: Component,
    /// Whose, for the journal.
    pub tenant: (TenantId, String),
    /// The stead, for the journal.
    pub stead: SteadName,
    /// Looks in a row that ended in an error, before this one.
    pub attempt: i32,
    /// Whether another component of its stead uses it; asked only of what is being removed.
    pub used: bool,
    /// As a driver is told of it.
    pub target: Target,
}

/// What a worker found, to be recorded.
pub struct Record {
    /// New status.
    pub status: Status,
    /// Whether the spec as claimed has been brought about.
    pub settled: bool,
    /// What is being done, for people who look.
    pub step: Option<String>,
    /// Milliseconds until the next look.
    pub again_ms: u64,
    /// Why the look failed.
    pub error: Option<String>,
    /// A failure that the waiting operation is told of: it ends as failed.
    pub fail_operation: Option<String>,
    /// Lines for the journal.
    pub lines: Vec<Entry>,
}

struct StoredFiles {
    store: Store,
    component: ComponentId,
    tenant: TenantId,
}

#[async_trait]
impl Files for StoredFiles {
    async fn read(&self, sha256: &str) -> Result<String, DriverError> {
        let body = sqlx::query_scalar!(
            "select body from files where component_id = $1 and sha256 = $2",
            self.component.0,
            sha256
        )
        .fetch_optional(&self.store.pool)
        .await
        .map_err(|error| DriverError::Unavailable(error.to_string()))?;
        body.ok_or_else(|| DriverError::Unavailable(format!("the text of file {sha256} is not in the store")))
    }

    async fn zip(&self, package: Digest) -> Result<Vec<u8>, DriverError> {
        let zip = self.store.zip(self.tenant, package).await;
        let zip = zip.map_err(|error| DriverError::Unavailable(error.to_string()))?;
        zip.ok_or_else(|| DriverError::Unavailable(format!("the package {package} is not in the store")))
    }
}

impl Store {
    /// Claims the component of `host` that has been due longest; `None` where nothing is due.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim(&self, host: &str) -> Result<Option<Lease>, Error> {
        let token = Uuid::new_v4();
        let row = sqlx::query!(
            r#"update components c set lease = $1, lease_until = now() + make_interval(secs => $3)
               from steads s join tenants t on t.id = s.tenant_id
               where s.id = c.stead_id and c.id = (
                   select id from components
                   where host = $2
                     and (wake_at <= now() or wake_at > now() + make_interval(secs => $4))
                     and (lease is null or lease_until <= now() or lease_until > now() + make_interval(secs => $4))
                   order by wake_at limit 1 for no key update skip locked)
               returning c.stead_id, c.id, c.name, c.spec, c.generation, c.observed_generation, c.status, c.host,
                         c.port, c.place, c.canary_percent, c.canary_base, c.step, c.last_error, c.attempt, c.wakes,
                         c.deletion_requested_at as "deletion_requested_at: jiff_sqlx::Timestamp",
                         s.name as stead, t.name as tenant, t.id as tenant_id"#,
            token,
            host,
            LEASE_SECONDS,
            FARTHEST,
        )
        .fetch_optional(&self.relaxed)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let component = ComponentRow {
            stead_id: row.stead_id,
            id: row.id,
            name: row.name,
            spec: row.spec,
            generation: row.generation,
            observed_generation: row.observed_generation,
            status: row.status,
            host: row.host,
            port: row.port,
            step: row.step,
            last_error: row.last_error,
            deletion_requested_at: row.deletion_requested_at,
        }
        .component()?;
        fail_point!("store::claimed");
        let password = self.password(component.id).await?.ok_or(Error::Sealed)?;
        let reader = self.reader(component.id).await?;
        let tenant = row.tenant.parse().map_err(|_| Error::BadName("tenant name"))?;
        let stead: SteadName = row.stead.parse().map_err(|_| Error::BadName("stead name"))?;
        let release = crate::release::newest(&mut *self.pool.acquire().await?, component.id).await?;
        let trial = self.trial(&component, row.canary_percent.zip(row.canary_base)).await?;
        let specs = self.may_run(&component, trial.as_ref(), release).await?;
        let (mut uses, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for spec in &specs {
            uses.extend(self.used(row.stead_id, spec).await?);
            secrets.extend(self.secrets_of(row.stead_id, spec).await?);
        }
        let used = component.deletion_requested_at.is_some()
            && sqlx::query_scalar!(
                "select exists (select from components where stead_id = $1 and jsonb_exists(spec -> 'uses', $2)) as \"used!\"",
                row.stead_id,
                component.name.to_string()
            )
            .fetch_one(&self.pool)
            .await?;
        let target = Target {
            id: component.id,
            tenant,
            stead: stead.clone(),
            name: component.name.clone(),
            spec: component.spec.clone(),
            generation: u64::try_from(component.generation).unwrap_or_default(),
            port: component.port,
            place: component::Place::after(u32::try_from(row.place).unwrap_or_default()),
            password: password.password,
            verifier: password.verifier,
            reader: reader.map(|reader| reader.verifier),
            release: release.and_then(|number| u64::try_from(number).ok()).unwrap_or_default(),
            trial,
            secrets,
            uses,
            files: Arc::new(StoredFiles {
                store: self.clone(),
                component: component.id,
                tenant: TenantId(row.tenant_id),
            }),
        };
        Ok(Some(Lease {
            token,
            wakes: row.wakes,
            component,
            tenant: (TenantId(row.tenant_id), row.tenant),
            stead,
            attempt: row.attempt,
            used,
            target,
        }))
    }

    /// What the newest release of a component is tried against.
    async fn trial(&self, component: &Component, canary: Option<(i16, i64)>) -> Result<Option<Trial>, Error> {
        let Some((percent, base)) = canary else { return Ok(None) };
        let spec = crate::release::spec(&mut *self.pool.acquire().await?, component.id, base).await?;
        let spec = spec.and_then(|spec| component.spec.with_release_of(&spec));
        let numbers = u8::try_from(percent).ok().zip(u64::try_from(base).ok());
        Ok(numbers.zip(spec).map(|((percent, base), spec)| Trial { percent, base, spec }))
    }

    /// What is wanted of a component, and what may run until that does: what it is tried against, and what answers now.
    async fn may_run(
        &self,
        component: &Component,
        trial: Option<&Trial>,
        newest: Option<i64>,
    ) -> Result<Vec<Spec>, Error> {
        let mut specs = vec![component.spec.clone()];
        specs.extend(trial.map(|trial| trial.spec.clone()));
        let base = trial.map(|trial| trial.base);
        let live = component.status.live.filter(|live| Some(*live) != base);
        let live = live.and_then(|live| i64::try_from(live).ok());
        if let Some(live) = live.filter(|live| Some(*live) != newest) {
            let mut connection = self.pool.acquire().await?;
            specs.extend(crate::release::spec(&mut connection, component.id, live).await?);
        }
        Ok(specs)
    }

    /// The servers of a stead that a component uses.
    async fn used(&self, stead: Uuid, spec: &Spec) -> Result<BTreeMap<ComponentName, Used>, Error> {
        let mut found = BTreeMap::new();
        for name in spec.uses() {
            let id = sqlx::query_scalar!(
                "select id from components where stead_id = $1 and name = $2 and deletion_requested_at is null",
                stead,
                name.to_string()
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(id) = id.map(ComponentId) else { continue };
            let password = self.password(id).await?.ok_or(Error::Sealed)?.password;
            found.insert(name.clone(), Used { id, password });
        }
        Ok(found)
    }

    /// When the next component of `host` is due, milliseconds from now (0: one is due already).
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next_due_ms(&self, host: &str) -> Result<Option<u64>, Error> {
        let due = sqlx::query_scalar!(
            "select extract(epoch from min(greatest(wake_at, coalesce(lease_until, wake_at))) - now())::float8 * 1000
             from components where host = $1",
            host
        )
        .fetch_one(&self.pool)
        .await?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small range"
        )]
        Ok(due.map(|ms| ms.clamp(0.0, FARTHEST * 1000.0).ceil() as u64))
    }

    /// Leases of a worker that is known to be gone (this host's own, at the start of its only worker).
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn drop_leases(&self, host: &str) -> Result<(), Error> {
        sqlx::query!(
            "update components set lease = null, lease_until = null, wake_at = now() where host = $1",
            host
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Keeps the lease for another term, and shows what is being done.
    ///
    /// # Errors
    /// [`Error::Fenced`] when it ran out and somebody else has it, or the component was edited meanwhile.
    pub async fn renew(&self, lease: &Lease, step: &str) -> Result<(), Error> {
        let renewed = sqlx::query!(
            "update components set lease_until = now() + make_interval(secs => $3), step = $4
             where id = $1 and lease = $2 and wakes = $5",
            lease.component.id.0,
            lease.token,
            LEASE_SECONDS,
            step,
            lease.wakes,
        )
        .execute(&self.relaxed)
        .await?;
        if renewed.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced) }
    }

    /// Records what a worker found and gives the lease back.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the lease ran out and somebody else has it; nothing is written then.
    pub async fn record(&self, lease: Lease, record: Record) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let observed =
            if record.settled { lease.component.generation } else { lease.component.observed_generation };
        // The phase of a component whose deletion was asked for meanwhile stays what that edit made it.
        let deleting = Status { phase: Phase::Deleting, ..record.status.clone() };
        let failing = record.error.is_some();
        let written = sqlx::query!(
            "update components set
                 status = case when deletion_requested_at is null or $10 then $3
                               else jsonb_set($3, '{phase}', '\"deleting\"') end,
                 health = case when deletion_requested_at is null or $10 then $11 else $12 end::text::health,
                 observed_generation = greatest(observed_generation, $4), step = $5,
                 wake_at = case when wakes = $6 then now() + make_interval(secs => $7) else now() end,
                 attempt = $8, last_error = $9, lease = null, lease_until = null
             where id = $1 and lease = $2",
            lease.component.id.0,
            lease.token,
            serde_json::to_value(&record.status).map_err(crate::error::unreadable("status"))?,
            observed,
            record.step,
            lease.wakes,
            seconds(record.again_ms),
            if record.error.is_some() { lease.attempt.saturating_add(1) } else { 0 },
            record.error,
            record.status.phase == Phase::Deleting,
            Health::of(&record.status, failing).as_str(),
            Health::of(&deleting, failing).as_str(),
        )
        .execute(&mut *tx)
        .await?;
        if written.rows_affected() == 0 {
            return Err(Error::Fenced);
        }
        for line in &record.lines {
            journal::write(&mut tx, line).await?;
        }
        let id = lease.component.id;
        if record.settled {
            close_targets(&mut tx, id, lease.component.generation, false, None).await?;
        } else if let Some(why) = &record.fail_operation {
            close_targets(&mut tx, id, lease.component.generation, false, Some(why)).await?;
        }
        fail_point!("store::record-before-commit");
        announce(&mut tx, &lease).await?;
        tx.commit().await?;
        fail_point!("store::record-after-commit");
        Ok(())
    }

    /// Records that a component is gone from the outside world: its row goes, and the stead with the last.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn record_gone(&self, lease: Lease, lines: &[Entry]) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let stead = sqlx::query_scalar!(
            "delete from components where id = $1 and lease = $2 returning stead_id",
            lease.component.id.0,
            lease.token
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(Error::Fenced)?;
        for line in lines {
            journal::write(&mut tx, line).await?;
        }
        close_targets(&mut tx, lease.component.id, lease.component.generation, true, None).await?;
        sqlx::query!(
            "delete from steads s where id = $1 and not exists (select from components c where c.stead_id = s.id)",
            stead
        )
        .execute(&mut *tx)
        .await?;
        fail_point!("store::gone-before-commit");
        announce(&mut tx, &lease).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives a component that was never reachable another port, because its own is in use by a stranger.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn next_port(&self, lease: &Lease) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let component = &lease.component;
        let Some(port) = crate::host::free_port(&mut tx, &component.host, i32::from(component.port)).await?
        else {
            return Ok(false);
        };
        let moved = sqlx::query!(
            "update components set port = $3 where id = $1 and lease = $2",
            component.id.0,
            lease.token,
            port
        )
        .execute(&mut *tx)
        .await?;
        if moved.rows_affected() == 0 {
            return Err(Error::Fenced);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// A component's name, for a handle; for events of data planes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn by_handle(
        &self,
        handle: &str,
    ) -> Result<Option<((TenantId, String), String, ComponentName)>, Error> {
        // A handle is the first half of an id.
        let Some(half) = (handle.len() == 16).then(|| u64::from_str_radix(handle, 16).ok()).flatten() else {
            return Ok(None);
        };
        let first = u128::from(half) << 64;
        let row = sqlx::query!(
            "select t.id, t.name as tenant, s.name as stead, c.name as component
             from components c join steads s on s.id = c.stead_id join tenants t on t.id = s.tenant_id
             where c.id between $1 and $2 limit 1",
            Uuid::from_u128(first),
            Uuid::from_u128(first | u128::from(u64::MAX)),
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let component = row.component.parse().map_err(|_| Error::BadName("component name"))?;
            Ok(((TenantId(row.id), row.tenant), row.stead, component))
        })
        .transpose()
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of at most minutes")]
fn seconds(ms: u64) -> f64 {
    (ms as f64 / 1000.0).min(FARTHEST / 2.0)
}

async fn close_targets(
    tx: &mut PgConnection,
    component: ComponentId,
    generation: i64,
    gone: bool,
    error: Option<&str>,
) -> Result<(), Error> {
    sqlx::query!(
        "update operation_targets set
             state = case when $4::text is null and (deletes or not $3) then 'succeeded' else 'failed' end,
             error = case when deletes or not $3 then $4 else 'was removed before this came about' end
         where component_id = $1 and state = 'running' and (case when $3 then true else generation <= $2 and not deletes end)",
        component.0,
        generation,
        gone,
        error,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update operations o set finished_at = now(),
             state = case when e.failed then 'failed' else 'succeeded' end, error = e.error
         from (select operation_id, bool_or(state = 'running') as running, bool_or(state = 'failed') as failed,
                      string_agg(component || ': ' || error, '; ') as error
               from operation_targets
               where operation_id in (select operation_id from operation_targets where component_id = $1)
               group by operation_id) e
         where o.id = e.operation_id and o.state = 'running' and not e.running",
        component.0
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn announce(tx: &mut PgConnection, lease: &Lease) -> Result<(), Error> {
    let (tenant, name) = &lease.tenant;
    journal::announce(tx, Some((*tenant, name)), Some(lease.stead.as_str())).await
}
