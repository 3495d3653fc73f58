//! Answers as files: by the real psql, read by those who know nothing of the lake.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use futures::{StreamExt, pin_mut};
use serde_json::{Value, json};
use test_support::{Cluster, installed};
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::limits::{LONG, peak, resident};
use crate::support::{Lake, PASSWORD, count, said};

/// Values that are easily spoilt, and the types that a transfer writes.
const ODD: &str = "select * from (values
    (1, arrow_cast('12.50', 'Decimal128(10, 2)'), arrow_cast('2026-01-02T03:04:05.678901', 'Timestamp(Microsecond, Some(\"UTC\"))'),
     date '2026-01-02', 'a \"b\", c', '', true, 0.1::double precision, arrow_cast('abc', 'Binary'), make_array(1, null, 3)),
    (2, arrow_cast('-0.07', 'Decimal128(10, 2)'), null, null, 'two\nlines\t\\', 'é', false, null, arrow_cast('', 'Binary'), null),
    (3, null, arrow_cast('1969-12-31T23:59:59', 'Timestamp(Microsecond, Some(\"UTC\"))'), date '1969-12-31', '\\.', null, null,
     -1e300, null, make_array()))
    t(id, price, at, day, what, empty, yes, part, bytes, list)";

async fn psql(lake: &Lake, sql: &str, to: &Path) -> Output {
    let mut psql = Command::new("psql");
    psql.env("PGPASSWORD", PASSWORD)
        .env("PGUSER", "ann")
        .env("PGHOST", lake.home())
        .env("PGDATABASE", "lake")
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    psql.stdin(Stdio::null()).stdout(File::create(to).unwrap()).stderr(Stdio::piped());
    psql.spawn().unwrap().wait_with_output().await.unwrap()
}

/// A file with the answer.
async fn file(lake: &Lake, question: &str, options: &str) -> PathBuf {
    let path = lake.home().join("file");
    let output = psql(lake, &format!("copy ({question}) to stdout {options}"), &path).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{options}: {errors}");
    path
}

/// What another reader finds in a file; nothing where none is installed.
async fn read(by: &str, form: &str, path: &Path, more: &[&str]) -> Option<String> {
    let python = installed("STEAD_TEST_PYTHON", "python/bin/python")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/read.py");
    let read = Command::new(python).args([script, by, form]).arg(path).args(more).output().await.unwrap();
    assert!(read.status.success(), "{by} {form}: {}", String::from_utf8_lossy(&read.stderr));
    Some(String::from_utf8(read.stdout).unwrap())
}

#[tokio::test]
async fn other_readers_find_the_same_values() {
    let lake = Lake::start().await;
    let wanted = [
        json!([
            "1",
            "12.50",
            "2026-01-02 03:04:05.678901+00:00",
            "2026-01-02",
            "a \"b\", c",
            "",
            "True",
            "0.1",
            "\\x616263",
            ["1", null, "3"]
        ]),
        json!(["2", "-0.07", null, null, "two\nlines\t\\", "é", "False", null, "\\x", null]),
        json!(["3", null, "1969-12-31 23:59:59+00:00", "1969-12-31", "\\.", null, null, "-1e+300", null, []]),
    ];
    for form in ["arrow", "parquet"] {
        let path = file(&lake, ODD, &format!("(format {form})")).await;
        for by in ["pyarrow", "duckdb"] {
            let Some(text) = read(by, form, &path, &[]).await else { return };
            let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(found, wanted, "{form} by {by}");
        }
        // Nothing is in it, but its columns are.
        let path = file(&lake, &format!("{ODD} where false"), &format!("(format {form})")).await;
        assert_eq!(read("duckdb", form, &path, &[]).await.as_deref(), Some(""));
    }
    let words = "select id, what, empty from (select * from (values (1, 'a \"b\", c', ''), (2, 'two\nlines', null)) t(id, what, empty)) t";
    let path = file(&lake, words, "(format csv, header)").await;
    for by in ["pyarrow", "duckdb"] {
        let text = read(by, "csv", &path, &[]).await.unwrap();
        assert_eq!(text, "[\"1\", \"a \\\"b\\\", c\", \"\"]\n[\"2\", \"two\\nlines\", null]\n", "{by}");
    }
}

/// PostgreSQL reads its own three forms, and has then what a `select` of the lake shows.
#[tokio::test]
async fn postgresql_reads_what_the_lake_wrote() {
    let lake = Lake::start().await;
    let server = Cluster::start(15).await;
    let there = server.connect("postgres").await;
    there
        .batch_execute(
            "set timezone = 'UTC'; create table odd (id int8, price numeric, at timestamptz, day date, what text,
             empty text, yes bool, part float8, bytes bytea, list int8[])",
        )
        .await
        .unwrap();
    let rows = async |client: &tokio_postgres::Client, sql: &str| {
        let messages = client.simple_query(sql).await.unwrap();
        let rows = messages.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>())
            }
            _ => None,
        });
        rows.collect::<Vec<_>>()
    };
    let asked = lake.client().await;
    let mut wanted = rows(&asked, &format!("{ODD} order by id")).await;
    for value in wanted.iter_mut().flatten().flatten() {
        // PostgreSQL writes no zeros behind a second, and a sign before an exponent.
        *value = value.replace(".000000+00", "+00").replace("e300", "e+300");
    }
    for options in [
        "",
        "(format text, delimiter '|', null 'nothing', header)",
        "(format csv)",
        "(format csv, header, delimiter ';', quote '''', escape E'\\\\', null 'NULL')",
        "csv header",
        "with binary",
        "(format 'binary')",
    ] {
        let path = file(&lake, ODD, options).await;
        there.batch_execute("truncate odd").await.unwrap();
        let sink = there.copy_in::<_, bytes::Bytes>(&format!("copy odd from stdin {options}")).await.unwrap();
        futures::pin_mut!(sink);
        futures::SinkExt::send(&mut sink, std::fs::read(path).unwrap().into()).await.unwrap();
        sink.finish().await.unwrap_or_else(|error| panic!("{options}: {error:?}"));
        assert_eq!(rows(&there, "select * from odd order by id").await, wanted, "{options}");
    }
}

#[tokio::test]
async fn tables_are_copied_by_their_names() {
    let lake = Lake::start().await;
    let mut flights = lake.table("public", "flights").await;
    flights.append(0..2).await;
    flights.append(2..3).await;
    let path = lake.home().join("file");
    for (sql, wanted) in [
        ("copy flights to stdout", "0\tvalue 0\n1\tvalue 1\n2\tvalue 2\n"),
        ("copy public.flights (value) to stdout (format csv, header)", "value\nvalue 0\nvalue 1\nvalue 2\n"),
        ("copy flights@v1 to stdout csv", "0,value 0\n1,value 1\n"),
        ("\\copy (select count(*) n from flights@v1) to stdout csv header", "n\n2\n"),
    ] {
        let output = psql(&lake, sql, &path).await;
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        let mut lines: Vec<_> =
            std::fs::read_to_string(&path).unwrap().split_inclusive('\n').map(str::to_owned).collect();
        // Two files are read in no order.
        lines.sort_by_key(|line| line.chars().any(|letter| letter.is_ascii_digit()).then(|| line.clone()));
        assert_eq!(lines.concat(), wanted, "{sql}");
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_told_before_anything_is() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    for (sql, code) in [
        ("copy (select 1) to stdout (format orc)", "22023"),
        ("copy (select 1) to stdout (format parquet, header)", "22023"),
        ("copy (select 1) to stdout (format text, quote '\"')", "22023"),
        ("copy (select 1) to stdout (format csv, delimiter '\"')", "22023"),
        ("copy (select 1) to stdout (format csv, delimiter 'é')", "42601"),
        ("copy (select 1) to stdout (format csv, force_quote (a))", "0A000"),
        ("copy (select 1) to stdout (encoding 'latin1')", "0A000"),
        ("copy (select 1) to stdout gzip", "0A000"),
        ("copy (select 1) to stdout; select 1", "0A000"),
        ("copy nothing to stdout", "42P01"),
        ("copy (selec 1) to stdout", "42601"),
    ] {
        let (found, message) = said(&client.batch_execute(sql).await.unwrap_err());
        assert_eq!(found, code, "{sql}: {message}");
    }
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("select nothing").await.unwrap_err();
    assert_eq!(said(&client.batch_execute("copy (select 1) to stdout").await.unwrap_err()).0, "25P02");
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(count(&client, "select 1::bigint").await, 1);
}

/// Drivers ask by the extended protocol.
async fn copied(client: &tokio_postgres::Client, sql: &str) -> Result<Vec<u8>, tokio_postgres::Error> {
    let pieces = client.copy_out(sql).await?;
    pin_mut!(pieces);
    let mut file = Vec::new();
    while let Some(piece) = pieces.next().await {
        file.extend_from_slice(&piece?);
    }
    Ok(file)
}

#[tokio::test]
async fn an_error_on_the_way_ends_the_copy_and_not_the_session() {
    let lake = Lake::start_with(json!({"timeout_ms": 2000})).await;
    let client = lake.client().await;
    let broken = "select 10 / (a - 500000) from generate_series(1, 600000) t(a)";
    for form in ["text", "csv", "binary", "arrow", "parquet"] {
        for (question, code) in [(broken, "22012"), (LONG, "57014")] {
            let sql = format!("copy ({question}) to stdout (format {form})");
            assert_eq!(said(&copied(&client, &sql).await.unwrap_err()).0, code, "{sql}");
        }
        let path = lake.home().join("file");
        let output = psql(&lake, &format!("copy ({broken}) to stdout (format {form})"), &path).await;
        assert!(!output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "ERROR:  division by zero\n", "{form}");
    }
    assert_eq!(copied(&client, "copy (select 1) to stdout").await.unwrap(), b"1\n");
}

#[tokio::test]
async fn a_copy_that_is_cancelled_is_ended() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    let token = client.cancel_token();
    for form in ["csv", "parquet"] {
        let sql =
            format!("copy (select a from generate_series(1, 100000000000) t(a)) to stdout (format {form})");
        let cancelling = async {
            // It may not have begun yet.
            loop {
                token.cancel_query(NoTls).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let ended =
            tokio::select! { ended = copied(&client, &sql) => ended, () = cancelling => unreachable!() };
        assert_eq!(said(&ended.unwrap_err()).0, "57014");
        // A request that came late is nobody's, or this one's.
        while client.query("select 1", &[]).await.is_err() {}
    }
}

/// Of what is hard to compress, and more of it than all statements together may keep.
#[tokio::test]
async fn files_are_sent_as_they_are_made() {
    let lake = Lake::start_with(json!({"memory_bytes": 2 << 20})).await;
    let many = "select a, a * 2654435761 % 4294967291 b, a * 40503 * 2654435761 % 4294967279 c
                from generate_series(1, 1500000) t(a)";
    let before = resident();
    let mut paths = Vec::new();
    for form in ["arrow", "parquet", "csv"] {
        let path = file(&lake, many, &format!("(format {form})")).await;
        let size = path.metadata().unwrap().len();
        assert!(size > 15 << 20, "{form}: {size} bytes");
        std::fs::rename(&path, path.with_extension(form)).unwrap();
        paths.push((form, path.with_extension(form)));
    }
    let grown = peak() - before;
    assert!(grown < 100 << 20, "{grown} bytes more");
    for (form, path) in &paths[..2] {
        let Some(text) = read("pyarrow", form, path, &["count"]).await else { return };
        let (rows, groups) = text.trim().split_once(' ').unwrap();
        assert_eq!(rows, "1500000");
        assert!(groups.parse::<u32>().unwrap() > 5, "{form} in {groups}");
    }
}
