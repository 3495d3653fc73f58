//! A keeper's start: makes sure that it may run here and alone, and that the home is fit.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{Signal, WaitOptions};

use crate::cgroup::Cgroups;
use crate::guard::Guard;
use crate::host::Host;
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::sandbox::NAMESPACES;
use crate::socket::Socket;
use crate::trees::Trees;
use crate::workers::Workers;
use crate::{During, Error, Options, fail_point, files, host, layout, sys, trash};

/// How long a new keeper waits for the lock of one that has just been killed.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A home in which this keeper is the only one, with its folders as they must be.
struct Fit {
    home: PathBuf,
    root: OwnedFd,
    lock: std::fs::File,
    host: Host,
    journal: Journal,
}

impl Keeper {
    /// Makes the home fit, and takes up what an earlier keeper left.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads != 1 {
            return Err(Error::Threads(threads));
        }
        let signals = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];
        sys::block_only(&signals).during(|| "cannot block signals".into())?;
        let signals = sys::signal_fd(&signals).during(|| "cannot wait for signals".into())?;
        let Fit { home, root, lock, host, mut journal } = fit(&options.home)?;
        let (cgroups, said) = if host.isolated { Cgroups::find(&home) } else { Default::default() };
        let lacks = if host.isolated { Workers::lacks() } else { None };
        for line in said.into_iter().chain(lacks).chain(unreachable(&home)) {
            journal.log("warn", None, &line);
        }
        let program = rustix::fs::open(&options.program, OFlags::PATH | OFlags::CLOEXEC, 0.into())
            .during(|| format!("cannot open the program `{}`", options.program.display()))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .during(|| "cannot adopt orphans".into())?;
        let open = |path: &str| files::open_dir(&root, path).during(|| format!("cannot open `{path}`"));
        let workers = open("keeper/workers")?;
        let (state, declared) = (open("keeper/state")?, open("units")?);
        let mut engine_dirs = vec![home.join("engines")];
        engine_dirs.extend(options.engine_dirs.iter().cloned());
        trash::sweep_new(&root, host.control_uid()).during(|| "cannot sweep `keeper/new`".into())?;
        let socket =
            Socket::listen(&home, &host).during(|| "cannot listen at `keeper/keeper.sock`".into())?;
        let trees = Trees { home, root, host };
        let mut runtime_dirs = vec![trees.home.join("runtimes")];
        runtime_dirs.extend(options.runtime_dirs.iter().cloned());
        let taken = trees.taken_uids().during(|| "cannot see which user ids are taken".into())?;
        let workers =
            Workers::new(workers, runtime_dirs, taken).during(|| "cannot filter system calls".into())?;
        let guard = Guard::new(&trees.root, options.watermarks, trees.any_guard())
            .during(|| "cannot watch the disk".into())?;
        let mut keeper = Self {
            trees,
            journal,
            cgroups,
            guard,
            units: BTreeMap::new(),
            workers,
            state,
            declared,
            engine_dirs,
            program,
            draining: None,
            socket,
            signals,
            sweeper: None,
            next_look: Instant::now(),
            looks: 0,
            lock,
        };
        keeper.look_at_disk(true);
        keeper.take_up().during(|| "cannot take up units".into())?;
        keeper.take_up_workers().during(|| "cannot take up workers".into())?;
        keeper.empty_trash();
        Ok(keeper)
    }
}

fn fit(given: &Path) -> Result<Fit, Error> {
    let home = home(given)?;
    let root = rustix::fs::open(&home, OFlags::DIRECTORY | OFlags::CLOEXEC, 0.into())
        .during(|| format!("cannot open `{}`", home.display()))?;
    let lock = only_one(&home, &root)?;
    let new = !files::exists(&root, "host.json").during(|| "cannot look for `host.json`".into())?;
    let host = host::ensure_host(&home)?;
    if host.isolated {
        may_isolate(&home)?;
        // The last process to go when memory runs out, where root may say so.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    }
    let repairs = layout::ensure(&root, &host)?;
    let mut journal = Journal::open(&root, &host)?;
    fail_point!("keeper::open.laid_out");
    journal.event(None, "keeper.started", format!("process {}", std::process::id()));
    for repair in repairs.into_iter().filter(|_| !new) {
        journal.event(None, "keeper.repaired", repair);
    }
    Ok(Fit { home, root, lock, host, journal })
}

/// Root in a container may be root in name only.
fn may_isolate(home: &Path) -> Result<(), Error> {
    match sys::fork(NAMESPACES, None) {
        Ok(sys::Forked::Child) => sys::exit_now(0),
        Ok(sys::Forked::Parent { pid, .. }) => {
            rustix::process::waitpid(Some(pid), WaitOptions::empty())
                .during(|| "cannot wait for a child".into())?;
            Ok(())
        }
        Err(error) => Err(Error::Home {
            home: home.to_owned(),
            why: format!(
                "root cannot make namespaces here ({error}); run the container privileged, or Stead as another user"
            ),
        }),
    }
}

/// The home, made where it is missing, by its real path.
fn home(given: &Path) -> Result<PathBuf, Error> {
    let wrong = |why: &str| Error::Home { home: given.to_owned(), why: why.into() };
    if !given.is_absolute() {
        return Err(wrong("it is not an absolute path"));
    }
    std::fs::create_dir_all(given).during(|| format!("cannot make `{}`", given.display()))?;
    let home = std::fs::canonicalize(given).during(|| format!("cannot find `{}`", given.display()))?;
    if home.as_os_str().len() > 60 {
        return Err(wrong("its path is longer than 60 bytes, too long for sockets below it"));
    }
    if home.to_str().is_none_or(|text| text.contains(['\n', '\'', '"', '\\', ' '])) {
        return Err(wrong("its path holds characters that PostgreSQL's settings cannot carry"));
    }
    Ok(home)
}

/// Makes sure that no other keeper works on this home.
fn only_one(home: &Path, root: &OwnedFd) -> Result<std::fs::File, Error> {
    let locked = || format!("cannot lock `{}/keeper/lock`", home.display());
    files::make_dir(root, "keeper").during(locked)?;
    let dir = files::open_dir(root, "keeper").during(locked)?;
    let mut file = files::open_file(&dir, "lock", OFlags::RDWR | OFlags::CREATE, 0o600).during(locked)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            // A child of a keeper that was killed may hold it for the moment before it closes it.
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                let pause = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let _ = rustix::event::poll(&mut [], Some(&pause));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = files::read(&dir, "lock", 64).unwrap_or_default();
                let pid = String::from_utf8_lossy(&pid).trim().to_owned();
                return Err(Error::AlreadyRunning { pid, home: home.to_owned() });
            }
            Err(error) => return Err(error).during(locked),
        }
    }
    file.set_len(0).during(locked)?;
    io::Write::write_all(&mut file, std::process::id().to_string().as_bytes()).during(locked)?;
    Ok(file)
}

/// Folders above the home that the platform's own users cannot pass.
fn unreachable(home: &Path) -> Vec<String> {
    home.ancestors()
        .skip(1)
        .filter(|path| std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0))
        .map(|path| {
            format!(
                "others cannot pass `{}`: gateway and control plane will not reach their files",
                path.display()
            )
        })
        .collect()
}
