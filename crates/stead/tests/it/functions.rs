//! Functions as a developer has them: live at once, changed under load, brought back, and safe from what goes wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::crash::dies_at;
use crate::installation::{Installation, text, until};

/// Points that a release passes.
pub(crate) const RELEASE: [&str; 6] = [
    "store::package-before-commit",
    "store::edit-after-commit",
    "driver-local::package-drafted",
    "driver-local::function-declared",
    "driver-local::function-prepared",
    "driver-local::function-released",
];
/// Points that a rollback passes.
pub(crate) const ROLLBACK: [&str; 3] =
    ["store::rollback-before-commit", "driver-local::function-declared", "driver-local::function-released"];
/// Points that the removal of a function passes.
pub(crate) const REMOVE: [&str; 1] = ["driver-local::function-removed"];

pub(crate) const MANIFEST: &str = r#"app = "demo"
[function.api]
code = "api"
runtime = "nodejs24.x"
handler = "index.handler"
url = true
"#;

/// Code that answers with a number, which every version has for itself.
pub(crate) fn code(number: u32) -> String {
    format!("export const handler = async (event) => ({{ v: {number}, path: event.rawPath }});\n")
}

pub(crate) fn save(folder: &Path, code: &str) {
    std::fs::create_dir_all(folder.join("api")).unwrap();
    std::fs::write(folder.join("api/index.mjs"), code).unwrap();
}

pub(crate) fn app(stead: &Installation, manifest: &str, code: &str) -> PathBuf {
    let folder = stead.app("demo", manifest, &[]);
    save(&folder, code);
    folder
}

/// What a function's URL answers.
pub(crate) fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // In one piece, or the kernel waits for more of it.
    let asked = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

pub(crate) fn version(port: u16) -> Option<u64> {
    let (status, body) = get(port, "/").ok()?;
    let body: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    body["v"].as_u64()
}

pub(crate) fn port(stead: &Installation, folder: &Path, name: &str) -> u16 {
    let url = stead.ok_in(folder, &["url", name]);
    url.trim().lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// A release goes live, is replaced, and is brought back; one that does not start changes nothing.
#[test]
fn a_release_goes_live_is_replaced_and_brought_back() {
    let stead = Installation::started();
    let folder = app(&stead, MANIFEST, &code(1));
    let up = stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    assert!(up.contains(&format!("http://localhost:{port}")), "{up}");
    assert_eq!(get(port, "/some/where").unwrap(), (200, r#"{"v":1,"path":"/some/where"}"#.to_owned()));
    assert!(stead.ok_in(&folder, &["plan"]).contains("nothing to change"));

    save(&folder, &code(2));
    stead.ok_in(&folder, &["up", "--yes"]);
    assert_eq!(version(port), Some(2));

    save(&folder, "export const handler = async () => ({ v: 3 3 });\n");
    let broken = stead.run_in(&folder, &["up", "--yes"]);
    let said = text(&broken.stderr);
    assert_eq!(broken.status.code(), Some(1), "{said}");
    assert!(said.contains("release 3 does not start, release 2 goes on answering"), "{said}");
    assert!(said.contains("Runtime.UserCodeSyntaxError"), "{said}");
    assert_eq!(version(port), Some(2));

    stead.ok_in(&folder, &["rollback", "--to", "1"]);
    assert_eq!(version(port), Some(1));
    // What was brought back stands for what it was: there is none before the first.
    let refused = stead.run_in(&folder, &["rollback"]);
    assert!(text(&refused.stderr).contains("one release only"), "{refused:?}");
    assert!(text(&stead.run_in(&folder, &["rollback", "--to", "99"]).stderr).contains("has no release 99"));
    let releases: Value = serde_json::from_str(&stead.ok_in(&folder, &["releases", "--json"])).unwrap();
    let listed: Vec<_> = releases
        .as_array()
        .unwrap()
        .iter()
        .map(|release| {
            (release["number"].as_u64().unwrap(), release["live"] == true, &release["brings_back"])
        })
        .collect();
    let none = Value::Null;
    assert_eq!(listed, [(4, true, &json!(1)), (3, false, &none), (2, false, &none), (1, false, &none)]);
    stead.ok_in(&folder, &["down", "--yes"]);
    assert!(get(port, "/").is_err(), "its port is closed");
    assert_eq!(stead.list("functions/routes"), Vec::<String>::new());
    stead.finish();
}

/// A call by hand, and its log by its request.
#[test]
fn calls_by_hand_and_what_they_wrote() {
    let stead = Installation::started();
    let manifest = MANIFEST.replace("url = true\n", "");
    let code = "export const handler = async (event) => {
        console.log('seen', event.word);
        if (event.fail) throw new TypeError('as asked');
        return { word: event.word };
    };\n";
    let folder = app(&stead, &manifest, code);
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    assert!(text(&stead.run_in(&folder, &["url", "function.api"]).stderr).contains("has no URL"));

    let called = stead.run_in(&folder, &["invoke", "--event", r#"{"word": "kite"}"#]);
    assert_eq!(serde_json::from_slice::<Value>(&called.stdout).unwrap(), json!({ "word": "kite" }));
    let told = text(&called.stderr);
    assert!(told.contains("seen kite") && told.contains("REPORT RequestId: "), "{told}");

    let failed = stead.run_in(&folder, &["invoke", "function.api", "--json", "--event", r#"{"fail": true}"#]);
    assert_eq!(failed.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&answer["error"], &answer["release"]), (&json!("Unhandled"), &json!(1)));
    assert_eq!(answer["payload"]["errorType"], "TypeError");
    let request = answer["request_id"].as_str().unwrap();
    let log = until("the call's log", || {
        let log = stead.ok_in(&folder, &["logs", "function.api", "--request", request]);
        log.contains("REPORT").then_some(log)
    });
    assert!(log.contains("as asked") && !log.contains("kite"), "{log}");

    let wrong = stead.run_in(&folder, &["invoke", "--event", "{not json"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let taken = stead.ok_in(&folder, &["invoke", "--later", "--event", r#"{"word": "later"}"#]);
    assert!(taken.contains("taken as "), "{taken}");
    until("the event to be worked at", || {
        stead
            .ok_in(&folder, &["logs", "function.api", "--grep", "seen later"])
            .contains("seen later")
            .then_some(())
    });
    stead.finish();
}

/// While releases change under load every call is answered, and by one of the two; after the command has ended by the
/// new one alone.
#[test]
fn no_call_is_answered_by_a_half_deployed_release() {
    let stead = Installation::started();
    let folder = app(&stead, MANIFEST, &code(1));
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    save(&folder, &code(2));
    stead.ok_in(&folder, &["up", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let mut seen = 0;
                while !over.load(Ordering::SeqCst) {
                    let answer = get(port, "/");
                    let fits = answer.as_ref().is_ok_and(|(status, body)| {
                        *status == 200 && (body.starts_with(r#"{"v":1"#) || body.starts_with(r#"{"v":2"#))
                    });
                    assert!(fits, "{answer:?}");
                    seen += 1;
                }
                seen
            })
        })
        .collect();
    for round in 0..6 {
        stead.ok_in(&folder, &["rollback", "--to", if round % 2 == 0 { "1" } else { "2" }]);
        for _ in 0..5 {
            assert_eq!(version(port), Some(1 + round % 2), "round {round}");
        }
    }
    over.store(true, Ordering::SeqCst);
    let calls: u32 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert!(calls > 100, "only {calls} calls");
    stead.finish();
}

/// A function reaches its server without a password, and goes on when that is replaced, with the same release.
#[test]
fn a_rotated_password_needs_no_release() {
    let stead = Installation::started();
    let manifest = r#"app = "demo"
[postgres.main]
protect = false
[function.api]
code = "api"
runtime = "provided.al2023"
uses = ["postgres.main"]
url = true
"#;
    let folder = app(&stead, manifest, "");
    // Every host has psql below /usr, where a worker sees it: no library has to be packed.
    let bootstrap = r#"#!/bin/bash
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while true; do
    headers=$(mktemp)
    curl -fsS -o /dev/null -D "$headers" "$api/next"
    id=$(tr -d '\r' <"$headers" | sed -n 's/^lambda-runtime-aws-request-id: *//pI')
    rm -f "$headers"
    who=$(psql -X -A -t -c "select current_user || ' of ' || current_database()" 2>/dev/null)
    curl -fsS -o /dev/null -X POST --data-binary "\"$who\"" "$api/$id/response"
done
"#;
    std::fs::remove_file(folder.join("api/index.mjs")).unwrap();
    std::fs::write(folder.join("api/bootstrap"), bootstrap).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.join("api/bootstrap"), executable).unwrap();
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    let ask = || get(port, "/").unwrap();
    assert_eq!(ask(), (200, "\"owner of main\"".to_owned()));
    stead.ok_in(&folder, &["rotate", "postgres.main"]);
    // The pool learns the new password a moment after the server has it.
    until("the function to sign in again", || (ask() == (200, "\"owner of main\"".to_owned())).then_some(()));
    let releases: Value = serde_json::from_str(&stead.ok_in(&folder, &["releases", "--json"])).unwrap();
    assert_eq!(releases.as_array().unwrap().len(), 1);
    stead.finish();
}

/// What is wrong is told before anything runs, and changes nothing.
#[test]
fn what_is_wrong_with_a_package_is_told() {
    let stead = Installation::started();
    let folder = app(&stead, MANIFEST, &code(1));
    let refused = |manifest: &str| {
        std::fs::write(folder.join("stead.toml"), manifest).unwrap();
        let output = stead.run_in(&folder, &["up", "--tenant", "acme", "--yes"]);
        assert!(!output.status.success(), "{manifest}");
        text(&output.stderr)
    };
    let said = refused(&MANIFEST.replace("\"api\"", "\"nowhere\""));
    assert!(said.contains("there is no folder `nowhere` beside stead.toml"), "{said}");
    let said = refused(&MANIFEST.replace("nodejs24.x", "nodejs42.x"));
    assert!(said.contains("\"nodejs42.x\" is not a runtime"), "{said}");
    let said = refused(&MANIFEST.replace("handler = \"index.handler\"\n", ""));
    assert!(said.contains("has no handler"), "{said}");
    let said = refused(&format!("{MANIFEST}uses = [\"postgres.main\"]\n"));
    assert!(said.contains("there is no `postgres.main` in this stead"), "{said}");
    let large = folder.join("api/large");
    std::fs::File::create(&large).unwrap().set_len(300 * 1024 * 1024).unwrap();
    let said = refused(MANIFEST);
    assert!(said.contains("262144000"), "{said}");
    std::fs::remove_file(&large).unwrap();
    std::fs::write(folder.join("no.zip"), "no zip at all").unwrap();
    let said = refused(&MANIFEST.replace("\"api\"", "\"no.zip\""));
    assert!(said.contains("Could not unzip uploaded file"), "{said}");
    assert_eq!(stead.ok(&["status", "--all", "--json"]).trim(), "[]");
    std::fs::write(folder.join("stead.toml"), MANIFEST).unwrap();
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    assert_eq!(version(port(&stead, &folder, "function.api")), Some(1));
    stead.finish();
}

/// The control plane is killed between any two effects of a release, a rollback and a removal; the function answers all
/// the while, and what was asked for comes about.
#[test]
fn killed_at_every_point() {
    let mut stead = Installation::started();
    let folder = app(&stead, MANIFEST, &code(1));
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    let mut number = 1;
    for point in RELEASE {
        number += 1;
        save(&folder, &code(number));
        dies_at(&mut stead, point, &folder, &["up", "--yes"]);
        assert!(version(port).is_some(), "{point}: it does not answer");
        stead.ok_in(&folder, &["up", "--yes"]);
        assert_eq!(version(port), Some(u64::from(number)), "{point}");
    }
    for (point, back) in ROLLBACK.into_iter().zip([1, 2, 3]) {
        let number = back.to_string();
        dies_at(&mut stead, point, &folder, &["rollback", "--to", &number]);
        assert!(version(port).is_some(), "{point}: it does not answer");
        if version(port) != Some(back) {
            stead.ok_in(&folder, &["rollback", "--to", &number]);
        }
        until("the rollback", || (version(port) == Some(back)).then_some(()));
    }
    for point in REMOVE {
        dies_at(&mut stead, point, &folder, &["down", "--yes"]);
        until("the removal", || (stead.ok(&["status", "--all", "--json"]).trim() == "[]").then_some(()));
        assert!(get(port, "/").is_err());
    }
    stead.finish();
}
