//! The process of a transfer: reads its server for as long as there is one, and says how it stands.
//!
//! A stream has two halves that know nothing of each other. One takes changes from the slot and appends them; the other
//! copies tables that are new and merges what the first has appended. Each has a session of its own, and whichever fails,
//! both begin again from what server and lake say.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Config;
use url::Url;

use crate::change::Relation;
use crate::current::Current;
use crate::lake::{LakeTable, Writer, place, place_of_changes};
use crate::memory::{Beginning, Memory};
use crate::status::Board;
use crate::stream::{self, Stream};
use crate::wire::{Mode, Settings, TableState};
use crate::{Error, Lsn, Publication, Slot, Source};

/// Between two looks at whether the server has written anything.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks for tables that are new, and at how the slot stands.
const TABLES: Duration = Duration::from_secs(2);
/// Between two times that the server is let go of a log that holds nothing for this transfer.
const LET_GO: Duration = Duration::from_secs(5);
/// Changes that are merged before their time.
const MANY: usize = 20_000;
/// Until a server that does not answer is tried again: so long at first, and at most so long.
const AGAIN: Duration = Duration::from_millis(200);
const AT_MOST: Duration = Duration::from_secs(5);

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
        () = transfer.again_and_again() => {}
        () = stop => {}
    }
    Ok(())
}

struct Transfer {
    settings: Settings,
    lake: Url,
    slot: Slot,
    publication: Publication,
    board: Board,
    /// So many changes wait for a merge that questions to the lake would feel it.
    hurry: Notify,
}

impl Transfer {
    fn new(settings: Settings) -> Result<Self, Error> {
        let lake = Url::from_directory_path(&settings.lake)
            .map_err(|()| Error::Strange(format!("{} is no folder", settings.lake.display())))?;
        let strange = |bad: crate::BadName| Error::Strange(bad.to_string());
        let slot = settings.role.parse().map_err(strange)?;
        let publication = settings.role.parse().map_err(strange)?;
        Ok(Self { settings, lake, slot, publication, board: Board::new(), hurry: Notify::new() })
    }

    async fn again_and_again(self: &Arc<Self>) {
        let mut wait = AGAIN;
        loop {
            let began = Instant::now();
            let ended = match self.settings.mode {
                Mode::Stream => self.follow().await,
                Mode::Snapshot => self.copy_all().await,
            };
            let Err(error) = ended;
            if began.elapsed() > AT_MOST * 2 {
                wait = AGAIN;
            }
            tracing::warn!(error = told(&error), "the transfer does not go on");
            let stopped = matches!(error, Error::Stopped(_));
            self.board.trouble(Some(told(&error)), stopped);
            if stopped {
                // Only another declaration helps, and that is another process.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AT_MOST);
        }
    }

    async fn connect(&self) -> Result<Source, Error> {
        let Settings { socket_dir, database, role, password, .. } = &self.settings;
        let mut config = Config::new();
        config.host_path(socket_dir).dbname(database).user(role).password(password.expose_secret());
        Source::connect(config, self.slot.clone(), self.publication.clone()).await
    }

    /// Every change, and the tables as they are.
    async fn follow(self: &Arc<Self>) -> Result<Infallible, Error> {
        let mut source = self.connect().await?;
        let memory = self.begin(&source).await?;
        self.board.trouble(None, false);
        let (tell, told) = watch::channel(self.tables(&mut source).await?);
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
        let (history, slot) = (source.history().await?, source.slot().await?);
        match memory.beginning(&history, slot.as_ref(), self.settings.resyncs) {
            Beginning::Stopped(why) => return Err(Error::Stopped(why)),
            Beginning::GoOn => {}
            Beginning::Anew => {
                if slot.is_some() {
                    source.drop_slot().await?;
                }
                memory =
                    Memory { history: Some(history), resyncs: self.settings.resyncs, ..Memory::default() };
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

    /// The tables that are meant and published; the others are told.
    async fn tables(&self, source: &mut Source) -> Result<Vec<Relation>, Error> {
        let unpublished = source.publish().await?;
        let tables = source.tables().await?;
        let names: Vec<String> = tables.iter().map(Relation::full_name).collect();
        self.board.all(names.iter().map(String::as_str), &unpublished);
        Ok(tables)
    }

    fn writer(&self, memory: &Memory, relation: &Relation) -> Writer {
        Writer { name: format!("{}/{}", self.settings.name, relation.full_name()), epoch: memory.epoch() }
    }

    async fn take_changes(
        self: Arc<Self>,
        mut source: Source,
        memory: Memory,
        tell: watch::Sender<Vec<Relation>>,
    ) -> Result<Infallible, Error> {
        let settings = stream::Settings {
            transfer: self.settings.name.clone(),
            epoch: memory.epoch(),
            lake: self.lake.clone(),
        };
        let mut stream = Stream::new(self.connect().await?, settings);
        let tables = tell.borrow().clone();
        stream.begin(&tables).await?;
        for relation in &tables {
            if let Some(why) = stream.stopped(relation).await? {
                self.board.halt(&relation.full_name(), anew(&why));
            }
        }
        let (mut seen, mut looked, mut let_go) = (Lsn::from(0), Instant::now(), Instant::now());
        let mut unmerged = 0;
        loop {
            // Nothing is asked of the slot before something was written: it would be gone through from its beginning.
            let end = source.end().await?;
            if end != seen {
                loop {
                    let step = stream.step().await?;
                    unmerged += step.rows;
                    if unmerged > MANY {
                        unmerged = 0;
                        self.hurry.notify_one();
                    }
                    for (table, rows) in &step.tables {
                        self.board.changed(table, *rows);
                    }
                    for stopped in &step.stopped {
                        let name = format!("{}.{}", stopped.schema, stopped.table);
                        self.board.halt(&name, anew(&stopped.why));
                    }
                    if step.transactions == 0 {
                        break;
                    }
                }
                seen = end;
                // What the slot has no transaction of, it need not keep.
                if let_go.elapsed() > LET_GO {
                    stream.let_go(end).await?;
                    let_go = Instant::now();
                }
            }
            if looked.elapsed() > TABLES {
                let tables = self.tables(&mut source).await?;
                tell.send_if_modified(|known| {
                    let differs = *known != tables;
                    if differs {
                        *known = tables;
                    }
                    differs
                });
                match source.slot().await? {
                    Some(slot) if slot.is_lost => return Err(Error::Strange("its slot was lost".to_owned())),
                    Some(slot) => self.board.slot(&slot, slot.end <= seen),
                    None => return Err(Error::Strange("its slot was dropped".to_owned())),
                }
                looked = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
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
        loop {
            let due = Instant::now() + every;
            let mut changes = HashMap::new();
            let known = told.borrow_and_update().clone();
            for relation in known {
                let place = place_of_changes(&self.lake, &relation.schema, &relation.name);
                let opened =
                    LakeTable::open_changes(&place, self.writer(&memory, &relation), &relation).await?;
                changes.insert(relation.full_name(), opened);
            }
            // After the changes were looked at: so it is known of every one how its table was declared.
            for relation in source.tables().await? {
                let name = relation.full_name();
                let Some(changes) = changes.get(&name) else { continue };
                match self.bring_up_to_date(&memory, &mut source, relation, changes).await {
                    Ok(()) => {}
                    // The server, and whoever writes the same lake, are everybody's trouble; a table's is its own.
                    Err(error @ (Error::Source(_) | Error::Fenced { .. } | Error::Ended(_))) => {
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::warn!(table = name, %error, "the table stands still");
                        self.board.stands(&name, error.to_string());
                    }
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
    async fn bring_up_to_date(
        &self,
        memory: &Memory,
        source: &mut Source,
        relation: Relation,
        changes: &LakeTable,
    ) -> Result<(), Error> {
        let name = relation.full_name();
        if self.board.is_halted(&name) {
            // It is what it was when it stopped.
            return Ok(());
        }
        let place = place(&self.lake, &relation.schema, &relation.name);
        let mut current = Current::open(&place, self.writer(memory, &relation), relation.clone()).await?;
        if !current.was_never_copied()? {
            let merged = async {
                while current.merge(changes).await? && current.position() < Lsn::from(changes.position().lsn)
                {
                }
                Ok(())
            };
            match merged.await {
                Ok(()) => {
                    self.board.is(&name, TableState::Following);
                    return Ok(());
                }
                Err(Error::CopyAnew { why, .. }) => tracing::info!(table = name, why, "is copied anew"),
                Err(error) => return Err(error),
            }
        }
        current.tell(self.board.copies(&name));
        let snapshot = source.snapshot_of(&relation).await?;
        let rows = current.copy(&snapshot).await?;
        drop(snapshot);
        self.board.copied(&name, rows, TableState::Following);
        tracing::info!(table = name, rows, "copied");
        Ok(())
    }

    /// All tables of one moment, again and again.
    async fn copy_all(&self) -> Result<Infallible, Error> {
        let every = Duration::from_millis(self.settings.every_ms);
        loop {
            let mut memory = Memory::read(&self.settings.memory)?;
            let age = memory.copied_at.map(|at| Timestamp::now().duration_since(at));
            let age = age.map(|age| Duration::try_from(age).unwrap_or_default());
            if memory.resyncs >= self.settings.resyncs
                && let Some(left) = age.and_then(|age| every.checked_sub(age))
            {
                tokio::time::sleep(left).await;
                continue;
            }
            let mut source = self.connect().await?;
            let tables = self.tables(&mut source).await?;
            memory.history = Some(source.history().await?);
            memory.resyncs = self.settings.resyncs;
            let snapshot = source.snapshot().await?;
            self.board.trouble(None, false);
            for relation in tables {
                let name = relation.full_name();
                let tell = self.board.copies(&name);
                let place = place(&self.lake, &relation.schema, &relation.name);
                let current = Current::open(&place, self.writer(&memory, &relation), relation).await;
                let copied = match current {
                    Ok(mut current) => {
                        current.tell(tell);
                        current.copy(&snapshot).await
                    }
                    Err(error) => Err(error),
                };
                match copied {
                    Ok(rows) => self.board.copied(&name, rows, TableState::Copied),
                    Err(error @ (Error::Source(_) | Error::Fenced { .. } | Error::Ended(_))) => {
                        return Err(error);
                    }
                    Err(error) => self.board.stands(&name, error.to_string()),
                }
            }
            memory.copied_at = Some(Timestamp::now());
            memory.write(&self.settings.memory)?;
        }
    }
}

/// What to do where a table cannot go on.
fn anew(why: &str) -> String {
    format!("{why}; `stead resync` copies everything anew")
}

/// An error with what it comes from.
fn told(error: &Error) -> String {
    match error {
        Error::Source(source) => match source.as_db_error() {
            Some(said) => format!("the server said: {}", said.message()),
            None => format!("the server does not answer: {}", root(source)),
        },
        other => other.to_string(),
    }
}

fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
