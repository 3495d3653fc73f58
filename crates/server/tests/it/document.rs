//! The OpenAPI document: as it was when somebody last looked at it, and what a judge makes of it.

use std::path::PathBuf;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::rig::{Rig, send};

#[test]
fn the_document_is_as_it_was() {
    insta::assert_snapshot!("openapi", server::openapi().to_pretty_json().unwrap());
}

#[tokio::test]
async fn the_document_is_served() {
    let rig = Rig::start().await;
    let served = send(rig.anonymous(Method::GET, "/v1/openapi.json")).await.is(StatusCode::OK);
    assert_eq!(served.body, serde_json::to_value(server::openapi()).unwrap());
    assert_eq!(served.body["openapi"], "3.1.0");
}

/// Where `script/setup --tests` has put the judge, unless the environment names another place.
fn judge() -> PathBuf {
    let cache = || {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from)
    };
    std::env::var_os("STEAD_TEST_SCHEMATHESIS")
        .map_or_else(|| cache().join("stead/python/bin/schemathesis"), PathBuf::from)
}

/// The document as the judge gets it: without `Idempotency-Key`, because it would give every request of an
/// operation the same one, and then judge one answer again and again; and without following logs.
fn judged(mut document: Value) -> Value {
    // Following a log has no end that it could wait for.
    document["paths"].as_object_mut().unwrap().retain(|path, _| !path.ends_with("/logs/tail"));
    let operations = document["paths"].as_object_mut().unwrap().values_mut();
    for operation in operations.flat_map(|path| path.as_object_mut().unwrap().values_mut()) {
        if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
            parameters.retain(|parameter| parameter["name"] != "Idempotency-Key");
        }
    }
    document
}

#[tokio::test]
async fn schemathesis_finds_nothing() {
    let judge = judge();
    if !judge.exists() {
        let there = format!("{} is missing; run script/setup --tests", judge.display());
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{there}");
        println!("{there}");
        return;
    }
    let rig = Rig::start().await;
    let _reconciling = rig.reconciling();
    std::fs::write(rig.folder.path().join("ca.pem"), "PEM").unwrap();
    let document = rig.folder.path().join("openapi.json");
    std::fs::write(&document, judged(serde_json::to_value(server::openapi()).unwrap()).to_string()).unwrap();
    let output = tokio::process::Command::new(judge)
        .args([
            "--no-color",
            "--config-file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml"),
            "run",
        ])
        .arg(&document)
        .args(["--url", &rig.url(""), "--header", &format!("Authorization: Bearer {}", rig.operator)])
        // Always the same requests: what is found once is found again.
        .args(["--checks", "all", "--seed", "1", "--max-examples", "10", "--continue-on-failure"])
        // It keeps what it found in a folder beside it.
        .current_dir(rig.folder.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Tested: 32"), "every operation was tested: {said}");
}
