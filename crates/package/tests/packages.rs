//! Folders that are packed, and zips that somebody else made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use package::{BuildError, IGNORE_FILE, Refused, UnpackError, build, check, digest, unpack};
use rand::{RngExt, SeedableRng};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("lib/deep")).unwrap();
    fs::write(at("index.mjs"), "export const handler = async () => 1;\n").unwrap();
    fs::write(at("lib/deep/data.bin"), [0u8; 10_000]).unwrap();
    fs::write(at("bootstrap"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at("bootstrap"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("deep/data.bin", at("lib/link")).unwrap();
    folder
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, contents) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        if name.ends_with('/') {
            zip.add_directory(*name, options).unwrap();
        } else if *mode == 0o120_777 {
            zip.add_symlink(*name, std::str::from_utf8(contents).unwrap(), options).unwrap();
        } else {
            zip.start_file(*name, options).unwrap();
            zip.write_all(contents).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let first = folder();
    let zip = build(first.path()).unwrap();
    let second = folder();
    // Made in another order, at another time, by somebody with another umask.
    fs::remove_file(second.path().join("index.mjs")).unwrap();
    fs::write(second.path().join("index.mjs"), "export const handler = async () => 1;\n").unwrap();
    fs::set_permissions(second.path().join("index.mjs"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(second.path().join("bootstrap"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(digest(&zip), digest(&build(second.path()).unwrap()));
    fs::set_permissions(second.path().join("bootstrap"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_ne!(digest(&zip), digest(&build(second.path()).unwrap()), "the execute bit is part of it");
}

#[test]
fn what_was_packed_comes_out_as_it_was() {
    let zip = build(folder().path()).unwrap();
    let found = check(&zip).unwrap();
    assert_eq!((found.files, found.bytes), (4, 38 + 10_000 + 10));
    let into = tempfile::tempdir().unwrap();
    assert_eq!(unpack(&zip, into.path()).unwrap(), found);
    let at = |name: &str| into.path().join(name);
    assert_eq!(fs::read(at("lib/link")).unwrap(), [0u8; 10_000]);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bootstrap"), mode("index.mjs"), mode("lib")), (0o755, 0o644, 0o755));
}

#[test]
fn what_is_ignored_stays_out() {
    let folder = folder();
    fs::write(folder.path().join(IGNORE_FILE), "*.bin\nlib/link\n!kept.bin\n").unwrap();
    fs::write(folder.path().join("kept.bin"), "kept").unwrap();
    fs::create_dir(folder.path().join(".git")).unwrap();
    fs::write(folder.path().join(".git/HEAD"), "x").unwrap();
    // What a repository ignores is often just what has to be packed.
    fs::write(folder.path().join(".gitignore"), "node_modules\n").unwrap();
    fs::create_dir(folder.path().join("node_modules")).unwrap();
    fs::write(folder.path().join("node_modules/m.js"), "x").unwrap();
    let into = tempfile::tempdir().unwrap();
    unpack(&build(folder.path()).unwrap(), into.path()).unwrap();
    let there = |name: &str| into.path().join(name).exists();
    assert!(there("kept.bin") && there("node_modules/m.js") && there("index.mjs"));
    assert!(!there("lib/link") && !there("lib/deep/data.bin") && !there(".git") && !there(IGNORE_FILE));
}

#[test]
fn folders_that_cannot_be_packed_say_why() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(build(empty.path()), Err(BuildError::Empty(_))));
    let leads_out = folder();
    symlink("../../etc/passwd", leads_out.path().join("lib/out")).unwrap();
    assert!(matches!(build(leads_out.path()), Err(BuildError::Link(_))));
    let large = folder();
    fs::File::create(large.path().join("large")).unwrap().set_len(300 * 1024 * 1024).unwrap();
    let message = build(large.path()).unwrap_err().to_string();
    assert!(message.contains("262144000") && message.contains(IGNORE_FILE), "{message}");
    assert!(matches!(build(Path::new("/nowhere")), Err(BuildError::Ignore(_))));
}

#[test]
fn a_zip_that_leads_elsewhere_is_refused() {
    let plain = |name| zip_of(&[(name, 0o644, b"x")]);
    for name in ["/etc/passwd", "../up", "a/../../up", "a\\b", "", ".", "..", "a//b"] {
        let refused = check(&plain(name));
        assert!(matches!(refused, Err(Refused::Name(_))), "{name:?}: {refused:?}");
        let into = tempfile::tempdir().unwrap();
        assert!(matches!(unpack(&plain(name), into.path()), Err(UnpackError::Refused(_))));
        assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0, "{name:?}");
    }
    for target in ["/etc", "../..", "../x"] {
        let zip = zip_of(&[("a", 0o120_777, target.as_bytes())]);
        assert!(matches!(check(&zip), Err(Refused::Link(_))), "{target}");
    }
    // Through a link that is itself harmless, out by what is written below it.
    let through = zip_of(&[("a", 0o120_777, b"b"), ("a/c", 0o644, b"x")]);
    assert!(matches!(check(&through), Err(Refused::Twice(_))));
    let later = zip_of(&[("a/c", 0o644, b"x"), ("a", 0o120_777, b"b")]);
    assert!(matches!(check(&later), Err(Refused::Twice(_))));
    assert_eq!(check(&zip_of(&[("a/", 0o755, b"")])), Err(Refused::Empty));
}

#[test]
fn a_bomb_is_refused_by_what_comes_out_of_it() {
    let nought = vec![0u8; 128 * 1024 * 1024];
    let bomb = zip_of(&[("a", 0o644, &nought), ("b", 0o644, &nought)]);
    assert!(bomb.len() < 1024 * 1024);
    assert_eq!(check(&bomb), Err(Refused::Large));
    assert_eq!(Refused::Large.to_string(), "Unzipped size must be smaller than 262144000 bytes");
    let into = tempfile::tempdir().unwrap();
    assert!(matches!(unpack(&bomb, into.path()), Err(UnpackError::Refused(Refused::Large))));
}

#[test]
fn no_bytes_make_it_panic_or_write_elsewhere() {
    let zip = build(folder().path()).unwrap();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..3_000 {
        let mut bytes = zip.clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        bytes.truncate(rng.random_range(0..=bytes.len() * 2).min(bytes.len()));
        refused += u32::from(check(&bytes).is_err());
    }
    assert!(refused > 1_000, "{refused}");
}
