//! A release that is tried on a share of the calls: begun by an edit, widened by another, ended by a promotion, by a
//! rollback, or by the next release.

use component::{ComponentId, ComponentName, OperationId, SteadName, TenantName};
use serde_json::json;
use sqlx::PgConnection;

use super::{ChangeAction, ComponentChange, EditError, Held, Line, hold, touch};
use crate::journal::Actor;
use crate::{Store, fail_point, release};

/// A release that is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canary {
    /// Per cent of the calls.
    pub(super) percent: i16,
    /// The release that the others go to.
    pub(super) base: i64,
}

/// What becomes of the share of a component of which an edit has made a release: it is tried, where that is asked for and
/// one answers that it can be tried against; otherwise nothing is tried any more. Answers whether it is tried.
pub(super) async fn of_release(
    tx: &mut PgConnection,
    id: ComponentId,
    percent: Option<u8>,
    before: Option<Canary>,
) -> Result<bool, EditError> {
    let base = match (percent, before) {
        (None, _) => None,
        // What is tried in the place of another that was, is tried against the same.
        (Some(_), Some(before)) => Some(before.base),
        (Some(_), None) => release::live(&mut *tx, id).await?,
    };
    set(tx, id, percent.map(i16::from).zip(base)).await?;
    Ok(base.is_some())
}

/// Has nothing tried any more.
pub(super) async fn end(tx: &mut PgConnection, id: ComponentId) -> Result<(), EditError> {
    set(tx, id, None).await
}

async fn set(tx: &mut PgConnection, id: ComponentId, to: Option<(i16, i64)>) -> Result<(), EditError> {
    let (percent, base) = to.unzip();
    sqlx::query!(
        "update components set canary_percent = $2, canary_base = $3 where id = $1",
        id.0,
        percent,
        base
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The components that stay as they are in an edit, of which a release is tried on another share than is asked for.
pub(super) fn to_be_widened<'a>(
    held: &'a Held,
    changes: &'a [ComponentChange],
    percent: Option<u8>,
) -> Vec<(&'a ComponentName, Canary)> {
    let Some(percent) = percent.map(i16::from) else { return Vec::new() };
    let keeps = changes.iter().filter(|change| change.action == ChangeAction::Keep);
    let tried =
        keeps.filter_map(|change| Some((&change.component, held.current.get(&change.component)?.canary?)));
    tried.filter(|(_, canary)| canary.percent != percent).collect()
}

/// Tries the release of a component on another share of the calls; whoever calls has it looked at.
pub(super) async fn widen(
    tx: &mut PgConnection,
    line: &mut Line<'_>,
    canary: Canary,
    percent: u8,
) -> Result<(), EditError> {
    let (before, after) = (json!({ "percent": canary.percent }), json!({ "percent": percent }));
    line.write(tx, "component.canary_widened", before, after).await?;
    let Some(current) = line.held.current.get(line.name) else { return Ok(()) };
    set(tx, current.id, Some((i16::from(percent), canary.base))).await
}

impl Store {
    /// Has the release that is tried on a share of the calls answer all of them.
    ///
    /// # Errors
    /// When there is no such component, or no release of it is tried.
    pub async fn promote(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        name: &ComponentName,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let canary = held.existing(tenant, stead, name)?.canary;
        let canary = canary.ok_or_else(|| EditError::NotTried(name.clone()))?;
        let (id, operation) = held.open(&mut tx, actor, (tenant, stead, name), "promote").await?;
        let newest = release::newest(&mut tx, id).await?;
        let mut line = Line { actor, held: &held, stead, name, operation, reason };
        let before = json!({ "live": canary.base, "canary": newest, "percent": canary.percent });
        line.write(&mut tx, "component.promoted", before, json!({ "live": newest })).await?;
        end(&mut tx, id).await?;
        touch(&mut tx, operation, id, name).await?;
        fail_point!("store::promote-before-commit");
        tx.commit().await?;
        Ok(operation)
    }
}
