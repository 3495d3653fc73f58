//! Where the server is, who asks, and which stead is meant.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::Client;
use client::wire::{Component, Stead};
use component::{Kind, SteadName, TenantName};
use rustix::fs::FlockOperation;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::cli::{Cli, Which};
use crate::exit::Failure;
use crate::project::Project;
use crate::{host, output};

/// Where Stead keeps everything where nobody says otherwise.
pub(crate) fn default_home() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/stead");
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    data.or_else(home).unwrap_or_else(|| PathBuf::from("/var/lib")).join("stead")
}

/// `server.json`: where the control plane of a home listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Its API.
    pub(crate) url: String,
    /// Its process.
    pub(crate) pid: u32,
}

/// What every verb that asks a server needs.
pub(crate) struct Context {
    pub(crate) home: PathBuf,
    pub(crate) json: bool,
    url: Option<String>,
}

impl Context {
    pub(crate) fn new(cli: &Cli) -> Result<Self, Failure> {
        let named = cli.home.clone().filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = std::path::absolute(named.unwrap_or_else(default_home)).map_err(Failure::failed)?;
        let url = cli.url.clone().filter(|url| !url.is_empty());
        if let Some(wrong) = url.as_deref().filter(|url| !is_http(url)) {
            return Err(Failure::Usage(format!(
                "STEAD_URL (--url) is `{wrong}`, which is no address of a server; write it like http://127.0.0.1:7878"
            )));
        }
        Ok(Self { home, json: cli.json, url })
    }

    /// Whether a server is named elsewhere than on this host.
    fn remote(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// The server that is configured or runs on this host.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        if let Some(url) = self.remote() {
            let token = token_from_environment().map_or_else(|| self.operator_token(), Ok)?;
            return Client::new(url, token).map_err(Failure::from);
        }
        let none_runs = |why: &str| {
            let home = self.home.display();
            Failure::Unreachable(format!(
                "no Stead server runs for {home}{why}; start one with `stead up` in an app's folder or with `stead server`"
            ))
        };
        if let Err(error) = std::fs::read(self.home.join("server.json"))
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(Failure::Failed(format!(
                "{} is another user's; run this as that user (as root: with sudo), or set STEAD_URL and STEAD_TOKEN",
                self.home.display()
            )));
        }
        let running = self.running().ok_or_else(|| none_runs(""))?;
        let token = token_from_environment().map_or_else(|| self.operator_token(), Ok)?;
        let client = Client::new(&running.url, token)?;
        match client.health().await {
            Ok(_) => Ok(client),
            Err(_) if !self.locked() => Err(none_runs(" any more")),
            Err(error) => Err(Failure::Unreachable(format!(
                "{error}, though its process {} runs; look into {}/logs/server.log",
                running.pid,
                self.home.display()
            ))),
        }
    }

    /// The same; starts a server on this host where none runs and none is named.
    pub(crate) async fn client_or_start(&self) -> Result<Client, Failure> {
        if self.remote().is_some() {
            return self.client().await;
        }
        match self.client().await {
            Err(Failure::Unreachable(_)) => {}
            other => return other,
        }
        host::serve::make_home(&self.home)?;
        // Two commands at once start one server: the second waits here and finds that of the first.
        let _turn = self.turn().await?;
        let until = Instant::now() + SERVER_START;
        while self.locked() {
            // One is coming up, or going.
            match self.client().await {
                Err(Failure::Unreachable(_)) if Instant::now() < until => tokio::time::sleep(LOOK).await,
                other => return other,
            }
        }
        output::remark(format!("starting a Stead server for {}", self.home.display()));
        host::background::start(&self.home).await.map_err(|failure| match failure {
            // What it said on its way out begins like what this command will say.
            Failure::Failed(text) => Failure::Failed(text.replace("\nerror: ", "\n")),
            other => other,
        })?;
        self.client().await
    }

    /// Whether a server of this home is alive: it holds this lock from its first moment to its last.
    fn locked(&self) -> bool {
        let Ok(file) = File::open(self.home.join("server.lock")) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The turn to start a server: a lock of the home's folder.
    async fn turn(&self) -> Result<File, Failure> {
        let folder = File::open(&self.home)
            .map_err(|error| Failure::Failed(format!("cannot open {}: {error}", self.home.display())))?;
        let until = Instant::now() + SERVER_START;
        while rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > until {
                return Err(Failure::Unreachable(format!(
                    "another command has been starting the Stead server of {} for a minute; look into its logs",
                    self.home.display()
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(folder)
    }

    pub(crate) fn running(&self) -> Option<Running> {
        let text = std::fs::read(self.home.join("server.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn operator_token(&self) -> Result<SecretString, Failure> {
        let path = self.home.join("operator.token");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::Failed(format!(
                "no token: STEAD_TOKEN is not set, and {} cannot be read ({error}); set STEAD_TOKEN",
                path.display()
            ))
        })?;
        Ok(SecretString::from(text.trim().to_owned()))
    }

    /// A file with the authority's certificate that clients on this machine can read.
    pub(crate) async fn ca_file(&self, client: &Client) -> Result<PathBuf, Failure> {
        let local = self.home.join("ca.crt");
        if self.remote().is_none() && std::fs::File::open(&local).is_ok() {
            return Ok(local);
        }
        let pem = client.ca().await?;
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let folder = cache.or_else(home).unwrap_or_else(std::env::temp_dir).join("stead");
        let host: String = self
            .remote()
            .unwrap_or("local")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .collect();
        let path = folder.join(format!("{host}.crt"));
        if std::fs::read_to_string(&path).is_ok_and(|found| found == pem) {
            return Ok(path);
        }
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(path.with_extension("new"), &pem))
            .and_then(|()| std::fs::rename(path.with_extension("new"), &path));
        written.map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }
}

/// Whether it is what a URL of a server begins with, and something follows.
fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']))
}

fn token_from_environment() -> Option<SecretString> {
    std::env::var("STEAD_TOKEN").ok().filter(|token| !token.is_empty()).map(SecretString::from)
}

/// A stead by name.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) tenant: TenantName,
    pub(crate) stead: SteadName,
}

impl Which {
    /// The tenant that is meant: named on the command line, or remembered in the folder.
    pub(crate) fn tenant(&self) -> Result<TenantName, Failure> {
        let remembered = || Project::find(Path::new(".")).and_then(|project| project.remembered());
        self.tenant.clone().or_else(|| remembered().map(|known| known.tenant)).ok_or_else(|| {
            Failure::Usage(
                "say whose stead is meant: --tenant NAME, the name of a customer (`stead up` makes the tenant \
                 and remembers it in this folder), or set STEAD_TENANT"
                    .into(),
            )
        })
    }

    /// The stead that is meant: named on the command line, remembered in the folder, or the manifest's.
    pub(crate) fn named(&self) -> Result<Named, Failure> {
        let tenant = self.tenant()?;
        let project = Project::find(Path::new("."));
        let remembered = || project.as_ref().and_then(Project::remembered).map(|known| known.stead);
        let of_manifest = || project.as_ref().and_then(Project::app_name);
        let stead = self.stead.clone().or_else(remembered).or_else(of_manifest).ok_or_else(|| {
            Failure::Usage(
                "say which stead is meant: --stead NAME, or go to the folder with its stead.toml".into(),
            )
        })?;
        Ok(Named { tenant, stead })
    }
}

impl Named {
    pub(crate) async fn get(&self, client: &Client) -> Result<Stead, Failure> {
        client.stead(self.tenant.as_str(), self.stead.as_str()).await?.ok_or_else(|| {
            Failure::Failed(format!(
                "tenant `{}` has no stead `{}`, or this token may not see it; \
                 make it in its app's folder with `stead up --tenant {} --stead {}`",
                self.tenant, self.stead, self.tenant, self.stead
            ))
        })
    }

    /// The component that is meant: the one named, or the only one.
    pub(crate) async fn component(
        &self,
        client: &Client,
        name: Option<&str>,
        kind: Kind,
    ) -> Result<Component, Failure> {
        let stead = self.get(client).await?;
        let names: Vec<String> = stead.components.iter().map(|component| component.name.clone()).collect();
        let prefix = format!("{kind}.");
        let of_kind: Vec<Component> = stead
            .components
            .iter()
            .filter(|component| component.name.starts_with(&prefix))
            .cloned()
            .collect();
        match (name, of_kind.len()) {
            (None, 1) => of_kind.into_iter().next().ok_or_else(|| Failure::failed("no component")),
            (None, 0) => Err(Failure::Failed(format!(
                "stead `{}` has no component of the kind {kind}; it has: {}",
                self.stead,
                names.join(", ")
            ))),
            (None, _) => {
                Err(Failure::Usage(format!("say which component is meant; there are: {}", names.join(", "))))
            }
            (Some(name), _) => {
                // `lake` will do for `transfer.lake` where nothing else is called so.
                let mut called =
                    names.iter().filter(|full| full.split_once('.').is_some_and(|(_, l)| l == name));
                let short = called.next().filter(|_| called.next().is_none()).cloned();
                let mut components = stead.components.into_iter();
                let is_meant = |full: &str| full == name || short.as_deref() == Some(full);
                components.find(|component| is_meant(&component.name)).ok_or_else(|| {
                    let known = names.join(", ");
                    Failure::Failed(format!(
                        "stead `{}` has no component `{name}`; it has: {known}",
                        self.stead
                    ))
                })
            }
        }
    }
}

/// How long one call waits for an operation; a client asks again until its own time is up.
pub(crate) const WAIT_STEP: &str = "1s";

/// Between two looks at a server that is starting.
const LOOK: Duration = Duration::from_millis(50);

/// The time in which a local server comes up, its own PostgreSQL included.
pub(crate) const SERVER_START: Duration = Duration::from_secs(60);
