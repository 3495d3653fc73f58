//! What stock judges make of the API: of its document (Spectral, Redocly), and of its answers (Schemathesis).

use component::Role;
use std::path::Path;

use serde_json::Value;
use test_support::installed;
use tokio::process::Command;

use crate::rig::Rig;

fn document() -> Value {
    serde_json::to_value(server::openapi()).unwrap()
}

/// The methods of every path.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().unwrap().values_mut();
    paths.flat_map(|path| path.as_object_mut().unwrap().values_mut())
}

/// A folder with the document and a judge's own settings.
fn folder(settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut document = document();
    for operation in operations(&mut document) {
        // An upgrade succeeds with 101, and to these judges nothing below 200 is a success.
        let responses = operation["responses"].as_object_mut().unwrap();
        if let Some(switched) = responses.remove("101") {
            responses.insert("200".to_owned(), switched);
        }
    }
    std::fs::write(folder.path().join("openapi.json"), document.to_string()).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(settings);
    std::fs::copy(from, folder.path().join(settings)).unwrap();
    folder
}

/// Runs a judge to its end: whether it was content, and what it said.
async fn run(command: &mut Command) -> (bool, String) {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test]
async fn spectral_finds_nothing() {
    let Some(judge) = installed("STEAD_TEST_SPECTRAL", "node/node_modules/.bin/spectral") else { return };
    let folder = folder("spectral.yaml");
    let lint = async || {
        let mut command = Command::new(&judge);
        command.args(["lint", "openapi.json", "--ruleset", "spectral.yaml", "--fail-severity", "hint"]);
        run(command.current_dir(folder.path())).await
    };
    let (content, said) = lint().await;
    assert!(content && said.contains("No results"), "{said}");
    // The control: it does look.
    let mut broken = document();
    broken["paths"]["/v1/steads"]["get"]["tags"] = Value::Null;
    std::fs::write(folder.path().join("openapi.json"), broken.to_string()).unwrap();
    assert!(!lint().await.0);
}

#[tokio::test]
async fn redocly_finds_nothing() {
    let Some(judge) = installed("STEAD_TEST_REDOCLY", "node/node_modules/.bin/redocly") else { return };
    let folder = folder("redocly.yaml");
    let lint = async || {
        let mut command = Command::new(&judge);
        command.args(["lint", "openapi.json", "--config", "redocly.yaml", "--format", "json"]);
        // It would ask the network for newer versions of itself, and tell that it ran.
        command.env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true").env("REDOCLY_TELEMETRY", "off");
        run(command.current_dir(folder.path())).await
    };
    let (content, said) = lint().await;
    assert!(content, "{said}");
    let totals = said.split_once("\"totals\":").unwrap_or_else(|| panic!("{said}")).1;
    for count in ["\"errors\": 0", "\"warnings\": 0", "\"ignored\": 0"] {
        assert!(totals.contains(count), "{said}");
    }
    let mut broken = document();
    broken["paths"]["/v1/steads"]["get"]["operationId"] = "tenants".into();
    std::fs::write(folder.path().join("openapi.json"), broken.to_string()).unwrap();
    assert!(!lint().await.0);
}

/// The document as Schemathesis gets it: without `Idempotency-Key`, because it would give every request of an
/// operation the same one, and then judge one answer again and again.
fn judged() -> (Value, usize) {
    let mut document = document();
    // What asks a server, where there is none; and following logs, which has no end that it could wait for.
    let left_out = ["/query", "/schema", "/logs/tail"];
    let paths = document["paths"].as_object_mut().unwrap();
    paths.retain(|path, _| !left_out.iter().any(|end| path.ends_with(end)));
    let mut count = 0;
    for operation in operations(&mut document) {
        if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
            // No schema can say which questions of logs can be read: whether an expression is one, for instance.
            parameters.retain(|parameter| {
                let question = parameter["name"] == "q" && parameter["schema"]["maxLength"] == 4096;
                !question && parameter["name"] != "Idempotency-Key"
            });
        }
        count += 1;
    }
    (document, count)
}

/// Every check, on every operation by itself and on sequences of them along the links of the document.
async fn schemathesis(scope: Role) {
    let Some(judge) = installed("STEAD_TEST_SCHEMATHESIS", "python/bin/schemathesis") else { return };
    let rig = Rig::start().await;
    let _reconciling = rig.reconciling();
    std::fs::write(rig.folder.path().join("ca.pem"), "PEM").unwrap();
    let token = match scope {
        Role::Operator => rig.operator.clone(),
        scope => rig.token("judge", scope, Some("acme")).await,
    };
    let (document, count) = judged();
    let path = rig.folder.path().join("openapi.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let mut command = Command::new(judge);
    command
        .args(["--no-color", "--config-file"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml"))
        .arg("run")
        .arg(&path)
        .args(["--url", &rig.url(""), "--header", &format!("Authorization: Bearer {token}")])
        .args(["--phases", "examples,coverage,fuzzing,stateful"])
        // Always the same requests: what is found once is found again.
        .args(["--checks", "all", "--seed", "1", "--max-examples", "10", "--continue-on-failure"])
        // It keeps what it found in a folder beside it.
        .current_dir(rig.folder.path());
    let (content, said) = run(&mut command).await;
    assert!(content, "{said}");
    assert!(said.contains(&format!("Tested: {count}")), "every operation was tested: {said}");
    let sequences = said.lines().find(|line| line.contains("Stateful"));
    assert!(sequences.is_some_and(|line| line.contains('✅')), "sequences were tested: {said}");
}

#[tokio::test]
async fn schemathesis_finds_nothing_as_an_operator() {
    schemathesis(Role::Operator).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_as_a_viewer() {
    schemathesis(Role::Viewer).await;
}
