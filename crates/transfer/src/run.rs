//! The process of a transfer: reads its server for as long as there is one, and says how it stands.
//!
//! A stream has two halves that know nothing of each other. One takes changes from the slot and appends them; the other
//! copies tables that are new and merges what the first has appended. Each has a session of its own, and whichever fails,
//! both begin again from what server and lake say.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::change::Relation;
use crate::current::{Current, Newer};
use crate::damage::{self, Asked};
use crate::elsewhere::Meant;
use crate::explain;
use crate::lake::{LakeTable, Writer, place, place_of_changes};
use crate::memory::{Beginning, Memory};
use crate::place::Place;
use crate::settling::Settling;
use crate::slot::{SlotState, Unpublished};
use crate::status::Board;
use crate::stream::{self, Stopped, Stream};
use crate::way::Way;
use crate::wire::{Cursor, Elsewhere, Left, Mode, Settings, TableState};
use crate::{Error, Keep, Lsn, Publication, Slot, Snapshot, Source};

/// Between two looks at whether the server has written anything.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks for tables that are new, and at how the slot stands.
const TABLES: Duration = Duration::from_secs(2);
/// Between two times that the server is let go of a log that holds nothing for this transfer.
const LET_GO: Duration = Duration::from_secs(5);
/// Changes that are merged before their time, as questions to the lake would feel them; and while there are more to come,
/// as each merge rewrites what the next one does.
const MANY: usize = 50_000;
const VERY_MANY: usize = 400_000;
/// Between two times that small files are made large ones, and that files are removed which no version needs.
const TIDY: Duration = Duration::from_secs(60);
const VACUUM: Duration = Duration::from_secs(60 * 60);
/// Until that is done for the first time.
const FIRST_VACUUM: Duration = Duration::from_secs(5 * 60);
/// Until a table is looked at again that could not be copied yet.
const SOON: Duration = Duration::from_secs(1);
/// Until a server that does not answer is tried again: so long at first, and at most so long.
const AGAIN: Duration = Duration::from_millis(200);
const AT_MOST: Duration = Duration::from_secs(5);

/// How long a server elsewhere may take to let in.
const CONNECT: Duration = Duration::from_secs(30);
/// How long it is tried to take away what is of a transfer there.
const LEAVE: Duration = Duration::from_secs(30);
/// What whoever operates the server should know.
const UNLIMITED: &str = "the server's `max_slot_wal_keep_size` is -1: it keeps its log for this transfer without limit, also \
                         while that is paused or this host is down; have it set, like `alter system set \
                         max_slot_wal_keep_size = '20GB'`";

/// Goes by the settings of a file until it is told to stop.
///
/// # Errors
/// When the settings cannot be read, or are none. Whatever happens later is said in the status, and tried again.
pub async fn run(settings: &Path, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let wrong = |source| Error::File { path: settings.to_owned(), source };
    let text = std::fs::read(settings).map_err(wrong)?;
    let settings: Settings = serde_json::from_slice(&text).map_err(|error| wrong(error.into()))?;
    let transfer = Arc::new(Transfer::new(settings)?);
    tokio::select! {
        () = transfer.board.clone().write_down(transfer.settings.status.clone()) => {}
        () = transfer.work() => {}
        () = stop => {}
    }
    Ok(())
}

struct Transfer {
    settings: Settings,
    lake: Place,
    slot: Slot,
    publication: Publication,
    board: Board,
    /// So many changes wait for a merge that questions to the lake would feel it.
    hurry: Notify,
    /// Up to where the changes of a table are in it.
    merged: Mutex<HashMap<String, Lsn>>,
    /// When files are removed next that no version needs.
    vacuum_at: Mutex<Instant>,
}

impl Transfer {
    fn new(settings: Settings) -> Result<Self, Error> {
        let lake = Place::of(&settings)?;
        let strange = |bad: crate::BadName| Error::Strange(bad.to_string());
        let slot = settings.role.parse().map_err(strange)?;
        let publication = settings.role.parse().map_err(strange)?;
        let board = Board::new(settings.asked);
        Ok(Self {
            settings,
            lake,
            slot,
            publication,
            board,
            hurry: Notify::new(),
            merged: Mutex::default(),
            vacuum_at: Mutex::new(Instant::now() + FIRST_VACUUM),
        })
    }

    fn keep(&self) -> Keep {
        let Settings { keep_ms, keep_changes_ms, .. } = self.settings;
        Keep { versions: Duration::from_millis(keep_ms), changes: keep_changes_ms.map(Duration::from_millis) }
    }

    /// How often a table was asked for.
    fn asked(&self, table: &str) -> u32 {
        self.settings.table_resyncs.get(table).copied().unwrap_or_default()
    }

    fn merged(&self, table: &str) -> Lsn {
        let merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        merged.get(table).copied().unwrap_or(Lsn::from(0))
    }

    fn is_merged(&self, table: String, to: Lsn) {
        self.merged.lock().unwrap_or_else(PoisonError::into_inner).insert(table, to);
    }

    /// Whether files are to be removed now that no version needs.
    fn is_time_to_vacuum(&self) -> bool {
        let mut at = self.vacuum_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = *at <= Instant::now();
        if is_time {
            *at = Instant::now() + VACUUM;
        }
        is_time
    }

    async fn work(self: &Arc<Self>) {
        match &self.settings.elsewhere {
            Some(elsewhere) if elsewhere.leaves => self.leave(elsewhere).await,
            _ => self.again_and_again().await,
        }
    }

    /// Takes away what is of it in a server elsewhere, or gives up; what came of it is said until it is ended.
    async fn leave(&self, elsewhere: &Elsewhere) {
        let began = Instant::now();
        let mut wait = AGAIN;
        let left = loop {
            let left = async { self.connect().await?.leave().await };
            let why = match tokio::time::timeout(LEAVE, left).await {
                Ok(Ok(())) => break Left::Nothing,
                Ok(Err(error)) => explain::told(&error, Some(elsewhere)),
                Err(_) => "it does not answer".to_owned(),
            };
            if began.elapsed() > LEAVE {
                break Left::Remains(format!(
                    "the replication slot {slot} may be left at {}, which then keeps its log for it and fills its disk: run \
                     `select pg_drop_replication_slot('{slot}'); drop publication if exists {}` there, in its database {} \
                     ({why})",
                    elsewhere.host,
                    self.publication,
                    self.settings.database,
                    slot = self.slot,
                ));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AT_MOST);
        };
        self.board.left(left);
        std::future::pending::<()>().await;
    }

    async fn again_and_again(self: &Arc<Self>) {
        let mut wait = AGAIN;
        loop {
            let began = Instant::now();
            let ended = match &self.settings.mode {
                Mode::Stream => self.follow().await,
                Mode::Snapshot => self.at_intervals(None).await,
                Mode::Query(cursor) => self.at_intervals(Some(cursor)).await,
            };
            let Err(error) = ended.map_err(|error| self.lake.known(error));
            if began.elapsed() > AT_MOST * 2 {
                wait = AGAIN;
            }
            let told = explain::told(&error, self.settings.elsewhere.as_ref());
            tracing::warn!(error = told, "the transfer does not go on");
            let stopped = matches!(error, Error::Stopped(_));
            self.board.trouble(Some(told), stopped);
            if stopped {
                // Only another declaration helps, and that is another process.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AT_MOST);
        }
    }

    async fn connect(&self) -> Result<Source, Error> {
        let way = Way::of(&self.settings)?;
        let connect = Source::connect(way, self.slot.clone(), self.publication.clone());
        let elsewhere = self.settings.elsewhere.as_ref();
        let meant = elsewhere.map(|elsewhere| Meant::new(elsewhere, &self.settings.mode));
        let mut source = match meant {
            None => connect.await?,
            Some(meant) => {
                // Over the network a server can be silent for ever.
                let silent = |_| Error::Unreachable("it does not answer".to_owned());
                let source = tokio::time::timeout(CONNECT, connect).await.map_err(silent)??;
                source.elsewhere(meant)
            }
        };
        source.leave_out(self.settings.parts.clone());
        Ok(source)
    }

    /// Every change, and the tables as they are.
    async fn follow(self: &Arc<Self>) -> Result<Infallible, Error> {
        let source = self.connect().await?;
        if let Some(meant) = &source.meant {
            source.check(meant).await?;
            // What a slot tells of is published by what was there when it was made.
            self.tables(&source).await?;
        }
        let memory = self.begin(&source).await?;
        self.board.trouble(None, false);
        let (tell, told) = watch::channel(self.tables(&source).await?.0);
        // Each on its own, so that a copy keeps no change waiting; whichever ends, the other does with it.
        let mut halves = JoinSet::new();
        halves.spawn(Arc::clone(self).take_changes(source, memory.clone(), tell));
        halves.spawn(Arc::clone(self).keep_current(memory, told));
        match halves.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Err(Error::Strange(format!("a half of it ended: {error}"))),
            None => Err(Error::Strange("it has no halves".to_owned())),
        }
    }

    /// Makes the slot, or finds that it is still the one that the lake goes by.
    async fn begin(&self, source: &Source) -> Result<Memory, Error> {
        let path = &self.settings.memory;
        let mut memory = Memory::read(path)?;
        let (history, mut slot) = (source.history().await?, source.slot().await?);
        if let Some(is) = slot.filter(|is| !is.is_lost && self.settings.resyncs <= memory.resyncs) {
            let is = self.bounded(source, is).await?;
            self.board.slot(&is, is.end <= is.confirmed);
            slot = Some(is);
        }
        // After what is kept was looked at: a lake that does not answer must not fill the server's disk.
        if let Err(error) = self.lake.claim(&self.settings, &mut memory).await {
            if matches!(error, Error::Stopped(_)) {
                // Nothing goes on from where it is.
                source.drop_slot().await?;
            }
            return Err(error);
        }
        match memory.beginning(&history, slot.as_ref(), self.settings.resyncs) {
            Beginning::Stopped(why) => return Err(Error::Stopped(why)),
            Beginning::GoOn => {}
            Beginning::Anew => {
                if slot.is_some() {
                    source.drop_slot().await?;
                }
                let (resyncs, claimed) = (self.settings.resyncs, memory.claimed);
                memory = Memory { history: Some(history), resyncs, claimed, ..Memory::default() };
                // Noted first: a slot that is found then is its own, however it ends meanwhile.
                memory.write(path)?;
                source.make_slot().await?;
            }
        }
        if !memory.slot {
            memory.slot = true;
            memory.write(path)?;
        }
        Ok(memory)
    }

    /// How the slot stands, with a limit of the transfer's own in a server elsewhere that has none: beyond it the slot is
    /// dropped, because its reader must not fill a disk that is somebody else's.
    async fn bounded(&self, source: &Source, slot: SlotState) -> Result<SlotState, Error> {
        let Some(Elsewhere { most_kept_bytes, .. }) = &self.settings.elsewhere else { return Ok(slot) };
        let own = slot.room.is_none();
        self.board.remark(own.then(|| UNLIMITED.to_owned()));
        if own && slot.kept > *most_kept_bytes {
            source.drop_slot().await?;
            return Err(Error::Stopped(format!(
                "the server kept {} MiB of log for it, more than it should, and was let go of it: changes since then cannot be \
                 had any more; `stead resync` copies everything anew",
                slot.kept / (1024 * 1024)
            )));
        }
        let room = slot.room.or_else(|| Some(most_kept_bytes.saturating_sub(slot.kept)));
        Ok(SlotState { room, ..slot })
    }

    /// The tables that are meant and published; the others are told.
    async fn tables(&self, source: &Source) -> Result<(Vec<Relation>, Vec<Unpublished>), Error> {
        let unpublished = source.publish().await?;
        let tables = source.tables().await?;
        let names: Vec<String> = tables.iter().map(Relation::full_name).collect();
        self.board.all(names.iter().map(String::as_str), &unpublished);
        Ok((tables, unpublished))
    }

    fn writer(&self, memory: &Memory, relation: &Relation) -> Writer {
        Writer { name: format!("{}/{}", self.settings.name, relation.full_name()), epoch: memory.epoch() }
    }

    /// Opens a table as it is; answers too how often it was asked for.
    async fn current(&self, memory: &Memory, relation: &Relation) -> Result<(Current, u32), Error> {
        let place = place(&self.lake, &relation.schema, &relation.name);
        let count = self.asked(&relation.full_name());
        let asked = Asked { epoch: memory.epoch(), count };
        let opening = Current::open(&place, self.writer(memory, relation), relation.clone());
        Ok((damage::open(&place, &asked, opening).await?, count))
    }

    /// The server, the bucket, and whoever writes the same lake, are everybody's trouble; a table's is its own.
    fn stands(&self, table: &str, error: Error) -> Result<(), Error> {
        let error = self.lake.known(error);
        if matches!(error, Error::Source(_) | Error::Bucket(_) | Error::Fenced { .. } | Error::Ended(_)) {
            return Err(error);
        }
        let why = explain::told(&error, self.settings.elsewhere.as_ref());
        tracing::warn!(table, why, "the table stands still");
        let why = if matches!(error, Error::Damaged { .. }) { anew(table, &why) } else { why };
        self.board.stands(table, why);
        Ok(())
    }

    async fn take_changes(
        self: Arc<Self>,
        source: Source,
        memory: Memory,
        tell: watch::Sender<Vec<Relation>>,
    ) -> Result<Infallible, Error> {
        let settings = stream::Settings {
            transfer: self.settings.name.clone(),
            epoch: memory.epoch(),
            lake: self.lake.clone(),
            asked: self.settings.table_resyncs.clone(),
        };
        let mut stream = Stream::new(self.connect().await?, settings);
        let tables = tell.borrow().clone();
        stream.begin(&tables).await?;
        let halt = |name: &str, why: &str| self.board.halt(name, anew(name, why));
        let halt_all = |stopped: &[Stopped]| {
            for Stopped { schema, table, why, .. } in stopped {
                halt(&format!("{schema}.{table}"), why);
            }
        };
        for relation in &tables {
            if let Some(why) = stream.stopped(relation).await? {
                halt(&relation.full_name(), &why);
            }
        }
        let (mut seen, mut looked, mut let_go) = (Lsn::from(0), Instant::now(), Instant::now());
        let mut tidied = Instant::now();
        let (mut unmerged, mut settling) = (0, Settling::default());
        loop {
            // Nothing is asked of the slot before something was written: it would be gone through from its beginning.
            let end = source.end().await?;
            let mut is_over = true;
            if end != seen {
                loop {
                    let step = stream.step().await?;
                    unmerged += step.rows;
                    is_over = step.transactions == 0;
                    if unmerged > if step.has_more { VERY_MANY } else { MANY } {
                        unmerged = 0;
                        self.hurry.notify_one();
                    }
                    for (table, rows) in &step.tables {
                        self.board.changed(table, *rows);
                    }
                    halt_all(&step.stopped);
                    // Somebody who writes all the while keeps nothing else waiting.
                    if is_over || looked.elapsed() > TABLES || tidied.elapsed() > TIDY {
                        break;
                    }
                }
            }
            if is_over {
                seen = end;
                // What the slot has no transaction of, it need not keep.
                if let_go.elapsed() > LET_GO {
                    stream.let_go(end).await?;
                    let_go = Instant::now();
                }
            }
            if looked.elapsed() > TABLES {
                let (tables, unpublished) = self.tables(&source).await?;
                stream.withhold(&unpublished).await?;
                for relation in &tables {
                    if stream.is_withheld(relation).await? && settling.is_over(&source, relation).await? {
                        stream.resume_at(relation, source.last().await?).await?;
                    }
                }
                tell.send_if_modified(|known| {
                    let differs = *known != tables;
                    if differs {
                        *known = tables;
                    }
                    differs
                });
                match source.slot().await? {
                    Some(slot) if slot.is_lost => return Err(Error::Strange("its slot was lost".to_owned())),
                    Some(slot) => {
                        let slot = self.bounded(&source, slot).await?;
                        self.board.slot(&slot, slot.end <= seen);
                    }
                    None => return Err(Error::Strange("its slot was dropped".to_owned())),
                }
                looked = Instant::now();
            }
            if tidied.elapsed() > TIDY {
                let tables = tell.borrow().clone();
                halt_all(&stream.tidy(self.keep(), &tables, |table| self.merged(table)).await?);
                tidied = Instant::now();
            }
            if is_over {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Keeps the tables as they are in the server.
    async fn keep_current(
        self: Arc<Self>,
        memory: Memory,
        mut told: watch::Receiver<Vec<Relation>>,
    ) -> Result<Infallible, Error> {
        let mut source = self.connect().await?;
        let every = Duration::from_millis(self.settings.every_ms);
        let mut settling = Settling::default();
        loop {
            let mut due = Instant::now() + every;
            self.lake.is_claimed(&self.settings.name).await?;
            let mut changes = HashMap::new();
            let known = told.borrow_and_update().clone();
            for relation in known.into_iter().filter(|relation| !self.board.is_halted(&relation.full_name()))
            {
                let (name, writer) = (relation.full_name(), self.writer(&memory, &relation));
                let place = place_of_changes(&self.lake, &relation.schema, &relation.name);
                match LakeTable::open_changes(&place, writer, &relation).await {
                    Ok(opened) => drop(changes.insert(name, opened)),
                    Err(error) => self.stands(&name, error)?,
                }
            }
            let vacuums = self.is_time_to_vacuum();
            // After the changes were looked at: so it is known of every one how its table was declared.
            for relation in source.tables().await? {
                let name = relation.full_name();
                let Some(changes) = changes.get(&name) else { continue };
                let done = self
                    .bring_up_to_date(&memory, &mut source, &mut settling, relation, changes, vacuums)
                    .await;
                match done {
                    Ok(true) => {}
                    Ok(false) => due = due.min(Instant::now() + SOON),
                    Err(error) => self.stands(&name, error)?,
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                changed = told.changed() => if changed.is_err() {
                    // The other half has ended; this one ends with it.
                    std::future::pending::<()>().await;
                },
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Copies a table that was never copied, or has become what changes cannot make of it; merges its changes otherwise.
    /// Answers whether that could be done now.
    async fn bring_up_to_date(
        &self,
        memory: &Memory,
        source: &mut Source,
        settling: &mut Settling,
        relation: Relation,
        changes: &LakeTable,
        vacuums: bool,
    ) -> Result<bool, Error> {
        let name = relation.full_name();
        if self.board.is_halted(&name) {
            // It is what it was when it stopped.
            return Ok(true);
        }
        let (mut current, asked) = self.current(memory, &relation).await?;
        if !current.ask(asked)? && !current.was_never_copied()? {
            let merged = async {
                while current.merge(changes).await? && current.position() < Lsn::from(changes.position().lsn)
                {
                }
                Ok(())
            };
            match merged.await {
                Ok(()) => {
                    self.board.is(&name, TableState::Following);
                    self.is_merged(name, current.position());
                    current.tidy(self.keep()).await?;
                    if vacuums {
                        let files =
                            current.vacuum(self.keep()).await? + changes.vacuum(self.keep().versions).await?;
                        tracing::info!(files, "removed what no version needs");
                    }
                    return Ok(true);
                }
                Err(Error::CopyAnew { why, .. }) => tracing::info!(table = name, why, "is copied anew"),
                Err(error) => return Err(error),
            }
        }
        if !settling.is_over(source, &relation).await? {
            self.board.waits(
                &name,
                "a transaction writes it that began before its changes were read; it is copied then",
            );
            return Ok(false);
        }
        current.tell(self.board.copies(&name));
        let snapshot = source.snapshot_of(&relation).await?;
        let rows = current.copy(&snapshot).await?;
        drop(snapshot);
        self.board.copied(&name, rows, TableState::Following);
        tracing::info!(table = name, rows, "copied");
        Ok(true)
    }

    /// All tables of one moment, or what of them is newer than what was read, again and again.
    async fn at_intervals(&self, cursor: Option<&Cursor>) -> Result<Infallible, Error> {
        let every = Duration::from_millis(self.settings.every_ms);
        loop {
            let mut memory = Memory::read(&self.settings.memory)?;
            self.board.as_of(memory.copied_at);
            let age = memory.copied_at.map(|at| Timestamp::now().duration_since(at));
            let age = age.map(|age| Duration::try_from(age).unwrap_or_default());
            if memory.resyncs >= self.settings.resyncs
                && memory.asked >= self.settings.asked
                && let Some(left) = age.and_then(|age| every.checked_sub(age))
            {
                tokio::time::sleep(left).await;
                continue;
            }
            let mut source = self.connect().await?;
            if let Some(meant) = &source.meant {
                source.check(meant).await?;
            }
            self.tables(&source).await?;
            self.lake.claim(&self.settings, &mut memory).await?;
            let history = source.history().await?;
            // Rows that a restored server no longer has are in the lake for good where only newer ones are asked for.
            if cursor.is_some()
                && let Beginning::Stopped(why) =
                    memory.beginning_without_slot(&history, self.settings.resyncs)
            {
                return Err(Error::Stopped(why));
            }
            memory.history = Some(history);
            (memory.resyncs, memory.asked) = (self.settings.resyncs, self.settings.asked);
            let at = Timestamp::now();
            let snapshot = source.snapshot().await?;
            self.board.trouble(None, false);
            let vacuums = self.is_time_to_vacuum();
            for relation in snapshot.tables().to_vec() {
                let name = relation.full_name();
                match self.read(&memory, &snapshot, relation, cursor, vacuums).await {
                    Ok(Newer::Copied(rows)) => self.board.copied(&name, rows, TableState::Copied),
                    Ok(Newer::Rows(rows)) => {
                        self.board.is(&name, TableState::Copied);
                        self.board.changed(&name, rows);
                    }
                    Err(error) => self.stands(&name, error)?,
                }
            }
            memory.copied_at = Some(at);
            memory.write(&self.settings.memory)?;
        }
    }

    async fn read(
        &self,
        memory: &Memory,
        snapshot: &Snapshot<'_>,
        relation: Relation,
        cursor: Option<&Cursor>,
        vacuums: bool,
    ) -> Result<Newer, Error> {
        let tell = self.board.copies(&relation.full_name());
        let (mut current, asked) = self.current(memory, &relation).await?;
        current.tell(tell);
        current.ask(asked)?;
        let read = match cursor {
            Some(cursor) => current.read_newer(snapshot, cursor).await?,
            None => Newer::Copied(current.copy(snapshot).await?),
        };
        current.tidy(self.keep()).await?;
        if vacuums {
            current.vacuum(self.keep()).await?;
        }
        Ok(read)
    }
}

/// What to do where a table cannot go on.
fn anew(table: &str, why: &str) -> String {
    format!("{why}; `stead resync --table {table}` copies it anew")
}
