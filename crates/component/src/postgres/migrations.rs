//! From files of SQL to migrations: their order, their hashes, and the mistakes that would hurt later.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Migration, MigrationName};
use crate::manifest::{Fault, FieldError, shown};

/// Migrations in the order of running, and their texts by SHA-256.
type Migrations = (Vec<Migration>, BTreeMap<String, String>);

/// Turns files (name, text) into migrations in the order of running, and their texts by SHA-256.
///
/// # Errors
/// Everything that is wrong; a pointer is `/<index in files>/name` or `/<index in files>/sql`.
pub fn migrations(files: Vec<(String, String)>) -> Result<Migrations, Vec<FieldError>> {
    check(files).map_err(|faults| {
        faults
            .into_iter()
            .map(|(pointer, fault)| FieldError {
                pointer,
                message: format!("{}; {}", fault.message, fault.help),
            })
            .collect()
    })
}

pub(crate) fn check(files: Vec<(String, String)>) -> Result<Migrations, Vec<(String, Fault)>> {
    let mut faults = Vec::new();
    let mut named: Vec<(MigrationName, usize)> = Vec::with_capacity(files.len());
    for (index, (name, text)) in files.iter().enumerate() {
        match name.parse() {
            Ok(name) => named.push((name, index)),
            Err(_) => faults.push((format!("/{index}/name"), bad_name(name))),
        }
        faults.extend(text_fault(name, text).map(|fault| (format!("/{index}/sql"), fault)));
    }
    named.sort_unstable();
    faults.extend(name_clashes(&named));
    if !faults.is_empty() {
        faults.sort_by_key(|(pointer, _)| {
            pointer[1..].split('/').next().and_then(|index| index.parse::<usize>().ok())
        });
        return Err(faults);
    }
    let mut schema = Vec::with_capacity(named.len());
    let mut texts = BTreeMap::new();
    let mut by_index: Vec<Option<String>> = files.into_iter().map(|(_, text)| Some(text)).collect();
    for (name, index) in named {
        let text = by_index[index].take().unwrap_or_default();
        let sha256 = hex(&Sha256::digest(text.as_bytes()));
        schema.push(Migration { name, sha256: sha256.clone() });
        texts.insert(sha256, text);
    }
    Ok((schema, texts))
}

fn bad_name(name: &str) -> Fault {
    let message = format!("`{}` cannot be the name of a migration", shown(name));
    Fault::new(message, "not a name", "use letters, digits, _ - and ., ending in .sql, like 0001_tables.sql")
}

fn text_fault(name: &str, text: &str) -> Option<Fault> {
    let name = shown(name);
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        return Some(Fault::new(
            format!("{name} is empty"),
            "empty",
            "write some SQL into it, or take the file away",
        ));
    }
    let line = text.split('\0').next()?.matches('\n').count() + 1;
    text.contains('\0').then(|| {
        let message = format!("{name} holds a NUL byte in line {line}");
        Fault::new(message, "not text", "save it as UTF-8 text")
    })
}

/// Names that are the same but for case (one file, on some disks), and numbers that do not sort as they count.
fn name_clashes(sorted: &[(MigrationName, usize)]) -> Vec<(String, Fault)> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<String, &MigrationName> = BTreeMap::new();
    for (name, index) in sorted {
        if let Some(other) = seen.insert(name.as_str().to_ascii_lowercase(), name) {
            let message = if other == name {
                format!("{name} is there twice")
            } else {
                format!("{name} and {other} differ only in capital letters")
            };
            faults.push((
                format!("/{index}/name"),
                Fault::new(message, "there twice", "give one of them another name"),
            ));
        }
    }
    for pair in sorted.windows(2) {
        let [(before, index), (after, _)] = pair else { continue };
        if number(before).zip(number(after)).is_some_and(|(first, second)| first > second) {
            let message =
                format!("{before} would run before {after}, because names are sorted letter by letter");
            let help = "write every number with the same digits, like 0002 and 0010";
            faults.push((format!("/{index}/name"), Fault::new(message, "out of order", help)));
        }
    }
    faults
}

/// The number that a name begins with.
fn number(name: &MigrationName) -> Option<u128> {
    let name = name.as_str();
    name[..name.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
