//! Inspections: a debugger at a function, while it is developed.
//!
//! An inspection lasts as long as the connection that began it (`invoke/inspections.rs`). Meanwhile calls of the
//! function go to pools of their own (`function.rs`), each of one worker in which Node's inspector listens; that worker
//! is brought up without waiting for a call, is never frozen and has no deadline, for a call that somebody looks at
//! takes as long as he looks. Everything else of the function stays as it is, and is used again afterwards.
//!
//! Nothing is opened on the host. The inspector listens inside the worker's network namespace, and is reached from
//! there: by sockets that the keeper made inside ([`Sockets`]) and handed out with the claim.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use std::{io, iter};

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::engine::Engine;
use crate::function::Function;
use crate::pool::Pool;
use crate::route::{Interpreter, Language, Notice, Version};
use crate::start::{self, Unstarted};
use crate::worker::Worker;

/// Connections at once to an inspector: a debugger keeps one or two, and asks by short ones who is there.
pub(crate) const SOCKETS: Option<NonZeroU8> = NonZeroU8::new(16);
/// Where Node's inspector listens unless the function was promised that port at another address.
const PORT: u16 = 9229;
/// How long a connection waits for a worker that can be inspected.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);
/// After a worker has ended by itself, the next one is not brought up before.
const AFTER_AN_END: Duration = Duration::from_secs(1);

/// Why there is no inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoInspection {
    /// Somebody inspects the function already.
    Taken,
    /// No version answers calls.
    NothingLive,
    /// The live version has a runtime without an inspector.
    NoInspector(String),
}

/// See above.
pub(crate) struct Inspection {
    pub(crate) id: Uuid,
    /// Those that can be inspected, or could; the last came last.
    workers: Mutex<Vec<Weak<Worker>>>,
    over: watch::Sender<Option<Instant>>,
    /// Another version may be live.
    pub(crate) changed: Notify,
}

impl Inspection {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            id: Uuid::new_v4(),
            workers: Mutex::default(),
            over: watch::Sender::new(None),
            changed: Notify::new(),
        })
    }

    /// When it ended, if it did.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        *self.over.borrow()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        // The sender is a part of this.
        let _ = self.over.subscribe().wait_for(Option::is_some).await;
    }

    /// From now on it is no more.
    pub(crate) fn end(&self) {
        self.over.send_replace(Some(Instant::now()));
    }

    /// One more worker can be inspected, also while its code still loads.
    pub(crate) fn add(&self, worker: &Arc<Worker>) {
        let mut workers = self.workers();
        workers.retain(|worker| worker.strong_count() > 0);
        workers.push(Arc::downgrade(worker));
    }

    /// The last that lives: of a version that is being brought up, until that has failed.
    fn latest(&self) -> Option<Arc<Worker>> {
        let alive = |worker: &Weak<Worker>| worker.upgrade().filter(|worker| !worker.has_ended());
        self.workers().iter().rev().find_map(alive)
    }

    /// A connection to the inspector of the latest worker.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let reached = async {
            loop {
                if let Some(worker) = self.latest()
                    && let Some(sockets) = worker.sockets.get()
                    && let Ok(connection) = sockets.connect().await
                {
                    return connection;
                }
                // Its inspector will listen in a moment, or another worker is on its way.
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, reached).await.map_err(|_| io::ErrorKind::TimedOut.into())
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Weak<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port at which an inspector listens in a worker of this version.
pub(crate) fn port(version: &Version) -> u16 {
    let promised = |port: &u16| version.egress.iter().any(|egress| egress.port == *port);
    iter::successors(Some(PORT), |port| port.checked_add(1)).find(|port| !promised(port)).unwrap_or(PORT)
}

/// Whether workers of this version have an inspector: Node's is part of Node.
pub(crate) fn has_inspector(engine: &Engine, version: &Version) -> bool {
    let interpreter = start::interpreter(engine, version);
    matches!(interpreter, Ok(Some(Interpreter { language: Language::Node, .. })))
}

/// Keeps a worker of the live version up until the inspection has ended; tells what becomes of it.
pub(crate) async fn keep(function: &Function, inspection: &Inspection, notices: mpsc::Sender<Notice>) {
    let mut told = None;
    while inspection.ended_at().is_none() {
        let changed = inspection.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let ready = match function.inspected_pool() {
            Ok(pool) => tokio::select! {
                ready = bring_up(&pool) => ready,
                () = &mut changed => continue,
            },
            Err(why) => Err(Notice::Nothing { why }),
        };
        match ready {
            Ok((worker, version)) => {
                if told.replace(worker.name.clone()).as_ref() != Some(&worker.name) {
                    let _ = notices.send(Notice::Ready { version }).await;
                }
                let ended = async {
                    worker.ended().await;
                    sleep(AFTER_AN_END).await;
                };
                tokio::select! {
                    () = &mut changed => {}
                    () = ended => {}
                }
            }
            Err(notice) => {
                told = None;
                let _ = notices.send(notice).await;
                changed.await;
            }
        }
    }
}

async fn bring_up(pool: &Arc<Pool>) -> Result<(Arc<Worker>, u64), Notice> {
    let version = pool.edition.number;
    loop {
        match pool.prepare().await {
            Ok(()) => {}
            Err(Unstarted::Broken { failure, .. }) => {
                return Err(Notice::Broken { version, why: failure.message() });
            }
            Err(Unstarted::Unavailable(why)) => return Err(Notice::Broken { version, why }),
        }
        // Else it has ended in between.
        if let Some(worker) = pool.any() {
            return Ok((worker, version));
        }
    }
}

/// Sockets of a worker's network namespace. One that was connected can be disconnected and is then as before
/// (`connect(2)`, `AF_UNSPEC`), so a few are enough for any number of connections one after the other.
pub(crate) struct Sockets {
    inspector: SocketAddr,
    free: Mutex<Vec<OwnedFd>>,
}

impl Sockets {
    pub(crate) fn new(port: u16, free: Vec<OwnedFd>) -> Arc<Self> {
        Arc::new(Self { inspector: (Ipv4Addr::LOCALHOST, port).into(), free: Mutex::new(free) })
    }

    async fn connect(self: &Arc<Self>) -> io::Result<Connection> {
        let socket = self.free().pop().ok_or(io::ErrorKind::WouldBlock)?;
        let connected = socket.try_clone().map(|socket| TcpSocket::from_std_stream(socket.into()));
        let mut connection = Connection { stream: None, socket: Some(socket), of: self.clone() };
        let stream = connected?.connect(self.inspector).await?;
        let _ = stream.set_nodelay(true);
        connection.stream = Some(stream);
        Ok(connection)
    }

    fn free(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to an inspector; its socket is given back with it.
pub(crate) struct Connection {
    stream: Option<TcpStream>,
    socket: Option<OwnedFd>,
    of: Arc<Sockets>,
}

impl Connection {
    /// What is said on it.
    pub(crate) fn stream(&mut self) -> Option<&mut TcpStream> {
        self.stream.as_mut()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.stream.take());
        let Some(socket) = self.socket.take() else { return };
        // What went wrong before must not be told to the next.
        if rustix::net::connect_unspec(&socket).is_ok() && rustix::net::sockopt::socket_error(&socket).is_ok()
        {
            self.of.free().push(socket);
        }
    }
}

/// The sockets of a worker, once they have come.
pub(crate) type Reach = OnceLock<Arc<Sockets>>;
