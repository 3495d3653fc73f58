//! SQL that is run for a person, and what comes back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// SQL to be run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with the SQL as sql")]
pub struct QueryRequest {
    /// One statement or several.
    #[schema(min_length = 1, max_length = 1_048_576, pattern = "^[^\\x00]+$", example = "select 1")]
    pub sql: String,
    /// Whether nothing may be changed. It is one statement then, as it is for whoever may only look.
    #[serde(default)]
    pub read_only: bool,
    /// Rows that are shown at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 5_000_000)]
    pub rows: Option<u64>,
    /// Milliseconds that it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 300_000)]
    pub timeout_ms: Option<u64>,
}

impl std::fmt::Debug for QueryRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A text may hold a secret.
        f.debug_struct("QueryRequest").field("read_only", &self.read_only).finish_non_exhaustive()
    }
}

/// A line of the answer to a query that is no row; a row is an array of texts, and `null` where there is no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum QueryEvent {
    /// It runs. Always the first line.
    Started {
        /// By which it can be cancelled.
        id: Uuid,
        /// As which role of the database.
        role: String,
        /// Whether it may change nothing.
        read_only: bool,
    },
    /// A result begins; its rows follow.
    Columns {
        /// Its columns.
        columns: Vec<QueryColumn>,
    },
    /// In the place of a row that is too long to be shown.
    RowTooLong {
        /// What it has.
        bytes: u64,
    },
    /// What the database has to say besides.
    Notice(ServerMessage),
    /// A statement has come to its end.
    Done {
        /// What it did, in PostgreSQL's words: `INSERT 0 1`; empty for an empty statement.
        command: String,
        /// Rows that came back, shown or not.
        rows: u64,
    },
    /// The database refused.
    Error(ServerMessage),
    /// How it ended. Always the last line.
    Summary(QuerySummary),
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueryColumn {
    /// Its name.
    pub name: String,
    /// The type's name, of PostgreSQL's own types: `int4`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The type's number.
    pub oid: u32,
}

/// An error or a notice of the database, with the fields that PostgreSQL gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerMessage {
    /// `ERROR`, `NOTICE`.
    pub severity: String,
    /// SQLSTATE: `42P01`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where in the text, characters from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Where in `internal_query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_position: Option<u32>,
    /// The text that a function made and ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_query: Option<String>,
    /// What was being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
}

/// How a query ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuerySummary {
    /// `done`, `failed`, `cancelled`, or `cut_off` by a limit.
    pub outcome: String,
    /// Milliseconds that it took.
    pub duration_ms: u64,
    /// Rows that came back.
    pub rows: u64,
    /// Those that were shown.
    pub rows_shown: u64,
    /// Bytes that came back.
    pub bytes: u64,
    /// Whether rows were left out.
    pub truncated: bool,
    /// Notices that were left out.
    pub notices_left_out: u32,
    /// What a person should know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A query that somebody ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueryRecord {
    /// Identity.
    pub id: Uuid,
    /// Its text.
    pub sql: String,
    /// Whether that is only the beginning of it.
    pub cut: bool,
    /// As which role of the database it ran.
    pub role: String,
    /// Whether it was to change nothing.
    pub read_only: bool,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// How it ended: `done`, `failed`, `cancelled`, `cut_off`, or `lost` with the process that ran it; absent while it
    /// runs.
    pub outcome: Option<String>,
    /// SQLSTATE, where the database refused.
    pub sqlstate: Option<String>,
    /// Milliseconds that it took.
    pub duration_ms: Option<i64>,
    /// Rows that came back.
    pub rows: Option<i64>,
}

/// What there is in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseSchema {
    /// Tables and views, by schema and name.
    pub relations: Vec<Relation>,
    /// Functions and procedures, but for those of extensions.
    pub functions: Vec<Function>,
    /// Whether there is more of either; ask with a `filter`.
    pub truncated: bool,
}

/// A table or a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Relation {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `table`, `partitioned table`, `view`, `materialized view` or `foreign table`.
    pub kind: String,
    /// What its owner wrote about it.
    pub comment: Option<String>,
    /// As PostgreSQL estimates; absent where it does not.
    pub estimated_rows: Option<i64>,
    /// In their order; the first 500.
    pub columns: Vec<RelationColumn>,
    /// Keys and other constraints.
    pub constraints: Vec<Definition>,
    /// Indexes.
    pub indexes: Vec<Definition>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelationColumn {
    /// Name.
    pub name: String,
    /// Type as PostgreSQL writes it: `numeric(10,2)`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// Its default, as SQL.
    pub default: Option<String>,
}

/// Something with a name, as SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Definition {
    /// Name.
    pub name: String,
    /// As SQL.
    pub definition: String,
}

/// A function or procedure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Function {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `function`, `procedure`, `aggregate` or `window`.
    pub kind: String,
    /// Arguments, as SQL.
    pub arguments: String,
    /// What comes back, as SQL; absent for a procedure.
    pub result: Option<String>,
    /// `sql`, `plpgsql`.
    pub language: String,
}
