//! The files that the relay goes by.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::wire::{Route, Settings};

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    settings: PathBuf,
    pub(crate) routes: PathBuf,
    pub(crate) sockets: PathBuf,
    pub(crate) run: PathBuf,
    /// Whoever connects has the files read again.
    pub(crate) socket: PathBuf,
}

/// What they say.
pub(crate) struct Told {
    pub(crate) settings: Settings,
    /// Those that cannot be read with why not.
    pub(crate) routes: BTreeMap<String, Result<Route, String>>,
}

impl Paths {
    pub(crate) fn new(home: &Path) -> Self {
        let relay = home.join("relay");
        Self {
            settings: relay.join("relay.json"),
            routes: relay.join("routes"),
            sockets: relay.join("sockets"),
            run: relay.join("run"),
            socket: relay.join("run/relay.sock"),
        }
    }

    pub(crate) fn read(&self) -> io::Result<Told> {
        // Without settings no network is allowed that is not public.
        let settings = read(&self.settings).unwrap_or_else(|why| {
            tracing::warn!(why, "the relay's settings cannot be read");
            None
        });
        let mut routes = BTreeMap::new();
        for entry in std::fs::read_dir(&self.routes)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let Some(name) = name.filter(|name| is_name(name)) else { continue };
            match read(&path) {
                Ok(None) => {}
                Ok(Some(route)) => drop(routes.insert(name.to_owned(), Ok(route))),
                Err(why) => drop(routes.insert(name.to_owned(), Err(why))),
            }
        }
        Ok(Told { settings: settings.unwrap_or_default(), routes })
    }
}

/// A draft, which is written beside what it replaces, is none.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
