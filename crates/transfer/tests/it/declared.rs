//! Tables that are declared otherwise while they are read: each follows, or stops alone and says so.

use serde_json::Value;
use transfer::Error;
use transfer::lake::{LakeTable, Writer};

use crate::site::{Row, Site};

const ITEMS: &str =
    "create table items (id int primary key, n int, small numeric(10,2), f real, name varchar(10));
    create publication lake for all tables with (publish_via_partition_root = true);
    insert into items select i, i, i, i, i from generate_series(1, 5) i;";

async fn site(major: u16, sql: &str) -> Site {
    let site = Site::new(major, sql).await;
    assert!(site.merge("items").await.unwrap().is_some(), "it never was copied");
    site.assert_same("items").await;
    site
}

fn ops(rows: &[Row]) -> Vec<&str> {
    let mut rows: Vec<_> = rows.iter().collect();
    let number = |row: &Row, name: &str| row[name].as_str().unwrap().parse::<i64>().unwrap();
    rows.sort_by_key(|row| (number(row, "_lsn"), number(row, "_order")));
    rows.iter().map(|row| row["_op"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn columns_come_and_go_in_the_middle_of_a_batch() {
    for major in [15, 18] {
        let site = site(major, ITEMS).await;
        site.sql(
            "update items set n = 10 where id = 1;
             alter table items add column added text;
             update items set added = 'x' where id = 2;
             alter table items add column five int not null default 5;
             insert into items values (6, 6, 6, 6, 'six', 'y');
             alter table items drop column f;
             update items set n = 11 where id = 3;
             begin;
             insert into items values (7);
             alter table items add column late timestamp default '2026-11-23', add column lists int[] default '{1,2}';
             insert into items values (8);
             commit;
             alter table items alter column small type numeric(12,2), alter column name type text;
             update items set small = 9999999999.99, name = 'more than ten characters' where id = 4;",
        )
        .await;
        site.follows("items").await;
        let lake = site.lake_rows("deltalake", "items");
        let of = |id: &str| lake.iter().find(|row| row["id"] == id).unwrap().clone();
        assert_ne!(of("5")["f"], Value::Null, "what was there before a column was dropped stays");
        assert_eq!(of("6")["five"], "5");
        let changes = site.lake_rows("duckdb", "items__changes");
        assert_eq!(changes.len(), 7);
        assert_eq!(changes.iter().find(|row| row["id"] == "7").unwrap()["late"], Value::Null);
        // Once more with nothing but a column, and with what came before it merged after.
        site.sql("insert into items (id) values (9)").await;
        site.drain().await;
        site.sql("alter table items add column seven int default 7").await;
        site.sql("vacuum full items").await;
        let copied = site.merge("items").await.unwrap();
        assert!(copied.is_some_and(|why| why.contains("written anew")), "the server forgot the default");
        site.assert_same("items").await;
        site.sql("insert into items (id) values (10)").await;
        site.drain().await;
        site.sql("alter table items add column eight int default 8").await;
        assert_eq!(site.merge("items").await.unwrap(), None);
        site.assert_same("items").await;
        site.sql("alter table items add column nine int; insert into items (id) values (11)").await;
        site.follows("items").await;
    }
}

/// What the stream does not say of every row is copied.
#[tokio::test]
async fn rows_that_became_others_without_a_change_are_copied_anew() {
    let site = site(16, ITEMS).await;
    for (sql, why) in [
        ("alter table items add column r float default random()", "written anew"),
        ("alter table items rename n to m", "called otherwise"),
        ("alter table items alter column m type bigint", "written anew"),
        ("alter table items alter column m type bigint using m * 2", "written anew"),
        ("alter table items alter column f type double precision", "written anew"),
        ("alter table items drop column name, add column name varchar(10)", "another one"),
    ] {
        site.sql("update items set small = small + 1 where id = 1").await;
        site.sql(sql).await;
        site.sql("update items set small = small + 1 where id = 2").await;
        assert_eq!(site.drain().await, [], "{sql}");
        let copied = site.merge("items").await.unwrap();
        assert!(copied.as_deref().is_some_and(|said| said.contains(why)), "{sql}: {copied:?}");
        site.assert_same("items").await;
        site.sql("update items set small = small + 1 where id = 3").await;
        site.follows("items").await;
    }
    let changes = site.lake_rows("duckdb", "items__changes");
    assert_eq!(changes.len(), 18);
    let first =
        |name: &str| changes.iter().filter(|row| row["id"] == "1").map(|row| row[name].clone()).next();
    assert_eq!(first("f"), Some(Value::from("\\x3ff0000000000000")), "a file from before is wider now");
}

/// A type that cannot be followed, and a table in another's place: they stop, and go on with a gap.
#[tokio::test]
async fn what_cannot_be_followed_stops_its_table_alone() {
    let ddl = [
        ("alter table items alter column n type text", "its column `n` is string now, and was integer"),
        ("drop table items; create table items (id int primary key, n text)", "another table"),
        (
            "create table other_items (id int primary key, n text); begin; alter table items rename to gone;
             alter table other_items rename to items; commit",
            "another table",
        ),
    ];
    for (ddl, why) in ddl {
        let sql = format!("{ITEMS} create table other (id int primary key)");
        let site = site(15, &sql).await;
        site.sql("insert into items values (6); insert into other values (1)").await;
        site.sql(ddl).await;
        site.sql("insert into items values (10), (11); insert into other values (2)").await;
        let stopped = site.drain().await;
        assert!(
            stopped.len() == 1 && stopped[0].table == "items" && stopped[0].why.contains(why),
            "{stopped:?}"
        );
        // It stays so, and says so again, and the other goes on.
        site.sql("insert into items values (12); insert into other values (3)").await;
        let again = site.drain().await;
        assert_eq!((again[0].since, &again[0].why), (stopped[0].since, &stopped[0].why));
        assert_eq!(site.lake_rows("duckdb", "other__changes").len(), 3);
        assert_eq!(ops(&site.lake_rows("duckdb", "items__changes")), ["insert"]);
        // Not without a resume: what is copied is followed by nothing.
        let relation = site.relation("items").await;
        site.stream().await.resume(&relation).await.unwrap();
        site.sql("insert into items values (13)").await;
        assert_eq!(site.drain().await, []);
        assert!(site.merge("items").await.unwrap().is_some());
        site.assert_same("items").await;
        let changes = site.lake_rows("duckdb", "items__changes");
        assert_eq!(ops(&changes), ["gap", "insert"], "it began anew");
        let gap = changes.iter().find(|row| row["_op"] == "gap").unwrap();
        assert_eq!(gap["_from_lsn"], u64::from(stopped[0].since).to_string());
        site.sql("delete from items where id = 12").await;
        site.follows("items").await;
    }
}

/// A copy from before a gap is none.
#[tokio::test]
async fn a_gap_is_not_merged_over() {
    let site = site(15, ITEMS).await;
    site.sql("alter table items alter column n type text; insert into items values (6)").await;
    assert_eq!(site.drain().await.len(), 1);
    // It is copied, and changes once more before it goes on.
    assert!(site.merge("items").await.unwrap().is_some());
    site.sql("insert into items values (7)").await;
    assert_eq!(site.drain().await.len(), 1);
    let relation = site.relation("items").await;
    site.stream().await.resume(&relation).await.unwrap();
    let copied = site.merge("items").await.unwrap();
    assert!(copied.is_some_and(|why| why.contains("not written for a time")));
    site.assert_same("items").await;
}

#[tokio::test]
async fn partitions_are_their_root() {
    for major in [15, 18] {
        let sql = "create table items (id int, at date, n int, primary key (id, at)) partition by range (at);
             create table items_1 partition of items for values from ('2026-01-01') to ('2026-02-01');
             create table items_2 partition of items for values from ('2026-02-01') to ('2026-03-01');
             create publication lake for table items with (publish_via_partition_root = true);
             insert into items select i, date '2026-01-20' + i, i from generate_series(1, 30) i";
        let site = site(major, sql).await;
        // One moves from one to the other.
        site.sql("update items set at = '2026-02-20' where id = 1; delete from items where id = 2").await;
        site.follows("items").await;
        site.sql(
            "create table items_3 partition of items for values from ('2026-03-01') to ('2026-04-01');
            insert into items values (100, '2026-03-02', 1)",
        )
        .await;
        site.follows("items").await;
        site.sql("alter table items add column x int default 3; update items set n = 0 where id = 3").await;
        site.follows("items").await;
        for (sql, why) in [
            ("truncate items_2", "emptied"),
            ("alter table items detach partition items_1", "went"),
            (
                "alter table items attach partition items_1 for values from ('2026-01-01') to ('2026-02-01')",
                "attached",
            ),
            ("drop table items_3", "went"),
        ] {
            site.sql(sql).await;
            site.sql(
                "insert into items values (200, '2026-02-10', 1) on conflict (id, at) do update set n = 2",
            )
            .await;
            assert_eq!(site.drain().await, []);
            let copied = site.merge("items").await.unwrap();
            assert!(copied.as_deref().is_some_and(|said| said.contains(why)), "{sql}: {copied:?}");
            site.assert_same("items").await;
        }
        site.sql("begin; truncate items; insert into items values (1, '2026-02-10', 1); commit").await;
        site.drain().await;
        site.merge("items").await.unwrap();
        site.assert_same("items").await;
    }
}

#[tokio::test]
async fn what_identifies_a_row_can_change() {
    let site = site(
        16,
        "create table items (id int primary key, code text not null unique, long text);
         alter table items alter column long set storage external;
         create publication lake for all tables;
         insert into items select i, i, repeat('x', 3000) from generate_series(1, 5) i",
    )
    .await;
    site.sql("update items set code = 'a' where id = 1; alter table items replica identity full;
        update items set code = 'b' where id = 2; update items set id = 30 where id = 3; delete from items where id = 4")
        .await;
    site.follows("items").await;
    let unchanged = |rows: Vec<Row>| rows.iter().filter(|row| !row["_unchanged_columns"].is_null()).count();
    assert_eq!(unchanged(site.lake_rows("deltalake", "items__changes")), 1, "the whole old row is known");
    site.sql("alter table items replica identity using index items_code_key; update items set id = 31 where id = 30;
        delete from items where id = 2; update items set code = 'c' where id = 5").await;
    site.drain().await;
    let copied = site.merge("items").await.unwrap();
    assert!(copied.is_some_and(|why| why.contains("identified by code")));
    site.assert_same("items").await;
    site.sql("update items set code = 'd' where id = 5; delete from items where id = 1").await;
    site.follows("items").await;
}

#[tokio::test]
async fn what_can_have_no_current_table_has_its_changes() {
    let site = Site::new(
        18,
        "create table keyless (a int, b text); create table whole (a int); alter table whole replica identity full;
         create unlogged table fleeting (id int primary key);
         create table made (id int primary key, n int, twice int generated always as (n * 2) stored);
         create publication lake for all tables",
    )
    .await;
    site.sql(
        "insert into keyless values (1, 'x'); insert into whole values (1), (1); delete from whole;
        insert into fleeting values (1); insert into made values (1, 2); update made set n = 4",
    )
    .await;
    assert_eq!(site.drain().await, []);
    for table in ["keyless", "whole"] {
        let refused = site.merge(table).await.unwrap_err();
        assert!(matches!(&refused, Error::NoKey { table: of } if of.ends_with(table)), "{refused}");
    }
    assert_eq!(site.lake_rows("duckdb", "keyless__changes").len(), 1);
    assert_eq!(ops(&site.lake_rows("duckdb", "whole__changes")), ["insert", "insert", "delete", "delete"]);
    let tables = site.source().await.tables().await.unwrap();
    assert!(!tables.iter().any(|table| table.name == "fleeting"), "it is not published");
    site.merge("made").await.unwrap();
    site.assert_same("made").await;
    site.sql("alter table fleeting set logged; insert into fleeting values (2)").await;
    site.drain().await;
    assert!(site.merge("fleeting").await.unwrap().is_some());
    site.assert_same("fleeting").await;
}

/// Of a table whose publication says which rows, those are in the lake, and of its columns those that it says.
#[tokio::test]
async fn what_is_published_is_in_the_lake() {
    let site = Site::new(
        18,
        "create table items (id int primary key, n int, secret text);
         create publication lake for table items (id, n) where (id < 10);
         insert into items values (1, 1, 'x'), (20, 2, 'y')",
    )
    .await;
    let rows = |site: &Site| site.lake_rows("duckdb", "items").len();
    assert!(site.merge("items").await.unwrap().is_some());
    assert_eq!(rows(&site), 1);
    site.sql("insert into items values (2, 2, 'z'), (30, 3, 'z'); update items set id = 40 where id = 1")
        .await;
    site.drain().await;
    assert_eq!(site.merge("items").await.unwrap(), None);
    assert_eq!(rows(&site), 1);
    assert!(!site.lake_rows("duckdb", "items")[0].contains_key("secret"));
    site.sql("alter publication lake set table items").await;
    let copied = site.merge("items").await.unwrap();
    assert!(copied.is_some_and(|why| why.contains("published")));
    site.assert_same("items").await;
}

/// Names that could be taken for something else, and one that the lake has for itself.
#[tokio::test]
async fn names_are_what_they_are() {
    let site = Site::new(
        15,
        "create table items (id int primary key, \"a b\" int, \"Ä\"\"q\" text, \"select\" int);
         create table taken (id int primary key, _op text); create table twice (id int primary key, a int, \"A\" int);
         create publication lake for all tables",
    )
    .await;
    site.sql("insert into items values (1, 2, 'x', 3); insert into taken values (1, 'x'); insert into twice values (1)")
        .await;
    let stopped = site.drain().await;
    let tables: Vec<_> = stopped.iter().map(|stopped| stopped.table.as_str()).collect();
    assert_eq!(tables, ["taken", "twice"], "{stopped:?}");
    site.merge("items").await.unwrap();
    site.assert_same("items").await;
}

#[tokio::test]
async fn keys_are_marked() {
    let site = site(15, ITEMS).await;
    let log = site.lake.path().join("public/items/_delta_log/00000000000000000000.json");
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches(r#"{\"stead.key\":true}"#).count(), 1, "{log}");
    let place = url::Url::from_directory_path(site.lake.path().join("public/items")).unwrap().into();
    let writer = Writer { name: "test/public.items".into(), epoch: "1".into() };
    let table = LakeTable::open(&place, writer, Vec::new()).await.unwrap();
    let schema = table.schema().unwrap();
    assert!(schema.field(0).metadata().contains_key("stead.key"));
}
