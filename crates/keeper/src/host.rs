//! Which machine this is, as `host.json` says, and which user ids belong to Stead on it.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::wire::Tree;
use crate::{During, Error, fail_point, files};

/// User ids that Stead takes for itself are looked for in here: beyond what distributions, directory
/// services and containers hand out (systemd names 1_879_048_192 as the end of its foreign ranges),
/// below 2^31, where old programs still work.
const CANDIDATES: Range<u32> = 1_900_000_000..2_100_000_000;

/// How many user ids a host has: the platform's and one for every tree.
const COUNT: u32 = 4096;

/// Ids at the beginning of the range that are the platform's own.
const PLATFORM: u32 = 16;

/// Ids at the end of the range that are workers'.
const WORKERS: u32 = 1024;

/// The machine as Stead knows it; written once, by the first keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name, which components are placed by.
    #[serde(rename = "host")]
    pub name: String,
    /// The first of its user ids, the control plane's.
    pub uid_first: u32,
    /// How many they are.
    pub uid_count: u32,
    /// Whether every server has a user, namespaces and limits of its own: whether the keeper is root.
    pub isolated: bool,
}

impl Host {
    /// Reads `host.json` of a home.
    pub fn read(home: &Path) -> Result<Self, Error> {
        let path = home.join("host.json");
        let bytes = std::fs::read(&path).during(|| format!("cannot read `{}`", path.display()))?;
        Self::parse(home, &bytes)
    }

    fn parse(home: &Path, bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|error| Error::Home {
            home: home.to_owned(),
            why: format!("its host.json cannot be read ({error}); restore it from a copy"),
        })
    }

    /// The user that the control plane runs as ("stead-control").
    pub fn control_uid(&self) -> u32 {
        if self.isolated { self.uid_first } else { geteuid().as_raw() }
    }

    /// The user that the gateway runs as ("stead-gateway").
    pub fn gateway_uid(&self) -> u32 {
        if self.isolated { self.uid_first + 1 } else { geteuid().as_raw() }
    }

    /// The user that the function front door runs as ("stead-functions").
    pub fn functions_uid(&self) -> u32 {
        if self.isolated { self.uid_first + 2 } else { geteuid().as_raw() }
    }

    /// That user's own group, of the same number: what it holds is not the group "stead"'s to read.
    pub fn functions_gid(&self) -> u32 {
        if self.isolated { self.uid_first + 2 } else { getegid().as_raw() }
    }

    /// The user that the relay to servers elsewhere runs as ("stead-relay").
    pub fn relay_uid(&self) -> u32 {
        if self.isolated { self.uid_first + 3 } else { geteuid().as_raw() }
    }

    /// That user's own group, of the same number, and the only one that it is in.
    pub fn relay_gid(&self) -> u32 {
        if self.isolated { self.uid_first + 3 } else { getegid().as_raw() }
    }

    /// The group of the control plane and the gateway ("stead").
    pub fn gid(&self) -> u32 {
        if self.isolated { self.uid_first } else { getegid().as_raw() }
    }

    /// Where the processes of a tree see it: `/stead`, or its real folder where they are not isolated.
    pub fn seen_at(&self, home: &Path, tree: &Tree) -> PathBuf {
        if self.isolated { PathBuf::from("/stead") } else { tree_dir(home, tree) }
    }

    /// The owner and group of what is root's.
    pub(crate) fn root(&self) -> (u32, u32) {
        if self.isolated { (0, 0) } else { (geteuid().as_raw(), getegid().as_raw()) }
    }

    /// The user ids that trees may have. New ones get none of [`Self::worker_uids`], which older ones may have.
    pub(crate) fn tree_uids(&self) -> Range<u32> {
        if self.isolated {
            self.uid_first + PLATFORM..self.uid_first + self.uid_count
        } else {
            geteuid().as_raw()..geteuid().as_raw() + 1
        }
    }

    /// The user ids that workers may have: the last of the range.
    pub(crate) fn worker_uids(&self) -> Range<u32> {
        let end = self.uid_first + self.uid_count;
        let count = if self.isolated { WORKERS.min(self.uid_count - PLATFORM) } else { 0 };
        end - count..end
    }
}

/// The folder of a tree.
pub fn tree_dir(home: &Path, tree: &Tree) -> PathBuf {
    home.join(relative(tree))
}

/// The folder of a tree below the home.
pub(crate) fn relative(tree: &Tree) -> PathBuf {
    match tree {
        Tree::Servers(name) => Path::new("servers").join(name.as_str()),
        Tree::Spares(name) => Path::new("spares").join(name.as_str()),
        Tree::Control => PathBuf::from("control"),
    }
}

/// Reads `host.json` of a home, or makes it where this is the first keeper's start.
pub fn ensure_host(home: &Path) -> Result<Host, Error> {
    let root = rustix::fs::open(home, rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC, 0.into())
        .during(|| format!("cannot open `{}`", home.display()))?;
    let isolated = geteuid().is_root();
    let host = match files::read(&root, "host.json", 64 * 1024) {
        Ok(bytes) => Host::parse(home, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let host = first(&root, isolated).during(|| "cannot choose user ids for this host".into())?;
            write(&root, &host).during(|| format!("cannot write `{}/host.json`", home.display()))?;
            host
        }
        Err(source) => {
            return Err(Error::Io { what: format!("cannot read `{}/host.json`", home.display()), source });
        }
    };
    if host.isolated != isolated {
        let why = if host.isolated {
            "it was made by root; run the keeper as root"
        } else {
            "it was made without root; run the keeper as its owner, or use an empty folder"
        };
        return Err(Error::Home { home: home.to_owned(), why: why.into() });
    }
    let fits = host.uid_first.checked_add(host.uid_count).is_some() && host.uid_first >= 1000;
    if isolated && !(fits && host.uid_count > PLATFORM) {
        let why = "its host.json names user ids that cannot be Stead's; restore it from a copy";
        return Err(Error::Home { home: home.to_owned(), why: why.into() });
    }
    Ok(host)
}

/// The one file that cannot be rebuilt by looking: it reaches the disk before anything has these ids.
fn write(root: impl AsFd, host: &Host) -> io::Result<()> {
    let root = root.as_fd();
    files::write_atomic(root, "host.json", &serde_json::to_vec(host)?, 0o644)?;
    fail_point!("keeper::host.written");
    rustix::fs::fsync(files::open_file(root, "host.json", rustix::fs::OFlags::RDONLY, 0)?)?;
    Ok(rustix::fs::fsync(root)?)
}

fn first(root: impl AsFd, isolated: bool) -> io::Result<Host> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if !isolated {
        return Ok(Host { name, uid_first: geteuid().as_raw(), uid_count: 1, isolated });
    }
    // A host.json deleted by hand: the folders still say whose they are.
    let owner = files::open_dir(root, "servers").and_then(files::access).map(|access| access.uid);
    let uid_first = match owner {
        Ok(uid) if CANDIDATES.contains(&uid) && uid.is_multiple_of(COUNT) => uid,
        _ => free_range(&taken())?,
    };
    Ok(Host { name, uid_first, uid_count: COUNT, isolated })
}

/// Ids that somebody on this machine has or may hand out: (first, count).
fn taken() -> BTreeSet<(u32, u32)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut ranges = BTreeSet::new();
    for path in ["/etc/passwd", "/etc/group"] {
        let text = read(path);
        ranges.extend(text.lines().filter_map(|l| l.split(':').nth(2)?.parse().ok()).map(|id| (id, 1)));
    }
    for path in ["/etc/subuid", "/etc/subgid"] {
        ranges.extend(read(path).lines().filter_map(|line| {
            let mut fields = line.split(':').skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        }));
    }
    ranges
}

fn free_range(taken: &BTreeSet<(u32, u32)>) -> io::Result<u32> {
    for _ in 0..1000 {
        let mut random = [0u8; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let slots = (CANDIDATES.end - CANDIDATES.start) / COUNT;
        let first = (CANDIDATES.start.div_ceil(COUNT) + u32::from_ne_bytes(random) % slots) * COUNT;
        let fits = first >= CANDIDATES.start && first + COUNT <= CANDIDATES.end;
        if fits && taken.iter().all(|(id, count)| first + COUNT <= *id || id.saturating_add(*count) <= first)
        {
            return Ok(first);
        }
    }
    Err(io::Error::other("no free range of 4096 user ids between 1900000000 and 2100000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_avoids_ids_that_are_taken() {
        let half = (1_900_000_000, 100_000_000);
        for _ in 0..50 {
            let first = free_range(&BTreeSet::from([half])).unwrap();
            assert!(first >= 2_000_000_000 && first + COUNT <= 2_100_000_000 && first.is_multiple_of(COUNT));
        }
        assert!(free_range(&BTreeSet::from([(0, u32::MAX)])).is_err());
    }
}
