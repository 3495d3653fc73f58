//! What the tests stand on: real PostgreSQL servers, a `$STEAD_HOME` with a certificate, a gateway in
//! this process, and the clients people use.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod clients;
pub(crate) mod home;
pub(crate) mod raw;
pub(crate) mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The role that tests sign in as, and its password.
pub(crate) const USER: &str = "flights_owner";
pub(crate) const PASSWORD: &str = "correct horse, battery: staple 'n' \u{e4}";
/// Its database.
pub(crate) const DATABASE: &str = "flights";

/// A major's programs.
pub(crate) fn engine(major: u32) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let ours = std::env::var("STEAD_ENGINES").unwrap_or_else(|_| "/var/lib/stead/engines".to_owned());
    let ours = PathBuf::from(ours).join(format!("{major}/bin"));
    [debian, ours]
        .into_iter()
        .find(|bin| bin.join("postgres").exists())
        .unwrap_or_else(|| panic!("PostgreSQL {major} is not installed; run script/setup"))
}

/// A folder for one test, short enough for Unix sockets, removed at the end.
pub(crate) fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix("stgw").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Polls until a condition holds.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
