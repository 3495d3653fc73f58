//! What somebody is: roles of a tenant's members, and of the platform's own people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What somebody is in a tenant, or (operator, support) in all of them. What each role may do is the permission
/// table's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the installation: everything, in every tenant.
    Operator,
    /// Helps every tenant: sees all, changes nothing, reads no data.
    Support,
    /// Answers for one tenant: edits its steads, and says who its members are.
    Owner,
    /// Works in one tenant: edits its steads, reads and writes its data.
    Developer,
    /// Reads the record of one tenant, and exports it; reads no data.
    Auditor,
    /// Looks at one tenant, its data included.
    Viewer,
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role; the roles are operator, support, owner, developer, auditor and viewer")]
pub struct BadRole(String);

impl Role {
    /// Every role, the mightiest first.
    pub const ALL: [Self; 6] =
        [Self::Operator, Self::Support, Self::Owner, Self::Developer, Self::Auditor, Self::Viewer];

    /// The roles that a member of a tenant can have.
    pub const OF_MEMBERS: [Self; 4] = [Self::Owner, Self::Developer, Self::Auditor, Self::Viewer];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Support => "support",
            Self::Owner => "owner",
            Self::Developer => "developer",
            Self::Auditor => "auditor",
            Self::Viewer => "viewer",
        }
    }

    /// Whether it is a role of the platform's own people, which holds in every tenant.
    #[must_use]
    pub fn is_staff(self) -> bool {
        matches!(self, Self::Operator | Self::Support)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| BadRole(crate::manifest::shown(text)))
    }
}
