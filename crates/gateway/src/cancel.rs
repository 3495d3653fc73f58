//! Cancel requests: a client's key for our key, our key for the server's.
//!
//! A client never learns the server's key. Ours is found by the process id, which belongs to one route,
//! and compared in constant time; the request to the server is then made over its Unix socket, where the
//! tenant's network cannot see it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use subtle::ConstantTimeEq;
use tokio::io::AsyncReadExt;

use crate::backend::{self, BackendKey};
use crate::startup::CancelRequest;
use crate::wire::send;

/// The keys of one route's sessions.
#[derive(Default)]
pub(crate) struct Cancels {
    /// By the process id that the client was told; more than one where sessions were moved to another server.
    keys: Mutex<HashMap<u32, Vec<Entry>>>,
}

struct Entry {
    session: u64,
    key: Bytes,
    /// Nobody while the session has no server.
    target: Option<Target>,
}

/// Whom to ask to stop what.
#[derive(Clone)]
pub(crate) struct Target {
    folder: PathBuf,
    key: BackendKey,
}

impl Target {
    /// The backend of a session.
    pub(crate) fn new(folder: &Path, key: BackendKey) -> Target {
        Target { folder: folder.to_owned(), key }
    }

    /// The backend's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.key.pid
    }

    /// Asks the server to stop the statement, and waits until it has taken the request. Whether there
    /// was one to stop, nobody learns, as in PostgreSQL.
    pub(crate) async fn cancel(&self) -> std::io::Result<()> {
        let mut stream = backend::connect(&self.folder).await?;
        let mut request = BytesMut::with_capacity(32);
        request.put_u32(u32::try_from(12 + self.key.secret.len()).unwrap_or(u32::MAX));
        request.put_u32(80_877_102);
        request.put_u32(self.key.pid);
        request.put_slice(&self.key.secret);
        send(&mut stream, &request).await?;
        // The server answers by closing.
        let _ = stream.read(&mut [0; 1]).await?;
        Ok(())
    }
}

impl Cancels {
    /// A fresh key for a session. 32 bytes where the client's protocol takes long ones (3.2), else four.
    pub(crate) fn issue(&self, session: u64, minor: u16, target: Target) -> Bytes {
        let random = rand::random::<[u8; 32]>();
        let key = Bytes::copy_from_slice(if minor >= 2 { &random } else { &random[..4] });
        let pid = target.key.pid;
        let entry = Entry { session, key: key.clone(), target: Some(target) };
        self.lock().entry(pid).or_default().push(entry);
        key
    }

    /// The key that was given out under a process id is for another backend from now on.
    pub(crate) fn retarget(&self, session: u64, pid: u32, target: Option<Target>) {
        let mut keys = self.lock();
        let entry = keys.get_mut(&pid).and_then(|entries| entries.iter_mut().find(|e| e.session == session));
        if let Some(entry) = entry {
            entry.target = target;
        }
    }

    /// Forgets a session's key.
    pub(crate) fn revoke(&self, session: u64, pid: u32) {
        let mut keys = self.lock();
        if let Some(entries) = keys.get_mut(&pid) {
            entries.retain(|entry| entry.session != session);
            if entries.is_empty() {
                keys.remove(&pid);
            }
        }
    }

    /// What a request may cancel.
    pub(crate) fn find(&self, request: &CancelRequest) -> Option<Target> {
        let keys = self.lock();
        let entries = keys.get(&request.pid)?;
        entries.iter().find(|entry| bool::from(entry.key.ct_eq(&request.key))).and_then(|e| e.target.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Vec<Entry>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
