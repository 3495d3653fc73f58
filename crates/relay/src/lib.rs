//! Ways out of the host, for those who have no network: the copiers of transfers.
//!
//! Each has a folder with a socket of its own, and whoever connects there is connected to the one place that a file of the
//! control plane's names ([`wire::Route`]). The name is looked up at that moment, and the address has to be one that may
//! be dialled ([`may_dial`]). Bytes are passed on as they are: TLS is between the two ends, and no secret is known here.
//!
//! The relay runs as a user of its own that may read its files and nothing else of Stead's.

mod client;
mod control;
mod dial;
mod files;
mod pass;
pub mod wire;

use std::io;
use std::path::{Path, PathBuf};

pub use client::{Failed, refresh};
pub use dial::{dial, may_dial};
use tokio::net::UnixListener;

/// What a socket is called in its folder.
pub const SOCKET: &str = "relay";

/// Why the relay does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", .path.display())]
pub struct Error {
    /// What was tried.
    what: &'static str,
    /// With what.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

/// Passes on until `stop` speaks.
///
/// # Errors
/// When its own socket cannot be made.
pub async fn run(home: &Path, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let paths = files::Paths::new(home);
    for folder in [&paths.routes, &paths.sockets, &paths.run] {
        let make = std::fs::create_dir_all(folder);
        make.map_err(|source| Error { what: "create", path: folder.clone(), source })?;
    }
    let listener = bind(&paths.socket, 0o660);
    let listener =
        listener.map_err(|source| Error { what: "listen on", path: paths.socket.clone(), source })?;
    let socket = paths.socket.clone();
    let mut control = control::Control::new(paths);
    tokio::select! {
        () = control.keep(listener) => {}
        () = stop => {}
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

/// Listens on a Unix socket in the place of one that an earlier process left.
fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    Ok(listener)
}
