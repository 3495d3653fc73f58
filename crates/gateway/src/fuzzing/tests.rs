//! The targets on stable Rust: every seed, and what becomes of seeds when they are mangled.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{TARGETS, Target};

/// Mangled inputs of each target.
const ROUNDS: u64 = 4000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = folder().join("seeds").join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Runs a target on bytes; where something does not hold the bytes are said, to be made a seed.
fn run(name: &str, target: Target, bytes: &[u8]) {
    let outcome = std::panic::catch_unwind(|| target(bytes));
    assert!(outcome.is_ok(), "{name}: it does not hold of b\"{}\"", bytes.escape_ascii());
}

#[test]
fn it_holds_of_every_seed() {
    for (name, target) in TARGETS {
        run(name, *target, b"");
        for seed in seeds(name) {
            run(name, *target, &seed);
        }
    }
}

/// The same inputs each time: what is found here is found again.
#[test]
fn it_holds_of_mangled_seeds() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        for round in 0..ROUNDS {
            run(name, *target, &mangled(&seeds, &mut StdRng::seed_from_u64(round)));
        }
    }
}

/// A seed with some of its bytes changed, moved, doubled or gone.
fn mangled(seeds: &[Vec<u8>], dice: &mut StdRng) -> Vec<u8> {
    const WORDS: [u32; 9] = [0, 3, 4, 5, 8, 0x0003_0002, 1 << 20, i32::MAX.cast_unsigned(), u32::MAX];
    let mut bytes = seeds[dice.random_range(0..seeds.len())].clone();
    for _ in 0..dice.random_range(0..5) {
        let at = dice.random_range(0..=bytes.len());
        let to = dice.random_range(at..=bytes.len());
        match dice.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => bytes.insert(at, dice.random()),
            3 => bytes.extend_from_within(at..to),
            4 => bytes.extend_from_slice(&seeds[dice.random_range(0..seeds.len())]),
            5 if at + 4 <= bytes.len() => {
                let word = WORDS[dice.random_range(0..WORDS.len())];
                bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << dice.random_range(0..8),
            _ => {}
        }
    }
    bytes
}

/// A target that lacks its binary or its seeds would be run by nobody.
#[test]
fn every_target_is_complete() {
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let binaries: BTreeSet<&str> =
        manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1)).collect();
    assert_eq!(binaries, TARGETS.iter().map(|(name, _)| *name).collect(), "fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        let binary = folder().join(format!("fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(&binary).unwrap_or_default();
        assert!(text.contains(&format!("gateway::fuzzing::{name}(")), "{}", binary.display());
        assert!(seeds(name).len() > 3, "{name} has hardly any seeds");
    }
}
