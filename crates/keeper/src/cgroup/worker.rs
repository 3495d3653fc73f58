//! Groups of workers: limits without a way out by swap, shares of the processors by memory, the freezer, and what the
//! kernel counted.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Cgroups, Door, Hierarchy, exists_is_fine};
use crate::layers::{Layer, left_out};
use crate::wire::{Group, Name, WorkerLimits};

/// The group that all workers are in. A dot is in no unit's name, so that no unit's group can have this one's.
pub(super) const ALL: &str = "all.workers";

/// With so many bytes of memory a worker counts as much as a process that is in no group: Lambda gives one processor
/// for it.
const ONE_PROCESSOR_BYTES: u64 = 1769 * 1024 * 1024;

/// What the kernel counted of a worker.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Whether it killed something for want of memory.
    pub(crate) out_of_memory: bool,
    /// The most bytes of memory, where that is counted.
    pub(crate) memory_peak_bytes: Option<u64>,
}

impl Cgroups {
    /// Makes the group of a worker, with its limits, and opens the way into it. A limit that a host can enforce and
    /// that cannot be set is an error here: what runs in a worker is a stranger's.
    pub(crate) fn make_worker(&self, worker: &Name, limits: &WorkerLimits) -> io::Result<Door> {
        let mut door = Door::default();
        for hierarchy in self.of_workers() {
            let folder = hierarchy.folder.join(group(worker));
            exists_is_fine(fs::create_dir(&folder))?;
            hierarchy.limit_worker(&folder, limits)?;
            hierarchy.open(&folder, &mut door)?;
        }
        Ok(door)
    }

    /// Gives a worker other limits.
    pub(crate) fn limit_worker(&self, worker: &Name, limits: &WorkerLimits) -> io::Result<()> {
        self.of_workers()
            .try_for_each(|hierarchy| hierarchy.limit_worker(&hierarchy.folder.join(group(worker)), limits))
    }

    fn of_workers(&self) -> impl Iterator<Item = &Hierarchy> {
        let wanted = |h: &&Hierarchy| h.memory || h.pids || h.freezer || !left_out(Layer::Shares);
        self.hierarchies.iter().filter(wanted)
    }

    /// What lets somebody else freeze a worker and see its use of memory.
    pub(crate) fn handles(&self, worker: &Name) -> Vec<(Group, OwnedFd)> {
        let mut handles = Vec::new();
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.folder.join(group(worker));
            if hierarchy.freezer {
                let kind = if hierarchy.v2 { Group::FreezerV2 } else { Group::FreezerV1 };
                let file = fs::OpenOptions::new().write(true).open(folder.join(hierarchy.freezer_file()));
                handles.extend(file.ok().map(|file| (kind, file.into())));
            }
            if hierarchy.memory {
                let file = fs::File::open(folder.join(hierarchy.peak_file()));
                handles.extend(file.ok().map(|file| (Group::MemoryPeak, file.into())));
            }
        }
        handles
    }

    /// Lets a worker run again: what is frozen does not even die.
    pub(crate) fn thaw(&self, worker: &Name) {
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| hierarchy.freezer) {
            let file = hierarchy.folder.join(group(worker)).join(hierarchy.freezer_file());
            // It may be gone already.
            let _ = fs::write(file, if hierarchy.v2 { "0" } else { "THAWED" });
        }
    }

    /// What was counted, read before the group goes.
    pub(crate) fn tally(&self, worker: &Name) -> Tally {
        let Some(hierarchy) = self.hierarchies.iter().find(|hierarchy| hierarchy.memory) else {
            return Tally::default();
        };
        let folder = hierarchy.folder.join(group(worker));
        let events = if hierarchy.v2 { "memory.events" } else { "memory.oom_control" };
        let kills = fs::read_to_string(folder.join(events)).ok().and_then(|text| parse_kills(&text));
        let peak = fs::read_to_string(folder.join(hierarchy.peak_file()));
        Tally {
            out_of_memory: kills.is_some_and(|kills| kills > 0),
            memory_peak_bytes: peak.ok().and_then(|text| text.trim().parse().ok()),
        }
    }

    /// Removes the group of a worker, in which nothing lives any more.
    pub(crate) fn remove_worker(&self, worker: &Name) -> io::Result<()> {
        self.remove(&group(worker))
    }

    /// Workers that have a group.
    pub(crate) fn workers(&self) -> Vec<Name> {
        self.groups(ALL).into_iter().filter_map(|group| Name::parse(group).ok()).collect()
    }
}

fn group(worker: &Name) -> String {
    format!("{ALL}/{worker}")
}

/// A weight in proportion to memory, where `one` is the usual one and what the kernel allows has bounds.
fn weight(memory_bytes: u64, one: u64, bounds: RangeInclusive<u64>) -> String {
    let weight = memory_bytes.saturating_mul(one) / ONE_PROCESSOR_BYTES;
    weight.clamp(*bounds.start(), *bounds.end()).to_string()
}

/// `oom_kill` of `memory.oom_control` or `memory.events`.
fn parse_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

impl Hierarchy {
    fn freezer_file(&self) -> &'static str {
        if self.v2 { "cgroup.freeze" } else { "freezer.state" }
    }

    fn peak_file(&self) -> &'static str {
        if self.v2 { "memory.peak" } else { "memory.max_usage_in_bytes" }
    }

    fn limit_worker(&self, folder: &Path, limits: &WorkerLimits) -> io::Result<()> {
        if left_out(Layer::Limits) {
            return Ok(());
        }
        if self.pids {
            fs::write(folder.join("pids.max"), limits.pids.to_string())?;
        }
        if self.cpu {
            let (file, weight) = match self.v2 {
                false => ("cpu.shares", weight(limits.memory_bytes, 1024, 2..=262_144)),
                true => ("cpu.weight", weight(limits.memory_bytes, 100, 1..=10_000)),
            };
            fs::write(folder.join(file), weight)?;
        }
        if !self.memory {
            return Ok(());
        }
        let bytes = limits.memory_bytes.to_string();
        if self.v2 {
            fs::write(folder.join("memory.max"), &bytes)?;
            return if_there(fs::write(folder.join("memory.swap.max"), "0"));
        }
        // Memory and swap together may never be less than memory alone, so the order depends on where they come from;
        // the second time round both orders have been tried.
        let (memory, both) =
            (folder.join("memory.limit_in_bytes"), folder.join("memory.memsw.limit_in_bytes"));
        let raised = fs::write(&memory, &bytes).is_err();
        if_there(fs::write(&both, &bytes))?;
        if raised { fs::write(&memory, &bytes) } else { Ok(()) }
    }
}

/// A kernel that does not count swap has none of the file.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_unit_has_the_workers_group() {
        assert!(Name::parse(ALL).is_err());
    }

    #[test]
    fn processors_are_shared_by_memory() {
        let shares = [0, 128, 256, 1024, 1769, 10_240, 1 << 40]
            .map(|mib| weight(mib << 20, 1024, 2..=262_144).parse::<u64>().unwrap());
        assert_eq!(shares, [2, 74, 148, 592, 1024, 5927, 262_144]);
        assert_eq!(weight(16 << 20, 100, 1..=10_000), "1");
        assert_eq!(weight(1769 << 20, 100, 1..=10_000), "100");
    }

    /// Version 2 alone, which not every machine that runs these tests has its controllers in.
    #[test]
    fn a_group_of_version_2_freezes() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let Some(mount) = mounts.lines().filter_map(super::super::parse_mount).find(|mount| mount.v2) else {
            return;
        };
        let folder = mount.at.join(format!("stead-freezes-{}", std::process::id()));
        let hierarchy = Hierarchy {
            folder: folder.clone(),
            v2: true,
            memory: false,
            pids: false,
            cpu: false,
            freezer: true,
        };
        if hierarchy.prepare(&mount.at).is_err() {
            assert!(!rustix::process::geteuid().is_root(), "root can make groups");
            return;
        }
        let groups = Cgroups { hierarchies: vec![hierarchy] };
        let worker = Name::parse("a").unwrap();
        let limits = WorkerLimits { memory_bytes: 1 << 26, tmp_bytes: 1, pids: 1 };
        let door = groups.make_worker(&worker, &limits).unwrap();
        let (until, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        match crate::sys::fork(0, door.born_in.as_ref().map(std::os::fd::AsFd::as_fd)).unwrap() {
            crate::sys::Forked::Child => {
                drop(end);
                let _ = io::Read::read(&mut fs::File::from(until), &mut [0]);
                crate::sys::exit_now(0);
            }
            crate::sys::Forked::Parent { pid, .. } => {
                let [(kind, file)] = <[_; 1]>::try_from(groups.handles(&worker)).unwrap();
                assert_eq!(kind, Group::FreezerV2);
                rustix::io::write(&file, b"1").unwrap();
                let frozen = || fs::read_to_string(folder.join(ALL).join("a/cgroup.events")).unwrap();
                while !frozen().contains("frozen 1") {}
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                groups.thaw(&worker);
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
                drop(end);
            }
        }
        assert_eq!(groups.tally(&worker), Tally::default());
        assert_eq!(groups.workers(), std::slice::from_ref(&worker));
        assert!(groups.units().is_empty());
        groups.remove_worker(&worker).unwrap();
        groups.remove_all();
        assert!(!folder.exists());
    }

    #[test]
    fn kills_are_read_in_both_versions() {
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(parse_kills("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
