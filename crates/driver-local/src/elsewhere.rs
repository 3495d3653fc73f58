//! Transfers from servers elsewhere: what their secrets say, the way there, and the leave-taking.
//!
//! The control plane connects to none of these servers: whoever may set a secret would have it connect anywhere. The copier
//! does, by a relay that judges each address.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use component::transfer::{Elsewhere, Leaving, Pattern, Seen, Spec, Unknown};
use component::{DriverError, Target};
use ipnet::IpNet;
use keeper::wire::{Limits, Name, Restart, Runs, SOURCE, Stop, StopSignal, Unit, Wanted};
use relay::wire::Route;
use secrecy::ExposeSecret;
use transfer::address::Address;
use transfer::wire::{Left, Settings, Status};

use crate::transfer::{COPIER, Names};
use crate::{Error, Local, fail_point, files};

/// The relay's unit.
const UNIT: &str = "relay";
/// Bytes of log that a server may keep for a transfer where it has no limit of its own: 8 GiB.
const MOST_KEPT: u64 = 8 << 30;
/// How often a relay is asked that was just started, and the time between.
const TRIES: u32 = 100;
const AGAIN: Duration = Duration::from_millis(20);

/// What the secrets of a transfer say.
pub(crate) struct Known {
    pub(crate) address: Address,
    ca: Option<String>,
}

/// Reads the secrets of a transfer from elsewhere.
pub(crate) fn known(target: &Target, elsewhere: &Elsewhere) -> Result<Known, Unknown> {
    let value = |name: &component::function::Variable| {
        target.secrets.get(name).ok_or_else(|| Unknown::Unset(name.clone()))
    };
    let url = value(&elsewhere.secret)?;
    let ca = elsewhere.ca.as_ref().map(value).transpose()?;
    let address =
        Address::parse(url).map_err(|bad| Unknown::Unfit(elsewhere.secret.clone(), bad.to_string()))?;
    Ok(Known { address, ca: ca.map(|ca| ca.expose_secret().to_owned()) })
}

impl Known {
    /// Where the relay is to lead.
    pub(crate) fn route(&self) -> Route {
        Route { host: self.address.host.clone(), port: self.address.port }
    }

    /// What the copier is told of the server.
    pub(crate) fn settings(
        &self,
        local: &Local,
        names: &Names,
        spec: &Spec,
        elsewhere: &Elsewhere,
    ) -> transfer::wire::Elsewhere {
        transfer::wire::Elsewhere {
            socket: local.way_seen_at(&names.handle, SOURCE),
            host: self.address.host.clone(),
            user: self.address.user.clone(),
            tls: self.address.tls,
            ca: self.ca.clone(),
            tables: spec.tables.patterns().map(Pattern::like).collect(),
            most_kept_bytes: MOST_KEPT,
            secret: elsewhere.secret.to_string(),
            leaves: false,
        }
    }
}

impl Local {
    /// Tells the relay to servers elsewhere which networks it may reach besides the public ones, and has it run where
    /// somebody needs it.
    ///
    /// # Errors
    /// When the keeper does not start it.
    pub async fn relay(&self, networks: Vec<IpNet>) -> Result<(), Error> {
        if !self.relay_folder().is_dir() {
            // The keeper is of a version that made none; the next one does.
            return Ok(());
        }
        let wrong = |error: &dyn std::fmt::Display| Error::Relay(error.to_string());
        let text =
            serde_json::to_string(&relay::wire::Settings { networks }).map_err(|error| wrong(&error))?;
        files::write_other(&self.relay_folder().join("relay.json"), &text, 0o640)?;
        let routes = std::fs::read_dir(self.relay_folder().join("routes"));
        if routes.is_ok_and(|mut routes| routes.next().is_some()) {
            self.ensure_relay().await.map_err(|error| wrong(&error))?;
            // It reads its files again by itself, a moment later.
            let _ = relay::refresh(self.home(), "").await;
        }
        Ok(())
    }

    fn relay_folder(&self) -> PathBuf {
        self.home().join("relay")
    }

    /// The file of a way, by its name.
    fn way(&self, name: &str) -> PathBuf {
        self.relay_folder().join(format!("routes/{name}.json"))
    }

    /// Where a transfer's process finds the socket of a way.
    pub(crate) fn way_seen_at(&self, name: &str, shown: &str) -> PathBuf {
        let folder = match self.host().isolated {
            true => PathBuf::from(shown),
            false => self.relay_folder().join("sockets").join(name),
        };
        folder.join(relay::SOCKET)
    }

    async fn ensure_relay(&self) -> Result<(), DriverError> {
        let mut env = files::environment();
        // What runs is of the binary that the keeper would start now.
        env.insert("STEAD_PROGRAM".into(), self.keeper(|keeper| Ok(keeper.host()?.program)).await?);
        self.ensure(Unit {
            name: Name::parse(UNIT).map_err(|error| DriverError::Unavailable(error.to_string()))?,
            generation: 1,
            wanted: Wanted::Running,
            runs: Runs::Relay,
            args: Vec::new(),
            env,
            limits: Limits::default(),
            stop: Stop { signal: StopSignal::Term, timeout_ms: 5_000 },
            restart: Restart::Always,
            sleeps: false,
        })
        .await
    }

    /// The file of a way, against what it should say.
    pub(crate) fn way_seen(&self, name: &str, route: &Route) -> Seen {
        match std::fs::read(self.way(name)) {
            Ok(text) if serde_json::from_slice(&text).is_ok_and(|is: Route| is == *route) => Seen::Same,
            Ok(_) => Seen::Differs,
            Err(_) => Seen::Absent,
        }
    }

    /// Opens a way, or has it lead to another place; it is open when this returns.
    pub(crate) async fn open_way(&self, name: &str, route: &Route) -> Result<(), DriverError> {
        let text =
            serde_json::to_string(route).map_err(|error| DriverError::Unavailable(error.to_string()))?;
        files::write_atomically(&self.way(name), &text, 0o640)?;
        fail_point!("driver-local::transfer-way-written");
        self.ensure_relay().await?;
        for _ in 0..TRIES {
            match relay::refresh(self.home(), name).await {
                Ok(()) => return Ok(()),
                // It has only just been started.
                Err(relay::Failed::Silent(_)) => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(DriverError::Unavailable(error.to_string())),
            }
        }
        Err(DriverError::Unavailable("the relay to servers elsewhere does not answer".into()))
    }

    /// Shuts a way; none is fine.
    pub(crate) async fn shut_way(&self, name: &str) -> Result<(), DriverError> {
        match std::fs::remove_file(self.way(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(DriverError::Unavailable(format!("a way cannot be shut: {error}"))),
        }
        // One that does not run finds it gone when it starts.
        let _ = relay::refresh(self.home(), name).await;
        Ok(())
    }

    /// How far the copier has come with taking away what is of it elsewhere.
    pub(crate) async fn leaving(&self, names: &Names) -> Result<Leaving, DriverError> {
        let path = self.tree_dir(&names.tree).join("conf").join(COPIER);
        let Some(text) = std::fs::read_to_string(path).ok() else { return Ok(Leaving::Unasked) };
        let settings: Option<Settings> = serde_json::from_str(&text).ok();
        let Some(settings) = settings else { return Ok(Leaving::Unasked) };
        let leaves = settings.elsewhere.is_some_and(|elsewhere| elsewhere.leaves);
        if !leaves || !self.goes_by(names, text, settings.bucket.is_some()).await? {
            return Ok(Leaving::Unasked);
        }
        let status = self.said(names).and_then(|said| serde_json::from_slice::<Status>(&said).ok());
        Ok(match status.and_then(|status| status.left) {
            None => Leaving::UnderWay,
            Some(Left::Nothing) => Leaving::Done,
            Some(Left::Remains(what)) => Leaving::Remains(what),
        })
    }

    /// Whether the copier was started, or ended, with this text: what runs may be of before it was written.
    async fn goes_by(&self, names: &Names, text: String, outside: bool) -> Result<bool, DriverError> {
        let unit = self.copier_elsewhere(names, text, outside).await?;
        let (declared, generation) = self.declaration(&unit);
        let name = unit.name;
        let status = self.keeper(move |keeper| keeper.unit(&name)).await?;
        // One that was stopped since is declared otherwise, and had answered.
        let stopped = self.declared(&names.copier).is_some_and(|unit| unit.wanted == Wanted::Stopped);
        Ok(stopped || (declared == Seen::Same && status.is_some_and(|is| is.generation == generation)))
    }

    /// Has the copier take away what is of it elsewhere: by what it went by last, whatever the secret says now.
    pub(crate) async fn take_leave(&self, names: &Names) -> Result<(), DriverError> {
        let path = self.tree_dir(&names.tree).join("conf").join(COPIER);
        let mut settings = told(&path)
            .ok_or_else(|| DriverError::Unavailable("it is not known any more where its server is".into()))?;
        if let Some(elsewhere) = &mut settings.elsewhere {
            elsewhere.leaves = true;
        }
        let text =
            serde_json::to_string(&settings).map_err(|error| DriverError::Unavailable(error.to_string()))?;
        files::write_atomically(&path, &text, 0o640)?;
        fail_point!("driver-local::transfer-leave-written");
        self.ensure_relay().await?;
        let mut unit = self.copier_elsewhere(names, text, settings.bucket.is_some()).await?;
        unit.generation = self.declaration(&unit).1;
        self.run_unit(&unit).await
    }
}

/// What the copier goes by.
fn told(path: &Path) -> Option<Settings> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
