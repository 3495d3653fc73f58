//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use component::{SteadName, TenantName};
use ipnet::IpNet;

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
        #[arg(long, default_value = "5m", value_name = "TIME", value_parser = seconds)]
        wait: u64,
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
        /// Component, like postgres.main [default: the only one].
        component: Option<String>,
        /// Run this and end.
        #[arg(long, short, value_name = "SQL", conflicts_with = "file")]
        command: Option<String>,
        /// Run this file and end.
        #[arg(long, short)]
        file: Option<PathBuf>,
    },
    /// Print the URL of a database, password included.
    Url {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only one].
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
        /// The whole tenant, not only this stead.
        #[arg(long)]
        all: bool,
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
    /// Show what servers logged; newest last.
    Logs(LogsArgs),
    /// Give a server a new password.
    Rotate {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only one].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Move a server to another process and folder; clients wait for a moment and go on.
    Move {
        #[command(flatten)]
        which: Which,
        /// Component, like postgres.main [default: the only one].
        component: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
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
        /// Component, like postgres.main [default: the only one].
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
    #[arg(long, value_enum, default_value_t = SaidBy::Postgres)]
    pub(crate) by: SaidBy,
    /// The whole tenant, not only this stead.
    #[arg(long, conflicts_with = "component")]
    pub(crate) all: bool,
    /// What is no tenant's: control plane, gateway, archiver; operators only.
    #[arg(long, conflicts_with_all = ["all", "component"])]
    pub(crate) installation: bool,
}

/// Who said a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaidBy {
    /// The servers themselves.
    Postgres,
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

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token; it is shown once.
    Create {
        /// What it is called in the history.
        name: String,
        /// What it allows.
        #[arg(long, value_enum)]
        scope: Scope,
        /// Whose; needed but for operators and support.
        #[arg(long, value_name = "NAME")]
        tenant: Option<TenantName>,
        /// Days until it ends [default: it does not].
        #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u16).range(1..=3650))]
        days: Option<u16>,
    },
    /// Show all tokens, without their secrets.
    List,
    /// End a token.
    Revoke {
        /// Its id.
        id: uuid::Uuid,
    },
}

/// What a token allows.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Scope {
    /// Everything, in every tenant.
    Operator,
    /// Looking, in every tenant; no data.
    Support,
    /// Everything in one tenant but its quota and its tokens.
    Owner,
    /// Like owner, but for its members.
    Developer,
    /// Looking, in one tenant, and exporting its record; no data.
    Auditor,
    /// Looking, in one tenant, its data included; no passwords.
    Viewer,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<ServerVerb>,
    /// Where the API listens.
    #[arg(
        long,
        env = "STEAD_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:7878"
    )]
    pub(crate) listen: SocketAddr,
    /// Where servers' ports listen; give it more than once for several.
    #[arg(long, env = "STEAD_GATEWAY_LISTEN", hide_env_values = true, value_name = "ADDRESS", value_delimiter = ',', default_values = ["127.0.0.1", "::1"])]
    pub(crate) gateway_listen: Vec<IpAddr>,
    /// Where the gateway's metrics can be asked for, `GET /metrics`; they name tenants to whoever asks.
    #[arg(long, env = "STEAD_GATEWAY_METRICS", hide_env_values = true, value_name = "ADDRESS:PORT")]
    pub(crate) gateway_metrics: Option<SocketAddr>,
    /// Network of load balancers that say by PROXY protocol v2 who a client is; more than once for several.
    #[arg(long, env = "STEAD_PROXY_PROTOCOL_FROM", hide_env_values = true, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    /// How long sessions may go on in a gateway that was replaced, at most a day.
    #[arg(long, env = "STEAD_GATEWAY_DRAIN", hide_env_values = true, value_name = "TIME", default_value = "24h", value_parser = seconds)]
    pub(crate) gateway_drain: u64,
    /// The name of this host that clients are told.
    #[arg(
        long,
        env = "STEAD_ADDRESS",
        hide_env_values = true,
        value_name = "HOST",
        default_value = "localhost"
    )]
    pub(crate) address: String,
    /// Ports that servers may be given.
    #[arg(long, env = "STEAD_PORTS", hide_env_values = true, value_name = "FIRST-LAST", default_value = "6001-9999", value_parser = ports)]
    pub(crate) ports: (u16, u16),
    /// One port more for every server, which is then told by its host name; 0: none.
    #[arg(
        long,
        env = "STEAD_SHARED_PORT",
        hide_env_values = true,
        value_name = "PORT",
        default_value_t = 6000
    )]
    pub(crate) shared_port: u16,
    /// Domain of the host names at the shared port; `*.` of it has to lead to this host.
    #[arg(
        long,
        env = "STEAD_SHARED_DOMAIN",
        hide_env_values = true,
        value_name = "DOMAIN",
        default_value = "stead.localhost"
    )]
    pub(crate) shared_domain: String,
    /// How many servers of the newest engine are kept prepared.
    #[arg(long, env = "STEAD_SPARES", hide_env_values = true, value_name = "NUMBER", default_value_t = 4)]
    pub(crate) spares: usize,
    /// Where backups go: a folder, or s3://bucket/prefix with S3's own AWS_* variables; best another machine's
    /// [default: the folder `backups` of the home].
    #[arg(long, env = "STEAD_BACKUPS", hide_env_values = true, value_name = "FOLDER-OR-URL")]
    pub(crate) backups: Option<String>,
    /// How long what was written may wait before it is in the backups: the most that a lost disk can cost.
    #[arg(long, env = "STEAD_BACKUP_AGE", hide_env_values = true, value_name = "TIME", default_value = "5s", value_parser = seconds)]
    pub(crate) backup_age: u64,
    #[command(flatten)]
    pub(crate) console: ConsoleArgs,
    /// A PostgreSQL for the control plane's state, instead of one of its own.
    #[arg(long, env = "STEAD_STATE", hide_env_values = true, value_name = "POSTGRES-URL")]
    pub(crate) state: Option<String>,
}

/// How people get into the console.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConsoleArgs {
    /// Where people reach the console, like https://console.example.com/stead, when a proxy stands before it
    /// [default: where the API listens].
    #[arg(long, env = "STEAD_CONSOLE_URL", hide_env_values = true, value_name = "URL", value_parser = console_url)]
    console_url: Option<url::Url>,
    /// The company's identity provider (OpenID Connect), as its tokens name it.
    #[arg(
        long,
        env = "STEAD_OIDC_ISSUER",
        hide_env_values = true,
        value_name = "URL",
        requires = "oidc_client_id"
    )]
    oidc_issuer: Option<String>,
    /// What Stead is called there; what it proves itself with is in STEAD_OIDC_CLIENT_SECRET.
    #[arg(
        long,
        env = "STEAD_OIDC_CLIENT_ID",
        hide_env_values = true,
        value_name = "NAME",
        requires = "oidc_issuer"
    )]
    oidc_client_id: Option<String>,
    /// What is asked for beside openid.
    #[arg(long, env = "STEAD_OIDC_SCOPES", hide_env_values = true, value_name = "SCOPE", value_delimiter = ',', default_values = ["email", "profile"])]
    oidc_scopes: Vec<String>,
    /// The claim that names somebody's groups.
    #[arg(
        long,
        env = "STEAD_OIDC_GROUPS_CLAIM",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "groups"
    )]
    oidc_groups_claim: String,
    /// What a group gives: GROUP=operator, GROUP=TENANT:ROLE, or stead-{tenant}-{role}={tenant}:{role}; more than once
    /// for several (in the variable, one a line).
    #[arg(
        long,
        env = "STEAD_OIDC_ROLES",
        hide_env_values = true,
        value_name = "GROUP=ROLE",
        value_delimiter = '\n'
    )]
    oidc_role: Vec<server::Rule>,
}

impl ConsoleArgs {
    /// As the server takes them; `listen` is where the API listens.
    pub(crate) fn settings(&self, listen: SocketAddr) -> Result<server::ConsoleSettings, url::ParseError> {
        let url = match &self.console_url {
            Some(url) => url.clone(),
            None => format!("http://{listen}").parse()?,
        };
        let secret = std::env::var("STEAD_OIDC_CLIENT_SECRET").ok().filter(|secret| !secret.is_empty());
        let provider = self.oidc_issuer.clone().zip(self.oidc_client_id.clone());
        let provider = provider.map(|(issuer, client_id)| server::ProviderSettings {
            issuer,
            client_id,
            client_secret: secret.map(secrecy::SecretString::from),
            scopes: self.oidc_scopes.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            rules: self.oidc_role.clone(),
        });
        Ok(server::ConsoleSettings { url, provider })
    }
}

/// `https://console.example.com/stead`.
fn console_url(text: &str) -> Result<url::Url, String> {
    let wrong = || "write it like https://console.example.com/stead".to_owned();
    let url: url::Url = text.parse().map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none();
    let bare = url.query().is_none() && url.fragment().is_none() && url.has_host();
    let path = url
        .path()
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~'));
    if matches!(url.scheme(), "http" | "https") && plain && bare && path { Ok(url) } else { Err(wrong()) }
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ServerVerb {
    /// Stop the control plane of this host; servers go on.
    Stop {
        /// Stop the servers, the gateway and the keeper too.
        #[arg(long)]
        all: bool,
    },
    /// Start another gateway in the place of the one that serves; no connection is refused, and sessions go on.
    ReplaceGateway,
}

/// Seconds of a day.
pub(crate) const A_DAY: u64 = 86_400;

/// `5m`, `30s`, `90`.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write it like 30s, 5m or 1h".into()),
    };
    let number: u64 = number.parse().map_err(|_| "write it like 30s, 5m or 1h".to_owned())?;
    number.checked_mul(factor).filter(|s| *s <= A_DAY).ok_or_else(|| "at most a day".into())
}

impl ServerArgs {
    /// The shared port, where there is one.
    pub(crate) fn shared(&self) -> Option<server::Shared> {
        (self.shared_port != 0)
            .then(|| server::Shared { port: self.shared_port, domain: self.shared_domain.clone() })
    }
}

/// `6001-9999`.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let wrong = || "write it like 6001-9999, between 1024 and 65535".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first < 1024 || first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// `10.0.0.0/8`; a single address is a network too.
fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| single()).map_err(|_| "write it like 10.0.0.0/8 or 10.0.0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn spans_and_ports() {
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("90"), Ok(90));
        for wrong in ["", "m", "5d", "-1s", "99999999999999999999s", "25h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ports("6001-9999"), Ok((6001, 9999)));
        assert_eq!(network("10.0.0.5"), Ok("10.0.0.5/32".parse().unwrap()));
        assert_eq!(network("2001:db8::/32"), Ok("2001:db8::/32".parse().unwrap()));
        assert!(network("10.0.0.0/33").is_err());
        for wrong in ["6001", "9-6", "80-90", "1-70000", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
