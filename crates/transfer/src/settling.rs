//! Transactions that began to write a table before it was published.
//!
//! Of such a transaction a stream is told only the rest, and a snapshot that is made before it ends does not see it. So a
//! copy, and changes that are to go on, begin when the last of them has ended: those alone, whoever comes later is told
//! of whole.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Error;
use crate::change::Relation;
use crate::source::Source;

/// For how long others are kept waiting for one table.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// The transactions that are waited for, by the number of their table.
#[derive(Debug, Default)]
pub(crate) struct Settling(HashMap<u32, Vec<String>>);

impl Settling {
    /// Whether the last of them has ended that wrote this published table when this was asked first.
    pub(crate) async fn is_over(&mut self, source: &Source, table: &Relation) -> Result<bool, Error> {
        fail::fail_point!("transfer::settling.hasty", |_| Ok(true));
        let mut known = match self.0.remove(&table.oid) {
            Some(known) => known,
            None => writers(source, table.oid).await?,
        };
        let began = Instant::now();
        loop {
            known = still_there(source, &known).await?;
            if known.is_empty() {
                return Ok(true);
            }
            if began.elapsed() > PATIENCE {
                self.0.insert(table.oid, known);
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whoever writes it, or a partition of it, has one of these locks until it ends.
async fn writers(source: &Source, table: u32) -> Result<Vec<String>, Error> {
    let writers = "select distinct virtualtransaction from pg_locks
        where locktype = 'relation' and granted and pid is distinct from pg_backend_pid()
            and database = (select oid from pg_database where datname = current_database())
            and mode in ('RowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            and relation in (select $1::oid union all select relid from pg_partition_tree($1::oid::regclass))";
    Ok(source.client.query(writers, &[&table]).await?.iter().map(|row| row.get(0)).collect())
}

async fn still_there(source: &Source, known: &[String]) -> Result<Vec<String>, Error> {
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let still = "select distinct virtualtransaction from pg_locks where virtualtransaction = any($1)";
    Ok(source.client.query(still, &[&known]).await?.iter().map(|row| row.get(0)).collect())
}
