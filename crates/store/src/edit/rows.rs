//! The rows that an edit writes, inside the caller's transaction.

use std::collections::BTreeMap;

use component::{ComponentId, ComponentName, Health, OperationId, Phase, Spec, Status, SteadName};
use sqlx::PgConnection;

use super::{EditError, json_of};
use crate::journal::Actor;
use crate::tenant::Tenant;
use crate::{Store, health, host, secret};

pub(super) async fn create(
    tx: &mut PgConnection,
    store: &Store,
    stead: uuid::Uuid,
    name: &ComponentName,
    spec: &Spec,
    host: &str,
) -> Result<ComponentId, EditError> {
    let id = ComponentId::random();
    let port = host::free_port(tx, host, 0).await?.ok_or_else(|| EditError::NoPort(host.to_owned()))?;
    let status = Status { phase: Phase::Creating, ..Status::default() };
    sqlx::query!(
        "insert into components (id, stead_id, name, spec, status, health, host, port)
         values ($1, $2, $3, $4, $5, $8::text::health, $6, $7)",
        id.0,
        stead,
        name.to_string(),
        json_of(spec)?,
        serde_json::to_value(&status).map_err(crate::error::unreadable("status"))?,
        host,
        port,
        Health::of(&status, false).as_str(),
    )
    .execute(&mut *tx)
    .await?;
    secret::new_password(tx, &store.key, id, secret::Account::Owner).await?;
    Ok(id)
}

pub(super) async fn update(tx: &mut PgConnection, id: ComponentId, spec: &Spec) -> Result<i64, EditError> {
    let generation = sqlx::query_scalar!(
        "update components set spec = $2, generation = generation + 1, wake_at = now(), wakes = wakes + 1, attempt = 0
         where id = $1 returning generation",
        id.0,
        json_of(spec)?,
    )
    .fetch_one(tx)
    .await?;
    Ok(generation)
}

pub(super) async fn request_deletion(tx: &mut PgConnection, id: ComponentId) -> Result<(), EditError> {
    sqlx::query!(
        "update components set deletion_requested_at = now(), generation = generation + 1, wake_at = now(),
                               wakes = wakes + 1, attempt = 0,
                               status = jsonb_set(status, '{phase}', '\"deleting\"')
         where id = $1",
        id.0
    )
    .execute(&mut *tx)
    .await?;
    Ok(health::tell(tx, id).await?)
}

pub(super) async fn put_files(
    tx: &mut PgConnection,
    id: ComponentId,
    files: &BTreeMap<String, String>,
) -> Result<(), EditError> {
    let (hashes, bodies): (Vec<String>, Vec<String>) =
        files.iter().map(|(h, b)| (h.clone(), b.clone())).unzip();
    sqlx::query!(
        "insert into files (component_id, sha256, body) select $1, * from unnest($2::text[], $3::text[])
         on conflict do nothing",
        id.0,
        &hashes,
        &bodies,
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn open_operation(
    tx: &mut PgConnection,
    id: OperationId,
    tenant: &Tenant,
    stead: &SteadName,
    kind: &str,
    actor: &Actor,
) -> Result<(), EditError> {
    sqlx::query!(
        "insert into operations (id, tenant_id, stead, kind, actor) values ($1, $2, $3, $4, $5)",
        id.0,
        tenant.id.0,
        stead.as_str(),
        kind,
        actor.name,
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn open_target(
    tx: &mut PgConnection,
    operation: OperationId,
    component: ComponentId,
    name: &ComponentName,
    generation: i64,
    deletes: bool,
) -> Result<(), EditError> {
    sqlx::query!(
        "insert into operation_targets (operation_id, component_id, component, generation, deletes)
         values ($1, $2, $3, $4, $5)",
        operation.0,
        component.0,
        name.to_string(),
        generation,
        deletes,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// An operation that waits for nothing has succeeded.
pub(super) async fn finish_empty(tx: &mut PgConnection, operation: OperationId) -> Result<(), EditError> {
    sqlx::query!(
        "update operations o set state = 'succeeded', finished_at = now() where id = $1
         and not exists (select from operation_targets t where t.operation_id = o.id)",
        operation.0
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Counts an edit of a stead.
pub(super) async fn next_generation(tx: &mut PgConnection, stead: uuid::Uuid) -> Result<(), EditError> {
    sqlx::query!("update steads set generation = generation + 1 where id = $1", stead).execute(tx).await?;
    Ok(())
}

pub(super) async fn announce(tx: &mut PgConnection) -> Result<(), EditError> {
    sqlx::query!("select pg_notify($1, '')", crate::WAKE_CHANNEL).fetch_one(tx).await?;
    Ok(())
}

/// Has what is not as wanted looked at now rather than at its next turn.
pub(super) async fn wake_unsettled(
    tx: &mut PgConnection,
    stead: Option<(uuid::Uuid, i64)>,
) -> Result<(), EditError> {
    let Some((stead, _)) = stead else { return Ok(()) };
    sqlx::query!(
        "update components set wake_at = now(), wakes = wakes + 1
         where stead_id = $1 and lease is null
           and (observed_generation < generation or status ->> 'phase' <> 'ready')",
        stead
    )
    .execute(&mut *tx)
    .await?;
    announce(tx).await
}

/// Has the functions of a stead looked at now: how a server is reached that they may use has changed.
pub(super) async fn wake_users(tx: &mut PgConnection, stead: uuid::Uuid) -> Result<(), EditError> {
    sqlx::query!(
        "update components set wake_at = now(), wakes = wakes + 1 where stead_id = $1 and spec ->> 'kind' = 'function'",
        stead
    )
    .execute(tx)
    .await?;
    Ok(())
}
