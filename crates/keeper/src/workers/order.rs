//! Whether a worker can be made, and claimed, as it is asked for.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::control::DESCRIPTORS;
use crate::host::Host;
use crate::wire::{WorkerClaim, WorkerLimits, WorkerOrder};

/// Bytes of all of a worker's small files.
const FILES_BYTES: usize = 256 * 1024;
/// Below this not even an interpreter starts.
const LEAST_MEMORY: u64 = 16 * 1024 * 1024;

/// What failed, in words for whoever asked.
type Wrong = String;

/// Checks what the types do not; the folder of the interpreter, where there is one.
pub(super) fn check(order: &WorkerOrder, dirs: &[PathBuf], host: &Host) -> Result<Option<PathBuf>, Wrong> {
    check_limits(&order.limits)?;
    check_run(&order.program, &order.env)?;
    for name in order.files.keys() {
        let fits = (1..=64).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !fits {
            return Err(format!("`{name}` is no name of a file of a worker"));
        }
    }
    if order.files.values().map(String::len).sum::<usize>() > FILES_BYTES {
        return Err(format!("the files of a worker are more than {FILES_BYTES} bytes"));
    }
    order.lang.as_deref().map(|lang| find_lang(lang, dirs, host)).transpose()
}

pub(super) fn check_claim(claim: &WorkerClaim) -> Result<(), Wrong> {
    check_limits(&claim.limits)?;
    let digest = claim.package.len() == 64
        && claim.package.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !digest {
        return Err("a package is named by its SHA-256, 64 hexadecimal digits".into());
    }
    if claim.sockets.is_some_and(|sockets| usize::from(sockets.get()) > DESCRIPTORS) {
        return Err(format!("sockets are at most {DESCRIPTORS}"));
    }
    let mut ports = claim.egress.clone();
    ports.sort_unstable();
    ports.dedup();
    if ports.len() != claim.egress.len() || ports.contains(&0) || ports.len() > DESCRIPTORS {
        return Err(format!("egress is at most {DESCRIPTORS} different ports, none of them 0"));
    }
    Ok(())
}

fn check_limits(limits: &WorkerLimits) -> Result<(), Wrong> {
    if limits.memory_bytes < LEAST_MEMORY {
        return Err(format!("memory_bytes is below {LEAST_MEMORY}"));
    }
    // The kernel takes a size of 0 for "without a limit".
    if limits.tmp_bytes == 0 || limits.pids == 0 {
        return Err("tmp_bytes or pids is 0".into());
    }
    Ok(())
}

/// Checks a program (none is fine) and its environment.
pub(super) fn check_run(program: &[String], env: &BTreeMap<String, String>) -> Result<(), Wrong> {
    if program.first().is_some_and(|program| !program.starts_with('/')) {
        return Err("the program is not an absolute path".into());
    }
    if program.iter().any(|arg| arg.contains('\0')) {
        return Err("an argument holds a NUL character".into());
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("environment variable {key:?} cannot be set"));
        }
    }
    Ok(())
}

/// Whoever can ask for workers must not be able to show them any folder of the host: it is `<runtimes>/<name>` without
/// links, and root's alone to change.
fn find_lang(lang: &Path, dirs: &[PathBuf], host: &Host) -> Result<PathBuf, Wrong> {
    let shown = lang.display();
    let plain = lang.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let parent = lang.parent().filter(|parent| plain && dirs.iter().any(|dir| dir == parent));
    let Some(parent) = parent else {
        let folders: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        return Err(format!("`{shown}` is no runtime; use a folder in {}", folders.join(" or ")));
    };
    let real = std::fs::canonicalize(lang).map_err(|error| format!("`{shown}` cannot be found: {error}"))?;
    if real != lang {
        return Err(format!("`{shown}` is a link to `{}`; name the real folder", real.display()));
    }
    for path in [parent, lang] {
        let meta = std::fs::metadata(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        if !meta.is_dir() || meta.mode() & 0o022 != 0 || meta.uid() != host.root().0 {
            return Err(format!("others than root may change `{}`; chown and chmod it", path.display()));
        }
    }
    Ok(real)
}
