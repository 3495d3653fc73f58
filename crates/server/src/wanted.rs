//! From the body of a request to what the store is told to bring about.

use std::collections::{BTreeMap, BTreeSet};

use component::postgres::{Major, Refused, Wish, resolve};
use component::{ComponentName, Kind, LocalName, Spec, SteadName, manifest};
use serde_json::{Value, json};

use crate::problem::Problem;

/// A stead as it is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The app.
    pub(crate) app: SteadName,
    wishes: BTreeMap<ComponentName, Wish>,
    /// Texts that the wishes name by hash, by component.
    pub(crate) files: BTreeMap<ComponentName, BTreeMap<String, String>>,
}

impl Wanted {
    /// Reads a body; none means one server with defaults.
    pub(crate) fn read(body: Option<&Value>, stead: &SteadName) -> Result<Self, Problem> {
        let one_server = json!({ "postgres": { "main": {} } });
        let manifest = manifest::from_json(body.unwrap_or(&one_server), stead).map_err(|errors| {
            Problem::fields(errors.into_iter().map(|error| (error.pointer, error.message)).collect())
        })?;
        let mut wanted = Self { app: manifest.app, wishes: BTreeMap::new(), files: BTreeMap::new() };
        let name = |local: LocalName| ComponentName { kind: Kind::Postgres, local };
        for (local, server) in manifest.postgres {
            let name = name(local);
            wanted.wishes.insert(name.clone(), server.wish);
            wanted.files.insert(name, server.files);
        }
        Ok(wanted)
    }

    /// The specs that shall be, given those in force and the engines to be had.
    pub(crate) fn decide(
        &self,
        current: &BTreeMap<ComponentName, Spec>,
        engines: &BTreeSet<Major>,
    ) -> Result<BTreeMap<ComponentName, Spec>, (ComponentName, Refused)> {
        let spec = |(name, wish): (&ComponentName, &Wish)| {
            let current = current.get(name).map(|Spec::Postgres(spec)| spec);
            match resolve(wish, current, engines) {
                Ok(spec) => Ok((name.clone(), Spec::Postgres(spec))),
                Err(refused) => Err((name.clone(), refused)),
            }
        };
        self.wishes.iter().map(spec).collect()
    }
}
