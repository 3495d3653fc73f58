//! The PostgreSQL front door: TLS, sign-in, allow-list.
//!
//! Every server has a port here and no other way in from a network: it listens on a Unix socket alone.
//! The gateway is *not* in the path of trust of a password. It asks the server for a role's verifier,
//! checks the client's SCRAM proof against it, with channel binding, and signs in to the server with the
//! ClientKey that a right proof gives away: no password is ever seen, stored or sent.
//!
//! What a connection goes through, a file a stage:
//!
//! | stage | file | what can go wrong there |
//! |---|---|---|
//! | accept | `ports.rs`, `listener.rs` | a port is taken, out of descriptors |
//! | whose it is, where a load balancer brings it | `caller.rs`, `proxy.rs` | no PROXY protocol header |
//! | allow-list, before a byte of the client's is read | `door.rs`, `session.rs` | not allowed |
//! | a place among those who sign in | `crowd.rs` | too many at once, of one address or tenant |
//! | TLS, first packet | `conn.rs`, `startup.rs`, `tls.rs` | in the clear, garbage, a deadline missed |
//! | sign-in | `guessing.rs`, `signin.rs` (and the crate `scram`), `verifiers.rs` | wrong password, too many of them, binding, server down |
//! | a seat | `door.rs` | all sessions in use |
//! | the server's own sign-in | `backend.rs` | no such database |
//! | a server that sleeps is woken | `sleep.rs` | it does not wake up |
//! | copying | `relay.rs`, `conversation.rs`, `frames.rs` | either side goes away |
//! | the server is switched, or falls asleep | `hold.rs`, `parked.rs`, `carry.rs` | what cannot be taken along |
//! | a line in the log | `record.rs` | - |
//!
//! Nothing of it is lost when the gateway itself is upgraded: the next one takes the place of the one that
//! serves (`handover.rs`), which goes on with the sessions it has (`drain.rs`).
//!
//! At the port that every server shares, `shared.rs` comes first: TLS tells which server is meant. The control plane
//! opens sessions for the people who are signed in with it at a door of its own, `inner.rs`.
//!
//! It goes by files (`route.rs`, `files.rs`) and needs nothing else: one task (`control.rs`) keeps the
//! table of doors (`table.rs`) in agreement with them, and answers on a Unix socket (`status.rs`,
//! `client.rs`). What it counts (`stats.rs`) can be asked for by HTTP (`metrics.rs`, `scrape.rs`). So it serves while everything else of Stead is down.
//!
//! Decisions worth knowing:
//!
//! - **A refused address may finish a TLS handshake, and learns nothing.** libpq discards an error that
//!   comes before TLS (since CVE-2024-10977), so a clear refusal needs one. The verdict is made before;
//!   strangers have few places, little time, no sign-in, and are told no name of tenant or server.
//! - **An edit of `allow` ends the sessions that it no longer allows** (57P01, statement cancelled). An
//!   edit of the port or of `max_sessions` ends none.
//! - **A role that can come in without a proof cannot come in here**: what the server lets in by peer or
//!   trust is refused, and superusers have no verifier for the gateway.
//! - **Nothing of a session is parsed** but where messages begin, so that it is known when a session is at rest,
//!   and the names of an application's own settings, because nobody else can tell them.

mod backend;
mod caller;
mod cancel;
mod carry;
pub mod client;
mod conn;
mod control;
mod conversation;
mod crowd;
mod door;
mod drain;
mod drainers;
mod duty;
mod files;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod guessing;
mod handover;
mod hold;
pub mod inner;
mod limited;
mod listener;
mod metrics;
mod orders;
mod own_settings;
mod parked;
mod ports;
mod proxy;
mod record;
mod refusal;
mod relay;
pub mod route;
mod scrape;
mod session;
mod shared;
mod signin;
mod sleep;
mod startup;
mod stats;
mod status;
mod table;
mod tls;
mod verifiers;
mod wire;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

pub use client::{Client, ClientError};

use caller::Balancers;
use crowd::Crowd;
use drainers::Drainers;
use files::Paths;
use guessing::Guessing;
use handover::{Entered, Office};
use record::Log;
use session::Context;
use stats::ProcessStats;
use table::Table;
use tls::Certificates;

/// What a gateway needs to know to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// `$STEAD_HOME`.
    pub home: PathBuf,
    /// Which of the gateways of the home this is, from [`FIRST_RANK`]: it takes the place of one of a lower
    /// rank that serves, and gives way to none but one of a higher rank.
    pub rank: u64,
}

/// The rank of a gateway that takes nobody's place.
pub const FIRST_RANK: u64 = 1;

/// Numbers that hold for every route. The defaults are what `stead gateway` runs with.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From accept to signed in.
    pub sign_in: Duration,
    /// The same for an address that is not allowed.
    pub stranger: Duration,
    /// Connections of one route that have not signed in yet.
    pub waiting: usize,
    /// Connections of addresses that are not allowed, of all routes.
    pub strangers: usize,
    /// Connections of one address (of IPv6: one network of 64 bits) that have not signed in yet, of all
    /// routes.
    pub waiting_per_address: usize,
    /// The same of one tenant's servers together.
    pub waiting_per_tenant: usize,
    /// Sessions of one address, of all routes.
    pub sessions_per_address: usize,
    /// How long a wrong password waits for its answer.
    pub failure_delay: Duration,
    /// Wrong passwords that one address may give in a row at one server before it has to wait.
    pub failures: u32,
    /// After how long it may give one more.
    pub failure_refill: Duration,
    /// How long the connection that asks for verifiers outlives its last question.
    pub verifier_idle: Duration,
    /// A session that lasts longer has a line in the log before it ends.
    pub long_session: Duration,
    /// How often, from then on, a session adds what it has copied to the metrics.
    pub counted_every: Duration,
    /// How long a session that is ended may still take to finish a message.
    pub farewell: Duration,
    /// How often files are looked at even though nothing seems to have changed.
    pub rescan: Duration,
    /// The connection log is rotated at this size, bytes.
    pub rotate_at: u64,
    /// How long it asks the gateway in force for its place.
    pub hand_over: Duration,
    /// How long the sessions that are left after a hand-over may go on, unless `gateway.json` says so.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sign_in: Duration::from_secs(15),
            stranger: Duration::from_secs(5),
            waiting: 256,
            strangers: 64,
            // pgbench, and whoever connects for each transaction, has as many under way as it has threads.
            waiting_per_address: 128,
            waiting_per_tenant: 512,
            // A pooler before all servers of a host is one address too.
            sessions_per_address: 10_000,
            failure_delay: Duration::from_millis(250),
            // An app that still has its old password tries a few times a second: others behind the same
            // address must come through beside it.
            failures: 60,
            failure_refill: Duration::from_millis(500),
            verifier_idle: Duration::from_secs(5),
            long_session: Duration::from_secs(10),
            counted_every: Duration::from_secs(15),
            farewell: Duration::from_secs(2),
            rescan: Duration::from_secs(5),
            rotate_at: 64 << 20,
            hand_over: Duration::from_secs(30),
            drain: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One gateway a home.
    #[error("another gateway serves {}; stop it first", .0.display())]
    Running(PathBuf),
    /// The one that serves keeps its place.
    #[error("the gateway in force did not hand over: {0}")]
    NotHandedOver(String),
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

/// Serves until SIGTERM or SIGINT: then ports close, sessions end with 57P01, and it returns. Also returns
/// once it has handed over to the next gateway and its last session has ended.
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

/// Serves until `stop` speaks, or until it has handed over and drained.
pub async fn serve(options: Options, limits: Limits, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let paths = Paths::new(&options.home);
    for folder in [&paths.gateway, &paths.routes, &paths.tls, &paths.logs] {
        std::fs::create_dir_all(folder).map_err(file("create", folder))?;
    }
    private_folder(&paths.asleep).map_err(file("create", &paths.asleep))?;
    raise_descriptor_limit();
    let log = Log::open(&paths.log, limits.rotate_at).map_err(file("open", &paths.log))?;
    let mut stop = std::pin::pin!(stop);
    let Entered { lock, status, ports } = tokio::select! {
        entered = handover::enter(&paths, options.rank, limits.hand_over) => entered?,
        () = &mut stop => return Ok(()),
    };
    fail_point!("gateway::locked");
    let (rescan, patience) = (limits.rescan, limits.farewell * 3);
    let context = Arc::new(Context {
        certificates: Certificates::new(paths.tls.clone()),
        log,
        mock_secret: rand::random(),
        strangers: Arc::new(Semaphore::new(limits.strangers)),
        balancers: Balancers::default(),
        arriving: Arc::new(Semaphore::new(limits.waiting)),
        connections: AtomicU64::new(1),
        calling: Crowd::new(limits.waiting_per_address),
        stats: ProcessStats::default(),
        tenants: Crowd::new(limits.waiting_per_tenant),
        present: Crowd::new(limits.sessions_per_address),
        guessing: Guessing::new(limits.failures, limits.failure_refill),
        rank: options.rank,
        lent: ports,
        duty: Arc::default(),
        drainers: Drainers::new(&paths, options.rank),
        limits,
    });
    let (alive, mut all_gone) = mpsc::channel(1);
    let mut table = Table::new(context.clone(), paths.clone(), alive);
    let listener = match status {
        Some(listener) => listener,
        None => status::bind(&paths.socket).map_err(file("listen on", &paths.socket))?,
    };
    fail_point!("gateway::socket_bound");
    let (commands, inbox) = mpsc::channel(64);
    let office = Office::open(options.rank, lock, listener, commands);
    let mut office = office.map_err(file("answer on", &paths.socket))?;
    tracing::info!(home = %options.home.display(), rank = options.rank, "gateway started");

    let given = control::keep(&mut table, &paths, rescan, inbox, &mut stop, Some(&mut office)).await;
    if given.is_none() {
        let _ = std::fs::remove_file(&paths.socket);
    }
    office.close().await;
    if let Some(private) = given {
        context.log.follow();
        drain::run(&mut table, private, &paths, &context.limits, &mut all_gone, stop).await;
    }
    table.stop().await;
    if timeout(patience, all_gone.recv()).await.is_err() {
        tracing::warn!("some sessions did not end in time; they are cut off");
    }
    let closing = context.clone();
    let _ = tokio::task::spawn_blocking(move || closing.log.close()).await;
    tracing::info!("gateway stopped");
    Ok(())
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// For what the gateway alone may read.
fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The lock, unless another process holds it. The kernel gives it back when the last process ends that was
/// given it, however that ends.
fn lock(path: &Path) -> Result<Option<File>, Error> {
    let lock = File::create(path).map_err(file("open", path))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(file("lock", path)(source)),
    }
}

/// Two descriptors a session: the usual soft limit of 1024 would end at 500.
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
