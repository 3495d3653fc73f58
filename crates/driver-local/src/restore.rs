//! Bringing a server back from its archive, as it was at a moment: into a tree of its own beside everything else,
//! finished only when all of it was checked, and then taken like a spare.
//!
//! 1. The base backup is unpacked inside the new tree's sandbox, as the new tree's user: what is in it was the server's
//!    word, and a server may have been taken over.
//! 2. `pg_verifybackup` compares every file with PostgreSQL's own manifest.
//! 3. PostgreSQL replays the log up to the moment. It asks for segments by a shell script that waits for files which
//!    are put there a few at a time; the host's disk never holds the whole log.
//! 4. The copy becomes a cluster of its own: another system identifier, a new log. An archive of its own it gets from
//!    whoever starts it.
//!
//! What is left of one that was killed is swept like any unfinished spare, and done anew.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use archiver::ArchiveId;
use archiver::restore::{Known, Plan, Source, Until};
use bytes::Bytes;
use component::postgres::{Major, Origin, Spec};
use component::{ComponentId, Condition, ConditionKind, DriverError};
use jiff::Timestamp;
use keeper::wire::{EngineProgram, Limits, Name, Restart, Runs, Stop, Tool, Tree, Unit, UnitState, Wanted};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::spares::first_spec;
use crate::{Engine, Local, Place, fail_point, files};

/// Segments that wait for PostgreSQL at most.
const AHEAD: usize = 4;
/// Between two looks at how far PostgreSQL is.
const LOOK: Duration = Duration::from_millis(5);
/// How long a tool may take that has next to nothing to do.
const TOOL: Duration = Duration::from_secs(60);
/// How long what reads or writes all data may take. A terabyte takes half an hour.
const WHOLE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the archiver may take to store what there is.
const CATCH_UP: Duration = Duration::from_secs(15);
/// What the log says when there is nothing behind the moment that was asked for.
const ENDED: &str = "recovery ended before configured recovery target was reached";

/// What PostgreSQL asks segments of: waits as long as more may come.
const FETCH: &str = r#"#!/bin/sh
# usage: restore.sh <file> <where to>. Written by Stead.
wal=$(dirname "$0")/../run/wal
case $1 in *.history | *.backup | *.partial) exit 1 ;; esac
until [ -e "$wal/$1" ]; do
    [ -e "$wal/end" ] && [ ! -e "$wal/$1" ] && exit 1
    sleep 0.02
done
exec mv "$wal/$1" "$2"
"#;

fn unavailable(error: impl std::fmt::Display) -> DriverError {
    DriverError::Unavailable(error.to_string())
}

/// A moment that cannot be brought back, or an archive that is damaged, stays so until a person decides.
pub(crate) fn from_archive(error: archiver::Error) -> DriverError {
    use archiver::Error;
    match error {
        Error::Refused(_) | Error::Damaged { .. } | Error::OtherKey { .. } => {
            DriverError::Refused(Condition { kind: ConditionKind::RestoreFailed, message: error.to_string() })
        }
        other => unavailable(other),
    }
}

impl Local {
    /// Makes a component's server of what it comes from.
    pub(crate) async fn restore(&self, spec: &Spec, place: &Place) -> Result<(), DriverError> {
        let Some(origin) = &spec.origin else { return Ok(()) };
        if self.has_data(place).await? {
            return Ok(());
        }
        let archive = origin.archive.parse().map_err(unavailable)?;
        let source = self.source(archive).await?;
        let plan = self.plan_of(&source, archive, origin).await?;
        let (tree, unit) = Self::new_spare()?;
        let restored = self.bring_back(&source, &plan, &tree, &unit).await;
        let taken = match restored {
            Ok(until) => {
                tracing::info!(server = place.handle, %archive, ?until, "brought back");
                let to = place.tree.clone();
                let from = tree.clone();
                self.keeper(move |keeper| keeper.rename_tree(&from, &to)).await
            }
            Err(error) => Err(error),
        };
        fail_point!("driver-local::restore-taken");
        if taken.is_err() {
            self.discard(&unit, &tree).await;
        }
        taken
    }

    /// What a moment takes. The archiver is asked to store what was committed until then, where it still knows the
    /// server; an archive that nobody writes to holds all that it ever will.
    async fn plan_of(
        &self,
        source: &Source,
        archive: ArchiveId,
        origin: &Origin,
    ) -> Result<Plan, DriverError> {
        let at = origin.at;
        let Some(place) = self.place_of(origin.id)? else {
            // A server that is gone writes no more either.
            return source.plan(Some(at), Known::Everything).await.map_err(from_archive);
        };
        let name = Name::parse(origin.id.handle()).map_err(unavailable)?;
        if let Some(status) = self.archive_status(&place).await
            && !status.streaming
            && !status.drained
        {
            // It fell asleep, or was stopped, with some of its log not stored.
            self.rouse(&place).await;
        }
        let status = self.stored_until(&name, at, CATCH_UP).await.map_err(unavailable)?;
        let known = match status {
            Some(status) if status.archive == archive => status.complete_to.map_or(Known::Nothing, Known::To),
            // Its data are another cluster's by now.
            Some(_) => Known::Everything,
            None => return Err(unavailable("the archiver does not know the server yet")),
        };
        source.plan(Some(at), known).await.map_err(from_archive)
    }

    /// Where a component's data are.
    fn place_of(&self, id: ComponentId) -> Result<Option<Place>, DriverError> {
        for place in [component::Place::First, component::Place::Second] {
            let place = Place::named(&id.handle(), place)?;
            if self.tree_dir(&place.tree).join("data").is_dir() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Wakes a server that sleeps; one that is not there for another reason stays so.
    async fn rouse(&self, place: &Place) {
        let name = place.unit.clone();
        if self
            .keeper(move |keeper| {
                keeper.wake(&name, "a copy is made of it, and not all of its log is stored")
            })
            .await
            .is_ok()
        {
            let _ = self.await_ready(&place.unit, &self.socket_dir(&place.tree), CATCH_UP).await;
        }
    }

    /// Opens an archive for reading.
    pub(crate) async fn source(&self, archive: ArchiveId) -> Result<Source, DriverError> {
        let in_use = self.0.backups.get().ok_or_else(|| unavailable("no store of backups is in use"))?;
        Source::open(in_use.objects.clone(), archive, |sealed| in_use.wrapping.unseal(sealed))
            .await
            .map_err(from_archive)
    }

    /// Brings a server back into a new tree, and leaves it stopped; up to where its log was replayed.
    pub(crate) async fn bring_back(
        &self,
        source: &Source,
        plan: &Plan,
        tree: &Tree,
        unit: &Name,
    ) -> Result<Until, DriverError> {
        let major = Major::new(source.about().engine);
        let engine = self.0.engines.get(major).ok_or_else(|| {
            DriverError::Refused(Condition {
                kind: ConditionKind::EngineMissing,
                message: format!("engine {major} is not on this host; install it with script/setup"),
            })
        })?;
        let making = tree.clone();
        self.keeper(move |keeper| keeper.create_tree(&making)).await?;
        fail_point!("driver-local::restore-tree");
        self.unpack(source, plan, tree, unit).await?;
        fail_point!("driver-local::restore-unpacked");
        self.job(unit, tree, engine, EngineProgram::Verifybackup, &["-q", "-n", "/stead/data"], WHOLE)
            .await?;
        let until = match self.replay(source, plan, major, engine, tree, unit, plan.until).await {
            // Nothing was committed between the moment and the end of the log: the end is that moment.
            Err(Replay::Ended) if !plan.complete => {
                return Err(unavailable(
                    "what was committed until then is not all in the store of backups yet; it is waited for",
                ));
            }
            Err(Replay::Ended) => {
                self.replay(source, plan, major, engine, tree, unit, Until::End).await.map(|()| Until::End)
            }
            replayed => replayed.map(|()| plan.until),
        };
        let until = until.map_err(Replay::into_error)?;
        fail_point!("driver-local::restore-replayed");
        self.tool(unit, tree, Tool::Identify, &["--control", "/stead/data/global/pg_control"]).await?;
        self.job(unit, tree, engine, EngineProgram::Resetwal, &["-D", "/stead/data"], TOOL).await?;
        self.settle_on_disk(tree).await?;
        fail_point!("driver-local::restored");
        Ok(until)
    }

    /// Has the base backup unpacked in the tree.
    async fn unpack(
        &self,
        source: &Source,
        plan: &Plan,
        tree: &Tree,
        unit: &Name,
    ) -> Result<(), DriverError> {
        let socket = self.tree_dir(tree).join("conf/unpack.sock");
        let listener = listen(&socket).map_err(unavailable)?;
        let args = ["--socket", "/stead/conf/unpack.sock", "--into", "/stead/data"];
        let job = Self::once(unit, Runs::Tool { tree: tree.clone(), tool: Tool::Unpack }, &args);
        self.run_unit(&job).await?;
        let sent = self.send(source, plan, &listener, &self.socket_dir(tree)).await;
        let _ = std::fs::remove_file(socket);
        let ended = self.ended(unit, tree, if sent.is_ok() { WHOLE } else { TOOL }).await;
        // What the other side says of a stream that broke off is not why it broke off.
        sent?;
        ended
    }

    async fn send(
        &self,
        source: &Source,
        plan: &Plan,
        listener: &UnixListener,
        folder: &Path,
    ) -> Result<(), DriverError> {
        let accepted = tokio::time::timeout(TOOL, crate::socket::tool_of(listener, folder)).await;
        let mut stream = accepted.map_err(|_| unavailable("the backup's unpacking did not begin"))?;
        let (to, mut tar) = mpsc::channel::<Bytes>(8);
        let reading = async { source.tar(&plan.base, to).await.map_err(from_archive) };
        let writing = async {
            while let Some(bytes) = tar.recv().await {
                stream.write_all(&bytes).await.map_err(unavailable)?;
            }
            Ok::<UnixStream, DriverError>(stream)
        };
        let (read, written) = tokio::join!(reading, writing);
        // A damaged archive is the cause of whatever the other side complains of.
        if let Err(error @ DriverError::Refused(_)) = read {
            return Err(error);
        }
        let mut stream = written?;
        read?;
        let manifest = source.manifest(&plan.base).await.map_err(from_archive)?;
        stream.write_all(&appended(&manifest).map_err(unavailable)?).await.map_err(unavailable)?;
        stream.shutdown().await.map_err(unavailable)?;
        let mut said = String::new();
        BufReader::new(stream).read_line(&mut said).await.map_err(unavailable)?;
        match said.trim() {
            "done" => Ok(()),
            why => Err(unavailable(format!("the backup could not be unpacked: {why}"))),
        }
    }

    /// Has PostgreSQL replay the log, and stops it.
    #[expect(clippy::too_many_arguments, reason = "what is replayed, with what, where and how far")]
    async fn replay(
        &self,
        source: &Source,
        plan: &Plan,
        major: Major,
        engine: &Engine,
        tree: &Tree,
        unit: &Name,
        until: Until,
    ) -> Result<(), Replay> {
        let spec = first_spec(major);
        self.write_texts(tree, &self.texts(tree, &spec, engine, false)).map_err(DriverError::from)?;
        let script = self.tree_dir(tree).join("conf/restore.sh");
        files::write_atomically(&script, FETCH, 0o644).map_err(DriverError::from)?;
        let folder = self.socket_dir(tree).join("wal");
        let _ = std::fs::remove_dir_all(&folder);
        // The server's user takes files out of it; nobody else of the host's gets as far as here.
        std::fs::create_dir(&folder)
            .and_then(|()| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)))
            .map_err(unavailable)?;
        let mut server = self.server_unit(unit, tree, &spec, engine);
        server.restart = Restart::Never;
        server.limits = Limits::default();
        for (name, value) in recovery(until) {
            server.args.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        self.run_unit(&server).await?;
        let (to, mut segments) = mpsc::channel(1);
        let reading = async { source.segments(plan, to).await.map_err(from_archive) };
        let feeding = async {
            while let Some((name, bytes)) = segments.recv().await {
                while std::fs::read_dir(&folder).map_err(unavailable)?.count() >= AHEAD {
                    tokio::time::sleep(LOOK).await;
                }
                put(&folder, &name, &bytes).map_err(unavailable)?;
            }
            Ok::<(), DriverError>(())
        };
        let fed = async {
            let (read, fed) = tokio::join!(reading, feeding);
            read.and(fed)
        };
        let ready = async {
            loop {
                let asked = unit.clone();
                let state = self.keeper(move |keeper| keeper.unit(&asked)).await?;
                match state.map(|status| status.state) {
                    Some(UnitState::Running) => {}
                    other => return Ok(Err(format!("{other:?}"))),
                }
                if self.says_ready(unit).await? {
                    return Ok::<_, DriverError>(Ok(()));
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        // Once PostgreSQL is where it was to go it needs no more segments.
        let mut ready = std::pin::pin!(ready);
        let up = tokio::select! {
            up = &mut ready => up?,
            fed = fed => {
                put(&folder, "end", b"").map_err(unavailable)?;
                fed?;
                ready.await?
            }
        };
        if let Err(state) = up {
            let said = self.last_words(tree);
            self.forget_unit(unit).await?;
            if matches!(until, Until::Moment(_)) && said.contains(ENDED) {
                return Err(Replay::Ended);
            }
            return Err(unavailable(format!("the log could not be replayed ({state}): {said}")).into());
        }
        server.wanted = Wanted::Stopped;
        self.run_unit(&server).await?;
        self.await_unit(unit, WHOLE, |state| matches!(state, UnitState::Stopped | UnitState::Exited { .. }))
            .await?;
        self.forget_unit(unit).await?;
        let _ = std::fs::remove_dir_all(&folder);
        let _ = std::fs::remove_file(script);
        Ok(())
    }

    /// The end of what a server that did not come up wrote to its log.
    fn last_words(&self, tree: &Tree) -> String {
        let log = self.tree_dir(tree).join("log");
        let mut newest: Vec<_> = std::fs::read_dir(&log)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        newest.sort();
        let text = newest.pop().and_then(|(_, path)| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let fatal = text.lines().rev().take(50).filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let severity = line.get("error_severity")?.as_str()?;
            matches!(severity, "FATAL" | "PANIC").then(|| line.get("message")?.as_str().map(str::to_owned))?
        });
        fatal.collect::<Vec<_>>().join("; ")
    }

    /// A unit that runs once.
    pub(crate) fn once(unit: &Name, runs: Runs, args: &[&str]) -> Unit {
        Unit {
            name: unit.clone(),
            generation: 1,
            wanted: Wanted::Running,
            runs,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: files::environment(),
            limits: Limits::default(),
            stop: Stop { timeout_ms: 1_000, ..Stop::default() },
            restart: Restart::Never,
            sleeps: false,
        }
    }

    /// Runs an engine's program on a tree to its end.
    pub(crate) async fn job(
        &self,
        unit: &Name,
        tree: &Tree,
        engine: &Engine,
        program: EngineProgram,
        args: &[&str],
        limit: Duration,
    ) -> Result<(), DriverError> {
        let runs = Runs::Engine { tree: tree.clone(), bin: engine.bin.clone(), program };
        self.run_unit(&Self::once(unit, runs, args)).await?;
        self.ended(unit, tree, limit).await
    }

    async fn tool(&self, unit: &Name, tree: &Tree, tool: Tool, args: &[&str]) -> Result<(), DriverError> {
        self.run_unit(&Self::once(unit, Runs::Tool { tree: tree.clone(), tool }, args)).await?;
        self.ended(unit, tree, TOOL).await
    }

    /// Waits for the end of what runs once; what it said where that was no good end.
    async fn ended(&self, unit: &Name, tree: &Tree, limit: Duration) -> Result<(), DriverError> {
        let ended = self.await_unit(unit, limit, |state| matches!(state, UnitState::Exited { .. })).await?;
        self.forget_unit(unit).await?;
        if matches!(ended, UnitState::Exited { code: Some(0), .. }) {
            return Ok(());
        }
        let said = std::fs::read_to_string(self.tree_dir(tree).join("log/stderr.log")).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(3).collect();
        let message = format!("a check or a step of bringing back failed ({ended:?}): {}", said.join(" "));
        Err(DriverError::Refused(Condition { kind: ConditionKind::RestoreFailed, message }))
    }
}

/// How replaying went wrong.
enum Replay {
    /// There is nothing behind the moment.
    Ended,
    Failed(DriverError),
}

impl From<DriverError> for Replay {
    fn from(error: DriverError) -> Self {
        Self::Failed(error)
    }
}

impl Replay {
    fn into_error(self) -> DriverError {
        match self {
            Self::Ended => unavailable("the end of the log was not found"),
            Self::Failed(error) => error,
        }
    }
}

/// Settings of a server that replays its log and then is a server again. It takes no sessions meanwhile, so that no
/// setting of the server that it was has to be known; a crash on the way means another beginning, so nothing waits for
/// the disk.
fn recovery(until: Until) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("restore_command", "sh /stead/conf/restore.sh %f %p".to_owned()),
        ("recovery_target_timeline", "current".to_owned()),
        ("recovery_target_action", "promote".to_owned()),
        ("hot_standby", "off".to_owned()),
        ("fsync", "off".to_owned()),
        ("autovacuum", "off".to_owned()),
        ("shared_buffers", "128MB".to_owned()),
        ("max_wal_size", "4GB".to_owned()),
    ];
    if let Until::Moment(at) = until {
        settings.push(("recovery_target_time", spelt(at)));
    }
    settings
}

/// As PostgreSQL reads it, to the microsecond.
fn spelt(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// A socket that whoever gets as far as the tree may connect to: who it is is asked of the kernel.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Written whole before it has its name.
fn put(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let draft = folder.join(".next");
    std::fs::write(&draft, bytes)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(draft, folder.join(name))
}

/// What Stead adds to a backup: PostgreSQL's manifest, the wish to be recovered, and no settings of the server's own.
fn appended(manifest: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8]); 3] =
        [("backup_manifest", manifest), ("recovery.signal", b""), ("postgresql.auto.conf", b"")];
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, text)?;
    }
    tar.into_inner()
}
