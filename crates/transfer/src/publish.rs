//! What has to be inside a server before a transfer can read it: a role that may do nothing else, and a function by
//! which that role has tables published, new ones too, without being their owner.
//!
//! A table whose rows nothing identifies is never published with its updates: PostgreSQL would refuse the application's.

use std::fmt::Write as _;

use crate::Publication;
use crate::wire::{Cursor, Mode};

/// The schema of those functions; it is Stead's own, so that an owner can put nothing in their place.
pub const SCHEMA: &str = "stead_transfer";

/// Tables by patterns of `like`, of schema and of name.
pub type Like = (String, String);

/// A text as SQL has it.
pub(crate) fn literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

/// The script that makes the role and the function, or makes them so again; run by a superuser in the database that is
/// read. `verifier` is the role's password in PostgreSQL's notation. `declared` is noted beside the role: whoever finds
/// it there knows that all of the script was done.
#[must_use]
pub fn script(name: &Publication, verifier: &str, mode: &Mode, tables: &[Like], declared: &str) -> String {
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
    let why = unfit(mode);
    let (verifier, declared) = (literal(verifier), literal(declared));
    format!(
        r#"begin;
set local log_min_duration_statement = -1;
do $$ begin create role {name}; exception when duplicate_object then null; end $$;
alter role {name} login {replication} bypassrls nosuperuser nocreaterole nocreatedb noinherit
    connection limit 8 valid until 'infinity' password {verifier};
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
declare t record;
begin
    for t in
        select n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) as named, c.oid, c.relkind, {why} as why,
               {meant} as meant,
               exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                       where p.pubname = '{name}' and r.prrelid = c.oid) as published,
               has_schema_privilege('{name}', n.oid, 'usage') and has_table_privilege('{name}', c.oid, 'select') as may
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
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
                if not t.published then
                    execute format('alter publication {name} add table %s%s',
                                   case t.relkind when 'r' then 'only ' else '' end, t.named);
                end if;
            elsif t.published then
                execute format('alter publication {name} drop table %s', t.named);
            end if;
        exception when lock_not_available then
            t.why := coalesce(t.why, 'somebody holds a lock on it; it is tried again');
        end;
        if t.meant and t.why is not null then
            "schema" := t.nspname; "table" := t.relname; why := t.why;
            return next;
        end if;
    end loop;
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
