//! What is asked of tables, and what is answered.

use crate::support::{Lake, count, said};

#[tokio::test]
async fn tables_of_the_folder_are_there_as_they_come() {
    let lake = Lake::start().await;
    let client = lake.client().await;
    let missing = client.query("select * from flights", &[]).await.unwrap_err();
    assert_eq!(said(&missing).0, "42P01");
    let mut flights = lake.table("public", "flights").await;
    flights.append(0..10).await;
    lake.table("other", "flights").await.append(0..3).await;
    assert_eq!(count(&client, "select count(*) from flights").await, 10);
    assert_eq!(count(&client, "select count(*) from public.flights").await, 10);
    assert_eq!(count(&client, "select count(*) from lake.other.flights").await, 3);
    flights.append(10..20).await;
    assert_eq!(count(&client, "select count(*) from flights").await, 20);
    // Made anew, with fewer versions than were known.
    std::fs::remove_dir_all(lake.folder().join("public/flights")).unwrap();
    lake.table("public", "flights").await.append(0..5).await;
    assert_eq!(count(&client, "select count(*) from flights").await, 5);
}

#[tokio::test]
async fn a_prepared_statement_sees_what_was_written_since() {
    let lake = Lake::start().await;
    let mut flights = lake.table("public", "flights").await;
    flights.append(0..10).await;
    let client = lake.client().await;
    let prepared = client.prepare("select count(*) from flights where id >= $1").await.unwrap();
    let asked = async || client.query_one(&prepared, &[&5_i64]).await.unwrap().get::<_, i64>(0);
    assert_eq!(asked().await, 5);
    flights.append(10..20).await;
    assert_eq!(asked().await, 15);
}

#[tokio::test]
async fn a_statement_sees_one_version_of_a_table() {
    let lake = Lake::start().await;
    let mut flights = lake.table("public", "flights").await;
    flights.append(0..10).await;
    let client = lake.client().await;
    let writer = tokio::spawn(async move {
        for at in 1..30 {
            flights.append(at * 10..at * 10 + 10).await;
        }
    });
    while !writer.is_finished() {
        let both = "select (select count(*) from flights) - (select count(*) from public.flights f)";
        assert_eq!(count(&client, both).await, 0);
    }
    writer.await.unwrap();
    assert_eq!(count(&client, "select count(*) from flights").await, 300);
}

#[tokio::test]
async fn only_the_columns_and_files_that_are_needed_are_read() {
    let lake = Lake::start().await;
    let mut flights = lake.table("public", "flights").await;
    flights.append(0..1_000).await;
    flights.append(1_000..2_000).await;
    let client = lake.client().await;
    let plan = client.query("explain analyze select id from flights where id = 1500", &[]).await.unwrap();
    let plan: String = plan.iter().map(|row| row.get::<_, String>(1)).collect();
    assert_eq!(plan.matches(".parquet").count(), 1, "one of two files: {plan}");
    assert!(!plan.contains("value@"), "one of two columns: {plan}");
}
