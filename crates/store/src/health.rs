//! How components are doing, kept beside their status so that a fleet can be counted without reading a status.
//!
//! [`component::Health`] decides it, wherever a status is written.

use component::{ComponentId, Health, Status};
use sqlx::PgConnection;

use crate::Error;
use crate::error::unreadable;

/// Brings a component's health up to its status, after an edit of that.
pub(crate) async fn tell(conn: &mut PgConnection, id: ComponentId) -> Result<(), Error> {
    let row = sqlx::query!("select status, last_error from components where id = $1", id.0)
        .fetch_one(&mut *conn)
        .await?;
    let health = of(row.status, row.last_error.is_some())?;
    sqlx::query!("update components set health = $2::text::health where id = $1", id.0, health.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// Tells the health of components that were written before there was one.
pub(crate) async fn tell_all(conn: &mut PgConnection) -> Result<(), Error> {
    let rows = sqlx::query!("select id, status, last_error from components where health is null")
        .fetch_all(&mut *conn)
        .await?;
    for row in rows {
        let health = of(row.status, row.last_error.is_some())?;
        sqlx::query!(
            "update components set health = $2::text::health where id = $1 and health is null",
            row.id,
            health.as_str()
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

fn of(status: serde_json::Value, failing: bool) -> Result<Health, Error> {
    let status: Status = serde_json::from_value(status).map_err(unreadable("status"))?;
    Ok(Health::of(&status, failing))
}
