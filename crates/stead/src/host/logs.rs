//! The JSON logs of servers, read from their trees.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use client::wire::LogLine;
use component::ComponentId;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

/// From the end of each file, at most so much is looked through, bytes.
const LOOK_BACK: u64 = 8 * 1024 * 1024;

/// A server has one file for each day of the week.
const FILES: usize = 8;

/// Logs of the servers of this host.
pub(crate) struct TreeLogs {
    /// `$STEAD_HOME`.
    pub(crate) home: PathBuf,
}

#[async_trait]
impl server::ServerLogs for TreeLogs {
    async fn tail(
        &self,
        component: ComponentId,
        limit: usize,
        since: Option<Timestamp>,
    ) -> std::io::Result<Vec<LogLine>> {
        let trees = driver_local::trees_of(component).map_err(std::io::Error::other)?;
        let folders = trees.map(|tree| keeper::tree_dir(&self.home, &tree));
        // Where it is now; a moved server takes its logs along.
        let folder = folders.iter().find(|folder| folder.is_dir()).unwrap_or(&folders[0]).join("log");
        tokio::task::spawn_blocking(move || tail(&folder, limit, since))
            .await
            .map_err(std::io::Error::other)?
    }
}

/// The newest lines, oldest first. The folder is the server's own: whoever took a server over could have
/// put a link to another tenant's log there, or a pipe that is never written to.
fn tail(folder: &Path, limit: usize, since: Option<Timestamp>) -> std::io::Result<Vec<LogLine>> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let about = entry.metadata()?;
        if about.is_file() && path.extension().is_some_and(|extension| extension == "json") {
            files.push((about.modified()?, path));
        }
    }
    // Newest first, until there are enough lines.
    files.sort_by(|left, right| right.cmp(left));
    files.truncate(FILES);
    let mut lines: Vec<LogLine> = Vec::new();
    for (_, path) in files {
        let mut found = read(&path, since)?;
        found.append(&mut lines);
        lines = found;
        if lines.len() >= limit {
            break;
        }
    }
    Ok(lines.split_off(lines.len().saturating_sub(limit)))
}

fn read(path: &Path, since: Option<Timestamp>) -> std::io::Result<Vec<LogLine>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(Vec::new());
    }
    let length = about.len();
    let from = length.saturating_sub(LOOK_BACK);
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file.take(LOOK_BACK));
    if from > 0 {
        // The first line is only the end of one.
        reader.read_until(b'\n', &mut Vec::new())?;
    }
    let mut lines = Vec::new();
    for line in reader.split(b'\n') {
        let Ok(fields) = serde_json::from_slice::<Value>(&line?) else { continue };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(at) = moment(&text("timestamp")) else { continue };
        if since.is_some_and(|since| at <= since) {
            continue;
        }
        lines.push(LogLine {
            at: at.to_string(),
            severity: text("error_severity"),
            message: text("message"),
            fields,
        });
    }
    Ok(lines)
}

/// `2026-11-21 20:13:49.123 UTC`; servers log in UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let civil: DateTime = text.strip_suffix(" UTC")?.parse().ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}
