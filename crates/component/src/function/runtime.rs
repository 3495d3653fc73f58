//! Runtimes: what a package is run by, by AWS's names for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is known of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// AWS's name for it.
    pub name: &'static str,
    /// The interpreter that it needs, with its version: `node 24`; none for programs that bring everything along.
    pub interpreter: Option<(&'static str, &'static str)>,
    /// The day on which AWS deprecates it, as `YYYY-MM-DD`; none where AWS has named none. After it AWS lets no
    /// function be made with it for long.
    pub deprecated: Option<&'static str>,
}

const fn facts(
    name: &'static str,
    interpreter: Option<(&'static str, &'static str)>,
    deprecated: Option<&'static str>,
) -> RuntimeFacts {
    RuntimeFacts { name, interpreter, deprecated }
}

/// Every runtime that Stead knows to run. The dates are those of AWS's page "Lambda runtimes".
pub const RUNTIMES: &[RuntimeFacts] = &[
    facts("nodejs20.x", Some(("node", "20")), Some("2026-04-30")),
    facts("nodejs22.x", Some(("node", "22")), Some("2027-04-30")),
    facts("nodejs24.x", Some(("node", "24")), Some("2028-04-30")),
    facts("python3.10", Some(("python", "3.10")), Some("2026-10-31")),
    facts("python3.11", Some(("python", "3.11")), Some("2027-06-30")),
    facts("python3.12", Some(("python", "3.12")), Some("2028-10-31")),
    facts("python3.13", Some(("python", "3.13")), Some("2029-06-30")),
    facts("python3.14", Some(("python", "3.14")), Some("2029-06-30")),
    facts("provided.al2", None, Some("2026-07-31")),
    facts("provided.al2023", None, Some("2029-06-30")),
];

/// A runtime that Stead knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Runtime(&'static RuntimeFacts);

/// A text that names no runtime that Stead knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is not a runtime; {help}")]
pub struct UnknownRuntime {
    /// As given, made fit to be shown.
    pub given: String,
    /// What would be right.
    pub help: String,
}

impl Runtime {
    /// What is known of it.
    #[must_use]
    pub const fn facts(self) -> &'static RuntimeFacts {
        self.0
    }

    /// AWS's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Whether packages bring their own program, `bootstrap`.
    #[must_use]
    pub const fn is_provided(self) -> bool {
        self.0.interpreter.is_none()
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;
    fn from_str(text: &str) -> Result<Self, UnknownRuntime> {
        if let Some(facts) = RUNTIMES.iter().find(|facts| facts.name == text) {
            return Ok(Self(facts));
        }
        let names = || RUNTIMES.iter().map(|facts| facts.name);
        let all = names().collect::<Vec<_>>().join(", ");
        let help = match crate::manifest::nearest(text, names()) {
            Some(near) => format!("did you mean \"{near}\"? The runtimes are {all}"),
            None => format!("the runtimes are {all}"),
        };
        Err(UnknownRuntime { given: crate::manifest::shown(text), help })
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl TryFrom<String> for Runtime {
    type Error = UnknownRuntime;
    fn try_from(text: String) -> Result<Self, UnknownRuntime> {
        text.parse()
    }
}

impl From<Runtime> for String {
    fn from(runtime: Runtime) -> Self {
        runtime.name().to_owned()
    }
}
