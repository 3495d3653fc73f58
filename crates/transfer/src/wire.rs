//! What a transfer's process goes by, and what it says of itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// What the process is started with, for glibc: left to itself it keeps what a merge has let go of, in a heap a thread,
/// which comes to twice of what is in use. Two heaps, and what is larger than these bytes is given back.
pub const ENVIRONMENT: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "16777216"),
];

/// `conf/transfer.json`: everything that the process goes by.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What its application transactions are called by: the transfer's handle.
    pub name: String,
    /// How it reads.
    pub mode: Mode,
    /// Folder of the server's socket.
    pub socket_dir: PathBuf,
    /// The database.
    pub database: String,
    /// What it is called inside the server: role, slot, publication, and the function that publishes.
    pub role: String,
    /// The role's password.
    #[serde(serialize_with = "exposed")]
    pub password: SecretString,
    /// Where the server is, when it is not behind that socket: then the password is of the role that is named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
    /// Folder of the lake.
    pub lake: PathBuf,
    /// Where the lake is, when it is not in that folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Bucket>,
    /// File of what it has to remember itself.
    pub memory: PathBuf,
    /// File of what it says of itself.
    pub status: PathBuf,
    /// Tables of which not everything is meant; of several that mean a table the first counts.
    pub parts: Vec<Part>,
    /// Milliseconds between two copies, two queries, or two merges of changes.
    pub every_ms: u64,
    /// Milliseconds for which older versions of tables can be asked for.
    pub keep_ms: u64,
    /// Milliseconds after which changes are forgotten; never where nothing is said.
    pub keep_changes_ms: Option<u64>,
    /// When this is more than what it remembers it lets go of its slot and copies everything anew.
    pub resyncs: u32,
    /// The same of single tables, by `schema.table`.
    pub table_resyncs: BTreeMap<String, u32>,
    /// How often either was asked for.
    pub asked: u32,
}

/// A server in which nothing of Stead's is, behind a relay: TLS is between it and the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elsewhere {
    /// The relay's socket.
    pub socket: PathBuf,
    /// What the server is called, as its certificate has it.
    pub host: String,
    /// As whom it is signed in to.
    pub user: String,
    /// How the connection is encrypted, and what is believed.
    pub tls: Tls,
    /// The authority that its certificate is of, in PEM; those that the host trusts where there is none.
    pub ca: Option<String>,
    /// Tables that are meant: patterns of SQL's `like`, of schema and of name.
    pub tables: Vec<(String, String)>,
    /// Bytes of log that it may keep where it has no limit of its own; beyond, the slot is dropped.
    pub most_kept_bytes: u64,
    /// The secret that said all this, for messages.
    pub secret: String,
    /// Nothing is read: what is of the transfer there is taken away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

/// A place in a bucket of a store that speaks S3, behind a relay: TLS is between that and the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// The relay's socket.
    pub socket: PathBuf,
    /// `s3://bucket/prefix`; without a prefix it is all of the bucket.
    pub place: String,
    /// The URL at which the store answers; in the clear where it begins with `http:`.
    pub endpoint: String,
    /// Whether the bucket's name is a part of each path there, and not of the host's name.
    pub in_path: bool,
    /// The region that requests are signed for.
    pub region: String,
    /// The authority that its certificate is of, in PEM; those that the host trusts where there is none.
    pub ca: Option<String>,
    /// The access key, and its secret.
    #[serde(serialize_with = "exposed")]
    pub key: SecretString,
    /// See `key`.
    #[serde(serialize_with = "exposed")]
    pub secret: SecretString,
    /// The secrets of the stead that said these two, for messages.
    pub key_name: String,
    /// See `key_name`.
    pub secret_name: String,
}

/// The `sslmode` of a URL, in `libpq`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// In the clear.
    Disable,
    /// Encrypted where the server can; whoever it is.
    Prefer,
    /// Encrypted; whoever it is, unless an authority is named.
    Require,
    /// The same, and it has a certificate of an authority that is believed.
    VerifyCa,
    /// The same, for the name that it was called by.
    VerifyFull,
}

/// How a transfer reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Whole tables, again and again.
    Snapshot,
    /// Rows that are newer than those that were read, again and again.
    Query(Cursor),
    /// Every change.
    Stream,
}

/// What of tables is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Which tables: schema and name, with `*` for any number of characters.
    pub names: (String, String),
    /// The same as patterns of SQL's `like`.
    pub like: (String, String),
    /// These columns and those that identify the rows; all where there are none.
    pub columns: Vec<String>,
    /// All columns but these.
    pub without: Vec<String>,
    /// Rows of which something is true; all where nothing is said.
    pub rows: Option<Rows>,
}

/// Which rows are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// A condition in SQL. It gets into a superuser's script as it is.
    pub sql: String,
    /// The columns that it names.
    pub columns: Vec<String>,
}

/// By what newer rows are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The column, of a moment, a day or a whole number, which grows whenever a row is new or changes.
    pub column: String,
    /// How much of what was read is read again, because rows are not committed in the order of their cursors; ten minutes
    /// or a thousand unless said.
    pub overlap: Option<Overlap>,
}

/// Something that is taken from a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// From a moment or a day.
    Seconds(u32),
    /// From a whole number.
    Count(u32),
}

fn exposed<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    secret.expose_secret().serialize(to)
}

/// How a transfer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When this was said.
    pub at: Timestamp,
    /// Its tables, by name.
    pub tables: Vec<TableStatus>,
    /// How far the lake is behind, where the server's log is read.
    pub behind: Option<Behind>,
    /// The moment that all tables are of, where they are read at intervals.
    pub as_of: Option<Timestamp>,
    /// Why nothing goes on at all.
    pub trouble: Option<String>,
    /// Whether only a person can go on.
    pub stopped: bool,
    /// The `asked` of its settings: what was asked for since is not in this.
    pub asked: u32,
    /// Something that should be otherwise in the server, though all goes on.
    #[serde(default)]
    pub remark: Option<String>,
    /// What became of taking away what is of it in the server, once that is known.
    #[serde(default)]
    pub left: Option<Left>,
}

/// What became of what is of a transfer in a server elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// There is nothing of it.
    Nothing,
    /// This may be there, with what has to be done.
    Remains(String),
}

/// How far the lake is behind the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Milliseconds since the lake had everything; 0 where it has.
    pub ms: u64,
    /// Bytes of the server's log that were not looked at yet.
    pub bytes: u64,
    /// Bytes of its log that the server keeps for this transfer.
    pub kept_bytes: u64,
    /// Bytes that it may still keep until it lets go of them; absent where there is no limit.
    pub room_bytes: Option<u64>,
}

/// How a table stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// `public.flights`.
    pub name: String,
    /// Where it stands.
    pub state: TableState,
    /// Rows of the last copy.
    pub rows: Option<u64>,
    /// How far the one under way has come.
    pub copying: Option<Copying>,
    /// Changes, or newer rows, written since the process began.
    pub changes: u64,
    /// Why it stands still, and what to do.
    pub why: Option<String>,
}

/// How far a copy under way has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// Rows so far.
    pub rows: u64,
    /// Rows that there may be, where the server has an idea of that.
    pub expected: Option<u64>,
}

/// Where a table stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Waits for its copy.
    #[default]
    Waiting,
    /// Is being copied.
    Copying,
    /// Is there, and its changes follow.
    Following,
    /// Is there as of the last copy.
    Copied,
    /// Stands still until somebody does something.
    Stopped,
}
