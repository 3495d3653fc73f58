//! The control plane's own server: what has to run before anything can be asked for.

use std::path::PathBuf;
use std::time::Duration;

use component::DriverError;
use component::postgres::{ADMIN_ROLE, Backup, Major, Size, Spec};
use keeper::wire::{Limits, Name, Tree, Unit, UnitState};

use crate::{Error, Local, files};

/// Where the control plane finds its own database.
#[derive(Debug, Clone)]
pub struct ControlServer {
    /// Folder of the Unix socket.
    pub socket_dir: PathBuf,
    /// Role; peer authentication knows the caller by its uid.
    pub user: &'static str,
    /// Database.
    pub database: &'static str,
}

/// A start after a crash replays WAL first.
const START: Duration = Duration::from_secs(60);

fn name(text: &str) -> Result<Name, Error> {
    Name::parse(text).map_err(|error| Error::Control(error.to_string()))
}

fn control(error: DriverError) -> Error {
    Error::Control(error.to_string())
}

impl Local {
    /// Brings the control plane's own server up, making it first where there is none.
    ///
    /// # Errors
    /// [`Error::Control`] with what it said.
    pub async fn control_server(&self) -> Result<ControlServer, Error> {
        let tree = Tree::Control;
        let (unit, job) = (name("control")?, name("control-initdb")?);
        let marker = self.tree_dir(&tree).join("conf/engine.json");
        let major = match std::fs::read(&marker) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::Control(format!("{} cannot be read: {error}", marker.display())))?,
            Err(_) => {
                let (major, engine) = self.0.engines.newest().ok_or(Error::NoEngine)?;
                // A first start that was killed half way left no marker: begin again.
                let (gone, left) = (job.clone(), tree.clone());
                self.keeper(move |keeper| {
                    let _ = keeper.remove_unit(&gone);
                    crate::act::absent_is_fine(keeper.remove_tree(&left))
                })
                .await
                .map_err(control)?;
                let making = tree.clone();
                self.keeper(move |keeper| keeper.create_tree(&making)).await.map_err(control)?;
                self.initdb(major, engine, &tree, &job).await.map_err(control)?;
                files::write_atomically(&marker, &major.to_string(), 0o644)?;
                major
            }
        };
        let engine = self.0.engines.get(major).ok_or_else(|| {
            Error::Control(format!(
                "it is of engine {major}, which is not installed any more; run script/setup"
            ))
        })?;
        let spec = spec(major);
        self.write_texts(&tree, &self.texts(&tree, &spec, engine, false))?;
        let mut wanted = self.server_unit(&unit, &tree, &spec, engine);
        // The kernel must not end the control plane's memory before a tenant's.
        wanted.limits = Limits::default();
        self.ensure(wanted).await.map_err(control)?;
        let socket_dir = self.socket_dir(&tree);
        self.await_ready(&unit, &socket_dir, START).await.map_err(|why| {
            Error::Control(format!("{why}; its log is in {}", self.tree_dir(&tree).join("log").display()))
        })?;
        Ok(ControlServer { socket_dir, user: ADMIN_ROLE, database: "postgres" })
    }

    /// What the control plane's own server is, where it has one.
    pub(crate) fn control_spec(&self) -> Option<(Major, Spec)> {
        let marker = self.tree_dir(&Tree::Control).join("conf/engine.json");
        let major = serde_json::from_slice(&std::fs::read(marker).ok()?).ok()?;
        Some((major, spec(major)))
    }

    /// Says what holds for every route: where the gateway listens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_gateway_settings(&self, settings: &gateway::route::Settings) -> Result<(), Error> {
        let text = serde_json::json!(settings).to_string();
        files::write_atomically(&self.0.home.join("gateway/gateway.json"), &text, 0o640)
    }

    /// Declares a unit, leaving a running one alone where the declaration is the same.
    pub(crate) async fn ensure(&self, mut unit: Unit) -> Result<(), DriverError> {
        unit.generation = self.declaration(&unit).1;
        self.run_unit(&unit).await?;
        self.await_unit(&unit.name, START, |state| {
            matches!(state, UnitState::Running | UnitState::Backoff { .. } | UnitState::Exited { .. })
        })
        .await
        .map(|_| ())
    }
}

/// Small enough for a laptop, enough sessions for several control planes.
fn spec(engine: Major) -> Spec {
    Spec {
        engine,
        size: Size::Small,
        allow: Vec::new(),
        maintenance: None,
        idle: None,
        backup: Backup::default(),
        beside: false,
        origin: None,
        until: None,
        schema: Vec::new(),
        extensions: Vec::new(),
        protect: true,
        owner: None,
        runbook: None,
    }
}
