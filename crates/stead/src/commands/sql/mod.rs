//! `stead sql`: psql through the gateway; with `--json`, without psql. A transfer's lake is asked like a server.

pub(super) mod answers;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use client::wire::Credentials;
use component::Kind;
use driver_local::Engines;

use crate::cli::{FileFormat, Statements, Which};
use crate::context::Context;
use crate::exit::Failure;
use crate::{host, output};

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    statements: Statements,
) -> Result<(), Failure> {
    if context.json && statements.format.is_some() {
        return Err(Failure::Usage("--json and --format are two forms of an answer; say one of them".into()));
    }
    let statements = statements.into_file()?;
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, Kind::Postgres).await?;
    let credentials =
        client.credentials(named.tenant.as_str(), named.stead.as_str(), &component.name).await?;
    if context.json {
        let statements = statements.text()?;
        let statements = statements.ok_or_else(|| wanting("--json wants statements"))?;
        let answers = answers::of(&credentials, &client.ca().await?, "stead sql", &statements).await?;
        return output::json(&answers);
    }
    let ca = context.ca_file(&client).await?;
    let psql = psql(context);
    // In this process's place, so that Ctrl-C, the terminal and the exit code are psql's.
    let error = prepared(&psql, &credentials, &ca, statements).exec();
    Err(Failure::Failed(format!(
        "cannot run {}: {error}; install PostgreSQL's client programs",
        psql.display()
    )))
}

fn wanting(what: &str) -> Failure {
    Failure::Usage(format!("{what}: -c SQL or -f FILE"))
}

impl Statements {
    /// What is to be run, where that was said.
    fn text(&self) -> Result<Option<String>, Failure> {
        match (&self.command, &self.file) {
            (Some(command), _) => Ok(Some(command.clone())),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map(Some)
                .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", file.display()))),
            (None, None) => Ok(None),
        }
    }

    /// The same, or one statement that writes what a question answers as a file.
    fn into_file(self) -> Result<Self, Failure> {
        let options = match self.format {
            None => return Ok(self),
            Some(FileFormat::Csv) => "format csv, header",
            Some(FileFormat::Arrow) => "format arrow",
            Some(FileFormat::Parquet) => "format parquet",
        };
        let question = self.text()?.ok_or_else(|| wanting("--format wants a question"))?;
        let question = question.trim_end_matches([';', ' ', '\t', '\r', '\n']);
        // On lines of its own, for it may end with a comment.
        let command = Some(format!("copy (\n{question}\n) to stdout ({options})"));
        Ok(Self { command, file: None, format: None })
    }
}

fn prepared(psql: &Path, credentials: &Credentials, ca: &Path, statements: Statements) -> Command {
    let Statements { command, file, .. } = statements;
    let mut run = Command::new(psql);
    // By the environment, because arguments can be seen by every user of the machine.
    run.env("PGHOST", &credentials.host)
        .env("PGPORT", credentials.port.to_string())
        .env("PGDATABASE", &credentials.database)
        .env("PGUSER", &credentials.role)
        .env("PGPASSWORD", &credentials.password)
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", ca)
        .env("PGCHANNELBINDING", "require")
        .env("PGAPPNAME", "stead sql");
    for name in ["PGSERVICE", "PGHOSTADDR", "PGOPTIONS", "PGSSLCERT", "PGSSLKEY", "PGREQUIREAUTH"] {
        // Meant for other servers.
        run.env_remove(name);
    }
    if command.is_some() || file.is_some() {
        run.args(["-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off"]);
    }
    if let Some(command) = command {
        run.arg("-c").arg(command);
    }
    if let Some(file) = file {
        run.arg("-f").arg(file);
    }
    run
}

/// The newest psql on this machine: an older one does not understand all of a newer server.
fn psql(context: &Context) -> PathBuf {
    let engines = Engines::discover(&context.home, &host::engine_dirs());
    let found = engines.newest().map(|(_, engine)| engine.bin.join("psql")).filter(|psql| psql.is_file());
    found.unwrap_or_else(|| PathBuf::from("psql"))
}
