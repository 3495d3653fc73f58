//! Drills: the newest backup of a server is restored, checked and thrown away, so that a restore is known to work
//! before it is needed.
//!
//! A drill goes on by itself; looks at the component see that one is under way, and later what came of it. One at a
//! time on a host: it takes a core and a copy of the data.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use archiver::ArchiveId;
use archiver::restore::Known;
use component::DriverError;
use component::postgres::Major;
use component::status::Drill;
use jiff::Timestamp;
use keeper::wire::{Name, Tree, UnitState, Wanted};

use crate::restore::from_archive;
use crate::session::{admin, describe};
use crate::spares::first_spec;
use crate::{Local, Place, fail_point, lock};

/// A start of what was just stopped in order.
const START: Duration = Duration::from_secs(60);
/// A check of everything.
const CHECK: &str = "24h";

/// What is known of drills.
#[derive(Default)]
pub(crate) struct Drills {
    /// One is under way.
    running: bool,
    /// What came of those that nobody was told of yet, by handle.
    ended: HashMap<String, Drill>,
}

impl Local {
    /// Whether a drill is under way on this host.
    pub(crate) fn is_drilling(&self) -> bool {
        lock(&self.0.drills).running
    }

    /// What came of a component's last drill, once.
    pub(crate) fn drilled(&self, handle: &str) -> Option<Drill> {
        lock(&self.0.drills).ended.remove(handle)
    }

    /// Begins a drill, unless one is under way.
    pub(crate) fn begin_drill(&self, place: &Place) -> Result<(), DriverError> {
        let Some(of) = self.archive_of(&place.tree) else { return Ok(()) };
        if std::mem::replace(&mut lock(&self.0.drills).running, true) {
            return Ok(());
        }
        let (local, handle) = (self.clone(), place.handle.clone());
        tokio::spawn(async move {
            let (at, began) = (Timestamp::now(), Instant::now());
            let drilled = local.drill(of.archive).await;
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (reached, error) = match drilled {
                Ok(reached) => (Some(reached), None),
                Err(error) => (None, Some(error.to_string())),
            };
            tracing::info!(server = handle, took_ms, ?reached, error, "a backup was tried");
            let mut drills = lock(&local.0.drills);
            drills.running = false;
            drills.ended.insert(handle, Drill { at, took_ms, reached, error });
        });
        Ok(())
    }

    /// Restores an archive up to its end, checks what comes of it, and throws it away; up to when it reached.
    async fn drill(&self, archive: ArchiveId) -> Result<Timestamp, DriverError> {
        let source = self.source(archive).await?;
        let plan = source.plan(None, Known::Everything).await.map_err(from_archive)?;
        let reached = plan.reaches();
        let (tree, unit) = Self::new_spare()?;
        let checked = async {
            self.bring_back(&source, &plan, &tree, &unit).await?;
            fail_point!("driver-local::drill-restored");
            self.check(Major::new(source.about().engine), &tree, &unit).await
        };
        let checked = checked.await;
        self.discard(&unit, &tree).await;
        checked.map(|()| reached)
    }

    /// What `pg_amcheck` asks of every database: that each table and index is whole.
    async fn check(&self, major: Major, tree: &Tree, unit: &Name) -> Result<(), DriverError> {
        let engine = self.0.engines.get(major).ok_or_else(|| {
            DriverError::Unavailable(format!("engine {major} is not on this host any more"))
        })?;
        let spec = first_spec(major);
        let mut server = self.server_unit(unit, tree, &spec, engine);
        self.run_unit(&server).await?;
        let socket = self.socket_dir(tree);
        let session = self.await_ready(unit, &socket, START).await.map_err(DriverError::Unavailable)?;
        let unsound = |error: tokio_postgres::Error| {
            DriverError::Unavailable(format!("what was restored is not whole: {}", describe(&error)))
        };
        let all = "select datname::text from pg_database where datallowconn";
        let databases: Vec<String> =
            session.query(all, &[]).await.map_err(unsound)?.iter().map(|row| row.get(0)).collect();
        drop(session);
        for database in databases {
            let session = admin(&socket, &database).await.map_err(unsound)?;
            let begin = format!(
                "set statement_timeout = '{CHECK}'; create schema stead_drill;
                 create extension amcheck schema stead_drill"
            );
            session.batch_execute(&begin).await.map_err(unsound)?;
            session.batch_execute(INDEXES).await.map_err(unsound)?;
            let damaged = session.query(TABLES, &[]).await.map_err(unsound)?;
            if let Some(first) = damaged.first() {
                let (table, why): (String, String) = (first.get(0), first.get(1));
                return Err(DriverError::Unavailable(format!(
                    "table {table} in {database} is damaged: {why}"
                )));
            }
        }
        server.wanted = Wanted::Stopped;
        self.run_unit(&server).await?;
        self.await_unit(unit, START, |state| matches!(state, UnitState::Stopped)).await.map(|_| ())
    }
}

/// Every B-tree, as `pg_amcheck` chooses them: those that are in use and not of somebody's temporary table.
const INDEXES: &str = "
do $$ declare one oid; begin
    for one in select c.oid from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
               where a.amname = 'btree' and c.relpersistence <> 't' and c.relkind = 'i'
                     and i.indisready and i.indisvalid loop
        perform stead_drill.bt_index_check(one, false);
    end loop;
end $$";

/// What is damaged in tables.
const TABLES: &str = "
select c.oid::regclass::text, f.msg
from pg_class c, lateral stead_drill.verify_heapam(c.oid, true, true, 'none', null, null) f
where c.relkind in ('r', 'm', 't') and c.relpersistence <> 't' limit 1";
