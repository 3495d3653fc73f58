//! Which engines may be run: Debian's, those of the home, and those the host's operator named.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::host::Host;
use crate::wire::EngineProgram;

/// An engine that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    /// The program on the host.
    pub(crate) program: PathBuf,
    /// The engine's folder, which the sandbox must show; `None` for what lies below `/usr`.
    pub(crate) folder: Option<PathBuf>,
}

impl EngineProgram {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Initdb => "initdb",
            Self::Resetwal => "pg_resetwal",
            Self::Verifybackup => "pg_verifybackup",
        }
    }
}

/// Finds a program of an engine, or says why it may not be run.
///
/// Whoever can write unit files must not be able to name a program of their own: `bin` is
/// `<engines>/<major>/bin` without links, and everything down to `<major>` is root's.
pub(crate) fn find(
    bin: &Path,
    program: EngineProgram,
    dirs: &[PathBuf],
    host: &Host,
) -> Result<Engine, String> {
    let shown = bin.display();
    let fits = bin.is_absolute()
        && bin.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
        && bin.file_name().is_some_and(|name| name == "bin");
    let major = bin.parent().filter(|_| fits);
    let debian = Path::new("/usr/lib/postgresql");
    let known = major.and_then(|major| {
        let parent = major.parent()?;
        let number = major.file_name()?.to_str()?;
        let number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let named = dirs.iter().any(|dir| dir == parent);
        (number && (parent == debian || named)).then_some((major, parent))
    });
    let Some((major, parent)) = known else {
        let folders: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        return Err(format!(
            "`{shown}` is no engine; use /usr/lib/postgresql/<major>/bin or <folder>/<major>/bin below {}",
            folders.join(" or ")
        ));
    };
    let program = bin.join(program.name());
    let real = std::fs::canonicalize(&program)
        .map_err(|error| format!("engine program `{}` cannot be found: {error}", program.display()))?;
    if real != program {
        return Err(format!(
            "`{}` is a link to `{}`; name the real folder",
            program.display(),
            real.display()
        ));
    }
    for (path, ours) in [(parent, true), (major, true), (bin, false), (program.as_path(), false)] {
        let meta = std::fs::metadata(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        let platform =
            host.isolated && meta.uid() >= host.uid_first && meta.uid() - host.uid_first < host.uid_count;
        if meta.mode() & 0o022 != 0 || platform || (host.isolated && ours && meta.uid() != 0) {
            return Err(format!("others than root may change `{}`; chown and chmod it", path.display()));
        }
    }
    let folder = (!bin.starts_with("/usr")).then(|| major.to_owned());
    Ok(Engine { program, folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_but_an_engine_is_taken() {
        let host = Host { name: "h".into(), uid_first: 1_900_003_328, uid_count: 4096, isolated: false };
        let dirs = [PathBuf::from("/srv/engines")];
        let find = |bin: &str| find(Path::new(bin), EngineProgram::Postgres, &dirs, &host);
        assert!(find("/usr/lib/postgresql/15/bin").is_ok());
        for bad in [
            "/usr/lib/postgresql/15",
            "/usr/lib/postgresql/15/../15/bin",
            "/usr/lib/postgresql/x/bin",
            "/usr/lib/postgresql//bin",
            "usr/lib/postgresql/15/bin",
            "/tmp/15/bin",
            "/srv/engines/15/bin",
            "/srv/engines/15/lib/bin",
            "/bin",
            "",
        ] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }
}
