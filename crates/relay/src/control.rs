//! Keeps ways in agreement with their files: whoever connects to the relay's own socket has them read again, and is told
//! what came of it.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::files::Paths;
use crate::wire::{Route, Status};
use crate::{SOCKET, bind, pass};

/// How long whoever asks may take to hear the answer.
const HEAR: Duration = Duration::from_secs(5);
/// Files are read again so often though nobody asks.
const AGAIN: Duration = Duration::from_secs(30);

/// A way that is open; dropped, it is shut and all its connections with it.
struct Way {
    is: (Route, Vec<IpNet>),
    task: JoinHandle<()>,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct Control {
    paths: Paths,
    ways: HashMap<String, Way>,
}

impl Control {
    pub(crate) fn new(paths: Paths) -> Self {
        Self { paths, ways: HashMap::new() }
    }

    pub(crate) async fn keep(&mut self, listener: UnixListener) {
        self.read();
        tracing::info!(ways = self.ways.len(), "relay started");
        loop {
            let asked = timeout(AGAIN, listener.accept()).await;
            let status = self.read();
            let Ok(Ok((mut stream, _))) = asked else { continue };
            let answer = serde_json::to_vec(&status).unwrap_or_default();
            // Who asked may have gone meanwhile.
            let _ = timeout(HEAR, stream.write_all(&answer)).await;
        }
    }

    /// Goes by the files as they are.
    fn read(&mut self) -> Status {
        let mut status = Status::default();
        let told = match self.paths.read() {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(%error, "the relay's files cannot be read");
                return status;
            }
        };
        // Also those that an earlier process had.
        for entry in fs::read_dir(&self.paths.sockets).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !told.routes.contains_key(&name) {
                self.ways.remove(&name);
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for (name, route) in told.routes {
            let opened = route.and_then(|route| {
                self.open(&name, (route, told.settings.networks.clone())).map_err(|error| error.to_string())
            });
            if let Err(why) = opened {
                tracing::warn!(name, why, "a way is not open");
                self.ways.remove(&name);
                status.troubles.insert(name, why);
            }
        }
        status
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.paths.sockets.join(name)
    }

    fn open(&mut self, name: &str, wanted: (Route, Vec<IpNet>)) -> io::Result<()> {
        let folder = self.folder(name);
        let socket = folder.join(SOCKET);
        if self.ways.get(name).is_some_and(|way| way.is == wanted && !way.task.is_finished())
            && socket.exists()
        {
            return Ok(());
        }
        self.ways.remove(name);
        // The folder stays the one that it is: a copier's sandbox shows it, and would go on showing one that is gone.
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Nobody gets to it but through a sandbox: the folder above is closed.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let listener = bind(&socket, 0o666)?;
        let (route, networks) = wanted.clone();
        let task = tokio::spawn(pass::keep(name.to_owned(), listener, route, networks));
        self.ways.insert(name.to_owned(), Way { is: wanted, task });
        Ok(())
    }
}
