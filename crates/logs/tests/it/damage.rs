//! A disk that gives back something else: what is damaged is named, the rest is read, nothing panics.

use std::ops::ControlFlow;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use logs::{Damage, Search};

use crate::home::{ACME, Home, line, tenant};

fn segments(home: &Home) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for day in std::fs::read_dir(home.path().join("logs/store").join(tenant(ACME).to_string())).unwrap() {
        for file in std::fs::read_dir(day.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

fn read(home: &Home) -> (usize, Vec<Damage>) {
    let store = home.store();
    let mut lines = 0;
    let damage = store.search(&Search::all(tenant(ACME)), usize::MAX, |_| {
        lines += 1;
        ControlFlow::Continue(())
    });
    let damage = damage.unwrap();
    let counted =
        store.histogram(&Search { since: 0, until: i64::MAX, ..Search::all(tenant(ACME)) }, 1).unwrap();
    assert!(counted.damage.len() <= damage.len() + 1);
    (lines, damage)
}

#[test]
fn a_turned_byte_costs_one_block_and_is_named() {
    let home = Home::new();
    for round in 0..6 {
        home.write(ACME, (0..40).map(|n| line(60, "LOG", &format!("line {round} {n}"))));
        let (store, _) = home.collected();
        store
            .checkpoint(Timestamp::now() + SignedDuration::from_hours(if round == 5 { 48 } else { 0 }))
            .unwrap();
    }
    let path = segments(&home).remove(0);
    assert_eq!(path.extension().unwrap(), "seg");
    let sound = std::fs::read(&path).unwrap();
    assert_eq!(read(&home), (240, vec![]));
    for at in (0..sound.len()).step_by(41) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x20;
        std::fs::write(&path, &bytes).unwrap();
        let (lines, damage) = read(&home);
        assert_eq!((lines, damage.len()), (200, 1), "byte {at}");
        let found = &damage[0];
        assert!(found.path == path && found.offset <= at as u64 && (at as u64) < found.offset + found.length);
    }
}

/// An open segment that is damaged in its middle is not cut there: what is behind it would be lost.
#[test]
fn damage_within_an_open_segment_costs_no_more() {
    let home = Home::new();
    for round in 0..4 {
        home.write(ACME, (0..10).map(|n| line(60, "LOG", &format!("line {round} {n}"))));
        let (store, _) = home.collected();
        store.checkpoint(Timestamp::now()).unwrap();
    }
    let path = segments(&home).remove(0);
    assert_eq!(path.extension().unwrap(), "open");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    home.write(ACME, [line(1, "LOG", "more")]);
    drop(home.collected());
    let (lines, damage) = read(&home);
    assert_eq!((lines, damage.len()), (31, 1));
}

#[test]
fn any_bytes_are_no_reason_to_panic() {
    use rand::{RngExt, SeedableRng};
    let home = Home::new();
    home.write(ACME, (0..100).map(|n| line(60, "LOG", &format!("line {n}"))));
    let (store, _) = home.collected();
    store.checkpoint(Timestamp::now() + SignedDuration::from_hours(48)).unwrap();
    drop(store);
    let path = segments(&home).remove(0);
    let sound = std::fs::read(&path).unwrap();
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for _ in 0..200 {
        let mut bytes = sound.clone();
        for _ in 0..random.random_range(1..20) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=bytes.len()));
        std::fs::write(&path, &bytes).unwrap();
        let (lines, _) = read(&home);
        assert!(lines <= 100);
    }
}
