//! One server whose data are kept: its log streamed while it runs, a base backup when one is due, and what is no
//! longer kept removed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::archive::{About, Base, FORMAT, Piece};
use crate::inventory::{self, Inventory};
use crate::replication::Session;
use crate::seal::Sealer;
use crate::stream::{SLOT, Stream, Watch};
use crate::wire::{BaseStatus, Server, Settings, Status, Trouble};
use crate::{Error, Lsn, Objects, base, fail_point};

/// Between two looks at a server that is not there.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at whether the last is stored.
const FINISH_LOOK: Duration = Duration::from_millis(10);
/// From how long on an attempt that failed is repeated; doubling, to half a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A backup that is due is not made where the server has written less than this since the last one: replaying so
/// little is quicker than copying a cluster.
const WORTH: u64 = 1024 * 1024;
/// Seconds between a backup and one that is made because there is a gap behind it.
const AFTER_GAP: u64 = 60;
/// What an abandoned backup left is somebody's who is still at it for so long.
const ABANDONED: SignedDuration = SignedDuration::from_hours(24);

/// What all servers of a host share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) objects: Objects,
    pub(crate) keeper: keeper::Client,
    /// Base backups at once: each keeps a core busy.
    pub(crate) backups: Semaphore,
}

/// A server whose data are kept.
pub(crate) struct Keeping {
    shared: Arc<Shared>,
    server: Server,
    sealer: Sealer,
    state: Mutex<State>,
    /// A backup was asked for.
    wanted: Notify,
    /// Somebody wants it looked at now.
    pub(crate) nudged: Notify,
    /// Somebody wants what has come stored now.
    flushed: Notify,
}

#[derive(Default)]
struct State {
    /// What the store holds, once it has been listed.
    inventory: Option<Inventory>,
    streaming: bool,
    drained: bool,
    stored: Lsn,
    stored_at: Option<Timestamp>,
    written: Lsn,
    /// Once the log is stored up to there, all that was committed before that moment is.
    marks: Vec<(Timestamp, Lsn)>,
    complete_to: Option<Timestamp>,
    trouble: Option<Trouble>,
    /// A backup was asked for and not begun yet.
    backup_wanted: bool,
    /// The last attempt at a backup failed then.
    backup_failed: Option<Timestamp>,
    /// What the last backup replaced is removed then.
    prune_at: Option<Timestamp>,
}

impl State {
    /// What was waited for and is stored by now is known to be.
    fn settle(&mut self) {
        let (stored, mut complete_to) = (self.stored, self.complete_to);
        self.marks.retain(|(at, lsn)| {
            let waits = *lsn > stored;
            if !waits {
                complete_to = complete_to.max(Some(*at));
            }
            waits
        });
        self.complete_to = complete_to;
    }
}

impl Keeping {
    pub(crate) fn new(shared: Arc<Shared>, server: Server) -> Result<Arc<Self>, String> {
        let sealer =
            Sealer::parse(&server.recipient).ok_or_else(|| "its `recipient` is no public key".to_owned())?;
        let (wanted, nudged, flushed) = (Notify::new(), Notify::new(), Notify::new());
        Ok(Arc::new(Self { shared, server, sealer, state: Mutex::default(), wanted, nudged, flushed }))
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub(crate) fn status(&self) -> Status {
        let state = self.state();
        let inventory = state.inventory.as_ref();
        let bases = inventory.map(|found| found.bases.iter()).into_iter().flatten();
        Status {
            archive: self.server.archive,
            streaming: state.streaming,
            drained: state.drained,
            stored: state.stored,
            stored_at: state.stored_at,
            complete_to: state.complete_to,
            behind_bytes: state.written.since(state.stored),
            bases: bases
                .map(|base| BaseStatus {
                    start: base.start,
                    stopped_at: base.stopped_at,
                    bytes: base.stored_bytes(),
                })
                .collect(),
            oldest: inventory.and_then(Inventory::oldest),
            bytes: inventory.map_or(0, |found| found.bytes),
            trouble: state.trouble.clone(),
        }
    }

    /// Has a backup made as soon as the server answers.
    pub(crate) fn want_backup(&self) {
        self.state().backup_wanted = true;
        self.wanted.notify_one();
    }

    /// Has everything stored that is committed by now, and finds out when that is so.
    pub(crate) async fn flush(&self) {
        let at = Timestamp::now();
        // Asked in a session of its own: on the stream the server says only how far it has sent.
        let asked =
            async { Session::open(&self.server.socket_dir, &self.server.user).await?.identify().await };
        match if self.is_ready().await { asked.await.ok() } else { None } {
            Some(system) => {
                let mut state = self.state();
                state.drained = false;
                state.marks.push((at, system.flushed));
                state.settle();
            }
            None => self.at_rest(at),
        }
        self.flushed.notify_one();
        self.nudged.notify_one();
    }

    /// Waits until everything is stored that is committed by now, or the server is not there any more; false where that
    /// does not go on.
    pub(crate) async fn finish(&self) -> bool {
        let began = Timestamp::now();
        self.flush().await;
        loop {
            {
                let state = self.state();
                if state.complete_to.is_some_and(|to| to >= began) {
                    return true;
                }
                if !state.streaming && !self.is_there() {
                    return state.trouble.is_none() && state.marks.is_empty();
                }
            }
            sleep(FINISH_LOOK).await;
        }
    }

    /// A server that is not there has written nothing since its log ended in order.
    fn at_rest(&self, at: Timestamp) {
        let there = self.is_there();
        let mut state = self.state();
        if state.drained && !there {
            state.complete_to = state.complete_to.max(Some(at));
        }
    }

    fn is_there(&self) -> bool {
        self.server.socket_dir.join(".s.PGSQL.5432").exists()
    }

    /// Goes on until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = self.attempt().await;
            self.state().streaming = false;
            match ended {
                Ok(drained) => {
                    pause = FIRST_PAUSE;
                    self.state().drained |= drained;
                    self.wait(LOOK).await;
                }
                Err(error) => {
                    self.troubled(&error);
                    self.wait(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    async fn wait(&self, pause: Duration) {
        tokio::select! { () = sleep(pause) => {}, () = self.nudged.notified() => {} }
    }

    fn troubled(&self, error: &Error) {
        let why = error.to_string();
        let mut state = self.state();
        if state.trouble.as_ref().is_none_or(|trouble| trouble.why != why) {
            tracing::warn!(archive = %self.server.archive, why, "an archive does not go on; trying again");
        }
        let since = state.trouble.as_ref().map_or_else(Timestamp::now, |trouble| trouble.since);
        state.trouble = Some(Trouble { why, since });
    }

    /// One session: true where the server has stopped in order and all of its log is stored.
    async fn attempt(&self) -> Result<bool, Error> {
        if self.state().inventory.is_none() {
            self.take_stock().await?;
        }
        if !self.is_ready().await {
            return Ok(false);
        }
        // Also where this attempt fails, and it runs and stops again before the next.
        self.state().drained = false;
        let mut session = Session::open(&self.server.socket_dir, &self.server.user).await?;
        let system = session.identify().await?;
        let segment_bytes = self.introduce(&mut session, &system.identifier).await?;
        let kept = session.slot(SLOT).await?;
        let from = match kept {
            Some(Lsn(0)) => {
                // What it kept was given up so that the disk does not fill: a gap, and a new beginning.
                session.drop_slot(SLOT).await?;
                self.begin(&mut session).await?.floor(segment_bytes)
            }
            // Confirmations may be lost where stored pieces are not; as far as these go without a hole.
            Some(kept) => match self.stored_from(kept) {
                Some(stored) if stored <= system.flushed => stored,
                // Whoever reads a segment reads its head first.
                _ => kept.floor(segment_bytes),
            },
            None => self.begin(&mut session).await?.floor(segment_bytes),
        };
        {
            let mut state = self.state();
            (state.streaming, state.trouble) = (true, None);
            (state.written, state.stored) = (system.flushed, from);
        }
        let age = Duration::from_millis(self.shared.settings.piece_ms);
        let (objects, archive) = (&self.shared.objects, self.server.archive);
        let stream = Stream {
            objects,
            archive,
            timeline: system.timeline,
            sealer: &self.sealer,
            age,
            flush: &self.flushed,
            followed_until: None,
            watch: self,
        };
        let mut streaming = std::pin::pin!(stream.run(session, from));
        loop {
            tokio::select! {
                ended = &mut streaming => return ended,
                () = self.backup_due() => {
                    // The log goes on meanwhile, or what the backup needs of it would come late.
                    let backup = self.back_up(segment_bytes);
                    tokio::select! { ended = &mut streaming => return ended, () = backup => {} }
                }
                () = self.prune_due() => {
                    tokio::select! { ended = &mut streaming => return ended, () = self.prune() => {} }
                }
            }
        }
    }

    /// Makes a slot, and has a backup made: what was written before cannot be brought back from here on.
    async fn begin(&self, session: &mut Session) -> Result<Lsn, Error> {
        session.make_slot(SLOT).await?;
        fail_point!("archiver::slot-made");
        self.state().backup_wanted = true;
        session.slot(SLOT).await?.ok_or_else(|| Error::Gone("the slot that was made just now".to_owned()))
    }

    /// Up to where the log is stored without a hole, from a position on that is.
    fn stored_from(&self, lsn: Lsn) -> Option<Lsn> {
        let state = self.state();
        let coverage = &state.inventory.as_ref()?.coverage;
        // The end of what is covered is covered no more.
        coverage.reaches(lsn).or_else(|| coverage.reaches(Lsn(lsn.0.checked_sub(1)?)))
    }

    /// Lists what the store holds.
    async fn take_stock(&self) -> Result<(), Error> {
        let found = Inventory::read(&self.shared.objects, self.server.archive).await?;
        let mut state = self.state();
        if let Some(newest) = found.newest {
            (state.stored, state.stored_at) = (newest.to, Some(newest.at));
        }
        state.inventory = Some(found);
        Ok(())
    }

    /// Asked of the keeper first: a server that is just starting would have a process and a line in its log of every
    /// session that is tried.
    async fn is_ready(&self) -> bool {
        if !self.is_there() {
            return false;
        }
        let (keeper, unit) = (self.shared.keeper.clone(), self.server.unit.clone());
        let ready = tokio::task::spawn_blocking(move || keeper.ready(&unit)).await;
        matches!(ready, Ok(Ok(true)))
    }

    /// Has the store know whose archive this is, and makes sure that the server is the one it is of.
    async fn introduce(&self, session: &mut Session, system: &str) -> Result<u64, Error> {
        let (objects, archive) = (&self.shared.objects, self.server.archive);
        let known = inventory::about(objects, archive).await?;
        if let Some(known) = &known
            && known.system != system
        {
            return Err(Error::OtherServer { archive, of: known.system.clone(), is: system.to_owned() });
        }
        let segment = session.show("wal_segment_size").await?;
        let segment_bytes =
            bytes_of(&segment).ok_or_else(|| Error::Server(format!("its segments have {segment}")))?;
        let wanted = About {
            format: FORMAT,
            system: system.to_owned(),
            engine: self.server.engine,
            segment_bytes,
            host: self.shared.settings.host.clone(),
            whose: self.server.whose.clone(),
            control: self.server.control,
            keep: self.server.keep,
            recipient: self.server.recipient.clone(),
            sealed_key: self.server.sealed_key.clone(),
            created_at: known.as_ref().map_or_else(Timestamp::now, |known| known.created_at),
        };
        if known.as_ref() != Some(&wanted) {
            let text = serde_json::to_vec_pretty(&wanted).map_err(std::io::Error::from)?;
            objects.put(&archive.object("archive.json"), text.into()).await?;
            fail_point!("archiver::introduced");
        }
        Ok(segment_bytes)
    }

    /// Until a backup is to be made.
    async fn backup_due(&self) {
        loop {
            let wait = {
                let state = self.state();
                let now = Timestamp::now();
                let newest = state.inventory.as_ref().and_then(|found| found.bases.last());
                let worth = newest.is_none_or(|base| state.written.since(base.end) >= WORTH);
                let after = |at: Timestamp, seconds: u64| {
                    let elapsed = now.duration_since(at).as_secs();
                    Duration::from_secs(seconds.saturating_sub(u64::try_from(elapsed).unwrap_or(0)))
                };
                let failed = state.backup_failed.map_or(Duration::ZERO, |at| after(at, 60));
                // Behind a gap nothing can be brought back until there is a backup that is made after it.
                let gap = newest.is_some_and(|base| {
                    let reached =
                        state.inventory.as_ref().and_then(|found| found.coverage.reaches(base.log_from));
                    state.stored > base.end && reached < Some(state.stored)
                });
                let due = match newest {
                    _ if state.backup_wanted => Duration::ZERO,
                    None => Duration::ZERO,
                    Some(base) if gap => after(base.stopped_at, AFTER_GAP),
                    Some(base) => after(base.stopped_at, self.server.every_s),
                };
                match due.max(failed) {
                    Duration::ZERO if worth || gap || state.backup_wanted => return,
                    // Looked at again when it may have become worth while.
                    Duration::ZERO => Duration::from_secs(60),
                    wait => wait,
                }
            };
            tokio::select! { () = sleep(wait) => {}, () = self.wanted.notified() => {} }
        }
    }

    /// Until what the last backup replaced is to be removed.
    async fn prune_due(&self) {
        let Some(at) = self.state().prune_at else { return std::future::pending().await };
        // What is over already is no wait.
        sleep(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()).await;
        self.state().prune_at = None;
    }

    async fn back_up(&self, segment_bytes: u64) {
        let _turn = self.shared.backups.acquire().await;
        let made = async {
            let mut session = Session::open(&self.server.socket_dir, &self.server.user).await?;
            let (objects, archive) = (&self.shared.objects, self.server.archive);
            base::Target { objects, archive, sealer: &self.sealer, segment_bytes }.make(&mut session).await
        };
        match made.await {
            Ok(base) => {
                let bytes = base.stored_bytes();
                tracing::info!(archive = %self.server.archive, start = %base.start, bytes, "a base backup was made");
                {
                    let mut state = self.state();
                    // While the log goes on there is no trouble but a backup's.
                    (state.backup_failed, state.trouble) = (None, None);
                    state.backup_wanted = false;
                    state.prune_at = Some(Timestamp::now() + inventory::GRACE);
                    let found = state.inventory.get_or_insert_default();
                    found.bytes += bytes;
                    found.bases.push(base);
                }
                // It counts once the log that came with it is stored, which may not wait its turn.
                self.flush().await;
                self.prune().await;
            }
            Err(error) => {
                self.state().backup_failed = Some(Timestamp::now());
                self.troubled(&error);
            }
        }
    }

    /// Removes what no moment that is kept needs.
    async fn prune(&self) {
        if let Err(error) = self.try_prune().await {
            tracing::warn!(archive = %self.server.archive, %error, "what is no longer kept could not be removed");
        }
    }

    async fn try_prune(&self) -> Result<(), Error> {
        let (objects, archive) = (&self.shared.objects, self.server.archive);
        let found = Inventory::bases(objects, archive).await?;
        let now = Timestamp::now();
        let gone = inventory::obsolete(&found.bases, self.server.keep, now);
        let abandoned = found.unfinished.iter().map(|(start, _)| *start).filter(|start| {
            // Older than a backup that is complete and was made long enough ago.
            let newer = found.bases.iter().find(|base| base.start > *start);
            newer.is_some_and(|base| now.duration_since(base.stopped_at) > ABANDONED)
        });
        let mut old = Vec::new();
        for start in gone.iter().copied().chain(abandoned) {
            let folder = archive.object(&Base::folder(start));
            let all = objects.list(&folder, None).await?.into_iter();
            old.extend(all.map(|object| (format!("{folder}/{}", object.name), object.bytes)));
        }
        let first = found.bases.iter().find(|base| !gone.contains(&base.start)).map(|base| base.log_from);
        if let Some(first) = first {
            for timeline in objects.folders(&archive.object("wal")).await? {
                let folder = archive.object(&format!("wal/{timeline}"));
                let pieces = objects.list(&folder, None).await?.into_iter();
                let before = pieces.filter(|o| Piece::parse(&o.name).is_some_and(|piece| piece.to <= first));
                old.extend(before.map(|object| (format!("{folder}/{}", object.name), object.bytes)));
            }
        }
        let (removed, bytes) = (old.len(), old.iter().map(|(_, bytes)| bytes).sum::<u64>());
        inventory::remove(objects, old.into_iter().map(|(name, _)| name).collect()).await?;
        fail_point!("archiver::pruned");
        if removed > 0 {
            tracing::info!(archive = %archive, removed, "objects that are no longer kept were removed");
        }
        // Not listed anew: what is stored meanwhile would be missing from the list.
        if let Some(known) = &mut self.state().inventory {
            known.bases.retain(|base| !gone.contains(&base.start));
            known.bytes = known.bytes.saturating_sub(bytes);
        }
        Ok(())
    }
}

impl Watch for Keeping {
    fn came(&self, _received: Lsn, written: Lsn) {
        let mut state = self.state();
        state.written = state.written.max(written);
    }

    fn stored(&self, piece: &Piece, bytes: u64) {
        let mut state = self.state();
        // Behind a hole nothing counts as stored.
        if piece.from <= state.stored {
            (state.stored, state.stored_at) = (state.stored.max(piece.to), Some(piece.at));
        }
        state.written = state.written.max(piece.to);
        state.settle();
        if let Some(found) = &mut state.inventory {
            found.coverage.add(piece.from, piece.to);
            found.newest = Some(*piece);
            found.bytes += bytes;
        }
    }

    fn wanted(&self) -> Lsn {
        self.state().marks.iter().map(|(_, lsn)| *lsn).max().unwrap_or_default()
    }
}

/// A task that ends with its handle.
pub(crate) struct Running {
    pub(crate) keeping: Arc<Keeping>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(keeping: Arc<Keeping>) -> Self {
        let task = tokio::spawn(Arc::clone(&keeping).run());
        Self { keeping, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `16MB`, as PostgreSQL shows a size.
fn bytes_of(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &shown[digits.len()..] {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "B" | "" => 1,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
