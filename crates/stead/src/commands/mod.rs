//! The verbs.

mod advise;
mod backups;
mod dev;
mod doctor;
mod down;
mod edit;
mod history;
mod inspect;
mod invoke;
mod logs;
mod member;
mod plan;
mod progress;
mod release;
mod secret;
mod sql;
mod status;
mod tenant;
mod token;
mod up;
mod url;

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use clap::CommandFactory;

use crate::cli::{Cli, ServerVerb, ToolVerb, Verb};
use crate::commands::edit::Edit;
use crate::context::Context;
use crate::exit::Failure;
use crate::{host, output};

/// Runs the verb.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    if let Verb::Tool(tool) = cli.verb {
        // In a sandbox, where there is no home.
        return match tool {
            ToolVerb::Unpack { socket, into } => archiver::tool::unpack(&socket, &into),
            ToolVerb::Identify { control } => archiver::tool::identify(&control),
        }
        .map_err(Failure::failed);
    }
    match &cli.verb {
        Verb::Transfer { settings } => {
            quiet_log();
            return run_on(threads(2), async {
                transfer::run::run(settings, host::told_to_stop()).await.map_err(Failure::failed)
            });
        }
        Verb::Lake { settings } => {
            quiet_log();
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.thread_stack_size(lake::STACK);
            return run_on(runtime, async {
                lake::serve(settings, host::told_to_stop()).await.map_err(Failure::failed)
            });
        }
        _ => {}
    }
    let context = Context::new(&cli)?;
    match cli.verb {
        Verb::Keeper => {
            quiet_log();
            let program = std::env::current_exe().map_err(Failure::failed)?;
            let mut options = keeper::Options::new(&context.home, program);
            options.engine_dirs = host::engine_dirs();
            options.runtime_dirs = host::runtime_dirs();
            keeper::run(&options).map_err(Failure::failed)
        }
        Verb::Gateway { rank } => {
            quiet_log();
            asynchronously(async {
                gateway::run(gateway::Options { home: context.home, rank }).await.map_err(Failure::failed)
            })
        }
        Verb::Functions => {
            quiet_log();
            // It passes on; the work is done beside it. A thread for each processor would have them wake one another
            // several times a call.
            let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            let runtime = threads((processors / 2).max(1));
            run_on(runtime, async {
                functions::run(functions::Options { home: context.home }).await.map_err(Failure::failed)
            })
        }
        Verb::Archiver => {
            quiet_log();
            asynchronously(async {
                archiver::run(&context.home, host::told_to_stop()).await.map_err(Failure::failed)
            })
        }
        Verb::Relay => {
            quiet_log();
            asynchronously(async {
                relay::run(&context.home, host::told_to_stop()).await.map_err(Failure::failed)
            })
        }
        Verb::Recover { backups, key } => {
            quiet_log();
            let said = host::recover::run(&context.home, &host::recover::Recovery { backups, key })?;
            if context.json {
                output::json(&serde_json::json!({ "recovered": said }))
            } else {
                output::line(said)
            }
        }
        Verb::Server(args) => match args.verb {
            Some(ServerVerb::Stop { all }) => {
                let said = host::background::stop(&context.home, all)?;
                if context.json {
                    output::json(&serde_json::json!({ "stopped": said }))
                } else {
                    output::line(said)
                }
            }
            Some(ServerVerb::ReplaceGateway) => {
                let status = host::gateway::replace(&context.home)?;
                if context.json {
                    let status = serde_json::json!({
                        "rank": status.rank,
                        "pid": status.pid,
                        "version": status.version,
                        "draining": status.draining,
                    });
                    output::json(&status)
                } else {
                    output::line(host::gateway::described(&status))
                }
            }
            None => {
                quiet_log();
                host::serve::run(&context.home, *args)
            }
        },
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stead", &mut script);
            output::raw(&String::from_utf8_lossy(&script))
        }
        verb => asynchronously(asked(context, verb)),
    }
}

/// The verbs that ask a server.
async fn asked(context: Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Up { which, yes, reason, wait, canary } => {
            up::run(&context, &which, up::How { yes, reason: reason.as_deref(), wait, canary }).await
        }
        Verb::Dev { which, yes, inspect } => dev::run(&context, &which, yes, &inspect).await,
        Verb::Plan { which } => plan::run(&context, &which).await,
        Verb::Status { which, all } => status::run(&context, &which, all).await,
        Verb::Sql { which, component, statements } => {
            sql::run(&context, &which, component.as_deref(), statements).await
        }
        Verb::Url { which, component, format, shared } => {
            url::run(&context, &which, component.as_deref(), format, shared).await
        }
        Verb::Console { name } => member::console(&context, &name).await,
        Verb::Member(verb) => member::run(&context, verb).await,
        Verb::Ca => {
            let pem = context.client().await?.ca().await?;
            if context.json { output::json(&serde_json::json!({ "pem": pem })) } else { output::raw(&pem) }
        }
        Verb::History { which, all, installation, since, search, lines } => {
            let scope = history::Scope::of(&which, all, installation)?;
            history::run(&context, scope, since, search, lines).await
        }
        Verb::Logs(args) => logs::run(&context, &args).await,
        Verb::Rotate { which, component, reason } => {
            edit::run(&context, &which, component.as_deref(), reason.as_deref(), Edit::Rotate).await
        }
        Verb::Move { which, component, reason } => {
            edit::run(&context, &which, component.as_deref(), reason.as_deref(), Edit::Move).await
        }
        Verb::Pause { which, component, reason } => {
            edit::run(&context, &which, component.as_deref(), reason.as_deref(), Edit::Pause).await
        }
        Verb::Resume { which, component, reason } => {
            edit::run(&context, &which, component.as_deref(), reason.as_deref(), Edit::Resume).await
        }
        Verb::Resync { which, component, table, reason } => {
            let edit = Edit::Resync { table: table.as_deref() };
            edit::run(&context, &which, component.as_deref(), reason.as_deref(), edit).await
        }
        Verb::Advise(args) => advise::run(&context, &args).await,
        Verb::Invoke { which, component, event, later } => {
            invoke::run(&context, &which, component.as_deref(), event.as_deref(), later).await
        }
        Verb::Releases { which, component, lines } => {
            release::list(&context, &which, component.as_deref(), lines).await
        }
        Verb::Rollback { which, component, to, reason } => {
            release::rollback(&context, &which, component.as_deref(), to, reason.as_deref()).await
        }
        Verb::Promote { which, component, reason } => {
            release::promote(&context, &which, component.as_deref(), reason.as_deref()).await
        }
        Verb::Secret(verb) => secret::run(&context, verb).await,
        Verb::Backups { which } => backups::list(&context, &which).await,
        Verb::Clone { which, component, name, at, ttl, reason } => {
            let copy = backups::Copy { from: Some(&component), name: Some(&name), at, ttl, reason };
            backups::clone(&context, &which, copy).await
        }
        Verb::Restore { which, component, at, name, reason } => {
            let (from, name) = (component.as_deref(), name.as_deref());
            let copy = backups::Copy { from, name, at: Some(at), ttl: None, reason };
            backups::restore(&context, &which, copy).await
        }
        Verb::Swap { which, component, with, yes, reason } => {
            backups::swap(&context, &which, (&component, &with), yes, reason.as_deref()).await
        }
        Verb::Drop { which, component, yes, reason } => {
            backups::drop(&context, &which, &component, yes, reason.as_deref()).await
        }
        Verb::Down { which, yes, unprotect, reason } => {
            down::run(&context, &which, yes, unprotect, reason.as_deref()).await
        }
        Verb::Doctor => doctor::run(&context).await,
        Verb::Tenant(verb) => tenant::run(&context, verb).await,
        Verb::Token(verb) => token::run(&context, verb).await,
        Verb::Keeper
        | Verb::Gateway { .. }
        | Verb::Archiver
        | Verb::Functions
        | Verb::Relay
        | Verb::Recover { .. }
        | Verb::Tool(_)
        | Verb::Transfer { .. }
        | Verb::Lake { .. }
        | Verb::Server(_)
        | Verb::Completions { .. } => Ok(()),
    }
}

fn asynchronously(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    run_on(tokio::runtime::Builder::new_multi_thread(), work)
}

/// A runtime of so many threads.
fn threads(count: usize) -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(count);
    builder
}

fn run_on(
    mut builder: tokio::runtime::Builder,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let runtime =
        builder.enable_all().build().map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let ended = runtime.block_on(work);
    // A blocked read of a terminal must not keep the command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    ended
}

/// Logging of the processes of a host: JSON lines to standard error, or text at a terminal.
fn quiet_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn,tokio_postgres=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { builder.compact().init() } else { builder.json().init() }
}

/// Asks a yes-or-no question at the terminal; refuses where there is none.
fn confirm(question: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "there is no terminal to ask `{question}` at, so nothing was changed; say --yes"
        )));
    }
    output::ask(format!("{question} [y/N] "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Failed("nothing was changed".into())),
    }
}
