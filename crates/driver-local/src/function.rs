//! Functions of this host: the engine is told by a file a function.
//!
//! A release goes in two writes of that file: first the engine is told of it beside the one that answers and asked to
//! bring it up; once a worker of it has started, the second write has it answer. That second rename is the moment from
//! which on it does. Killed in between, a look finds the first file and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::{io, iter};

use component::function::{Access, Digest, Engine, Missed, Observed, Seen, Spec, Step};
use component::postgres::OWNER_ROLE;
use component::status::Endpoint;
use component::{Condition, ConditionKind, DriverError, Status, Target};
use functions::route::{
    Canary, Database, Egress, FunctionStatus, Prepared, Request, Route, Schedule, Secrets, Settings, Url,
    Version,
};
use ipnet::IpNet;
use jiff::Timestamp;
use keeper::wire::{Limits, Name, Restart, Runs, Stop, StopSignal, Unit, Wanted};
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};

use crate::{Error, Local, files};

/// The engine's unit.
const UNIT: &str = "functions";
/// Connections that a function's workers have to one server, together.
const CONNECTIONS: u32 = 10;

impl Local {
    /// Has the engine of functions run; their URLs listen on these addresses, and besides public ones they may reach these
    /// networks.
    ///
    /// # Errors
    /// When the keeper does not start it.
    pub async fn functions(&self, listen: Vec<IpAddr>, egress_networks: Vec<IpNet>) -> Result<(), Error> {
        if !self.host().isolated {
            // Nothing would keep what a tenant wrote from everything else here.
            return Ok(());
        }
        let runtimes = self.0.runtimes.all().clone();
        let settings = Settings { listen, runtimes, egress_networks };
        let folder = self.functions_folder();
        let text = serde_json::to_string(&settings).map_err(|error| Error::Functions(error.to_string()))?;
        files::write_other(&folder.join("functions.json"), &text, 0o640)?;
        let unit = Unit {
            name: Name::parse(UNIT).map_err(|error| Error::Functions(error.to_string()))?,
            generation: 1,
            wanted: Wanted::Running,
            runs: Runs::Functions,
            args: Vec::new(),
            env: files::environment(),
            limits: Limits::default(),
            stop: Stop { signal: StopSignal::Term, timeout_ms: 10_000 },
            restart: Restart::Always,
            sleeps: false,
        };
        self.ensure(unit).await.map_err(|error| Error::Functions(error.to_string()))?;
        let _ = self.ask_functions(&Request::Refresh).await;
        Ok(())
    }

    pub(crate) fn functions_folder(&self) -> PathBuf {
        self.0.home.join("functions")
    }

    fn function_route(&self, handle: &str) -> PathBuf {
        self.functions_folder().join(format!("routes/{handle}.json"))
    }

    /// What the engine is told of a function; `None` where it is told nothing.
    fn declared_function(&self, handle: &str) -> Result<Option<Route>, DriverError> {
        let path = self.function_route(handle);
        match std::fs::read(&path) {
            // One that cannot be read is one that has to be written anew.
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| unreadable(handle)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DriverError::Unavailable(format!("cannot read {}: {error}", path.display()))),
        }
    }

    fn declare_function(&self, route: &Route) -> Result<(), DriverError> {
        let text =
            serde_json::to_string(route).map_err(|error| DriverError::Unavailable(error.to_string()))?;
        files::write_atomically(&self.function_route(&route.function), &text, 0o640)
            .map_err(|error| DriverError::Unavailable(error.to_string()))
    }

    /// Asks the engine.
    async fn ask_functions(&self, request: &Request) -> Result<Vec<u8>, io::Error> {
        functions::ask(&self.0.home, request).await
    }

    pub(crate) async fn observe_function(
        &self,
        target: &Target,
        spec: &Spec,
    ) -> Result<Observed, DriverError> {
        let handle = target.id.handle();
        let is = self.declared_function(&handle)?;
        let declared = match &is {
            None => Seen::Absent,
            Some(is) if *is == wanted(target, spec, Some(is)) => Seen::Same,
            Some(_) => Seen::Differs,
        };
        let answer = self.ask_functions(&Request::Function { function: handle }).await;
        let status: Option<Option<FunctionStatus>> =
            answer.ok().and_then(|answer| serde_json::from_slice(&answer).ok());
        let returned = status.as_ref().and_then(|status| status.as_ref()?.canary_returned.clone());
        let engine = match status {
            None => Engine::Down,
            Some(Some(FunctionStatus { trouble: Some(why), .. })) => Engine::NoPort(why),
            Some(_) => Engine::Serves,
        };
        Ok(Observed {
            runtime_present: specs(target, spec)
                .all(|spec| spec.runtime.is_provided() || self.0.runtimes.has(spec.runtime.name())),
            unpacked: specs(target, spec).all(|spec| self.package(spec.package).is_dir()),
            declared,
            unset: spec.secrets.iter().filter(|name| !target.secrets.contains_key(name)).cloned().collect(),
            wanted: target.trial.as_ref().map_or(target.release, |trial| trial.base),
            wanted_canary: target.trial.as_ref().map(|trial| (target.release, trial.percent)),
            live: is.as_ref().and_then(|route| route.live),
            canary: is.as_ref().and_then(|route| route.canary.clone()).map(|canary| {
                component::function::Canary {
                    release: canary.version,
                    percent: canary.percent,
                    returned: canary.returned,
                }
            }),
            returned,
            known: is.map(|route| route.versions.into_keys().collect::<BTreeSet<_>>()).unwrap_or_default(),
            engine,
        })
    }

    pub(crate) async fn act_function(
        &self,
        target: &Target,
        spec: &Spec,
        step: &Step,
    ) -> Result<(), DriverError> {
        let handle = target.id.handle();
        let is = self.declared_function(&handle)?;
        match step {
            Step::Unpack => {
                for spec in specs(target, spec) {
                    if !self.package(spec.package).is_dir() {
                        self.unpack_package(target, spec.package).await?;
                    }
                }
                Ok(())
            }
            Step::Declare => {
                let next = is.as_ref().map_or(1, |is| is.generation + 1);
                self.declare_function(&Route { generation: next, ..wanted(target, spec, is.as_ref()) })?;
                crate::fail_point!("driver-local::function-declared");
                self.read_again(&handle).await
            }
            Step::Release(number) => {
                let live = |is| Route { live: Some(*number), canary: None, ..is };
                self.bring_up(&handle, *number, is, live).await
            }
            Step::Canary(number, percent) => {
                let canary = Canary { version: *number, percent: *percent, returned: None };
                self.bring_up(&handle, *number, is, |is| Route { canary: Some(canary), ..is }).await
            }
            Step::Return(why) => {
                if let Some(is @ Route { canary: Some(_), .. }) = is {
                    let returned = Some(why.clone());
                    let canary = is.canary.clone().map(|canary| Canary { returned, ..canary });
                    self.declare_function(&Route { generation: is.generation + 1, canary, ..is })?;
                }
                self.read_again(&handle).await
            }
            Step::Retire => {
                if let Some(mut is) = is {
                    is.canary =
                        is.canary.filter(|canary| target.trial.is_some() && canary.version == target.release);
                    let serving = [is.live, is.canary.as_ref().map(|canary| canary.version)];
                    is.versions.retain(|number, _| serving.contains(&Some(*number)));
                    let named =
                        |name: &String| is.versions.values().any(|version| version.secrets.contains(name));
                    is.secrets.0.retain(|name, _| named(name));
                    let used = |name: &String| {
                        is.versions
                            .values()
                            .filter_map(|version| version.uses.as_ref())
                            .any(|uses| uses.contains(name))
                    };
                    is.databases.retain(|name, _| used(name));
                    self.declare_function(&Route { generation: is.generation + 1, ..is })?;
                }
                self.read_again(&handle).await
            }
            Step::Remove => {
                match std::fs::remove_file(self.function_route(&handle)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(DriverError::Unavailable(format!(
                            "its route cannot be removed: {error}"
                        )));
                    }
                    _ => {}
                }
                crate::fail_point!("driver-local::function-removed");
                self.read_again(&handle).await
            }
        }
    }

    /// Has the engine bring a release up, and go by the changed route once a worker of it has started.
    async fn bring_up(
        &self,
        handle: &str,
        number: u64,
        is: Option<Route>,
        change: impl FnOnce(Route) -> Route,
    ) -> Result<(), DriverError> {
        let request = Request::Prepare { function: handle.to_owned(), version: number };
        let answer = self.ask_functions(&request).await.map_err(|error| down(&error))?;
        let prepared: Prepared =
            serde_json::from_slice(&answer).map_err(|error| DriverError::Unavailable(error.to_string()))?;
        crate::fail_point!("driver-local::function-prepared");
        match (prepared, is) {
            (Prepared::Ready, Some(is)) => {
                let generation = is.generation + 1;
                self.declare_function(&Route { generation, ..change(is) })?;
                crate::fail_point!("driver-local::function-released");
                self.read_again(handle).await
            }
            // It was taken away meanwhile; the next look sees that.
            (Prepared::Ready, None) => Ok(()),
            (Prepared::Broken { error_type, message, log }, is) => {
                let before = is.and_then(|is| is.live);
                Err(DriverError::Refused(broken(number, before, &error_type, &message, &log)))
            }
            (Prepared::Unavailable { why }, _) => Err(DriverError::Unavailable(why)),
        }
    }

    /// Has the engine go by the file as it is now. One that is down reads it when it comes back.
    async fn read_again(&self, handle: &str) -> Result<(), DriverError> {
        let _ = self.ask_functions(&Request::Function { function: handle.to_owned() }).await;
        Ok(())
    }

    pub(crate) fn report_function(
        &self,
        target: &Target,
        spec: &Spec,
        observed: &Observed,
        status: &mut Status,
    ) {
        status.live = observed.live;
        status.canary = observed.canary.clone();
        status.version = Some(spec.runtime.to_string());
        if observed.live.is_some() && status.provisioned_at.is_none() {
            status.provisioned_at = Some(Timestamp::now());
        }
        status.endpoint = spec.url.map(|_| Endpoint {
            host: self.0.address.clone(),
            port: target.port,
            database: String::new(),
            role: String::new(),
        });
    }
}

/// What the engine should be told, given what it is told now: releases that it knows stay, and so does what answers.
fn wanted(target: &Target, spec: &Spec, is: Option<&Route>) -> Route {
    let mut versions = is.map(|is| is.versions.clone()).unwrap_or_default();
    versions.insert(target.release, version(spec));
    if let Some(component::Trial { base, spec: component::Spec::Function(spec), .. }) = &target.trial {
        versions.insert(*base, version(spec));
    }
    let token = || Digest::new(Sha256::digest(target.password.expose_secret()).into()).hex();
    let secrets = secrets(target, &versions, is);
    let databases = databases(target, &versions, is);
    Route {
        function: target.id.handle(),
        generation: is.map_or(1, |is| is.generation),
        tenant: target.tenant.to_string(),
        stead: target.stead.to_string(),
        component: target.name.to_string(),
        url: spec
            .url
            .map(|access| Url { port: target.port, token_sha256: (access == Access::Token).then(token) }),
        live: is.and_then(|is| is.live).filter(|live| versions.contains_key(live)),
        canary: is.and_then(|is| is.canary.clone()).filter(|canary| versions.contains_key(&canary.version)),
        versions,
        secrets,
        databases,
        schedule: spec.schedule.as_ref().map(|schedule| Schedule {
            cron: schedule.cron.clone(),
            zone: schedule.zone.clone(),
            missed: match schedule.missed {
                Missed::Skip => functions::route::Missed::Skip,
                Missed::Once => functions::route::Missed::Once,
            },
        }),
        dead_letter: None,
    }
}

fn version(spec: &Spec) -> Version {
    Version {
        package: spec.package.hex(),
        code_bytes: 0,
        runtime: spec.runtime.to_string(),
        handler: spec.handler.clone(),
        memory_mib: spec.memory_mib.into(),
        timeout_ms: u64::from(spec.timeout_s) * 1000,
        tmp_mib: spec.tmp_mib.into(),
        concurrency: spec.concurrency,
        environment: spec.environment.clone(),
        secrets: spec.secrets.iter().map(ToString::to_string).collect(),
        uses: Some(spec.uses.iter().map(|used| used.local.to_string()).collect()),
        egress: spec
            .egress
            .iter()
            .map(|egress| Egress { name: egress.name().to_owned(), port: egress.port() })
            .collect(),
    }
}

/// What is to run: the newest release, and the one that it is tried against.
fn specs<'t>(target: &'t Target, spec: &'t Spec) -> impl Iterator<Item = &'t Spec> {
    let base = target.trial.as_ref().and_then(|trial| match &trial.spec {
        component::Spec::Function(spec) => Some(spec),
        component::Spec::Postgres(_) | component::Spec::Transfer(_) => None,
    });
    iter::once(spec).chain(base)
}

/// Secrets that some version finds in its environment; of what a version that goes on names and the target does not
/// know any more, what was known.
fn secrets(target: &Target, versions: &BTreeMap<u64, Version>, is: Option<&Route>) -> Secrets {
    let value = |name: &String| {
        let known = target.secrets.iter().find(|(known, _)| known.as_str() == name);
        let known = known.map(|(_, value)| value.expose_secret().to_owned());
        Some((name.clone(), known.or_else(|| is?.secrets.0.get(name).cloned())?))
    };
    Secrets(versions.values().flat_map(|version| &version.secrets).filter_map(value).collect())
}

/// Servers that some version uses, in the same way.
fn databases(
    target: &Target,
    versions: &BTreeMap<u64, Version>,
    is: Option<&Route>,
) -> BTreeMap<String, Database> {
    let of = |used: &component::Used, name: &String| Database {
        server: used.id.handle(),
        database: name.clone(),
        role: OWNER_ROLE.to_owned(),
        password: used.password.expose_secret().to_owned(),
        connections: CONNECTIONS,
    };
    let value = |name: &String| {
        let known = target.uses.iter().find(|(known, _)| known.local.as_str() == name);
        let known = known.map(|(_, used)| of(used, name));
        Some((name.clone(), known.or_else(|| is?.databases.get(name).cloned())?))
    };
    versions.values().filter_map(|version| version.uses.as_ref()).flatten().filter_map(value).collect()
}

/// In place of a route that cannot be read: equal to none.
fn unreadable(handle: &str) -> Route {
    Route {
        function: handle.to_owned(),
        generation: 0,
        tenant: String::new(),
        stead: String::new(),
        component: String::new(),
        url: None,
        versions: BTreeMap::new(),
        live: None,
        canary: None,
        secrets: Secrets::default(),
        databases: BTreeMap::new(),
        schedule: None,
        dead_letter: None,
    }
}

fn down(error: &io::Error) -> DriverError {
    DriverError::Unavailable(format!("the engine of functions does not answer: {error}"))
}

/// What a person has to know of a release that does not start.
fn broken(number: u64, before: Option<u64>, error_type: &str, message: &str, log: &str) -> Condition {
    let goes_on = match before {
        Some(before) => format!("release {before} goes on answering"),
        None => "nothing answers yet".into(),
    };
    let log = log.trim_end();
    let log = if log.is_empty() { String::new() } else { format!("\n{log}") };
    let message = format!("release {number} does not start, {goes_on}; {error_type}: {message}{log}");
    Condition { kind: ConditionKind::FunctionBroken, message }
}
