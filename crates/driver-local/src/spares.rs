//! Prepared clusters: made ahead of need, so that creating a server is a rename and a start.
//!
//! A spare is a tree of its own below `spares/`, with a uid and a system identifier of its own (each is a true
//! `initdb`), and inside it Stead's roles and the tenant's database. It is finished when `conf/spare.json`
//! is there, which is written last; anything unfinished that nobody works on is swept.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use component::DriverError;
use component::postgres::{Backup, Major, Size, Spec};
use keeper::ClientError;
use keeper::wire::{EngineProgram, Name, Reason, Refusal, Runs, Tree, Unit, UnitState, Wanted};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::act::{absent_is_fine, database, helpers, silence_extensions, unavailable};
use crate::{Engine, Local, Place, fail_point, files, lock};

/// The database that a spare comes with.
pub(crate) const DATABASE: &str = "main";

/// `initdb` takes half a second, and on a disk that others keep busy twenty; one that takes this long hangs.
const INITDB: Duration = Duration::from_secs(60);
/// The first start of a new cluster, on a busy disk.
const FIRST_START: Duration = Duration::from_secs(60);
/// So long without a creation, and the pool is filled up though it is not nearly empty.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks at the pool that nobody asked for.
const LOOK: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Marker {
    engine: Major,
}

/// Keeps spares ready.
pub struct SparePool {
    /// The host's driver.
    pub local: Local,
    /// How many of the newest engine; of every other engine one, if this is more than none.
    pub count: usize,
}

impl SparePool {
    /// Fills the pool whenever spares were taken, until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        self.local.sweep().await;
        while !*stop.borrow() {
            let taken = self.local.0.taken.notified();
            if let Err(error) = self.fill(stop.clone()).await {
                tracing::warn!(%error, "a spare could not be made; trying again");
            }
            tokio::select! {
                () = taken => {}
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn fill(&self, mut stop: watch::Receiver<bool>) -> Result<(), DriverError> {
        let newest = self.local.engines().newest().map(|(major, _)| major);
        // The newest first: it is what most are made of.
        for major in self.local.engines().majors().into_iter().rev() {
            let wanted = if Some(major) == newest { self.count } else { self.count.min(1) };
            loop {
                let ready = self.local.ready_spares(major).len();
                if ready >= wanted {
                    break;
                }
                // A cluster in the making takes a core from the server that is being created just now: with
                // enough left, quiet is waited for.
                let busy = QUIET.saturating_sub(self.local.since_taken());
                if ready * 2 > wanted && !busy.is_zero() {
                    tokio::select! { () = tokio::time::sleep(busy) => {}, _ = stop.changed() => {} }
                }
                if *stop.borrow() {
                    return Ok(());
                }
                self.local.prepare(major).await?;
            }
        }
        Ok(())
    }
}

impl Local {
    /// Finished spares of an engine.
    fn ready_spares(&self, major: Major) -> Vec<Name> {
        let Ok(entries) = std::fs::read_dir(self.0.home.join("spares")) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let name = Name::parse(entry.file_name().to_str()?).ok()?;
                let marker = std::fs::read(entry.path().join("conf/spare.json")).ok()?;
                let marker: Marker = serde_json::from_slice(&marker).ok()?;
                (marker.engine == major).then_some(name)
            })
            .collect()
    }

    /// How long ago a spare was last taken.
    fn since_taken(&self) -> Duration {
        lock(&self.0.last_taken).map_or(Duration::MAX, |at| at.elapsed())
    }

    /// How many spares of an engine are ready.
    #[must_use]
    pub fn spares(&self, major: Major) -> usize {
        self.ready_spares(major).len()
    }

    /// Whether a component's tree has data; one without is removed. Asked for components that never were provisioned (the
    /// plan claims and restores for nobody else), so there is nothing in it to lose.
    pub(crate) async fn has_data(&self, place: &Place) -> Result<bool, DriverError> {
        let dir = self.tree_dir(&place.tree);
        let has = dir.join("data").is_dir();
        if dir.is_dir() && !has {
            let hollow = place.tree.clone();
            self.keeper(move |keeper| absent_is_fine(keeper.remove_tree(&hollow))).await?;
        }
        Ok(has)
    }

    /// Makes a spare the server's own; prepares one where there is none.
    pub(crate) async fn claim(&self, major: Major, place: &Place) -> Result<(), DriverError> {
        if self.has_data(place).await? {
            return Ok(());
        }
        loop {
            let spare = match self.ready_spares(major).into_iter().next() {
                Some(spare) => spare,
                // In a task of its own: when this step is given up the spare is finished all the same, for the
                // next attempt, instead of being left half made.
                None => {
                    let local = self.clone();
                    let made = tokio::spawn(async move { local.prepare(major).await });
                    made.await.map_err(|error| DriverError::Unavailable(error.to_string()))??
                }
            };
            fail_point!("driver-local::before-claim");
            let archived = Self::spare_unit(&spare)?;
            let (from, to) = (Tree::Spares(spare), place.tree.clone());
            let claimed = self.keeper(move |keeper| match keeper.rename_tree(&from, &to) {
                // Another worker took it first.
                Err(ClientError::Refused(Refusal { reason: Reason::Absent, .. })) => Ok(false),
                other => other.map(|()| true),
            });
            if claimed.await? {
                fail_point!("driver-local::after-claim");
                // What is stale of it when this is killed is swept.
                self.forget_archived(&archived)?;
                *lock(&self.0.last_taken) = Some(Instant::now());
                // Next to nothing yet; it is counted when this is old.
                lock(&self.0.sizes).insert(place.handle.clone(), (Instant::now(), 0));
                self.0.taken.notify_one();
                return Ok(());
            }
        }
    }

    fn spare_unit(spare: &Name) -> Result<Name, DriverError> {
        Name::parse(format!("spare-{spare}")).map_err(|error| DriverError::Unavailable(error.to_string()))
    }

    /// The tree and the unit of a new spare.
    pub(crate) fn new_spare() -> Result<(Tree, Name), DriverError> {
        let id: u64 = rand::rng().random();
        let bad = |error: keeper::wire::BadName| DriverError::Unavailable(error.to_string());
        let name = Name::parse(format!("{id:016x}")).map_err(bad)?;
        let unit = Self::spare_unit(&name)?;
        Ok((Tree::Spares(name), unit))
    }

    /// Makes a spare: a new cluster, started once to put in what every server has, and stopped.
    async fn prepare(&self, major: Major) -> Result<Name, DriverError> {
        let engine = self.0.engines.get(major).ok_or_else(|| {
            DriverError::Unavailable(format!("engine {major} is not on this host any more"))
        })?;
        let (tree, unit) = Self::new_spare()?;
        let Tree::Spares(name) = tree.clone() else {
            return Err(DriverError::Unavailable("a spare is no spare".to_owned()));
        };
        let made = self.prepare_in(major, engine, &tree, &unit).await;
        if made.is_err() {
            self.discard(&unit, &tree).await;
        }
        made.map(|()| name)
    }

    async fn prepare_in(
        &self,
        major: Major,
        engine: &Engine,
        tree: &Tree,
        unit: &Name,
    ) -> Result<(), DriverError> {
        let making = tree.clone();
        self.keeper(move |keeper| keeper.create_tree(&making)).await?;
        fail_point!("driver-local::spare-tree");
        self.initdb(major, engine, tree, unit).await?;
        fail_point!("driver-local::spare-initdb");
        let spec = first_spec(major);
        self.write_texts(tree, &self.texts(tree, &spec, engine, false))?;
        let mut server = self.server_unit(unit, tree, &spec, engine);
        self.run_unit(&server).await?;
        let client = self
            .await_ready(unit, &self.socket_dir(tree), FIRST_START)
            .await
            .map_err(|why| DriverError::Unavailable(format!("a new cluster did not come up: {why}")))?;
        helpers(&client).await.map_err(unavailable)?;
        database(&client, DATABASE).await.map_err(unavailable)?;
        if engine.stat_statements {
            let inside =
                crate::session::admin(&self.socket_dir(tree), DATABASE).await.map_err(unavailable)?;
            inside
                .batch_execute("set search_path = public; create extension if not exists pg_stat_statements")
                .await
                .map_err(unavailable)?;
            silence_extensions(&inside).await.map_err(unavailable)?;
        }
        drop(client);
        fail_point!("driver-local::spare-filled");
        if let Err(error) = self.first_backup(major, tree, unit).await {
            tracing::warn!(%error, "a spare has no backup yet; the server of it is backed up when it is somebody's");
        }
        server.wanted = Wanted::Stopped;
        self.run_unit(&server).await?;
        self.await_unit(unit, FIRST_START, |state| *state == UnitState::Stopped).await?;
        self.forget_unit(unit).await?;
        self.settle_on_disk(tree).await?;
        let marker = serde_json::json!(Marker { engine: major }).to_string();
        files::write_atomically(&self.marker(tree), &marker, 0o644)?;
        fail_point!("driver-local::spare-marked");
        Ok(())
    }

    /// `initdb` was told not to wait for the disk; before the spare counts as finished, the disk has it.
    pub(crate) async fn settle_on_disk(&self, tree: &Tree) -> Result<(), DriverError> {
        let dir = self.tree_dir(tree);
        let synced = tokio::task::spawn_blocking(move || {
            rustix::fs::syncfs(std::fs::File::open(dir)?).map_err(std::io::Error::from)
        });
        match synced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(DriverError::Unavailable(format!("a new cluster could not be synced: {error}")))
            }
            Err(error) => Err(DriverError::Unavailable(error.to_string())),
        }
    }

    fn marker(&self, tree: &Tree) -> PathBuf {
        self.tree_dir(tree).join("conf/spare.json")
    }

    /// Makes an empty cluster in a tree, as a unit that runs once.
    pub(crate) async fn initdb(
        &self,
        major: Major,
        engine: &Engine,
        tree: &Tree,
        unit: &Name,
    ) -> Result<(), DriverError> {
        let mut args = vec![
            "-D",
            "/stead/data",
            "-U",
            component::postgres::ADMIN_ROLE,
            "-E",
            "UTF8",
            "--data-checksums",
        ];
        args.extend(["--auth=peer", "--no-sync", "--no-instructions", "--locale=C.UTF-8"]);
        if major >= Major::new(17) {
            args.extend(["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]);
        }
        let runs =
            Runs::Engine { tree: tree.clone(), bin: engine.bin.clone(), program: EngineProgram::Initdb };
        let job = Self::once(unit, runs, &args);
        self.run_unit(&job).await?;
        let ended = self.await_unit(unit, INITDB, |state| matches!(state, UnitState::Exited { .. })).await?;
        self.forget_unit(unit).await?;
        match ended {
            UnitState::Exited { code: Some(0), .. } => Ok(()),
            other => {
                let said =
                    std::fs::read_to_string(self.tree_dir(tree).join("log/stderr.log")).unwrap_or_default();
                let said: Vec<&str> = said.lines().rev().take(3).collect();
                Err(DriverError::Unavailable(format!(
                    "initdb did not finish ({other:?}): {}",
                    said.join(" ")
                )))
            }
        }
    }

    pub(crate) async fn run_unit(&self, unit: &Unit) -> Result<(), DriverError> {
        self.declare(unit)?;
        let name = unit.name.clone();
        self.keeper(move |keeper| keeper.apply(&name)).await.map(|_| ())
    }

    /// Forgets a unit that has ended.
    pub(crate) async fn forget_unit(&self, unit: &Name) -> Result<(), DriverError> {
        let unit = unit.clone();
        self.keeper(move |keeper| absent_is_fine(keeper.remove_unit(&unit))).await
    }

    /// Waits until a unit is in a state.
    pub(crate) async fn await_unit(
        &self,
        unit: &Name,
        limit: Duration,
        reached: impl Fn(&UnitState) -> bool,
    ) -> Result<UnitState, DriverError> {
        let until = Instant::now() + limit;
        loop {
            let name = unit.clone();
            match self.keeper(move |keeper| keeper.unit(&name)).await? {
                Some(status) if reached(&status.state) => return Ok(status.state),
                Some(status) if Instant::now() >= until => {
                    return Err(DriverError::Unavailable(format!(
                        "unit {unit} took longer than {} s and is {:?}",
                        limit.as_secs(),
                        status.state
                    )));
                }
                None => return Err(DriverError::Unavailable(format!("unit {unit} is gone"))),
                Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Takes an unfinished spare away again, as far as that goes; the next sweep gets the rest.
    pub(crate) async fn discard(&self, unit: &Name, tree: &Tree) {
        let _ = self.forget_archived(unit);
        if let Some(mut declared) = self.declared(unit) {
            declared.wanted = Wanted::Stopped;
            let _ = self.run_unit(&declared).await;
            let _ = self
                .await_unit(unit, FIRST_START, |state| {
                    matches!(state, UnitState::Stopped | UnitState::Exited { .. })
                })
                .await;
        }
        let (unit, tree) = (unit.clone(), tree.clone());
        let _ = self
            .keeper(move |keeper| {
                absent_is_fine(keeper.remove_unit(&unit))?;
                absent_is_fine(keeper.remove_tree(&tree))
            })
            .await;
    }

    /// Removes what an earlier driver left unfinished. Called before anything is being prepared.
    async fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.0.home.join("spares")) else { return };
        self.forget_taken_spares();
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().and_then(|text| Name::parse(text).ok()) else {
                continue;
            };
            let tree = Tree::Spares(name.clone());
            let Ok(unit) = Self::spare_unit(&name) else { continue };
            if !self.marker(&tree).exists() || self.declared(&unit).is_some() {
                tracing::info!(spare = %name, "removing an unfinished spare");
                self.discard(&unit, &tree).await;
            }
        }
    }
}

/// What a spare is started with for the first time.
pub(crate) fn first_spec(engine: Major) -> Spec {
    Spec {
        engine,
        size: Size::Nano,
        allow: Vec::new(),
        maintenance: None,
        idle: None,
        backup: Backup::default(),
        beside: false,
        origin: None,
        until: None,
        schema: Vec::new(),
        extensions: Vec::new(),
        protect: false,
        owner: None,
        runbook: None,
    }
}
