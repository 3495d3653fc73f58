//! Pure vocabulary and decisions: what a component is, what is wanted of it, and the next step towards it.
//!
//! Everything here is a value or a function of values: no clock is read, no file opened, no SQL spoken.
//! A component of a kind is described by four types of the same names in the kind's folder: `Spec` (what
//! is wanted), `Observed` (what a driver saw), `Step` (the one thing to do next) and `plan`, the function
//! from the first two to the third. [`Spec`], [`Observed`] and [`Step`] here are the sums over all kinds;
//! a new kind is a folder and one line in each.

pub mod category;
pub mod change;
pub mod driver;
pub mod function;
pub mod health;
pub mod id;
pub mod manifest;
pub mod name;
pub mod postgres;
mod refused;
pub mod role;
mod seen;
pub mod status;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use category::Category;
pub use change::{Difference, differences};
pub use driver::{Driver, DriverError, Files, Place, Target, Trial, Used};
pub use health::Health;
pub use id::{ComponentId, OperationId, SteadId, TenantId};
pub use name::{BadComponentName, BadName, ComponentName, Kind, LocalName, SteadName, TenantName};
pub use refused::Refused;
pub use role::{BadRole, Role};
pub use seen::Seen;
pub use status::{Condition, ConditionKind, Phase, Status};

/// What is wanted of a component, resolved and valid: nothing in it is left to be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Spec {
    /// A PostgreSQL server.
    Postgres(postgres::Spec),
    /// A function.
    Function(function::Spec),
    /// A transfer.
    Transfer(transfer::Spec),
}

impl Spec {
    /// The kind it is a spec of.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Postgres(_) => Kind::Postgres,
            Self::Function(_) => Kind::Function,
            Self::Transfer(_) => Kind::Transfer,
        }
    }

    /// Whether deletion is refused until this is taken back.
    pub fn protect(&self) -> bool {
        match self {
            Self::Postgres(spec) => spec.protect,
            // The code of one is kept as a release, and what the other holds can be copied again.
            Self::Function(_) | Self::Transfer(_) => false,
        }
    }

    /// The same spec with deletion protection taken off.
    #[must_use]
    pub fn unprotected(&self) -> Self {
        match self {
            Self::Postgres(spec) => Self::Postgres(postgres::Spec { protect: false, ..spec.clone() }),
            Self::Function(_) | Self::Transfer(_) => self.clone(),
        }
    }

    /// When maintenance may happen; any time where there is none.
    pub fn maintenance(&self) -> Option<&postgres::MaintenanceWindow> {
        match self {
            Self::Postgres(spec) => spec.maintenance.as_ref(),
            Self::Function(_) | Self::Transfer(_) => None,
        }
    }

    /// Whether clients notice the edit that makes this out of `before`, because what serves them restarts.
    pub fn restarts(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Postgres(spec), Self::Postgres(before)) => spec.restarts(before),
            _ => false,
        }
    }

    /// Whether it stands beside the manifest: made by a command of its own, and removed by one.
    pub fn is_beside(&self) -> bool {
        match self {
            Self::Postgres(spec) => spec.beside,
            Self::Function(_) | Self::Transfer(_) => false,
        }
    }

    /// Seconds between two drills of its backups; none where there is nothing to back up.
    pub fn drill_s(&self) -> Option<u64> {
        match self {
            Self::Postgres(spec) => Some(spec.backup.drill.as_secs()),
            Self::Function(_) | Self::Transfer(_) => None,
        }
    }

    /// The part of it that makes a release of the component, where its kind has releases.
    pub fn release(&self) -> Option<Self> {
        match self {
            Self::Postgres(_) | Self::Transfer(_) => None,
            Self::Function(spec) => Some(Self::Function(spec.release())),
        }
    }

    /// The package that it runs, where it runs one.
    pub fn package(&self) -> Option<function::Digest> {
        match self {
            Self::Postgres(_) | Self::Transfer(_) => None,
            Self::Function(spec) => Some(spec.package),
        }
    }

    /// What it brings about again of an earlier release; `None` where its kind has none.
    pub fn with_release_of(&self, earlier: &Self) -> Option<Self> {
        match (self, earlier) {
            (Self::Function(spec), Self::Function(earlier)) => {
                Some(Self::Function(spec.with_release_of(earlier)))
            }
            _ => None,
        }
    }

    /// Components of the same stead that it uses.
    pub fn uses(&self) -> impl Iterator<Item = &ComponentName> {
        let (many, one) = match self {
            Self::Postgres(_) => (None, None),
            Self::Function(spec) => (Some(&spec.uses), None),
            Self::Transfer(spec) => (None, spec.from.server()),
        };
        many.into_iter().flatten().chain(one)
    }

    /// Secrets of its stead that it uses.
    pub fn secrets(&self) -> impl Iterator<Item = &function::Variable> {
        let (many, transfer) = match self {
            Self::Postgres(_) => (None, None),
            Self::Function(spec) => (Some(&spec.secrets), None),
            Self::Transfer(spec) => (None, Some(spec)),
        };
        many.into_iter().flatten().chain(transfer.into_iter().flat_map(transfer::Spec::secrets))
    }

    /// Where its data are asked for, when that is not here: it has no address then.
    pub fn asked_elsewhere(&self) -> Option<&transfer::Location> {
        match self {
            Self::Postgres(_) | Self::Function(_) => None,
            Self::Transfer(spec) => spec.to.as_ref().map(|to| &to.bucket),
        }
    }

    /// What it counts for in its tenant's quota.
    pub fn footprint(&self) -> Footprint {
        match self {
            Self::Postgres(spec) => Footprint {
                servers: 1,
                memory_mib: spec.size.limits().memory_mib,
                disk_mib: spec.size.limits().disk_mib,
            },
            // Its workers come and go with what is asked of it; what they use is counted, not reserved.
            Self::Function(_) => Footprint::default(),
            Self::Transfer(spec) => Footprint { servers: 0, memory_mib: spec.memory_mib(), disk_mib: 0 },
        }
    }
}

/// What is to be had for components on the host that they would live on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Engines on the host.
    pub engines: BTreeSet<postgres::Major>,
    /// Names of the runtimes whose interpreter is on the host.
    pub runtimes: BTreeSet<String>,
}

/// Whether all components of a stead go together.
///
/// # Errors
/// The first that uses what is not there, or writes where another does.
pub fn fit(wanted: &BTreeMap<ComponentName, Spec>) -> Result<(), (ComponentName, Refused)> {
    let transfers = || {
        wanted.iter().filter_map(|(name, spec)| match spec {
            Spec::Transfer(spec) => Some((name, spec)),
            _ => None,
        })
    };
    for (name, spec) in wanted {
        match spec {
            Spec::Postgres(_) => Ok(()),
            Spec::Function(spec) => function::uses_what_is_there(spec, wanted.keys()),
            Spec::Transfer(spec) => transfer::reads_what_is_there(spec, wanted.keys()).and_then(|()| {
                transfer::writes_alone(spec, transfers().take_while(|(other, _)| *other < name))
            }),
        }
        .map_err(|refused| (name.clone(), refused))?;
    }
    Ok(())
}

/// What a component uses up of its tenant's quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Servers, count.
    pub servers: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disk, MiB.
    pub disk_mib: u64,
}

/// What a driver saw of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Of a PostgreSQL server.
    Postgres(postgres::Observed),
    /// Of a function.
    Function(function::Observed),
    /// Of a transfer.
    Transfer(transfer::Observed),
}

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To a PostgreSQL server.
    Postgres(postgres::Step),
    /// To a function.
    Function(function::Step),
    /// To a transfer.
    Transfer(transfer::Step),
}

impl Step {
    /// Its name in the store, the log and the progress line: `claim`, `migrate 0002_planes.sql`.
    pub fn label(&self) -> String {
        match self {
            Self::Postgres(step) => step.label(),
            Self::Function(step) => step.label(),
            Self::Transfer(step) => step.label(),
        }
    }
}

impl Step {
    /// Whether it may take long: what a tenant wrote takes as long as it takes.
    pub fn is_long(&self) -> bool {
        match self {
            Self::Postgres(step) => step.is_long(),
            Self::Function(step) => step.is_long(),
            Self::Transfer(_) => false,
        }
    }

    /// What the journal keeps of it once it is done; `None` for steps that are no event of their own.
    pub fn on_record(&self) -> Option<serde_json::Value> {
        match self {
            Self::Postgres(step) => step.on_record(),
            Self::Function(step) => step.on_record(),
            Self::Transfer(step) => step.on_record(),
        }
    }
}

/// What follows from a spec and an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Do this, then observe again.
    Act(Step),
    /// Nothing to do until the outside world moves; look again after this long.
    Wait {
        /// What is waited for, in words.
        reason: String,
        /// Milliseconds until the next look.
        again_ms: u64,
        /// What a person should know, if this is more than a moment's wait.
        condition: Option<Condition>,
    },
    /// Only an edit (or a person) can go on; look again at the ordinary interval.
    Blocked(Condition),
    /// All is as wanted.
    Settled,
    /// Deletion is complete: nothing is left outside.
    Gone,
}

/// What is known of a component besides its spec and what was seen of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its removal was asked for.
    pub deleting: bool,
    /// Another component of its stead uses it, and is still there.
    pub used: bool,
    /// It was real once: what is missing then is lost, not new.
    pub provisioned: bool,
    /// Its backups have not been tried for as long as the spec says.
    pub drill_due: bool,
    /// This spec has been brought about before: what is looked for is drift, not the effect of an edit.
    pub settled: bool,
}

/// Decides the next step of a component of any kind; pure.
pub fn plan(spec: &Spec, observed: &Observed, standing: Standing) -> Decision {
    match (spec, observed) {
        (Spec::Postgres(spec), Observed::Postgres(observed)) => postgres::plan(spec, observed, standing),
        (Spec::Function(spec), Observed::Function(observed)) => function::plan(spec, observed, standing),
        (Spec::Transfer(spec), Observed::Transfer(observed)) => transfer::plan(spec, observed, standing),
        // A driver observes what it was asked to.
        _ => Decision::Blocked(Condition {
            kind: ConditionKind::DriverFailed,
            message: "the driver saw a component of another kind".into(),
        }),
    }
}

/// What differs from the spec though nobody asked for it, for a component that was settled before.
pub fn drift(spec: &Spec, observed: &Observed) -> Vec<Difference> {
    match (spec, observed) {
        (Spec::Postgres(spec), Observed::Postgres(observed)) => postgres::drift(spec, observed),
        (Spec::Function(_), Observed::Function(observed)) => function::drift(observed),
        (Spec::Transfer(spec), Observed::Transfer(observed)) => transfer::drift(spec, observed),
        _ => Vec::new(),
    }
}
