//! Events that data planes wrote to files while nobody listened, imported exactly once: the lines and the
//! position behind them are written in one transaction.

use sqlx::PgConnection;

use crate::journal::{self, Entry};
use crate::{Error, Store};

impl Store {
    /// How far a spool file was imported: bytes, or 0 where the file is another than last time.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spool_position(&self, host: &str, file: &str, inode: u64) -> Result<u64, Error> {
        let inode = inode.cast_signed();
        let offset = sqlx::query_scalar!(
            r#"select "offset" from spool_positions where host = $1 and file = $2 and inode = $3"#,
            host,
            file,
            inode
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(offset.and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0))
    }

    /// Writes the lines that stood between `from` and `to`; writes nothing when somebody else did already.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn import_spool(
        &self,
        host: &str,
        file: &str,
        inode: u64,
        (from, to): (u64, u64),
        lines: &[Entry],
    ) -> Result<bool, Error> {
        let inode = inode.cast_signed();
        let (from, to) = (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(to).unwrap_or(i64::MAX));
        let mut tx = self.pool.begin().await?;
        let moved = sqlx::query!(
            r#"insert into spool_positions as p (host, file, inode, "offset") values ($1, $2, $3, $5)
               on conflict (host, file) do update set inode = $3, "offset" = $5
               where p.inode <> $3 and $4::int8 = 0 or p.inode = $3 and p."offset" = $4"#,
            host,
            file,
            inode,
            from,
            to,
        )
        .execute(&mut *tx)
        .await?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        for line in lines {
            journal::write(&mut tx, line).await?;
            look_at(&mut tx, line).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// That a component fell asleep or woke shows in its status, which people look at: it is looked at now.
async fn look_at(tx: &mut PgConnection, line: &Entry) -> Result<(), Error> {
    let (Some((tenant, _)), Some(stead), Some(component)) = (&line.tenant, &line.stead, &line.component)
    else {
        return Ok(());
    };
    if !matches!(line.action, "server.asleep" | "server.woken") {
        return Ok(());
    }
    sqlx::query!(
        "update components c set wake_at = now() from steads s
         where s.id = c.stead_id and s.tenant_id = $1 and s.name = $2 and c.name = $3",
        tenant.0,
        stead,
        component,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("select pg_notify($1, '')", crate::WAKE_CHANNEL).fetch_one(tx).await?;
    Ok(())
}
