//! What has to be inside a server before a transfer can read it: a role that may do nothing else, and a function by
//! which that role has tables published, new ones too, without being their owner.
//!
//! A table whose rows nothing identifies is never published with its updates: PostgreSQL would refuse the application's.

use std::fmt::Write as _;

use crate::Publication;
use crate::wire::{Cursor, Mode, Part};

/// The schema of those functions; it is Stead's own, so that an owner can put nothing in their place.
pub const SCHEMA: &str = "stead_transfer";

/// Tables by patterns of `like`, of schema and of name.
pub type Like = (String, String);

/// A text as SQL has it, also between dollars.
pub(crate) fn literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''").replace('$', "\\x24");
    format!("E'{escaped}'")
}

/// What a transfer is to read.
#[derive(Debug, Clone, Copy)]
pub struct Meant<'m> {
    /// How.
    pub mode: &'m Mode,
    /// Which tables.
    pub tables: &'m [Like],
    /// What of them; of several that mean a table the first counts.
    pub parts: &'m [Part],
}

/// The script that makes the role and the function, or makes them so again; run by a superuser in the database that is
/// read. `verifier` is the role's password in PostgreSQL's notation. `declared` is noted beside the role: whoever finds
/// it there knows that all of the script was done.
#[must_use]
pub fn script(name: &Publication, verifier: &str, meant: &Meant<'_>, declared: &str) -> String {
    let Meant { mode, tables, parts } = *meant;
    let (replication, publish) = match mode {
        // Published or not says only which tables are meant.
        Mode::Snapshot | Mode::Query(_) => ("noreplication", "insert"),
        Mode::Stream => ("replication", "insert, update, delete, truncate"),
    };
    let mut meant = String::from("false");
    for (schema, table) in tables {
        let _ =
            write!(meant, " or (n.nspname like {} and c.relname like {})", literal(schema), literal(table));
    }
    let (why, parts) = (unfit(mode), values(parts));
    let (unfit_part, same) = (unfit_part(mode), literal(&parts));
    let (verifier, declared) = (literal(verifier), literal(declared));
    format!(
        r#"begin;
set local log_min_duration_statement = -1;
do $$ begin create role {name}; exception when duplicate_object then null; end $$;
alter role {name} login {replication} bypassrls nosuperuser nocreaterole nocreatedb noinherit
    connection limit 12 valid until 'infinity' password {verifier};
create schema if not exists {SCHEMA};
revoke all on schema {SCHEMA} from public;
grant usage on schema {SCHEMA} to {name};
do $$ begin
    execute format('grant connect on database %I to {name}', current_database());
    if not exists (select from pg_publication where pubname = '{name}') then
        create publication {name} with (publish = '{publish}', publish_via_partition_root = true);
    end if;
end $$;
create or replace function {SCHEMA}.{name}(out "schema" text, out "table" text, out why text)
    returns setof record language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $publish$
declare
    t record;
    -- Parts by which the publication was made last.
    parts constant text := md5({same});
    is_other constant boolean := parts is distinct from
        (select obj_description(oid, 'pg_publication') from pg_publication where pubname = '{name}');
    is_done boolean := true;
begin
    for t in
        select n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) as named, c.oid, c.relkind,
               coalesce({unfit_part}, {why}) as why, {meant} as meant, p.rows, r.prrelid is not null as published,
               r.prqual is not null as is_filtered,
               has_schema_privilege('{name}', n.oid, 'usage') and has_table_privilege('{name}', c.oid, 'select') as may
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        left join pg_publication_rel r on r.prrelid = c.oid
            and r.prpubid = (select oid from pg_publication where pubname = '{name}')
        left join lateral (
            select p.*, (
                select string_agg(named, ', ')
                from unnest(p.columns || p.named || case when p.is_one and (is_other or r.prrelid is null)
                     then p.without else array[]::text[] end) named
                where not exists (select from pg_attribute a
                    where a.attrelid = c.oid and a.attname = named and a.attnum > 0 and not a.attisdropped)) as missing
            from (values {parts}) p (place, nspname, relname, columns, without, rows, named, is_one)
            where n.nspname like p.nspname and c.relname like p.relname order by place limit 1) p on true
        left join lateral (
            select array_agg(a.attname::text) as keys from pg_index i
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
            where i.indrelid = c.oid and i.indisvalid
                and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end) k on true
        where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^pg_'
          and n.nspname not in ('information_schema', 'stead', '{SCHEMA}')
        order by 1, 2
    loop
        begin
            if t.meant and t.why is null then
                if not t.may then
                    execute format('grant usage on schema %I to {name}', t.nspname);
                    execute format('grant select on %s to {name}', t.named);
                end if;
                if t.published and is_other and (t.is_filtered or t.rows is not null) then
                    execute format('alter publication {name} drop table %s', t.named);
                    t.published := false;
                end if;
                if not t.published then
                    execute format('alter publication {name} add table %s%s%s',
                                   case t.relkind when 'r' then 'only ' else '' end, t.named,
                                   ' where (' || t.rows || ')');
                end if;
            elsif t.published then
                execute format('alter publication {name} drop table %s', t.named);
            end if;
        exception when lock_not_available then
            is_done := false;
            t.why := coalesce(t.why, 'somebody holds a lock on it; it is tried again');
        when others then
            is_done := false;
            t.why := coalesce(t.why, 'the server refuses to publish it: ' || sqlerrm);
        end;
        if t.meant and t.why is not null then
            "schema" := t.nspname; "table" := t.relname; why := t.why;
            return next;
        end if;
    end loop;
    if is_other and is_done then
        execute format('comment on publication {name} is %L', parts);
    end if;
end $publish$;
revoke all on function {SCHEMA}.{name}() from public;
grant execute on function {SCHEMA}.{name}() to {name};
comment on role {name} is {declared};
commit;"#
    )
}

/// Why a table (`c`) cannot be read like this, and what to do, as SQL; null where it can.
pub(crate) fn unfit(mode: &Mode) -> String {
    match mode {
        Mode::Snapshot => "null::text".to_owned(),
        Mode::Query(Cursor { column, .. }) => format!(
            "case when not exists (select from pg_attribute a
                      where a.attrelid = c.oid and a.attname = {} and a.attnum > 0 and not a.attisdropped)
                  then 'it has no column ' || {} || ' to tell newer rows by; add one, or leave it out of `tables`'
             end",
            literal(column),
            literal(column)
        ),
        Mode::Stream => {
            "case when c.relpersistence <> 'p'
                  then 'it is unlogged, so nobody is told of its changes; `alter table … set logged`, or leave it out'
                  when not (c.relreplident = 'f' or exists (
                      select from pg_index i where i.indrelid = c.oid and i.indisvalid
                      and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end))
                  then 'nothing identifies its rows; give it a primary key, or `alter table … replica identity full`'
             end"
                .to_owned()
        }
    }
}

/// Why a part of a table cannot be read, as SQL; null where it can.
fn unfit_part(mode: &Mode) -> String {
    let refused = if matches!(mode, Mode::Stream) {
        // An update of a row that PostgreSQL cannot tell to be meant or not it refuses, the application's too.
        "when p.rows is not null and c.relreplident <> 'f' and not p.named <@ coalesce(k.keys, '{}')
              then 'its rows are told by ' || array_to_string(p.named, ', ') || ', which does not identify them, and '
                  || 'PostgreSQL would refuse every update; `alter table … replica identity full`, or leave `where` out'"
    } else {
        ""
    };
    format!(
        "case when p.missing is not null
              then 'it has no column ' || p.missing || ', which is named in `tables`; correct that'
              when p.without && k.keys
              then 'what identifies its rows cannot be left out: ' || array_to_string(k.keys, ', ')
              {refused} end"
    )
}

/// Parts as rows of a table that SQL can ask. The first means no table, as there has to be a row.
fn values(parts: &[Part]) -> String {
    let list = |names: &[String]| {
        let names: Vec<_> = names.iter().map(|name| literal(name)).collect();
        format!("array[{}]::text[]", names.join(", "))
    };
    let mut values = format!("(0, null::text, null::text, {0}, {0}, null::text, {0}, false)", list(&[]));
    for (place, part) in parts.iter().enumerate() {
        let Part { names, like, columns, without, rows } = part;
        let is_one = !names.0.contains('*') && !names.1.contains('*');
        let (sql, named) = rows
            .as_ref()
            .map_or(("null".to_owned(), list(&[])), |rows| (literal(&rows.sql), list(&rows.columns)));
        let _ = write!(
            values,
            ", ({}, {}, {}, {}, {}, {sql}, {named}, {is_one})",
            place + 1,
            literal(&like.0),
            literal(&like.1),
            list(columns),
            list(without)
        );
    }
    values
}

/// The script that takes all of it away again, the slot too, whose reader must have ended.
#[must_use]
pub fn forget(name: &Publication) -> String {
    format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{name}' and not active;
         drop publication if exists {name};
         do $$ begin
             if to_regprocedure('{SCHEMA}.{name}()') is not null then
                 drop function {SCHEMA}.{name}();
             end if;
             if exists (select from pg_roles where rolname = '{name}') then
                 drop owned by {name};
                 drop role {name};
             end if;
         end $$"
    )
}

/// Says in one row what of it is there: what was noted beside the role, and whether there is a slot.
#[must_use]
pub fn look(name: &Publication) -> String {
    format!(
        "select (select shobj_description(r.oid, 'pg_authid') from pg_roles r
                 where r.rolname = '{name}' and r.rolcanlogin and r.rolbypassrls and not r.rolsuper),
                to_regprocedure('{SCHEMA}.{name}()') is not null
                    and exists (select from pg_publication where pubname = '{name}'),
                exists (select from pg_roles where rolname = '{name}'),
                exists (select from pg_replication_slots where slot_name = '{name}')"
    )
}
