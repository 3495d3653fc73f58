//! Releases of a component: every one as it was, and the one that is wanted now.

use component::{ComponentId, Spec, TenantId};
use jiff::Timestamp;
use sqlx::PgConnection;

use crate::error::unreadable;
use crate::journal::Actor;
use crate::{Error, Store};

/// A release.
#[derive(Debug, Clone)]
pub struct Release {
    /// The generation that brought it.
    pub number: i64,
    /// What it runs.
    pub spec: Spec,
    /// Who made it.
    pub actor: String,
    /// The release that it brought back, where it was a rollback.
    pub brings_back: Option<i64>,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// Releases of a component, newest first: those with a number below `before`, at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn releases(
        &self,
        component: ComponentId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Release>, Error> {
        let rows = sqlx::query!(
            r#"select number, spec, actor, brings_back, at as "at: jiff_sqlx::Timestamp" from releases
               where component_id = $1 and ($2::int8 is null or number < $2) order by number desc limit $3"#,
            component.0,
            before,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Release {
                    number: row.number,
                    spec: serde_json::from_value(row.spec).map_err(unreadable("release"))?,
                    actor: row.actor,
                    brings_back: row.brings_back,
                    at: row.at.to_jiff(),
                })
            })
            .collect()
    }
}

/// The newest release of a component; none where its kind has none.
pub(crate) async fn newest(conn: &mut PgConnection, component: ComponentId) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar!("select max(number) from releases where component_id = $1", component.0)
        .fetch_one(conn)
        .await?)
}

/// The spec of a release.
pub(crate) async fn spec(
    conn: &mut PgConnection,
    component: ComponentId,
    number: i64,
) -> Result<Option<Spec>, Error> {
    let spec = sqlx::query_scalar!(
        "select spec from releases where component_id = $1 and number = $2",
        component.0,
        number
    )
    .fetch_optional(conn)
    .await?;
    spec.map(|spec| serde_json::from_value(spec).map_err(unreadable("release"))).transpose()
}

/// What an edit has made a release.
pub(crate) struct Made<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) component: ComponentId,
    pub(crate) number: i64,
    pub(crate) actor: &'a Actor,
    pub(crate) brings_back: Option<i64>,
}

/// The release of a component that answers, as last observed; none where none does, or that is none of its releases.
pub(crate) async fn live(conn: &mut PgConnection, component: ComponentId) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "select r.number from releases r join components c on c.id = r.component_id
         where c.id = $1 and r.number = (c.status ->> 'live')::int8",
        component.0
    )
    .fetch_optional(conn)
    .await?)
}

/// Keeps what an edit made as a release, if that is one: unless it differs from `before` in nothing that a release is.
/// Answers whether it is.
pub(crate) async fn keep(
    conn: &mut PgConnection,
    made: &Made<'_>,
    before: Option<&Spec>,
    after: &Spec,
) -> Result<bool, Error> {
    let Some(release) = after.release() else { return Ok(false) };
    let same = before.and_then(Spec::release).is_some_and(|before| before == release);
    let Some(package) = after.package().filter(|_| !same || made.brings_back.is_some()) else {
        return Ok(false);
    };
    let replaces = live(conn, made.component).await?;
    sqlx::query!(
        "insert into releases (component_id, number, spec, tenant_id, package, actor, brings_back, replaces)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        made.component.0,
        made.number,
        serde_json::to_value(after).map_err(unreadable("release"))?,
        made.tenant.0,
        package.bytes(),
        made.actor.name,
        made.brings_back,
        replaces,
    )
    .execute(conn)
    .await?;
    Ok(true)
}
