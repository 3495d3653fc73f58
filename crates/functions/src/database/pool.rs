//! The connections that a function has to its servers, shared by its workers.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::hello::Key;
use super::server::{self, Failed, Server, fatal};
use crate::engine::Engine;
use crate::route::Database;

/// How long a transaction waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// All of a function's.
#[derive(Default)]
pub(crate) struct Databases {
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    /// Whom a cancel request means: the server, and what cancels the statement there now.
    sessions: Mutex<HashMap<Key, Current>>,
}

/// A session's connection of the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Current {
    pub(super) server: String,
    /// For whom, as the gateway knows it.
    pub(super) who: String,
    pub(super) key: Option<Key>,
}

/// Those to one server with one role.
pub(super) struct Pool {
    database: Database,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<(Server, Instant)>>,
}

/// A connection as long as it is one session's.
pub(super) struct Lease {
    pub(super) server: Server,
    place: OwnedSemaphorePermit,
}

impl Databases {
    /// The pool of a database as it is declared now; of one that was declared otherwise the connections end.
    pub(super) fn pool(&self, name: &str, database: &Database) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(name)
            && pool.database == *database
        {
            return pool.clone();
        }
        let most = usize::try_from(database.connections.max(1)).unwrap_or(1);
        let pool = Arc::new(Pool {
            database: database.clone(),
            places: Arc::new(Semaphore::new(most)),
            idle: Mutex::default(),
        });
        pools.insert(name.to_owned(), pool.clone());
        pool
    }

    /// Closes connections that nobody needs.
    pub(crate) fn tidy(&self) {
        for pool in self.pools.lock().unwrap_or_else(PoisonError::into_inner).values() {
            pool.idle().retain(|(_, since)| since.elapsed() < IDLE);
        }
    }

    /// A key by which a session's statements can be cancelled.
    pub(super) fn enter(&self) -> Key {
        let key = (rand::random_range(1..i32::MAX), rand::random());
        self.sessions().insert(key, Current::default());
        key
    }

    pub(super) fn set(&self, key: Key, current: Current) {
        self.sessions().insert(key, current);
    }

    pub(super) fn leave(&self, key: Key) {
        self.sessions().remove(&key);
    }

    /// Cancels what a session does, if it does something.
    pub(super) async fn cancel(&self, engine: &Engine, key: Key) -> io::Result<()> {
        let current = self.sessions().get(&key).cloned();
        match current {
            Some(Current { server, who, key: Some(key) }) => {
                server::cancel(&engine.home, &server, &who, key).await
            }
            _ => Ok(()),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Key, Current>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Ends what a session left in the middle of something. A server does not look whether anybody waits for what it
    /// does: it is told to stop, and the place is free when it has. `begun`: half a message was sent, and nothing more
    /// can be said.
    pub(super) async fn abandon(self, home: &Path, server: &str, who: &str, begun: bool) {
        let Self { server: connection, place } = self;
        if let Some(key) = connection.key
            && let Err(error) = server::cancel(home, server, who, key).await
        {
            tracing::debug!(%error, server, "a statement was not cancelled");
        }
        if !begun {
            connection.end().await;
        }
        drop(place);
    }
}

impl Pool {
    /// A connection with these parameters; an error is the message for the client.
    pub(super) async fn take(
        &self,
        engine: &Engine,
        who: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Lease, bytes::Bytes> {
        let most = self.database.connections;
        let place = timeout(PATIENCE, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(fatal(
                "53300",
                &format!(
                    "all {most} connections of the function are in use; let fewer calls use one at once, or allow it more"
                ),
            ));
        };
        loop {
            let mut surplus = None;
            let found = {
                let mut idle = self.idle();
                let at = idle.iter().rposition(|(server, _)| server.parameters == *parameters);
                match at {
                    Some(at) => Some(idle.swap_remove(at).0),
                    None => {
                        // Those that rest count too: one that fits nobody makes room.
                        let most = usize::try_from(most.max(1)).unwrap_or(1);
                        let in_use = most - self.places.available_permits().min(most);
                        if idle.len() + in_use > most {
                            surplus = Some(idle.remove(0).0);
                        }
                        None
                    }
                }
            };
            if let Some(surplus) = surplus {
                surplus.end().await;
            }
            match found {
                Some(server) if server.is_quiet() => return Ok(Lease { server, place }),
                // The server, or the gateway, has closed it.
                Some(_) => {}
                None => break,
            }
        }
        let opened = Server::open(&engine.home, &self.database, who, parameters.clone()).await;
        match opened {
            Ok(server) => Ok(Lease { server, place }),
            Err(Failed::Refused(message)) => Err(message),
            Err(Failed::Io(error)) => Err(fatal("08006", &format!("the server cannot be reached: {error}"))),
        }
    }

    /// It is at rest, and the next one's.
    pub(super) fn put_back(&self, lease: Lease) {
        let Lease { server, place } = lease;
        self.idle().push((server, Instant::now()));
        drop(place);
    }

    pub(super) fn server(&self) -> &str {
        &self.database.server
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Server, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
