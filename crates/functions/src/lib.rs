//! The function front door: Lambda's contracts, pools of workers, HTTP.
//!
//! The contract is AWS Lambda's, so that a package that runs there runs here unchanged. What a call goes through, a file
//! a stage:
//!
//! | stage | file |
//! |---|---|
//! | a function's URL: who may call, the event, the response | `url.rs`, `url/` |
//! | the Invoke API, for Stead's own processes | `invoke.rs`, `invoke/` |
//! | events that are accepted now and worked at later; schedules | `events.rs`, `events/`, `schedule.rs` |
//! | which version serves the caller | `function.rs`, `trial.rs` |
//! | a worker that rests, or a place in the queue | `pool.rs` |
//! | a worker is started: a spare, the package, the environment | `start.rs`, `spares.rs`, `sandboxes.rs`, `environment.rs` |
//! | the runtime inside asks for the invocation and answers it | `runtime_api.rs`, `hearing.rs`, `worker.rs`, `bootstrap/` |
//! | deadlines, freezing, processes that end | `minder.rs`, `freezer.rs` |
//! | a debugger at its worker | `inspection.rs`, `invoke/inspections.rs` |
//! | what it prints; what it used | `output.rs`, `log.rs`, `usage.rs` |
//! | what it reaches: its databases, names outside | `database.rs`, `dns.rs`, `names.rs`, `egress.rs` |
//!
//! The engine goes by files (`route.rs`, `files.rs`): one task (`control.rs`) keeps functions in agreement with them and
//! answers on a Unix socket (`status.rs`). So functions serve while the control plane is down. Sandboxes are the
//! keeper's: the engine itself is unprivileged, and whatever a function does to its worker it does to a worker.

mod client;
mod control;
mod control_socket;
mod database;
mod dns;
mod edition;
mod egress;
mod engine;
mod environment;
mod events;
mod files;
mod freezer;
mod function;
mod hearing;
mod inspection;
mod invocation;
mod invoke;
mod log;
mod minder;
mod names;
mod output;
mod pool;
pub mod route;
mod runtime_api;
mod sandboxes;
mod schedule;
mod spares;
mod start;
mod status;
mod table;
mod trial;
mod url;
mod usage;
mod worker;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub use client::ask;
pub use events::Retries;
pub use usage::UsageLine;

use control::Control;
use engine::Engine;
use events::Events;
use files::{Paths, Share};
use log::{Bounds, Log};
use usage::Usage;

/// What an engine needs to know to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// `$STEAD_HOME`.
    pub home: PathBuf,
}

/// Numbers that hold for every function. The defaults are what `stead functions` runs with.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Spare workers of each interpreter that is in use.
    pub spares: usize,
    /// Spare sandboxes without a program, where some function needs one.
    pub empty_spares: usize,
    /// A worker that has rested so long ends.
    pub idle: Duration,
    /// Calls of one version that wait for a worker.
    pub queue: usize,
    /// How long each waits.
    pub queue_wait: Duration,
    /// Connections at once to one function's URL.
    pub connections: usize,
    /// Bytes a second that a function may log.
    pub log_rate: u64,
    /// Bytes that it may log at once.
    pub log_burst: u64,
    /// A log file is renamed away at this size, bytes.
    pub rotate_at: u64,
    /// How often files are looked at even though nothing seems to have changed.
    pub rescan: Duration,
    /// What becomes of asynchronous events that fail.
    pub retries: Retries,
    /// How long invocations may still take when the engine is told to stop.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            spares: 2,
            empty_spares: 2,
            idle: Duration::from_secs(5 * 60),
            queue: 1000,
            queue_wait: Duration::from_secs(5),
            connections: 1024,
            log_rate: 1 << 20,
            log_burst: 8 << 20,
            rotate_at: 16 << 20,
            rescan: Duration::from_secs(5),
            retries: Retries::default(),
            farewell: Duration::from_secs(20),
        }
    }
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One engine a home.
    #[error("another process serves the functions of {}; stop it first", .0.display())]
    Running(PathBuf),
    /// A file or folder that it needs.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process itself.
    #[error("cannot {what}: {source}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Serves until SIGTERM or SIGINT: then ports close, invocations have a moment to end, and it returns.
pub async fn run(options: Options) -> Result<(), Error> {
    let process = |source| Error::Process { what: "take signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(process)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(process)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    };
    serve(options, Limits::default(), stop).await
}

/// Serves until `stop` speaks.
pub async fn serve(options: Options, limits: Limits, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let paths = Paths::new(&options.home);
    for folder in [&paths.functions, &paths.routes, &paths.logs, &paths.spool, &paths.usage, &paths.schedules]
    {
        std::fs::create_dir_all(folder).map_err(file("create", folder))?;
    }
    let spool = paths.usage_spool.parent().unwrap_or(&options.home);
    std::fs::create_dir_all(spool).map_err(file("create", spool))?;
    let _lock = lock(&paths.lock)?.ok_or_else(|| Error::Running(options.home.clone()))?;
    raise_descriptor_limit();
    let share = Share::of(&options.home);
    let bounds = Bounds { rate: limits.log_rate, burst: limits.log_burst, rotate_at: limits.rotate_at };
    let log = Log::open(&paths.logs, share, bounds).map_err(file("write logs into", &paths.logs))?;
    let usage =
        Usage::open(&paths.usage_spool, &paths.usage, share).map_err(file("open", &paths.usage_spool))?;
    let events = Events::open(&paths.spool).map_err(file("open", &paths.spool))?;
    let (rescan, farewell) = (limits.rescan, limits.farewell);
    let engine = Engine::new(options.home.clone(), limits, log.clone(), usage, events);
    let status = status::bind(&paths.socket, share).map_err(file("listen on", &paths.socket))?;
    let invoke = status::bind(&paths.invoke, share).map_err(file("listen on", &paths.invoke))?;
    fail_point!("functions::sockets_bound");
    // Who connects meanwhile waits: nobody may be told that a function is not there because it is not read yet, and
    // no event may be accepted while those that wait are looked through.
    let mut control = Control::new(engine.clone(), paths.clone());
    control.reload();
    engine.usage.settle(|function| paths.route(function).exists());
    engine.events.take_up(&engine);
    let (commands, inbox) = mpsc::channel(64);
    let answering = tokio::spawn(status::serve(engine.clone(), status, commands));
    let invoking = tokio::spawn(invoke::serve(engine.clone(), invoke));
    tracing::info!(home = %options.home.display(), "function front door started");
    let calling = tokio::spawn(schedule::keep(engine.clone(), paths.schedules.clone()));
    control.keep(rescan, inbox, stop).await;
    calling.abort();
    invoking.abort();
    drop(control);
    let functions = engine.table.all();
    let ended = futures::future::join_all(functions.iter().map(|function| function.close()));
    if timeout(farewell, ended).await.is_err() {
        tracing::warn!("some invocations did not end in time; they are cut off");
    }
    for function in functions {
        function.tally.flush();
    }
    answering.abort();
    for socket in [&paths.socket, &paths.invoke] {
        let _ = std::fs::remove_file(socket);
    }
    let _ = tokio::task::spawn_blocking(move || log.close()).await;
    tracing::info!("function front door stopped");
    Ok(())
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// The lock, unless another process holds it; the kernel gives it back however that ends.
fn lock(path: &Path) -> Result<Option<File>, Error> {
    let lock = File::create(path).map_err(file("open", path))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(file("lock", path)(source)),
    }
}

/// A worker costs a dozen descriptors: the usual soft limit of 1024 would end at 80.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Ends the process as `kill -9` would, for tests that configure a fail point with `return`.
#[allow(dead_code, reason = "without fail points nobody calls it")]
fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

/// Marks a place between two effects where a test can kill the process.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| crate::die())
    };
}
pub(crate) use fail_point;
