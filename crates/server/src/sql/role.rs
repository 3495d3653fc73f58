//! As whom a person's SQL runs.

use component::postgres::{OWNER_ROLE, READER_ROLE};
use store::token::Scope;

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

/// The one place that says as whom somebody's SQL runs. What the role may do is PostgreSQL's to enforce.
pub(crate) fn role_of(caller: &Caller, read_only: bool) -> Result<DatabaseRole, Problem> {
    caller.may(Action::ReadData)?;
    let role = match caller.token().scope {
        Scope::Viewer => DatabaseRole::Reader,
        Scope::Developer | Scope::Operator => DatabaseRole::Owner,
    };
    if role == DatabaseRole::Owner && !read_only {
        caller.may(Action::WriteData)?;
    }
    Ok(role)
}

/// Who somebody is in the history of queries: as long as the name of a person may change, this does not.
pub(crate) fn person_of(caller: &Caller) -> String {
    format!("token:{}", caller.token().id)
}
