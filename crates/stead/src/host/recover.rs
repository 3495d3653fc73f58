//! `stead recover`: everything again on an empty host, out of the backups and the installation key.
//!
//! The control plane's own server first; its state then says what else there was. Each server is made again of its
//! own backups by the reconciler, as soon as `stead server` runs.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use driver_local::{BackupStore, Local};
use sqlx::postgres::PgConnectOptions;
use store::journal::Actor;
use store::{InstallationKey, Store};

use super::serve;
use crate::exit::Failure;

/// What `stead recover` is told.
pub(crate) struct Recovery {
    /// Where the backups are.
    pub(crate) backups: String,
    /// The installation key.
    pub(crate) key: PathBuf,
}

pub(crate) fn run(home: &Path, recovery: &Recovery) -> Result<String, Failure> {
    let key = std::fs::read(&recovery.key).map_err(|error| {
        Failure::Failed(format!("the key {} cannot be read: {error}", recovery.key.display()))
    })?;
    if key.len() != 32 {
        return Err(Failure::Failed(format!(
            "{} is no installation key: it has {} bytes, and a key has 32",
            recovery.key.display(),
            key.len()
        )));
    }
    let options = driver_local::store_options(std::env::vars());
    let location = archiver::Location::parse(&recovery.backups, options).map_err(Failure::Usage)?;
    serve::make_home(home)?;
    super::background::ensure_keeper(home)?;
    let host = keeper::Host::read(home).map_err(Failure::failed)?;
    let _lock = super::background::lock(home)?;
    let engine_dirs = super::engine_dirs();
    put_key(home, &key)?;
    adopt(&location, &host)?;
    serve::hand_over(home, &host)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(recover(home, location, &engine_dirs))
}

/// A folder of backups belongs to the control plane of the host that was lost: user ids differ from host to host. Only
/// what Stead makes below it is given away, and no link is followed.
fn adopt(location: &archiver::Location, host: &keeper::Host) -> Result<(), Failure> {
    let Ok(folder) = location.url.to_file_path() else { return Ok(()) };
    if !host.isolated || location.url.scheme() != "file" {
        return Ok(());
    }
    let archives = folder.join("archives");
    if !archives.is_dir() {
        return Err(Failure::Failed(format!("there are no backups in {}", folder.display())));
    }
    let give = |path: &Path| {
        std::os::unix::fs::lchown(path, Some(host.control_uid()), Some(host.gid()))
            .map_err(|error| Failure::Failed(format!("cannot take over {}: {error}", path.display())))
    };
    give(&folder)?;
    let mut left = vec![archives];
    while let Some(path) = left.pop() {
        give(&path)?;
        let meta = std::fs::symlink_metadata(&path).map_err(Failure::failed)?;
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(Failure::failed)?;
            left.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    Ok(())
}

/// The key has to be in place before anything that it opens. Another one that is there is nobody's to replace.
fn put_key(home: &Path, key: &[u8]) -> Result<(), Failure> {
    let path = home.join("keys/installation.key");
    let cannot = |error: std::io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    serve::make_keys(home)?;
    match std::fs::read(&path) {
        Ok(there) if there == key => return Ok(()),
        Ok(_) => {
            return Err(Failure::Failed(format!(
                "{} is another key: something lives in this folder; recover into an empty one",
                path.display()
            )));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(error)),
    }
    let draft = path.with_extension("new");
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    opened.and_then(|mut file| file.write_all(key).and_then(|()| file.sync_all())).map_err(cannot)?;
    std::fs::rename(&draft, &path).map_err(cannot)
}

async fn recover(
    home: &Path,
    location: archiver::Location,
    engine_dirs: &[PathBuf],
) -> Result<String, Failure> {
    let local =
        Local::open(home, "localhost", engine_dirs, &super::runtime_dirs()).map_err(Failure::failed)?;
    let key = InstallationKey::read_or_make(&home.join("keys/installation.key")).map_err(Failure::failed)?;
    let name = serve::host_name(&local, home);
    let shown = location.url.clone();
    let wrapping = serve::wrapping(&key);
    let store = BackupStore { location, wrapping, host: name.clone(), age: Duration::from_secs(1) };
    let recovered = local.recover_control(&store).await.map_err(Failure::failed)?;
    let control = local.control_server().await.map_err(Failure::failed)?;
    let state = PgConnectOptions::new()
        .socket(&control.socket_dir)
        .username(control.user)
        .database(control.database)
        .application_name("stead");
    let state = Store::open(state, key).await.map_err(Failure::failed)?;
    state.check_key().await.map_err(Failure::failed)?;
    if let Some(authority) = state.kept(serve::AUTHORITY).await.map_err(Failure::failed)? {
        driver_local::certificates::put_authority(home, &authority).map_err(Failure::failed)?;
    }
    let actor = Actor { name: "stead recover".into(), source: "this host".into() };
    let servers = state.recover(&actor, &recovered.host, &name).await.map_err(Failure::failed)?;
    state.close().await;
    Ok(format!(
        "the control plane is back as it was at {}; {servers} server{} will be made again of {} backups.\n\
         Now start it, with the options that it had: stead server --backups {shown}",
        recovered.until,
        if servers == 1 { "" } else { "s" },
        if servers == 1 { "its" } else { "their" },
    ))
}
