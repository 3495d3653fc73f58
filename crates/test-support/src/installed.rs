//! What `script/setup --tests` puts on a machine.

use std::path::PathBuf;

/// Where a tool of the tests is: where its variable says, else below the folder of Stead in the user's cache.
pub fn place(variable: &str, below: &str) -> PathBuf {
    let cache = || {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from)
    };
    std::env::var_os(variable).map_or_else(|| cache().join("stead").join(below), PathBuf::from)
}

/// The same, where it is there. Where it is not, a test that is left out says so.
///
/// # Panics
/// Where it is not there on the machine that checks, which leaves no test out.
#[expect(clippy::print_stdout, reason = "a test that is left out says so")]
pub fn installed(variable: &str, below: &str) -> Option<PathBuf> {
    let place = place(variable, below);
    if place.exists() {
        return Some(place);
    }
    let missing = format!("{} is missing; run script/setup --tests", place.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
    println!("{missing}");
    None
}
