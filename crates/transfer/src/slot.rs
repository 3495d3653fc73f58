//! The server's side of a stream: which server it is, what it keeps for the stream, and which tables it publishes.

use crate::{Error, Lsn, Source};

/// Which history of which cluster positions belong to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct History {
    /// The cluster's own number; a copy of it has the same.
    pub(crate) system: String,
    /// A cluster that was restored to a moment begins a new one.
    pub(crate) timeline: i32,
}

/// What a server says of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotState {
    /// Why its changes are no longer complete, where they are not.
    pub(crate) is_lost: bool,
    /// The end of the server's log.
    pub(crate) end: Lsn,
    /// Everything before is in the lake.
    pub(crate) confirmed: Lsn,
    /// Bytes of log that are kept for it.
    pub(crate) kept: u64,
    /// Bytes that may still be kept, by the server's own limit.
    pub(crate) room: Option<u64>,
}

/// A table that is meant and cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpublished {
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// Why, and what to do.
    pub(crate) why: String,
}

impl Unpublished {
    /// `schema.name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl Source {
    /// Which history it is that is read.
    pub(crate) async fn history(&self) -> Result<History, Error> {
        let ask = "select s.system_identifier::text, c.timeline_id from pg_control_system() s, pg_control_checkpoint() c";
        let row = self.client.query_one(ask, &[]).await?;
        Ok(History { system: row.get(0), timeline: row.get(1) })
    }

    /// How the slot stands; `None` where there is none.
    pub(crate) async fn slot(&self) -> Result<Option<SlotState>, Error> {
        let ask = "select wal_status = 'lost', pg_current_wal_lsn(), confirmed_flush_lsn,
                pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, safe_wal_size
            from pg_replication_slots where slot_name = $1";
        let Some(row) = self.client.query_opt(ask, &[&self.slot.to_string()]).await? else { return Ok(None) };
        let bytes =
            |column: usize| row.get::<_, Option<i64>>(column).and_then(|bytes| u64::try_from(bytes).ok());
        Ok(Some(SlotState {
            is_lost: row.get::<_, Option<bool>>(0).unwrap_or(false),
            end: row.get(1),
            confirmed: row.get::<_, Option<Lsn>>(2).unwrap_or(Lsn::from(0)),
            kept: bytes(3).unwrap_or_default(),
            room: bytes(4),
        }))
    }

    /// Lets the server forget the slot; none is fine.
    pub(crate) async fn drop_slot(&self) -> Result<(), Error> {
        let drop =
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
        self.client.execute(drop, &[&self.slot.to_string()]).await?;
        Ok(())
    }

    /// Where what is committed now ends in the server's log. Nothing behind it is lost by a crash of the server.
    pub(crate) async fn end(&self) -> Result<Lsn, Error> {
        Ok(self.client.query_one("select pg_current_wal_flush_lsn()", &[]).await?.get(0))
    }

    /// Where what is written now ends in its log, also what is not committed, or could be lost by a crash.
    pub(crate) async fn last(&self) -> Result<Lsn, Error> {
        Ok(self.client.query_one("select pg_current_wal_insert_lsn()", &[]).await?.get(0))
    }

    /// Has the tables that are meant published, new ones too; those that cannot be, or elsewhere not read.
    pub(crate) async fn publish(&self) -> Result<Vec<Unpublished>, Error> {
        if let Some(meant) = &self.meant {
            return self.prepare(meant).await;
        }
        let publish = format!(
            "select \"schema\", \"table\", why from {}.{}()",
            crate::publish::SCHEMA,
            self.publication
        );
        let rows = self.client.query(publish.as_str(), &[]).await?;
        Ok(rows
            .iter()
            .map(|row| Unpublished { schema: row.get(0), name: row.get(1), why: row.get(2) })
            .collect())
    }
}
