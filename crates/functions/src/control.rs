//! The task that keeps functions in agreement with their files: woken by the status socket, by changed files, and by
//! time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::engine::Engine;
use crate::files::{self, Paths, Reader};
use crate::function::Function;
use crate::route::{FunctionStatus, Route, Settings, Status};
use crate::sandboxes::Kind;
use crate::url::Ports;
use crate::{spares, start};

/// How often it is looked who has rested too long, and whether a port that was taken is free.
const TICK: Duration = Duration::from_secs(1);

/// What the status socket asks.
pub(crate) enum Command {
    Refresh(oneshot::Sender<Status>),
    Function(String, oneshot::Sender<Option<FunctionStatus>>),
}

/// See above.
pub(crate) struct Control {
    engine: Arc<Engine>,
    paths: Paths,
    reader: Reader,
    ports: Ports,
    /// What is wrong with the file of a function.
    troubles: HashMap<String, String>,
    settings_trouble: Option<String>,
}

impl Control {
    pub(crate) fn new(engine: Arc<Engine>, paths: Paths) -> Self {
        let ports = Ports::new(engine.clone());
        Self {
            engine,
            paths,
            reader: Reader::default(),
            ports,
            troubles: HashMap::new(),
            settings_trouble: None,
        }
    }

    /// Until `stop` speaks.
    pub(crate) async fn keep(
        &mut self,
        rescan: Duration,
        mut commands: mpsc::Receiver<Command>,
        stop: impl Future<Output = ()>,
    ) {
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = watch(changed);
        follow(watcher.as_mut(), &self.paths);
        let mut stop = std::pin::pin!(stop);
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut scanned = Instant::now();
        crate::fail_point!("functions::serves");
        loop {
            tokio::select! {
                () = &mut stop => return,
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(()) = changes.recv() => self.reload(),
                _ = tick.tick() => {
                    for function in self.engine.table.all() {
                        function.tidy(self.engine.limits.idle);
                    }
                    if scanned.elapsed() >= rescan {
                        follow(watcher.as_mut(), &self.paths);
                        self.reload();
                        scanned = Instant::now();
                    } else if self.ports.any_trouble() {
                        self.open_ports();
                    }
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        self.reload();
        // Who asked may have gone meanwhile.
        match command {
            Command::Refresh(reply) => drop(reply.send(self.status())),
            Command::Function(function, reply) => drop(reply.send(self.function(&function))),
        }
    }

    fn status(&self) -> Status {
        Status {
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            functions: self.engine.table.handles(),
            trouble: self.settings_trouble.clone(),
        }
    }

    fn function(&self, handle: &str) -> Option<FunctionStatus> {
        let trouble = self.troubles.get(handle).cloned();
        match self.engine.table.get(handle) {
            Some(function) => {
                let (listening, of_port) = self.ports.state(handle);
                Some(FunctionStatus { listening, trouble: trouble.or(of_port), ..function.status() })
            }
            None => {
                trouble.map(|trouble| FunctionStatus { trouble: Some(trouble), ..FunctionStatus::default() })
            }
        }
    }

    /// Reads all files, and brings about what they say.
    pub(crate) fn reload(&mut self) {
        match files::read_settings(&self.paths.settings) {
            Ok(settings) => {
                self.settings_trouble = None;
                let settings = settings.unwrap_or_default();
                if *self.engine.settings() != settings {
                    self.engine.set_settings(settings);
                }
            }
            Err(why) => self.settings_trouble = Some(format!("functions.json {why}")),
        }
        let routes = match self.reader.read(&self.paths.routes) {
            Ok(routes) => routes,
            Err(error) => {
                tracing::error!(%error, "cannot read the folder of routes; what is in force stays");
                return;
            }
        };
        let present: HashSet<_> = routes.iter().map(|(function, _)| function.clone()).collect();
        for gone in self.engine.table.handles().into_iter().filter(|handle| !present.contains(handle)) {
            self.remove(&gone);
        }
        self.troubles.retain(|handle, _| present.contains(handle));
        for (handle, route) in routes {
            match route.and_then(|route| self.apply(&handle, route)) {
                Ok(()) => drop(self.troubles.remove(&handle)),
                Err(why) => {
                    if self.troubles.insert(handle.clone(), why.clone()).as_ref() != Some(&why) {
                        tracing::error!(function = handle, why, "a route file is not in force");
                    }
                }
            }
        }
        self.open_ports();
        self.engine.spares.want(&wanted_spares(&self.engine));
    }

    fn apply(&self, handle: &str, route: Arc<Route>) -> Result<(), String> {
        match self.engine.table.get(handle) {
            Some(function) if function.route() == route => {}
            Some(function) => function.apply(route),
            None => {
                let function = Function::new(self.engine.clone(), route)
                    .map_err(|error| format!("cannot be counted: {error}"))?;
                self.engine.table.insert(handle.to_owned(), function);
            }
        }
        Ok(())
    }

    fn remove(&self, handle: &str) {
        if let Some(function) = self.engine.table.remove(handle) {
            tokio::spawn(async move {
                function.close().await;
                function.tally.end();
            });
        }
    }

    fn open_ports(&mut self) {
        let settings: Arc<Settings> = self.engine.settings();
        let mut wanted = BTreeMap::new();
        for function in self.engine.table.all() {
            let route = function.route();
            if let Some(url) = &route.url {
                for address in &settings.listen {
                    wanted.insert((*address, url.port), route.function.clone());
                }
            }
        }
        self.ports.want(&wanted);
    }
}

/// A few of each interpreter that some version uses, and of empty ones.
fn wanted_spares(engine: &Engine) -> BTreeMap<Kind, usize> {
    let mut wanted = BTreeMap::new();
    for function in engine.table.all() {
        let route = function.route();
        let serving = route.live.into_iter().chain(route.canary.as_ref().map(|canary| canary.version));
        let newest = route.versions.last_key_value().map(|(number, _)| *number);
        for version in serving.chain(newest).filter_map(|number| route.versions.get(&number)) {
            let (kind, count) = match start::interpreter(engine, version) {
                Ok(Some(interpreter)) if !start::needs_own_start(version) => {
                    let program = spares::program(&interpreter);
                    (Kind { lang: interpreter.folder, program }, engine.limits.spares)
                }
                Ok(Some(interpreter)) => {
                    let count = engine.limits.empty_spares.min(1);
                    (Kind { lang: interpreter.folder, program: Vec::new() }, count)
                }
                Ok(None) => (Kind { lang: None, program: Vec::new() }, engine.limits.empty_spares),
                Err(_) => continue,
            };
            let entry = wanted.entry(kind).or_insert(0);
            *entry = count.max(*entry);
        }
    }
    wanted
}

fn watch(changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Our own reading must not look like a change.
        let is_change = event.is_ok_and(|event| match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        });
        if is_change {
            // Full: there is one to come anyway.
            let _ = changed.try_send(());
        }
    };
    notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::warn!(%error, "cannot watch files; looking at them now and then"))
        .ok()
}

fn follow(watcher: Option<&mut RecommendedWatcher>, paths: &Paths) {
    let Some(watcher) = watcher else { return };
    let folders: [&Path; 2] = [&paths.functions, &paths.routes];
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::debug!(%error, folder = %folder.display(), "cannot watch a folder");
        }
    }
}
