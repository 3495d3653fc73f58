//! Transfers of this host: a tree with the lake, a process that copies and one that answers questions about it, and
//! inside the server that is read, where it is one of the stead, a role that may do nothing else.
//!
//! What a person types in never gets into a script but as a literal, and nothing of the tenant's is read here: the
//! function that publishes tables looks at catalogs alone (`transfer::publish`).

mod conditions;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use component::postgres::{OWNER_ROLE, Unit as ProcessState};
use component::status::Endpoint;
use component::transfer::{
    COPIER_MIB, Column, Inside, LAKE_MIB, Leaving, Mode, Observed, Origin, Overlap, Part, Pattern, Process,
    Progress, Seen, Server, Spec, Step, Unknown,
};
use component::{DriverError, Status, Target};
use jiff::Timestamp;
use keeper::wire::{Limits, Name, Restart, Runs, SOURCE, Stop, StopSignal, Tree, Unit, Wanted};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use transfer::Publication;
use transfer::publish;

pub(crate) use conditions::conditions;

use crate::act::unavailable;
use crate::elsewhere::{Known, known};
use crate::session::admin;
use crate::{Local, Place, bucket, fail_point, files};

/// Sessions of the lake at once.
const LAKE_SESSIONS: u32 = 20;
/// How long a question to the lake may take, milliseconds.
const LAKE_TIMEOUT_MS: u64 = 60_000;
/// Threads of a process.
const THREADS: u64 = 128;
/// How long a process may take to come to an end.
const STOP_MS: u64 = 5_000;
/// The largest status that is read, bytes: some ten thousand tables.
const LARGEST_STATUS: u64 = 4 * 1024 * 1024;
/// How long a server that was woken may take to answer.
const WAKE: Duration = Duration::from_secs(5);

/// The names of a transfer on the host.
pub(crate) struct Names {
    pub(crate) handle: String,
    pub(crate) tree: Tree,
    pub(crate) copier: Name,
    lake: Name,
    /// Inside the server: role, slot, publication and function.
    inside: Publication,
}

impl Names {
    fn of(target: &Target) -> Result<Self, DriverError> {
        let handle = target.id.handle();
        let name =
            |text: String| Name::parse(text).map_err(|error| DriverError::Unavailable(error.to_string()));
        let inside = format!("stead_{handle}").parse();
        Ok(Self {
            tree: Tree::Servers(name(handle.clone())?),
            copier: name(format!("tr-{handle}"))?,
            lake: name(format!("lk-{handle}"))?,
            inside: inside.map_err(|error: transfer::BadName| DriverError::Unavailable(error.to_string()))?,
            handle,
        })
    }

    /// The way to a bucket; that to a server elsewhere is called by the handle alone.
    pub(crate) fn target_way(&self) -> String {
        format!("{}-to", self.handle)
    }
}

impl Local {
    pub(crate) async fn observe_transfer(
        &self,
        target: &Target,
        spec: &Spec,
    ) -> Result<Observed, DriverError> {
        let names = Names::of(target)?;
        let tree = self.tree_dir(&names.tree).is_dir();
        let (server, inside) = self.observe_server(target, spec, &names).await?;
        let units = self.units_of(target, spec, &names).await?;
        let process = async |unit: Option<&Unit>, name: &Name| {
            let declared = match unit {
                Some(unit) => self.declaration(unit).0,
                // Without its server it cannot be said what it should be: it stays as it is.
                None if self.declared(name).is_some() => Seen::Same,
                None => Seen::Absent,
            };
            Ok::<_, DriverError>(Process { declared, unit: self.unit_seen(name).await? })
        };
        Ok(Observed {
            tree,
            server,
            inside,
            files: if tree {
                self.files_seen(&self.transfer_files(target, spec, &names)?)
            } else {
                Seen::Absent
            },
            copier: process(units.as_ref().map(|units| &units.0), &names.copier).await?,
            lake: process(units.as_ref().and_then(|units| units.1.as_ref()), &names.lake).await?,
            route: self.route_seen(&self.lake_route(target, spec, &names)).await,
            progress: if tree { self.progress(&names) } else { None },
            unknown: unknown(target, spec),
            leaving: if tree { self.leaving(&names).await? } else { Leaving::Unasked },
        })
    }

    /// The server that is read, where it is.
    fn server_of(&self, target: &Target, spec: &Spec) -> Result<Option<Place>, DriverError> {
        let used = spec.from.server().and_then(|server| target.uses.get(server));
        let Some(used) = used else { return Ok(None) };
        for place in [component::Place::First, component::Place::Second] {
            let place = Place::named(&used.id.handle(), place)?;
            if self.tree_dir(&place.tree).is_dir() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    async fn observe_server(
        &self,
        target: &Target,
        spec: &Spec,
        names: &Names,
    ) -> Result<(Server, Option<Inside>), DriverError> {
        let Origin::Server(server) = &spec.from else { return Ok((Server::Elsewhere, None)) };
        let Some(place) = self.server_of(target, spec)? else {
            let is_used = target.uses.contains_key(server);
            return Ok((if is_used { Server::Down } else { Server::Gone }, None));
        };
        match self.unit_seen(&place.unit).await? {
            ProcessState::Asleep => return Ok((Server::Asleep, None)),
            ProcessState::Running if self.says_ready(&place.unit).await? => {}
            _ => return Ok((Server::Down, None)),
        }
        let look = async {
            let client = admin(&self.socket_dir(&place.tree), server.local.as_str()).await?;
            client.query_one(publish::look(&names.inside).as_str(), &[]).await
        };
        // Its database may not have been made yet.
        let Ok(row) = look.await else { return Ok((Server::Down, None)) };
        let noted: Option<String> = row.get(0);
        let (helpers, role, slot): (bool, bool, bool) = (row.get(1), row.get(2), row.get(3));
        let role = match noted {
            Some(noted) if helpers && noted == declared(target, spec, names) => Seen::Same,
            _ if role => Seen::Differs,
            _ => Seen::Absent,
        };
        Ok((Server::Up, Some(Inside { role, slot })))
    }

    /// The unit that copies and the one that answers, where one does, as they should be; `None` where the server is
    /// nowhere.
    async fn units_of(
        &self,
        target: &Target,
        spec: &Spec,
        names: &Names,
    ) -> Result<Option<(Unit, Option<Unit>)>, DriverError> {
        let place = self.server_of(target, spec)?;
        let texts = self.transfer_files(target, spec, names)?;
        let (Some(copier), lake) = (texts.copier, texts.lake) else { return Ok(None) };
        let outside = spec.to.is_some();
        let (runs, words) = match (&spec.from, place) {
            (Origin::Elsewhere(_), _) => {
                (Runs::TransferElsewhere { tree: names.tree.clone(), outside }, vec![copier])
            }
            (Origin::Server(_), None) => return Ok(None),
            (Origin::Server(_), Some(place)) => {
                // A folder that was made anew under the same name has another number, and the process sees the old one.
                let number = std::fs::metadata(self.socket_dir(&place.tree));
                let number = number.map_or(0, |meta| std::os::unix::fs::MetadataExt::ino(&meta));
                let runs = Runs::Transfer { tree: names.tree.clone(), from: place.tree, outside };
                (runs, vec![copier, number.to_string()])
            }
        };
        let wanted = if spec.paused { Wanted::Stopped } else { Wanted::Running };
        let copier = self.transfer_unit(&names.copier, runs, COPIER, &words, COPIER_MIB).await?;
        let lake = match lake {
            Some(lake) => {
                let runs = Runs::Lake { tree: names.tree.clone() };
                Some(self.transfer_unit(&names.lake, runs, LAKE, &[lake], LAKE_MIB).await?)
            }
            None => None,
        };
        Ok(Some((Unit { wanted, ..copier }, lake)))
    }

    /// One of them; where `words` are others than before, its process is started anew.
    async fn transfer_unit(
        &self,
        name: &Name,
        runs: Runs,
        settings: &str,
        words: &[String],
        mib: u64,
    ) -> Result<Unit, DriverError> {
        // What runs is of the binary that the keeper would start now.
        let program = self.keeper(|keeper| Ok(keeper.host()?.program)).await?;
        let mut env = files::environment();
        env.insert("STEAD_PROGRAM".into(), program);
        let digest = Sha256::new_with_prefix(words.join("\n")).finalize();
        env.insert("STEAD_SETTINGS".into(), format!("{digest:x?}"));
        if settings == COPIER {
            env.extend(transfer::wire::ENVIRONMENT.map(|(name, value)| (name.into(), value.into())));
        }
        if fail::has_failpoints()
            && let Ok(points) = std::env::var("STEAD_TRANSFER_FAILPOINTS")
        {
            env.insert("FAILPOINTS".into(), points);
        }
        Ok(Unit {
            name: name.clone(),
            generation: 1,
            wanted: Wanted::Running,
            runs,
            args: vec![format!("/stead/conf/{settings}")],
            env,
            limits: Limits { memory_bytes: Some(mib * 1024 * 1024), pids: Some(THREADS) },
            stop: Stop { signal: StopSignal::Term, timeout_ms: STOP_MS },
            restart: Restart::Always,
            sleeps: false,
        })
    }

    /// The unit that copies from elsewhere, going by this text.
    pub(crate) async fn copier_elsewhere(
        &self,
        names: &Names,
        text: String,
        outside: bool,
    ) -> Result<Unit, DriverError> {
        let runs = Runs::TransferElsewhere { tree: names.tree.clone(), outside };
        self.transfer_unit(&names.copier, runs, COPIER, &[text], COPIER_MIB).await
    }

    fn transfer_files(&self, target: &Target, spec: &Spec, names: &Names) -> Result<Texts, DriverError> {
        let seen = self.0.host.seen_at(&self.0.home, &names.tree);
        let (copier, way) = match &spec.from {
            Origin::Server(server) => {
                let socket_dir = match self.server_of(target, spec)? {
                    Some(place) if !self.0.host.isolated => self.socket_dir(&place.tree),
                    _ => PathBuf::from(SOURCE),
                };
                let sign_in = (server.local.to_string(), role_password(target));
                (Some(self.copier_settings(spec, names, socket_dir, sign_in, None)), None)
            }
            Origin::Elsewhere(elsewhere) => match known(target, elsewhere) {
                Err(_) => (None, None),
                Ok(known) => {
                    let settings = known.settings(self, names, spec, elsewhere);
                    let way = known.route();
                    let Known { address, .. } = known;
                    let sign_in = (address.database, address.password);
                    let copier =
                        self.copier_settings(spec, names, PathBuf::from(SOURCE), sign_in, Some(settings));
                    (Some(copier), Some(way))
                }
            },
        };
        let mut ways: Vec<_> = way.map(|way| (names.handle.clone(), way)).into_iter().collect();
        let copier = match &spec.to {
            None => copier,
            Some(to) => bucket::known(target, to).ok().and_then(|to| {
                ways.push((names.target_way(), to.route()));
                Some(transfer::wire::Settings { bucket: Some(to.settings(self, names)), ..copier? })
            }),
        };
        let copier = copier.map(|settings| json!(settings).to_string());
        let verifier = target.verifier.expose_secret();
        let lake = json!({
            "socket_dir": seen.join("run"),
            "lake": seen.join("data/lake"),
            "database": target.name.local,
            "verifiers": { OWNER_ROLE: verifier },
            "gateway_uid": self.0.host.gateway_uid(),
            "memory_bytes": LAKE_MIB * 1024 * 1024 / 2,
            "timeout_ms": LAKE_TIMEOUT_MS,
            "sessions": LAKE_SESSIONS,
        });
        let conf = self.tree_dir(&names.tree).join("conf");
        let lake = spec.to.is_none().then(|| lake.to_string());
        Ok(Texts { conf, copier, lake, ways })
    }

    /// What the copier goes by; `sign_in` is database and password.
    fn copier_settings(
        &self,
        spec: &Spec,
        names: &Names,
        socket_dir: PathBuf,
        (database, password): (String, SecretString),
        elsewhere: Option<transfer::wire::Elsewhere>,
    ) -> transfer::wire::Settings {
        let seen = self.0.host.seen_at(&self.0.home, &names.tree);
        transfer::wire::Settings {
            name: names.handle.clone(),
            mode: mode(spec),
            socket_dir,
            database,
            role: names.inside.to_string(),
            password,
            elsewhere,
            lake: seen.join("data/lake"),
            bucket: None,
            memory: seen.join("data/memory.json"),
            status: seen.join("run/status.json"),
            parts: parts(spec),
            every_ms: spec.every.as_secs() * 1000,
            keep_ms: spec.keep.as_secs() * 1000,
            keep_changes_ms: spec.keep_changes.map(|kept| kept.as_secs() * 1000),
            resyncs: spec.resyncs,
            table_resyncs: spec
                .table_resyncs
                .iter()
                .map(|(table, count)| (table.to_string(), *count))
                .collect(),
            asked: spec.asked,
        }
    }

    fn lake_route(&self, target: &Target, spec: &Spec, names: &Names) -> gateway::route::Route {
        gateway::route::Route {
            server: names.handle.clone(),
            generation: target.generation,
            tenant: target.tenant.to_string(),
            stead: target.stead.to_string(),
            component: target.name.to_string(),
            port: target.port,
            socket_dir: self.socket_dir(&names.tree),
            allow: spec.allow.clone(),
            max_sessions: LAKE_SESSIONS,
            sleep: None,
        }
    }

    fn files_seen(&self, texts: &Texts) -> Seen {
        let files = texts.files().map(|(name, text)| files::compare(&texts.conf.join(name), text));
        let ways = texts.ways.iter().map(|(name, way)| self.way_seen(name, way));
        let seen: Vec<_> = files.chain(ways).collect();
        match seen.as_slice() {
            seen if seen.iter().all(|seen| *seen == Seen::Same) => Seen::Same,
            seen if seen.iter().all(|seen| *seen == Seen::Absent) => Seen::Absent,
            _ => Seen::Differs,
        }
    }

    fn progress(&self, names: &Names) -> Option<Progress> {
        serde_json::from_slice(&self.said(names)?).ok()
    }

    /// What the copier says of itself. The folder is its own, to put anything into.
    pub(crate) fn said(&self, names: &Names) -> Option<Vec<u8>> {
        let path = self.socket_dir(&names.tree).join("status.json");
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).ok()?;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let mut text = Vec::new();
        file.take(LARGEST_STATUS).read_to_end(&mut text).ok()?;
        Some(text)
    }

    pub(crate) async fn act_transfer(
        &self,
        target: &Target,
        spec: &Spec,
        step: &Step,
    ) -> Result<(), DriverError> {
        let names = Names::of(target)?;
        match step {
            Step::Create => {
                let tree = names.tree.clone();
                self.keeper(move |keeper| keeper.create_tree(&tree)).await?;
                fail_point!("driver-local::transfer-tree-made");
                Ok(())
            }
            Step::Wake => {
                let place = self.server(target, spec)?;
                let unit = place.unit.clone();
                self.keeper(move |keeper| keeper.wake(&unit, "a transfer of it is changed")).await?;
                fail_point!("driver-local::transfer-server-woken");
                let socket = self.socket_dir(&place.tree);
                // The next look says what came of it.
                let _ = self.await_ready(&place.unit, &socket, WAKE).await;
                Ok(())
            }
            Step::Role => {
                let password = role_password(target);
                let verifier =
                    postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
                self.inside_server(target, spec, &script(target, spec, &names, &verifier)).await?;
                fail_point!("driver-local::transfer-role-made");
                Ok(())
            }
            Step::WriteFiles => {
                let texts = self.transfer_files(target, spec, &names)?;
                for (name, text) in texts.files() {
                    files::write_atomically(&texts.conf.join(name), text, 0o640)?;
                }
                for (name, way) in &texts.ways {
                    self.open_way(name, way).await?;
                }
                fail_point!("driver-local::transfer-files-written");
                Ok(())
            }
            Step::StartCopier | Step::StartLake => {
                let Some((copier, lake)) = self.units_of(target, spec, &names).await? else {
                    return Err(DriverError::Unavailable(format!("{} is not on this host", spec.from)));
                };
                let unit = if *step == Step::StartCopier { Some(copier) } else { lake };
                let none = || DriverError::Unavailable("a transfer into a bucket has no lake".into());
                let mut unit = unit.ok_or_else(none)?;
                unit.generation = self.declaration(&unit).1;
                self.run_unit(&unit).await?;
                fail_point!("driver-local::transfer-unit-applied");
                Ok(())
            }
            Step::OpenRoute => self.declare_route(&self.lake_route(target, spec, &names)).await,
            Step::CloseRoute => self.remove_route(&names.handle).await,
            Step::Stop => {
                for name in [&names.copier, &names.lake] {
                    let Some(mut unit) = self.declared(name) else { continue };
                    unit.wanted = Wanted::Stopped;
                    self.declare(&unit)?;
                    fail_point!("driver-local::transfer-stop-declared");
                    let name = name.clone();
                    self.keeper(move |keeper| keeper.apply(&name)).await?;
                }
                Ok(())
            }
            Step::Forget => {
                self.inside_server(target, spec, &publish::forget(&names.inside)).await?;
                fail_point!("driver-local::transfer-forgotten");
                Ok(())
            }
            Step::Leave => self.take_leave(&names).await,
            Step::Remove(_) => {
                for name in [&names.copier, &names.lake] {
                    self.forget_unit(name).await?;
                }
                fail_point!("driver-local::transfer-units-removed");
                for way in [&names.handle, &names.target_way()] {
                    self.shut_way(way).await?;
                }
                if let Some(leaving) = self.0.leaving.get() {
                    leaving().await;
                }
                let tree = names.tree.clone();
                self.keeper(move |keeper| crate::act::absent_is_fine(keeper.remove_tree(&tree))).await?;
                fail_point!("driver-local::transfer-tree-removed");
                Ok(())
            }
        }
    }

    fn server(&self, target: &Target, spec: &Spec) -> Result<Place, DriverError> {
        let gone = || DriverError::Unavailable(format!("{} is not on this host", spec.from));
        self.server_of(target, spec)?.ok_or_else(gone)
    }

    async fn inside_server(&self, target: &Target, spec: &Spec, script: &str) -> Result<(), DriverError> {
        let socket = self.socket_dir(&self.server(target, spec)?.tree);
        let database = spec.from.server().map_or("", |server| server.local.as_str());
        let client = admin(&socket, database).await.map_err(unavailable)?;
        client.batch_execute(script).await.map_err(unavailable)
    }

    pub(crate) fn report_transfer(
        &self,
        target: &Target,
        spec: &Spec,
        observed: &Observed,
        status: &mut Status,
    ) {
        if observed.tree && status.provisioned_at.is_none() {
            status.provisioned_at = Some(Timestamp::now());
        }
        status.version = Some(spec.mode.as_str().to_owned());
        status.transfer = observed.progress.clone();
        if let Some(progress) = &mut status.transfer
            && !matches!(observed.server, Server::Up | Server::Elsewhere)
            && !progress.stopped
        {
            // A server that does not answer because it sleeps is no trouble; one that is down says so itself.
            progress.trouble = None;
        }
        // A bucket is asked by others.
        status.endpoint = spec.to.is_none().then(|| Endpoint {
            host: self.0.address.clone(),
            port: target.port,
            database: target.name.local.to_string(),
            role: OWNER_ROLE.to_owned(),
        });
    }
}

/// What a transfer's processes go by.
struct Texts {
    conf: PathBuf,
    /// Nothing where it is not known where the server is.
    copier: Option<String>,
    /// Nothing where a bucket takes its place.
    lake: Option<String>,
    /// The ways to a server elsewhere and to a bucket, by their names.
    ways: Vec<(String, relay::wire::Route)>,
}

pub(crate) const COPIER: &str = "transfer.json";
const LAKE: &str = "lake.json";

impl Texts {
    fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let copier = self.copier.as_deref().map(|copier| (COPIER, copier));
        copier.into_iter().chain(self.lake.as_deref().map(|lake| (LAKE, lake)))
    }
}

/// Why it is not known where its server or its bucket is.
fn unknown(target: &Target, spec: &Spec) -> Option<Unknown> {
    let server = spec.from.elsewhere().and_then(|elsewhere| known(target, elsewhere).err());
    server.or_else(|| spec.to.as_ref().and_then(|to| bucket::known(target, to).err()))
}

/// The password that the copier signs in with. It follows from the lake's own, which does not follow from it: whoever
/// may ask the lake cannot sign in to the server.
fn role_password(target: &Target) -> SecretString {
    let mut digest = Sha256::new_with_prefix("transfer/");
    digest.update(target.password.expose_secret());
    hex(digest).into()
}

/// The script that makes role and function inside the server, with a note of what they were made by.
fn script(target: &Target, spec: &Spec, names: &Names, verifier: &str) -> String {
    script_of(spec, names, verifier, &declared(target, spec, names))
}

fn script_of(spec: &Spec, names: &Names, verifier: &str, declared: &str) -> String {
    let tables: Vec<_> = spec.tables.patterns().map(Pattern::like).collect();
    let meant = publish::Meant { mode: &mode(spec), tables: &tables, parts: &parts(spec) };
    publish::script(&names.inside, verifier, &meant, declared)
}

fn parts(spec: &Spec) -> Vec<transfer::wire::Part> {
    let texts = |columns: &BTreeSet<Column>| columns.iter().map(ToString::to_string).collect();
    let part = |(pattern, part): (&Pattern, &Part)| {
        let (schema, table) = pattern.names();
        transfer::wire::Part {
            names: (schema.to_owned(), table.to_owned()),
            like: pattern.like(),
            columns: texts(&part.columns),
            without: texts(&part.without),
            rows: part.rows.as_ref().map(|rows| transfer::wire::Rows {
                sql: rows.sql().to_owned(),
                columns: texts(rows.columns()),
            }),
        }
    };
    spec.tables.parts().into_iter().map(part).collect()
}

/// What is noted in the server: it differs where anything of the script would.
fn declared(target: &Target, spec: &Spec, names: &Names) -> String {
    let mut digest = Sha256::new_with_prefix(script_of(spec, names, "", ""));
    digest.update(role_password(target).expose_secret());
    format!("a transfer of Stead's: {}", hex(digest))
}

fn mode(spec: &Spec) -> transfer::wire::Mode {
    match spec.mode {
        Mode::Snapshot => transfer::wire::Mode::Snapshot,
        Mode::Query => transfer::wire::Mode::Query(transfer::wire::Cursor {
            // A spec has one, or it would have been refused.
            column: spec.cursor.as_ref().map_or_else(String::new, |cursor| cursor.as_str().to_owned()),
            overlap: spec.overlap.map(|overlap| match overlap {
                Overlap::Seconds(seconds) => transfer::wire::Overlap::Seconds(seconds),
                Overlap::Count(count) => transfer::wire::Overlap::Count(count),
            }),
        }),
        Mode::Stream => transfer::wire::Mode::Stream,
    }
}

fn hex(digest: Sha256) -> String {
    use std::fmt::Write;
    digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
