//! The command line.

mod advise;
mod inspect;
mod secret;
mod server;
mod token;

pub(crate) use advise::{AdviseArgs, bytes, cursor, yes_or_no};
pub(crate) use inspect::{At, InspectArgs};
pub(crate) use secret::SecretVerb;
pub(crate) use server::{A_DAY, ServerArgs, ServerVerb};
pub(crate) use token::{Scope, TokenVerb};

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use component::{SteadName, TenantName};

/// Heading of the options that every verb has.
const EVERYWHERE: &str = "Everywhere";

/// Every customer's own backend: provisioned in one call, operated in its stead.
#[derive(Debug, Parser)]
#[command(
    name = "stead",
    version,
    about,
    max_term_width = 100,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs"
)]
pub(crate) struct Cli {
    /// Print JSON, also of errors.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// Where Stead keeps everything on this host [default: /var/lib/stead, or ~/.local/share/stead].
    // Read as text: an empty variable is as good as none.
    #[arg(long, global = true, env = "STEAD_HOME", hide_env_values = true, value_name = "FOLDER",
          help_heading = EVERYWHERE)]
    pub(crate) home: Option<OsString>,
    /// Where the Stead server is [default: the one of this host].
    #[arg(long, global = true, env = "STEAD_URL", hide_env_values = true, help_heading = EVERYWHERE)]
    pub(crate) url: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Which stead is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Whose stead [default: the tenant of the last `stead up` in this folder].
    #[arg(long, env = "STEAD_TENANT", hide_env_values = true, value_name = "NAME")]
    pub(crate) tenant: Option<TenantName>,
    /// Which stead [default: the app named in stead.toml].
    #[arg(long, env = "STEAD_STEAD", hide_env_values = true, value_name = "NAME")]
    pub(crate) stead: Option<SteadName>,
}

/// What is looked for on record.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Search {
    /// Only before then; written like --since.
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// Only by this actor: a person or a token, or `stead` for what happened by itself.
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Only this action, like component.edited.
    #[arg(long, value_name = "ACTION")]
    pub(crate) action: Option<String>,
    /// Only of this sort.
    #[arg(long, value_name = "SORT", value_parser = ["change", "operation", "engine", "sign_in", "access"])]
    pub(crate) category: Option<String>,
    /// Only with this outcome.
    #[arg(long, value_name = "OUTCOME", value_parser = ["done", "refused", "noted"])]
    pub(crate) outcome: Option<String>,
    /// Only with each of these words in action, actor, stead, component or reason, in any case of letters.
    #[arg(long, value_name = "WORDS")]
    pub(crate) grep: Option<String>,
    /// Only of this operation.
    #[arg(long, value_name = "ID")]
    pub(crate) operation: Option<uuid::Uuid>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Bring a stead to what stead.toml says: show the plan, ask, apply, print the URL.
    Up {
        #[command(flatten)]
        which: Which,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Give up waiting after this long; the work goes on.
        #[arg(long, default_value = "5m", value_name = "TIME", value_parser = server::seconds)]
        wait: u64,
        /// Try functions' new releases on this share of the calls first, like 10%; `promote` then gives them all.
        #[arg(long, value_name = "SHARE", value_parser = percent)]
        canary: Option<u8>,
    },
    /// Bring a stead up, and then every save: watch the folder, and show what functions write.
    Dev {
        #[command(flatten)]
        which: Which,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        inspect: InspectArgs,
    },
    /// Show what `up` would change; starts and changes nothing.
    Plan {
        #[command(flatten)]
        which: Which,
    },
    /// Show how a stead is, or every stead; exit code 5 where something needs a person.
    Status {
        #[command(flatten)]
        which: Which,
        /// Every stead that the token may see.
        #[arg(long)]
        all: bool,
    },
    /// Open a database with psql, through the gateway.
    ///
    /// With `--json` the statements of `-c` or `-f` are run without psql, and each answer is an object with `columns`,
    /// `rows` (values are text as PostgreSQL writes it, or null) and `affected`.
    Sql {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main, or a transfer for its lake [default: the only server].
        component: Option<String>,
        #[command(flatten)]
        statements: Statements,
    },
    /// Print the URL of a database, password included.
    Url {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only server].
        component: Option<String>,
        /// For which kind of client.
        #[arg(long, value_enum, default_value_t = UrlFormat::Libpq)]
        format: UrlFormat,
        /// At the port that every server shares, for networks that let few ports through.
        #[arg(long)]
        shared: bool,
    },
    /// Print a link that opens the console, once and within five minutes.
    Console {
        /// As whom.
        #[arg(long, value_name = "ADDRESS", default_value = "operator@localhost")]
        name: String,
    },
    /// Who may sign in to the console, and as what.
    #[command(subcommand)]
    Member(MemberVerb),
    /// Print the certificate that clients verify the gateway with, PEM.
    Ca,
    /// Show who changed what, from what to what; newest last.
    History {
        #[command(flatten)]
        which: Which,
        /// The whole tenant, not only this stead; so it is where no stead is named.
        #[arg(long)]
        all: bool,
        /// All tenants, and what is no tenant's; operators and support only.
        #[arg(long, conflicts_with = "all")]
        installation: bool,
        /// Only since then: a span back from now (7d, 2h, 30m), a day (2026-11-21) or a moment
        /// ("2026-11-21 09:00", 2026-11-21T09:00:00Z).
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        #[command(flatten)]
        search: Search,
        /// The newest, at most so many.
        #[arg(long, short = 'n', default_value_t = 50, value_parser = value_parser!(u32).range(1..))]
        lines: u32,
    },
    /// Show what servers and functions logged; newest last.
    Logs(LogsArgs),
    /// Give a server a new password.
    Rotate {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only server].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Move a server to another process and folder; clients wait for a moment and go on.
    Move {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only server].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Have a transfer read nothing until `stead resume`; its lake can be asked meanwhile.
    Pause {
        #[command(flatten)]
        which: Which,
        /// Component, like transfer.lake [default: the only transfer].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Have a paused transfer go on.
    Resume {
        #[command(flatten)]
        which: Which,
        /// Component, like transfer.lake [default: the only transfer].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Have a transfer copy everything anew, or one table: what one needs that cannot go on by itself.
    Resync {
        #[command(flatten)]
        which: Which,
        /// Component, like transfer.lake [default: the only transfer].
        component: Option<String>,
        /// One table, like public.orders; the others go on [default: all].
        #[arg(long)]
        table: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Say how a server's data are best brought into a lake, why, and what that costs either side; changes nothing.
    ///
    /// Measures what a server can say of itself, and asks for the rest at a terminal. Works without a server, too.
    Advise(Box<AdviseArgs>),
    /// Call a function: its answer on standard output, what it wrote and what it took on standard error.
    Invoke {
        #[command(flatten)]
        which: Which,
        /// Component, like function.api [default: the only function].
        component: Option<String>,
        /// The event: a file with JSON, JSON itself, or - for standard input [default: {}].
        #[arg(long, short, value_name = "FILE-OR-JSON", allow_hyphen_values = true)]
        event: Option<String>,
        /// Only hand the event in; it is worked at later, and tried again where that fails.
        #[arg(long)]
        later: bool,
    },
    /// Show the releases of a function, newest first.
    Releases {
        #[command(flatten)]
        which: Which,
        /// Component, like function.api [default: the only function].
        component: Option<String>,
        /// The newest, at most so many.
        #[arg(long, short = 'n', default_value_t = 20, value_parser = value_parser!(u16).range(1..=500))]
        lines: u16,
    },
    /// Have an earlier release of a function answer again.
    Rollback {
        #[command(flatten)]
        which: Which,
        /// Component, like function.api [default: the only function].
        component: Option<String>,
        /// Which release [default: the one before the newest].
        #[arg(long, value_name = "NUMBER", value_parser = value_parser!(i64).range(1..))]
        to: Option<i64>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Have the release of a function that `up --canary` tries answer all calls.
    Promote {
        #[command(flatten)]
        which: Which,
        /// Component, like function.api [default: the only function].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Secrets of a stead: what functions find in their environment and nobody reads.
    #[command(subcommand)]
    Secret(SecretVerb),
    /// Show how far back servers can be restored, and what their backups take.
    Backups {
        #[command(flatten)]
        which: Which,
    },
    /// Make a server of another's data, as they are now or were at a moment.
    Clone {
        #[command(flatten)]
        which: Which,
        /// Whose data, like postgres.main.
        component: String,
        /// What it is called, like postgres.try.
        #[arg(long = "as", value_name = "NAME")]
        name: String,
        /// The data as they were then: a moment ("2026-11-21 14:03:07+09", "2026-11-21 14:03", 2026-11-21T05:03:07Z) or
        /// a span back from now (2h, 30m).
        #[arg(long, value_name = "WHEN")]
        at: Option<String>,
        /// Remove it again after this long, like 30m, 12h or 2d [default: it stays].
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Bring a server's data back as they were at a moment, into a server beside it; `swap` then puts that in its place.
    Restore {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only server].
        component: Option<String>,
        /// The moment: "2026-11-21 14:03:07+09", "2026-11-21 14:03", 2026-11-21T05:03:07Z, or a span back from now (2h,
        /// 30m).
        #[arg(long, value_name = "WHEN")]
        at: String,
        /// What it is called [default: the component's name and `-restored`].
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Put a server that was restored or cloned in the place of the one that it was made of; that one goes on beside it.
    Swap {
        #[command(flatten)]
        which: Which,
        /// The place, like postgres.main.
        component: String,
        /// Who takes it, like postgres.main-restored.
        with: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Remove a server that was restored or cloned.
    Drop {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.try.
        component: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Remove a stead with everything in it.
    Down {
        #[command(flatten)]
        which: Which,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Take deletion protection off first.
        #[arg(long)]
        unprotect: bool,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Look for what is wrong on this host, and say what to do; exit code 5 where something is.
    Doctor,
    /// Tenants and their quotas.
    #[command(subcommand)]
    Tenant(TenantVerb),
    /// Tokens: who may ask, and for what.
    #[command(subcommand)]
    Token(TokenVerb),
    /// Run the control plane in the foreground; Ctrl-C leaves servers running.
    Server(Box<ServerArgs>),
    /// Bring everything back on an empty host: the control plane first, then every server, of their backups.
    Recover {
        /// Where the backups are: a folder, or s3://bucket/prefix with S3's own AWS_* variables.
        #[arg(long, env = "STEAD_BACKUPS", hide_env_values = true, value_name = "FOLDER-OR-URL")]
        backups: String,
        /// The installation key that was `keys/installation.key` of the home that was lost.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Run the keeper of this host (started by `server`).
    #[command(hide = true)]
    Keeper,
    /// Run the gateway of this host (started by the keeper).
    #[command(hide = true)]
    Gateway {
        /// Takes the place of one of a lower rank that serves.
        #[arg(long, value_name = "NUMBER", default_value_t = gateway::FIRST_RANK)]
        rank: u64,
    },
    /// Run the archiver of this host (started by the keeper).
    #[command(hide = true)]
    Archiver,
    /// Run the engine of functions of this host (started by the keeper).
    #[command(hide = true)]
    Functions,
    /// Connect transfers to servers elsewhere (started by the keeper).
    #[command(hide = true)]
    Relay,
    /// Copy what is in a server into its lake (started by the keeper).
    #[command(hide = true)]
    Transfer {
        /// What it goes by.
        settings: PathBuf,
    },
    /// Answer questions about a lake (started by the keeper).
    #[command(hide = true)]
    Lake {
        /// What it goes by.
        settings: PathBuf,
    },
    /// Work on a server's data from inside its sandbox (started by the keeper).
    #[command(hide = true, subcommand)]
    Tool(ToolVerb),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Work on a server's data.
#[derive(Debug, Subcommand)]
pub(crate) enum ToolVerb {
    /// Unpack the tar that is sent.
    Unpack {
        /// Where it comes from.
        #[arg(long)]
        socket: PathBuf,
        /// The data directory.
        #[arg(long)]
        into: PathBuf,
    },
    /// Give a cluster a system identifier of its own.
    Identify {
        /// Its `pg_control`.
        #[arg(long)]
        control: PathBuf,
    },
}

/// What is to be run, and what the answer is wanted as.
#[derive(Debug, Args)]
pub(crate) struct Statements {
    /// Run this and end.
    #[arg(long, short, value_name = "SQL", conflicts_with = "file")]
    pub(crate) command: Option<String>,
    /// Run this file and end.
    #[arg(long, short)]
    pub(crate) file: Option<PathBuf>,
    /// Write the answer of one question to standard output as a file; a transfer's lake has all three.
    #[arg(long, value_enum)]
    pub(crate) format: Option<FileFormat>,
}

/// Kinds of file.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FileFormat {
    /// With a line of names.
    Csv,
    /// Arrow's stream, which a transfer's lake writes.
    Arrow,
    /// Written by a transfer's lake as well.
    Parquet,
}

/// Kinds of client.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum UrlFormat {
    /// psql, psycopg and whatever else is built on libpq.
    Libpq,
    /// Java.
    Jdbc,
    /// Shell variables: PGHOST and so on.
    Env,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantVerb {
    /// Make a tenant.
    Create {
        /// Its name.
        name: TenantName,
        #[command(flatten)]
        quota: QuotaArgs,
    },
    /// Show all tenants.
    List,
    /// Set a tenant's quota, and how long its logs are kept.
    Quota {
        /// Its name.
        name: TenantName,
        #[command(flatten)]
        quota: QuotaArgs,
    },
    /// Remove a tenant without steads.
    Remove {
        /// Its name.
        name: TenantName,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct QuotaArgs {
    /// Servers at most.
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(i64).range(0..))]
    pub(crate) servers: Option<i64>,
    /// MiB of memory at most, over all its servers.
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(i64).range(0..))]
    pub(crate) memory_mib: Option<i64>,
    /// MiB of disk at most, over all its servers.
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(i64).range(0..))]
    pub(crate) disk_mib: Option<i64>,
    /// Days that log lines are kept.
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u16).range(1..=3650))]
    pub(crate) log_days: Option<u16>,
}

/// Which lines of logs, and how.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Component, like postgres.main [default: all of the stead].
    pub(crate) component: Option<String>,
    /// The newest, at most so many; `all`: every line, newest first, as they are found.
    #[arg(long, short = 'n', default_value = "50", value_name = "NUMBER", value_parser = count)]
    pub(crate) lines: Count,
    /// Go on showing what is added.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only lines in which this regular expression is found, in letters of either case.
    #[arg(long, short, value_name = "PATTERN")]
    pub(crate) grep: Option<String>,
    /// Only lines of this call of a function, by its request id.
    #[arg(long, value_name = "ID")]
    pub(crate) request: Option<uuid::Uuid>,
    /// Only lines of which this is true: words, "phrases", field:value, /patterns/, - for not.
    #[arg(long, short = 'q', value_name = "QUERY", allow_hyphen_values = true)]
    pub(crate) query: Option<String>,
    /// Only since then: a span back from now (7d, 2h, 30m), a day (2026-11-21) or a moment
    /// ("2026-11-21 09:00", 2026-11-21T09:00:00Z).
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only before then, written the same way.
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    pub(crate) until: Option<String>,
    /// Said by whom.
    #[arg(long, value_enum, default_value_t = SaidBy::Components)]
    pub(crate) by: SaidBy,
    /// The whole tenant, not only this stead.
    #[arg(long, conflicts_with = "component")]
    pub(crate) all: bool,
    /// What is no tenant's: control plane, gateway, archiver; operators only.
    #[arg(long, conflicts_with_all = ["all", "component"])]
    pub(crate) installation: bool,
}

impl LogsArgs {
    /// What is said from now on.
    pub(crate) fn following(which: Which) -> Self {
        Self {
            which,
            component: None,
            lines: Count::Most(1),
            follow: true,
            grep: None,
            request: None,
            query: None,
            since: None,
            until: None,
            by: SaidBy::Components,
            all: false,
            installation: false,
        }
    }
}

/// Who said a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaidBy {
    /// The components themselves.
    Components,
    /// The servers.
    Postgres,
    /// The functions.
    Function,
    /// The gateway, of their connections.
    Gateway,
    /// The keeper, of their processes.
    Keeper,
    /// Everybody.
    All,
}

/// How many lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    All,
    Most(u32),
}

fn count(text: &str) -> Result<Count, String> {
    match text {
        "all" => Ok(Count::All),
        number => number
            .parse()
            .ok()
            .filter(|number| *number > 0)
            .map(Count::Most)
            .ok_or_else(|| "say how many, from 1, or all".into()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberVerb {
    /// Invite somebody; prints a link, which is shown once.
    Invite {
        /// Whom: an e-mail address.
        name: String,
        /// As what.
        #[arg(long, value_enum)]
        role: Scope,
        /// Into which tenant; needed but for operators and support.
        #[arg(long, env = "STEAD_TENANT", hide_env_values = true, value_name = "NAME")]
        tenant: Option<TenantName>,
    },
    /// Show the members of a tenant, and who is invited.
    List {
        /// Which tenant.
        #[arg(long, env = "STEAD_TENANT", hide_env_values = true, value_name = "NAME")]
        tenant: TenantName,
    },
    /// End a membership.
    Remove {
        /// Whose: an e-mail address.
        name: String,
        /// In which tenant.
        #[arg(long, env = "STEAD_TENANT", hide_env_values = true, value_name = "NAME")]
        tenant: TenantName,
    },
}

/// A share of the calls: `10%`, or `10`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number
        .filter(|percent| (1..=99).contains(percent))
        .ok_or_else(|| "write it like 10%, from 1% to 99%".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
