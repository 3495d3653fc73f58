//! How a worker is started: a spare is taken, given its package, and told its environment; then its code loads.
//!
//! Lambda gives the code ten seconds to load. Where that is too little it is tried once more, and then has the time
//! that an invocation may take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keeper::wire::{WorkerClaim, WorkerLimits, WorkerStart};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::environment;
use crate::invocation::Failure;
use crate::output::Output;
use crate::pool::Pool;
use crate::route::{Interpreter, Version};
use crate::sandboxes::{Failed, Kind, Sandbox};
use crate::spares;
use crate::worker::{NotStarted, Worker};
use crate::{database, dns, inspection, minder, runtime_api};

/// Lambda's limit for code to load.
const INIT: Duration = Duration::from_secs(10);
/// Lambda's limit of processes and threads.
const PROCESSES: u64 = 1024;
/// How often another sandbox is tried where one was not fit for use.
const TRIES: usize = 3;

/// Why there is no worker.
#[derive(Debug, Clone)]
pub(crate) enum Unstarted {
    /// For a reason that lies in the function.
    Broken {
        failure: Failure,
        /// The end of what it printed.
        log: String,
    },
    /// For another reason.
    Unavailable(String),
}

/// What runs in a sandbox, and how it gets to know.
struct Plan {
    kind: Kind,
    /// What is written to standard input.
    line: Vec<u8>,
}

/// Starts a worker of a pool's version; it is ready for an invocation when this returns.
pub(crate) async fn start(pool: &Arc<Pool>) -> Result<Arc<Worker>, Unstarted> {
    let mut limit = INIT;
    let mut longer = [pool.edition.timeout()].into_iter();
    let mut tries = 0;
    loop {
        let result = attempt(pool, limit).await;
        tries += 1;
        match &result {
            Err(Unstarted::Broken { failure, .. }) if failure.error_type == "Sandbox.Timedout" => {
                let Some(next) = longer.next() else { return result };
                limit = next;
            }
            // Somebody else ended it, perhaps while it was a spare.
            Err(Unstarted::Broken { failure, .. }) if minder::was_killed(failure) && tries < TRIES => {}
            _ => return result,
        }
    }
}

async fn attempt(pool: &Arc<Pool>, limit: Duration) -> Result<Arc<Worker>, Unstarted> {
    let engine = &pool.engine;
    let plan = plan(pool).map_err(Unstarted::Unavailable)?;
    let mut sandbox = claimed(pool, &plan.kind).await?;
    let (started, ready) = oneshot::channel();
    let edition = pool.edition.clone();
    let shown = (edition.number, edition.version.memory_mib);
    let output = Output::new(pool.log.clone(), shown, sandbox.output, sandbox.errors);
    let worker = Arc::new(Worker::new(sandbox.name.clone(), edition, pool, output, started));
    if let Some(inspection) = &pool.inspection {
        inspection.add(&worker);
    }
    let said = std::mem::take(&mut sandbox.said);
    let reading = worker.clone();
    tokio::spawn(async move { reading.output.read(Arc::downgrade(&reading)).await });
    tokio::spawn(minder::mind(engine.clone(), worker.clone(), sandbox.control, said));
    tokio::spawn(runtime_api::serve(worker.clone(), sandbox.runtime_api));
    tokio::spawn(database::serve(engine.clone(), worker.clone(), sandbox.postgres));
    tokio::spawn(dns::serve(engine.clone(), worker.clone(), sandbox.dns));
    let told = tell(sandbox.input, &plan.line).await;
    if let Err(error) = told {
        tracing::debug!(%error, worker = %worker.name, "a worker did not take its environment");
    }
    let late = async {
        if let Some(inspection) = &pool.inspection {
            // It may stand at a breakpoint before it is loaded.
            inspection.ended().await;
        }
        sleep(limit).await;
    };
    let result = tokio::select! {
        ready = ready => match ready {
            Ok(Ok(())) => return Ok(worker),
            Ok(Err(not_started)) => not_started,
            Err(_) => NotStarted::Unavailable("the worker was lost".to_owned()),
        },
        () = late => NotStarted::Late,
    };
    let unstarted = unstarted(&worker, result, limit);
    engine.stop_worker(&worker);
    worker.lost(|_| Failure::found("Runtime.ExitError", "Error: stopped".to_owned()));
    Err(unstarted)
}

/// Why, with the end of its log, in which it is said too.
fn unstarted(worker: &Worker, why: NotStarted, limit: Duration) -> Unstarted {
    let failure = match why {
        NotStarted::Broken(failure) => failure,
        NotStarted::Late => {
            let message = format!("Error: Task timed out after {:.2} seconds", limit.as_secs_f64());
            Failure::found("Sandbox.Timedout", message)
        }
        NotStarted::Unavailable(why) => return Unstarted::Unavailable(why),
    };
    let kind = &failure.error_type;
    let message =
        format!("INIT_REPORT Phase: init\tStatus: error\tError Type: {kind}\t{}", failure.message());
    let log = worker.output.tail();
    worker.output.say("error", message);
    Unstarted::Broken { failure, log: String::from_utf8_lossy(&log).into_owned() }
}

/// A sandbox with the package in it.
async fn claimed(pool: &Arc<Pool>, kind: &Kind) -> Result<Sandbox, Unstarted> {
    let version = &pool.edition.version;
    let mut last = String::new();
    for _ in 0..TRIES {
        let sandbox = match pool.engine.spares.take(kind).await {
            Ok(sandbox) => sandbox,
            Err(error @ Failed::Ended(_)) => {
                last = error.to_string();
                continue;
            }
            Err(error) => return Err(Unstarted::Unavailable(error.to_string())),
        };
        let claim = WorkerClaim {
            worker: sandbox.name.clone(),
            package: version.package.clone(),
            limits: limits(version),
            egress: ports(version),
            sockets: pool.inspection.as_ref().and(inspection::SOCKETS),
        };
        match pool.engine.sandboxes.claim(claim).await {
            Ok(()) => return Ok(sandbox),
            Err(error) => {
                last = error.to_string();
                pool.engine.stop_sandbox(sandbox.name);
            }
        }
    }
    Err(Unstarted::Unavailable(last))
}

/// Lambda's `/tmp` does not count as memory, and here it is memory: so a function may use both.
fn limits(version: &Version) -> WorkerLimits {
    WorkerLimits {
        memory_bytes: version.memory_mib.saturating_add(version.tmp_mib).saturating_mul(1 << 20),
        tmp_bytes: version.tmp_mib.saturating_mul(1 << 20),
        pids: PROCESSES,
    }
}

/// The ports that it may reach outside, each once.
fn ports(version: &Version) -> Vec<u16> {
    let mut ports: Vec<_> = version.egress.iter().map(|egress| egress.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Which sandbox it needs, and what to tell it.
fn plan(pool: &Pool) -> Result<Plan, String> {
    let edition = &pool.edition;
    let today = Timestamp::now().strftime("%Y/%m/%d").to_string();
    let stream = format!("{today}/[{}]{:032x}", edition.number, rand::random::<u128>());
    let route = edition.declared.route();
    let mut env = environment::of_function(&route, edition.number, &edition.version, &stream);
    if pool.inspection.is_some() {
        env.insert(environment::INSPECT.to_owned(), inspection::port(&edition.version).to_string());
    }
    let interpreter = interpreter(&pool.engine, &edition.version)?;
    let (kind, line) = match &interpreter {
        Some(interpreter) if !needs_own_start(&edition.version) => {
            let kind = Kind { lang: interpreter.folder.clone(), program: spares::program(interpreter) };
            (kind, serde_json::to_vec(&env))
        }
        Some(interpreter) => {
            let kind = Kind { lang: interpreter.folder.clone(), program: Vec::new() };
            (kind, serde_json::to_vec(&WorkerStart { program: spares::program(interpreter), env }))
        }
        None => {
            let kind = Kind { lang: None, program: Vec::new() };
            (kind, serde_json::to_vec(&WorkerStart { program: vec!["/var/task/bootstrap".to_owned()], env }))
        }
    };
    let mut line = line.map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(Plan { kind, line })
}

/// Whether the interpreter has to be started with the function's environment.
pub(crate) fn needs_own_start(version: &Version) -> bool {
    version.environment.keys().chain(&version.secrets).any(|name| environment::is_read_at_start(name))
}

/// The interpreter of a version; nothing for `provided`.
pub(crate) fn interpreter(engine: &Engine, version: &Version) -> Result<Option<Interpreter>, String> {
    if version.runtime.starts_with("provided") {
        return Ok(None);
    }
    let settings = engine.settings();
    match settings.runtimes.get(&version.runtime) {
        Some(interpreter) => Ok(Some(interpreter.clone())),
        None => {
            let known: BTreeMap<_, _> = settings.runtimes.iter().collect();
            let known: Vec<_> = known.keys().map(|name| name.as_str()).collect();
            Err(format!(
                "the runtime `{}` is not installed; installed are {}",
                version.runtime,
                known.join(", ")
            ))
        }
    }
}

/// One line, and the end: nothing else comes.
async fn tell(mut input: pipe::Sender, line: &[u8]) -> std::io::Result<()> {
    input.write_all(line).await
}
