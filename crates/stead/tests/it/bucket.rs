//! A transfer into a bucket: from the manifest to the rows that others read there, and away again without them.

use std::process::Command;

use serde_json::Value;
use test_support::{S3, installed};

use crate::elsewhere::{files, installation};
use crate::function_secrets::set;
use crate::installation::{Installation, text, until};
use crate::story::{Story, manifest};

/// The rows of a table, as a reader of Delta tables has them who is told where the bucket is.
fn rows(s3: &S3, table: &str) -> Option<Vec<Value>> {
    let Some(python) = installed("STEAD_TEST_PYTHON", "python/bin/python") else { panic!("no reader") };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../transfer/tests/it/lake.py");
    let mut read = Command::new(python);
    read.args([script, "deltalake", &format!("s3://bucket/flights/public/{table}")]);
    let read = read.envs(s3.environment()).env("AWS_ALLOW_HTTP", "true").output().unwrap();
    let lines = read.status.success().then(|| text(&read.stdout))?;
    Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Waits until a table has rows that are as they should be.
fn has(s3: &S3, table: &str, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    until(what, || rows(s3, table).filter(|rows| wanted(rows)))
}

fn warehouse(s3: &S3, place: &str) -> String {
    format!(
        "[transfer.warehouse]\nfrom = \"postgres.main\"\nevery = \"1s\"\ntables = [\"public.items\"]\nto = {{ bucket = \"{place}\", \
         endpoint = \"{}\", key = \"LAKE_KEY\", secret = \"LAKE_SECRET\" }}\n",
        s3.endpoint()
    )
}

fn told(story: &Story<'_>, name: &str, value: &str) {
    let output = set(story.stead, &story.folder, name, value.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn status_says(story: &Story<'_>, part: &str) {
    let mut last = String::new();
    until(&format!("the status to say: {part}"), || {
        let status = text(&story.run(&["status"]).stdout);
        let says = status.split_whitespace().collect::<Vec<_>>().join(" ").contains(part);
        last = status;
        says.then_some(())
    });
}

#[test]
fn what_is_in_a_server_is_in_a_bucket_a_moment_later() {
    let s3 = S3::start();
    let stead = installation();
    let more = warehouse(&s3, "s3://bucket/flights");
    let story = Story::new(&stead, "shop", &more);
    let waits = story.run(&["up", "--yes"]);
    let said = text(&waits.stderr);
    assert!(said.contains("there is no secret LAKE_KEY; set it with `stead secret set LAKE_KEY`"), "{said}");
    story
        .sql(
            "create table items (id int primary key, name text);
             insert into items select n, 'item ' || n from generate_series(1, 1000) n",
        )
        .unwrap();
    let _ = set(&stead, &story.folder, "LAKE_KEY", b"key");
    // The bucket says what is wrong with it, and nothing of it.
    let _ = set(&stead, &story.folder, "LAKE_SECRET", b"wr0ng-s3cret");
    status_says(&story, "set it again with `stead secret set LAKE_SECRET`");
    told(&story, "LAKE_SECRET", "secret\n");
    has(&s3, "items", "the copy", |rows| rows.len() == 1000);
    story.sql("update items set name = 'another' where id = 7; delete from items where id > 990").unwrap();
    let rows = has(&s3, "items", "the changes", |rows| rows.len() == 990);
    assert!(rows.iter().any(|row| row["id"] == "7" && row["name"] == "another"));
    let is_deleted = |rows: &[Value]| rows.iter().filter(|row| row["_op"] == "delete").count() == 10;
    has(&s3, "items__changes", "what was deleted", is_deleted);

    // Who asks Stead for it is told where it is.
    status_says(&story, "writes to s3://bucket/flights");
    let elsewhere = "the tables of transfer.warehouse are in s3://bucket/flights";
    for words in [
        &["url", "warehouse"][..],
        &["sql", "warehouse", "-c", "select 1"],
        &["sql", "warehouse", "-c", "select 1", "--json"],
    ] {
        let said = story.refused(words).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(elsewhere) && said.contains("delta-rs"), "{said}");
    }
    assert!(stead.pids(" lake /stead/conf/").is_empty());
    for pid in stead.pids(" transfer /stead/conf/") {
        let routes = std::fs::read_to_string(format!("/proc/{pid}/net/route")).unwrap();
        assert_eq!(routes.lines().nth(1), None, "it has no network");
        let seen = std::fs::read_dir(format!("/proc/{pid}/root/target")).unwrap().flatten();
        assert_eq!(seen.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["relay"]);
    }
    let listed = story.ok(&["secret", "list"]);
    assert!(listed.contains("transfer.warehouse"), "{listed}");

    // Its place is its own, and stays.
    let second = warehouse(&s3, "s3://bucket/flights/more").replace("warehouse", "another");
    story.write_manifest(&manifest("shop", &format!("{more}{second}")));
    let said = story.refused(&["up", "--yes"]);
    assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains("s3://bucket/flights"), "{said}");
    story.write_manifest(&manifest("shop", &warehouse(&s3, "s3://bucket/moved")));
    let said = story.refused(&["up", "--yes"]).split_whitespace().collect::<Vec<_>>().join(" ");
    let stays =
        said.contains("writes to s3://bucket/flights at") && said.contains("cannot write elsewhere later");
    assert!(stays, "{said}");
    story.write_manifest(&manifest("shop", &more));

    // A table of it is copied anew, or all.
    story.ok(&["resync", "warehouse", "--table", "public.items"]);
    story.sql("insert into items values (2000, 'after')").unwrap();
    has(&s3, "items", "what came later", |rows| rows.len() == 991);

    nobody_is_told(&stead, &story, "wr0ng-s3cret");
    story.write_manifest(&manifest("shop", ""));
    let planned = story.ok(&["plan"]);
    assert!(
        planned.contains("transfer.warehouse is REMOVED, with its lake; tables in a bucket stay there"),
        "{planned}"
    );
    story.ok(&["up", "--yes"]);
    let history = story.ok(&["history", "--json"]);
    assert!(history.contains("its tables are left in s3://bucket/flights"), "{history}");
    assert_eq!(self::rows(&s3, "items").unwrap().len(), 991);
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    assert!(std::fs::read_dir(stead.home.join("relay/sockets")).unwrap().next().is_none());
    stead.finish();
}

/// Nobody but the process that signs in.
fn nobody_is_told(stead: &Installation, story: &Story<'_>, secret: &str) {
    let mut found = Vec::new();
    for folder in ["units", "relay", "logs", "spool", "gateway/routes", "keeper/state"] {
        files(&stead.home.join(folder), &mut found);
    }
    let everything = found.iter().filter_map(|path| std::fs::read(path).ok()).map(|bytes| text(&bytes));
    let said =
        [story.ok(&["history", "--json"]), text(&story.run(&["status", "--json"]).stdout), stead.said()];
    for text in everything.chain(said) {
        assert!(!text.contains(secret), "a secret is told: {text}");
    }
}

/// Whoever may write a manifest does not get to what listens on this host.
#[test]
fn a_bucket_on_this_host_is_reached_only_where_its_operator_says_so() {
    let s3 = S3::start();
    let stead = Installation::started();
    let story = Story::new(&stead, "shop", &warehouse(&s3, "s3://bucket/flights"));
    let _ = story.run(&["up", "--yes"]);
    let _ = set(&stead, &story.folder, "LAKE_KEY", b"key");
    let _ = set(&stead, &story.folder, "LAKE_SECRET", b"secret");
    status_says(&story, "cannot be reached at 127.0.0.1: its address 127.0.0.1 is not a public one");
    assert_eq!(s3.asked(), 0);
    story.ok(&["down", "--yes"]);
    stead.finish();
}
