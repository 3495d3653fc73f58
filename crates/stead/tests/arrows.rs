//! Which crate may depend on which: the walls of ARCHITECTURE.md, held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each crate of the workspace may depend on; `None` stands for everything.
fn allowed() -> BTreeMap<&'static str, Option<Vec<&'static str>>> {
    BTreeMap::from([
        // Pure.
        ("component", Some(vec![])),
        // Data planes: no crate of the control plane, so that they serve while it is down.
        ("keeper", Some(vec![])),
        // Text in, text out.
        ("scram", Some(vec![])),
        // Asks the keeper for sleep and waking.
        ("gateway", Some(vec!["keeper", "scram"])),
        // Asks the keeper for workers, and which addresses may be dialled.
        ("functions", Some(vec!["keeper", "relay"])),
        // Knows addresses, and nobody here.
        ("relay", Some(vec![])),
        // Knows bytes and folders, and no database.
        ("package", Some(vec!["component"])),
        // Asks the keeper whether a server takes sessions.
        ("archiver", Some(vec!["keeper"])),
        // Knows a server by a connection, and nobody here.
        ("transfer", Some(vec![])),
        // Reads what a transfer writes, and is signed in to as a server is.
        ("lake", Some(vec!["scram", "transfer"])),
        ("store", Some(vec!["component"])),
        ("client", Some(vec!["component"])),
        // Knows no concrete driver.
        ("reconciler", Some(vec!["component", "store"])),
        // Speaks to the data planes by their own files and sockets; writes no SQL to the store.
        (
            "driver-local",
            Some(vec![
                "archiver",
                "component",
                "functions",
                "gateway",
                "keeper",
                "package",
                "relay",
                "transfer",
            ]),
        ),
        // Knows ids of tenants, and no clock, network or database.
        ("logs", Some(vec!["component"])),
        // Knows nobody: what it is given, it proves.
        ("identity", Some(vec![])),
        // Meets drivers and the reconciler in the database only.
        ("server", Some(vec!["client", "component", "identity", "logs", "package", "store"])),
        ("test-support", None),
        ("stead", None),
    ])
}

/// Crates that `component` must not know, because it knows no clock, no file, no database and no cloud.
const IMPURE: [&str; 8] =
    ["tokio", "sqlx", "tokio-postgres", "axum", "reqwest", "rustix", "aws-config", "nix"];

#[test]
fn the_arrows_point_one_way() {
    let metadata = MetadataCommand::new().no_deps().other_options(vec!["--offline".into()]).exec().unwrap();
    let ours: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let mut allowed = allowed();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(may) = allowed.remove(name) else {
            wrong.push(format!(
                "crate `{name}` is not in the map: add it to this test and to ARCHITECTURE.md"
            ));
            continue;
        };
        let used = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        for dependency in used {
            let to = dependency.name.as_str();
            if name == "component" && IMPURE.contains(&to) {
                wrong.push(format!("`component` depends on `{to}` and is no longer pure"));
            }
            if ours.contains(to) && may.as_ref().is_some_and(|may| !may.contains(&to)) {
                wrong.push(format!("`{name}` depends on `{to}`, which the map forbids"));
            }
        }
    }
    wrong.extend(allowed.keys().map(|gone| format!("crate `{gone}` is in the map but not in the workspace")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
