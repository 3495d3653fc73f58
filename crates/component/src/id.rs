//! Identities: opaque, never reused, safe to log.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one, random.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A tenant.
    TenantId
);
id!(
    /// A stead.
    SteadId
);
id!(
    /// A component.
    ComponentId
);
id!(
    /// An operation.
    OperationId
);

impl ComponentId {
    /// The handle by which a driver finds the component in the outside world: 16 hexadecimal digits of
    /// the random id. It is derived, so an act done twice finds its own work; 64 random bits, so that
    /// one tenant cannot guess another's.
    #[must_use]
    pub fn handle(self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(16);
        text
    }
}
