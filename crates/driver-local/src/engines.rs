//! The engines on the host: Debian's, those below `$STEAD_HOME/engines` and below folders that were named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use component::postgres::Major;

/// An installed engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Folder of its programs.
    pub bin: PathBuf,
    /// Whether it brings `pg_stat_statements`.
    pub stat_statements: bool,
}

/// The engines by major version; the first folder that has one wins.
#[derive(Debug, Clone, Default)]
pub struct Engines(BTreeMap<Major, Engine>);

/// Versions that this Stead knows how to run.
const KNOWN: std::ops::RangeInclusive<u16> = 15..=18;

impl Engines {
    /// Looks for engines.
    #[must_use]
    pub fn discover(home: &Path, dirs: &[PathBuf]) -> Self {
        let named = dirs.iter().cloned();
        let roots = named.chain([home.join("engines"), PathBuf::from("/usr/lib/postgresql")]);
        let mut found = BTreeMap::new();
        for root in roots {
            for number in KNOWN {
                let bin = root.join(number.to_string()).join("bin");
                if bin.join("postgres").is_file() && bin.join("initdb").is_file() {
                    let stat_statements = has_stat_statements(&bin, number);
                    found.entry(Major::new(number)).or_insert(Engine { bin, stat_statements });
                }
            }
        }
        Self(found)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, major: Major) -> Option<&Engine> {
        self.0.get(&major)
    }

    /// All versions.
    #[must_use]
    pub fn majors(&self) -> BTreeSet<Major> {
        self.0.keys().copied().collect()
    }

    /// The newest.
    #[must_use]
    pub fn newest(&self) -> Option<(Major, &Engine)> {
        self.0.last_key_value().map(|(major, engine)| (*major, engine))
    }
}

/// Debian keeps libraries in `lib` beside `bin`, PyPI's packages in `lib/postgresql` or `lib`.
fn has_stat_statements(bin: &Path, number: u16) -> bool {
    let Some(root) = bin.parent() else { return false };
    let library =
        ["lib", "lib/postgresql"].iter().any(|lib| root.join(lib).join("pg_stat_statements.so").is_file());
    let control = [
        root.join("share/extension"),
        root.join("share/postgresql/extension"),
        PathBuf::from(format!("/usr/share/postgresql/{number}/extension")),
    ];
    library && control.iter().any(|dir| dir.join("pg_stat_statements.control").is_file())
}
