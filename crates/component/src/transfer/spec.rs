//! What is wanted of a transfer, and how a wish becomes a spec.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Bucket, COPIER_MIB, Column, MEMORY_MIB, Origin, Overlap, Pattern, Tables};
use crate::function::Variable;
use crate::manifest::shown;
use crate::postgres::loopback;
use crate::{ComponentName, Kind, Offer, Refused};

/// What is wanted of a transfer; everything resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The server that is read.
    pub from: Origin,
    /// How.
    pub mode: Mode,
    /// Which tables of it, and what of them.
    pub tables: Tables,
    /// Between two copies, two queries, or two merges of changes.
    pub every: Every,
    /// By which column newer rows are told; for a query, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Column>,
    /// How much is read again; what is usual for the cursor where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// For how long earlier versions of tables can be asked for.
    #[serde(default = "Kept::week")]
    pub keep: Kept,
    /// For how long changes are kept; for ever where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_changes: Option<Kept>,
    /// The bucket that it writes into; the stead's own lake where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Bucket>,
    /// Networks from which the lake may be asked.
    pub allow: Vec<IpNet>,
    /// How often all was asked to be copied anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resyncs: u32,
    /// The same of single tables, since all were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub table_resyncs: BTreeMap<Pattern, u32>,
    /// How often either was.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked: u32,
    /// Nothing is read until it is to go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Whom to ask about it.
    pub owner: Option<String>,
    /// Who reads the lake: whom to tell before something of it changes.
    pub consumers: BTreeSet<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

impl Spec {
    /// Secrets that say where it reads and where it writes.
    pub fn secrets(&self) -> impl Iterator<Item = &Variable> {
        self.from.secrets().chain(self.to.iter().flat_map(Bucket::secrets))
    }

    /// Where it writes, for people.
    #[must_use]
    pub fn written(&self) -> String {
        match &self.to {
            None => "the stead's own lake".to_owned(),
            Some(Bucket { bucket, endpoint: None, .. }) => bucket.to_string(),
            Some(Bucket { bucket, endpoint: Some(endpoint), .. }) => format!("{bucket} at {endpoint}"),
        }
    }

    /// Memory of its processes, MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        if self.to.is_some() { COPIER_MIB } else { MEMORY_MIB }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How a transfer reads its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Whole tables, again and again: all of one moment, each replaced at once.
    Snapshot,
    /// Rows that are newer than those that were read, told by a column that grows.
    Query,
    /// Every committed change, in order and exactly once.
    Stream,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Query, Self::Stream];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Query => "query",
            Self::Stream => "stream",
        }
    }

    /// What it promises, and what it does not.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Self::Snapshot => {
                "all tables as they were at one moment, replaced whole; what changed in between is not seen"
            }
            Self::Query => {
                "rows whose cursor is newer, by a plain query; rows that are deleted, or become visible later than the \
                 overlap, are not seen"
            }
            Self::Stream => "every committed change exactly once and in order, within a second",
        }
    }

    fn every(self) -> Every {
        match self {
            Self::Snapshot => Every(60 * 60),
            Self::Query | Self::Stream => Every(60),
        }
    }
}

/// Between two copies or merges: whole seconds, from a second to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Every(u32);

/// A text that is no such time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time between two copies; write it like 60s or 1h, from 1s to 30d")]
pub struct BadEvery(String);

const LONGEST: u32 = 30 * 24 * 60 * 60;

impl Every {
    /// Seconds.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        self.0.into()
    }
}

impl FromStr for Every {
    type Err = BadEvery;
    fn from_str(text: &str) -> Result<Self, BadEvery> {
        let seconds = crate::postgres::seconds(text, 1..=LONGEST);
        seconds.map(Self).ok_or_else(|| BadEvery(shown(text)))
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&crate::postgres::written(self.0))
    }
}

impl TryFrom<String> for Every {
    type Error = BadEvery;
    fn try_from(text: String) -> Result<Self, BadEvery> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

/// For how long something of the lake is kept: whole seconds, from an hour to ten years: what was
/// written and is no part of a version yet must not be taken for what no version needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kept(u32);

/// A text that is no such time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time for which something is kept; write it like 7d, from 1h to 3650d")]
pub struct BadKept(String);

const HOUR: u32 = 60 * 60;
const LONGEST_KEPT: u32 = 3650 * 24 * 60 * 60;

impl Kept {
    /// A week: older versions of a table, unless something else is said.
    pub const WEEK: Self = Self(7 * 24 * 60 * 60);

    /// Seconds.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        self.0.into()
    }

    fn week() -> Self {
        Self::WEEK
    }
}

impl FromStr for Kept {
    type Err = BadKept;
    fn from_str(text: &str) -> Result<Self, BadKept> {
        let seconds = crate::postgres::seconds(text, HOUR..=LONGEST_KEPT);
        seconds.map(Self).ok_or_else(|| BadKept(shown(text)))
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&crate::postgres::written(self.0))
    }
}

impl TryFrom<String> for Kept {
    type Error = BadKept;
    fn try_from(text: String) -> Result<Self, BadKept> {
        text.parse()
    }
}

impl From<Kept> for String {
    fn from(kept: Kept) -> Self {
        kept.to_string()
    }
}

/// A transfer as a person asks for it: what is left out is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The server that is read.
    pub from: Option<Origin>,
    /// How.
    pub mode: Option<Mode>,
    /// Which tables, and what of them.
    pub tables: Option<Tables>,
    /// Between two copies, queries or merges.
    pub every: Option<Every>,
    /// By which column newer rows are told.
    pub cursor: Option<Column>,
    /// How much is read again.
    pub overlap: Option<Overlap>,
    /// For how long earlier versions of tables can be asked for.
    pub keep: Option<Kept>,
    /// For how long changes are kept.
    pub keep_changes: Option<Kept>,
    /// The bucket that it writes into.
    pub to: Option<Bucket>,
    /// Networks from which the lake may be asked.
    pub allow: Option<Vec<IpNet>>,
    /// Whom to ask.
    pub owner: Option<String>,
    /// Who reads the lake.
    pub consumers: BTreeSet<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

/// Resolves a wish into a spec, given the spec in force (for an existing transfer).
///
/// # Errors
/// [`Refused`] for a transfer that names no server, for one that is to read another server, otherwise than before or to
/// another place, and for a query without a cursor.
pub fn resolve(wish: &Wish, current: Option<&Spec>, _offer: &Offer) -> Result<Spec, Refused> {
    let from = wish.from.clone().or(current.map(|current| current.from.clone())).ok_or_else(|| Refused {
        field: "from",
        message: "reads no server; name one, like from = \"postgres.main\"".into(),
    })?;
    if let Some(current) = current.filter(|current| !current.from.is_same(&from)) {
        let message = format!(
            "reads {} and cannot read another server into the same lake; remove it, or add a second transfer",
            current.from
        );
        return Err(Refused { field: "from", message });
    }
    let mode = wish.mode.or(current.map(|current| current.mode)).unwrap_or(Mode::Stream);
    if let Some(current) = current.filter(|current| current.mode != mode) {
        let message = format!(
            "is a {} and cannot become another; remove it and add it again, or add a second transfer",
            current.mode.as_str()
        );
        return Err(Refused { field: "mode", message });
    }
    let (cursor, overlap) = cursor(wish, mode, current)?;
    let has_rows = || wish.tables.iter().flat_map(Tables::parts).any(|(_, part)| part.rows.is_some());
    if from.elsewhere().is_some() && has_rows() {
        let message = "says which rows are read of a server elsewhere, which is done for servers of the stead alone; leave `where` out".into();
        return Err(Refused { field: "tables", message });
    }
    if wish.keep_changes.is_some() && mode != Mode::Stream {
        let message = "is for mode = \"stream\" alone, as no other has changes; leave it out".into();
        return Err(Refused { field: "keep_changes", message });
    }
    let to = place(wish, current)?;
    let mut allow = match &to {
        Some(_) => Vec::new(),
        None => wish.allow.clone().unwrap_or_else(loopback),
    };
    for net in &mut allow {
        *net = net.trunc();
    }
    allow.sort_unstable();
    allow.dedup();
    Ok(Spec {
        from,
        mode,
        tables: wish.tables.clone().unwrap_or_else(Tables::public),
        every: wish.every.unwrap_or(mode.every()),
        cursor,
        overlap,
        keep: wish.keep.unwrap_or(Kept::WEEK),
        keep_changes: wish.keep_changes,
        to,
        allow,
        resyncs: current.map_or(0, |current| current.resyncs),
        table_resyncs: current.map(|current| current.table_resyncs.clone()).unwrap_or_default(),
        asked: current.map_or(0, |current| current.asked),
        paused: current.is_some_and(|current| current.paused),
        owner: wish.owner.clone(),
        consumers: wish.consumers.clone(),
        runbook: wish.runbook.clone(),
    })
}

/// Where it writes. It is no move: what is written stays where it is.
fn place(wish: &Wish, current: Option<&Spec>) -> Result<Option<Bucket>, Refused> {
    let refused = |field, message: String| Refused { field, message };
    // Another store may have what this one had once, with the transfer's own note in it.
    let place = |to: &Option<Bucket>| to.as_ref().map(|to| (to.bucket.clone(), to.endpoint.clone()));
    if let Some(current) = current.filter(|current| place(&current.to) != place(&wish.to)) {
        let message = format!(
            "writes to {} and cannot write elsewhere later; remove it and add it again, or add a second transfer",
            current.written()
        );
        return Err(refused("to", message));
    }
    let Some(to) = &wish.to else { return Ok(None) };
    if to.endpoint.is_none() && to.region.is_none() {
        let message = "names no region of the bucket; add it, like region = \"eu-central-1\"".to_owned();
        return Err(refused("to", message));
    }
    if wish.allow.is_some() {
        let message =
            "says who may ask the stead's own lake, and a transfer to a bucket has none; leave it out"
                .to_owned();
        return Err(refused("allow", message));
    }
    Ok(Some(to.clone()))
}

/// What a query goes by.
fn cursor(
    wish: &Wish,
    mode: Mode,
    current: Option<&Spec>,
) -> Result<(Option<Column>, Option<Overlap>), Refused> {
    let refused = |field, message: &str| Refused { field, message: message.to_owned() };
    if mode != Mode::Query {
        let other = "is for mode = \"query\" alone; leave it out";
        return match (&wish.cursor, wish.overlap) {
            (Some(_), _) => Err(refused("cursor", other)),
            (None, Some(_)) => Err(refused("overlap", other)),
            (None, None) => Ok((None, None)),
        };
    }
    let cursor = wish.cursor.clone().or_else(|| current.and_then(|current| current.cursor.clone()));
    let without = "tells no newer rows; name the column that does, like cursor = \"updated_at\"";
    Ok((Some(cursor.ok_or_else(|| refused("cursor", without))?), wish.overlap))
}

/// Resolves a wish of which only the `named` fields count: the others stay as they are.
///
/// # Errors
/// As [`resolve`].
pub fn amend(wish: &Wish, named: &BTreeSet<&str>, current: &Spec, offer: &Offer) -> Result<Spec, Refused> {
    // Where it writes stays as it is where nothing is said of it.
    let stays = Wish { to: current.to.clone(), ..wish.clone() };
    let asked = resolve(if named.contains("to") { wish } else { &stays }, Some(current), offer)?;
    let mut spec = current.clone();
    for field in named {
        match *field {
            // The same server; its authority may be another.
            "from" => spec.from.clone_from(&asked.from),
            "tables" => spec.tables.clone_from(&asked.tables),
            "every" => spec.every = asked.every,
            "cursor" => spec.cursor.clone_from(&asked.cursor),
            "overlap" => spec.overlap = asked.overlap,
            "keep" => spec.keep = asked.keep,
            "keep_changes" => spec.keep_changes = asked.keep_changes,
            // The same place; how it is reached may be otherwise.
            "to" => spec.to.clone_from(&asked.to),
            "allow" => spec.allow.clone_from(&asked.allow),
            "owner" => spec.owner.clone_from(&asked.owner),
            "consumers" => spec.consumers.clone_from(&asked.consumers),
            "runbook" => spec.runbook.clone_from(&asked.runbook),
            // The mode is that which it was.
            _ => {}
        }
    }
    Ok(spec)
}

/// What is asked of a transfer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Let go of what it follows, and copy everything anew.
    Resync,
    /// Copy a table anew; one that stands still goes on.
    ResyncTable(Pattern),
    /// Read nothing until it is to go on.
    Pause,
    /// Go on.
    Resume,
}

/// A text that names no single table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not one table; write it like public.orders")]
pub struct NoTable(String);

impl Asked {
    /// Tables by name.
    ///
    /// # Errors
    /// [`NoTable`] for anything but schema and table.
    pub fn table(text: &str) -> Result<Self, NoTable> {
        let table = text.parse().ok().filter(|_| !text.contains('*'));
        table.map(Self::ResyncTable).ok_or_else(|| NoTable(shown(text)))
    }

    /// The kind of its operation.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Resync | Self::ResyncTable(_) => "resync",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// Its line in the journal.
    #[must_use]
    pub fn line(&self) -> &'static str {
        match self {
            Self::Resync | Self::ResyncTable(_) => "component.resync_requested",
            Self::Pause => "component.paused",
            Self::Resume => "component.resumed",
        }
    }

    /// The spec with which it is done.
    #[must_use]
    pub fn of(&self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        match self {
            Self::Resync => {
                spec.resyncs = spec.resyncs.saturating_add(1);
                spec.table_resyncs.clear();
            }
            Self::ResyncTable(table) => {
                let count = spec.table_resyncs.entry(table.clone()).or_default();
                *count = count.saturating_add(1);
            }
            Self::Pause | Self::Resume => {
                spec.paused = *self == Self::Pause;
                return spec;
            }
        }
        spec.asked = spec.asked.saturating_add(1);
        spec
    }
}

/// Whether the server that a transfer reads will be there.
///
/// # Errors
/// [`Refused`] where it is not.
pub(crate) fn reads_what_is_there<'c>(
    spec: &Spec,
    mut there: impl Iterator<Item = &'c ComponentName>,
) -> Result<(), Refused> {
    let Origin::Server(server) = &spec.from else { return Ok(()) };
    let message = if server.kind != Kind::Postgres {
        format!("`{server}` cannot be read by a transfer; servers can, like postgres.main")
    } else if !there.any(|name| name == server) {
        format!("there is no `{server}` in this stead")
    } else {
        return Ok(());
    };
    Err(Refused { field: "from", message })
}

/// Whether no other transfer of the stead writes where this one does.
///
/// # Errors
/// [`Refused`] where one does; the second of both is told.
pub(crate) fn writes_alone<'c>(
    spec: &Spec,
    mut before: impl Iterator<Item = (&'c ComponentName, &'c Spec)>,
) -> Result<(), Refused> {
    let Some(to) = &spec.to else { return Ok(()) };
    let is_there = |other: &Spec| other.to.as_ref().is_some_and(|other| other.overlaps(to));
    let Some((name, other)) = before.find(|(_, other)| is_there(other)) else { return Ok(()) };
    let message =
        format!("is in a place of {name}, which writes to {}; name another, beside it", other.written());
    Err(Refused { field: "to", message })
}
