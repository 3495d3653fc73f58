//! psql, and what it asks of the catalog.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::{Lake, PASSWORD};

async fn psql(lake: &Lake, commands: &[&str]) -> String {
    let mut psql = Command::new("psql");
    psql.env("PGPASSWORD", PASSWORD)
        .env("PGUSER", "ann")
        .env("PGHOST", lake.home())
        .env("PGDATABASE", "lake");
    psql.args(["-X", "-A", "-t"]).args(commands.iter().flat_map(|command| ["-c", command]));
    let output = psql.stdin(Stdio::null()).output().await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn psql_finds_its_way() {
    let lake = Lake::start().await;
    let mut flights = lake.table("public", "flights").await;
    flights.append(0..3).await;
    flights.append(3..6).await;
    assert_eq!(psql(&lake, &["select value from flights where id = 4"]).await, "value 4\n");
    let listed = psql(&lake, &["\\dt", "\\dn", "\\d flights", "\\l"]).await;
    for part in ["public|flights|table", "id|bigint", "value|text", "lake|"] {
        assert!(listed.contains(part), "{part} in {listed}");
    }
    assert_eq!(psql(&lake, &["select count(*) from flights@v1"]).await, "3\n");
    assert_eq!(psql(&lake, &["select current_database(), current_schema()"]).await, "lake|public\n");
    let columns =
        "select column_name from information_schema.columns where table_name = 'flights' order by 1";
    assert_eq!(psql(&lake, &[columns]).await, "id\nvalue\n");
}
