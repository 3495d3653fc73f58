//! A worker's `/proc`: its own processes, and what runtimes read of the machine they are on.
//!
//! A runtime sizes itself by `/proc/meminfo` and `/proc/stat`, so a worker cannot do without. What the kernel says there
//! is of the whole host, though: how busy it is, and so what other workers do. So every entry at the root of `/proc`, as
//! this very kernel has them, is covered by another mount: some by a [text](Texts) of the keeper's, which tells of a
//! machine that is idle and, from the claim on, as large as the worker's limit; the others by nothing. What
//! [is shown](SHOWN) is the same for everybody. Of `/proc/sys` there are [copies](COPIED), which nothing can be set by.
//!
//! What covers lies in a folder of the namespace's root, outside of the worker's own, and is seen through mounts that
//! cannot be written to; only a [claim](tell) writes there.
//!
//! Not hidden: the kinds of processors, when the host booted (clocks say so), and its memory and mean load by the call
//! `sysinfo`, whose answer C libraries use without a look at whether there was one. An entry that a kernel gets later,
//! with a module, is seen by workers that live then.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mount::MountFlags;

use crate::layers::{Layer, left_out};
use crate::sandbox::{self, Failed, While, dir};

/// Entries that are as the kernel has them.
const SHOWN: &[&str] = &["cpuinfo", "filesystems", "version"];

/// Of `/proc/sys` what runtimes read.
const COPIED: &[&str] = &[
    "fs/pipe-max-size",
    "kernel/cap_last_cap",
    "kernel/hostname",
    "kernel/ngroups_max",
    "kernel/osrelease",
    "kernel/ostype",
    "kernel/pid_max",
    "kernel/threads-max",
    "kernel/version",
    "net/core/somaxconn",
    "vm/max_map_count",
    "vm/overcommit_memory",
];

/// Folders of [`COPIED`], parents first, and of [`RANDOM`].
const FOLDERS: &[&str] =
    &["sys", "sys/fs", "sys/kernel", "sys/kernel/random", "sys/net", "sys/net/core", "sys/vm"];

/// Whose files say something else each time.
const RANDOM: &str = "sys/kernel/random";

/// Where the texts are, from the namespace's root.
const TEXTS: &str = "texts";

/// The same, to be seen through: read-only.
const COVERS: &str = "covers";

/// An empty file and an empty folder, which cover what is not shown.
const NOTHING: (&str, &str) = ("nothing", "empty");

/// Size of the texts, bytes.
const TEXTS_BYTES: u64 = 256 * 1024;

/// Mounts it in the worker's new root, the current folder.
pub(super) fn mount() -> Result<(), Failed> {
    dir("proc")?;
    let proc = Path::new("proc");
    if left_out(Layer::Proc) {
        return sandbox::mount_proc(proc, &[c""]);
    }
    sandbox::mount_proc(proc, sandbox::OWN_PROCESSES)?;
    let (texts, covers) = (Path::new("..").join(TEXTS), Path::new("..").join(COVERS));
    write(proc, &texts)?;
    let quiet = MountFlags::NOEXEC | MountFlags::RDONLY;
    dir(&covers)?;
    sandbox::bound(&texts, &covers, quiet)?;
    sandbox::bound(&proc.join(RANDOM), &covers.join(RANDOM), quiet)?;
    for entry in fs::read_dir(proc).when("list /proc")? {
        let entry = entry.when("list /proc")?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().when("list /proc")?;
        let process = name.bytes().all(|b| b.is_ascii_digit());
        // A link leads to what is covered, or to a process.
        if process || kind.is_symlink() || SHOWN.contains(&name.as_ref()) {
            continue;
        }
        cover(&covers, proc, &name, kind.is_dir())?;
    }
    Ok(())
}

/// What is mounted with the right flags is bound with them.
fn cover(covers: &Path, proc: &Path, name: &str, folder: bool) -> Result<(), Failed> {
    let what = match name {
        "sys" | "meminfo" | "stat" | "loadavg" | "uptime" => name,
        _ if folder => NOTHING.1,
        _ => NOTHING.0,
    };
    let (what, at) = (covers.join(what), proc.join(name));
    match name {
        "sys" => rustix::mount::mount_bind_recursive(&what, &at),
        _ => rustix::mount::mount_bind(&what, &at),
    }
    .when(format!("cover {}", at.display()))
}

/// Writes what covers, of what the real `/proc` says.
fn write(proc: &Path, texts: &Path) -> Result<(), Failed> {
    dir(texts)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    sandbox::tmpfs(texts, &format!("mode=0755,size={TEXTS_BYTES},nr_inodes=64"), flags)?;
    let put = |name: &str, text: &[u8]| fs::write(texts.join(name), text).when(name);
    put(NOTHING.0, b"")?;
    dir(texts.join(NOTHING.1))?;
    let system = rustix::system::sysinfo();
    // Whoever starts before the claim may settle its own limits for good, as Node does that of its heap.
    put("meminfo", meminfo(system.totalram * u64::from(system.mem_unit)).as_bytes())?;
    put("stat", stat(&fs::read_to_string(proc.join("stat")).when("read /proc/stat")?).as_bytes())?;
    put("loadavg", b"0.00 0.00 0.00 1/1 1\n")?;
    put("uptime", uptime().as_bytes())?;
    for folder in FOLDERS {
        dir(texts.join(folder))?;
    }
    for name in COPIED {
        let name = Path::new("sys").join(name);
        match fs::read(proc.join(&name)) {
            Ok(text) => fs::write(texts.join(&name), text).when("copy of /proc/sys")?,
            // Not every kernel has every one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("read {}: {error}", name.display())),
        }
    }
    Ok(())
}

/// Tells a worker of the memory that it has been given. Called in its namespaces, from outside of its root.
pub(super) fn tell(memory_bytes: u64) -> Result<(), Failed> {
    if left_out(Layer::Proc) {
        return Ok(());
    }
    // Over the old text, which is as long or shorter: nobody ever reads half of one.
    for (name, text) in [("meminfo", meminfo(memory_bytes)), ("uptime", uptime())] {
        let path = Path::new("/").join(TEXTS).join(name);
        let file = fs::OpenOptions::new().write(true).open(path).when(name)?;
        file.write_all_at(text.as_bytes(), 0).when(name)?;
    }
    Ok(())
}

/// `/proc/meminfo` of a machine of which nothing is used; of the same length for every size.
fn meminfo(bytes: u64) -> String {
    let kib = bytes / 1024;
    let all = [("MemTotal:", kib), ("MemFree:", kib), ("MemAvailable:", kib)];
    let none = [
        "Buffers:",
        "Cached:",
        "SwapCached:",
        "Active:",
        "Inactive:",
        "SwapTotal:",
        "SwapFree:",
        "Dirty:",
        "Writeback:",
        "AnonPages:",
        "Mapped:",
        "Shmem:",
        "Slab:",
        "SReclaimable:",
        "SUnreclaim:",
    ];
    let lines = all.into_iter().chain(none.map(|name| (name, 0)));
    lines.map(|(name, kib)| format!("{name:<16}{kib:>16} kB\n")).collect()
}

/// `/proc/stat` with the host's processors and the time of its boot, which the start times of processes count from, and
/// without whatever anybody did since.
fn stat(real: &str) -> String {
    let lines = real.lines().filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        match name {
            "btime" => Some(format!("{line}\n")),
            _ if name.starts_with("cpu") => {
                Some(format!("{name}{}\n", " 0".repeat(rest.split_ascii_whitespace().count())))
            }
            "intr" | "ctxt" | "softirq" | "procs_blocked" => Some(format!("{name} 0\n")),
            "processes" | "procs_running" => Some(format!("{name} 1\n")),
            _ => None,
        }
    });
    lines.collect()
}

/// `/proc/uptime` of now; how long the processors had nothing to do is nobody's business.
fn uptime() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    format!("{}.{:02} 0.00\n", now.tv_sec, now.tv_nsec / 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_anybody_did_is_in_the_statistics() {
        let real = "cpu  1 2 3 4\ncpu0 1 2 3 4\ncpu1 0 0 9 9\nintr 7 1 2\nctxt 5\nbtime 1795383469\n\
                    processes 9\nprocs_running 3\nprocs_blocked 1\nsoftirq 3 1 1\nfuture 4\n";
        let told = "cpu 0 0 0 0\ncpu0 0 0 0 0\ncpu1 0 0 0 0\nintr 0\nctxt 0\nbtime 1795383469\n\
                    processes 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0\n";
        assert_eq!(stat(real), told);
    }

    #[test]
    fn one_text_of_memory_goes_over_another() {
        let lengths = [1 << 24, 10 << 30, 1 << 46].map(|bytes| meminfo(bytes).len());
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{lengths:?}");
        assert!(meminfo(256 << 20).starts_with("MemTotal:                 262144 kB\n"));
    }
}
