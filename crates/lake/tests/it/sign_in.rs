//! Who is let in.

use tokio_postgres::types::Type;

use crate::support::{Lake, connect, count, said, uid};
use serde_json::json;

#[tokio::test]
async fn a_password_lets_in_and_nothing_else_does() {
    let lake = Lake::start().await;
    assert_eq!(count(&lake.client().await, "select 1::bigint").await, 1);
    for (user, password, database, code) in [
        ("ann", "wrong", "lake", "28P01"),
        ("bob", "correct horse", "lake", "28P01"),
        ("stead_gateway", "correct horse", "lake", "28P01"),
        ("ann", "correct horse", "postgres", "3D000"),
    ] {
        let mut config = lake.config();
        let refused = connect(config.user(user).password(password).dbname(database)).await.unwrap_err();
        assert_eq!(said(&refused).0, code, "{user} {database}");
    }
}

#[tokio::test]
async fn the_gateway_asks_for_verifiers_and_for_nothing_else() {
    let lake = Lake::start_with(json!({"sessions": 0})).await;
    let mut config = lake.config();
    config.user("stead_gateway").dbname("postgres").password("");
    let gateway = connect(&config).await.unwrap();
    let question =
        gateway.prepare_typed("SELECT verifier FROM stead.verifier($1)", &[Type::TEXT]).await.unwrap();
    let verifier: String = gateway.query_one(&question, &[&"ann"]).await.unwrap().get(0);
    assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
    assert!(gateway.query_opt(&question, &[&"bob"]).await.unwrap().is_none());
    for other in ["select 1", "select * from pg_catalog.pg_tables"] {
        assert_eq!(said(&gateway.query(other, &[]).await.unwrap_err()).0, "42501");
        assert_eq!(said(&gateway.batch_execute(other).await.unwrap_err()).0, "42501");
    }
    assert!(gateway.query_opt(&question, &[&"ann"]).await.unwrap().is_some(), "the session goes on");
}

#[tokio::test]
async fn whoever_is_not_the_gateway_does_not_get_verifiers() {
    let lake = Lake::start_with(json!({"gateway_uid": uid() + 1})).await;
    let mut config = lake.config();
    let refused = connect(config.user("stead_gateway").dbname("postgres")).await.unwrap_err();
    assert_eq!(said(&refused).0, "28P01");
    let asked = lake.client().await.query("SELECT verifier FROM stead.verifier('ann')", &[]).await;
    assert!(asked.is_err());
}
