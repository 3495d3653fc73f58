//! Stead's own superuser runs no code of a tenant's, whatever the tenant puts where Stead looks. A witness
//! in the tenant's database writes down for whom it was run; whom it must never have seen is a superuser.

use crate::database::{Database, outcome};
use crate::installation::{Installation, text, until};

/// `public.witness(text)`, which tells on whoever runs it; `text` says by what it was called.
const WITNESS: &str = "
create table seen (by text, session_user_is text, current_user_is text, superuser bool);
grant all on seen to public;
create function witness(by text) returns void language plpgsql set search_path = pg_catalog as $$ begin
    insert into public.seen values (by, session_user, current_user,
        exists (select from pg_catalog.pg_roles r where r.rolname in (session_user, current_user) and r.rolsuper));
exception when read_only_sql_transaction then null; end $$;
";

/// What stands between a session and `pg_catalog`: settings of database and role, operators and functions
/// that fit better than the catalog's own, casts, types, and a ledger that is not the one that Stead made.
const TRAPS: &str = "
alter database main set search_path = public, pg_catalog;
alter role owner set search_path = public, pg_catalog;

create function trap_name(name, name) returns bool language plpgsql as
    $$ begin perform public.witness('operator = (name, name)'); return true; end $$;
create function trap_text(name, text) returns bool language plpgsql as
    $$ begin perform public.witness('operator = (name, text)'); return true; end $$;
create function trap_texts(text, text) returns bool language plpgsql as
    $$ begin perform public.witness('operator = (text, text)'); return $1 operator(pg_catalog.=) $2; end $$;
create function trap_oid(oid, oid) returns bool language plpgsql as
    $$ begin perform public.witness('operator = (oid, oid)'); return true; end $$;
create operator = (leftarg = name, rightarg = name, function = trap_name);
create operator = (leftarg = name, rightarg = text, function = trap_text);
create operator = (leftarg = text, rightarg = text, function = trap_texts);
create operator = (leftarg = oid, rightarg = oid, function = trap_oid);
create function array_agg_step(text[], text) returns text[] language plpgsql as
    $$ begin perform public.witness('aggregate'); return $1 || $2; end $$;
create aggregate array_agg(text) (sfunc = array_agg_step, stype = text[], initcond = '{}');
do $do$
declare f text;
begin
    foreach f in array array['to_regclass(text)', 'current_setting(text)', 'set_config(text, text, bool)',
        'quote_ident(text)', 'format(text)', 'lower(text)', 'now()', 'clock_timestamp()', 'version()',
        'pg_database_size(oid)', 'shobj_description(oid, name)', 'length(text)', 'textin(text)',
        'verifier(text)', 'left(text, int)', 'coalesce_text(text)']
    loop
        execute format('create function public.%s returns text language plpgsql as
            $$ begin perform public.witness(%L); return null; end $$', f, f);
    end loop;
end $do$;
create type trap as enum ('x');
create function trap_cast(trap) returns text language plpgsql as
    $$ begin perform public.witness('cast'); return 'x'; end $$;
create cast (trap as text) with function trap_cast(trap) as implicit;
create schema hstore; create schema earthdistance;
create function earthdistance.similarity(text, text) returns float4 language plpgsql as
    $$ begin perform public.witness('similarity'); return 1; end $$;
";

/// The ledger that Stead made, with a trigger, a rule's worth of rewriting and a default in it.
const LEDGER: &str = "
create function on_ledger() returns trigger language plpgsql as
    $$ begin perform public.witness('trigger of the ledger'); return new; end $$;
create trigger on_ledger before insert on stead.migrations for each row execute function on_ledger();
create function ledger_default() returns timestamptz language plpgsql as
    $$ begin perform public.witness('default of the ledger'); return pg_catalog.now(); end $$;
alter table stead.migrations alter column applied_at set default ledger_default();
alter table stead.migrations enable row level security;
alter table stead.migrations force row level security;
create function ledger_policy() returns bool language plpgsql as
    $$ begin perform public.witness('policy of the ledger'); return true; end $$;
create policy all_of_it on stead.migrations using (ledger_policy()) with check (ledger_policy());
";

/// Extensions that the owner may create, and such as Stead creates for it, of every engine.
const EXTENSIONS: [&str; 34] = [
    "amcheck",
    "autoinc",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_trgm",
    "pg_visibility",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "refint",
    "seg",
    "tablefunc",
    "tcn",
    "unaccent",
    "xml2",
];

/// A migration that leaves behind whatever a session can carry: were it Stead's, the next statement would
/// run it.
const HOSTILE: &str = "
select public.witness('migration');
set search_path = public, pg_catalog;
create temp table pg_extension (extname name);
create function pg_temp.lower(text) returns text language plpgsql as
    $$ begin perform public.witness('temporary function'); return $1; end $$;
do $$ begin
    begin set local role stead_admin; exception when others then null; end;
    begin set session authorization stead_admin; exception when others then null; end;
    begin reset session authorization; exception when others then null; end;
    begin perform set_config('session_authorization', 'stead_admin', false); exception when others then null; end;
    perform public.witness('after the escape');
end $$;
";

fn superuser_runs_no_code_of_a_tenants(engine: u32) {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    stead.start();
    let server = Database::up(&stead, "acme", engine, "", &[("0001.sql", "select 1;")]);
    server.sql(&format!("{WITNESS}{TRAPS}{LEDGER}")).unwrap();
    let app = stead.folder().join("acme");
    std::fs::write(app.join("schema/0002.sql"), HOSTILE).unwrap();
    let manifest = std::fs::read_to_string(app.join("stead.toml")).unwrap();
    std::fs::write(app.join("stead.toml"), format!("{manifest}extensions = {EXTENSIONS:?}\n")).unwrap();
    let up = outcome(&stead.run_in(&app, &["up", "--yes"]));
    stead.ok_in(&app, &["rotate"]);
    let server = Database::of(&stead, "acme", engine);
    let seen = server.sql("select distinct by from seen where superuser").unwrap();
    assert_eq!(seen, "", "a superuser ran these; {up:?}");
    up.unwrap();
    let made = server.sql("select count(*) from pg_extension where extname <> 'plpgsql'").unwrap();
    assert_eq!(made, EXTENSIONS.len().to_string());
    // The controls: the traps are where Stead went by, and the witness knows a superuser when it sees one.
    for trap in [
        "trigger of the ledger",
        "default of the ledger",
        "policy of the ledger",
        "migration",
        "after the escape",
    ] {
        let ran = server.sql(&format!(
            "select session_user_is from seen where by operator(pg_catalog.=) '{trap}' limit 1"
        ));
        assert_eq!(ran.unwrap(), "owner", "{trap}");
    }
    server.admin("select public.witness('control')").unwrap();
    assert_eq!(server.sql("select distinct by from seen where superuser").unwrap(), "control");
    stead.finish();
}

#[test]
fn superuser_runs_no_code_of_a_tenants_15() {
    superuser_runs_no_code_of_a_tenants(15);
}

#[test]
fn superuser_runs_no_code_of_a_tenants_16() {
    superuser_runs_no_code_of_a_tenants(16);
}

#[test]
fn superuser_runs_no_code_of_a_tenants_17() {
    superuser_runs_no_code_of_a_tenants(17);
}

#[test]
fn superuser_runs_no_code_of_a_tenants_18() {
    superuser_runs_no_code_of_a_tenants(18);
}

/// What else may stand in place of the ledger, and what of it Stead must live with.
#[test]
fn a_hostile_ledger_is_the_tenants_own_trouble() {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    stead.start();
    let server = Database::up(&stead, "acme", 18, "", &[("0001.sql", "select 1;")]);
    Database::up(&stead, "bolt", 18, "", &[("0001.sql", "select 1;")]);
    let app = stead.folder().join("acme");
    let neighbour = stead.folder().join("bolt");
    for (n, ledger) in [
        "view stead.migrations as select null::text as name, null::text as sha256, now() as applied_at",
        "view stead.migrations as select repeat('x', 10000000) || i as name, repeat('y', 10000000) as sha256, now() as applied_at from generate_series(1, 30) i",
        "view stead.migrations as select i::text as name, i::text as sha256, i as applied_at from generate_series(1, 100000000) i",
        "view stead.migrations as select name, 'x' as sha256, now() as applied_at from (select 1 / 0 as name) x",
        "view stead.migrations as select 'x' as word",
        "view stead.migrations as select name, 'x' as sha256, now() as applied_at from (select pg_sleep(100000)::text as name) x",
        "function stead.flood() returns text language plpgsql as $f$ begin loop raise notice '%', repeat('n', 1000000); end loop; end $f$;
         create view stead.migrations as select stead.flood() as name, 'x' as sha256, now() as applied_at",
        "function stead.scream() returns text language plpgsql as $f$ begin raise exception '%', repeat('e', 10000000); end $f$;
         create view stead.migrations as select stead.scream() as name, 'x' as sha256, now() as applied_at",
    ]
    .iter()
    .enumerate()
    {
        let script = format!("begin; drop schema stead cascade; create schema stead; create {ledger}; commit");
        // Stead may be making its own at the same moment.
        until("the trap", || server.sql(&script).ok());
        std::fs::write(app.join("schema/0002.sql"), format!("select {n};")).unwrap();
        // It is tried and not waited for: the neighbour is served at the same time.
        let _ = stead.run_in(&app, &["up", "--yes", "--wait", "1s"]);
        std::fs::write(neighbour.join(format!("schema/1{n}.sql")), "select 1;").unwrap();
        stead.ok_in(&neighbour, &["up", "--yes"]);
        let told = stead.run_in(&app, &["status"]);
        assert!(text(&told.stdout).len() < 20_000, "{ledger}");
    }
    // What was in the way of it is gone, and so is the trouble.
    server.sql("drop schema stead cascade").unwrap();
    until("the tenant's own server", || outcome(&stead.run_in(&app, &["up", "--yes", "--wait", "20s"])).ok());
    let log = std::fs::metadata(stead.folder().join("server.log")).unwrap().len();
    assert!(log < 5_000_000, "what tenants say does not fill the control plane's log: {log}");
    stead.finish();
}
