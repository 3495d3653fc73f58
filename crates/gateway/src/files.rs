//! Reading what the gateway goes by. A file that makes no sense is an error with the file's name, for
//! whoever looks at the status; it never takes away what is in force.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::backend;
use crate::route::{Route, Settings};

/// Longest path of a Unix socket (`sun_path`, less its end), bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Where things are under `$STEAD_HOME`.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) home: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) settings: PathBuf,
    pub(crate) routes: PathBuf,
    pub(crate) tls: PathBuf,
    pub(crate) asleep: PathBuf,
    pub(crate) socket: PathBuf,
    /// Where the control plane opens sessions for people.
    pub(crate) inner: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) log: PathBuf,
}

impl Paths {
    /// The fixed layout.
    pub(crate) fn new(home: &Path) -> Paths {
        let gateway = home.join("gateway");
        let logs = home.join("logs");
        Paths {
            home: home.to_owned(),
            asleep: gateway.join("asleep"),
            settings: gateway.join("gateway.json"),
            routes: gateway.join("routes"),
            tls: gateway.join("tls"),
            socket: gateway.join("gateway.sock"),
            inner: gateway.join("inner.sock"),
            lock: gateway.join("gateway.lock"),
            log: logs.join("gateway.jsonl"),
            logs,
            gateway,
        }
    }
}

/// Which version of a file was read: files are replaced by rename, so a new one has a new inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// The version of a file now; `None` where there is none.
pub(crate) fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp {
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `gateway.json`; `None` where there is none.
pub(crate) fn read_settings(path: &Path) -> Result<Option<Settings>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

/// The servers that have a route file.
pub(crate) fn list_routes(folder: &Path) -> io::Result<Vec<String>> {
    let mut servers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        // Names that begin with a dot are files being written.
        if let Some(name) = name.to_str()
            && let Some(server) = name.strip_suffix(".json")
            && !server.starts_with('.')
        {
            servers.push(server.to_owned());
        }
    }
    Ok(servers)
}

/// Reads and checks one route.
pub(crate) fn read_route(path: &Path, server: &str) -> Result<Route, String> {
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let route: Route = serde_json::from_slice(&bytes).map_err(malformed)?;
    if route.server != server {
        return Err(format!("`server` is `{}`, but the file is named `{server}.json`", route.server));
    }
    if route.port == 0 {
        return Err("`port` is 0; give it a port of its own".to_owned());
    }
    if !route.socket_dir.is_absolute() {
        return Err(format!("`socket_dir` is not absolute: {}", route.socket_dir.display()));
    }
    if backend::socket(&route.socket_dir).as_os_str().len() > MAX_SOCKET_PATH {
        return Err(format!("`socket_dir` is too long for a Unix socket: {}", route.socket_dir.display()));
    }
    Ok(route)
}

fn unreadable(error: impl Display) -> String {
    format!("cannot be read: {error}")
}

fn malformed(error: impl Display) -> String {
    format!("is malformed: {error}")
}
