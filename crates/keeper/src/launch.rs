//! Starts a process in two steps, so that a keeper killed at any moment loses no process and doubles none.
//!
//! [`spawn`] clones a child that builds its sandbox, becomes its user and then waits. The keeper meanwhile
//! writes down which process it is and puts it into its cgroups; [`Spawned::release`] lets it go on to the
//! program. If the keeper dies before that, the child reads the end of the pipe and ends as well.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::cgroup::Door;
use crate::sandbox::{self, Failed, Sandbox, While};
use crate::sys::{self, Forked};
use crate::trees::Lock;
use crate::{fail_point, files, record};

/// How long a child may take to its program before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Descriptors that a process may open, where the host's hard limit allows.
const OPEN_FILES: u64 = 65_536;

/// The file that standard output and error go to is moved away at a start when it is larger.
const OUTPUT_BYTES: u64 = 1024 * 1024;

/// Signals that a server gets when it has installed its handlers, not before: as first process of its
/// namespace it would lose them, elsewhere a reload would kill it. PostgreSQL unblocks them itself.
const HELD_BACK: &[Signal] = &[Signal::HUP, Signal::INT, Signal::TERM, Signal::QUIT];

/// Everything about a process, decided before it is made.
pub(crate) struct Plan {
    pub(crate) program: Program,
    /// With the program's own name first.
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// `None` keeps the keeper's, which is not root then.
    pub(crate) user: Option<User>,
    pub(crate) sandbox: Option<Sandbox>,
    /// Folder and name of the file for standard output and error, as the process sees them.
    pub(crate) output: (PathBuf, &'static str),
    pub(crate) hold_signals_back: bool,
    pub(crate) lock: Lock,
}

/// As whom.
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Besides its own.
    pub(crate) groups: Vec<Gid>,
}

/// What is run.
pub(crate) enum Program {
    /// A path as the process sees it.
    Path(CString),
    /// An open file, whose path the process could not reach.
    Open(OwnedFd),
}

/// A process that gets ready and waits to be let go.
pub(crate) struct Held {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    go: OwnedFd,
    /// What it says where it cannot go on; ends when its program has taken over.
    errors: OwnedFd,
}

/// A process of a unit that waits to be let go.
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    /// To say in the lock file who holds it.
    pub(crate) lock_file: OwnedFd,
    held: Held,
}

/// Clones a process into namespaces (and a group of version 2) that does what `child` says; that gets where to wait
/// for the keeper's word by [`wait_for_go`].
pub(crate) fn hold(
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(OwnedFd, &OwnedFd) -> Result<Infallible, Failed>,
) -> std::io::Result<Held> {
    let (ready, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (errors, failed) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match sys::fork(namespaces, cgroup)? {
        Forked::Parent { pid, pidfd } => Ok(Held { pid, pidfd, go, errors }),
        Forked::Child => {
            let Err(error) = child(ready, &failed);
            let _ = File::from(failed).write_all(error.as_bytes());
            sys::exit_now(127)
        }
    }
}

impl Held {
    /// Lets the process go on; how it is known, and what it says where it cannot.
    pub(crate) fn release(self) -> (OwnedFd, OwnedFd) {
        // A child that has failed already has closed its end; what it said is read by whoever asks.
        let _ = rustix::io::write(&self.go, b"g");
        (self.pidfd, self.errors)
    }
}

/// Waits until the keeper has written down which process this is.
pub(crate) fn wait_for_go(ready: OwnedFd) -> Result<(), Failed> {
    if File::from(ready).read(&mut [0u8]).when("wait for the keeper")? == 0 {
        return Err("the keeper has gone".into());
    }
    Ok(())
}

/// Makes the process, which gets ready and waits.
pub(crate) fn spawn(plan: Plan, door: &Door) -> std::io::Result<Spawned> {
    let namespaces = if plan.sandbox.is_some() { sandbox::NAMESPACES } else { 0 };
    let cgroup = door.born_in.as_ref().map(AsFd::as_fd);
    let made = match hold(namespaces, cgroup, |ready, failed| child(&plan, door, ready, failed)) {
        // A group that takes no process is no reason not to start.
        Err(_) if cgroup.is_some() => {
            hold(namespaces, None, |ready, failed| child(&plan, door, ready, failed))
        }
        made => made,
    };
    let held = made?;
    Ok(Spawned { pid: held.pid, lock_file: plan.lock.file, held })
}

impl Spawned {
    /// Lets the process go on and waits until the program has taken over, or says why it has not.
    pub(crate) fn release(self) -> Result<OwnedFd, Failed> {
        let (pidfd, errors) = self.held.release();
        fail_point!("keeper::launch.released");
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        let mut errors = File::from(errors);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).when("time")?;
            let ready = rustix::event::poll(&mut [PollFd::new(&errors, PollFlags::IN)], Some(&timeout));
            match ready {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(n) if n > 0 => {}
                _ => {
                    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                    return Err(format!("its process was not ready within {PATIENCE:?}"));
                }
            }
            let mut chunk = [0u8; 1024];
            match errors.read(&mut chunk).when("read from the launched process")? {
                0 if said.is_empty() => return Ok(pidfd),
                0 => return Err(String::from_utf8_lossy(&said).into_owned()),
                n => said.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
        }
    }
}

/// The child's way to its program; returns only if something went wrong.
fn child(plan: &Plan, door: &Door, ready: OwnedFd, failed: &OwnedFd) -> Result<Infallible, Failed> {
    let (held, file) = (&plan.lock.held, &plan.lock.file);
    let mut keep = vec![ready.as_raw_fd(), failed.as_raw_fd(), held.as_raw_fd(), file.as_raw_fd()];
    if let Program::Open(program) = &plan.program {
        keep.push(program.as_raw_fd());
    }
    keep.extend(door.tasks.iter().map(AsRawFd::as_raw_fd));
    // First of all: the keeper's own lock and the other end of the pipe must not live on in here.
    sys::close_all_but(&keep).when("close descriptors")?;
    // Neither as safe from the kernel as the keeper is, nor what the keeper's parent happened to be.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    for tasks in &door.tasks {
        // The keeper looks whether it worked.
        let _ = rustix::io::write(tasks, b"0");
    }
    if plan.sandbox.is_some() {
        // From inside its group, which so becomes the root that it sees. Not every kernel has it.
        let _ = sys::unshare_cgroup();
    }
    rustix::process::setsid().when("start a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if let Some(sandbox) = &plan.sandbox {
        sandbox.enter()?;
    } else {
        rustix::process::chdir("/").when("enter the root")?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o027));
    limits(OPEN_FILES, 0)?;
    if let Some(user) = &plan.user {
        rustix::thread::set_thread_groups(&user.groups).when("set its groups")?;
        become_user(user.uid, user.gid)?;
    }
    rustix::thread::set_no_new_privs(true).when("forbid new privileges")?;
    output(&plan.output.0, plan.output.1)?;
    rustix::io::fcntl_setfd(held, FdFlags::empty()).when("hand the lock on")?;
    let signals = if plan.hold_signals_back { HELD_BACK } else { &[] };
    sys::default_signals();

    wait_for_go(ready)?;
    sys::block_only(signals).when("set the signal mask")?;
    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).when("note the start")?;
    rustix::io::write(file, record::RAN).when("note the start")?;
    fail_point!("keeper::launch.noted");
    let error = match &plan.program {
        Program::Path(path) => sys::exec(rustix::fs::CWD, path, &plan.args, &plan.env, 0),
        Program::Open(fd) => sys::exec(fd.as_fd(), c"", &plan.args, &plan.env, libc::AT_EMPTY_PATH),
    };
    let name = plan.args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Err(format!("cannot run `{name}`: {error}"))
}

/// No more than so many open files and bytes of a core file.
pub(crate) fn limits(open_files: u64, core: u64) -> Result<(), Failed> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(core), maximum: Some(core) })
        .when("limit core files")?;
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let files = hard.map_or(open_files, |hard| hard.min(open_files));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })
        .when("limit open files")
}

/// Becomes a user for good: no capability left that any program could give back.
pub(crate) fn become_user(uid: u32, gid: u32) -> Result<(), Failed> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not have.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("drop a capability: {error}")),
        }
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).when("change the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).when("change the user")?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).when("drop all capabilities")?;
    rustix::thread::clear_ambient_capability_set().when("drop ambient capabilities")
}

/// Nothing to read from, and a file to write to. Opened as the process's own user, since the folder is
/// its own to put anything into.
fn output(folder: &std::path::Path, name: &str) -> Result<(), Failed> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .when("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).when("redirect")?;
    let dir = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .when("open the log folder")?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let open = || files::open_file(&dir, name, flags, 0o640);
    let mut file = open().when("open the output file")?;
    if file.metadata().when("look at the output file")?.len() > OUTPUT_BYTES {
        let moved = rustix::fs::renameat(&dir, name, &dir, format!("{name}.1"));
        moved.when("move the output file away")?;
        file = open().when("open the output file")?;
    }
    rustix::stdio::dup2_stdout(&file).when("redirect")?;
    rustix::stdio::dup2_stderr(&file).when("redirect")
}
