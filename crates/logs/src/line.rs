//! A line: whose it is, when it was said, how grave it is, what it says.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use component::TenantId;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose lines: the store keeps owners apart by folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A tenant's.
    Tenant(TenantId),
    /// Nobody's in particular: for those who operate the installation.
    Installation,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => id.fmt(f),
            Self::Installation => f.write_str("installation"),
        }
    }
}

impl FromStr for Owner {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "installation" => Ok(Self::Installation),
            // Only as it is written above: one owner has one folder.
            _ => text.parse().map(Self::Tenant).ok().filter(|owner| owner.to_string() == text).ok_or(()),
        }
    }
}

/// Which program said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A PostgreSQL server.
    Postgres,
    /// The front door: a line a connection, and what it says of itself.
    Gateway,
    /// A function: what it wrote, and what became of each call.
    Function,
    /// The keeper: what became of processes.
    Keeper,
    /// Who stores backups.
    Archiver,
    /// The engine of functions, of itself.
    Engine,
    /// The control plane.
    Stead,
}

impl Source {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Gateway => "gateway",
            Self::Function => "function",
            Self::Keeper => "keeper",
            Self::Archiver => "archiver",
            Self::Engine => "engine",
            Self::Stead => "stead",
        }
    }
}

/// How grave, in one scale for all programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Severity {
    /// For who looks for a mistake in the program.
    Debug = 0,
    /// What happened; PostgreSQL's LOG, INFO and NOTICE.
    Info = 1,
    /// What may become a trouble.
    Warning = 2,
    /// Something failed.
    Error = 3,
    /// A session or a server ended for it; PostgreSQL's FATAL and PANIC.
    Fatal = 4,
}

impl Severity {
    /// All, from the least.
    pub const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Fatal];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    /// What a program's own word means; what is no word of any is `Info`.
    pub(crate) fn of_word(word: &str) -> Self {
        match word.to_ascii_uppercase().as_str() {
            "TRACE" | "DEBUG" | "DEBUG1" | "DEBUG2" | "DEBUG3" | "DEBUG4" | "DEBUG5" => Self::Debug,
            "WARNING" | "WARN" => Self::Warning,
            "ERROR" => Self::Error,
            "FATAL" | "PANIC" => Self::Fatal,
            _ => Self::Info,
        }
    }
}

/// What the lines of a block have in common, as it was called when they were said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// Who said it.
    pub source: Source,
    /// Of which stead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// Of which component; `control` for the control plane's own server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The handle of the server, which stays when names change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// Which line: the file it was read from and where it stood there. Never given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LineId {
    /// The file.
    pub file: u64,
    /// Bytes before it.
    pub offset: u64,
}

impl fmt::Display for LineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.file, self.offset)
    }
}

/// A line, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which.
    pub id: LineId,
    /// When it was said, microseconds since 1970.
    pub at: i64,
    /// How grave.
    pub severity: Severity,
    /// By whom, of what.
    pub label: Arc<Label>,
    /// It was longer than [`crate::LONGEST_LINE`]; the rest is not stored.
    pub cut: bool,
    /// All of it: the object that was written, or an object with its text under `text`.
    pub fields: Value,
}

impl Line {
    /// Reads a line's text.
    pub(crate) fn read(about: &About, label: Arc<Label>, text: &[u8]) -> Self {
        let object = (!about.plain).then(|| serde_json::from_slice::<Value>(text).ok()).flatten();
        let fields = object.filter(Value::is_object).unwrap_or_else(|| {
            // NUL is no text to PostgreSQL, terminals and most readers of JSON.
            let text = String::from_utf8_lossy(text).replace('\0', "\u{fffd}");
            serde_json::json!({ "text": text })
        });
        Self { id: about.id, at: about.at, severity: about.severity, label, cut: about.cut, fields }
    }

    /// The moment.
    #[must_use]
    pub fn moment(&self) -> Timestamp {
        Timestamp::from_microsecond(self.at).unwrap_or_default()
    }

    /// What it says, for a person.
    #[must_use]
    pub fn message(&self) -> &str {
        let of = |name: &str| self.fields.get(name).and_then(Value::as_str);
        of("message")
            .or_else(|| self.fields.pointer("/fields/message").and_then(Value::as_str))
            .or_else(|| of("text"))
            .or_else(|| of("outcome"))
            .unwrap_or_default()
    }

    /// The word for its severity that the program itself used, where it used one.
    #[must_use]
    pub fn word(&self) -> &str {
        let of = |name: &str| self.fields.get(name).and_then(Value::as_str);
        of("error_severity").or_else(|| of("level")).unwrap_or(self.severity.as_str())
    }
}

/// Of a line that was cut, so much is looked through for its time, bytes.
const SHORT: usize = 4096;

/// What is known of a line without reading its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) id: LineId,
    pub(crate) at: i64,
    pub(crate) severity: Severity,
    /// No JSON object.
    pub(crate) plain: bool,
    pub(crate) cut: bool,
}

/// What a line says of itself at the beginning.
#[derive(Default, Deserialize)]
pub(crate) struct Head {
    timestamp: Option<Value>,
    at: Option<Value>,
    error_severity: Option<Value>,
    level: Option<Value>,
    action: Option<Value>,
    message: Option<serde::de::IgnoredAny>,
    event: Option<serde::de::IgnoredAny>,
    server: Option<Value>,
    unit: Option<Value>,
}

impl Head {
    /// `None` where it is no JSON object.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// What the beginning of a line of PostgreSQL's says that was cut and so is no JSON any more: time and severity
    /// stand before anything that may be long.
    pub(crate) fn of_cut(text: &[u8]) -> Self {
        let start = String::from_utf8_lossy(text.get(..SHORT).unwrap_or(text));
        let value = |name: &str| {
            let (_, rest) = start.split_once(&format!("\"{name}\":\""))?;
            rest.split_once('"').map(|(value, _)| Value::from(value))
        };
        Self { timestamp: value("timestamp"), error_severity: value("error_severity"), ..Self::default() }
    }

    /// When it was said, microseconds since 1970.
    pub(crate) fn moment(&self) -> Option<i64> {
        let text = self.timestamp.as_ref().or(self.at.as_ref())?.as_str()?;
        let at = match text.strip_suffix(" UTC") {
            // PostgreSQL's own form; servers log in UTC.
            Some(civil) => civil.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
            None => text.parse().ok()?,
        };
        Some(at.as_microsecond())
    }

    pub(crate) fn severity(&self) -> Severity {
        let word = self.error_severity.as_ref().or(self.level.as_ref()).and_then(Value::as_str);
        match (word, self.action.as_ref().and_then(Value::as_str)) {
            (Some(word), _) => Severity::of_word(word),
            (None, Some("unit.killed" | "disk.read_only" | "unit.restarted")) => Severity::Warning,
            // The gateway says a reason only of connections that it ended.
            (None, None) if self.event.is_some() && self.message.is_some() => Severity::Warning,
            _ => Severity::Info,
        }
    }

    /// The handle of the server that the line is about: said by the gateway, or in the name of the keeper's unit.
    pub(crate) fn server(&self) -> Option<&str> {
        let server = self.server.as_ref().and_then(Value::as_str).filter(|server| !server.is_empty());
        server.or_else(|| handle_of(self.unit.as_ref()?.as_str()?))
    }
}

/// The handle in a unit's or a tree's name: `pg-<handle>`, `<handle>-2`.
pub(crate) fn handle_of(name: &str) -> Option<&str> {
    let name = name.strip_prefix("pg-").unwrap_or(name);
    let handle = name.strip_suffix("-2").unwrap_or(name);
    (handle.len() == 16 && handle.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(handle)
}
