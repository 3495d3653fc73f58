//! Why an edit is refused, in words for whoever asked for it.

use component::function::Variable;
use component::{ComponentName, Refused, SteadName};

use crate::Error;
use crate::tenant::TenantError;

/// Why an edit was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No such tenant.
    #[error("there is no tenant `{0}`; make it with `stead tenant create {0}`")]
    NoTenant(String),
    /// No such stead.
    #[error("tenant `{0}` has no stead `{1}`")]
    NoStead(String, String),
    /// No such component.
    #[error("stead `{0}` has no component `{1}`")]
    NoComponent(String, String),
    /// The stead changed since the caller looked.
    #[error(
        "the stead is not as you saw it: it is at generation {is} (0: it is not there); look at it again, then repeat"
    )]
    Moved {
        /// Generation in force.
        is: i64,
    },
    /// A wish that cannot be granted.
    #[error("{component}: {refused}")]
    Refused {
        /// Of which component.
        component: ComponentName,
        /// Which field, and why.
        refused: Refused,
    },
    /// Deletion protection.
    #[error("{0} is protected from deletion; set `protect = false` and apply that first")]
    Protected(ComponentName),
    /// It is on its way out.
    #[error("{0} is being removed; wait until it is gone, then create it anew")]
    Deleting(ComponentName),
    /// It is on its way to its other place.
    #[error("{0} is being moved already; wait until that is done")]
    Moving(ComponentName),
    /// Its name is taken.
    #[error("there is a component {0} already; choose another name")]
    Taken(ComponentName),
    /// A moment that cannot be had.
    #[error("{0}")]
    Moment(String),
    /// Its kind has no releases.
    #[error("{0} has no releases; functions have")]
    NoReleases(ComponentName),
    /// It has never been anything else.
    #[error("{0} has one release only, so there is none to go back to")]
    OnlyRelease(ComponentName),
    /// No such release.
    #[error("{0} has no release {1}; `stead releases {0}` lists those that it has")]
    NoRelease(ComponentName, i64),
    /// Nothing to try on a share of the calls.
    #[error(
        "this edit changes no function that answers already, so there is no release to try; leave the canary out"
    )]
    NothingToTry,
    /// No release of it is tried.
    #[error("{0} has no release that is tried on a share of the calls, so there is nothing to promote")]
    NotTried(ComponentName),
    /// No such secret.
    #[error("stead `{0}` has no secret {1}")]
    NoSecret(SteadName, Variable),
    /// A component needs it.
    #[error("{1} uses the secret {0}; take it out of the manifest first")]
    SecretUsed(Variable, ComponentName),
    /// Only transfers have what is asked for.
    #[error("{0} is no transfer; name one, like transfer.lake")]
    NoTransfer(ComponentName),
    /// Only servers have what is asked for.
    #[error("{0} is no server, and only a server has data of its own, and a place to be moved from")]
    NoServer(ComponentName),
    /// Neither was made of the other's data.
    #[error(
        "{0} was not made of the data of {1}, so it cannot take its place; `stead restore` makes one that can"
    )]
    Unrelated(ComponentName, ComponentName),
    /// The manifest says that it shall be.
    #[error(
        "{0} is in the manifest; take it out there and run `stead up`, or remove the stead with `stead down`"
    )]
    InManifest(ComponentName),
    /// A quota would be exceeded.
    #[error(
        "tenant `{tenant}` may have {limit} {what}, and this would make it {wanted}; remove something or have the quota raised"
    )]
    Quota {
        /// Whose.
        tenant: String,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: i64,
        /// What it would come to.
        wanted: i64,
    },
    /// No host to put it on.
    #[error("no host has come up yet; start `stead server`, or wait a moment and repeat")]
    NoHost,
    /// All ports are given.
    #[error("every port of host `{0}` is given to a server; start `stead server` with a wider --ports")]
    NoPort(String),
    /// The tenant could not be made.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<sqlx::Error> for EditError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
