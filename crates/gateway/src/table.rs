//! The routes in force, made to agree with the files. One task owns this table; it is told *that*
//! something may have changed, never what, and can be told so at any moment and twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::door::Door;
use crate::files::{self, Paths, Stamp};
use crate::listener::{Entrance, Listener};
use crate::refusal::Ending;
use crate::route::{Route, RouteStatus, Settings, Status};
use crate::session::Context;
use crate::shared::Directory;
use crate::sleep::{self, Rest};

/// What is said of the shared port stands under this name.
const SHARED: &str = "shared port";

/// The routes, their doors and their ports.
pub(crate) struct Table {
    context: Arc<Context>,
    paths: Paths,
    /// `None` while there is no `gateway.json`: loopback, as far as the host has it.
    settings: Option<Settings>,
    entries: BTreeMap<String, Entry>,
    /// File name and why it was not taken.
    refused: BTreeMap<String, String>,
    /// Version of each route file last looked at, taken or refused.
    seen: BTreeMap<String, Stamp>,
    /// The shared port, and whom it leads to.
    shared: BTreeMap<SocketAddr, Listener>,
    directory: Arc<Directory>,
    alive: mpsc::Sender<()>,
}

struct Entry {
    door: Arc<Door>,
    listeners: BTreeMap<SocketAddr, Listener>,
    /// Ports that could not be opened.
    errors: BTreeMap<SocketAddr, String>,
}

impl Table {
    /// Nothing in force yet.
    pub(crate) fn new(context: Arc<Context>, paths: Paths, alive: mpsc::Sender<()>) -> Table {
        Table {
            context,
            paths,
            settings: None,
            entries: BTreeMap::new(),
            refused: BTreeMap::new(),
            seen: BTreeMap::new(),
            shared: BTreeMap::new(),
            directory: Arc::default(),
            alive,
        }
    }

    /// Looks at every file and port again.
    pub(crate) async fn reload(&mut self) {
        self.context.certificates.reload();
        match files::read_settings(&self.paths.settings) {
            Ok(settings) => {
                self.settings = settings;
                self.refused.remove("gateway.json");
            }
            Err(reason) => self.refuse("gateway.json", reason),
        }
        match files::list_routes(&self.paths.routes) {
            Ok(servers) => {
                self.refused.remove("routes");
                let servers: BTreeSet<String> = servers.into_iter().collect();
                for server in servers.union(&self.known()) {
                    self.take(server).await;
                }
                sleep::sweep(&self.paths, |server| servers.contains(server));
            }
            // A folder that is gone is a mishap, not the wish to have no routes.
            Err(error) => self.refuse("routes", format!("cannot be listed: {error}")),
        }
        let servers: Vec<String> = self.entries.keys().cloned().collect();
        for server in &servers {
            self.close_ports(server).await;
        }
        for server in &servers {
            self.open_ports(server);
        }
        self.share().await;
    }

    /// Opens the shared port, or moves or closes it.
    async fn share(&mut self) {
        let addresses = self.addresses();
        let port = self.settings.as_ref().and_then(|settings| settings.shared_port);
        let wanted: Vec<SocketAddr> = port
            .into_iter()
            .flat_map(|port| addresses.iter().map(move |ip| SocketAddr::new(*ip, port)))
            .collect();
        let gone: Vec<SocketAddr> = self.shared.keys().filter(|at| !wanted.contains(at)).copied().collect();
        for at in gone {
            if let Some(listener) = self.shared.remove(&at) {
                listener.close().await;
            }
        }
        let mut wrong = Vec::new();
        for at in wanted {
            if self.shared.contains_key(&at) {
                continue;
            }
            let entrance = Entrance::Shared(self.directory.clone());
            match Listener::open(at, self.context.clone(), entrance, self.alive.clone()) {
                Ok(listener) => drop(self.shared.insert(at, listener)),
                Err(error) => wrong.push(self.explain("", at, &error)),
            }
        }
        if wrong.is_empty() {
            self.refused.remove(SHARED);
        } else {
            self.refuse(SHARED, wrong.join("; "));
        }
    }

    /// Looks at one server's file and ports again.
    pub(crate) async fn reload_one(&mut self, server: &str) -> Option<RouteStatus> {
        // The name comes from whoever may write to the socket; it must be a name and not a path.
        if server.is_empty() || server.starts_with('.') || server.contains('/') {
            return None;
        }
        self.take(server).await;
        self.close_ports(server).await;
        self.open_ports(server);
        self.entries.get(server).map(|entry| entry.status())
    }

    /// One server's door.
    pub(crate) fn door(&self, server: &str) -> Option<Arc<Door>> {
        self.entries.get(server).map(|entry| entry.door.clone())
    }

    /// Whether a port could not be opened, so that trying again soon is worth it.
    pub(crate) fn has_errors(&self) -> bool {
        self.refused.contains_key(SHARED) || self.entries.values().any(|entry| !entry.errors.is_empty())
    }

    /// What is in force.
    pub(crate) fn status(&self) -> Status {
        let mut refused: Vec<(String, String)> =
            self.refused.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect();
        refused.extend(self.context.certificates.error().map(|error| ("tls".to_owned(), error)));
        Status {
            pid: std::process::id(),
            routes: self.entries.values().map(Entry::status).collect(),
            refused,
            certificate_until: self.context.certificates.current().and_then(|current| current.until),
        }
    }

    /// Closes every port and sends everybody off.
    pub(crate) async fn stop(self) {
        for (_, listener) in self.shared {
            listener.close().await;
        }
        for (_, entry) in self.entries {
            for (_, listener) in entry.listeners {
                listener.close().await;
            }
            entry.door.shut(Ending::Stopping);
        }
    }

    /// Every server that had a file at an earlier look, good or bad.
    fn known(&self) -> BTreeSet<String> {
        let refused = self.refused.keys().filter_map(|name| name.strip_suffix(".json"));
        let refused = refused.filter(|name| *name != "gateway").map(str::to_owned);
        self.seen.keys().cloned().chain(refused).collect()
    }

    /// Takes a route file into force, or out of it.
    async fn take(&mut self, server: &str) {
        let name = format!("{server}.json");
        let path = self.paths.routes.join(&name);
        let stamp = match files::stamp(&path) {
            Ok(Some(stamp)) => stamp,
            Ok(None) => return self.remove(server).await,
            Err(error) => return self.refuse(&name, format!("cannot be read: {error}")),
        };
        if self.seen.get(server) == Some(&stamp) {
            return;
        }
        match files::read_route(&path, server) {
            Ok(route) => {
                self.refused.remove(&name);
                self.put(Arc::new(route));
            }
            // Replaced or removed under our hands: the next look will tell.
            Err(_) if files::stamp(&path).ok().flatten() != Some(stamp) => return,
            Err(reason) => self.refuse(&name, reason),
        }
        self.seen.insert(server.to_owned(), stamp);
    }

    fn put(&mut self, route: Arc<Route>) {
        let (server, generation) = (route.server.clone(), route.generation);
        if let Some(entry) = self.entries.get(&server) {
            entry.door.update(route);
            tracing::info!(server, generation, "route changed");
            return;
        }
        let limits = &self.context.limits;
        let rest = Rest::new(&self.paths, &server);
        let door = Door::new(route, rest, limits.waiting, limits.verifier_idle);
        sleep::follow(&door);
        self.directory.put(server.clone(), door.clone());
        self.entries
            .insert(server.clone(), Entry { door, listeners: BTreeMap::new(), errors: BTreeMap::new() });
        tracing::info!(server, generation, "route added");
    }

    async fn remove(&mut self, server: &str) {
        self.seen.remove(server);
        self.refused.remove(&format!("{server}.json"));
        self.directory.remove(server);
        let Some(entry) = self.entries.remove(server) else { return };
        for (_, listener) in entry.listeners {
            listener.close().await;
        }
        crate::fail_point!("gateway::ports_closed");
        entry.door.shut(Ending::RouteRemoved);
        entry.door.rest.thaw();
        tracing::info!(server, "route removed");
    }

    fn refuse(&mut self, name: &str, reason: String) {
        if self.refused.get(name) != Some(&reason) {
            tracing::error!(file = name, reason, "a file was refused; what was in force stays");
            self.refused.insert(name.to_owned(), reason);
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        match &self.settings {
            Some(settings) => settings.listen.clone(),
            None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }

    /// Closes the ports that a route no longer asks for.
    async fn close_ports(&mut self, server: &str) {
        let addresses = self.addresses();
        let Some(entry) = self.entries.get_mut(server) else { return };
        let port = entry.door.route().port;
        let wanted = |at: &SocketAddr| at.port() == port && addresses.contains(&at.ip());
        entry.errors.retain(|at, _| wanted(at));
        let gone: Vec<SocketAddr> = entry.listeners.keys().filter(|at| !wanted(at)).copied().collect();
        for at in gone {
            if let Some(listener) = entry.listeners.remove(&at) {
                listener.close().await;
            }
        }
    }

    /// Opens the ports that a route asks for.
    fn open_ports(&mut self, server: &str) {
        let Some(entry) = self.entries.get(server) else { return };
        let (door, port) = (entry.door.clone(), entry.door.route().port);
        for address in self.addresses() {
            let at = SocketAddr::new(address, port);
            if self.entries.get(server).is_some_and(|entry| entry.listeners.contains_key(&at)) {
                continue;
            }
            let opened =
                Listener::open(at, self.context.clone(), Entrance::Door(door.clone()), self.alive.clone());
            let result = match opened {
                Err(error) if self.settings.is_none() && is_absent(&error) => continue,
                Err(error) => Err(self.explain(server, at, &error)),
                Ok(listener) => Ok(listener),
            };
            let Some(entry) = self.entries.get_mut(server) else { return };
            match result {
                Ok(listener) => {
                    entry.errors.remove(&at);
                    entry.listeners.insert(at, listener);
                }
                Err(message) => {
                    if entry.errors.insert(at, message.clone()).as_ref() != Some(&message) {
                        tracing::error!(server, %at, message, "cannot listen");
                    }
                }
            }
        }
    }

    fn explain(&self, server: &str, at: SocketAddr, error: &io::Error) -> String {
        let (port, address) = (at.port(), at.ip());
        let other = self.entries.iter().find(|(_, entry)| entry.listeners.contains_key(&at));
        match (error.kind(), other) {
            (io::ErrorKind::AddrInUse, Some((other, _))) if other != server => {
                format!("port {port} is already the port of route `{other}`; give one of them another port")
            }
            (io::ErrorKind::AddrInUse, _) => format!(
                "port {port} on {address} is taken by another program; stop it or choose another port"
            ),
            (io::ErrorKind::PermissionDenied, _) => {
                format!("port {port} on {address} may be opened by root only; choose one from 1024 up")
            }
            (io::ErrorKind::AddrNotAvailable, _) => {
                format!("this host has no address {address}; correct `listen` in gateway.json")
            }
            _ => format!("cannot listen on {address} port {port}: {error}"),
        }
    }
}

impl Entry {
    fn status(&self) -> RouteStatus {
        let route = self.door.route();
        let errors: Vec<&str> = self.errors.values().map(String::as_str).collect();
        RouteStatus {
            server: route.server.clone(),
            generation: route.generation,
            port: route.port,
            sessions: self.door.sessions(),
            error: Some(errors.join("; ")).filter(|errors| !errors.is_empty()),
        }
    }
}

/// The host has no such address, or no such kind of address (no IPv6).
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}
