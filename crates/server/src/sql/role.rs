//! As whom a person's SQL runs.

use component::postgres::{OWNER_ROLE, READER_ROLE};
use store::tenant::Tenant;

use crate::access::{Action, Caller};
use crate::problem::Problem;

/// A role of a tenant's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatabaseRole {
    /// The owner of the stead's database.
    Owner,
    /// Who may look at everything in it.
    Reader,
}

impl DatabaseRole {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Owner => OWNER_ROLE,
            Self::Reader => READER_ROLE,
        }
    }
}

/// The one place that says as whom somebody's SQL runs in a tenant. What the role may do is PostgreSQL's to enforce.
pub(crate) fn role_of(caller: &Caller, tenant: &Tenant) -> Result<DatabaseRole, Problem> {
    caller.may_in(tenant, Action::ReadData)?;
    let writes = caller.can(tenant.id, Action::WriteData);
    Ok(if writes { DatabaseRole::Owner } else { DatabaseRole::Reader })
}

/// Who somebody is in the history of queries: as long as the name of a person may change, this does not.
pub(crate) fn person_of(caller: &Caller) -> String {
    let kind = if caller.token().is_some() { "token" } else { "person" };
    format!("{kind}:{}", caller.id())
}
