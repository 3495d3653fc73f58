//! Limits by cgroups. Each controller is looked for by itself, since one host has it in a hierarchy of
//! version 1, another in version 2, and a third not at all: then the limit is not enforced, and said so.
//!
//! Below Stead's folder every unit has a group, and all workers together have one, in which each has its own. Where
//! processors are scarce, all workers together so get as much of them as one server does. On version 1 no unit is in
//! the hierarchy of processors, where what is in no group counts process by process, or session by session, as much
//! as a group does.

mod worker;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use sha2::{Digest, Sha256};

use crate::wire::{Limits, Name};

/// Where one hierarchy keeps Stead's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// `<mount>/stead-<hash of the home>`.
    folder: PathBuf,
    v2: bool,
    memory: bool,
    pids: bool,
    /// Workers' shares of the processors are set in it.
    cpu: bool,
    /// Its groups can be frozen, and workers are frozen in it.
    freezer: bool,
}

/// The hierarchies that have a controller Stead uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Finds the controllers of this host and makes Stead's folder in each; what is missing comes back in
    /// words.
    pub(crate) fn find(home: &Path) -> (Self, Vec<String>) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let digest = Sha256::digest(home.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut said = Vec::new();
        let mounts: Vec<Mount> = mounts.lines().filter_map(parse_mount).collect();
        let v1_freezer = mounts.iter().any(|mount| !mount.v2 && mount.has("freezer"));
        for mount in mounts {
            let known = |of: fn(&Hierarchy) -> bool| hierarchies.iter().any(of);
            let memory = mount.has("memory") && !known(|h| h.memory);
            let pids = mount.has("pids") && !known(|h| h.pids);
            // Every group of version 2 can be frozen, without a controller.
            let freezes = if mount.v2 { !v1_freezer } else { mount.has("freezer") };
            let freezer = freezes && !known(|h| h.freezer);
            let cpu = mount.has("cpu") && !known(|h| h.cpu);
            if !memory && !pids && !cpu && !freezer {
                continue;
            }
            let folder = mount.at.join(format!("stead-{hash}"));
            let mut hierarchy = Hierarchy { folder, v2: mount.v2, memory, pids, cpu, freezer };
            let mut prepared = hierarchy.prepare(&mount.at);
            if cpu && prepared.is_err() {
                // Version 2 has it for no group while a process of real time is about; the others it has.
                hierarchy.cpu = false;
                prepared = hierarchy.prepare(&mount.at);
            }
            match prepared {
                Ok(()) => hierarchies.push(hierarchy),
                Err(error) => {
                    said.push(format!("cgroups at `{}` cannot be used: {error}", mount.at.display()))
                }
            }
        }
        for (name, of) in [
            ("memory", (|h| h.memory) as fn(&Hierarchy) -> bool),
            ("pids", |h| h.pids),
            ("cpu", |h| h.cpu),
            ("freezer", |h| h.freezer),
        ] {
            if hierarchies.iter().any(of) {
                continue;
            }
            said.push(match name {
                "freezer" => "this host has no `freezer` controller: idle workers are not frozen".into(),
                "cpu" => {
                    "this host has no `cpu` controller: a busy worker may hold up everything else".into()
                }
                _ => format!("this host has no `{name}` controller: that limit of units is not enforced"),
            });
        }
        (Self { hierarchies }, said)
    }

    /// Makes the group of a unit and sets its limits. Errors come back in words: a limit that cannot be
    /// set does not keep a server from starting.
    pub(crate) fn make(&self, unit: &Name, limits: &Limits) -> (Door, Vec<String>) {
        let (mut door, mut said) = (Door::default(), Vec::new());
        for hierarchy in self.of_units() {
            let folder = hierarchy.folder.join(unit.as_str());
            let made = hierarchy.set(&folder, limits).and_then(|()| hierarchy.open(&folder, &mut door));
            if let Err(error) = made {
                said.push(format!("limits at `{}` cannot be set: {error}", folder.display()));
            }
        }
        (door, said)
    }

    /// Makes sure that a process, which had a [`Door`], went through it; the slow way where it did not.
    pub(crate) fn ensure_inside(&self, unit: &Name, pid: Pid) -> Vec<String> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut said = Vec::new();
        for hierarchy in self.of_units() {
            let folder = hierarchy.folder.join(unit.as_str());
            if groups.lines().any(|line| hierarchy.is_line_of(line, &folder)) {
                continue;
            }
            let entered = fs::write(folder.join("cgroup.procs"), pid.to_string());
            if let Err(error) = entered {
                said.push(format!("process {pid} cannot be put into `{}`: {error}", folder.display()));
            }
        }
        said
    }

    /// Removes a group, in which nothing lives any more.
    pub(crate) fn remove(&self, group: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            absent_is_fine(fs::remove_dir(hierarchy.folder.join(group)))?;
        }
        Ok(())
    }

    /// Names of units that have a group.
    pub(crate) fn units(&self) -> Vec<String> {
        let mut units = self.groups("");
        units.retain(|group| group != worker::ALL);
        units
    }

    /// Groups in a folder of Stead's.
    fn groups(&self, folder: &str) -> Vec<String> {
        let folders = self.hierarchies.iter().filter_map(|h| fs::read_dir(h.folder.join(folder)).ok());
        let entries = folders.flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The hierarchies that limit units.
    fn of_units(&self) -> impl Iterator<Item = &Hierarchy> {
        self.hierarchies.iter().filter(|hierarchy| hierarchy.memory || hierarchy.pids)
    }

    /// Removes Stead's own folders, when every group is gone.
    pub(crate) fn remove_all(&self) {
        let workers = self.workers();
        workers.iter().for_each(|worker| drop(self.remove_worker(worker)));
        for group in self.groups("") {
            let _ = self.remove(&group);
        }
        for hierarchy in &self.hierarchies {
            let _ = fs::remove_dir(&hierarchy.folder);
        }
    }
}

/// A way into the group of a unit for a process that is about to be made.
///
/// Moving a process by `cgroup.procs` waits for an RCU grace period, 4 to 16 ms. A thread that moves
/// itself alone by version 1's `tasks` does not, nor does a process that is born in a group of version 2.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// `tasks` files, for the process to write `0` to while it has one thread.
    pub(crate) tasks: Vec<OwnedFd>,
    /// A folder of version 2 to be born in.
    pub(crate) born_in: Option<OwnedFd>,
}

impl Hierarchy {
    fn open(&self, folder: &Path, door: &mut Door) -> io::Result<()> {
        if self.v2 {
            door.born_in = Some(fs::File::open(folder)?.into());
        } else {
            door.tasks.push(fs::OpenOptions::new().write(true).open(folder.join("tasks"))?.into());
        }
        Ok(())
    }

    /// Whether a line of `/proc/<pid>/cgroup` says that the process is in this hierarchy's `folder`.
    fn is_line_of(&self, line: &str, folder: &Path) -> bool {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else { return false };
        let has = |name: &str| names.split(',').any(|n| n == name);
        let of = [("memory", self.memory), ("pids", self.pids), ("cpu", self.cpu), ("freezer", self.freezer)];
        let ours = if self.v2 { names.is_empty() } else { of.iter().any(|(name, used)| *used && has(name)) };
        // The path is relative to the hierarchy's root; the folder's last two parts are Stead's own.
        let own: PathBuf = folder.components().rev().take(2).collect::<Vec<_>>().iter().rev().collect();
        ours && Path::new(path).ends_with(own)
    }

    fn controllers(&self) -> String {
        let names = [("+memory", self.memory), ("+pids", self.pids), ("+cpu", self.cpu)];
        names.iter().filter(|(_, used)| *used).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }

    fn prepare(&self, mount: &Path) -> io::Result<()> {
        let workers = self.folder.join(worker::ALL);
        exists_is_fine(fs::create_dir(&self.folder))?;
        exists_is_fine(fs::create_dir(&workers))?;
        if self.v2 && !self.controllers().is_empty() {
            for parent in [mount, &self.folder, &workers] {
                fs::write(parent.join("cgroup.subtree_control"), self.controllers())?;
            }
        }
        Ok(())
    }

    fn set(&self, folder: &Path, limits: &Limits) -> io::Result<()> {
        exists_is_fine(fs::create_dir(folder))?;
        let none = if self.v2 { "max" } else { "-1" };
        if self.memory {
            let file = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
            fs::write(folder.join(file), limits.memory_bytes.map_or(none.into(), |n| n.to_string()))?;
        }
        if self.pids {
            fs::write(folder.join("pids.max"), limits.pids.map_or("max".into(), |n| n.to_string()))?;
        }
        Ok(())
    }
}

/// A hierarchy as it is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    v2: bool,
    /// The options, which name a version 1 hierarchy's controllers; of version 2 its root says which there are.
    options: String,
}

impl Mount {
    fn has(&self, controller: &str) -> bool {
        let controllers = match self.v2 {
            true => fs::read_to_string(self.at.join("cgroup.controllers")).unwrap_or_default(),
            false => self.options.clone(),
        };
        controllers.split([',', ' ', '\n']).any(|c| c == controller)
    }
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = right.nth(1)?.to_owned();
    Some(Mount { at: PathBuf::from(left.split(' ').nth(4)?), v2, options })
}

fn exists_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_to_be_in_its_group() {
        let v1 = Hierarchy {
            folder: "/sys/fs/cgroup/memory/stead-1".into(),
            v2: false,
            memory: true,
            pids: false,
            cpu: false,
            freezer: false,
        };
        let folder = v1.folder.join("pg");
        assert!(v1.is_line_of("4:memory:/stead-1/pg", &folder));
        assert!(!v1.is_line_of("4:memory:/stead-1", &folder));
        assert!(!v1.is_line_of("8:pids:/stead-1/pg", &folder));
        let folder = "/sys/fs/cgroup/stead-1".into();
        let v2 = Hierarchy { folder, v2: true, memory: true, pids: true, cpu: true, freezer: true };
        assert!(v2.is_line_of("0::/stead-1/pg", &v2.folder.join("pg")));
    }

    #[test]
    fn both_versions_are_found_among_mounts() {
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let options = "rw,memory".into();
        let mount = Mount { at: "/sys/fs/cgroup/memory".into(), v2: false, options };
        assert!(mount.has("memory") && !mount.has("pids"));
        assert_eq!(parse_mount(v1), Some(mount));
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse_mount(v2).map(|m| (m.at, m.v2)), Some(("/sys/fs/cgroup".into(), true)));
        assert_eq!(parse_mount("22 27 0:21 / /proc rw,relatime - proc proc rw"), None);
    }
}
