//! Code of functions on this host, unpacked: `packages/<hash>`, whole or not there, and for as long as it is needed.
//!
//! A worker has its package mounted, and a release that was replaced may still be finishing calls, so a package goes only
//! once no route has named it for a while. When a route last did is kept as the time of its folder.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use component::function::Digest;
use component::{Condition, ConditionKind, DriverError, Target};
use functions::route::Route;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

use crate::Local;

/// A call may take 15 minutes; and who goes back soon finds the code there.
const UNUSED: SignedDuration = SignedDuration::from_hours(1);
/// End of the name of a package that is being removed.
const GONE: &str = "gone";

impl Local {
    pub(crate) fn package(&self, package: Digest) -> PathBuf {
        self.packages_folder().join(package.hex())
    }

    fn packages_folder(&self) -> PathBuf {
        self.0.home.join("packages")
    }

    /// Puts the files of a package on the host: whole, or not at all.
    pub(crate) async fn unpack_package(&self, target: &Target, package: Digest) -> Result<(), DriverError> {
        let into = self.package(package);
        // Of its own for each function: several of one package are brought up at once.
        let draft = into.with_extension(format!("new-{}", target.id.handle()));
        let zip = target.files.zip(package).await?;
        let unpacked = tokio::task::spawn_blocking(move || unpack(&zip, package, &into, &draft)).await;
        match unpacked.map_err(|error| DriverError::Unavailable(error.to_string()))? {
            Err(package::UnpackError::Write { source, .. })
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                let message =
                    "the disk of the host is full, so the package cannot be unpacked; free some space on it";
                Err(DriverError::Refused(Condition {
                    kind: ConditionKind::DiskFull,
                    message: message.into(),
                }))
            }
            Err(error) => Err(DriverError::Unavailable(error.to_string())),
            Ok(()) => Ok(()),
        }
    }

    /// Removes packages that no route has named for an hour, and what kills left of others; answers how many.
    ///
    /// # Errors
    /// When a folder cannot be read or removed, or a route cannot be read: then nothing goes.
    pub fn sweep_packages(&self) -> io::Result<usize> {
        let mut named = BTreeSet::new();
        for route in list(&self.functions_folder().join("routes"))? {
            if route.extension().is_some_and(|extension| extension == "json") {
                let route: Route = serde_json::from_slice(&std::fs::read(route)?)?;
                named.extend(route.versions.into_values().map(|version| version.package));
            }
        }
        sweep(&self.packages_folder(), &named, Timestamp::now())
    }
}

fn sweep(folder: &Path, named: &BTreeSet<String>, now: Timestamp) -> io::Result<usize> {
    let mut removed = 0;
    for path in list(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| named.contains(name)) {
            let at = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: at, last_modification: at };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            continue;
        }
        let going = path.extension().is_some_and(|extension| extension == GONE);
        let last = Timestamp::from_second(std::fs::symlink_metadata(&path)?.mtime()).unwrap_or(now);
        if !going && now.duration_since(last) < UNUSED {
            continue;
        }
        // Under another name first: half a package must not be taken for a whole one.
        let gone = path.with_extension(GONE);
        if !going {
            std::fs::rename(&path, &gone)?;
        }
        std::fs::remove_dir_all(&gone)?;
        removed += 1;
    }
    Ok(removed)
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Unpacks beside the place, and moves it there once it is on the disk.
fn unpack(zip: &[u8], package: Digest, into: &Path, draft: &Path) -> Result<(), package::UnpackError> {
    if package::digest(zip) != package {
        let source =
            io::Error::new(io::ErrorKind::InvalidData, "the package in the store is not what it was");
        return Err(package::UnpackError::Write { path: into.to_owned(), source });
    }
    let wrong = |source| package::UnpackError::Write { path: into.to_owned(), source };
    match std::fs::remove_dir_all(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    std::fs::create_dir(draft).map_err(wrong)?;
    package::unpack(zip, draft)?;
    let open = std::fs::File::open(draft).map_err(wrong)?;
    rustix::fs::syncfs(&open).map_err(|error| wrong(error.into()))?;
    crate::fail_point!("driver-local::package-drafted");
    match std::fs::rename(draft, into) {
        // Somebody else was quicker; what is there is the same.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) =>
        {
            std::fs::remove_dir_all(draft).map_err(wrong)
        }
        other => other.map_err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_goes_an_hour_after_it_was_last_named() {
        let folder = tempfile::tempdir().unwrap();
        let there = || {
            let mut names: Vec<_> = list(folder.path()).unwrap();
            names.sort();
            names
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for name in ["a", "b", "c.new-f1", "d.gone"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("index.mjs"), "").unwrap();
        }
        let named: BTreeSet<String> = ["a".to_owned()].into();
        let now = Timestamp::now();
        assert_eq!(sweep(folder.path(), &named, now).unwrap(), 1);
        assert_eq!(there(), ["a", "b", "c.new-f1"]);
        let later = now + SignedDuration::from_mins(61);
        assert_eq!(sweep(folder.path(), &named, later).unwrap(), 2);
        assert_eq!(there(), ["a"]);
        // It was named a moment ago, so it stays for another hour.
        assert_eq!(sweep(folder.path(), &BTreeSet::new(), now).unwrap(), 0);
        assert_eq!(sweep(folder.path(), &BTreeSet::new(), later).unwrap(), 1);
        assert_eq!(there(), Vec::<String>::new());
        assert_eq!(sweep(&folder.path().join("none"), &named, now).unwrap(), 0);
    }
}
