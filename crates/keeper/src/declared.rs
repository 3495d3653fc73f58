//! Units as declared: read from `units/<unit>.json` and checked before anything acts on them.

use std::io;
use std::os::fd::AsFd;

use crate::files;
use crate::host::Host;
use crate::wire::{EngineProgram, Name, Reason, Refusal, Restart, Runs, Tree, Unit};

/// A unit file is small: arguments and environment.
const FILE_BYTES: u64 = 128 * 1024;

/// A limit below this would only make the kernel kill what has just been started.
const LEAST_MEMORY: u64 = 8 * 1024 * 1024;

pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { reason: Reason::Invalid, message: message.into() }
}

/// Reads the declaration of a unit; `None` where there is none.
pub(crate) fn read(units: impl AsFd, name: &Name) -> Result<Option<Unit>, Refusal> {
    let file = format!("{name}.json");
    let bytes = match files::read(units, &file, FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(invalid(format!("`units/{file}` cannot be read: {error}"))),
    };
    let unit: Unit = serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("`units/{file}` is not a unit: {error}; declare it again")))?;
    if unit.name != *name {
        return Err(invalid(format!(
            "`units/{file}` declares `{}`; a file is named like its unit",
            unit.name
        )));
    }
    check(&unit)?;
    Ok(Some(unit))
}

/// Names of all declared units.
pub(crate) fn names(units: impl AsFd) -> io::Result<Vec<Name>> {
    let names = files::list(units)?;
    Ok(names.iter().filter_map(|file| Name::parse(file.strip_suffix(".json")?).ok()).collect())
}

/// Checks what the types do not.
fn check(unit: &Unit) -> Result<(), Refusal> {
    let name = &unit.name;
    if unit.args.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid(format!("unit `{name}`: an argument holds a NUL character")));
    }
    for (key, value) in &unit.env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!("unit `{name}`: environment variable {key:?} cannot be set")));
        }
    }
    if unit.limits.memory_bytes.is_some_and(|bytes| bytes < LEAST_MEMORY) {
        return Err(invalid(format!("unit `{name}`: memory_bytes is below {LEAST_MEMORY}")));
    }
    if unit.limits.pids == Some(0) {
        return Err(invalid(format!("unit `{name}`: pids is 0")));
    }
    let once = match &unit.runs {
        Runs::Engine { program: EngineProgram::Postgres, .. }
        | Runs::Gateway
        | Runs::Archiver
        | Runs::Functions
        | Runs::Relay
        | Runs::Transfer { .. }
        | Runs::TransferElsewhere { .. }
        | Runs::Lake { .. } => None,
        Runs::Engine { program, .. } => Some(program.name()),
        Runs::Tool { tool, .. } => Some(tool.name()),
    };
    if let Some(program) = once
        && unit.restart != Restart::Never
    {
        return Err(invalid(format!("unit `{name}`: {program} runs once; say \"restart\": \"never\"")));
    }
    Ok(())
}

impl Unit {
    /// The tree it works on; that which a lake's process only reads is not its own.
    pub(crate) fn tree(&self) -> Option<&Tree> {
        match &self.runs {
            Runs::Engine { tree, .. }
            | Runs::Tool { tree, .. }
            | Runs::Transfer { tree, .. }
            | Runs::TransferElsewhere { tree, .. } => Some(tree),
            Runs::Lake { .. } | Runs::Gateway | Runs::Archiver | Runs::Functions | Runs::Relay => None,
        }
    }

    /// Whether it is a server that listens to SIGHUP.
    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self.runs, Runs::Engine { program: EngineProgram::Postgres, .. })
    }
}

/// The arguments or values of the environment as the process gets them. Inside a sandbox `/stead/` is
/// real. Where there is none (the keeper is not root), it stands for the tree's folder, at the beginning
/// of an argument or after a character that ends a word: `-D /stead/data`, `--conf=/stead/conf/x`,
/// `a='/stead/run'`.
pub(crate) fn placed(text: &str, host: &Host, tree_dir: &str) -> String {
    if host.isolated {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/stead/") {
        let before = rest[..at].chars().next_back().or(out.chars().next_back());
        let begins = before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-')));
        out.push_str(&rest[..at]);
        out.push_str(if begins { tree_dir } else { "/stead" });
        // The slash stays, so that it can be the beginning of the next word only by itself.
        out.push('/');
        rest = &rest[at + "/stead/".len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_sandbox_are_placed_where_there_is_none() {
        let host = Host { name: "h".into(), uid_first: 1000, uid_count: 1, isolated: false };
        for (given, placed_as) in [
            ("/stead/data", "/h/servers/a/data"),
            ("--pwfile=/stead/conf/pw", "--pwfile=/h/servers/a/conf/pw"),
            ("x='/stead/run','/stead/log'", "x='/h/servers/a/run','/h/servers/a/log'"),
            ("/var/lib/stead/engines", "/var/lib/stead/engines"),
            ("/steady/data", "/steady/data"),
            ("stead/data", "stead/data"),
        ] {
            assert_eq!(placed(given, &host, "/h/servers/a"), placed_as);
        }
        let root = Host { isolated: true, ..host };
        assert_eq!(placed("/stead/data", &root, "/h/servers/a"), "/stead/data");
    }
}
