//! A table of the lake that one writer appends to, each batch exactly once.
//!
//! A commit of a batch carries three of Delta's application transactions: `<writer>/seq`, the number of the batch,
//! `<writer>/<epoch>`, the position in the source up to which the table has everything, and `<writer>/note`, which text
//! beside the table counts from then on. delta-rs compares only the *ids*
//! of two commits' transactions, never their versions, so a writer that was away would be let in with an old batch. So
//! here a commit takes the place directly behind the version whose number was read, and is not moved behind another: if
//! that place is taken the number is read again, and if it is not the expected one somebody else writes.
//!
//! An *epoch* is a time during which positions can be compared: that of one slot of one cluster's one timeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{
    Action, Add, LogicalFileView, MetadataExt, Protocol, Remove, StructField, StructType, Transaction,
    new_metadata,
};
use deltalake::logstore::ObjectStoreRef;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError, Path};
use object_store::ObjectStoreExt;
use url::Url;

use crate::change::Relation;
use crate::damage::Look;
use crate::files::{FileRows, Files, Part};
use crate::place::Place;
use crate::{Error, Lsn, fail_point, rows};

/// A writer stops after it has found its place taken so often.
const ATTEMPTS: usize = 10;

/// Where notes are; what begins with an underscore is no part of a Delta table.
pub(crate) const NOTES: &str = "_stead";
/// What a commit is told by, among what Delta's log says of it.
const MARK: &str = "stead";

/// Who writes a table, and since when its positions can be compared.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The transfer and the source's table, as application transactions are called.
    pub name: String,
    /// See above.
    pub epoch: String,
}

/// How far a table has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The number of the last batch, 0 before the first.
    pub seq: i64,
    /// Everything before is there; 0 in a new epoch.
    pub lsn: u64,
    /// Whether nothing was written in this epoch yet: all that is there is of an earlier one.
    pub is_new: bool,
}

/// A table.
pub struct LakeTable {
    table: DeltaTable,
    writer: Writer,
    position: Position,
    /// Columns and properties that it gets with the next commit.
    plan: Option<Plan>,
    place: Place,
}

/// See [`LakeTable::plan`].
#[derive(Debug, Clone)]
struct Plan {
    columns: StructType,
    properties: BTreeMap<String, String>,
}

impl LakeTable {
    /// Opens it, or makes it with these columns; one that is there keeps its own.
    pub async fn open(place: &Place, writer: Writer, fields: Vec<StructField>) -> Result<Self, Error> {
        Self::open_where(place, writer, fields, async || Ok(true)).await
    }

    /// The same, but it is made only where it may be.
    async fn open_where(
        place: &Place,
        writer: Writer,
        fields: Vec<StructField>,
        may_be_made: impl AsyncFnOnce() -> Result<bool, Error>,
    ) -> Result<Self, Error> {
        if let Some(path) = place.folder() {
            std::fs::create_dir_all(&path).map_err(|source| Error::Disk { path, source })?;
        }
        let (mut table, look) = (place.table()?, Look::at(place));
        match table.load().await {
            Ok(()) => {}
            Err(DeltaTableError::NotATable(_)) => {
                let has_files = place.has_files().await?;
                if !has_files && !may_be_made().await? {
                    return Err(Error::Damaged { why: "it is gone, though its table is there".to_owned() });
                }
                // Of two that make it at once, one does.
                let made = if has_files { Ok(()) } else { make(&table, place.url(), fields).await };
                match table.load().await {
                    Ok(()) => {}
                    Err(DeltaTableError::NotATable(_)) if has_files => {
                        return Err(Error::Damaged { why: "it has files and no log of them".to_owned() });
                    }
                    Err(error) => return Err(made.err().unwrap_or_else(|| look.found(error))),
                }
            }
            Err(error) => return Err(look.found(error)),
        }
        let place = place.clone();
        let mut table = Self { table, writer, position: Position::default(), plan: None, place };
        table.position = table.read_position().await?;
        Ok(table)
    }

    /// Whether there is one.
    pub(crate) async fn is_there(place: &Place) -> Result<bool, Error> {
        place.has_log().await
    }

    /// The same, of a table of changes. In a bucket anybody may remove one, and what was not merged yet would be missing
    /// without a word: it is not made where its table is there.
    pub async fn open_changes(place: &Place, writer: Writer, relation: &Relation) -> Result<Self, Error> {
        let table = place.beside(&relation.name);
        let is_alone = async || Ok(place.folder().is_some() || !table.has_log().await?);
        Self::open_where(place, writer, of_changes(relation), is_alone).await
    }

    /// Makes a table of changes, whatever there is of its table.
    pub(crate) async fn begin_changes(
        place: &Place,
        writer: Writer,
        relation: &Relation,
    ) -> Result<Self, Error> {
        Self::open(place, writer, of_changes(relation)).await
    }

    /// Looks at what others have written since.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        self.table.update_state().await?;
        self.position = self.read_position().await?;
        Ok(())
    }

    /// How far it has come, as far as this writer knows.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its columns, as they will be with the next commit.
    pub fn schema(&self) -> Result<SchemaRef, Error> {
        match &self.plan {
            Some(plan) => {
                let schema: Schema = (&plan.columns).try_into_arrow()?;
                Ok(Arc::new(schema))
            }
            None => Ok(self.table.snapshot()?.snapshot().arrow_schema()),
        }
    }

    /// The same, as Delta has them.
    pub(crate) fn columns(&self) -> Result<StructType, Error> {
        Ok(match &self.plan {
            Some(plan) => plan.columns.clone(),
            None => self.table.snapshot()?.snapshot().schema().as_ref().clone(),
        })
    }

    /// What is written beside its columns under a name of ours.
    pub(crate) fn property(&self, name: &str) -> Result<Option<String>, Error> {
        let planned = self.plan.as_ref().and_then(|plan| plan.properties.get(name));
        let known = self.table.snapshot()?.metadata().configuration().get(name);
        Ok(planned.or(known).cloned())
    }

    /// It is to have these columns and this property from the next commit on.
    pub(crate) fn plan(&mut self, columns: StructType, name: &str, property: String) {
        let mut properties = self.plan.take().map(|plan| plan.properties).unwrap_or_default();
        properties.insert(name.to_owned(), property);
        self.plan = Some(Plan { columns, properties });
    }

    /// What was planned is not to be.
    pub(crate) fn forget_plan(&mut self) {
        self.plan = None;
    }

    /// What a commit says of the table itself.
    fn declared(&self) -> Result<Vec<Action>, Error> {
        let Some(plan) = &self.plan else { return Ok(Vec::new()) };
        let state = self.table.snapshot()?;
        let mut metadata =
            state.metadata().clone().with_schema(&plan.columns).map_err(DeltaTableError::from)?;
        for (name, property) in &plan.properties {
            let added = metadata.add_config_key(name.clone(), property.clone());
            metadata = added.map_err(DeltaTableError::from)?;
        }
        Ok(if metadata == *state.metadata() { Vec::new() } else { vec![Action::Metadata(metadata)] })
    }

    async fn read_position(&self) -> Result<Position, Error> {
        let log = self.table.log_store();
        let state = self.table.snapshot()?;
        let seq = state.transaction_version(log.as_ref(), self.seq()).await?.unwrap_or_default();
        // A control of the tests: without the position what comes again is written again.
        fail::fail_point!("transfer::lake.forgetful", |_| Ok(Position { seq, lsn: 0, is_new: false }));
        let lsn = state.transaction_version(log.as_ref(), self.epoch()).await?;
        let is_new = lsn.is_none();
        Ok(Position { seq, lsn: u64::try_from(lsn.unwrap_or_default()).unwrap_or_default(), is_new })
    }

    fn seq(&self) -> String {
        format!("{}/seq", self.writer.name)
    }

    fn noted(&self) -> String {
        format!("{}/note", self.writer.name)
    }

    fn epoch(&self) -> String {
        format!("{}/{}", self.writer.name, self.writer.epoch)
    }

    /// Appends a batch, with which the table has everything before `to`; durable when this returns.
    pub async fn append(&mut self, batch: RecordBatch, to: Lsn) -> Result<(), Error> {
        let adds = self.write(std::iter::once(batch)).await?;
        self.put(Vec::new(), adds, to, None).await
    }

    /// Where its files are kept.
    pub(crate) fn store(&self) -> ObjectStoreRef {
        self.table.object_store()
    }

    /// Writes files that are no part of the table yet.
    pub(crate) async fn write(
        &self,
        batches: impl IntoIterator<Item = RecordBatch>,
    ) -> Result<Vec<Add>, Error> {
        let mut files = Files::new(self.store());
        for batch in batches {
            files.push(&batch).await?;
        }
        files.finish().await
    }

    /// Puts files into the table, in the place of others; durable when this returns. A note goes with it from then on.
    pub(crate) async fn put(
        &mut self,
        gone: Vec<Remove>,
        come: Vec<Add>,
        to: Lsn,
        note: Option<Note>,
    ) -> Result<(), Error> {
        let mut changed: Vec<String> = come.iter().map(|add| add.path.clone()).collect();
        let next = Position { seq: self.position.seq + 1, lsn: to.into(), is_new: false };
        let transactions = vec![
            Transaction::new(self.seq(), next.seq),
            Transaction::new(self.epoch(), i64::try_from(next.lsn).unwrap_or(i64::MAX)),
            Transaction::new(self.noted(), note.map_or(0, |note| note.0)),
        ];
        let removes = gone.into_iter().map(Action::Remove);
        let actions = removes.chain(come.into_iter().map(Action::Add)).collect();
        let version = self.commit(actions, transactions).await?;
        self.plan = None;
        changed.push(format!("_delta_log/{version:020}.json"));
        self.make_durable(changed).await?;
        fail_point!("transfer::lake.committed");
        self.position = next;
        Ok(())
    }

    /// Puts files in the place of others that say the same: how far it has come, and what is noted, stays.
    pub(crate) async fn put_again(&mut self, gone: Vec<Remove>, come: Vec<Add>) -> Result<(), Error> {
        let note = self.noted_now().await?;
        let to = self.position.lsn.into();
        self.put(gone, come, to, note).await
    }

    /// The table, as this writer knows it.
    pub(crate) fn delta(&self) -> &DeltaTable {
        &self.table
    }

    /// The files of the table, as far as this writer knows it.
    pub(crate) fn files(&self) -> Result<Vec<Part>, Error> {
        let state = self.table.snapshot()?;
        let files = state.log_data();
        let part = |file: LogicalFileView| Part {
            path: file.object_store_path(),
            remove: file.remove_action(true),
            stats: file.stats(),
            bytes: u64::try_from(file.size()).unwrap_or_default(),
        };
        Ok(files.iter().map(part).collect())
    }

    /// A file, to be read bit by bit.
    pub(crate) async fn rows(&self, file: &Path) -> Result<FileRows, Error> {
        Ok(FileRows::new(file.clone(), self.get(file).await?))
    }

    /// Reads a file, with the columns that it has.
    pub(crate) async fn read(&self, file: &Path) -> Result<Vec<RecordBatch>, Error> {
        self.rows(file).await?.all()?.collect()
    }

    async fn get(&self, file: &Path) -> Result<Bytes, Error> {
        let look = Look::at(&self.place);
        let found = async { self.table.object_store().get(file).await?.bytes().await };
        found.await.map_err(|error| look.found(error.into()))
    }

    /// What is noted beside the table; nothing where nothing is.
    pub(crate) async fn note(&self) -> Result<Option<(Note, Bytes)>, Error> {
        let Some(note) = self.noted_now().await? else { return Ok(None) };
        Ok(Some((note, self.get(&note.path()).await?)))
    }

    /// Which note counts.
    pub(crate) async fn noted_now(&self) -> Result<Option<Note>, Error> {
        let log = self.table.log_store();
        let noted = self.table.snapshot()?.transaction_version(log.as_ref(), self.noted()).await?;
        Ok(noted.filter(|note| *note != 0).map(Note))
    }

    /// Writes a note, which counts from the commit on that it goes with.
    pub(crate) async fn take_note(&self, text: Vec<u8>) -> Result<Note, Error> {
        let note = Note(rand::random_range(1..=i64::MAX));
        let path = note.path();
        self.table.object_store().put(&path, text.into()).await.map_err(DeltaTableError::from)?;
        self.make_durable(vec![path.to_string(), NOTES.to_owned()]).await?;
        Ok(note)
    }

    async fn commit(&mut self, actions: Vec<Action>, transactions: Vec<Transaction>) -> Result<u64, Error> {
        let mark = format!("{:032x}", rand::random::<u128>());
        for _ in 0..ATTEMPTS {
            self.table.update_state().await?;
            let found = self.read_position().await?.seq;
            if found != self.position.seq && !is_unguarded() {
                let (table, expected) = (self.writer.name.clone(), self.position.seq);
                return Err(Error::Fenced { table, expected, found });
            }
            fail_point!("transfer::lake.checked");
            let properties = CommitProperties::default()
                .with_application_transactions(transactions.clone())
                .with_metadata([(MARK.to_owned(), mark.clone().into())])
                .with_max_retries(0);
            let operation =
                DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
            let actions = self.declared()?.into_iter().chain(actions.iter().cloned()).collect();
            let committing = CommitBuilder::from(properties).with_actions(actions).build(
                Some(self.table.snapshot()?),
                self.table.log_store(),
                operation,
            );
            match committing.await {
                Ok(committed) => {
                    let version = committed.version();
                    self.table.update_state().await?;
                    return Ok(version);
                }
                Err(DeltaTableError::Transaction { source }) if is_taken(&source) => {
                    if let Some(version) = self.is_marked(&mark).await? {
                        self.table.update_state().await?;
                        return Ok(version);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let found = self.read_position().await?.seq;
        Err(Error::Fenced { table: self.writer.name.clone(), expected: self.position.seq, found })
    }

    /// The version behind the one that was read, where it is this commit after all: a bucket's answer may be lost on its way,
    /// and what is asked again finds the place taken.
    async fn is_marked(&self, mark: &str) -> Result<Option<u64>, Error> {
        let Some(version) = self.table.version().map(|version| version + 1) else { return Ok(None) };
        let commit = self.table.log_store().read_commit_entry(version).await?;
        let is_ours = commit.is_some_and(|commit| String::from_utf8_lossy(&commit).contains(mark));
        Ok(is_ours.then_some(version))
    }

    /// What is on this machine is written to its disk before the source may forget it; another store does so itself.
    async fn make_durable(&self, files: Vec<String>) -> Result<(), Error> {
        let Some(folder) = self.place.folder() else { return Ok(()) };
        let path = folder.clone();
        let synced = tokio::task::spawn_blocking(move || {
            let files = files.iter().map(|file| folder.join(file));
            files.chain([folder.join("_delta_log"), folder.clone()]).try_for_each(|path| sync(&path))
        });
        // What was not done to its end is not durable.
        synced.await.unwrap_or_else(|error| Err(Error::Disk { path, source: error.into() }))
    }
}

/// A text beside a table, of which the table's own commits say that it counts: one that was written for a commit that
/// never came is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note(pub(crate) i64);

impl Note {
    pub(crate) fn path(self) -> Path {
        Path::from_iter([NOTES, &format!("{:016x}.json", self.0)])
    }
}

/// The columns of changes. Where no table can have them it is made without, and says why there is nothing in it.
fn of_changes(relation: &Relation) -> Vec<StructField> {
    let fields = rows::fields(relation);
    if StructType::try_new(fields.clone()).is_ok() { fields } else { rows::fixed() }
}

/// Where a table is in a lake.
pub(crate) fn place(lake: &Place, schema: &str, table: &str) -> Place {
    lake.below([schema, table])
}

/// Where its changes are.
pub(crate) fn place_of_changes(lake: &Place, schema: &str, table: &str) -> Place {
    place(lake, schema, &format!("{table}__changes"))
}

/// Makes a table: by hand, as `deltalake`'s own way adds what it then cannot write itself.
async fn make(table: &DeltaTable, place: &Url, fields: Vec<StructField>) -> Result<(), Error> {
    let columns = StructType::try_new(fields).map_err(DeltaTableError::from)?;
    let none: [(String, String); 0] = [];
    let metadata = new_metadata(&columns, Vec::<String>::new(), none).map_err(DeltaTableError::from)?;
    let protocol = protocol()?;
    let actions = vec![Action::Protocol(protocol.clone()), Action::Metadata(metadata.clone())];
    let operation =
        DeltaOperation::Create { mode: SaveMode::Ignore, location: place.clone(), protocol, metadata };
    let properties = CommitProperties::default().with_max_retries(0);
    CommitBuilder::from(properties).with_actions(actions).build(None, table.log_store(), operation).await?;
    Ok(())
}

/// What a reader has to know: moments without a zone, which any table may come to have.
fn protocol() -> Result<Protocol, Error> {
    let protocol = serde_json::from_value(serde_json::json!({
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["timestampNtz"],
        "writerFeatures": ["timestampNtz"],
    }));
    protocol.map_err(|error| Error::Strange(format!("a table's protocol: {error}")))
}

/// A control of the tests: whoever comes may write.
fn is_unguarded() -> bool {
    fail::fail_point!("transfer::lake.unguarded", |_| true);
    false
}

fn sync(path: &std::path::Path) -> Result<(), Error> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::Disk { path: path.to_owned(), source })
}

/// Whether the place behind the version that was read is another's.
fn is_taken(error: &TransactionError) -> bool {
    matches!(error, TransactionError::VersionAlreadyExists(_) | TransactionError::MaxCommitAttempts(_))
}
