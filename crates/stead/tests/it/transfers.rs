//! A server's tables in a lake: from the manifest to an answer, and away again.

use std::process::Command;

use serde_json::Value;

use crate::installation::{Installation, text, until};
use crate::story::Story;

/// A transfer of everything in `public`.
const LAKE: &str = "[transfer.lake]\nfrom = \"postgres.main\"\nevery = \"1s\"\n";

/// Asks the lake as any client does.
fn ask(url: &str, sql: &str) -> Result<String, String> {
    let output = Command::new("psql").args(["-XAtq", "-c", sql, url]).output().unwrap();
    if output.status.success() {
        Ok(text(&output.stdout).trim().to_owned())
    } else {
        Err(text(&output.stderr).trim().to_owned())
    }
}

/// Asks until the lake says so; what it said last otherwise.
fn says(url: &str, sql: &str, wanted: &str) {
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
    let url = story.ok(&["url", "lake"]).trim().to_owned();
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
    let story = Story { stead: &stead, name: "shop".into(), folder: story.folder.clone() };
    story.write_manifest(&crate::story::manifest("shop", ""));
    story.ok(&["up", "--yes"]);
    assert!(ask(&url, "select 1").is_err());
    let left = "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)
                     + (select count(*) from pg_roles where rolname ~ '^stead_[0-9a-f]{16}$')";
    assert_eq!(story.sql(left).unwrap(), "0");
    assert!(stead.list("units").iter().all(|unit| !unit.starts_with("tr-") && !unit.starts_with("lk-")));
    stead.finish();
}
