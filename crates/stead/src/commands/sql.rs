//! `stead sql`: psql through the gateway.

use std::path::PathBuf;
use std::process::Command;

use driver_local::Engines;

use crate::cli::Which;
use crate::context::Context;
use crate::exit::Failure;
use crate::host;

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    command: Option<String>,
    file: Option<PathBuf>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component).await?;
    let credentials = client.credentials(&named.tenant, &named.stead, &component.name).await?;
    let ca = context.ca_file(&client).await?;
    let psql = psql(context);
    let mut run = Command::new(&psql);
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
    let batch = command.is_some() || file.is_some();
    if batch {
        run.args(["-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off"]);
    }
    if context.json {
        run.args(["--csv"]);
    }
    if let Some(command) = command {
        run.arg("-c").arg(command);
    }
    if let Some(file) = file {
        run.arg("-f").arg(file);
    }
    let status = run.status().map_err(|error| {
        Failure::Failed(format!("cannot run {}: {error}; install PostgreSQL's client programs", psql.display()))
    })?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Child(u8::try_from(code).unwrap_or(1))),
        None => Err(Failure::Child(130)),
    }
}

/// The newest psql on this machine: an older one does not understand all of a newer server.
fn psql(context: &Context) -> PathBuf {
    let engines = Engines::discover(&context.home, &host::engine_dirs());
    let found = engines.newest().map(|(_, engine)| engine.bin.join("psql")).filter(|psql| psql.is_file());
    found.unwrap_or_else(|| PathBuf::from("psql"))
}
