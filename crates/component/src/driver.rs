//! What makes a component real: the contract of a driver.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::function::{Digest, Variable};
use crate::{ComponentId, ComponentName, Observed, Spec, Status, SteadName, Step, TenantName};

/// A component as a driver is told of it: *who* it is and what is wanted, never *why* it was woken.
#[derive(Clone)]
pub struct Target {
    /// Identity; the handle is derived from it.
    pub id: ComponentId,
    /// Whose it is.
    pub tenant: TenantName,
    /// Part of which stead.
    pub stead: SteadName,
    /// Its name there.
    pub name: ComponentName,
    /// What is wanted.
    pub spec: Spec,
    /// Counts edits of the spec.
    pub generation: u64,
    /// The port given to it for life.
    pub port: u16,
    /// Which of its two places on the host it shall live in; each move is to the other one.
    pub place: Place,
    /// Its owner role's password.
    pub password: SecretString,
    /// The password's SCRAM-SHA-256 verifier in PostgreSQL's notation, made once when the password was.
    pub verifier: SecretString,
    /// The same of the reader role; it has no password until somebody needs it, and cannot sign in until then.
    pub reader: Option<SecretString>,
    /// The newest release, of a kind that has releases; 0 otherwise.
    pub release: u64,
    /// The release that goes on answering while the newest one is tried on a share of the calls.
    pub trial: Option<Trial>,
    /// The secrets of its stead that it uses and that are set, by name.
    pub secrets: BTreeMap<Variable, SecretString>,
    /// The servers that it uses and that are not on their way out, by their full name.
    pub uses: BTreeMap<ComponentName, Used>,
    /// Contents of the files that the spec names by hash.
    pub files: Arc<dyn Files>,
}

/// The newest release is tried on a share of the calls.
#[derive(Clone)]
pub struct Trial {
    /// Per cent of the calls, 1 to 99.
    pub percent: u8,
    /// The release that the others go to.
    pub base: u64,
    /// As it was.
    pub spec: Spec,
}

/// A server that another component uses.
#[derive(Clone)]
pub struct Used {
    /// Identity.
    pub id: ComponentId,
    /// Its owner role's password.
    pub password: SecretString,
}

/// One of the two places that a component has on its host: folder, unit and socket of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// Where it was made.
    #[default]
    First,
    /// Where its first move leads.
    Second,
}

impl Place {
    /// The place after so many moves.
    #[must_use]
    pub fn after(moves: u32) -> Self {
        if moves.is_multiple_of(2) { Self::First } else { Self::Second }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Contents by hash.
#[async_trait]
pub trait Files: Send + Sync {
    /// The text whose SHA-256, in hexadecimal, is `sha256`.
    async fn read(&self, sha256: &str) -> Result<String, DriverError>;

    /// The zip of a package.
    async fn zip(&self, package: Digest) -> Result<Vec<u8>, DriverError>;
}

/// Makes components of the kinds it knows real.
///
/// The contract:
/// - `observe` has no effect and tells what is, however it came about.
/// - `act` does one step and may be killed anywhere in it: done again, or done twice, it leaves the same.
/// - Neither decides; [`crate::plan`] does.
/// - Neither waits long: an effect that takes more than a second is begun here and seen by `observe`.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Looks at the component.
    async fn observe(&self, target: &Target) -> Result<Observed, DriverError>;

    /// Does one step.
    async fn act(&self, target: &Target, step: &Step) -> Result<(), DriverError>;

    /// Facts for the status that follow from an observation: endpoint, version, disk.
    fn report(&self, target: &Target, observed: &Observed, status: &mut Status);

    /// Adds what a person should know even when all is as wanted: a disk that is nearly full.
    fn conditions(&self, target: &Target, status: &mut Status);

    /// The pass over the component is over: connections kept for it may go.
    fn release(&self, target: &Target);
}

/// Why a driver could not observe or act.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The outside world is not there or slow; trying again will do.
    #[error("{0}")]
    Unavailable(String),
    /// The outside world refused: trying the same again will not do, an edit or a person is needed.
    #[error("{}", .0.message)]
    Refused(crate::Condition),
}
