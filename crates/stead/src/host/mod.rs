//! The processes of a host, put together: the only place that names a concrete driver.

pub(crate) mod background;
mod functions;
pub(crate) mod gateway;
pub(crate) mod inner;
pub(crate) mod logs;
mod privileges;
pub(crate) mod recover;
pub(crate) mod serve;
mod spool;

use std::path::PathBuf;

/// Folders of engines besides Debian's: `STEAD_ENGINES`, then those of the default home.
pub(crate) fn engine_dirs() -> Vec<PathBuf> {
    let named =
        std::env::var_os("STEAD_ENGINES").map(|dirs| std::env::split_paths(&dirs).collect::<Vec<_>>());
    let mut dirs = named.unwrap_or_default();
    dirs.push(crate::context::default_home().join("engines"));
    // A relative path would mean another folder to the keeper.
    dirs.retain(|dir| dir.is_absolute());
    dirs
}

/// Folders of interpreters for functions: `STEAD_RUNTIMES`, then the system's, then those of the default home.
pub(crate) fn runtime_dirs() -> Vec<PathBuf> {
    let named =
        std::env::var_os("STEAD_RUNTIMES").map(|dirs| std::env::split_paths(&dirs).collect::<Vec<_>>());
    let mut dirs = named.unwrap_or_default();
    dirs.extend(["/usr/local/lib/stead/runtimes", "/var/lib/stead/runtimes"].map(PathBuf::from));
    dirs.push(crate::context::default_home().join("runtimes"));
    dirs.retain(|dir| dir.is_absolute());
    dirs
}

/// Waits for a signal to end.
pub(crate) async fn ended() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "told to end",
    }
}

/// The same, and a line of the log about it.
pub(crate) async fn told_to_stop() {
    let why = ended().await;
    tracing::info!(why, "stopping");
}
