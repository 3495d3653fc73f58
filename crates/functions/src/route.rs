//! The files the engine goes by, and what is said on its status socket.
//!
//! Functions are declared by files, `functions/routes/<handle>.json`, one a function, written by atomic rename and
//! readable by the engine's user alone: they hold environments and passwords. The engine needs nothing else to
//! serve, so it serves while the control plane is down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `functions/functions.json`: what holds for every function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Addresses that function URLs listen on; loopback unless asked.
    pub listen: Vec<IpAddr>,
    /// Interpreters of this host by the name that manifests call them: `nodejs24.x`.
    pub runtimes: BTreeMap<String, Interpreter>,
    /// Networks beside public ones that functions may reach by name; none unless asked.
    #[serde(default)]
    pub egress_networks: Vec<ipnet::IpNet>,
}

/// An interpreter of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interpreter {
    /// Which bootstrap it runs.
    pub language: Language,
    /// The folder shown at `/var/lang`; absent for one of the system's, which is below `/usr`.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// The program as a worker sees it: `/usr/bin/node`, `/var/lang/bin/node`.
    pub program: String,
}

/// What a bootstrap is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Node.js.
    Node,
    /// Python.
    Python,
}

/// One function's front door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The function's handle; the file is `<function>.json`.
    pub function: String,
    /// Counts edits of the route.
    pub generation: u64,
    /// Whose it is; also Lambda's account in ARNs.
    pub tenant: String,
    /// The stead.
    pub stead: String,
    /// The component, `function.api`.
    pub component: String,
    /// Its URL; absent: it has none.
    #[serde(default)]
    pub url: Option<Url>,
    /// Every version that may be asked for, by number. A version never changes.
    pub versions: BTreeMap<u64, Version>,
    /// The version that answers; absent as long as none has.
    #[serde(default)]
    pub live: Option<u64>,
    /// A version that gets a share of the calls.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// Secrets of all versions. With another value, workers are started anew.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// The servers that it uses, by the name that its code calls them (`main`).
    #[serde(default)]
    pub databases: BTreeMap<String, Database>,
    /// When it is called by the clock.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// Where asynchronous events go that failed for good: the component name of a function of the same stead.
    #[serde(default)]
    pub dead_letter: Option<String>,
}

/// A function's URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Url {
    /// TCP port on every address of [`Settings::listen`].
    pub port: u16,
    /// SHA-256, in hexadecimal, of the token that callers bring as `Authorization: Bearer`; absent: anybody may call.
    #[serde(default)]
    pub token_sha256: Option<String>,
}

/// What runs as one version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// SHA-256 of the package in hexadecimal: the folder `packages/<it>`.
    pub package: String,
    /// Bytes of the package's zip, as Lambda's `CodeSize`.
    pub code_bytes: u64,
    /// Name of the runtime: a key of [`Settings::runtimes`], or `provided...`, which runs the package's `bootstrap`.
    pub runtime: String,
    /// What the bootstrap calls: `index.handler`. Empty for `provided`, where the package may want none.
    pub handler: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Milliseconds that an invocation may take.
    pub timeout_ms: u64,
    /// Bytes of `/tmp`, MiB.
    pub tmp_mib: u64,
    /// Workers at once, at most.
    pub concurrency: u32,
    /// Environment variables of its own.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Which of [`Route::secrets`] it finds in its environment.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// Which of [`Route::databases`] it uses; absent: all.
    #[serde(default)]
    pub uses: Option<BTreeSet<String>>,
    /// What it may reach by name.
    #[serde(default)]
    pub egress: Vec<Egress>,
}

/// A name and a port outside that a function may reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Host name, lower case; `*.example.com` for every name below one.
    pub name: String,
    /// TCP port.
    pub port: u16,
}

/// Secrets by the name of their variable. They do not print.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl Secrets {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A version that gets a share of the calls; whoever got it once gets it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Which.
    pub version: u64,
    /// Per cent of the calls, 1 to 99.
    pub percent: u8,
    /// Why it gets none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<String>,
}

/// A server that a function uses.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The server's handle at the gateway.
    pub server: String,
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// Password; known to the pool alone, never to the function.
    pub password: String,
    /// Connections at once, at most.
    pub connections: u32,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("server", &self.server)
            .field("database", &self.database)
            .field("role", &self.role)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// When a function is called by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Five fields, as cron's.
    pub cron: String,
    /// IANA time zone.
    pub zone: String,
    /// What happens with runs that were missed while nothing could run.
    pub missed: Missed,
}

/// What happens with runs of a schedule that were missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// One run makes up for all of them.
    #[default]
    Once,
}

/// What a connection becomes that begins an inspection, or that belongs to one.
pub const INSPECTION_PROTOCOL: &str = "stead-inspection";
/// Header of the answer: which inspection.
pub const INSPECTION_ID: &str = "stead-inspection";

/// What is told, a line of JSON each, to who inspects a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "inspection", rename_all = "snake_case")]
pub enum Notice {
    /// A worker waits for calls, and for a debugger.
    Ready {
        /// Of which version.
        version: u64,
    },
    /// A worker did not start; the next version is waited for.
    Broken {
        /// Of which version.
        version: u64,
        /// Why, in words.
        why: String,
    },
    /// The version that answers has nothing to be inspected; the next one is waited for.
    Nothing {
        /// Why, in words.
        why: String,
    },
}

/// Request on `functions/functions.sock`: one JSON object a line, answered by one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Read all files again and answer with [`Status`].
    Refresh,
    /// As `Refresh`, for one function: answers with [`FunctionStatus`], or `null` where there is no such route.
    Function {
        /// Its handle.
        function: String,
    },
    /// Bring a version up beside the live one, until a worker of it is ready for an invocation: answers with
    /// [`Prepared`]. Waits for that at most Lambda's ten seconds and the version's own timeout.
    Prepare {
        /// The function's handle.
        function: String,
        /// Which version.
        version: u64,
    },
}

/// State of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: i32,
    /// Version of its binary.
    pub version: String,
    /// Functions that it serves, by handle.
    pub functions: Vec<String>,
    /// What is wrong with the file of settings, so that older ones are in force.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// State of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Generation of the route in force.
    pub generation: u64,
    /// The version that answers.
    pub live: Option<u64>,
    /// Versions that a worker of is or was ready, and were not found broken since.
    pub ready: Vec<u64>,
    /// Whether its port is open.
    pub listening: bool,
    /// Why it is not, where it should be.
    pub trouble: Option<String>,
    /// Workers by what they do.
    pub workers: Workers,
    /// Why the version that is tried gets no calls any more.
    #[serde(default)]
    pub canary_returned: Option<String>,
}

/// How many workers a function has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// With an invocation.
    pub busy: u32,
    /// Waiting for one.
    pub idle: u32,
}

/// What came of preparing a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prepared {
    /// A worker of it is ready.
    Ready,
    /// It does not start, for a reason that lies in it.
    Broken {
        /// Lambda's error type: `Runtime.ImportModuleError`.
        error_type: String,
        /// What the runtime said.
        message: String,
        /// The end of what it printed.
        log: String,
    },
    /// It could not be tried, for a reason that does not lie in it.
    Unavailable {
        /// Why.
        why: String,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A function that answers with its version 1.
    pub(crate) fn route(function: &str) -> Route {
        let version = Version {
            package: "0".repeat(64),
            code_bytes: 1,
            runtime: "nodejs20.x".to_owned(),
            handler: "index.handler".to_owned(),
            memory_mib: 128,
            timeout_ms: 3000,
            tmp_mib: 16,
            concurrency: 2,
            environment: BTreeMap::new(),
            secrets: BTreeSet::new(),
            uses: None,
            egress: Vec::new(),
        };
        Route {
            function: function.to_owned(),
            generation: 1,
            tenant: "acme".to_owned(),
            stead: "shop".to_owned(),
            component: "function.api".to_owned(),
            url: None,
            versions: [(1, version)].into(),
            live: Some(1),
            canary: None,
            secrets: Secrets::default(),
            databases: BTreeMap::new(),
            schedule: None,
            dead_letter: None,
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let mut route = route("f1");
        route.secrets.0.insert("STRIPE_KEY".to_owned(), "sk_live".to_owned());
        assert!(!format!("{route:?}").contains("sk_live"));
        assert!(serde_json::to_string(&route).unwrap().contains("sk_live"));
    }

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        let route = route("f1");
        let text = serde_json::to_string(&route).unwrap();
        assert_eq!(serde_json::from_str::<Route>(&text).unwrap(), route);
        assert!(serde_json::from_str::<Route>(&text.replace("\"live\"", "\"lives\"")).is_err());
    }
}
