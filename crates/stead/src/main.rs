//! Every customer's own backend: provisioned in one call, operated in its stead.
//!
//! One binary, a verb a file below `commands`. Most verbs talk to a Stead server over its API; `server`,
//! `keeper` and `gateway` *are* the processes of a host, and `host` is where they are put together: the
//! only place that names a concrete driver.

mod cli;
mod commands;
mod context;
mod exit;
mod host;
mod output;
mod project;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::exit::Failure;

fn main() -> ExitCode {
    // Reads FAILPOINTS; nothing where fail points are not compiled in.
    let _scenario = fail::FailScenario::setup();
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.len() == 1 {
        arguments.push("--help".into());
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            return Failure::from(error).tell(arguments.iter().any(|argument| argument == "--json"));
        }
    };
    let json = cli.json;
    // Not through `#[tokio::main]`: the keeper must stay a process of one thread, and the server gives up
    // root before it has a second.
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(json),
    }
}
