//! What every function shares.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use keeper::wire::Name;

use crate::Limits;
use crate::events::Events;
use crate::log::Log;
use crate::route::Settings;
use crate::sandboxes::Sandboxes;
use crate::spares::Spares;
use crate::table::Table;
use crate::usage::Usage;
use crate::worker::Worker;

/// See above.
pub(crate) struct Engine {
    pub(crate) home: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) log: Arc<Log>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) events: Events,
    pub(crate) table: Table,
    settings: Mutex<Arc<Settings>>,
}

impl Engine {
    pub(crate) fn new(
        home: PathBuf,
        limits: Limits,
        log: Arc<Log>,
        usage: Arc<Usage>,
        events: Events,
    ) -> Arc<Self> {
        let sandboxes = Arc::new(Sandboxes::new(&home));
        Arc::new(Self {
            spares: Arc::new(Spares::new(sandboxes.clone())),
            sandboxes,
            log,
            usage,
            events,
            table: Table::default(),
            settings: Mutex::default(),
            home,
            limits,
        })
    }

    /// What holds for every function now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Has a worker ended, in the background. One that is frozen could not even be killed.
    pub(crate) fn stop_worker(self: &Arc<Self>, worker: &Worker) {
        if let Some(groups) = worker.groups.get() {
            groups.thaw();
        }
        self.stop_sandbox(worker.name.clone());
    }

    /// The same, of a sandbox that is no worker yet.
    pub(crate) fn stop_sandbox(self: &Arc<Self>, name: Name) {
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.sandboxes.stop(name).await {
                tracing::warn!(%error, "a worker was not stopped; it ends with this process");
            }
        });
    }
}
