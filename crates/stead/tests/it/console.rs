//! The console in a real browser, before a real identity provider.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use test_support::{CLIENT_SECRET, IdentityProvider};

use crate::installation::{Installation, text};

/// A folder that `script/setup --tests` has filled, unless the environment names another.
fn modules() -> PathBuf {
    let cache = || {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from)
    };
    std::env::var_os("STEAD_TEST_NODE_MODULES")
        .map_or_else(|| cache().join("stead/node/node_modules"), PathBuf::from)
}

/// The browser's own path: its driver starts no program by name.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("STEAD_TEST_CHROMIUM").map_or_else(|| "chromium".into(), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(&named)).find(|program| program.is_file())
}

#[test]
fn a_person_does_all_of_it_by_the_keyboard() {
    let (modules, chromium) = (modules(), chromium());
    let Some(chromium) = chromium.filter(|_| modules.join("playwright-core").exists()) else {
        let there = "a browser or its driver is missing; run script/setup --tests";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{there}");
        println!("{there}");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut stead = Installation::new();
    // The last port of the test's own that a server could be given.
    let (first, listen) = (stead.first_port(), stead.first_port() + 20);
    let console = format!("http://127.0.0.1:{listen}");
    let mut provider = runtime.block_on(IdentityProvider::start(&console));
    runtime.block_on(provider.set_groups(json!({"ann": ["stead-acme-owner"]})));
    let settings = [
        ("STEAD_LISTEN", format!("127.0.0.1:{listen}")),
        ("STEAD_PORTS", format!("{first}-{}", listen - 1)),
        ("STEAD_OIDC_ISSUER", provider.issuer.clone()),
        ("STEAD_OIDC_CLIENT_ID", "stead".to_owned()),
        ("STEAD_OIDC_CLIENT_SECRET", CLIENT_SECRET.to_owned()),
        ("STEAD_OIDC_ROLES", "stead-{tenant}-{role}={tenant}:{role}".to_owned()),
    ];
    stead.environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    stead.start();
    stead.ok(&["tenant", "create", "acme"]);
    let mut journey = Command::new("node");
    journey.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/console/journey.mjs"));
    journey.env("STEAD_TEST_NODE_MODULES", modules).env("STEAD_TEST_CHROMIUM_PATH", chromium);
    let output = journey.env("CONSOLE", &console).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}
