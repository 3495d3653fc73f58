//! Tables as they were.

use crate::support::{Lake, count, said};

#[tokio::test]
async fn a_table_is_read_as_of_a_version_or_a_time() {
    let lake = Lake::start().await;
    let mut flights = lake.table("public", "flights").await;
    for at in 0..3 {
        flights.append(at * 10..at * 10 + 10).await;
    }
    let log = lake.folder().join("public/flights/_delta_log");
    for version in 0..4 {
        let day = std::time::Duration::from_secs(86_400 * version);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_132_800) + day;
        let file = std::fs::File::options().write(true).open(log.join(format!("{version:020}.json")));
        file.unwrap().set_modified(at).unwrap();
    }
    let client = lake.client().await;
    let rows =
        async |table: &str| count(&client, &format!("select count(*) from {table} where id >= 0")).await;
    assert_eq!(rows("flights@v0").await, 0);
    assert_eq!(rows("flights@v2").await, 20);
    assert_eq!(rows("public.flights@v1 as f").await, 10);
    assert_eq!(rows("\"flights@v1\"").await, 10);
    assert_eq!(rows("lake.public.flights").await, 30);
    assert_eq!(rows("flights@'2026-11-21 12:00'").await, 10);
    assert_eq!(rows("flights@'2026-11-21T00:00:00Z'").await, 10);
    assert_eq!(count(&client, "select count(*) from flights f join flights@v1 o using (id)").await, 10);
    for (table, code, part) in [
        ("flights@v9", "22023", "its versions are 0 to 3"),
        ("flights@'2026-11-19'", "22023", "its oldest version is of 2026-11-20T00:00:00Z"),
        ("flights@'9000-01-01'", "22023", "nobody knows"),
        ("flights@'yesterday'", "42602", "neither a version nor a time"),
        ("nothing@v1", "42P01", "nothing@v1"),
    ] {
        let error = client.query(&format!("select * from {table}"), &[]).await.unwrap_err();
        let (found, message) = said(&error);
        assert!(found == code && message.contains(part), "{table}: {found} {message}");
    }
}
