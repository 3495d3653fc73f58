//! A collector that is killed between any two effects: every line is stored, once.

use std::collections::BTreeSet;
use std::path::Path;

use logs::{Owner, Search};
use serde_json::json;

use crate::home::{ACME, BOLT, Home, counted, find, line, tenant};

/// Every point at which one may die.
const POINTS: [&str; 9] = [
    "logs::opened",
    "logs::half-written",
    "logs::written",
    "logs::positions-drafted",
    "logs::positions-written",
    "logs::closed",
    "logs::merge-drafted",
    "logs::merged",
    "logs::part-removed",
];

#[test]
fn every_fail_point_is_driven() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let names =
            text.split("fail_point!(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        found.extend(names);
    }
    assert_eq!(found, POINTS.map(str::to_owned).into());
}

/// Writes a round of lines: to both servers, and to a file of which each has some lines and nobody has others.
fn write(home: &Home, round: usize) -> usize {
    // Every other line is of the day before: two segments of a tenant are written at once.
    let lines = |handle: &str| {
        let said = (0..20)
            .map(|n| line(if n % 2 == 0 { 0 } else { 86_400 }, "LOG", &format!("{handle} {round} {n}")));
        home.write(handle, said.collect::<Vec<_>>());
    };
    lines(ACME);
    lines(BOLT);
    for n in 0..30 {
        let server = [ACME, BOLT, ""][n % 3];
        let said = json!({"at": jiff::Timestamp::now(), "server": server, "message": format!("gateway {round} {n}")});
        home.append("logs/gateway.jsonl", format!("{said}\n"));
    }
    70
}

fn is_once(home: &Home, lines: usize, point: &str) {
    let store = home.store();
    let mut sum = 0;
    for owner in [tenant(ACME), tenant(BOLT), Owner::Installation] {
        let counts = counted(&store, owner);
        let odd: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
        assert_eq!(odd, Vec::<(&String, &usize)>::new(), "{point}: stored more than once");
        sum += counts.len();
    }
    assert_eq!(sum, lines, "{point}: lines that were written and are stored");
}

#[test]
fn killed_anywhere_every_line_is_stored_once() {
    for point in POINTS {
        let home = Home::new();
        let mut lines = 0;
        let mut died = 0;
        for round in 0..8 {
            lines += write(&home, round);
            // Later and later on its way: after none, one, two of these effects.
            let killed = home.run(&format!("{point}={round}*off->return"));
            died += usize::from(!killed.success());
            if round % 3 == 2 {
                assert!(home.run("").success(), "{point}");
            }
        }
        assert!(home.run("").success(), "{point}");
        assert!(died > 0, "{point} was never passed");
        is_once(&home, lines, point);
    }
}

/// The control: without what open segments say of the files they came from, lines are doubled.
#[test]
fn without_the_guard_lines_are_doubled() {
    let home = Home::new();
    write(&home, 0);
    assert!(!home.run("logs::written=5*off->return").success());
    // The positions are behind, as after any kill; and the segments no longer say what they have.
    let mut segments = Vec::new();
    files(&home.path().join("logs/store"), &mut segments);
    for open in segments.iter().filter(|path| path.extension().is_some_and(|extension| extension == "open")) {
        let number: u64 = open.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        std::fs::rename(open, open.with_file_name(format!("{number:08}-{number:08}.seg"))).unwrap();
    }
    assert!(home.run("").success());
    let store = home.store();
    let doubled = [tenant(ACME), tenant(BOLT), Owner::Installation]
        .into_iter()
        .flat_map(|owner| counted(&store, owner))
        .filter(|(_, count)| *count > 1)
        .count();
    assert!(doubled > 0);
}

fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// What a loss of power leaves of a block: its beginning, or zeros.
#[test]
fn a_torn_end_is_read_again() {
    for tear in ["cut", "zeros"] {
        let home = Home::new();
        let lines = write(&home, 0);
        assert!(!home.run("logs::positions-drafted=1*off->return").success());
        let mut segments = Vec::new();
        files(&home.path().join("logs/store"), &mut segments);
        let open: Vec<_> = segments
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "open"))
            .collect();
        assert!(!open.is_empty());
        for path in open {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len();
            match tear {
                "cut" => file.set_len(length - 7).unwrap(),
                _ => std::os::unix::fs::FileExt::write_all_at(&file, &[0; 100], length - 100).unwrap(),
            }
        }
        assert!(home.run("").success());
        is_once(&home, lines, tear);
    }
}

#[test]
fn ids_stay_when_segments_are_put_together() {
    let home = Home::new();
    for round in 0..3 {
        write(&home, round);
        assert!(!home.run("logs::merge-drafted=return").success() || round == 0);
    }
    let before = find(&home.store(), &Search::all(tenant(ACME)));
    assert!(home.run("").success());
    assert_eq!(find(&home.store(), &Search::all(tenant(ACME))), before);
}
