//! A server's tables in a lake: from the manifest to an answer, and away again.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::crash::dies_at;
use crate::installation::{Installation, text, until};
use crate::queries::{Person, last};
use crate::story::{Story, manifest};

/// Points that the making of a transfer passes.
pub(crate) const MADE: [&str; 4] = [
    "driver-local::transfer-tree-made",
    "driver-local::transfer-role-made",
    "driver-local::transfer-files-written",
    "driver-local::transfer-unit-applied",
];
/// Points that a resync of one passes whose server is asleep.
pub(crate) const RESYNC: [&str; 2] =
    ["store::transfer-asked-before-commit", "driver-local::transfer-server-woken"];
/// Points that the removal of one passes.
pub(crate) const REMOVED: [&str; 4] = [
    "driver-local::transfer-stop-declared",
    "driver-local::transfer-forgotten",
    "driver-local::transfer-units-removed",
    "driver-local::transfer-tree-removed",
];

/// A transfer of the tables of these tests.
const LAKE: &str = "[transfer.lake]\nfrom = \"postgres.main\"\nevery = \"1s\"\ntables = [\"public.items\", \"public.lo*\"]\n";

/// Asks the lake as any client does.
pub(crate) fn ask(url: &str, sql: &str) -> Result<String, String> {
    let output = Command::new("psql").args(["-XAtq", "-c", sql, url]).output().unwrap();
    if output.status.success() {
        Ok(text(&output.stdout).trim().to_owned())
    } else {
        Err(text(&output.stderr).trim().to_owned())
    }
}

/// Asks until the lake says so; what it said last otherwise.
pub(crate) fn says(url: &str, sql: &str, wanted: &str) {
    let mut last = Err("nothing yet".to_owned());
    until(&format!("{sql} to be {wanted}"), || {
        last = ask(url, sql);
        (last.as_deref() == Ok(wanted)).then_some(())
    });
}

fn table(story: &Story<'_>, name: &str) -> Option<Value> {
    let status: Value = serde_json::from_slice(&story.run(&["status", "--json"]).stdout).unwrap();
    let components = status["components"].as_array().unwrap();
    let lake = components.iter().find(|component| component["name"] == "transfer.lake").unwrap();
    let tables = lake["transfer"]["tables"].as_array()?;
    tables.iter().find(|table| table["name"] == name).cloned()
}

#[test]
fn what_is_in_a_server_is_in_its_lake_a_moment_later() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", LAKE);
    let sql = |sql: &str| story.sql(sql).unwrap();
    sql("create table items (id int primary key, name text, price numeric(8, 2));
         insert into items select n, 'item ' || n, n * 1.5 from generate_series(1, 1000) n");
    let (url, folder) = (story.ok(&["url", "lake"]).trim().to_owned(), story.folder.clone());
    // A table that was not there when the transfer was made.
    says(&url, "select count(*), sum(price) from items", "1000|750750.00");
    sql("update items set name = 'another' where id = 7; delete from items where id > 990");
    says(&url, "select count(*) from items where name = 'another' and id = 7", "1");
    says(&url, "select count(*) from items", "990");
    says(&url, "select count(*) from items__changes where _op = 'delete'", "10");
    // One without a key stops alone; the application goes on updating it.
    sql("create table loose (what text); insert into loose values ('a'); update loose set what = 'b'");
    until("the table without a key to be named", || {
        let loose = table(&story, "public.loose")?;
        loose["why"].as_str().is_some_and(|why| why.contains("primary key")).then_some(())
    });
    sql("insert into items values (2000, 'later', 1)");
    says(&url, "select name from items where id = 2000", "later");
    // The lake is for questions alone, and for those who know its password.
    assert!(ask(&url, "delete from items").unwrap_err().contains("ERROR"));
    let wrong = url.replacen(":", ":x", 2);
    assert!(ask(&wrong, "select 1").is_err());
    // Whoever is killed goes on where it was.
    for name in ["transfer", "lake"] {
        for pid in stead.pids(&format!(" {name} /stead/conf/")) {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
    }
    sql("insert into items values (2001, 'after', 1)");
    says(&url, "select count(*), max(name) from items where id > 1999", "2|later");
    // The control plane is not needed for any of it.
    stead.kill_server();
    says(&url, "select count(*) from items", "992");
    stead.start();
    // Without the transfer nothing of it is left, in the server neither.
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.write_manifest(&manifest("shop", ""));
    story.ok(&["up", "--yes"]);
    assert!(ask(&url, "select 1").is_err());
    nothing_is_left(&story);
    stead.finish();
}

/// By the API and the command line, as a server is.
#[tokio::test(flavor = "multi_thread")]
async fn the_lake_is_asked_as_a_server_is() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", LAKE);
    story
        .sql(
            "create table items (id int primary key, name text, price numeric(8, 2));
             insert into items select n, 'item ' || n, n * 1.5 from generate_series(1, 3000) n",
        )
        .unwrap();
    let url = story.ok(&["url", "lake"]).trim().to_owned();
    says(&url, "select count(*) from items", "3000");

    let viewer = Person::of(&story, "viewer").at("transfer.lake");
    let lines = viewer.lines(&json!({"sql": "select * from items order by id", "rows": 2})).await;
    assert_eq!((&lines[0]["role"], &lines[0]["read_only"]), (&json!("owner"), &json!(true)));
    assert_eq!(lines[2], json!(["1", "item 1", "1.50"]));
    let summary = last(&lines);
    assert_eq!(
        (&summary["outcome"], &summary["truncated"], &summary["message"]),
        (&json!("done"), &json!(true), &Value::Null)
    );
    for (sql, code) in [
        ("delete from items", "25006"),
        ("select 1; select 2", "42601"),
        ("select * from itms", "42P01"),
        ("copy items to stdout", "0A000"),
    ] {
        assert_eq!(viewer.one(sql).await.unwrap_err(), code, "{sql}");
    }
    let schema = viewer.json("schema?filter=ITEMS").await;
    let names: Vec<_> =
        schema["relations"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["items", "items__changes"]);
    let columns = schema["relations"][0]["columns"].as_array().unwrap();
    let columns: Vec<_> =
        columns.iter().map(|one| (one["name"].as_str().unwrap(), one["type"].as_str().unwrap())).collect();
    assert_eq!(columns, [("id", "integer"), ("name", "text"), ("price", "numeric")]);

    // As files, by the API and by the command line.
    let file = async |accept: &str, sql: &str| {
        let request = viewer.request(Method::POST, "query").header("accept", accept);
        let response = request.json(&json!({ "sql": sql })).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap())
    };
    let all = "select * from items order by id; ";
    let parquet = "application/vnd.apache.parquet";
    let (status, of_api) = file(parquet, all).await;
    assert!(status == 200 && of_api.starts_with(b"PAR1") && of_api.ends_with(b"PAR1"), "{status}");
    let (status, arrow) =
        file("application/vnd.apache.arrow.stream", "select count(*) from items -- all").await;
    assert!(status == 200 && arrow.starts_with(b"\xff\xff\xff\xff"), "{status}");
    let (status, csv) = file("text/csv", all).await;
    assert!(status == 200 && csv.starts_with(b"id,name,price\n1,item 1,1.50\n"), "{status}");
    let (status, problem) = file(parquet, "select 1 / (id - 3) from items").await;
    assert!(
        status == 422 && problem.windows(16).any(|part| part == b"division by zero"),
        "{status} {problem:?}"
    );
    let written = |format: &str| story.run(&["sql", "lake", "-c", all, "--format", format]).stdout;
    assert_eq!(written("csv"), csv);
    assert_eq!(written("parquet"), of_api);
    assert!(written("arrow").starts_with(b"\xff\xff\xff\xff"));
    let of_server = story.run(&["sql", "postgres.main", "-c", all, "--format", "csv"]).stdout;
    assert_eq!(of_server, csv);
    assert!(
        story
            .refused(&["sql", "postgres.main", "-c", all, "--format", "parquet"])
            .contains("\"parquet\" not recognized")
    );
    assert!(story.refused(&["sql", "lake", "--format", "csv"]).contains("-c SQL or -f FILE"));
    let answers = story.json(&["sql", "lake", "-c", "select count(*) from items"]);
    assert_eq!(answers[0]["rows"], json!([["3000"]]));

    // On record, like all that is asked.
    let mine = viewer.json("queries").await;
    assert_eq!((&mine["items"][0]["outcome"], &mine["items"][1]["rows"]), (&json!("failed"), &json!(3000)));
    assert!(!story.lines("sql.run").is_empty());
    stead.finish();
}

/// Of a transfer, on the host and in its server.
fn nothing_is_left(story: &Story<'_>) {
    let left = "select (select count(*) from pg_replication_slots where slot_type = 'logical') + (select count(*) from pg_publication)
                     + (select count(*) from pg_roles where rolname ~ '^stead_[0-9a-f]{16}$')";
    assert_eq!(story.sql(left).unwrap(), "0");
    story.stead.nothing_left_over();
}

#[test]
fn killed_while_a_transfer_is_made_and_removed() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    story.sql("create table items (id int primary key); insert into items values (1), (2)").unwrap();
    let folder = story.folder.clone();
    for (made, removed) in MADE.into_iter().zip(REMOVED) {
        let write = |more: &str| std::fs::write(folder.join("stead.toml"), manifest("shop", more)).unwrap();
        write(LAKE);
        dies_at(&mut stead, made, &folder, &["up", "--yes"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.ok(&["up", "--yes"]);
        says(story.ok(&["url", "lake"]).trim(), "select count(*) from items", "2");
        write("");
        dies_at(&mut stead, removed, &folder, &["up", "--yes"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.ok(&["up", "--yes"]);
        nothing_is_left(&story);
    }
    stead.finish();
}

/// What asks the server for less: newer rows by a cursor, and whole tables at intervals.
#[test]
fn newer_rows_and_whole_tables_at_intervals() {
    let stead = Installation::started();
    let more = "[transfer.newer]\nfrom = \"postgres.main\"\nmode = \"query\"\ncursor = \"at\"\noverlap = \"1m\"\nevery = \"1s\"\n\
                [transfer.whole]\nfrom = \"postgres.main\"\nmode = \"snapshot\"\nevery = \"1s\"\n";
    let story = Story::up(&stead, "shop", more);
    let sql = |sql: &str| story.sql(sql).unwrap();
    sql("create table items (id int primary key, name text, at timestamptz not null default clock_timestamp());
         insert into items (id, name) select n, 'item ' || n from generate_series(1, 1000) n");
    let url = |name: &str| story.ok(&["url", name]).trim().to_owned();
    let (newer, whole) = (url("transfer.newer"), url("transfer.whole"));
    for url in [&newer, &whole] {
        says(url, "select count(*) from items", "1000");
    }
    sql("update items set name = 'another', at = clock_timestamp() where id = 7; insert into items values (1001, 'more');
         delete from items where id = 5");
    for (url, count) in [(&newer, "1001"), (&whole, "1000")] {
        says(url, "select name from items where id = 7", "another");
        says(url, "select count(*) from items", count);
    }
    // A table that has no such column is named, and only where it is missed.
    sql("create table loose (what text); insert into loose values ('a')");
    says(&whole, "select count(*) from loose", "1");
    until("the table without a cursor to be named", || {
        text(&story.run(&["status"]).stdout).contains("has no column at to tell newer rows by").then_some(())
    });
    let said = text(&story.run(&["status"]).stdout);
    for part in ["query of at every 1s", "not seen", "replaced whole", "read ", " s ago"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // One table again, and the pause.
    story.ok(&["resync", "transfer.newer", "--table", "public.items"]);
    says(&newer, "select count(*) from items", "1000");
    story.ok(&["pause", "transfer.newer", "--reason", "a large import"]);
    sql("insert into items values (2000, 'unread')");
    says(&whole, "select count(*) from items", "1001");
    assert_eq!(ask(&newer, "select count(*) from items").unwrap(), "1000");
    assert!(text(&story.run(&["status"]).stdout).contains("until `stead resume transfer.newer`"));
    story.ok(&["resume", "transfer.newer"]);
    says(&newer, "select count(*) from items", "1001");
    let refused = story.run(&["resync", "transfer.newer", "--table", "items"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("write it like public.orders"));
    stead.finish();
}

/// A table that stands still goes on alone, and what is missing is said.
#[test]
fn a_table_that_stands_still_goes_on_when_it_is_asked_for() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", LAKE);
    story
        .sql("create table items (id int primary key, price numeric(8, 2)); insert into items values (1, 1)")
        .unwrap();
    let url = story.ok(&["url", "lake"]).trim().to_owned();
    says(&url, "select count(*) from items", "1");
    // The lake's column holds no such value.
    story.sql("insert into items values (2, 'NaN')").unwrap();
    until("the table to stand still", || {
        let why = table(&story, "public.items")?["why"].as_str()?.to_owned();
        why.contains("stead resync --table public.items").then_some(())
    });
    story.sql("update items set price = 2 where id = 2; insert into items values (3, 3)").unwrap();
    story.ok(&["resync", "--table", "public.items"]);
    says(&url, "select sum(price) from items", "6.00");
    says(&url, "select count(*) from items__changes where _op = 'gap'", "1");
    story.sql("insert into items values (4, 4)").unwrap();
    says(&url, "select sum(price) from items", "10.00");
    stead.finish();
}

/// Of a table only what is meant comes into the lake, by its changes too.
#[test]
fn a_part_of_a_table_is_read() {
    let stead = Installation::started();
    let more = "[transfer.lake]\nfrom = \"postgres.main\"\nevery = \"1s\"\n\
                tables = [{ name = \"public.people\", without = [\"email\"], where = \"country <> 'it''s $x$'\" }]\n";
    let story = Story::up(&stead, "shop", more);
    let sql = |sql: &str| story.sql(sql).unwrap();
    sql("create table people (id int primary key, country text, email text);
         insert into people values (1, 'DE', 'a@example.com'), (2, 'it''s $x$', 'b@example.com')");
    let url = story.ok(&["url", "lake"]).trim().to_owned();
    until("what keeps the table from being read", || {
        text(&story.run(&["status"]).stdout).contains("replica identity full").then_some(())
    });
    sql("alter table people replica identity full");
    says(&url, "select string_agg(country, ' ') from people", "DE");
    assert!(ask(&url, "select email from people").is_err());
    sql(
        "update people set country = 'FR' where id = 2; update people set country = 'it''s $x$' where id = 1;
         alter table people drop column email; insert into people values (3, 'IT')",
    );
    says(&url, "select string_agg(country, ' ' order by id) from people", "FR IT");
    says(&url, "select count(*) from people__changes where country like '%x%'", "0");
    stead.finish();
}

/// A transfer keeps no server awake, and what only a person can repair is repaired by one command.
#[test]
fn a_server_that_sleeps_is_let_sleep_and_one_that_lost_its_slot_is_copied_anew() {
    let mut stead = Installation::started();
    let more = format!("idle = \"5s\"\n{LAKE}");
    let story = Story::up(&stead, "shop", &more);
    let folder = story.folder.clone();
    story.sql("create table items (id int primary key); insert into items values (1), (2)").unwrap();
    let url = story.ok(&["url", "lake"]).trim().to_owned();
    says(&url, "select count(*) from items", "2");
    story.until_asleep();
    // The lake answers without the server.
    assert_eq!(ask(&url, "select count(*) from items").unwrap(), "2");
    for point in RESYNC {
        dies_at(&mut stead, point, &folder, &["resync"]);
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.until_asleep();
    }
    let story = Story { stead: &stead, name: "shop".into(), folder };
    assert_eq!(story.lines("component.resync_requested").len(), 1);
    // Somebody takes the slot away: what was changed since is nowhere.
    let logical = "from pg_replication_slots where slot_type = 'logical'";
    until("the slot to be dropped", || {
        // It may be asleep.
        story.sql("select 1").ok()?;
        let server = |sql: &str| story.stead.ask_server(&story.tree(), "main", sql).ok();
        server(&format!("select count(pg_terminate_backend(active_pid)) {logical}"))?;
        server(&format!("select pg_drop_replication_slot(slot_name) {logical}"))?;
        server(&format!("select slot_name {logical}"))?.is_empty().then_some(())
    });
    story.sql("insert into items values (3)").unwrap();
    until("the transfer to say so", || {
        let status = text(&story.run(&["status"]).stdout);
        status.contains("stead resync").then_some(())
    });
    assert_eq!(ask(&url, "select count(*) from items").unwrap(), "2");
    story.ok(&["resync", "lake", "--reason", "its slot was dropped"]);
    says(&url, "select count(*) from items", "3");
    stead.finish();
}
