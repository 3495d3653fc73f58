//! The one way in: every edit of desired state.
//!
//! An edit reads what is, has the caller decide what shall be ([`Decide`], a pure function), and writes the
//! new specs, a line of the journal for each, an operation and the wake-up in one transaction. The tenant's
//! row is held meanwhile: two edits of one tenant follow one another, so quotas add up.

use std::collections::BTreeMap;

use component::{
    ComponentId, ComponentName, Difference, Offer, OperationId, Refused, Spec, SteadName, TenantName,
    differences,
};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::release::{self, Made};
use crate::tenant::{Quota, Tenant};
use crate::{Error, Store, fail_point, host, package, tenant};

mod canary;
mod copies;
mod error;
mod passwords;
mod quota;
mod rollback;
mod rows;
mod secrets;
mod transfer;

use canary::Canary;
pub use copies::Copy;
pub use error::EditError;
use quota::check_quota;
pub use rollback::Rollback;
use rows::{
    announce, create, finish_empty, next_generation, open_operation, open_target, put_files,
    request_deletion, update,
};
pub use secrets::SteadSecret;

/// What the caller wants, out of what is: specs by component name, given those in force and what is to
/// be had. Components left out are removed.
pub type Decide<'a> = dyn Fn(
        &BTreeMap<ComponentName, Spec>,
        &Offer,
    ) -> Result<BTreeMap<ComponentName, Spec>, (ComponentName, Refused)>
    + Send
    + Sync
    + 'a;

/// An edit of a whole stead.
pub struct SteadEdit<'a> {
    /// Whose stead.
    pub tenant: &'a TenantName,
    /// Which.
    pub stead: &'a SteadName,
    /// The app it is an installation of.
    pub app: &'a SteadName,
    /// Whether a tenant that is not there is made.
    pub make_tenant: bool,
    /// What shall be.
    pub decide: &'a Decide<'a>,
    /// Contents that the new specs name by hash, by component.
    pub files: &'a BTreeMap<ComponentName, BTreeMap<String, String>>,
    /// Per cent of the calls, 1 to 99, on which releases that this makes are tried; all where absent.
    pub canary: Option<u8>,
    /// Go on only at this generation of the stead (0: only if there is none).
    pub if_generation: Option<i64>,
    /// Why, in the actor's words.
    pub reason: Option<&'a str>,
}

/// What an edit does, or would do, to one component.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentChange {
    /// Which.
    pub component: ComponentName,
    /// What happens to it.
    pub action: ChangeAction,
    /// The fields that differ.
    pub differences: Vec<Difference>,
}

/// What happens to a component in an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAction {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
    /// It stays as it is.
    Keep,
}

/// What an edit came to.
#[derive(Debug, Clone)]
pub struct Edited {
    /// By component.
    pub changes: Vec<ComponentChange>,
    /// The operation that brings it about; `None` for a plan, and where nothing changed.
    pub operation: Option<OperationId>,
    /// The stead's generation after it.
    pub generation: i64,
}

/// A component row as an edit needs it.
struct Current {
    id: ComponentId,
    spec: Spec,
    generation: i64,
    deleting: bool,
    canary: Option<Canary>,
}

/// State of a stead as an edit holds it.
struct Held {
    tenant: Tenant,
    stead: Option<(uuid::Uuid, i64)>,
    current: BTreeMap<ComponentName, Current>,
}

async fn hold(
    conn: &mut PgConnection,
    actor: &Actor,
    tenant: &TenantName,
    stead: &SteadName,
    make_tenant: bool,
) -> Result<Held, EditError> {
    let tenant = if make_tenant {
        tenant::find_or_make(conn, actor, tenant, Quota::default()).await?
    } else {
        tenant::find(conn, tenant).await?.ok_or_else(|| EditError::NoTenant(tenant.to_string()))?
    };
    sqlx::query!("select id from tenants where id = $1 for no key update", tenant.id.0)
        .fetch_one(&mut *conn)
        .await?;
    let row = sqlx::query!(
        "select id, generation from steads where tenant_id = $1 and name = $2",
        tenant.id.0,
        stead.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let mut current = BTreeMap::new();
    if let Some(row) = &row {
        let rows = sqlx::query!(
            "select id, name, spec, generation, canary_percent, canary_base,
                    deletion_requested_at is not null as \"deleting!\"
             from components where stead_id = $1 for no key update",
            row.id
        )
        .fetch_all(&mut *conn)
        .await?;
        for row in rows {
            let name = row.name.parse().map_err(|_| Error::BadName("component name"))?;
            let spec = serde_json::from_value(row.spec).map_err(crate::error::unreadable("spec"))?;
            let (id, generation) = (ComponentId(row.id), row.generation);
            let canary = row.canary_percent.zip(row.canary_base);
            let canary = canary.map(|(percent, base)| Canary { percent, base });
            current.insert(name, Current { id, spec, generation, deleting: row.deleting, canary });
        }
    }
    Ok(Held { tenant, stead: row.map(|row| (row.id, row.generation)), current })
}

fn json_of(spec: &Spec) -> Result<Value, Error> {
    serde_json::to_value(spec).map_err(crate::error::unreadable("spec"))
}

/// What differs between what is and what shall be.
fn changes(
    current: &BTreeMap<ComponentName, Current>,
    wanted: &BTreeMap<ComponentName, Spec>,
) -> Result<Vec<ComponentChange>, EditError> {
    let mut changes = Vec::new();
    for (name, spec) in wanted {
        let change = match current.get(name) {
            Some(held) if held.deleting => return Err(EditError::Deleting(name.clone())),
            Some(held) if held.spec == *spec => (ChangeAction::Keep, Vec::new()),
            Some(held) => (ChangeAction::Update, differences(&json_of(&held.spec)?, &json_of(spec)?)),
            None => (ChangeAction::Create, differences(&Value::Null, &json_of(spec)?)),
        };
        changes.push(ComponentChange { component: name.clone(), action: change.0, differences: change.1 });
    }
    // What stands beside the manifest is left out of it and stays.
    let left_out = |(name, held): &(&ComponentName, &Current)| {
        !wanted.contains_key(*name) && !held.deleting && !held.spec.is_beside()
    };
    for (name, held) in current.iter().filter(left_out) {
        if held.spec.protect() {
            return Err(EditError::Protected(name.clone()));
        }
        let differences = differences(&json_of(&held.spec)?, &Value::Null);
        changes.push(ComponentChange { component: name.clone(), action: ChangeAction::Delete, differences });
    }
    Ok(changes)
}

impl Store {
    /// What an edit would do, without doing it.
    ///
    /// # Errors
    /// Whatever the edit would be refused for.
    pub async fn plan(&self, actor: &Actor, edit: &SteadEdit<'_>) -> Result<Edited, EditError> {
        // The same code in a transaction that is thrown away: a plan cannot differ from what it plans.
        let mut tx = self.pool.begin().await?;
        let edited = apply(&mut tx, actor, edit, self, true).await?;
        tx.rollback().await?;
        Ok(Edited { operation: None, ..edited })
    }

    /// Edits a stead, or makes it.
    ///
    /// # Errors
    /// [`EditError`]; nothing was changed then, and the refusal is for the caller to put on record with
    /// [`Store::journal`].
    pub async fn apply(&self, actor: &Actor, edit: &SteadEdit<'_>) -> Result<Edited, EditError> {
        let mut tx = self.pool.begin().await?;
        let edited = apply(&mut tx, actor, edit, self, false).await?;
        fail_point!("store::edit-before-commit");
        tx.commit().await?;
        fail_point!("store::edit-after-commit");
        Ok(edited)
    }

    /// Has a stead removed, component by component, if it is (still) at `if_generation`.
    ///
    /// # Errors
    /// [`EditError::Protected`] unless `unprotect`, which is then put on record as an edit of its own.
    pub async fn delete(
        &self,
        actor: &Actor,
        tenant: &TenantName,
        stead: &SteadName,
        unprotect: bool,
        if_generation: Option<i64>,
        reason: Option<&str>,
    ) -> Result<Edited, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let (stead_id, generation) = held.stead_of(tenant, stead)?;
        if if_generation.is_some_and(|wanted| wanted != generation) {
            return Err(EditError::Moved { is: generation });
        }
        let operation = OperationId::random();
        open_operation(&mut tx, operation, &held.tenant, stead, "delete", actor).await?;
        let mut changes = Vec::new();
        for (name, component) in &held.current {
            let mut line = Line { actor, held: &held, stead, name, operation, reason };
            let before = json_of(&component.spec)?;
            if component.spec.protect() && !component.deleting {
                if !unprotect {
                    return Err(EditError::Protected(name.clone()));
                }
                let spec = component.spec.unprotected();
                line.write(&mut tx, "component.edited", before.clone(), json_of(&spec)?).await?;
                sqlx::query!(
                    "update components set spec = $2 where id = $1",
                    component.id.0,
                    json_of(&spec)?
                )
                .execute(&mut *tx)
                .await?;
            }
            if !component.deleting {
                line.write(&mut tx, "component.deletion_requested", before.clone(), Value::Null).await?;
                request_deletion(&mut tx, component.id).await?;
            }
            open_target(&mut tx, operation, component.id, name, component.generation + 1, true).await?;
            let differences = differences(&before, &Value::Null);
            changes.push(ComponentChange {
                component: name.clone(),
                action: ChangeAction::Delete,
                differences,
            });
        }
        if held.current.is_empty() {
            sqlx::query!("delete from steads where id = $1", stead_id).execute(&mut *tx).await?;
            finish_empty(&mut tx, operation).await?;
        } else {
            next_generation(&mut tx, stead_id).await?;
        }
        announce(&mut tx).await?;
        fail_point!("store::delete-before-commit");
        tx.commit().await?;
        Ok(Edited { changes, operation: Some(operation), generation: generation + 1 })
    }

    /// Has a component moved to its other place on its host, while clients wait.
    ///
    /// # Errors
    /// When there is no such component, it is being removed, or it is being moved already.
    pub async fn move_component(
        &self,
        actor: &Actor,
        tenant: &TenantName,
        stead: &SteadName,
        name: &ComponentName,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        if !matches!(held.existing(tenant, stead, name)?.spec, Spec::Postgres(_)) {
            return Err(EditError::NoServer(name.clone()));
        }
        let (id, operation) = held.open(&mut tx, actor, (tenant, stead, name), "move").await?;
        let moving = sqlx::query_scalar!(
            "select exists (select from operation_targets t join operations o on o.id = t.operation_id
                            where t.component_id = $1 and t.state = 'running' and o.kind = 'move') as \"moving!\"",
            id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        if moving {
            return Err(EditError::Moving(name.clone()));
        }
        // One that did not come about is asked for once more: another one behind it would lead back.
        let place = sqlx::query_scalar!(
            "select place - coalesce((status ->> 'elsewhere')::bool, false)::int4 as \"place!\"
             from components where id = $1",
            id.0
        )
        .fetch_one(&mut *tx)
        .await?;
        let mut line = Line { actor, held: &held, stead, name, operation, reason };
        let (before, after) = (json!({ "place": place }), json!({ "place": place + 1 }));
        line.write(&mut tx, "component.move_requested", before, after).await?;
        sqlx::query!("update components set place = $2 where id = $1", id.0, place + 1)
            .execute(&mut *tx)
            .await?;
        touch(&mut tx, operation, id, name).await?;
        fail_point!("store::move-before-commit");
        tx.commit().await?;
        Ok(operation)
    }
}

impl Held {
    /// Opens an operation on one component that is there, and stays.
    async fn open(
        &self,
        tx: &mut PgConnection,
        actor: &Actor,
        (tenant, stead, name): (&TenantName, &SteadName, &ComponentName),
        kind: &str,
    ) -> Result<(ComponentId, OperationId), EditError> {
        let id = self.existing(tenant, stead, name)?.id;
        let operation = OperationId::random();
        open_operation(tx, operation, &self.tenant, stead, kind, actor).await?;
        Ok((id, operation))
    }

    /// The stead's row and generation; it has to be there.
    fn stead_of(&self, tenant: &TenantName, stead: &SteadName) -> Result<(uuid::Uuid, i64), EditError> {
        self.stead.ok_or_else(|| EditError::NoStead(tenant.to_string(), stead.to_string()))
    }

    /// A component that is there, and stays.
    fn existing(
        &self,
        tenant: &TenantName,
        stead: &SteadName,
        name: &ComponentName,
    ) -> Result<&Current, EditError> {
        match self.current.get(name) {
            None if self.stead.is_none() => Err(EditError::NoStead(tenant.to_string(), stead.to_string())),
            None => Err(EditError::NoComponent(stead.to_string(), name.to_string())),
            Some(component) if component.deleting => Err(EditError::Deleting(name.clone())),
            Some(component) => Ok(component),
        }
    }
}

/// A generation later it is looked at again, and the operation waits for that.
async fn touch(
    tx: &mut PgConnection,
    operation: OperationId,
    id: ComponentId,
    name: &ComponentName,
) -> Result<(), EditError> {
    let generation = sqlx::query_scalar!(
        "update components set generation = generation + 1, wake_at = now(), wakes = wakes + 1
         where id = $1 returning generation",
        id.0
    )
    .fetch_one(&mut *tx)
    .await?;
    open_target(tx, operation, id, name, generation, false).await?;
    announce(tx).await
}

async fn apply(
    tx: &mut PgConnection,
    actor: &Actor,
    edit: &SteadEdit<'_>,
    store: &Store,
    planned: bool,
) -> Result<Edited, EditError> {
    let held = hold(tx, actor, edit.tenant, edit.stead, edit.make_tenant).await?;
    let is = held.stead.map_or(0, |(_, generation)| generation);
    if edit.if_generation.is_some_and(|wanted| wanted != is) {
        return Err(EditError::Moved { is });
    }
    let (host, offer) = host::choose(tx).await?.ok_or(EditError::NoHost)?;
    let specs = held.current.iter().map(|(name, held)| (name.clone(), held.spec.clone())).collect();
    let wanted = (edit.decide)(&specs, &offer)
        .and_then(|wanted| component::fit(&wanted).map(|()| wanted))
        .map_err(|(component, refused)| EditError::Refused { component, refused })?;
    let changes = changes(&held.current, &wanted)?;
    if !planned {
        packages_are_there(tx, &held, &wanted).await?;
    }
    check_quota(tx, &held, &wanted).await?;
    let widened = canary::to_be_widened(&held, &changes, edit.canary);
    let keeps = changes.iter().all(|change| change.action == ChangeAction::Keep);
    if held.stead.is_some() && keeps && widened.is_empty() {
        if edit.canary.is_some() && held.current.values().all(|current| current.canary.is_none()) {
            return Err(EditError::NothingToTry);
        }
        // Nothing to write down, but whoever asks again wants a component that is stuck to be tried again now.
        rows::wake_unsettled(tx, held.stead).await?;
        return Ok(Edited { changes, operation: None, generation: is });
    }
    let stead_id = sqlx::query_scalar!(
        "insert into steads (id, tenant_id, name, app) values ($1, $2, $3, $4)
         on conflict (tenant_id, name) do update set app = $4, generation = steads.generation + 1 returning id",
        uuid::Uuid::new_v4(),
        held.tenant.id.0,
        edit.stead.as_str(),
        edit.app.as_str(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let operation = OperationId::random();
    open_operation(tx, operation, &held.tenant, edit.stead, "apply", actor).await?;
    let mut tried = !widened.is_empty();
    for (name, before) in widened {
        let mut line = Line { actor, held: &held, stead: edit.stead, name, operation, reason: edit.reason };
        canary::widen(tx, &mut line, before, edit.canary.unwrap_or_default()).await?;
        if let Some(current) = held.current.get(name) {
            touch(tx, operation, current.id, name).await?;
        }
    }
    for change in &changes {
        let name = &change.component;
        let mut line = Line { actor, held: &held, stead: edit.stead, name, operation, reason: edit.reason };
        let before = held.current.get(name);
        let before_json = before.map(|held| json_of(&held.spec)).transpose()?.unwrap_or_default();
        let (id, generation) = match (change.action, before, wanted.get(name)) {
            (ChangeAction::Create, _, Some(spec)) => {
                line.write(tx, "component.created", Value::Null, json_of(spec)?).await?;
                (create(tx, store, stead_id, name, spec, &host).await?, 1)
            }
            (ChangeAction::Update, Some(held), Some(spec)) => {
                line.write(tx, "component.edited", before_json, json_of(spec)?).await?;
                (held.id, update(tx, held.id, spec).await?)
            }
            (ChangeAction::Delete, Some(held), _) => {
                line.write(tx, "component.deletion_requested", before_json, Value::Null).await?;
                request_deletion(tx, held.id).await?;
                (held.id, held.generation + 1)
            }
            _ => continue,
        };
        if let Some(spec) = wanted.get(name).filter(|_| !planned) {
            let made =
                Made { tenant: held.tenant.id, component: id, number: generation, actor, brings_back: None };
            let tried_before = before.and_then(|held| held.canary);
            if release::keep(tx, &made, before.map(|held| &held.spec), spec).await? {
                tried |= canary::of_release(tx, id, edit.canary, tried_before).await?;
            } else if let (Some(before), Some(percent)) = (tried_before, edit.canary) {
                canary::widen(tx, &mut line, before, percent).await?;
                tried = true;
            }
        }
        if let Some(files) = edit.files.get(name) {
            put_files(tx, id, files).await?;
        }
        let deletes = change.action == ChangeAction::Delete;
        open_target(tx, operation, id, name, generation, deletes).await?;
    }
    if edit.canary.is_some() && !tried && !planned {
        return Err(EditError::NothingToTry);
    }
    finish_empty(tx, operation).await?;
    announce(tx).await?;
    Ok(Edited { changes, operation: Some(operation), generation: is + 1 })
}

/// Refuses code that was not uploaded. Only once it is to run: what would change can be asked before.
async fn packages_are_there(
    tx: &mut PgConnection,
    held: &Held,
    wanted: &BTreeMap<ComponentName, Spec>,
) -> Result<(), EditError> {
    for (name, spec) in wanted {
        let Some(package) = spec.package() else { continue };
        if package::touch(tx, held.tenant.id, package).await? {
            continue;
        }
        let message = format!("the package {package} is not there; upload it first, then repeat");
        let refused = Refused { field: "code", message };
        return Err(EditError::Refused { component: name.clone(), refused });
    }
    Ok(())
}

/// The fixed part of an edit's lines.
struct Line<'a> {
    actor: &'a Actor,
    held: &'a Held,
    stead: &'a SteadName,
    name: &'a ComponentName,
    operation: OperationId,
    reason: Option<&'a str>,
}

impl Line<'_> {
    async fn write(
        &mut self,
        tx: &mut PgConnection,
        action: &'static str,
        before: Value,
        after: Value,
    ) -> Result<(), Error> {
        let entry = Entry {
            tenant: Some((self.held.tenant.id, self.held.tenant.name.to_string())),
            stead: Some(self.stead.to_string()),
            component: Some(self.name.to_string()),
            reason: self.reason.map(str::to_owned),
            operation: Some(self.operation),
            before,
            after,
            ..Entry::new(self.actor, action, Outcome::Done)
        };
        journal::write(tx, &entry).await.map(|_| ())
    }
}
