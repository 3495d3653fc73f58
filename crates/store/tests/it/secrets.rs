//! Secrets at rest.

use component::postgres::Size;
use secrecy::ExposeSecret;
use store::{Error, InstallationKey, Store};

use crate::rig::{Rig, actor};

#[tokio::test]
async fn a_password_is_sealed_and_opens_with_its_key_only() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let lease = rig.claim().await.unwrap();
    let id = lease.component.id;
    let password = rig.store.password(id).await.unwrap().unwrap();
    assert!(password.verifier.expose_secret().starts_with("SCRAM-SHA-256$4096:"));
    // Neither in clear nor in any of the ways that a column could be encoded.
    let clear = password.password.expose_secret().as_bytes();
    let rows = rig.db.connect().await.query("select sealed from secrets", &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let sealed: Vec<u8> = row.get(0);
        assert!(!sealed.windows(8).any(|part| clear.windows(8).any(|clear| clear == part)));
    }
    // The same database with another key opens nothing, and says so.
    let folder = tempfile::tempdir().unwrap();
    let other = InstallationKey::read_or_make(&folder.path().join("key")).unwrap();
    let stranger = Store::open(rig.db.options(), other).await.unwrap();
    assert!(matches!(stranger.password(id).await, Err(Error::Sealed)));
    // A secret that is put beside another component opens for nobody.
    rig.sql("update secrets set sealed = (select sealed from secrets where name = 'verifier') where name = 'password'")
        .await
        .unwrap();
    assert!(matches!(rig.store.password(id).await, Err(Error::Sealed)));
}

#[tokio::test]
async fn a_rotation_makes_a_new_one() {
    let rig = Rig::start().await;
    rig.apply(Size::Nano).await.unwrap();
    let id = rig.claim().await.unwrap().component.id;
    let old = rig.store.password(id).await.unwrap().unwrap();
    rig.store.rotate(&actor(), &rig.tenant, &rig.stead, &rig.name, None).await.unwrap();
    let new = rig.store.password(id).await.unwrap().unwrap();
    assert_eq!((old.version, new.version), (1, 2));
    assert_ne!(old.password.expose_secret(), new.password.expose_secret());
    assert_ne!(old.verifier.expose_secret(), new.verifier.expose_secret());
}
