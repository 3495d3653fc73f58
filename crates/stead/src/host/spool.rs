//! What the keeper did by itself, brought into the journal exactly once.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use component::SteadName;
use keeper::wire::SpoolLine;
use store::Store;
use store::journal::{Actor, Entry, Outcome};
use tokio::sync::watch;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes imported in one transaction.
const PART: u64 = 256 * 1024;

/// Imports until `stop` turns true.
pub(super) async fn run(store: Store, home: PathBuf, host: String, mut stop: watch::Receiver<bool>) {
    let path = home.join("spool/keeper.jsonl");
    while !*stop.borrow() {
        match import(&store, &path, &host).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(error, "events of the keeper could not be imported; trying again"),
        }
        tokio::select! { () = tokio::time::sleep(LOOK) => {}, _ = stop.changed() => {} }
    }
}

/// Imports a part; answers whether there may be more.
async fn import(store: &Store, path: &Path, host: &str) -> Result<bool, String> {
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(false) };
    let inode = file.metadata().map_err(|error| error.to_string())?.ino();
    let from = store.spool_position(host, "keeper", inode).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(PART).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    // Only whole lines: the last may still be being written.
    let Some(end) = text.rfind('\n') else { return Ok(false) };
    let mut lines = Vec::new();
    for line in text[..end].lines() {
        match serde_json::from_str::<SpoolLine>(line) {
            Ok(line) => lines.extend(entry(store, line).await?),
            Err(error) => tracing::warn!(%error, line, "an event of the keeper is not understood"),
        }
    }
    let to = from + u64::try_from(end + 1).unwrap_or(0);
    store.import_spool(host, "keeper", inode, (from, to), &lines).await.map_err(|error| error.to_string())?;
    Ok(true)
}

/// The line of the journal; `None` for what concerns no component and no person (spares come and go).
async fn entry(store: &Store, line: SpoolLine) -> Result<Option<Entry>, String> {
    let action = match line.action.as_str() {
        "unit.started" => "server.started",
        "unit.exited" => "server.exited",
        "unit.restarted" => "server.restarted",
        "unit.killed" => "server.killed",
        "unit.asleep" => "server.asleep",
        "unit.woken" => "server.woken",
        "disk.read_only" => "disk.read_only",
        "disk.writable" => "disk.writable",
        "keeper.started" => "keeper.started",
        _ => return Ok(None),
    };
    let actor = Actor { name: "keeper".into(), source: "host".into() };
    let mut entry = Entry {
        reason: Some(line.message),
        after: serde_json::json!({ "at": line.at }),
        ..Entry::new(&actor, action, Outcome::Noted)
    };
    if let Some(unit) = line.unit {
        let Some(handle) = driver_local::handle_of(&unit) else { return Ok(None) };
        let Some((tenant, stead, component)) =
            store.by_handle(handle).await.map_err(|error| error.to_string())?
        else {
            return Ok(None);
        };
        let stead: SteadName = stead.parse().map_err(|_| "a stead's name cannot be read".to_owned())?;
        entry.tenant = Some(tenant);
        entry.stead = Some(stead.to_string());
        entry.component = Some(component.to_string());
    }
    Ok(Some(entry))
}
