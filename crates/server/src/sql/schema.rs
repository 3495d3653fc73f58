//! What there is in a database, asked in the person's own role; and what there is in a lake.
//!
//! Only PostgreSQL's own relations and functions are named, and nothing else is on the search path, so that nothing of
//! the tenant's runs; if it did, it could do no more than the person may. A lake has tables and columns, and is asked in
//! the SQL that it knows.

use client::wire::{DatabaseSchema, Function, Relation, RelationColumn};
use serde::de::DeserializeOwned;

use super::session::{Failed, Session};
use super::wire::strange;

/// Relations and functions in one answer, of each.
const MOST: usize = 500;

const RELATIONS: &str = "
select json_build_object(
  'schema', n.nspname, 'name', c.relname,
  'kind', case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view'
                         when 'm' then 'materialized view' else 'foreign table' end,
  'comment', left(obj_description(c.oid, 'pg_class'), 500),
  'estimated_rows', case when c.relkind in ('v', 'f') or c.reltuples < 0 then null else c.reltuples::int8 end,
  'columns', (select coalesce(json_agg(json_build_object(
                  'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'nullable', not a.attnotnull,
                  'default', left(pg_get_expr(d.adbin, d.adrelid), 500)) order by a.attnum), '[]')
              from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
              where a.attrelid = c.oid and a.attnum between 1 and 500 and not a.attisdropped),
  'constraints', (select coalesce(json_agg(json_build_object(
                      'name', o.conname, 'definition', left(pg_get_constraintdef(o.oid), 1000))
                      order by o.contype <> 'p', o.conname), '[]')
                  from pg_constraint o where o.conrelid = c.oid and o.contype in ('p', 'u', 'f', 'c', 'x')),
  'indexes', (select coalesce(json_agg(json_build_object(
                  'name', i.relname, 'definition', left(pg_get_indexdef(i.oid), 1000)) order by i.relname), '[]')
              from pg_index x join pg_class i on i.oid = x.indexrelid where x.indrelid = c.oid))::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
  and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and ($1::text <> '' or not exists (select from pg_depend d
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'))
  and strpos(lower(n.nspname || '.' || c.relname), lower($1::text)) > 0
order by n.nspname, c.relname limit 501";

const FUNCTIONS: &str = "
select json_build_object(
  'schema', n.nspname, 'name', p.proname,
  'kind', case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' when 'w' then 'window' else 'function' end,
  'arguments', left(pg_get_function_arguments(p.oid), 1000),
  'result', left(pg_get_function_result(p.oid), 1000),
  'language', l.lanname)::text
from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and ($1::text <> '' or not exists (select from pg_depend d
                  where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'))
  and strpos(lower(n.nspname || '.' || p.proname), lower($1::text)) > 0
order by n.nspname, p.proname, p.oid limit 501";

/// The columns of a lake's tables.
const LAKE: &str = "
select n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where a.attnum > 0 and n.nspname not in ('pg_catalog', 'information_schema')
  and strpos(lower(n.nspname || '.' || c.relname), lower($1::text)) > 0
order by n.nspname, c.relname, a.attnum limit 50000";

/// What has the filter in its name, capitals or not; an empty one is in every name. What extensions brought is there
/// for whoever looks for it: without a filter it would stand before everything of one's own.
pub(crate) async fn of_server(session: &mut Session, filter: &str) -> Result<DatabaseSchema, Failed> {
    session.ask("set search_path = pg_catalog", &[]).await?;
    let (relations, more) = few::<Relation>(session.ask(RELATIONS, &[filter]).await?)?;
    let (functions, more_functions) = few::<Function>(session.ask(FUNCTIONS, &[filter]).await?)?;
    Ok(DatabaseSchema { relations, functions, truncated: more || more_functions })
}

/// The tables of a lake that have the filter in their name.
pub(crate) async fn of_lake(session: &mut Session, filter: &str) -> Result<DatabaseSchema, Failed> {
    let mut relations: Vec<Relation> = Vec::new();
    for row in session.ask(LAKE, &[filter]).await? {
        let Ok([Some(schema), Some(name), Some(column), kind, nullable]) = <[_; 5]>::try_from(row) else {
            return Err(strange("its catalogue is not understood").into());
        };
        let column = RelationColumn {
            name: column,
            kind: kind.unwrap_or_default(),
            nullable: nullable.as_deref() != Some("f"),
            default: None,
        };
        if let Some(last) = relations.last_mut()
            && last.schema == schema
            && last.name == name
        {
            last.columns.push(column);
            continue;
        }
        if relations.len() == MOST {
            return Ok(DatabaseSchema { relations, functions: Vec::new(), truncated: true });
        }
        relations.push(Relation {
            schema,
            name,
            kind: "table".to_owned(),
            comment: None,
            estimated_rows: None,
            columns: vec![column],
            constraints: Vec::new(),
            indexes: Vec::new(),
        });
    }
    Ok(DatabaseSchema { relations, functions: Vec::new(), truncated: false })
}

fn few<T: DeserializeOwned>(rows: Vec<Vec<Option<String>>>) -> Result<(Vec<T>, bool), Failed> {
    let more = rows.len() > MOST;
    let read = |row: Vec<Option<String>>| {
        let text = row.into_iter().next().flatten();
        text.and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(|| Failed::from(strange("its catalogue is not understood")))
    };
    let found: Result<Vec<T>, Failed> = rows.into_iter().take(MOST).map(read).collect();
    Ok((found?, more))
}
