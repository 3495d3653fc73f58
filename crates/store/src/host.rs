//! Hosts: machines with a keeper, on which components live.

use std::collections::BTreeSet;

use component::Offer;
use component::postgres::Major;
use sqlx::PgConnection;

use crate::{Error, Store};

/// What a host tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name.
    pub name: String,
    /// Address that clients of its servers are told.
    pub address: String,
    /// First and last port that servers may be given.
    pub ports: (u16, u16),
    /// Engines on it.
    pub engines: BTreeSet<Major>,
    /// Names of the runtimes whose interpreter is on it.
    pub runtimes: BTreeSet<String>,
    /// Whether it keeps tenants apart.
    pub isolated: bool,
}

impl Store {
    /// Writes down what a host tells of itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_host(&self, host: &Host) -> Result<(), Error> {
        let engines: Vec<i32> = host.engines.iter().map(|major| i32::from(major.get())).collect();
        let runtimes: Vec<String> = host.runtimes.iter().cloned().collect();
        sqlx::query!(
            "insert into hosts (name, address, port_first, port_last, engines, isolated, runtimes)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (name) do update set address = $2, port_first = $3, port_last = $4, engines = $5,
                                              isolated = $6, runtimes = $7, seen_at = now()",
            host.name,
            host.address,
            i32::from(host.ports.0),
            i32::from(host.ports.1),
            &engines,
            host.isolated,
            &runtimes,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// The host for a new component: the one with the fewest; and what is on it. `None` before any host came up.
pub(crate) async fn choose(conn: &mut PgConnection) -> Result<Option<(String, Offer)>, Error> {
    let row = sqlx::query!(
        "select name, engines, runtimes from hosts h
         order by (select count(*) from components c where c.host = h.name), name limit 1"
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let engines =
            row.engines.into_iter().filter_map(|major| u16::try_from(major).ok()).map(Major::new).collect();
        (row.name, Offer { engines, runtimes: row.runtimes.into_iter().collect() })
    }))
}

/// The lowest free port of a host above `after`; `None` where all are given. The caller holds the host's
/// row, so that two edits do not choose the same.
pub(crate) async fn free_port(conn: &mut PgConnection, host: &str, after: i32) -> Result<Option<i32>, Error> {
    sqlx::query!("select name from hosts where name = $1 for no key update", host)
        .fetch_one(&mut *conn)
        .await?;
    let port = sqlx::query_scalar!(
        "select free.port from hosts h, generate_series(greatest(h.port_first, $2 + 1), h.port_last) free (port)
         where h.name = $1 and not exists (select from components c where c.host = h.name and c.port = free.port)
         order by 1 limit 1",
        host,
        after,
    )
    .fetch_optional(conn)
    .await?;
    Ok(port.flatten())
}
