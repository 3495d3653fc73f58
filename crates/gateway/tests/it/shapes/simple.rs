//! Scripts of simple queries: statements, notices, errors, transactions, COPY and what is said unasked.

use super::script::Script;

/// Statements, sessions' settings, and what they announce.
pub(super) fn statements() -> Vec<Script> {
    vec![
        Script::new("several statements in one query")
            .ask("select 1; select 'two' as b, null; ; insert into t values (1, 'a'); select * from t;")
            .ask("insert into t values (2, 'b'); select 1 / 0; select 3")
            .ask("select count(*) from t; begin; select 1; rollback; select 2")
            .ask("update t set x = 'c' returning *; delete from t; table t"),
        Script::new("empty queries").ask_all(["", ";", " -- a remark", "/* another */ ;;"]),
        Script::new("notices")
            .ask("do $$ begin raise notice 'one'; end $$; select 1")
            .ask("do $$ begin raise warning 'two %', 2 using detail = 'd', hint = 'h'; end $$")
            .ask("do $$ begin raise info 'i'; raise notice '\u{e9} %', repeat('x', 20000); end $$; select 1")
            .ask("set client_min_messages = error; do $$ begin raise warning 'unheard'; end $$; reset all")
            .ask("do $$ begin raise exception 'no' using errcode = 'P0042', table = 't'; end $$")
            .ask_all(["drop table if exists absent", "commit", "select pg_advisory_unlock(1)"]),
        Script::new("errors at every phase").ask_all([
            "selec 1",
            "select absent",
            "select * from absent",
            "select 'x",
            "select 'x'::int",
            "select 1 / (2 - n) from generate_series(1, 3) n",
            "insert into t values (1, 'a'), (1, 'b')",
            "insert into once values (1), (1)",
            "begin; insert into once values (1), (1)",
            "commit",
            "select '-1'::int::positive",
            "select repeat('x', -1), U&'\\zzzz'",
        ]),
        Script::new("transaction states").ask_all([
            "begin",
            "select 1",
            "select 1 / 0",
            "select 2",
            "commit",
            "begin isolation level serializable read only",
            "insert into t values (1, 'a')",
            "rollback and chain",
            "show transaction_isolation",
            "rollback",
            "rollback",
            "begin; begin; select 1",
            "commit and chain",
            "rollback",
        ]),
        Script::new("savepoints").ask_all([
            "savepoint s",
            "begin; savepoint s; insert into t values (1, 'a'); savepoint s",
            "insert into t values (1, 'again')",
            "rollback to s",
            "insert into t values (2, 'b'); release s",
            "rollback to absent",
            "rollback to s",
            "commit; table t",
        ]),
        Script::new("two-phase commit").ask_all([
            "begin; insert into t values (1, 'a'); prepare transaction 'one'",
            "begin; insert into t values (2, 'b'); prepare transaction 'two'",
            "select gid from pg_prepared_xacts order by gid",
            "commit prepared 'one'; select 1",
            "commit prepared 'one'",
            "table t",
            "commit prepared 'one'",
            "commit prepared 'two'",
            "rollback prepared 'two'",
            "rollback prepared 'three'",
            "table t",
        ]),
        Script::new("advisory locks").ask_all([
            "select pg_advisory_lock(7), pg_advisory_lock(1, 2), pg_try_advisory_lock(7)",
            "select classid, objid, mode from pg_locks where locktype = 'advisory' order by 1, 2",
            "select pg_advisory_unlock(7), pg_advisory_unlock(7), pg_advisory_unlock(7)",
            "begin; select pg_advisory_xact_lock(8); commit; select pg_advisory_unlock(8)",
            "select pg_advisory_unlock_all()",
        ]),
        Script::new("listen and notify").ask_all([
            "listen news; listen \"Other News\"",
            "notify news",
            "notify news, 'a payload \u{e9}'; notify \"Other News\", 'x'; notify silence, 'y'",
            "begin; notify news, 'at commit'; notify news, 'at commit'; select 1",
            "commit",
            "begin; notify news, 'never'; rollback",
            "select pg_notify('news', repeat('x', 7000))",
            "select pg_notify('news', repeat('x', 9000))",
            "select pg_listening_channels() order by 1",
            "unlisten *; notify news",
        ]),
        Script::new("announced settings")
            .ask_all([
                "set timezone to 'Europe/Berlin'; select '2024-07-01 12:00+00'::timestamptz",
                "set application_name to 'another'; set datestyle to 'SQL, DMY'",
                "set intervalstyle to iso_8601",
                "begin; set local timezone to 'UTC'; set standard_conforming_strings to off",
                "rollback",
                "set timezone to 'Nowhere/Land'",
                "set client_encoding to latin1",
                "select '\u{20ac}'",
            ])
            .message(b'Q', b"select '\xe9', length('\xe9'), U&'\\00e9', convert_to('\xe9', 'UTF8')\0")
            .until(b'Z', 1)
            .ask_all(["select U&'\\20ac'", "set client_encoding to utf8; select U&'\\20ac'"])
            .message(b'Q', b"select '\xe9'\0")
            .until(b'Z', 1)
            .ask_all(["set search_path to pg_catalog", "reset all", "discard all", "show application_name"]),
        Script::new("cursors").ask_all([
            "declare early cursor for select 1",
            "begin; declare c scroll cursor with hold for select n from generate_series(1, 10) n",
            "fetch 3 c; fetch backward 2 c; fetch absolute -1 c; fetch prior c; move 2 c; fetch first c",
            "declare forward no scroll cursor for select generate_series(1, 3); fetch 1 forward; savepoint s",
            "fetch backward 1 forward",
            "rollback to s; commit",
            "fetch relative 2 c; fetch all c; fetch next c; fetch backward all c",
            "close c; close c",
            "begin; declare u cursor for select * from t for update; fetch u; close all; commit",
        ]),
        Script::new("prepared statements in sql").ask_all([
            "prepare p (int, text) as select $1 + 1, $2",
            "execute p (1, 'a'); execute p (null, null)",
            "execute p (1)",
            "explain (costs off) execute p (1, 'b')",
            "deallocate p; execute p (1, 'a')",
        ]),
        Script::new("large objects").ask_all([
            "select lo_create(4711), lo_from_bytea(4712, '\\x0102')",
            "select lo_put(4711, 3, '\\xdeadbeef'), lo_put(4711, 100000, '\\xff')",
            "select lo_get(4711, 0, 10), length(lo_get(4711)), lo_get(4712)",
            "begin; select lo_open(4711, 131072 + 262144); select lowrite(0, '\\x41'), lo_lseek(0, 0, 0)",
            "select loread(0, 8), lo_tell(0), lo_truncate(0, 5), lo_close(0); commit",
            "select lo_get(4713)",
            "select lo_import('/etc/passwd')",
            "select lo_import('/etc/passwd', 4714)",
            "select lo_create(4711)",
            "select lo_unlink(4711), lo_unlink(4712)",
        ]),
        Script::new("a session that is ended")
            .ask("select 1")
            .query("select pg_terminate_backend(pg_backend_pid())")
            .closed(),
        Script::new("pipelined simple queries")
            .query("select 1")
            .query("begin; select 1 / 0")
            .query("select 2")
            .query("rollback")
            .query("")
            .query("select 3")
            .answered(),
    ]
}

/// The bytes of a binary COPY of `t`: its signature, one row, a null, and the end.
const BINARY: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\
    \0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x03abc\
    \0\x02\0\0\0\x04\0\0\0\x08\xff\xff\xff\xff\
    \xff\xff";

/// COPY, both ways, in text and in binary, to a good end and to a bad one.
pub(super) fn copies() -> Vec<Script> {
    let fill = "insert into t select n, case when n % 3 = 0 then null else E'a\\tb\\\\' || n end \
                from generate_series(1, 9) n";
    let copy = "copy t from stdin";
    vec![
        Script::new("copy out")
            .ask(fill)
            .ask("copy t to stdout; copy t to stdout (format csv, header, null 'none'); select 1")
            .ask("copy t to stdout (format binary)")
            .ask("copy (select 6 / (3 - n) from generate_series(1, 5) n) to stdout")
            .ask("copy (select n, repeat('x', n) from generate_series(1, 2000) n) to stdout")
            .ask("copy t to '/tmp/never'"),
        Script::new("copy in, text")
            .query(copy)
            .until(b'G', 1)
            .copy_data(b"1\ta\n2\t\\N\n3")
            .copy_data(b"\tcut in two\n")
            .copy_data(b"")
            .copy_done()
            .answered()
            .ask("table t"),
        Script::new("copy in, csv, before the server asks")
            .query("copy t from stdin (format csv, header); select 'after'")
            .copy_data(b"n,x\n1,\"a \"\"b\"\"\nc\"\n2,\n")
            .copy_done()
            .query("table t")
            .answered(),
        Script::new("copy in, binary")
            .query("copy t from stdin (format binary)")
            .until(b'G', 1)
            .copy_data(&BINARY[..21])
            .copy_data(&BINARY[21..])
            .copy_done()
            .answered()
            .ask("table t"),
        Script::new("copy in, binary, without its signature")
            .query("copy t from stdin (format binary)")
            .until(b'G', 1)
            .copy_data(&BINARY[1..])
            .copy_done()
            .answered()
            .ask("table t"),
        Script::new("copy in, given up")
            .query(copy)
            .until(b'G', 1)
            .copy_data(b"1\ta\n")
            .copy_fail("no more of it")
            .answered()
            .ask("table t"),
        Script::new("copy in, an error in the data")
            .query(copy)
            .until(b'G', 1)
            .copy_data(b"1\ta\nx\tb\n")
            .copy_data(&b"2\tmore\n".repeat(3000))
            .copy_done()
            .answered()
            .ask("begin; select 1")
            .query(copy)
            .until(b'G', 1)
            .copy_data(b"1\ta\n1\tb\n")
            .copy_done()
            .answered()
            .ask("commit; table t"),
        Script::new("copy in, in the extended protocol")
            .parse("", copy)
            .bind("", "", &[], &[])
            .execute("", 0)
            .flush()
            .until(b'G', 1)
            .copy_data(b"1\ta\n")
            .copy_done()
            .sync()
            .answered()
            .run("copy t to stdout", &[])
            .run("table t", &[])
            .sync()
            .answered(),
    ]
}

/// What a server answers by an error and a close, with so many bytes of the client behind it.
pub(super) fn hung_up_on(unread: usize) -> Script {
    let script = Script::new("a message of no type").ask("select 1");
    script.message(b'!', b"what").bytes(&vec![b'x'; unread]).closed()
}
