//! Makes components real on this host: PostgreSQL servers as units of the keeper behind the gateway.
//!
//! The driver is unprivileged. What takes root it asks of the keeper (trees, processes); what clients see it
//! declares to the gateway by a route file; what is inside a server it says in SQL over the server's Unix
//! socket, where PostgreSQL's peer authentication knows the control plane's uid as `stead_admin`.
//!
//! **A tenant's database is hostile ground.** Sessions of `stead_admin` there name everything in
//! `pg_catalog` and never read a relation that the tenant could have made: a view of the tenant's would run
//! the tenant's functions as superuser. Migrations and their ledger are the owner's own, so they are run and
//! read in sessions that signed in as the owner with the owner's password.
//!
//! **Handles** are derived from ids: `pg-<handle>` is the unit, `servers/<handle>` the tree,
//! `gateway/routes/<handle>.json` the route. An act done twice finds its own work. A component has two places, so
//! that it can be moved from one to the other: at the second, unit and tree end in `-2`. Where its tree is, there
//! it is; all else follows.

mod act;
mod archives;
mod bucket;
pub mod certificates;
mod control;
mod drill;
mod elsewhere;
mod engines;
mod files;
mod function;
mod gateways;
mod migrate;
mod moves;
mod observe;
mod packages;
mod recover;
mod restore;
mod runtimes;
mod session;
mod socket;
mod spares;
mod transfer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use component::postgres::OWNER_ROLE;
use component::status::Endpoint;
use component::{Condition, ConditionKind, Driver, DriverError, Observed, Spec, Status, Step, Target};
use jiff::Timestamp;
use keeper::wire::{Name, Refusal, Tree};
use keeper::{ClientError, Host};
use tokio::sync::Notify;

pub use archives::{BackupStore, store_options};
pub use control::ControlServer;
pub use engines::{Engine, Engines};
pub use recover::Recovered;
pub use runtimes::Runtimes;
pub use spares::SparePool;

/// Kills the process here when the named fail point is set to `return`; compiled away without the feature.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| {
            std::process::abort();
        });
    };
}
pub(crate) use fail_point;

/// What is done before a tree is removed.
pub type Leaving = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The local driver of one host.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    home: PathBuf,
    host: Host,
    address: String,
    engines: Engines,
    runtimes: Runtimes,
    keeper: keeper::Client,
    /// Sessions kept for the length of a pass, by handle.
    sessions: Mutex<HashMap<String, session::Kept>>,
    /// When the bytes on disk of a server were last counted, and what came of it.
    sizes: Mutex<HashMap<String, (Instant, u64)>>,
    /// The drill that is under way, and those that ended and were not told yet, by handle.
    drills: Mutex<drill::Drills>,
    /// Where backups go, once that is known.
    backups: OnceLock<archives::InUse>,
    /// How often in a row a server could not be moved, because its clients did not come to rest.
    busy: Mutex<HashMap<String, u32>>,
    /// Done before a tree is removed: somebody else may still have to read its logs.
    leaving: OnceLock<Leaving>,
    /// Spares were taken.
    taken: Notify,
    /// When the last was.
    last_taken: Mutex<Option<Instant>>,
}

/// Why the driver could not be made, or the ground it stands on could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keeper.
    #[error(transparent)]
    Keeper(#[from] keeper::Error),
    /// The keeper's socket.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No engine.
    #[error(
        "no PostgreSQL engine is installed; run script/setup, or set STEAD_ENGINES to a folder of engines"
    )]
    NoEngine,
    /// The control plane's own server.
    #[error("the control plane's own server did not come up: {0}")]
    Control(String),
    /// The gateway.
    #[error("the gateway: {0}")]
    Gateway(String),
    /// Functions.
    #[error("the engine of functions: {0}")]
    Functions(String),
    /// The relay to servers elsewhere.
    #[error("the relay to servers elsewhere: {0}")]
    Relay(String),
    /// Backups.
    #[error("backups: {0}")]
    Backups(String),
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Local {
    /// Has this done before a tree is removed, from now on; said once.
    pub fn before_leaving(&self, leaving: Leaving) {
        // A second time changes nothing, and nobody says it.
        let _ = self.0.leaving.set(leaving);
    }

    /// A driver of the host whose home this is; its keeper must run.
    ///
    /// # Errors
    /// When `host.json` cannot be read or no engine is installed.
    pub fn open(
        home: &Path,
        address: &str,
        engine_dirs: &[PathBuf],
        runtime_dirs: &[PathBuf],
    ) -> Result<Self, Error> {
        let host = Host::read(home)?;
        let engines = Engines::discover(home, engine_dirs);
        if engines.is_empty() {
            return Err(Error::NoEngine);
        }
        Ok(Self(Arc::new(Inner {
            home: home.to_owned(),
            host,
            address: address.to_owned(),
            engines,
            runtimes: Runtimes::discover(home, runtime_dirs),
            keeper: keeper::Client::new(home),
            sessions: Mutex::default(),
            sizes: Mutex::default(),
            drills: Mutex::default(),
            backups: OnceLock::new(),
            busy: Mutex::default(),
            leaving: OnceLock::new(),
            taken: Notify::new(),
            last_taken: Mutex::default(),
        })))
    }

    /// `$STEAD_HOME`.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.0.home
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The engines on it.
    #[must_use]
    pub fn engines(&self) -> &Engines {
        &self.0.engines
    }

    /// The interpreters on it.
    #[must_use]
    pub fn runtimes(&self) -> &Runtimes {
        &self.0.runtimes
    }

    /// Asks the keeper, off the async threads: its client blocks for the moment that an answer takes.
    async fn keeper<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&keeper::Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let client = self.0.keeper.clone();
        match tokio::task::spawn_blocking(move || ask(&client)).await {
            Ok(answer) => answer.map_err(keeper_error),
            Err(error) => Err(DriverError::Unavailable(error.to_string())),
        }
    }
}

fn keeper_error(error: ClientError) -> DriverError {
    match error {
        ClientError::Refused(Refusal { reason: keeper::wire::Reason::DiskFull, message }) => {
            DriverError::Refused(Condition { kind: ConditionKind::DiskFull, message })
        }
        other => DriverError::Unavailable(other.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole at every moment, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names a component has on the host, at one of its places there.
#[derive(Clone)]
pub(crate) struct Place {
    handle: String,
    tree: Tree,
    unit: Name,
}

impl Place {
    /// The first place's names come from the handle alone.
    fn named(handle: &str, place: component::Place) -> Result<Self, DriverError> {
        let name =
            |text: String| Name::parse(text).map_err(|error| DriverError::Unavailable(error.to_string()));
        let (tree, unit) = match place {
            component::Place::First => (handle.to_owned(), format!("pg-{handle}")),
            component::Place::Second => (format!("{handle}{SECOND}"), format!("pg-{handle}{SECOND}")),
        };
        Ok(Self { handle: handle.to_owned(), tree: Tree::Servers(name(tree)?), unit: name(unit)? })
    }
}

/// What the names at the second place end in.
const SECOND: &str = "-2";

/// The handle of the component that a unit is of.
#[must_use]
pub fn handle_of(unit: &Name) -> Option<&str> {
    let name = unit.as_str().strip_prefix("pg-")?;
    Some(name.strip_suffix(SECOND).unwrap_or(name))
}

/// Where a component is, and where it shall be.
struct Places {
    /// Where its tree is; where there is none, where it shall be.
    here: Place,
    /// The other one.
    there: Place,
    /// Whether the other one is where it shall be.
    elsewhere: bool,
}

impl Local {
    fn places(&self, target: &Target) -> Result<Places, DriverError> {
        let handle = target.id.handle();
        let wanted = Place::named(&handle, target.place)?;
        let other = Place::named(&handle, target.place.other())?;
        let is_there = |place: &Place| self.tree_dir(&place.tree).is_dir();
        Ok(if !is_there(&wanted) && is_there(&other) {
            Places { here: other, there: wanted, elsewhere: true }
        } else {
            Places { here: wanted, there: other, elsewhere: false }
        })
    }
}

#[async_trait]
impl Driver for Local {
    async fn observe(&self, target: &Target) -> Result<Observed, DriverError> {
        match &target.spec {
            Spec::Postgres(spec) => self.observe_postgres(target, spec).await.map(Observed::Postgres),
            Spec::Function(spec) => self.observe_function(target, spec).await.map(Observed::Function),
            Spec::Transfer(spec) => self.observe_transfer(target, spec).await.map(Observed::Transfer),
        }
    }

    async fn act(&self, target: &Target, step: &Step) -> Result<(), DriverError> {
        match (&target.spec, step) {
            (Spec::Postgres(spec), Step::Postgres(step)) => self.act_postgres(target, spec, step).await,
            (Spec::Function(spec), Step::Function(step)) => self.act_function(target, spec, step).await,
            (Spec::Transfer(spec), Step::Transfer(step)) => self.act_transfer(target, spec, step).await,
            _ => Err(DriverError::Unavailable("a step for a component of another kind".into())),
        }
    }

    fn report(&self, target: &Target, observed: &Observed, status: &mut Status) {
        let observed = match (&target.spec, observed) {
            (_, Observed::Postgres(observed)) => observed,
            (Spec::Function(spec), Observed::Function(observed)) => {
                return self.report_function(target, spec, observed, status);
            }
            (Spec::Transfer(spec), Observed::Transfer(observed)) => {
                return self.report_transfer(target, spec, observed, status);
            }
            _ => return,
        };
        if observed.tree && observed.data && status.provisioned_at.is_none() {
            status.provisioned_at = Some(Timestamp::now());
        }
        status.elsewhere = observed.elsewhere;
        status.asleep = observed.unit == component::postgres::Unit::Asleep;
        if let Some(session) = &observed.session {
            status.version = Some(session.version.clone());
            status.disk_bytes = Some(session.disk_bytes);
        }
        if let Some(backups) = &observed.backups {
            status.backups = Some(backups.clone());
        }
        if let Some(drill) = self.drilled(&target.id.handle()) {
            status.drill = Some(drill);
        }
        status.endpoint = Some(Endpoint {
            host: self.0.address.clone(),
            port: target.port,
            database: target.name.local.to_string(),
            role: OWNER_ROLE.to_owned(),
        });
    }

    fn conditions(&self, target: &Target, status: &mut Status) {
        if let Some(component::function::Canary { release, returned: Some(why), .. }) = &status.canary {
            let message = format!(
                "release {release} gets no calls any more: {why}; mend it and run `stead up`, or `stead rollback`"
            );
            status.conditions.push(Condition { kind: ConditionKind::CanaryReturned, message });
        }
        if let Some(progress) = &status.transfer {
            status.conditions.extend(transfer::conditions(progress));
        }
        let Spec::Postgres(spec) = &target.spec else { return };
        let limit = files::disk_limit(spec);
        let tree = self.places(target).map(|places| self.tree_dir(&places.here.tree));
        let guard = tree.unwrap_or_default().join("guard/read_only.conf");
        if let Some(why) = status.backups.as_ref().and_then(|backups| backups.trouble.clone()) {
            let message = format!(
                "its backups do not go on: {why}; what was written since is on the host's disk alone, and is kept there"
            );
            status.conditions.push(Condition { kind: ConditionKind::BackupsBehind, message });
        }
        if let Some(why) = status.drill.as_ref().and_then(|drill| drill.error.clone()) {
            let message = format!(
                "its backups were tried and do not bring back all that they should: {why}; see docs/backups.md"
            );
            status.conditions.push(Condition { kind: ConditionKind::DrillFailed, message });
        }
        let message = if status.disk_bytes.is_some_and(|bytes| bytes > limit) {
            format!(
                "the server uses more than its {} MiB of disk and is read-only; delete what is not needed \
                 (`set default_transaction_read_only = off` first) or choose a larger size",
                spec.size.limits().disk_mib
            )
        } else if guard.exists() {
            "the disk of the host is nearly full and its servers are read-only; free some space on it"
                .to_owned()
        } else {
            return;
        };
        if !status.conditions.iter().any(|condition| condition.kind == ConditionKind::DiskFull) {
            status.conditions.push(Condition { kind: ConditionKind::DiskFull, message });
        }
    }

    fn release(&self, target: &Target) {
        lock(&self.0.sessions).remove(&target.id.handle());
    }
}
