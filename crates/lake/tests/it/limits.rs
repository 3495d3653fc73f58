//! What a statement may do and use.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use futures::{StreamExt, pin_mut};
use serde_json::json;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::support::{Lake, connect, count, said};

pub(crate) const LONG: &str = "select count(*) from generate_series(1, 100000000000) t(a) where a % 7 = 8";

#[tokio::test]
async fn nothing_is_written_and_no_file_is_named() {
    let lake = Lake::start().await;
    lake.table("public", "flights").await.append(0..10).await;
    let client = lake.client().await;
    for sql in [
        "insert into flights values (1, 'x')",
        "update flights set value = 'x'",
        "delete from flights",
        "truncate flights",
        "drop table flights",
        "create table t (a int)",
        "create table t as select * from flights",
        "create view v as select 1",
        "create schema s",
        "create external table t stored as parquet location '/etc'",
        "copy flights to '/tmp/x'",
        "copy flights to program 'true'",
        "copy flights from stdin",
        "copy flights from '/etc/passwd'",
        "copy (delete from flights returning id) to stdout",
        "copy (select * into t from flights) to stdout",
        "select * into t from flights",
        "explain analyze insert into flights values (1, 'x')",
        "prepare p as insert into flights values (1, 'x')",
        "select * from '/etc/passwd'",
        "select * from \"/etc/passwd\"",
        "select * from \"../public/flights\"",
        "select * from read_csv('/etc/passwd')",
        "select pg_read_file('/etc/passwd')",
        "select repeat('x', 2000000000)",
        "select range(1, 100000000000)",
        "select array_repeat(1, 100000000000)",
        "set datafusion.execution.target_partitions = 1000",
        "set memory_limit = 1",
        "set search_path = other",
        "set role other",
    ] {
        let simple = client.batch_execute(sql).await.unwrap_err();
        let extended = client.query(sql, &[]).await.unwrap_err();
        assert!(simple.as_db_error().is_some() && extended.as_db_error().is_some(), "{sql}: {simple:?}");
    }
    for (sql, named) in [
        ("insert into flights values (1, 'x')", "INSERT"),
        ("copy flights from stdin", "COPY FROM"),
        ("copy flights to '/tmp/x'", "COPY TO a file"),
        ("copy flights to program 'true'", "COPY TO PROGRAM"),
    ] {
        let (code, message) = said(&client.batch_execute(sql).await.unwrap_err());
        assert!(code == "25006" && message.contains(&format!(": {named} is not done")), "{code} {message}");
    }
    assert_eq!(count(&client, "select count(*) from flights").await, 10);
}

#[tokio::test]
async fn what_drivers_say_when_they_connect_is_taken() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    for sql in [
        "set extra_float_digits = 3",
        "set application_name = 'x'",
        "set client_encoding to 'UTF8'",
        "set names 'utf8'",
        "set session characteristics as transaction read only",
        "set time zone 'UTC'",
        "set statement_timeout = '5s'",
        "begin; select 1; commit",
        "set search_path to public",
        "begin read only",
        "rollback",
        "show transaction_isolation",
        "show server_version",
        "reset all",
        "discard all",
        "deallocate all",
        "",
        ";",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client.execute("set datestyle = 'ISO'", &[]).await.unwrap();
    client.execute("begin", &[]).await.unwrap();
    client.query("select nothing", &[]).await.unwrap_err();
    assert_eq!(said(&client.query("select 1", &[]).await.unwrap_err()).0, "25P02");
    client.execute("rollback", &[]).await.unwrap();
    assert_eq!(count(&client, "select 1::bigint").await, 1);
}

#[tokio::test]
async fn mistakes_are_told_and_the_session_goes_on() {
    let lake = Lake::start().await;
    lake.table("public", "flights").await.append(0..10).await;
    let client = lake.client().await;
    for (sql, code, part) in [
        ("selec 1", "42601", "selec"),
        ("select * from flihgts", "42P01", "\"flights\""),
        ("select valeu from flights", "42703", "valeu"),
        ("select nofunction(1)", "42883", "nofunction"),
        ("select 1 / 0", "22012", "division by zero"),
        ("select 'x'::bigint", "22P02", "x"),
        ("select 'open", "42601", "nterminated"),
    ] {
        for error in [client.simple_query(sql).await.unwrap_err(), client.query(sql, &[]).await.unwrap_err()]
        {
            let (found, message) = said(&error);
            assert!(found == code && message.contains(part), "{sql}: {found} {message}");
        }
    }
    assert_eq!(count(&client, "select count(*) from flights").await, 10);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended() {
    let lake = Lake::start_with(json!({"timeout_ms": 200})).await;
    let client = lake.client().await;
    for error in [client.simple_query(LONG).await.unwrap_err(), client.query(LONG, &[]).await.unwrap_err()] {
        let (code, message) = said(&error);
        assert!(code == "57014" && message.contains("timeout"), "{message}");
    }
    assert_eq!(count(&client, "select 1::bigint").await, 1);
}

#[tokio::test]
async fn a_statement_that_is_cancelled_is_ended() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    let token = client.cancel_token();
    let endless = "select a from generate_series(1, 100000000000) t(a)";
    for sql in [LONG, endless] {
        let cancelling = async {
            // It may not have begun yet.
            loop {
                token.cancel_query(NoTls).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let parameters = std::iter::empty::<&dyn ToSql>();
        let asking = async {
            let rows = client.query_raw(sql, parameters.map(|p| p as &dyn ToSql)).await?;
            pin_mut!(rows);
            while let Some(row) = rows.next().await {
                row?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        let ended = tokio::select! { asked = asking => asked, () = cancelling => unreachable!() };
        assert_eq!(
            said(&ended.unwrap_err()),
            ("57014".into(), "canceling statement due to user request".into())
        );
        // A request that came late is nobody's, or this one's.
        while client.query("select 1", &[]).await.is_err() {}
    }
}

#[tokio::test]
async fn a_statement_that_needs_too_much_memory_is_ended() {
    let lake = Lake::start_with(json!({"memory_bytes": 8 << 20})).await;
    let client = lake.client().await;
    let much = "select a, count(*) from generate_series(1, 10000000) t(a) group by a order by a desc";
    for error in [client.simple_query(much).await.unwrap_err(), client.query(much, &[]).await.unwrap_err()] {
        let (code, message) = said(&error);
        assert!(code == "53200" && message.contains("memory"), "{code} {message}");
    }
    assert_eq!(count(&client, "select 1::bigint").await, 1);
}

/// Fifty times what the statement may keep.
#[tokio::test]
async fn rows_are_sent_as_they_are_made() {
    let lake = Lake::start_with(json!({"memory_bytes": 1 << 20})).await;
    let client = lake.client().await;
    let before = resident();
    let sql = "select a, 'some text that makes it longer' from generate_series(1, 2000000) t(a)";
    let rows = client.query_raw(sql, std::iter::empty::<&dyn ToSql>()).await.unwrap();
    pin_mut!(rows);
    let mut count = 0;
    while let Some(row) = rows.next().await {
        row.unwrap();
        count += 1;
    }
    assert_eq!(count, 2_000_000);
    let grown = peak() - before;
    assert!(grown < 100 << 20, "{grown} bytes more");
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

pub(crate) fn resident() -> u64 {
    status("VmRSS")
}

pub(crate) fn peak() -> u64 {
    status("VmHWM")
}

#[tokio::test]
async fn portals_are_read_in_parts() {
    let lake = Lake::start().await;
    let mut client = lake.client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("select a from generate_series(1, 25) t(a)", &[]).await.unwrap();
    let mut counts = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 10).await.unwrap();
        counts.push(rows.len());
        if rows.len() < 10 {
            break;
        }
    }
    assert_eq!(counts, [10, 10, 5]);
    let portal = transaction.bind("select a from generate_series(1, 25) t(a)", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, i32::MAX).await.unwrap().len(), 25);
}

#[tokio::test]
async fn cursors_are_fetched_in_parts() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    let rows = async |sql: &str| {
        let messages = client.simple_query(sql).await.unwrap();
        messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count()
    };
    client
        .batch_execute("begin; declare c cursor for select a from generate_series(1, 25) t(a)")
        .await
        .unwrap();
    assert_eq!(rows("fetch 10 from c").await, 10);
    assert_eq!(rows("fetch forward 10 from c").await, 10);
    assert_eq!(rows("fetch next from c").await, 1);
    assert_eq!(rows("fetch all from c").await, 4);
    assert_eq!(rows("fetch 1000000000 from c").await, 0);
    client.batch_execute("close c; commit").await.unwrap();
    assert_eq!(said(&client.simple_query("fetch 1 from c").await.unwrap_err()).0, "34000");
}

/// Parsed and planned by functions that call themselves.
#[test]
fn a_deep_statement_ends_no_process() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_stack_size(lake::STACK).build().unwrap();
    let asked = runtime.spawn(async {
        let lake = Lake::start().await;
        let client = lake.client().await;
        let long = |count| format!("select {}1", "1 + ".repeat(count));
        client.simple_query(&long(380)).await.unwrap();
        assert_eq!(said(&client.simple_query(&long(5_000)).await.unwrap_err()).0, "54001");
        let deep = format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000));
        let _ = client.simple_query(&deep).await;
        assert_eq!(count(&client, "select 1::bigint").await, 1);
    });
    runtime.block_on(asked).unwrap();
}

#[tokio::test]
async fn there_are_so_many_sessions_and_no_more() {
    let lake = Lake::start_with(json!({"sessions": 2})).await;
    let (first, second) = (lake.client().await, lake.client().await);
    assert_eq!(said(&connect(&lake.config()).await.unwrap_err()).0, "53300");
    drop(first);
    // The place is free once the session has noticed.
    while connect(&lake.config()).await.is_err() {}
    assert_eq!(count(&second, "select 1::bigint").await, 1);
}

#[tokio::test]
async fn garbage_is_answered_and_sent_away() {
    let lake = Lake::start().await;
    let mut packets: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![255; 64],
        [&8_i32.to_be_bytes()[..], &80_877_103_i32.to_be_bytes()].concat(),
        [&9_i32.to_be_bytes()[..], &196_608_i32.to_be_bytes(), &[0]].concat(),
    ];
    // A message after a startup packet that is right, before the sign-in.
    let startup = b"user\0ann\0database\0lake\0\0";
    let length = i32::try_from(startup.len() + 8).unwrap();
    let mut early = [&length.to_be_bytes()[..], &196_608_i32.to_be_bytes(), startup].concat();
    early.extend(b"Q\0\0\0\x0dselect 1\0");
    packets.push(early);
    for packet in packets {
        let mut stream = UnixStream::connect(lake.socket()).unwrap();
        stream.write_all(&packet).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let read = tokio::task::spawn_blocking(move || stream.read_to_end(&mut answer).map(|_| answer));
        let answer = read.await.unwrap().unwrap_or_default();
        assert!(!answer.windows(5).any(|part| part == b"Z\0\0\0\x05"), "{packet:?} was let in: {answer:?}");
    }
    assert_eq!(count(&lake.client().await, "select 1::bigint").await, 1);
}

#[tokio::test]
async fn sessions_are_told_that_the_service_stops() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    let (asked, ()) = tokio::join!(client.query(LONG, &[]), lake.stop());
    assert_eq!(said(&asked.unwrap_err()).0, "57P01");
}
