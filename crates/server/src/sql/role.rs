//! As whom a person's SQL runs.

use component::postgres::{OWNER_ROLE, READER_ROLE};
use component::{ComponentName, Kind};
use store::tenant::Tenant;

use crate::access::{Action, Caller};
use crate::problem::{Kind as ProblemKind, Problem};

/// A role of a tenant's server, or of a lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatabaseRole {
    /// The owner of the stead's database.
    Owner,
    /// Who may look at everything in it.
    Reader,
    /// The one role of a lake, where nobody changes anything.
    Lake,
}

impl DatabaseRole {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Owner | Self::Lake => OWNER_ROLE,
            Self::Reader => READER_ROLE,
        }
    }

    /// Whether it may change anything.
    pub(crate) fn writes(self) -> bool {
        self == Self::Owner
    }
}

/// The one place that says as whom somebody's SQL runs in a tenant, and that what is asked answers SQL. What the role may
/// do is PostgreSQL's, or the lake's, to enforce.
pub(crate) fn role_of(
    caller: &Caller,
    tenant: &Tenant,
    component: &ComponentName,
) -> Result<DatabaseRole, Problem> {
    caller.may_in(tenant, Action::ReadData)?;
    match component.kind {
        Kind::Postgres if caller.can(tenant.id, Action::WriteData) => Ok(DatabaseRole::Owner),
        Kind::Postgres => Ok(DatabaseRole::Reader),
        Kind::Transfer => Ok(DatabaseRole::Lake),
        Kind::Function => {
            let detail = format!("{component} answers no SQL; name a server, or a transfer for its lake");
            Err(Problem::new(ProblemKind::Invalid, detail))
        }
    }
}

/// Who somebody is in the history of queries: as long as the name of a person may change, this does not.
pub(crate) fn person_of(caller: &Caller) -> String {
    let kind = if caller.token().is_some() { "token" } else { "person" };
    format!("{kind}:{}", caller.id())
}
