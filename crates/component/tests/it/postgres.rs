//! Sizes, settings, and how a wish becomes a spec.

use std::collections::BTreeSet;

use component::postgres::{Major, Size, Spec, Wish, resolve, settings};
use component::{Difference, differences};
use component::{Offer, Refused};

use serde_json::json;

use crate::world::spec;

fn engines(majors: &[u16]) -> Offer {
    Offer { engines: majors.iter().map(|major| Major::new(*major)).collect(), ..Offer::default() }
}

fn wish(engine: Option<u16>) -> Wish {
    Wish { engine: engine.map(Major::new), ..Wish::default() }
}

fn engine_of(resolved: Result<Spec, Refused>) -> Result<u16, String> {
    resolved.map(|spec| spec.engine.get()).map_err(|refused| format!("{}: {refused}", refused.field))
}

#[test]
fn an_engine_is_chosen_once_and_kept() {
    let current = Spec { engine: Major::new(16), ..spec() };
    let all = engines(&[15, 16, 17, 18]);
    assert_eq!(engine_of(resolve(&wish(None), None, &all)), Ok(18), "the newest for a new server");
    assert_eq!(engine_of(resolve(&wish(Some(15)), None, &all)), Ok(15));
    assert_eq!(
        engine_of(resolve(&wish(None), Some(&current), &all)),
        Ok(16),
        "unchanged for an existing one"
    );
    assert_eq!(engine_of(resolve(&wish(Some(16)), Some(&current), &engines(&[]))), Ok(16));
    let refused: Vec<_> = [
        resolve(&wish(Some(15)), Some(&current), &all),
        resolve(&wish(Some(18)), Some(&current), &all),
        resolve(&wish(Some(17)), None, &engines(&[15, 18])),
        resolve(&wish(Some(17)), None, &engines(&[])),
        resolve(&wish(None), None, &engines(&[])),
    ]
    .into_iter()
    .map(|result| engine_of(result).expect_err("a refusal"))
    .collect();
    insta::assert_yaml_snapshot!(refused);
}

#[test]
fn what_is_left_out_is_chosen() {
    let spec = resolve(&Wish::default(), None, &engines(&[15])).expect("a spec");
    insta::assert_json_snapshot!(spec);
    let read: Spec = serde_json::from_value(serde_json::to_value(&spec).expect("JSON")).expect("a spec");
    assert_eq!(read, spec);
}

#[test]
fn a_spec_that_was_stored_before_servers_slept_never_sleeps() {
    let mut stored = serde_json::to_value(spec()).expect("JSON");
    assert!(stored.as_object_mut().and_then(|fields| fields.remove("idle")).is_some(), "it is in new ones");
    assert_eq!(serde_json::from_value::<Spec>(stored).expect("a spec").idle, None);
}

#[test]
fn idle_is_an_edit_like_any_other_and_restarts_nothing() {
    let wish = Wish { idle: Some("300s".parse().expect("a length")), ..Wish::default() };
    let before = resolve(&Wish::default(), None, &engines(&[18])).expect("a spec");
    let after = resolve(&wish, Some(&before), &engines(&[18])).expect("a spec");
    assert!(!after.restarts(&before));
    let json = |spec: &Spec| serde_json::to_value(spec).expect("JSON");
    let difference = |before, after| Difference { field: "idle".into(), before, after };
    assert_eq!(differences(&json(&before), &json(&after)), [difference(json!(null), json!("5m"))]);
    let again = resolve(&Wish::default(), Some(&after), &engines(&[18])).expect("a spec");
    assert_eq!(differences(&json(&after), &json(&again)), [difference(json!("5m"), json!(null))], "left out");
}

#[test]
fn lists_are_sets() {
    let net = |text: &str| text.parse().expect("a network");
    let wish = Wish {
        allow: Some(vec![net("10.0.0.0/8"), net("::1/128"), net("10.0.0.0/8")]),
        extensions: vec!["pg_trgm".into(), "citext".into(), "pg_trgm".into()],
        ..Wish::default()
    };
    let spec = resolve(&wish, None, &engines(&[15])).expect("a spec");
    assert_eq!(spec.allow, [net("10.0.0.0/8"), net("::1/128")]);
    assert_eq!(spec.extensions, ["citext", "pg_trgm"]);
    let closed = Wish { allow: Some(vec![]), ..Wish::default() };
    assert_eq!(resolve(&closed, None, &engines(&[15])).expect("a spec").allow, [], "closed to everybody");
}

/// What each size and engine makes of a server, as it stands in its configuration.
#[test]
fn settings_follow_from_size_and_engine() {
    for size in Size::ALL {
        let spec = Spec { size, engine: Major::new(18), ..spec() };
        let lines: Vec<String> =
            settings(&spec).iter().map(|s| format!("{} = '{}'", s.name, s.value)).collect();
        insta::assert_snapshot!(format!("settings_{size}"), lines.join("\n"));
        let names: BTreeSet<_> = settings(&spec).iter().map(|s| s.name).collect();
        assert_eq!(names.len(), lines.len(), "a setting is there twice");
    }
    let names = |major| {
        let spec = Spec { engine: Major::new(major), ..spec() };
        settings(&spec).into_iter().map(|s| s.name).collect::<BTreeSet<_>>()
    };
    assert!(names(15).is_subset(&names(17)) && names(17).is_subset(&names(18)));
    assert!(!names(16).contains("allow_alter_system") && names(17).contains("allow_alter_system"));
    assert!(!names(17).contains("io_method") && names(18).contains("io_method"));
}

#[test]
fn sizes_grow_and_fit_into_their_memory() {
    for pair in Size::ALL.windows(2) {
        let (small, big) = (pair[0].limits(), pair[1].limits());
        assert!(
            small.memory_mib < big.memory_mib
                && small.disk_mib < big.disk_mib
                && small.sessions < big.sessions
        );
    }
    for size in Size::ALL {
        let limits = size.limits();
        let sorting = limits.work_mem_mib * u64::from(limits.sessions) / 2;
        assert!(limits.shared_buffers_mib + sorting <= limits.memory_mib, "{size}");
        assert!(
            limits.wal_mib * 10 <= limits.disk_mib + limits.disk_mib / 4,
            "{size}: WAL takes a tenth of the disk"
        );
        assert_eq!(size.as_str().parse(), Ok(size));
    }
}

/// The table of sizes as the documentation shows it.
fn sizes_table() -> String {
    let amount = |mib: u64| {
        if mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
    };
    let rows = Size::ALL.map(|size| (size, size.limits()));
    let mut table = String::from("| |");
    table.extend(rows.iter().map(|(size, _)| format!(" `{size}` |")));
    table.push_str("\n|---|");
    table.push_str(&"--:|".repeat(rows.len()));
    let mut row = |title: &str, cell: &dyn Fn(&component::postgres::Limits) -> String| {
        table.push_str(&format!("\n| {title} |"));
        table.extend(rows.iter().map(|(_, limits)| format!(" {} |", cell(limits))));
    };
    row("memory of the whole server", &|l| amount(l.memory_mib));
    row("disk; beyond it the server is read-only", &|l| amount(l.disk_mib));
    row("client sessions at once", &|l| l.sessions.to_string());
    row("`shared_buffers`", &|l| amount(l.shared_buffers_mib));
    row("`effective_cache_size`", &|l| amount(l.cache_mib));
    row("`work_mem`", &|l| amount(l.work_mem_mib));
    row("`maintenance_work_mem`", &|l| amount(l.maintenance_mem_mib));
    row("`max_wal_size`, `max_slot_wal_keep_size`", &|l| amount(l.wal_mib));
    row("`temp_file_limit`", &|l| amount(l.disk_mib / 4));
    row("`autovacuum_max_workers`", &|l| l.autovacuum_workers.to_string());
    row("`max_parallel_workers`", &|l| l.parallel_workers.to_string());
    table.push('\n');
    table
}

#[test]
fn the_documentation_shows_the_sizes_as_they_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/manifest.md");
    let page = std::fs::read_to_string(path).expect("docs/manifest.md");
    let table = page
        .split("<!-- sizes -->\n")
        .nth(1)
        .and_then(|rest| rest.split("<!-- /sizes -->").next())
        .expect("a table between <!-- sizes --> and <!-- /sizes -->");
    assert_eq!(table, sizes_table(), "put this between the two marks:\n{}", sizes_table());
}
