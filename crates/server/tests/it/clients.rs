//! The typed client, against the routes it was written for.

use std::time::Duration;

use client::wire::{Quota, TenantRequest, TokenRequest, TokenScope};
use client::{Error, Part};
use serde_json::json;

use crate::rig::Rig;

#[tokio::test]
async fn every_method_finds_its_route() {
    let rig = Rig::start().await;
    let _reconciling = rig.reconciling();
    std::fs::write(rig.folder.path().join("ca.pem"), "PEM").unwrap();
    let client = rig.client(&rig.operator);
    let part = Part::default();
    assert_eq!(client.health().await.unwrap().status, "ok");
    assert_eq!(client.ca().await.unwrap(), "PEM");
    let quota = Quota { servers: 3, memory_mib: 8_192, disk_mib: 100_000 };
    let tenant =
        client.put_tenant("acme", &TenantRequest { quota: Some(quota), log_days: Some(7) }).await.unwrap();
    assert_eq!(tenant, client.tenant("acme").await.unwrap());
    assert_eq!(client.tenants(&part).await.unwrap().items, [tenant]);

    assert_eq!(client.stead("acme", "flights").await.unwrap(), None);
    let wanted = json!({"postgres": {"main": {"protect": false}}});
    assert_eq!(client.plan("acme", "flights", &wanted).await.unwrap().generation, 0);
    let made = client
        .put_stead(
            "acme",
            "flights",
            &wanted,
            &client::Edit { generation: Some(0), reason: Some("new"), wait: Some("30s"), canary: None },
        )
        .await
        .unwrap();
    assert_eq!(made.operation.as_ref().unwrap().state, "succeeded");
    let moved = client
        .put_stead(
            "acme",
            "flights",
            &wanted,
            &client::Edit { generation: Some(0), ..client::Edit::default() },
        )
        .await
        .unwrap_err();
    assert_eq!(moved.problem().unwrap().kind, "moved");
    let same = client
        .put_stead(
            "acme",
            "flights",
            &wanted,
            &client::Edit { generation: Some(1), wait: Some("30s"), ..client::Edit::default() },
        )
        .await
        .unwrap();
    assert_eq!((same.generation, same.operation), (1, None));
    assert_eq!(client.steads("acme", &part).await.unwrap().items.len(), 1);
    assert_eq!(client.fleet(&part).await.unwrap().items.len(), 1);
    assert_eq!(client.component("acme", "flights", "postgres.main").await.unwrap().phase, "ready");
    let old = client.credentials("acme", "flights", "postgres.main").await.unwrap();
    assert!(!format!("{old:?}").contains(&old.password));
    let rotated = client.rotate("acme", "flights", "postgres.main", Some("leak"), Some("30s")).await.unwrap();
    assert_eq!(rotated.state, "succeeded");
    assert_ne!(client.credentials("acme", "flights", "postgres.main").await.unwrap(), old);
    assert_eq!(client.component_logs("acme", "flights", "postgres.main", &part).await.unwrap().items, []);
    assert_eq!(client.operation("acme", rotated.id, Some("1s")).await.unwrap(), rotated);
    assert_eq!(client.operations("acme", &part).await.unwrap().items.len(), 2);
    let some =
        Part { limit: Some(1), since: Some("1h".into()), stead: Some("flights".into()), ..part.clone() };
    let page = client.history("acme", &some).await.unwrap();
    assert_eq!((page.items.len(), page.next.is_some()), (1, true));

    let request = TokenRequest {
        name: "ci".into(),
        scope: TokenScope::Viewer,
        tenant: Some("acme".into()),
        days: Some(1),
    };
    let token = client.create_token(&request).await.unwrap();
    assert_eq!(client.tokens().await.unwrap().items.len(), 2);
    let viewer = rig.client(&token.secret.unwrap());
    let refused = viewer.rotate("acme", "flights", "postgres.main", None, None).await.unwrap_err();
    assert!(refused.to_string().contains("takes a token of scope operator, owner, developer"), "{refused}");
    client.revoke_token(token.id).await.unwrap();

    let busy = client.delete_tenant("acme").await.unwrap_err();
    assert_eq!(busy.problem().unwrap().kind, "in-use");
    let gone = client.delete_stead("acme", "flights", false, None, Some("30s")).await.unwrap();
    assert_eq!(gone.state, "succeeded");
    client.delete_tenant("acme").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be() {
    let rig = Rig::start().await;
    let client = rig.client(&rig.operator);
    rig.stop().await;
    let error = tokio::time::timeout(Duration::from_secs(10), client.health()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}
