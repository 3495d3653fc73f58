//! Every built-in type arrives as what it is: on every engine, copied and streamed, as independent readers have it.

use serde_json::Value;
use transfer::change::Relation;

use crate::site::{READERS, Site, assert_rows, own, source_rows};

/// A column a type, with values that are at its ends.
const COLUMNS: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("real", &["'NaN'", "'-Infinity'", "0.1", "1e-45", "-0.0"]),
    ("double precision", &["'NaN'", "'Infinity'", "0.1", "5e-324", "1.7976931348623157e308"]),
    ("numeric", &["'NaN'", "'Infinity'", "0.00000000000000000000000000000000000000000001", "1e100"]),
    ("numeric(10,2)", &["-99999999.99", "0", "0.01"]),
    ("numeric(38,0)", &["99999999999999999999999999999999999999", "-1"]),
    ("numeric(38,38)", &["0.12345678901234567890123456789012345678"]),
    ("numeric(60,3)", &["123456789012345678901234567890123456789012345678901234567.891"]),
    ("numeric(5,-2)", &["12345", "-100"]),
    ("numeric(3,5)", &["0.00123"]),
    ("date", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'1969-12-31'"]),
    ("time", &["'24:00'", "'00:00:00.000001'"]),
    ("timetz", &["'24:00+15:59'", "'12:34:56.789-03'"]),
    ("timestamp", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294240-12-31 23:59:59.999999'"]),
    (
        "timestamptz",
        &["'infinity'", "'-infinity'", "'0001-01-01 00:00:00+00'", "'2026-11-23 04:28:53.123456+02'"],
    ),
    ("interval", &["'1 year -2 months 3 days 04:05:06.789'", "'-178000000 years'"]),
    ("text", &["''", "'NULL'", "E'a\\tb\\nc\\\\d\\re\"f'", "'\u{1F600} ä'", "repeat('lang ', 1000)"]),
    ("varchar(10)", &["'ten chars '"]),
    ("char(5)", &["'ab'"]),
    ("\"char\"", &["'x'", "''"]),
    ("name", &["'a name'"]),
    ("bytea", &["''", "'\\x00ff'", "decode(repeat('ab', 3000), 'hex')"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("json", &["'{\"a\":  [1, null]}'", "'null'"]),
    ("jsonb", &["'{\"b\": 1e3, \"a\": \"\\u00e4\"}'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a b=\"c\">d</a>'"]),
    ("inet", &["'192.168.0.1/24'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(5)", &["B'10101'"]),
    ("varbit", &["B''", "B'101'"]),
    ("money", &["-92233720368547758.08", "12.34"]),
    ("point", &["'(1.5,-2)'"]),
    ("line", &["'{1,2,3}'"]),
    ("lseg", &["'[(0,0),(1,1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'[(0,0),(1,1)]'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(0,0),1>'"]),
    ("tsvector", &["'''a b'':1 c:2A'"]),
    ("tsquery", &["'a & !b'"]),
    ("int4range", &["'[1,5)'", "'empty'"]),
    ("int8range", &["'(,)'"]),
    ("numrange", &["'[1.5,2.5]'"]),
    ("tsrange", &["'[2026-01-01,infinity)'"]),
    ("tstzrange", &["'[2026-01-01 00:00+00,)'"]),
    ("daterange", &["'[2026-01-01,2026-02-01]'"]),
    ("int4multirange", &["'{[1,2), [3,4)}'"]),
    ("datemultirange", &["'{}'"]),
    ("oid", &["4294967295"]),
    ("xid", &["'3'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("cid", &["'3'"]),
    ("tid", &["'(1,2)'"]),
    ("pg_lsn", &["'FFFFFFFF/FFFFFFFF'"]),
    ("pg_snapshot", &["'10:20:10,14'"]),
    ("regclass", &["'pg_catalog.pg_class'"]),
    ("regtype", &["'integer'"]),
    ("int2vector", &["'1 2 3'"]),
    ("oidvector", &["'1 2'"]),
    ("boolean[]", &["'{t,NULL,f}'"]),
    ("smallint[]", &["'{}'", "'{1,-1}'"]),
    ("integer[]", &["'{1,NULL,2147483647}'", "'{NULL}'"]),
    ("bigint[]", &["'{-9223372036854775808}'"]),
    ("real[]", &["'{NaN,0.1}'"]),
    ("double precision[]", &["'{Infinity,0.1}'"]),
    ("numeric[]", &["'{NaN,1.50}'"]),
    ("numeric(10,2)[]", &["'{1.5,-2}'"]),
    ("date[]", &["'{2026-01-01,infinity,1969-12-31}'"]),
    ("timestamp[]", &["'{2026-01-01 12:00,-infinity}'"]),
    ("timestamptz[]", &["'{2026-01-01 12:00:00.5+02}'"]),
    ("text[]", &["'{a,\"b,\\\"c\\\\\\\\\",NULL,\"NULL\",\"\",\" d \"}'", "'{}'"]),
    ("bytea[]", &["array['\\x00ff'::bytea, null]"]),
    ("uuid[]", &["'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'"]),
    ("jsonb[]", &["array['{\"a\": [1,2]}'::jsonb]"]),
    ("interval[]", &["'{1 day,NULL}'"]),
    ("point[]", &["'{\"(1,2)\"}'"]),
    ("box[]", &["'{(1,1),(0,0);(2,2),(0,0)}'"]),
    ("int4range[]", &["'{\"[1,5)\"}'"]),
    ("mood", &["'happy'"]),
    ("mood[]", &["'{happy,\"so so\"}'"]),
    ("pair", &["row(1, 'a,b')"]),
    ("pair[]", &["array[row(1, 'a')::pair]"]),
    ("positive", &["7"]),
    ("more_positive", &["11"]),
    ("positive[]", &["'{1,2}'"]),
    ("price", &["12.50"]),
    ("tags", &["'{a,NULL}'"]),
    ("span", &["'[a,b]'"]),
    ("citext", &["'Case'"]),
    ("hstore", &["'a=>1, b=>NULL'"]),
];

pub(crate) fn table() -> String {
    let types = "create extension citext; create extension hstore;
        create type mood as enum ('so so', 'happy'); create type pair as (a int, b text);
        create domain positive as int check (value > 0); create domain more_positive as positive check (value > 10);
        create domain price as numeric(10,2); create domain tags as text[];
        create type span as range (subtype = text);";
    let column =
        |(at, (of, _)): (usize, &(&str, &[&str]))| format!(", \"c{at} {}\" {of}", of.replace('"', ""));
    let columns: String = COLUMNS.iter().enumerate().map(column).collect();
    format!(
        "{types} create table every (id bigint primary key{columns}); create publication lake for table every;"
    )
}

/// Makes a row of the values at a place, null where there is none.
pub(crate) fn row(at: usize, id: i64) -> String {
    let values = COLUMNS.iter().map(|(of, values)| match values.get(at) {
        Some(value) => format!(", ({value})::{of}"),
        None => ", null".to_owned(),
    });
    format!("insert into every values ({id}{}) on conflict (id) do nothing", values.collect::<String>())
}

/// Rows with the values in their order, and one of nulls.
fn rows() -> String {
    let most = COLUMNS.iter().map(|(_, values)| values.len()).max().unwrap();
    (0..=most).map(|at| row(at, i64::try_from(at).unwrap()) + ";").collect()
}

async fn streamed(site: &Site, relation: &Relation) {
    let source = source_rows(&site.client, relation).await;
    for reader in READERS {
        let changes = site.lake_rows(reader, "every__changes");
        let lake = changes.into_iter().map(|row| own(row, relation)).collect();
        assert_rows(source.clone(), lake, &format!("every__changes by {reader}"));
    }
}

async fn every_type_arrives(major: u16) {
    let site = Site::new(major, &table()).await;
    site.sql(&rows()).await;
    assert_eq!(site.drain().await, []);
    streamed(&site, &site.relation("every").await).await;
    assert!(site.merge("every").await.unwrap().is_some());
    site.assert_same("every").await;
    site.assert_same("every").await;
    // What a stream says in texts and a copy in binary is the same.
    let relation = site.relation("every").await;
    let [streamed, copied] = ["every__changes", "every"].map(|table| {
        let rows = site.lake_rows("deltalake", table);
        rows.into_iter().map(|row| own(row, &relation)).collect::<Vec<_>>()
    });
    assert_rows(streamed, copied, "every, streamed and copied");
    // And merged.
    site.sql("update every set id = id + 100 where id % 2 = 0; delete from every where id = 1").await;
    site.follows("every").await;
    site.assert_same("every").await;
}

#[tokio::test]
async fn every_type_arrives_of_15() {
    every_type_arrives(15).await;
}

#[tokio::test]
async fn every_type_arrives_of_16() {
    every_type_arrives(16).await;
}

#[tokio::test]
async fn every_type_arrives_of_17() {
    every_type_arrives(17).await;
}

#[tokio::test]
async fn every_type_arrives_of_18() {
    every_type_arrives(18).await;
}

/// What a column's form cannot hold stops its table, and no other, until the column is held as text.
#[tokio::test]
async fn what_a_form_cannot_hold_can_be_held_as_text() {
    let late = ("timestamp", "'294276-12-31'");
    for (of, value) in [("numeric(10,2)", "'NaN'"), ("int[]", "'{{1,2},{3,4}}'"), late] {
        let is_out_of_range = (of, value) == late;
        let sql = format!(
            "create table t (id int primary key, c {of}); create table other (id int primary key);
             create publication lake for all tables; insert into t values (0, null)"
        );
        let mut site = Site::new(15, &sql).await;
        site.sql("insert into t values (1, null)").await;
        site.sql(&format!("insert into t values (2, {value}); insert into other values (1)")).await;
        let stopped = site.drain().await;
        assert!(
            stopped.len() == 1 && stopped[0].table == "t" && stopped[0].why.contains("public.t.c"),
            "{stopped:?}"
        );
        assert_eq!(site.lake_rows("duckdb", "other__changes").len(), 1);
        assert_eq!(site.lake_rows("duckdb", "t__changes").len(), 1, "what came before is there");
        let error = site.merge("t").await.unwrap_err().to_string();
        assert!(error.contains("public.t.c"), "it cannot be copied either: {error}");
        assert!(is_out_of_range || error == stopped[0].why, "{error} {}", stopped[0].why);
        site.texts = vec![["public", "t", "c"].map(str::to_owned)];
        let relation = site.relation("t").await;
        site.stream().await.resume(&relation).await.unwrap();
        assert!(site.merge("t").await.unwrap().is_some());
        site.assert_same("t").await;
        site.sql(&format!("insert into t values (3, {value})")).await;
        site.follows("t").await;
    }
}

/// The page of types says of each what it is.
#[tokio::test]
async fn the_page_of_types_is_true() {
    let site = Site::new(15, &table()).await;
    site.merge("every").await.unwrap();
    let log = site.lake.path().join("public/every/_delta_log/00000000000000000000.json");
    let log = std::fs::read_to_string(log).unwrap();
    let metadata = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let metadata =
        metadata.map(|action| action["metaData"].clone()).find(|action| !action.is_null()).unwrap();
    let schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lake-types.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut told = 0;
    for (field, (of, _)) in schema["fields"].as_array().unwrap().iter().skip(1).zip(COLUMNS) {
        let form = match &field["type"] {
            Value::String(form) => format!("`{form}`"),
            list => format!("`list of {}`", list["elementType"].as_str().unwrap()),
        };
        let said = page.lines().find(|line| {
            line.strip_prefix("| ")
                .and_then(|line| line.split(" | ").next())
                .is_some_and(|types| types.contains(&format!("`{of}`")))
        });
        if let Some(said) = said {
            assert!(said.split(" | ").nth(1).unwrap().starts_with(&form), "{of} is {form}: {said}");
            told += 1;
        }
    }
    assert!(told > 45, "only {told} are told");
}
