//! The routes in force, made to agree with the files. One task owns this table; it is told *that*
//! something may have changed, never what, and can be told so at any moment and twice.

mod handover;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::door::Door;
use crate::files::{self, Paths, Stamp};
use crate::inner::InnerDoor;
use crate::listener::Entrance;
use crate::metrics::Sources;
use crate::ports::{self, Ports};
use crate::refusal::Ending;
use crate::route::{Route, RouteStatus, Settings, Status};
use crate::scrape::Scrapes;
use crate::session::Context;
use crate::shared::Directory;
use crate::sleep::{self, Rest};

/// Who has ports.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    /// A server, by its handle.
    Server(String),
    /// Every server.
    Shared,
    /// Whoever asks for metrics.
    Metrics,
}

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
    shared: Ports,
    directory: Arc<Directory>,
    metrics: Ports,
    inner: InnerDoor,
    alive: mpsc::Sender<()>,
    /// It has handed over.
    draining: bool,
}

struct Entry {
    door: Arc<Door>,
    ports: Ports,
}

impl Table {
    /// Nothing in force yet.
    pub(crate) fn new(context: Arc<Context>, paths: Paths, alive: mpsc::Sender<()>) -> Table {
        let directory = Arc::<Directory>::default();
        let shared = Ports::new(context.clone(), Entrance::Shared(directory.clone()), alive.clone());
        let sources = Sources { context: context.clone(), directory: directory.clone() };
        let scrapes = Entrance::Metrics(Scrapes::new(sources));
        let metrics = Ports::new(context.clone(), scrapes, alive.clone());
        let inner = InnerDoor::new(context.clone(), directory.clone(), &paths, alive.clone());
        Table {
            context,
            paths,
            settings: None,
            entries: BTreeMap::new(),
            refused: BTreeMap::new(),
            seen: BTreeMap::new(),
            shared,
            directory,
            metrics,
            inner,
            alive,
            draining: false,
        }
    }

    /// Looks at every file and port again.
    pub(crate) async fn reload(&mut self) {
        self.context.certificates.reload();
        match files::read_settings(&self.paths.settings) {
            Ok(settings) => {
                self.context
                    .balancers
                    .trust(settings.as_ref().map_or(&[], |settings| &settings.proxy_protocol_from));
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
        // All that is to be closed first: ports may have been swapped.
        let mut owners: Vec<Owner> = self.entries.keys().cloned().map(Owner::Server).collect();
        owners.extend([Owner::Shared, Owner::Metrics]);
        for owner in &owners {
            self.close_ports(owner).await;
        }
        for owner in &owners {
            self.open_ports(owner);
        }
        if !self.draining {
            self.inner.open();
        }
        self.note_faults();
    }

    /// Looks at one server's file and ports again.
    pub(crate) async fn reload_one(&mut self, server: &str) -> Option<RouteStatus> {
        // The name comes from whoever may write to the socket; it must be a name and not a path.
        if server.is_empty() || server.starts_with('.') || server.contains('/') {
            return None;
        }
        self.take(server).await;
        let owner = Owner::Server(server.to_owned());
        self.close_ports(&owner).await;
        self.open_ports(&owner);
        self.note_faults();
        self.entries.get(server).map(|entry| entry.status())
    }

    /// One server's door.
    pub(crate) fn door(&self, server: &str) -> Option<Arc<Door>> {
        self.entries.get(server).map(|entry| entry.door.clone())
    }

    /// Whether a port could not be opened, so that trying again soon is worth it.
    pub(crate) fn has_errors(&self) -> bool {
        self.all_ports().any(|ports| ports.error().is_some())
    }

    /// What is in force.
    pub(crate) fn status(&self) -> Status {
        let mut refused: Vec<(String, String)> =
            self.refused.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect();
        refused.extend(self.shared.error().map(|error| ("shared port".to_owned(), error)));
        refused.extend(self.inner.error().map(|error| ("inner door".to_owned(), error)));
        refused.extend(self.metrics.error().map(|error| ("metrics".to_owned(), error)));
        refused.extend(self.context.certificates.error().map(|error| ("tls".to_owned(), error)));
        Status {
            pid: std::process::id(),
            routes: self.entries.values().map(Entry::status).collect(),
            refused,
            certificate_until: self.context.certificates.current().and_then(|current| current.until),
            rank: self.context.rank,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: keeper::own_program().unwrap_or_default(),
            draining: Vec::new(),
        }
    }

    /// Closes every port and sends everybody off.
    pub(crate) async fn stop(self) {
        self.inner.remove().await;
        self.metrics.close().await;
        self.shared.close().await;
        for (_, entry) in self.entries {
            entry.ports.close().await;
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
        if self.draining {
            return;
        }
        let limits = &self.context.limits;
        let rest = Rest::new(&self.paths, &server, self.context.duty.clone(), self.context.drainers.clone());
        let door = Door::new(route, rest, limits.waiting, limits.verifier_idle);
        sleep::follow(&door);
        self.directory.put(server.clone(), door.clone());
        let ports = Ports::new(self.context.clone(), Entrance::Door(door.clone()), self.alive.clone());
        self.entries.insert(server.clone(), Entry { door, ports });
        tracing::info!(server, generation, "route added");
    }

    async fn remove(&mut self, server: &str) {
        self.seen.remove(server);
        self.refused.remove(&format!("{server}.json"));
        self.directory.remove(server);
        let Some(entry) = self.entries.remove(server) else { return };
        entry.ports.close().await;
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

    fn all_ports(&self) -> impl Iterator<Item = &Ports> {
        self.entries.values().map(|entry| &entry.ports).chain([&self.shared, &self.metrics])
    }

    /// For the metrics.
    fn note_faults(&self) {
        let ports = self.all_ports().filter(|ports| ports.error().is_some()).count();
        let faults = ports
            + usize::from(self.inner.error().is_some())
            + self.refused.len()
            + usize::from(self.context.certificates.error().is_some());
        self.context.stats.faults.store(u64::try_from(faults).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Somebody's ports, and where they are to be.
    fn ports(&mut self, owner: &Owner) -> Option<(&mut Ports, Vec<SocketAddr>)> {
        let settings = self.settings.clone().unwrap_or_default();
        let at = |port: u16| settings.listen.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        match owner {
            Owner::Server(server) => {
                let entry = self.entries.get_mut(server)?;
                let wanted = at(entry.door.route().port);
                Some((&mut entry.ports, wanted))
            }
            Owner::Shared => Some((&mut self.shared, settings.shared_port.map(at).unwrap_or_default())),
            Owner::Metrics => Some((&mut self.metrics, settings.metrics.into_iter().collect())),
        }
    }

    /// Closes the ports that are no longer asked for.
    async fn close_ports(&mut self, owner: &Owner) {
        if let Some((ports, wanted)) = self.ports(owner) {
            ports.keep(&wanted).await;
        }
    }

    /// Opens the ports that are asked for.
    fn open_ports(&mut self, owner: &Owner) {
        if self.draining {
            return;
        }
        let failed = self.ports(owner).map(|(ports, wanted)| ports.open(&wanted)).unwrap_or_default();
        for (at, error) in failed {
            // Nobody asked for IPv6 on a host that has none.
            let nobody_minds = self.settings.is_none() && ports::is_absent(&error);
            let of_route = self.entries.values().any(|entry| entry.ports.holds(at));
            let why = ports::explain(at, &error, self.holder(at));
            let Some((ports, _)) = self.ports(owner) else { return };
            if nobody_minds {
                ports.pass_over(at);
            } else {
                ports.fail(at, why, of_route);
            }
        }
    }

    /// Who here has a port open.
    fn holder(&self, at: SocketAddr) -> Option<String> {
        if self.shared.holds(at) {
            return Some("every server (`shared_port` in gateway.json)".to_owned());
        }
        if self.metrics.holds(at) {
            return Some("the metrics (`metrics` in gateway.json)".to_owned());
        }
        let holder = self.entries.iter().find(|(_, entry)| entry.ports.holds(at));
        holder.map(|(server, _)| format!("route `{server}`"))
    }
}

impl Entry {
    fn status(&self) -> RouteStatus {
        let route = self.door.route();
        RouteStatus {
            server: route.server.clone(),
            generation: route.generation,
            port: route.port,
            sessions: self.door.sessions(),
            error: self.ports.error(),
            clashes: self.ports.clashes(),
        }
    }
}
