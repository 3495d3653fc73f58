//! Reading what the engine goes by. A file that makes no sense is an error for whoever looks at the status; it never
//! takes away what is in force.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::route::{Route, Settings};

/// Where things are under `$STEAD_HOME`.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) functions: PathBuf,
    pub(crate) settings: PathBuf,
    pub(crate) routes: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) invoke: PathBuf,
    pub(crate) lock: PathBuf,
    /// What must not be lost: events, and what is known of schedules.
    pub(crate) spool: PathBuf,
    pub(crate) usage: PathBuf,
    pub(crate) schedules: PathBuf,
    pub(crate) usage_spool: PathBuf,
    pub(crate) logs: PathBuf,
}

impl Paths {
    /// The fixed layout.
    pub(crate) fn new(home: &Path) -> Self {
        let functions = home.join("functions");
        let spool = functions.join("spool");
        Self {
            settings: functions.join("functions.json"),
            routes: functions.join("routes"),
            socket: functions.join("functions.sock"),
            invoke: functions.join("invoke.sock"),
            lock: spool.join("lock"),
            usage: spool.join("usage"),
            schedules: spool.join("schedules"),
            usage_spool: home.join("spool/functions.jsonl"),
            logs: home.join("logs"),
            spool,
            functions,
        }
    }
}

/// With whom the engine shares what others of Stead's processes read and connect to: its own group is its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(Option<u32>);

impl Share {
    /// With the group "stead" of a home, where that has a keeper.
    pub(crate) fn of(home: &Path) -> Self {
        Self(keeper::Host::read(home).ok().map(|host| host.gid()))
    }

    /// Gives what has a name to the group.
    pub(crate) fn path(self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, None, self.0)
    }

    /// The same of what is open.
    pub(crate) fn file(self, file: &File) -> io::Result<()> {
        std::os::unix::fs::fchown(file, None, self.0)
    }
}

/// Which version of a file was read: files are replaced by rename, so a new one has a new inode.
type Stamp = (u64, i64, i64, u64);

/// A route, or what is wrong with its file.
type Found = Result<Arc<Route>, String>;

/// Reads routes, each again only when its file is another.
#[derive(Default)]
pub(crate) struct Reader {
    known: HashMap<String, (Stamp, Found)>,
}

impl Reader {
    /// Every function that has a route file, with its route or what is wrong with that.
    pub(crate) fn read(&mut self, folder: &Path) -> io::Result<Vec<(String, Found)>> {
        let mut routes = Vec::new();
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name();
            // Names that begin with a dot are files being written.
            let Some(function) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            if function.starts_with('.') {
                continue;
            }
            let path = folder.join(&name);
            let stamp = match std::fs::metadata(&path) {
                Ok(meta) => (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let route = match self.known.remove(function) {
                Some((was, route)) if was == stamp => route,
                _ => read_route(&path, function).map(Arc::new),
            };
            known.insert(function.to_owned(), (stamp, route.clone()));
            routes.push((function.to_owned(), route));
        }
        self.known = known;
        Ok(routes)
    }
}

/// `functions.json`; `None` where there is none.
pub(crate) fn read_settings(path: &Path) -> Result<Option<Settings>, String> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(malformed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn read_route(path: &Path, function: &str) -> Result<Route, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let route: Route = serde_json::from_slice(&bytes).map_err(malformed)?;
    check(&route, function)?;
    Ok(route)
}

fn check(route: &Route, function: &str) -> Result<(), String> {
    if route.function != function {
        return Err(format!("`function` is `{}`, but the file is named `{function}.json`", route.function));
    }
    if function.is_empty() || !function.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    {
        return Err(format!("`{function}` is no handle; use a-z, 0-9, - and _"));
    }
    if route.url.as_ref().is_some_and(|url| url.port == 0) {
        return Err("`port` is 0; give the URL a port of its own".to_owned());
    }
    if let Some(live) = route.live.filter(|live| !route.versions.contains_key(live)) {
        return Err(format!("`live` is {live}, which is none of `versions`"));
    }
    if let Some(canary) = &route.canary {
        if !route.versions.contains_key(&canary.version) {
            return Err(format!("the canary is {}, which is none of `versions`", canary.version));
        }
        if !(1..=99).contains(&canary.percent) {
            return Err(format!("the canary gets {} per cent; give it 1 to 99", canary.percent));
        }
    }
    for (number, version) in &route.versions {
        if !(1..=900_000).contains(&version.timeout_ms) {
            return Err(format!(
                "version {number} has a time limit of {} ms; give it 1 to 900000",
                version.timeout_ms
            ));
        }
        if version.concurrency == 0 {
            return Err(format!("version {number} may have no worker; give it `concurrency` of 1 or more"));
        }
    }
    Ok(())
}

fn malformed(error: impl Display) -> String {
    format!("is malformed: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Canary;
    use crate::route::tests::route;

    #[test]
    fn a_route_that_makes_no_sense_is_told() {
        let good = route("f1");
        assert_eq!(check(&good, "f1"), Ok(()));
        let why = |change: fn(&mut Route)| {
            let mut bad = good.clone();
            change(&mut bad);
            check(&bad, "f1").unwrap_err()
        };
        assert!(check(&good, "f2").unwrap_err().contains("named `f2.json`"));
        assert!(why(|route| route.live = Some(2)).contains("none of `versions`"));
        assert!(
            why(|route| route.canary = Some(Canary { version: 1, percent: 0, returned: None }))
                .contains("1 to 99")
        );
        assert!(why(|route| route.versions.get_mut(&1).unwrap().timeout_ms = 0).contains("time limit"));
    }
}
