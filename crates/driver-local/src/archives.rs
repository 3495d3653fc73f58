//! Archives of servers: what the archiver is told, and how it says they stand.
//!
//! A tree has an archive of its own, from its making on: `conf/archive.json` says which, and goes where the tree goes.
//! A spare is archived and backed up while it is being prepared, so that the server it becomes can be restored from its
//! first second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use archiver::wire::{Keep, Server, Settings, Status};
use archiver::{ArchiveId, Location, Objects, Whose, Wrapping};
use component::postgres::{ADMIN_ROLE, Backup, Major, Seen, Spec};
use component::status::Backups;
use component::{DriverError, Target, postgres};
use jiff::Timestamp;
use keeper::wire::{Limits, Name, Restart, Runs, Stop, StopSignal, Tree, Unit, Wanted};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Local, Place, fail_point, files};

/// The archiver's unit.
const UNIT: &str = "archiver";
/// The control plane's own server: its unit, and the name that it is declared by.
pub(crate) const CONTROL: &str = "control";
/// How long a spare's first backup may take; a server of a spare without one is backed up when it is somebody's.
const FIRST_BACKUP: Duration = Duration::from_secs(20);
/// How long a server that is about to be stopped, or has been, may take to have all of its log stored.
const LAST_BACKUP: Duration = Duration::from_secs(5);
/// After so long it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(10);
/// What keeps an archive from going on for so long is told.
const TELL_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Where backups go, and what seals their keys.
pub struct BackupStore {
    /// The store, as the operator says it.
    pub location: Location,
    /// The installation's own pair.
    pub wrapping: Wrapping,
    /// The host, as the control plane names it.
    pub host: String,
    /// How long what was written may wait before it is stored.
    pub age: Duration,
}

/// A store in use.
pub(crate) struct InUse {
    pub(crate) objects: Objects,
    pub(crate) wrapping: Wrapping,
}

/// `conf/archive.json` of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfTree {
    pub(crate) archive: ArchiveId,
    pub(crate) recipient: String,
    pub(crate) sealed_key: String,
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Backups(error.to_string())
}

impl Local {
    /// Has every server backed up to a store from now on.
    ///
    /// # Errors
    /// [`Error::Backups`] when the store cannot be opened or the archiver does not start.
    pub async fn back_up_to(&self, store: BackupStore) -> Result<(), Error> {
        let objects = Objects::open(&store.location).map_err(failed)?;
        let piece_ms = u64::try_from(store.age.as_millis()).unwrap_or(u64::MAX);
        let settings = Settings { store: store.location, host: store.host, piece_ms };
        let text = serde_json::to_string(&settings).map_err(failed)?;
        files::write_other(&self.archiver_folder().settings(), &text, 0o600)?;
        // Another store, or another binary, is another declaration: the archiver is started anew. Nobody waits for it.
        let program = self.keeper(|keeper| Ok(keeper.host()?.program)).await.map_err(failed)?;
        let mut env = files::environment();
        env.insert("STEAD_PROGRAM".into(), program);
        if fail::has_failpoints()
            && let Ok(points) = std::env::var("STEAD_ARCHIVER_FAILPOINTS")
        {
            env.insert("FAILPOINTS".into(), points);
        }
        env.insert("STEAD_SETTINGS".into(), format!("{:x?}", Sha256::digest(&text)));
        let unit = Unit {
            name: Name::parse(UNIT).map_err(failed)?,
            generation: 1,
            wanted: Wanted::Running,
            runs: Runs::Archiver,
            args: Vec::new(),
            env,
            limits: Limits::default(),
            stop: Stop { signal: StopSignal::Term, timeout_ms: 10_000 },
            restart: Restart::Always,
            sleeps: false,
        };
        self.ensure(unit).await.map_err(failed)?;
        let _ = self.0.backups.set(InUse { objects, wrapping: store.wrapping });
        self.archive_control().await
    }

    /// The control plane's own server is archived as every other: with it everything else is found again.
    async fn archive_control(&self) -> Result<(), Error> {
        let (Some(in_use), Some((engine, spec))) = (self.0.backups.get(), self.control_spec()) else {
            return Ok(());
        };
        let of = self.own_archive(&Tree::Control, in_use)?;
        let name = Name::parse(CONTROL).map_err(failed)?;
        self.declare_archived(&name, &self.archived(of, &Tree::Control, &name, (engine, spec.backup)))
    }

    fn archiver_folder(&self) -> archiver::Folder {
        archiver::Folder::of(&self.0.home)
    }

    pub(crate) fn archive_of(&self, tree: &Tree) -> Option<OfTree> {
        let text = std::fs::read(self.tree_dir(tree).join("conf/archive.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// A tree's archive; a new one where it has none.
    fn own_archive(&self, tree: &Tree, in_use: &InUse) -> Result<OfTree, Error> {
        if let Some(has) = self.archive_of(tree) {
            return Ok(has);
        }
        let (recipient, key) = archiver::new_key();
        let sealed_key = in_use.wrapping.seal(&key).map_err(failed)?;
        let made = OfTree { archive: ArchiveId::random(), recipient, sealed_key };
        let text = serde_json::to_string(&made).map_err(failed)?;
        files::write_atomically(&self.tree_dir(tree).join("conf/archive.json"), &text, 0o644)?;
        fail_point!("driver-local::archive-named");
        Ok(made)
    }

    /// What is declared of a server.
    fn archived(&self, of: OfTree, tree: &Tree, unit: &Name, (engine, backup): (Major, Backup)) -> Server {
        Server {
            archive: of.archive,
            socket_dir: self.socket_dir(tree),
            unit: unit.clone(),
            user: ADMIN_ROLE.to_owned(),
            engine: engine.get(),
            recipient: of.recipient,
            sealed_key: of.sealed_key,
            every_s: backup.every.as_secs(),
            keep: match backup.keep {
                postgres::Keep::For(seconds) => Keep::Seconds(seconds.into()),
                postgres::Keep::Last(count) => Keep::Backups(count),
            },
            whose: None,
            control: *tree == Tree::Control,
        }
    }

    fn archived_component(&self, of: OfTree, target: &Target, spec: &Spec, place: &Place) -> Server {
        let whose = Whose {
            tenant: target.tenant.to_string(),
            stead: target.stead.to_string(),
            component: target.name.to_string(),
        };
        let server = self.archived(of, &place.tree, &place.unit, (spec.engine, spec.backup));
        Server { whose: Some(whose), ..server }
    }

    fn declare_archived(&self, name: &Name, server: &Server) -> Result<(), Error> {
        let text = serde_json::to_string(server).map_err(failed)?;
        files::write_other(&self.archiver_folder().server(name), &text, 0o600)
    }

    pub(crate) fn forget_archived(&self, name: &Name) -> Result<(), DriverError> {
        match std::fs::remove_file(self.archiver_folder().server(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DriverError::Unavailable(format!("the archiver's file of {name}: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// What is declared of spares that are no more: taken by a driver that was killed just then.
    pub(crate) fn forget_taken_spares(&self) {
        for name in self.archiver_folder().declared_names().unwrap_or_default() {
            let Some(spare) = name.as_str().strip_prefix("spare-").and_then(|name| Name::parse(name).ok())
            else {
                continue;
            };
            if !self.tree_dir(&Tree::Spares(spare)).is_dir() {
                let _ = self.forget_archived(&name);
            }
        }
    }

    /// The name that a component's archive is declared by.
    fn archived_name(place: &Place) -> Result<Name, DriverError> {
        Name::parse(place.handle.clone()).map_err(|error| DriverError::Unavailable(error.to_string()))
    }

    /// What is declared of a component's archive against what shall be.
    pub(crate) fn archive_declared(&self, target: &Target, spec: &Spec, place: &Place) -> Seen {
        if self.0.backups.get().is_none() {
            return Seen::Same;
        }
        let Some(of) = self.archive_of(&place.tree) else { return Seen::Absent };
        let (Ok(name), wanted) =
            (Self::archived_name(place), self.archived_component(of, target, spec, place))
        else {
            return Seen::Absent;
        };
        match std::fs::read(self.archiver_folder().server(&name)) {
            Ok(text) if serde_json::from_slice(&text).is_ok_and(|found: Server| found == wanted) => {
                Seen::Same
            }
            Ok(_) => Seen::Differs,
            Err(_) => Seen::Absent,
        }
    }

    /// Has a component's server archived.
    pub(crate) async fn archive(
        &self,
        target: &Target,
        spec: &Spec,
        place: &Place,
    ) -> Result<(), DriverError> {
        let Some(in_use) = self.0.backups.get() else { return Ok(()) };
        let of = self.own_archive(&place.tree, in_use)?;
        let name = Self::archived_name(place)?;
        self.declare_archived(&name, &self.archived_component(of, target, spec, place))?;
        fail_point!("driver-local::archive-declared");
        // Asking makes the archiver read the file now; one that is down reads it when it comes back.
        let _ = archiver::Client::new(&self.0.home).server(&name).await;
        Ok(())
    }

    /// Has all that a server wrote until `at` stored, as far as that takes no longer than `patience`: how its archive
    /// stands then.
    pub(crate) async fn stored_until(
        &self,
        name: &Name,
        at: Timestamp,
        patience: Duration,
    ) -> std::io::Result<Option<Status>> {
        let client = archiver::Client::new(&self.0.home);
        let until = Instant::now() + patience;
        let mut status = client.flush(name).await?;
        let mut asked = Instant::now();
        while let Some(known) = &status
            && known.complete_to.is_none_or(|to| to < at)
            && Instant::now() < until
        {
            tokio::time::sleep(LOOK).await;
            // Again, where the server was just starting or stopping.
            let again = asked.elapsed() > ASK_AGAIN;
            status = if again { client.flush(name).await? } else { client.server(name).await? };
            asked = if again { Instant::now() } else { asked };
        }
        Ok(status)
    }

    /// Has the archiver catch up with a server that is about to be stopped, and follow it until it has: nothing that
    /// it wrote is left unstored then. One whose archive does not go on is not waited for.
    pub(crate) async fn catch_up(&self, place: &Place) {
        if let Some(status) = self.archive_status(place).await
            && status.streaming
            && let Ok(name) = Self::archived_name(place)
        {
            let _ = self.stored_until(&name, Timestamp::now(), LAST_BACKUP).await;
        }
    }

    /// Waits until all that a server that has stopped ever wrote is stored: whoever removes it may want it back. One
    /// whose archive does not go on is not waited for long.
    pub(crate) async fn last_backup(&self, place: &Place) {
        let until = Instant::now() + LAST_BACKUP;
        while let Some(status) = self.archive_status(place).await
            && status.streaming
            && Instant::now() < until
        {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn unarchive(&self, place: &Place) -> Result<(), DriverError> {
        self.forget_archived(&Self::archived_name(place)?)?;
        fail_point!("driver-local::archive-forgotten");
        Ok(())
    }

    /// How a component's archive stands; `None` where nobody says.
    pub(crate) async fn archive_status(&self, place: &Place) -> Option<Status> {
        self.0.backups.get()?;
        let name = Self::archived_name(place).ok()?;
        archiver::Client::new(&self.0.home).server(&name).await.ok().flatten()
    }

    /// Has a spare that runs backed up for the first time.
    pub(crate) async fn first_backup(
        &self,
        engine: Major,
        tree: &Tree,
        unit: &Name,
    ) -> Result<(), DriverError> {
        let Some(in_use) = self.0.backups.get() else { return Ok(()) };
        let of = self.own_archive(tree, in_use)?;
        self.declare_archived(unit, &self.archived(of, tree, unit, (engine, Backup::default())))?;
        fail_point!("driver-local::spare-archived");
        let client = archiver::Client::new(&self.0.home);
        let until = Instant::now() + FIRST_BACKUP;
        loop {
            let status = client.server(unit).await;
            let why = match status {
                Ok(Some(status)) if status.oldest.is_some() => return Ok(()),
                Ok(Some(Status { trouble: Some(trouble), .. })) => trouble.why,
                Ok(_) => "it takes too long".to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(DriverError::Unavailable(why));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How an archive stands, in the words of a component's status.
pub(crate) fn told(status: &Status, now: Timestamp) -> Backups {
    Backups {
        archive: status.archive.to_string(),
        oldest: status.oldest,
        newest: status.stored_at.max(status.complete_to),
        count: u32::try_from(status.bases.len()).unwrap_or(u32::MAX),
        last: status.bases.last().map(|base| base.stopped_at),
        bytes: status.bytes,
        behind_bytes: status.behind_bytes,
        trouble: status
            .trouble
            .as_ref()
            .filter(|trouble| now.duration_since(trouble.since) > TELL_AFTER)
            .map(|trouble| trouble.why.clone()),
    }
}

/// The variables of the environment that S3 takes.
#[must_use]
pub fn store_options(
    environment: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, secrecy::SecretString> {
    environment
        .into_iter()
        .filter(|(name, _)| name.starts_with("AWS_"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use archiver::Lsn;
    use archiver::wire::Trouble;
    use jiff::ToSpan;

    use super::*;

    #[test]
    fn what_keeps_an_archive_back_is_told_after_a_minute() {
        let now = Timestamp::now();
        let status = |seconds: i64| Status {
            archive: ArchiveId::random(),
            streaming: false,
            drained: false,
            stored: Lsn(0),
            stored_at: Some(now - 90.seconds()),
            complete_to: Some(now - 80.seconds()),
            behind_bytes: 7,
            bases: Vec::new(),
            oldest: None,
            bytes: 0,
            trouble: Some(Trouble { why: "it is full".into(), since: now - seconds.seconds() }),
        };
        assert_eq!(told(&status(59), now).trouble, None);
        let told = told(&status(61), now);
        assert_eq!(told.trouble.as_deref(), Some("it is full"));
        // The newest moment is the newest that is known to be stored.
        assert_eq!(told.newest, Some(now - 80.seconds()));
    }
}
