//! What is wanted of a server, and how a wish becomes a spec.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Backup, Idle, MaintenanceWindow, Size};
use crate::{ComponentId, ComponentName, Offer, Refused};

/// Major version of an engine: 15 to 18 today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Major(u16);

impl Major {
    /// The majors that Stead knows how to run; which of them a host has is another question.
    pub const KNOWN: std::ops::RangeInclusive<u16> = 15..=18;

    /// A major version.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// File name of a migration: letters, digits, `_`, `-` and `.`, ending in `.sql`; the order of names is
/// the order of running.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MigrationName(String);

/// A file name that no migration may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be the name of a migration; use letters, digits, _ - and ., ending in .sql, like 0001_tables.sql"
)]
pub struct BadMigrationName(String);

impl MigrationName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MigrationName {
    type Err = BadMigrationName;
    fn from_str(text: &str) -> Result<Self, BadMigrationName> {
        let fits = (5..=120).contains(&text.len())
            && text.ends_with(".sql")
            && !text.starts_with(['.', '-'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if fits { Ok(Self(text.to_owned())) } else { Err(BadMigrationName(crate::manifest::shown(text))) }
    }
}

impl TryFrom<String> for MigrationName {
    type Error = BadMigrationName;
    fn try_from(text: String) -> Result<Self, BadMigrationName> {
        text.parse()
    }
}

impl From<MigrationName> for String {
    fn from(name: MigrationName) -> Self {
        name.0
    }
}

impl fmt::Display for MigrationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One migration: which file, and the SHA-256 of its text in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Migration {
    /// File name.
    pub name: MigrationName,
    /// Hash of the contents.
    pub sha256: String,
}

/// What is wanted of a server; everything resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Engine.
    pub engine: Major,
    /// Size.
    pub size: Size,
    /// Who may connect: networks, sorted, none twice.
    pub allow: Vec<IpNet>,
    /// When maintenance may happen; any time where absent.
    pub maintenance: Option<MaintenanceWindow>,
    /// It sleeps when no client has run a statement for this long; never where absent, as in specs that were
    /// stored before servers slept.
    #[serde(default)]
    pub idle: Option<Idle>,
    /// How it is backed up.
    #[serde(default)]
    pub backup: Backup,
    /// Whether it stands beside the manifest: made by a command of its own, which also removes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
    /// Where its data come from, for one that was brought back from an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When Stead removes it by itself; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Migrations in the order of running.
    pub schema: Vec<Migration>,
    /// Extensions that the database has, sorted.
    pub extensions: Vec<String>,
    /// Whether deletion is refused.
    pub protect: bool,
    /// Whom to ask about it.
    pub owner: Option<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

/// A server's data as they were at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The component whose they were.
    pub component: ComponentName,
    /// Its identity.
    pub id: ComponentId,
    /// Its archive, as the driver calls it.
    pub archive: String,
    /// The moment: all that was committed until then, and nothing that was later.
    pub at: Timestamp,
}

impl Spec {
    /// Whether a server that is `before` restarts to become this: what a size sets (shared memory, sessions)
    /// is fixed while PostgreSQL runs.
    #[must_use]
    pub fn restarts(&self, before: &Self) -> bool {
        self.engine != before.engine || self.size != before.size
    }
}

/// A server as a person asks for it: what is left out is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// Engine; left out: the newest present for a new server, unchanged for an existing one.
    pub engine: Option<Major>,
    /// Size; left out: `small`.
    pub size: Option<Size>,
    /// Who may connect; left out: loopback.
    pub allow: Option<Vec<IpNet>>,
    /// When maintenance may happen.
    pub maintenance: Option<MaintenanceWindow>,
    /// It sleeps when no client has run a statement for this long; left out: it never sleeps.
    pub idle: Option<Idle>,
    /// How it is backed up; left out: daily, kept for 14 days.
    pub backup: Option<Backup>,
    /// Migrations.
    pub schema: Vec<Migration>,
    /// Extensions.
    pub extensions: Vec<String>,
    /// Whether deletion is refused; left out: it is.
    pub protect: Option<bool>,
    /// Whom to ask.
    pub owner: Option<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

/// Resolves a wish into a spec, given the spec in force (for an existing server) and the engines that are
/// to be had.
///
/// # Errors
/// [`Refused`] for an engine that is not there, and for an engine other than that of an existing server:
/// a server changes its engine by an upgrade or not at all, never by an edit.
pub fn resolve(wish: &Wish, current: Option<&Spec>, offer: &Offer) -> Result<Spec, Refused> {
    let refused = |field, message: String| Err(Refused { field, message });
    let engines = &offer.engines;
    let known = || engines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let engine = match (wish.engine, current) {
        (None, Some(current)) => current.engine,
        (Some(wanted), Some(current)) if wanted == current.engine => wanted,
        (Some(wanted), Some(current)) => {
            let direction = if wanted < current.engine { "a downgrade" } else { "an upgrade" };
            return refused(
                "engine",
                format!(
                    "the server runs engine {}, and {direction} to {wanted} is not an edit; \
                     set engine = {} (or leave it out)",
                    current.engine, current.engine
                ),
            );
        }
        (Some(wanted), None) if engines.contains(&wanted) => wanted,
        (Some(wanted), None) if engines.is_empty() => {
            return refused(
                "engine",
                format!("engine {wanted} is not installed, nor is any other; run script/setup"),
            );
        }
        (Some(wanted), None) => {
            return refused("engine", format!("engine {wanted} is not installed; installed are {}", known()));
        }
        (None, None) => match engines.last() {
            Some(newest) => *newest,
            None => return refused("engine", "no PostgreSQL engine is installed; run script/setup".into()),
        },
    };
    let mut allow = wish.allow.clone().unwrap_or_else(loopback);
    for net in &mut allow {
        *net = net.trunc();
    }
    allow.sort_unstable();
    allow.dedup();
    let mut extensions = wish.extensions.clone();
    extensions.sort_unstable();
    extensions.dedup();
    Ok(Spec {
        engine,
        size: wish.size.unwrap_or_default(),
        allow,
        maintenance: wish.maintenance.clone(),
        idle: wish.idle,
        backup: wish.backup.unwrap_or_default(),
        beside: current.is_some_and(|current| current.beside),
        origin: current.and_then(|current| current.origin.clone()),
        until: current.and_then(|current| current.until),
        schema: wish.schema.clone(),
        extensions,
        protect: wish.protect.unwrap_or(true),
        owner: wish.owner.clone(),
        runbook: wish.runbook.clone(),
    })
}

/// Resolves a wish of which only the `named` fields count: the others stay as they are.
///
/// # Errors
/// As [`resolve`].
pub fn amend(wish: &Wish, named: &BTreeSet<&str>, current: &Spec, offer: &Offer) -> Result<Spec, Refused> {
    let asked = resolve(wish, Some(current), offer)?;
    let mut spec = current.clone();
    for field in named {
        match *field {
            "size" => spec.size = asked.size,
            "allow" => spec.allow.clone_from(&asked.allow),
            "maintenance" => spec.maintenance.clone_from(&asked.maintenance),
            "idle" => spec.idle = asked.idle,
            "backup" => spec.backup = asked.backup,
            "schema" => spec.schema.clone_from(&asked.schema),
            "extensions" => spec.extensions.clone_from(&asked.extensions),
            "protect" => spec.protect = asked.protect,
            "owner" => spec.owner.clone_from(&asked.owner),
            "runbook" => spec.runbook.clone_from(&asked.runbook),
            // An engine changes by no edit.
            _ => {}
        }
    }
    Ok(spec)
}

/// The default allow-list.
pub(crate) fn loopback() -> Vec<IpNet> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let v4 = ipnet::Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).map(IpNet::V4);
    let v6 = ipnet::Ipv6Net::new(Ipv6Addr::LOCALHOST, 128).map(IpNet::V6);
    v4.into_iter().chain(v6).collect()
}
