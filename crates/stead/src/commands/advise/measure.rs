//! What a server says of itself, in one statement that only reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use client::wire::Credentials;
use component::transfer::Pattern;
use component::transfer::advice::{
    Changes, Column, Largest, Server, Situation, Volume, WalLevel, cursor, time,
};
use serde::Deserialize;

use crate::commands::sql::answers;
use crate::exit::Failure;

/// Counters that are younger than this say nothing of a day, seconds.
const TELLING_S: u64 = 60 * 60;
/// What did not happen for so long does not happen, seconds.
const NEVER_S: u64 = 7 * 24 * 60 * 60;
const DAY_S: u64 = 24 * 60 * 60;

/// What was found, and what is to be said about how.
pub(super) struct Measured {
    pub(super) situation: Situation,
    pub(super) remarks: Vec<String>,
}

/// The answer of [`QUESTION`].
#[derive(Debug, Deserialize)]
struct Facts {
    engine: u32,
    wal_level: WalLevel,
    slots_free: i64,
    /// Bytes; below zero where there is no limit.
    log_room: i64,
    /// Seconds since the counters of tables began.
    counted_s: i64,
    log_bytes: u64,
    /// Seconds since that was zero.
    log_counted_s: i64,
    tables: Vec<Table>,
    columns: Vec<Candidate>,
}

#[derive(Debug, Deserialize)]
struct Table {
    name: String,
    bytes: u64,
    rows: u64,
    inserted: u64,
    updated: u64,
    deleted: u64,
    keyless: bool,
}

#[derive(Debug, Deserialize)]
struct Candidate {
    table: String,
    name: String,
    is_moment: bool,
    counts_up: bool,
    indexed: bool,
}

/// Looks at the tables that are meant, as their owner; changes nothing and waits for nobody for long.
pub(super) async fn look(
    credentials: &Credentials,
    ca: &str,
    patterns: &[Pattern],
) -> Result<Measured, Failure> {
    let answers = answers::of(credentials, ca, "stead advise", &question(patterns)).await?;
    let text = answers.iter().find_map(answers::Answer::only);
    let strange =
        |why: &str| Failure::Failed(format!("the server's answer about its tables is strange: {why}"));
    let facts: Facts = serde_json::from_str(text.ok_or_else(|| strange("there is none"))?)
        .map_err(|error| strange(&error.to_string()))?;
    if facts.tables.is_empty() {
        return Err(Failure::Failed(
            "there is no such table yet; name others with --tables, or say with --flags-only what there will be".into(),
        ));
    }
    Ok(told(facts))
}

fn told(facts: Facts) -> Measured {
    let since = u64::try_from(facts.counted_s).unwrap_or_default();
    let log_since = u64::try_from(facts.log_counted_s).unwrap_or_default();
    let all = |of: fn(&Table) -> u64| facts.tables.iter().map(of).fold(0, u64::saturating_add);
    let (updated, deleted) = (all(|table| table.updated), all(|table| table.deleted));
    let changed = all(|table| table.inserted).saturating_add(updated).saturating_add(deleted);
    let happens = |count: u64| (count > 0 || since >= NEVER_S).then_some(count > 0);
    let names: BTreeSet<String> = facts.tables.iter().map(|table| table.name.clone()).collect();
    let columns: Vec<Column> = facts.columns.into_iter().map(Column::from).collect();
    let largest = facts.tables.iter().max_by_key(|table| table.bytes);
    let situation = Situation {
        volume: Volume {
            tables: u64::try_from(facts.tables.len()).ok(),
            rows: Some(all(|table| table.rows)),
            bytes: Some(all(|table| table.bytes)),
            largest: largest.map(|table| Largest {
                name: table.name.clone(),
                rows: table.rows,
                bytes: table.bytes,
            }),
        },
        changes: Changes {
            rows_a_day: a_day(changed, since),
            log_a_day: a_day(facts.log_bytes, log_since),
            updates: happens(updated),
            deletes: happens(deleted),
        },
        keyless: Some(
            facts.tables.iter().filter(|table| table.keyless).map(|table| table.name.clone()).collect(),
        ),
        cursor: cursor(&names, &columns),
        server: Server {
            engine: Some(facts.engine),
            wal_level: Some(facts.wal_level),
            slots_free: Some(u32::try_from(facts.slots_free.max(0)).unwrap_or(u32::MAX)),
            log_room: u64::try_from(facts.log_room).ok(),
            // A server of a stead: Stead makes the role itself.
            may_replicate: Some(true),
            sleeps: None,
        },
        ..Situation::default()
    };
    Measured { situation, remarks: remarks(since, log_since) }
}

fn a_day(count: u64, since_s: u64) -> Option<u64> {
    let a_day = u128::from(count) * u128::from(DAY_S) / u128::from(since_s.max(1));
    (since_s >= TELLING_S).then(|| u64::try_from(a_day).unwrap_or(u64::MAX))
}

fn remarks(since: u64, log_since: u64) -> Vec<String> {
    let mut remarks = Vec::new();
    if since < TELLING_S || log_since < TELLING_S {
        remarks.push(format!(
            "the server has counted for {} only, too short to tell how much changes a day; say it with \
             --changes-per-day and --log-per-day, or ask again later",
            time(since.min(log_since))
        ));
    } else {
        remarks.push(format!("what changes a day was counted over {}", time(since)));
    }
    remarks
}

impl From<Candidate> for Column {
    fn from(found: Candidate) -> Self {
        let Candidate { table, name, is_moment, counts_up, indexed } = found;
        Self { table, name, is_moment, counts_up, indexed }
    }
}

/// `E'…'`: what it means depends on no setting of the database.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn question(patterns: &[Pattern]) -> String {
    let mut meant = String::new();
    for pattern in patterns {
        let (schema, table) = pattern.like();
        let or = if meant.is_empty() { "" } else { " or " };
        let _ =
            write!(meant, "{or}(n.nspname like {} and c.relname like {})", literal(&schema), literal(&table));
    }
    if meant.is_empty() {
        meant.push_str("n.nspname = 'public'");
    }
    QUESTION.replace("{meant}", &meant)
}

/// Sizes and counters of the tables, those of partitions added to the table that they are of; columns that might be a
/// cursor; and the server. A column is a candidate where it is never null and a moment or a whole number.
const QUESTION: &str = r"
begin transaction read only;
set local search_path = pg_catalog;
set local statement_timeout = '30s';
set local lock_timeout = '5s';
with meant as (
    select c.oid, n.nspname || '.' || c.relname as name, c.relkind, c.relreplident
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and n.nspname !~ '^pg_'
      and n.nspname not in ('information_schema', 'stead', 'stead_transfer') and ({meant})
), part as (
    select oid as root, oid from meant where relkind = 'r'
    union all
    select m.oid, t.relid from meant m cross join lateral pg_partition_tree(m.oid) t
    where m.relkind = 'p' and t.isleaf and t.relid <> m.oid
), counted as (
    select p.root, sum(pg_table_size(p.oid)) as bytes, sum(greatest(c.reltuples::bigint, s.n_live_tup, 0)) as rows,
           sum(s.n_tup_ins) as inserted, sum(s.n_tup_upd) as updated, sum(s.n_tup_del) as deleted
    from part p join pg_class c on c.oid = p.oid left join pg_stat_all_tables s on s.relid = p.oid
    group by 1
), tables as (
    select m.name, coalesce(c.bytes, 0)::bigint as bytes, coalesce(c.rows, 0)::bigint as rows,
           coalesce(c.inserted, 0)::bigint as inserted, coalesce(c.updated, 0)::bigint as updated,
           coalesce(c.deleted, 0)::bigint as deleted,
           not (m.relreplident = 'f' or exists (
               select from pg_index i where i.indrelid = m.oid and i.indisvalid
               and case m.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end)) as keyless
    from meant m left join counted c on c.root = m.oid
), columns as (
    select m.name as table, a.attname as name,
           a.atttypid in ('timestamp'::regtype, 'timestamptz'::regtype) as is_moment,
           a.attidentity <> '' or coalesce(pg_get_expr(d.adbin, d.adrelid) like 'nextval(%', false) as counts_up,
           exists (select from pg_index i where i.indrelid = m.oid and i.indisvalid and i.indpred is null
                   and i.indkey[0] = a.attnum) as indexed
    from meant m join pg_attribute a on a.attrelid = m.oid
         left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped and a.attnotnull
      and a.atttypid in ('timestamp'::regtype, 'timestamptz'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype)
)
select json_build_object(
    'engine', current_setting('server_version_num')::int / 10000,
    'wal_level', current_setting('wal_level'),
    'slots_free', current_setting('max_replication_slots')::int - (select count(*) from pg_replication_slots),
    'log_room', (select case when setting::bigint < 0 then -1 else setting::bigint * 1048576 end
                 from pg_settings where name = 'max_slot_wal_keep_size'),
    'counted_s', (select extract(epoch from now() - coalesce(d.stats_reset, w.stats_reset, now()))::bigint
                  from pg_stat_database d, pg_stat_wal w where d.datname = current_database()),
    'log_bytes', w.wal_bytes::bigint,
    'log_counted_s', extract(epoch from now() - coalesce(w.stats_reset, now()))::bigint,
    'tables', (select coalesce(json_agg(t), '[]') from tables t),
    'columns', (select coalesce(json_agg(c), '[]') from columns c))
from pg_stat_wal w;
commit";

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(counted_s: i64, deleted: u64) -> Facts {
        let table = |name: &str, keyless| Table {
            name: name.into(),
            bytes: 10,
            rows: 5,
            inserted: 4,
            updated: 0,
            deleted,
            keyless,
        };
        Facts {
            engine: 18,
            wal_level: WalLevel::Logical,
            slots_free: 8,
            log_room: -1,
            counted_s,
            log_bytes: 1_000,
            log_counted_s: counted_s,
            tables: vec![table("public.a", false), table("public.b", true)],
            columns: Vec::new(),
        }
    }

    #[test]
    fn counters_that_are_young_say_only_what_did_happen() {
        let young = told(facts(600, 1)).situation.changes;
        assert_eq!((young.rows_a_day, young.log_a_day), (None, None));
        assert_eq!((young.updates, young.deletes), (None, Some(true)));
        let old = told(facts(14 * 86_400, 0)).situation;
        assert_eq!((old.changes.rows_a_day, old.changes.log_a_day), (Some(0), Some(71)));
        assert_eq!((old.changes.updates, old.changes.deletes), (Some(false), Some(false)));
        assert_eq!((old.volume.rows, old.volume.bytes, old.server.log_room), (Some(10), Some(20), None));
        assert_eq!(old.keyless, Some(BTreeSet::from(["public.b".to_owned()])));
    }

    #[test]
    fn names_are_asked_for_as_they_are() {
        let asked = question(&["sales.order_%*".parse().unwrap()]);
        assert!(asked.contains(r"n.nspname like E'sales' and c.relname like E'order\\_\\%%'"), "{asked}");
    }
}
