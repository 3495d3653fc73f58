//! Packages of functions, as they were uploaded.

use component::TenantId;
use component::function::Digest;
use sqlx::PgConnection;

use crate::{Error, Store};

/// Bytes of a piece.
const PIECE: usize = 1024 * 1024;
/// How long a package is kept that no release needs, hours.
const KEPT_HOURS: i32 = 24;

impl Store {
    /// Whether a tenant has a package. Asking for one keeps it for another while.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_package(&self, tenant: TenantId, package: Digest) -> Result<bool, Error> {
        touch(&mut *self.pool.acquire().await?, tenant, package).await
    }

    /// Stores a package that was looked through; `unpacked` is what it has in bytes once unpacked. One that is there is
    /// left as it is: says whether it is new.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_package(
        &self,
        tenant: TenantId,
        sha256: Digest,
        zip: &[u8],
        unpacked: u64,
    ) -> Result<bool, Error> {
        let hash = sha256.bytes();
        let mut tx = self.pool.begin().await?;
        let new = sqlx::query!(
            "insert into packages (tenant_id, sha256, bytes, unpacked) values ($1, $2, $3, $4)
             on conflict (tenant_id, sha256) do update set asked_at = now() returning xmax = 0 as \"new!\"",
            tenant.0,
            hash,
            i64::try_from(zip.len()).unwrap_or(i64::MAX),
            i64::try_from(unpacked).unwrap_or(i64::MAX),
        )
        .fetch_one(&mut *tx)
        .await?
        .new;
        let pieces = zip.chunks(PIECE).zip(0_i32..).filter(|_| new);
        for (body, number) in pieces {
            sqlx::query!(
                "insert into package_pieces (tenant_id, sha256, number, body) values ($1, $2, $3, $4)",
                tenant.0,
                hash,
                number,
                body
            )
            .execute(&mut *tx)
            .await?;
        }
        crate::fail_point!("store::package-before-commit");
        tx.commit().await?;
        Ok(new)
    }

    /// The zip of a package; `None` where there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn zip(&self, tenant: TenantId, sha256: Digest) -> Result<Option<Vec<u8>>, Error> {
        let pieces = sqlx::query_scalar!(
            "select body from package_pieces where tenant_id = $1 and sha256 = $2 order by number",
            tenant.0,
            sha256.bytes()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok((!pieces.is_empty()).then(|| pieces.concat()))
    }

    /// Forgets packages that no release needs and nobody has asked for in a day.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sweep_packages(&self) -> Result<u64, Error> {
        let gone = sqlx::query!(
            "delete from packages p where asked_at < now() - make_interval(hours => $1)
             and not exists (select from releases r where r.tenant_id = p.tenant_id and r.package = p.sha256)",
            KEPT_HOURS
        )
        .execute(&self.pool)
        .await?;
        Ok(gone.rows_affected())
    }
}

/// Whether a tenant has a package, which stays for another while then.
pub(crate) async fn touch(conn: &mut PgConnection, tenant: TenantId, package: Digest) -> Result<bool, Error> {
    let touched = sqlx::query!(
        "update packages set asked_at = now() where tenant_id = $1 and sha256 = $2",
        tenant.0,
        package.bytes()
    )
    .execute(conn)
    .await?;
    Ok(touched.rows_affected() == 1)
}
