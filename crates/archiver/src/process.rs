//! The process: one task a declared server, a socket that answers how they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keeper::wire::Name;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};

use crate::keeping::{Keeping, Running, Shared};
use crate::sweep::sweep;
use crate::wire::{Reply, Request, Server, Settings, Status};
use crate::{Error, Objects};

/// Between two looks at the declarations that nobody asked for.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks for archives of which nothing is kept.
const SWEEP: Duration = Duration::from_secs(3600);
/// Base backups at once.
const BACKUPS: usize = 2;
/// A question is short; an answer lists base backups.
const QUESTION_BYTES: u64 = 4 * 1024;
const ANSWER_BYTES: u64 = 4 * 1024 * 1024;
/// How long it may take to end: a server whose log is not stored by then keeps it.
const LAST: Duration = Duration::from_secs(5);
/// How long a question and its answer may take.
const TALK: Duration = Duration::from_secs(10);

/// `$STEAD_HOME/archiver`.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Of a home.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        Self(home.join("archiver"))
    }

    /// `archiver.json`.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.0.join("archiver.json")
    }

    /// The declaration of a server.
    #[must_use]
    pub fn server(&self, name: &Name) -> PathBuf {
        self.0.join("servers").join(format!("{name}.json"))
    }

    fn servers(&self) -> PathBuf {
        self.0.join("servers")
    }

    fn socket(&self) -> PathBuf {
        self.0.join("archiver.sock")
    }

    /// Names of every server that is declared.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn declared_names(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.servers())? {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.and_then(|name| Name::parse(name).ok()));
        }
        Ok(names)
    }

    /// Every server that is declared; those that cannot be read are told of and left as they are.
    fn declared(&self) -> io::Result<BTreeMap<Name, Option<Server>>> {
        let mut declared = BTreeMap::new();
        for name in self.declared_names()? {
            if let Some(server) = self.declared_one(&name)? {
                declared.insert(name, server);
            }
        }
        Ok(declared)
    }

    /// One of them.
    fn declared_one(&self, name: &Name) -> io::Result<Option<Option<Server>>> {
        let text = match std::fs::read(self.server(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let server = serde_json::from_slice(&text);
        if let Err(error) = &server {
            tracing::warn!(server = %name, %error, "a declaration is not understood; the one before holds");
        }
        Ok(Some(server.ok()))
    }
}

struct Archiver {
    folder: Folder,
    shared: Arc<Shared>,
    servers: Mutex<BTreeMap<Name, Running>>,
}

/// Runs until `stop` speaks.
///
/// # Errors
/// When its files cannot be read or its socket not be opened.
pub async fn run(home: &Path, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let folder = Folder::of(home);
    let text = std::fs::read(folder.settings())?;
    let settings: Settings = serde_json::from_slice(&text)
        .map_err(|error| Error::Gone(format!("a readable {} ({error})", folder.settings().display())))?;
    let objects = Objects::open(&settings.store)?;
    let listener = listen(&folder.socket())?;
    tracing::info!(store = objects.shown(), "archiving");
    let shared = Arc::new(Shared {
        settings,
        objects,
        keeper: keeper::Client::new(home),
        backups: Semaphore::new(BACKUPS),
    });
    let archiver = Arc::new(Archiver { folder, shared, servers: Mutex::default() });
    let sweeping = Arc::clone(&archiver);
    let sweeper = tokio::spawn(async move { sweeping.sweep().await });
    let mut stop = std::pin::pin!(stop);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = &mut stop => {
                sweeper.abort();
                archiver.finish().await;
                return Ok(());
            }
            _ = look.tick() => archiver.reload().await,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let archiver = Arc::clone(&archiver);
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(TALK, archiver.answer(stream)).await;
                });
            }
        }
    }
}

/// The socket of whoever was here before is in the way, and nobody's: the keeper runs one archiver at a time.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Archiver {
    /// Brings the tasks in agreement with the declarations.
    async fn reload(&self) {
        let declared = match self.folder.declared() {
            Ok(declared) => declared,
            Err(error) => {
                tracing::warn!(%error, "the declarations cannot be read; those before hold");
                return;
            }
        };
        let mut servers = self.servers.lock().await;
        servers.retain(|name, _| declared.contains_key(name));
        for (name, server) in declared {
            self.take(&mut servers, name, server);
        }
    }

    /// The same for one server: a question about it must not read what is declared of a thousand.
    async fn reload_one(&self, name: &Name) {
        match self.folder.declared_one(name) {
            Ok(Some(server)) => self.take(&mut *self.servers.lock().await, name.clone(), server),
            Ok(None) => drop(self.servers.lock().await.remove(name)),
            Err(error) => {
                tracing::warn!(server = %name, %error, "a declaration cannot be read; the one before holds");
            }
        }
    }

    /// Has a server kept as it is declared; one whose declaration is not understood as it was.
    fn take(&self, servers: &mut BTreeMap<Name, Running>, name: Name, server: Option<Server>) {
        let Some(server) = server else { return };
        if servers.get(&name).is_some_and(|running| *running.keeping.server() == server) {
            return;
        }
        match Keeping::new(Arc::clone(&self.shared), server) {
            Ok(keeping) => {
                servers.insert(name, Running::start(keeping));
            }
            Err(why) => tracing::warn!(server = %name, why, "a declaration makes no sense"),
        }
    }

    /// Removes what nobody will ask for again, now and then.
    async fn sweep(&self) {
        let (mut seen, mut every) = (BTreeSet::new(), tokio::time::interval(SWEEP));
        loop {
            every.tick().await;
            let declared = match self.folder.declared() {
                Ok(declared) if declared.values().all(Option::is_some) => declared,
                // Who cannot tell what is declared removes nothing.
                _ => continue,
            };
            let declared = declared.into_values().flatten().map(|server| server.archive).collect();
            let Shared { objects, settings, .. } = &*self.shared;
            let swept = sweep(objects, &settings.host, &declared, &mut seen, Timestamp::now()).await;
            if let Err(error) = swept {
                tracing::warn!(%error, "archives of servers that are no more could not be looked through");
            }
        }
    }

    /// Has everything stored that servers have written by now, as far as that takes no longer than it may; how many
    /// have some left.
    async fn finish(&self) -> usize {
        let servers: Vec<_> =
            self.servers.lock().await.values().map(|running| Arc::clone(&running.keeping)).collect();
        let finishing = servers.iter().map(|keeping| tokio::time::timeout(LAST, keeping.finish()));
        let finished = futures::future::join_all(finishing).await;
        finished.iter().filter(|finished| !matches!(finished, Ok(true))).count()
    }

    /// As it is declared by now.
    async fn keeping(&self, name: &Name) -> Option<Arc<Keeping>> {
        self.reload_one(name).await;
        self.servers.lock().await.get(name).map(|running| Arc::clone(&running.keeping))
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut question = String::new();
        (&mut stream).take(QUESTION_BYTES).read_line(&mut question).await?;
        let reply = match serde_json::from_str(&question) {
            Ok(Request::Server { name }) => {
                let keeping = self.keeping(&name).await;
                Reply::Server(keeping.map(|keeping| {
                    keeping.nudged.notify_one();
                    keeping.status()
                }))
            }
            Ok(Request::Flush { name }) => {
                let keeping = self.keeping(&name).await;
                if let Some(keeping) = &keeping {
                    keeping.flush().await;
                }
                Reply::Server(keeping.map(|keeping| keeping.status()))
            }
            Ok(Request::Backup { name }) => {
                let keeping = self.keeping(&name).await;
                Reply::Server(keeping.map(|keeping| {
                    keeping.want_backup();
                    keeping.status()
                }))
            }
            Ok(Request::Finish) => Reply::Finished { left: self.finish().await },
            Err(error) => Reply::Refused(error.to_string()),
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        stream.write_all(&line).await
    }
}

/// Asks the archiver of a home.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the archiver of `home`.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self { socket: Folder::of(home).socket() }
    }

    /// How a server's archive stands; `None` for one that is not declared.
    ///
    /// # Errors
    /// When no archiver answers.
    pub async fn server(&self, name: &Name) -> io::Result<Option<Status>> {
        self.ask(&Request::Server { name: name.clone() }).await
    }

    /// Has what has come from a server stored, and tells how the archive stood just then.
    ///
    /// # Errors
    /// When no archiver answers.
    pub async fn flush(&self, name: &Name) -> io::Result<Option<Status>> {
        self.ask(&Request::Flush { name: name.clone() }).await
    }

    /// Has a base backup made, and tells how the archive stood just then.
    ///
    /// # Errors
    /// When no archiver answers.
    pub async fn backup(&self, name: &Name) -> io::Result<Option<Status>> {
        self.ask(&Request::Backup { name: name.clone() }).await
    }

    /// Has all stored that every server has written by now; how many servers have log left that is not.
    ///
    /// # Errors
    /// When no archiver answers.
    pub async fn finish(&self) -> io::Result<usize> {
        match self.reply(&Request::Finish).await? {
            Reply::Finished { left } => Ok(left),
            other => Err(strange(other)),
        }
    }

    async fn ask(&self, request: &Request) -> io::Result<Option<Status>> {
        match self.reply(request).await? {
            Reply::Server(status) => Ok(status),
            other => Err(strange(other)),
        }
    }

    async fn reply(&self, request: &Request) -> io::Result<Reply> {
        let asking = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            let mut answer = Vec::new();
            BufReader::new(stream).take(ANSWER_BYTES).read_until(b'\n', &mut answer).await?;
            Ok(serde_json::from_slice(&answer)?)
        };
        tokio::time::timeout(TALK, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// An answer to another question, or none.
fn strange(reply: Reply) -> io::Error {
    let why = if let Reply::Refused(why) = reply { why } else { format!("{reply:?} is no answer") };
    io::Error::new(io::ErrorKind::InvalidData, why)
}
