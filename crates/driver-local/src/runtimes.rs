//! The interpreters on the host that functions may name.
//!
//! Looked for below `$STEAD_HOME/runtimes` and folders that were named, each in a folder called as AWS calls the
//! runtime (`nodejs24.x/bin/node`, `python3.13/bin/python3.13`), and among the system's own programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use component::function::{RUNTIMES, RuntimeFacts};
use functions::route::{Interpreter, Language};

/// The interpreters by the name of the runtime; the first folder that has one wins, the system's comes last.
#[derive(Debug, Clone, Default)]
pub struct Runtimes(BTreeMap<String, Interpreter>);

impl Runtimes {
    /// Looks for interpreters.
    #[must_use]
    pub fn discover(home: &Path, dirs: &[PathBuf]) -> Self {
        let roots: Vec<PathBuf> = dirs.iter().cloned().chain([home.join("runtimes")]).collect();
        let node = system_node();
        let found = RUNTIMES.iter().filter_map(|facts| {
            let below = roots.iter().find_map(|root| in_folder(facts, root));
            Some((facts.name.to_owned(), below.or_else(|| of_system(facts, node.as_deref()))?))
        });
        Self(found.collect())
    }

    /// Names of all of them.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// Whether one is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn all(&self) -> &BTreeMap<String, Interpreter> {
        &self.0
    }
}

fn language(facts: &RuntimeFacts) -> Option<(Language, &'static str)> {
    match facts.interpreter? {
        ("node", version) => Some((Language::Node, version)),
        ("python", version) => Some((Language::Python, version)),
        _ => None,
    }
}

fn in_folder(facts: &RuntimeFacts, root: &Path) -> Option<Interpreter> {
    let (language, version) = language(facts)?;
    let folder = std::fs::canonicalize(root.join(facts.name)).ok()?;
    let program = match language {
        Language::Node => "bin/node".to_owned(),
        Language::Python => format!("bin/python{version}"),
    };
    folder.join(&program).is_file().then(|| Interpreter {
        language,
        folder: Some(folder),
        program: format!("/var/lang/{program}"),
    })
}

/// The system's programs, which every worker sees at the same place.
fn of_system(facts: &RuntimeFacts, node: Option<&str>) -> Option<Interpreter> {
    let (language, version) = language(facts)?;
    let program = match language {
        Language::Node => "/usr/bin/node".to_owned(),
        Language::Python => format!("/usr/bin/python{version}"),
    };
    let there = match language {
        Language::Node => node == Some(version),
        Language::Python => Path::new(&program).is_file(),
    };
    there.then_some(Interpreter { language, folder: None, program })
}

/// Major version of the system's node, as itself says: nothing else tells.
fn system_node() -> Option<String> {
    let mut node = Command::new("/usr/bin/node");
    let said = node.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    Some(text.trim().strip_prefix('v')?.split('.').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_found_by_the_name_of_their_folder() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("runtimes/nodejs24.x/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("node"), "").unwrap();
        std::fs::create_dir_all(home.path().join("runtimes/python3.14/bin")).unwrap();
        let found = Runtimes::discover(home.path(), &[]);
        let node = &found.all()["nodejs24.x"];
        assert_eq!((node.program.as_str(), node.language), ("/var/lang/bin/node", Language::Node));
        assert_eq!(node.folder.as_deref(), bin.parent().unwrap().canonicalize().ok().as_deref());
        assert!(!found.has("python3.14") || Path::new("/usr/bin/python3.14").exists());
        assert!(!found.has("provided.al2023"), "it needs none");
    }
}
