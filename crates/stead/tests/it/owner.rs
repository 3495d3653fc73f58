//! What a server's owner may not do: read files, run programs, become a superuser, disturb Stead. Every
//! attempt is made over psql through the gateway, and again as Stead's own superuser, so that an attempt that
//! is refused for another reason than who makes it cannot pass unseen.

use std::collections::BTreeMap;

use crate::database::{Database, feed};
use crate::installation::Installation;

/// Not the owner's to do.
const DENIED: &str = "42501";
/// Works.
const OK: &str = "00000";
/// `create extension` and `create language` of what the engine does not come with, in old and new words.
const ABSENT: &str = "0A000 58P01";

/// One attempt: SQL (`\;` joins what is sent as one), what the owner is told, what the superuser is told.
/// Several SQLSTATEs, where engines differ, are separated by spaces; no second one means that the attempt
/// would do harm if it worked.
type Attempt = (&'static str, &'static str, &'static str);

/// Reading and writing files, running programs.
const FILES: &[Attempt] = &[
    ("copy attempt from '/etc/passwd'", DENIED, OK),
    ("copy attempt to '/tmp/attempt'", DENIED, OK),
    ("copy attempt from program 'id'", DENIED, OK),
    ("copy attempt to program 'cat >/dev/null'", DENIED, OK),
    ("select pg_read_file('PG_VERSION')", DENIED, OK),
    ("select pg_read_file('/etc/passwd', 0, 10)", DENIED, OK),
    ("select pg_read_binary_file('PG_VERSION')", DENIED, OK),
    ("select pg_stat_file('PG_VERSION')", DENIED, OK),
    ("select pg_ls_dir('.')", DENIED, OK),
    ("select pg_ls_logdir()", DENIED, OK),
    ("select pg_ls_waldir()", DENIED, OK),
    ("select pg_ls_tmpdir()", DENIED, OK),
    ("select pg_ls_archive_statusdir()", DENIED, OK),
    ("select pg_current_logfile()", DENIED, OK),
    ("select pg_hba_file_rules()", DENIED, OK),
    ("select pg_ident_file_mappings()", DENIED, OK),
    ("select pg_show_all_file_settings()", DENIED, OK),
    ("select pg_config()", DENIED, OK),
    ("show data_directory", DENIED, OK),
    ("select current_setting('hba_file')", DENIED, OK),
    ("select lo_import('/etc/passwd')", DENIED, OK),
    ("select lo_from_bytea(4242, 'x') \\; select lo_export(4242, '/tmp/attempt')", DENIED, OK),
    ("create tablespace attempt location '/tmp'", DENIED, ""),
    ("select pg_control_system()", OK, OK),
];

/// Code that is not SQL or PL/pgSQL.
const CODE: &[Attempt] = &[
    ("create extension file_fdw", DENIED, OK),
    ("create extension dblink", DENIED, "00000 58P01"),
    ("create extension postgres_fdw", DENIED, "00000 58P01"),
    ("create extension pageinspect", DENIED, OK),
    ("create extension pg_surgery", DENIED, OK),
    ("create extension adminpack", "42501 0A000 58P01", "00000 0A000 58P01"),
    // Not even the superuser could: what runs anything is not there.
    ("create extension plperlu", "42501 0A000 58P01", ABSENT),
    ("create extension plpython3u", "42501 0A000 58P01", ABSENT),
    ("create extension pltclu", "42501 0A000 58P01", ABSENT),
    ("create language plperlu", "42501 0A000 58P01", ABSENT),
    ("create language plpython3u", "42501 0A000 58P01", ABSENT),
    ("create extension jsonb_plpython3u cascade", "42501 0A000 58P01", ABSENT),
    ("create language attempt handler plpgsql_call_handler", DENIED, OK),
    (
        "create function attempt() returns int language c as '$libdir/plpgsql', 'plpgsql_call_handler'",
        DENIED,
        OK,
    ),
    ("create function attempt() returns int language c as '/stead/data/evil', 'evil'", DENIED, "58P01"),
    ("create function attempt(float8) returns void language internal as 'pg_sleep'", DENIED, OK),
    (
        "create or replace function plpgsql_call_handler() returns language_handler language internal as 'pg_sleep'",
        DENIED,
        "",
    ),
    ("load 'plpgsql'", DENIED, OK),
    ("load '/stead/data/evil.so'", DENIED, "58P01"),
    ("load '$libdir/plugins/../plpgsql'", DENIED, ""),
    (
        "create function attempt() returns event_trigger language plpgsql as 'begin end' \\; create event trigger attempt on ddl_command_start execute function attempt()",
        DENIED,
        OK,
    ),
    ("create access method attempt type index handler bthandler", DENIED, OK),
    ("create foreign data wrapper attempt", DENIED, OK),
    (
        "create operator class attempt for type int using btree as operator 1 <(int, int), function 1 btint4cmp(int, int)",
        DENIED,
        OK,
    ),
    (
        "create type attempt_kind as (a int) \\; create cast (int as attempt_kind) without function",
        DENIED,
        "42P17",
    ),
    (
        "create text search parser attempt (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
        DENIED,
        OK,
    ),
    ("create transform for int language sql (from sql with function prsd_lextype(internal))", DENIED, ""),
    ("set allow_system_table_mods = on", DENIED, OK),
    ("update pg_catalog.pg_proc set prosrc = 'x' where false", DENIED, OK),
    ("update pg_catalog.pg_language set lanpltrusted = true where false", DENIED, OK),
    ("create function pg_catalog.attempt() returns int language sql as 'select 1'", DENIED, OK),
    ("create table pg_catalog.attempt_table (x int)", DENIED, ""),
    ("alter extension plpgsql update", DENIED, OK),
    ("drop extension plpgsql cascade", DENIED, ""),
    ("alter function pg_catalog.lower(text) owner to owner", DENIED, ""),
];

/// Becoming somebody else.
const ROLES: &[Attempt] = &[
    ("alter role owner superuser", DENIED, OK),
    ("alter role owner createrole", DENIED, OK),
    ("alter role owner createdb", DENIED, OK),
    ("alter role owner replication", DENIED, OK),
    ("alter role owner bypassrls", DENIED, OK),
    ("create role attempt", DENIED, OK),
    ("create user attempt superuser", DENIED, OK),
    ("create database attempt", DENIED, ""),
    ("alter database main rename to attempt", "42501 55006", ""),
    ("drop database postgres", DENIED, ""),
    ("alter database main allow_connections false", "22023", ""),
    ("alter role stead_admin password 'attempt'", DENIED, OK),
    ("alter role stead_gateway password 'attempt'", DENIED, OK),
    ("alter role stead_gateway superuser", DENIED, OK),
    ("alter role stead_admin set search_path = public", DENIED, OK),
    ("drop role stead_gateway", DENIED, ""),
    ("grant stead_admin to owner", DENIED, OK),
    ("grant stead_gateway to owner", DENIED, OK),
    ("grant pg_execute_server_program to owner", DENIED, OK),
    ("grant pg_read_server_files to owner", DENIED, OK),
    ("grant pg_write_server_files to owner", DENIED, OK),
    ("grant pg_read_all_data to owner", DENIED, OK),
    ("grant pg_read_all_settings to owner", DENIED, OK),
    ("grant pg_signal_backend to owner", DENIED, OK),
    ("grant pg_monitor to owner", DENIED, OK),
    ("grant pg_read_all_stats to stead_gateway", DENIED, OK),
    ("set role stead_admin", DENIED, OK),
    ("set role stead_gateway", DENIED, OK),
    ("set session authorization stead_admin", DENIED, OK),
    ("select set_config('role', 'stead_admin', false)", DENIED, OK),
    ("reassign owned by stead_admin to owner", DENIED, ""),
    ("drop owned by stead_admin", DENIED, ""),
    ("alter table attempt owner to stead_admin", DENIED, OK),
    (
        "create function attempt() returns int language sql security definer as 'select 1' \\; alter function attempt() owner to stead_admin",
        DENIED,
        OK,
    ),
    ("create schema attempt authorization stead_admin", DENIED, OK),
    ("alter default privileges for role stead_admin grant execute on functions to owner", DENIED, OK),
    ("select rolpassword from pg_authid", DENIED, OK),
    ("select passwd from pg_shadow", DENIED, OK),
    ("grant select on pg_authid to owner", DENIED, OK),
];

/// Settings that run code or hide deeds.
const SETTINGS: &[Attempt] = &[
    ("alter system set work_mem = '1GB'", "42501 0A000", ""),
    ("alter system reset all", "42501 0A000", ""),
    ("alter database main set session_preload_libraries = 'plpgsql'", DENIED, OK),
    ("alter role owner set session_preload_libraries = 'plpgsql'", DENIED, OK),
    ("alter role all set search_path = public", DENIED, OK),
    ("alter database postgres set search_path = public", DENIED, OK),
    ("alter database template1 set search_path = public", DENIED, OK),
    ("alter role stead_admin in database main set search_path = public", DENIED, OK),
    ("grant set on parameter session_preload_libraries to owner", DENIED, OK),
    ("grant alter system on parameter work_mem to owner", DENIED, OK),
    ("set session_preload_libraries = 'plpgsql'", "42501 55P02", ""),
    ("set dynamic_library_path = '/stead/data'", DENIED, OK),
    ("set log_statement = 'none'", DENIED, OK),
    ("set log_min_messages = panic", DENIED, OK),
    ("set session_replication_role = replica", DENIED, OK),
    ("set temp_file_limit = -1", DENIED, OK),
    ("set max_stack_depth = '7MB'", DENIED, ""),
    ("set zero_damaged_pages = on", DENIED, OK),
    ("set update_process_title = off", DENIED, OK),
];

/// The server and its other sessions.
const SERVER: &[Attempt] = &[
    (
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'stead_admin' and application_name = 'held'",
        DENIED,
        "",
    ),
    (
        "select pg_cancel_backend(pid) from pg_stat_activity where usename = 'stead_admin' and application_name = 'held'",
        DENIED,
        "",
    ),
    (
        "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'logical replication launcher'",
        DENIED,
        "",
    ),
    // Not even found: only a warning, and false.
    (
        "select 1 / pg_terminate_backend(pid)::int from pg_stat_activity where backend_type = 'checkpointer'",
        "22012",
        "",
    ),
    ("select pg_reload_conf()", DENIED, OK),
    ("select pg_rotate_logfile()", DENIED, OK),
    ("select pg_switch_wal()", DENIED, OK),
    ("select pg_promote()", DENIED, ""),
    ("select pg_create_restore_point('attempt')", DENIED, OK),
    ("select pg_backup_start('attempt')", DENIED, ""),
    ("select pg_log_backend_memory_contexts(pg_backend_pid())", DENIED, OK),
    ("select pg_stat_reset_shared('bgwriter')", DENIED, OK),
    ("checkpoint", DENIED, OK),
    ("select pg_create_physical_replication_slot('attempt')", DENIED, ""),
    ("select pg_create_logical_replication_slot('attempt', 'pgoutput')", DENIED, ""),
    ("select pg_replication_origin_create('attempt')", DENIED, ""),
    ("create publication attempt for all tables", DENIED, OK),
    (
        "create subscription attempt connection 'host=/stead/run user=stead_admin' publication x with (connect = false)",
        DENIED,
        "",
    ),
];

const TABLES: &[(&str, &[Attempt])] =
    &[("files", FILES), ("code", CODE), ("roles", ROLES), ("settings", SETTINGS), ("server", SERVER)];

/// Runs every attempt in one session and answers the SQLSTATE of each.
fn states(psql: &mut std::process::Command, attempts: &[Attempt], wrap: bool) -> BTreeMap<usize, String> {
    let mut script = String::new();
    for (n, (sql, _, admin)) in attempts.iter().enumerate() {
        if wrap && admin.is_empty() {
            continue;
        }
        let (begin, rollback) = if wrap { ("begin;\n", "rollback;\n") } else { ("", "reset all;\n") };
        script += &format!("{begin}{sql};\n\\echo @@ {n} :SQLSTATE\n{rollback}");
    }
    let said = feed(psql.args(["-v", "VERBOSITY=verbose"]), &script).unwrap();
    said.lines()
        .filter_map(|line| line.strip_prefix("@@ ")?.split_once(' '))
        .map(|(n, state)| (n.parse().unwrap(), state.to_owned()))
        .collect()
}

/// Other roles, databases and ways of signing in: what is changed in the client's environment, and a part of
/// what it is told.
const DOORS: &[(&[(&str, &str)], &str)] = &[
    (&[("PGDATABASE", "postgres")], "pg_hba.conf rejects connection"),
    (&[("PGDATABASE", "template1")], "pg_hba.conf rejects connection"),
    (&[("PGDATABASE", "template0")], "not currently accepting connections"),
    (&[("PGUSER", "stead_admin")], "password authentication failed for user \"stead_admin\""),
    (&[("PGUSER", "stead_admin"), ("PGDATABASE", "postgres")], "password authentication failed"),
    (&[("PGUSER", "stead_gateway"), ("PGDATABASE", "postgres")], "password authentication failed"),
    (&[("PGUSER", "postgres")], "password authentication failed for user \"postgres\""),
    (&[("PGUSER", "nobody")], "password authentication failed for user \"nobody\""),
    (&[("PGUSER", "pg_read_all_stats")], "password authentication failed"),
    (&[("PGPASSWORD", "")], "password"),
    (&[("PGOPTIONS", "-c session_authorization=stead_admin")], "permission denied"),
    (&[("PGOPTIONS", "-c role=stead_admin")], "permission denied"),
    (&[("PGOPTIONS", "-c session_preload_libraries=plpgsql")], "permission denied"),
    (&[("PGOPTIONS", "-c local_preload_libraries=../plpgsql")], "access to library"),
    (&[("PGOPTIONS", "-c log_connections=off")], "permission denied"),
    (&[("PGOPTIONS", "-c session_replication_role=replica")], "permission denied"),
    (&[("PGOPTIONS", "-c config_file=/stead/data/x")], "cannot be changed"),
    (&[("PGOPTIONS", "-c ignore_system_indexes=on -P")], ""),
];

/// Tries every door as a client that has the owner's password.
fn doors(server: &Database) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut tried = |what: String, told: Result<String, String>, wanted: &str| match told {
        Err(said) if said.contains(wanted) => {}
        told if wanted.is_empty() && told.as_ref().map_or(true, |is| is == "owner off") => {}
        told => wrong.push(format!("{what}: {told:?}, not {wanted}")),
    };
    for (changed, wanted) in DOORS {
        let mut psql = server.psql();
        psql.envs(changed.iter().copied());
        let told = feed(&mut psql, "select current_user, current_setting('is_superuser')")
            .map(|is| is.replace('|', " "));
        tried(format!("{changed:?}"), told, wanted);
    }
    for (kind, wanted) in [
        ("database", "permission denied to start WAL sender"),
        ("true", "no pg_hba.conf entry for replication"),
    ] {
        let mut psql = server.psql();
        psql.arg(format!("replication={kind}"));
        let told = feed(&mut psql, "IDENTIFY_SYSTEM;");
        let older = told.as_ref().is_err_and(|said| said.contains("must be superuser or replication role"));
        tried(format!("replication={kind}"), told, if older { "" } else { wanted });
    }
    let mut backup = server.program("pg_basebackup");
    backup.args(["-D", "-", "-Ft", "-X", "none"]);
    tried(
        "pg_basebackup".into(),
        feed(&mut backup, "").map(|_| "everything".into()),
        "no pg_hba.conf entry for replication",
    );
    wrong
}

/// What an owner can do to itself is taken back, so that Stead is not kept out for ever.
fn barred(stead: &Installation, server: &Database) {
    for bar in [
        "alter database main connection limit 0",
        "alter database main is_template true",
        "alter database main set local_preload_libraries = 'nothing'",
        "alter role owner set local_preload_libraries = 'nothing'",
        "alter role owner in database main set local_preload_libraries = 'nothing'",
        "alter database main set role = pg_read_all_stats",
        "alter role owner password null",
        // Up to 15 everybody may hand on its own membership; from 16 on nobody may. It is taken back, too.
        "do $$ begin grant owner to stead_gateway; exception when insufficient_privilege then null; end $$",
    ] {
        Database::of(stead, "acme", server.engine).sql(bar).unwrap();
        stead.ok_in(&stead.folder().join("acme"), &["rotate"]);
        let who = Database::of(stead, "acme", server.engine).sql("select current_user");
        assert_eq!(who.as_deref(), Ok("owner"), "{bar}");
    }
    let members = "select count(*) from pg_auth_members where 'owner'::regrole in (roleid)";
    assert_eq!(server.admin(members).unwrap(), "0", "nobody is the owner but the owner");
}

fn owner_is_only_an_owner(engine: u32) {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    stead.start();
    let server =
        Database::up(&stead, "acme", engine, "", &[("0001.sql", "create table attempt (line text);")]);
    let mut held = server.admin_psql();
    held.env("PGAPPNAME", "held").args(["-c", "select pg_sleep(600)"]);
    let mut held = held.spawn().unwrap();
    crate::installation::until("Stead's session", || {
        let there = server.sql("select 1 from pg_stat_activity where application_name = 'held'").unwrap();
        (there == "1").then_some(())
    });
    let mut wrong = Vec::new();
    for (table, attempts) in TABLES {
        let owner = states(&mut server.psql(), attempts, false);
        let admin = states(&mut server.admin_psql(), attempts, true);
        for (n, (sql, wanted, control)) in attempts.iter().enumerate() {
            let told = owner.get(&n).map_or("the session ended", String::as_str);
            if !wanted.split(' ').any(|state| state == told) {
                wrong.push(format!("{table}: {sql}: the owner got {told}, not {wanted}"));
            }
            let told = admin.get(&n).map_or("", String::as_str);
            if !control.split(' ').any(|state| state == told) {
                wrong.push(format!("{table}: {sql}: the control got {told}, not {control}"));
            }
        }
    }
    held.kill().unwrap();
    held.wait().unwrap();
    wrong.extend(doors(&server));
    assert!(wrong.is_empty(), "engine {engine}:\n{}", wrong.join("\n"));
    // Membership is another matter from 16 on; the rest is the same in all.
    if [15, 18].contains(&engine) {
        barred(&stead, &server);
    }
    stead.finish();
}

#[test]
fn owner_is_only_an_owner_15() {
    owner_is_only_an_owner(15);
}

#[test]
fn owner_is_only_an_owner_16() {
    owner_is_only_an_owner(16);
}

#[test]
fn owner_is_only_an_owner_17() {
    owner_is_only_an_owner(17);
}

#[test]
fn owner_is_only_an_owner_18() {
    owner_is_only_an_owner(18);
}
