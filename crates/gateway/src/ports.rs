//! The ports of one owner, which is a route or the shared port: opened, moved and closed with what is
//! wanted, each by itself, so that one that cannot be opened takes no other along.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::listener::{Entrance, Listener};
use crate::session::Context;

/// Listeners that lead to one place.
pub(crate) struct Ports {
    context: Arc<Context>,
    entrance: Entrance,
    alive: mpsc::Sender<()>,
    open: BTreeMap<SocketAddr, Listener>,
    /// Those that could not be opened, why, and whether another route of this gateway's has them.
    errors: BTreeMap<SocketAddr, (String, bool)>,
}

impl Ports {
    /// None open yet. `alive` is held by each connection to its end.
    pub(crate) fn new(context: Arc<Context>, entrance: Entrance, alive: mpsc::Sender<()>) -> Ports {
        Ports { context, entrance, alive, open: BTreeMap::new(), errors: BTreeMap::new() }
    }

    /// Closes those that are wanted no more; when this returns they are free for others. Connections that
    /// came by them stay.
    pub(crate) async fn keep(&mut self, wanted: &[SocketAddr]) {
        self.errors.retain(|at, _| wanted.contains(at));
        for (_, listener) in self.open.extract_if(.., |at, _| !wanted.contains(at)) {
            listener.close().await;
        }
    }

    /// Opens those that are wanted and not open yet, and gives those that could not be: whoever knows
    /// the other owners says why ([`explain`]), by [`Ports::fail`] or [`Ports::pass_over`].
    pub(crate) fn open(&mut self, wanted: &[SocketAddr]) -> Vec<(SocketAddr, io::Error)> {
        let mut failed = Vec::new();
        for at in wanted {
            if self.open.contains_key(at) {
                continue;
            }
            match Listener::open(*at, self.context.clone(), self.entrance.clone(), self.alive.clone()) {
                Ok(listener) => {
                    self.errors.remove(at);
                    self.open.insert(*at, listener);
                }
                Err(error) => failed.push((*at, error)),
            }
        }
        failed
    }

    /// Keeps why a port is not open, and whether another route has it; said in the log when it is news.
    pub(crate) fn fail(&mut self, at: SocketAddr, why: String, of_route: bool) {
        if self.errors.get(&at).is_none_or(|(known, _)| *known != why) {
            tracing::error!(owner = self.entrance.owner(), %at, why, "cannot listen");
            self.errors.insert(at, (why, of_route));
        }
    }

    /// Whether other routes have all the ports that could not be opened.
    pub(crate) fn clashes(&self) -> bool {
        !self.errors.is_empty() && self.errors.values().all(|(_, of_route)| *of_route)
    }

    /// A port that is not open, and nobody minds.
    pub(crate) fn pass_over(&mut self, at: SocketAddr) {
        self.errors.remove(&at);
    }

    /// Whether this one is open here.
    pub(crate) fn holds(&self, at: SocketAddr) -> bool {
        self.open.contains_key(&at)
    }

    /// Why not all that are wanted are open, if so.
    pub(crate) fn error(&self) -> Option<String> {
        let errors: Vec<&str> = self.errors.values().map(|(why, _)| why.as_str()).collect();
        Some(errors.join("; ")).filter(|errors| !errors.is_empty())
    }

    /// Copies of the listening sockets.
    pub(crate) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.open.values().map(Listener::socket).collect()
    }

    /// Keeps nothing alive any more but `alive`.
    pub(crate) fn let_go(&mut self, alive: &mpsc::Sender<()>) {
        self.alive = alive.clone();
    }

    /// Closes all; when this returns they are free.
    pub(crate) async fn close(self) {
        for (_, listener) in self.open {
            listener.close().await;
        }
    }
}

/// Why a port cannot be opened and what to do. `holder` is who else here has it open.
pub(crate) fn explain(at: SocketAddr, error: &io::Error, holder: Option<String>) -> String {
    let (port, address) = (at.port(), at.ip());
    match (error.kind(), holder) {
        (io::ErrorKind::AddrInUse, Some(holder)) => {
            format!("port {port} is already the port of {holder}; give one of them another port")
        }
        (io::ErrorKind::AddrInUse, None) => {
            format!("port {port} on {address} is taken by another program; stop it or choose another port")
        }
        (io::ErrorKind::PermissionDenied, _) => {
            format!("port {port} on {address} may be opened by root only; choose one from 1024 up")
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            format!("this host has no address {address}; correct `listen` in gateway.json")
        }
        _ => format!("cannot listen on {address} port {port}: {error}"),
    }
}

/// The host has no such address, or no such kind of address (no IPv6).
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}
