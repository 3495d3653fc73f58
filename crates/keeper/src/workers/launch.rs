//! The child's way from a clone of the keeper to a worker's program.
//!
//! Everything that needs the host's privileges comes first: its groups, its root, its network. Then it gives them up,
//! layer by layer, and only sealed does it say that it is ready and wait for what to run. Until that runs, the
//! memory is the keeper's copy and the code the keeper's own.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::mount::MountFlags;

use super::syscalls::Filters;
use super::{control, network, order, proc, seal};
use crate::cgroup::Door;
use crate::launch::{self, Held};
use crate::layers::{Layer, left_out};
use crate::sandbox::{self, Failed, HOSTS, While, dir};
use crate::sys;
use crate::wire::{WorkerMessage, WorkerOrder, WorkerStart};

/// What a worker is told to run is at most this long, bytes.
const START_BYTES: u64 = 1024 * 1024;

/// As many as Lambda allows.
const OPEN_FILES: u64 = 1024;

/// Too small for any core file; and, other than 0, what makes the kernel start no program of the host to take one
/// (`fs/coredump.c`).
const CORE_BYTES: u64 = 1;

/// Size of `/dev/shm`, which counts as memory.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Likelier to be killed than a server when the host's memory runs out.
const OOM_SCORE: &str = "500";

/// `PIPEFS_MAGIC` of Linux: the file system of pipes without a name.
const PIPES: rustix::fs::FsWord = 0x5049_5045;

/// The sandbox's own copy of a worker's package is put here, when it is claimed.
pub(super) const TASK: &str = "/var/task";

/// Everything about a worker's process, decided before it is made.
pub(super) struct Plan {
    pub(super) home: PathBuf,
    pub(super) order: WorkerOrder,
    pub(super) uid: u32,
    /// Folder with the interpreter.
    pub(super) lang: Option<PathBuf>,
    pub(super) filters: Rc<Filters>,
    /// An event, for the process to say that it can be claimed.
    pub(super) stands: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What a process is replaced by.
struct Run {
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Makes the process, which gets ready and waits for its release.
pub(super) fn hold(plan: Plan, door: &Door) -> io::Result<Held> {
    let group = door.born_in.as_ref().map(AsFd::as_fd);
    let mut namespaces = sandbox::NAMESPACES;
    for (layer, namespace) in [
        (Layer::PidNamespace, libc::CLONE_NEWPID),
        (Layer::NetNamespace, libc::CLONE_NEWNET),
        (Layer::IpcNamespace, libc::CLONE_NEWIPC),
    ] {
        if left_out(layer) {
            namespaces &= !namespace;
        }
    }
    launch::hold(namespaces, group, |ready, failed| child(&plan, door, ready, failed))
}

fn child(plan: &Plan, door: &Door, ready: OwnedFd, failed: &OwnedFd) -> Result<Infallible, Failed> {
    let Plan { stands, control, stdin, stdout, stderr, .. } = plan;
    let keep = [stands, control, stdin, stdout, stderr, &ready, failed];
    let mut keep: Vec<_> = keep.map(AsRawFd::as_raw_fd).to_vec();
    keep.extend(door.tasks.iter().map(AsRawFd::as_raw_fd));
    // First of all: the keeper's own lock and the other end of the pipe must not live on in here.
    sys::close_all_but(&keep).when("close descriptors")?;
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    for tasks in &door.tasks {
        rustix::io::write(tasks, b"0").when("enter a group")?;
    }
    // From inside its group, which so becomes the root that it sees. Not every kernel has it.
    let _ = sys::unshare_cgroup();
    rustix::process::setsid().when("start a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let users = enter(plan)?;
    // In the host's network these are the host's own.
    let listeners = match left_out(Layer::NetNamespace) {
        false => network::bring_up().when("bring up the network")?.into(),
        true => Vec::new(),
    };
    streams(plan)?;
    rustix::process::chdir(if left_out(Layer::Root) { "/" } else { TASK })
        .when("enter the folder of the package")?;
    sys::default_signals();
    sys::block_only(&[]).when("set the signal mask")?;
    launch::limits(OPEN_FILES, CORE_BYTES)?;
    seal::become_user(users, plan.uid)?;
    seal::confine(&plan.filters)?;
    launch::wait_for_go(ready)?;
    rustix::io::write(stands, &1u64.to_ne_bytes()).when("say that it can be claimed")?;
    control::say(control, &WorkerMessage::Ready, &listeners).when("say that it is ready")?;
    drop(listeners);
    if left_out(Layer::Descriptors) {
        let _ = rustix::io::dup(control).map(IntoRawFd::into_raw_fd);
    } else {
        // Not even while it waits may it hold what only whoever asked for it shall have.
        sys::close_all_but(&[failed.as_raw_fd()]).when("close descriptors")?;
    }
    let run = match plan.order.program.is_empty() {
        true => wait_for_start()?,
        false => Run::new(&plan.order.program, &plan.order.env)?,
    };
    let path = run.args.first().ok_or("there is nothing to run")?;
    let error = sys::exec(rustix::fs::CWD, path, &run.args, &run.env, 0);
    Err(format!("cannot run `{}`: {error}", path.to_string_lossy()))
}

/// Standard input, output and error; its own, so that it can open them again by `/dev/stdout`.
fn streams(plan: &Plan) -> Result<(), Failed> {
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.uid));
    for stream in [&plan.stdin, &plan.stdout, &plan.stderr] {
        // Nothing else: it might have a name, and so belong to somebody.
        if rustix::fs::fstatfs(stream).is_ok_and(|at| at.f_type == PIPES) {
            rustix::fs::fchown(stream, Some(uid), Some(gid)).when("hand a pipe over")?;
        }
    }
    rustix::stdio::dup2_stdin(&plan.stdin).when("redirect")?;
    rustix::stdio::dup2_stdout(&plan.stdout).when("redirect")?;
    rustix::stdio::dup2_stderr(&plan.stderr).when("redirect")
}

impl Run {
    fn new(program: &[String], env: &std::collections::BTreeMap<String, String>) -> Result<Self, Failed> {
        order::check_run(program, env)?;
        let args = program.iter().map(|arg| CString::new(arg.as_str()));
        let env = env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
        Ok(Self {
            args: args.collect::<Result<_, _>>().when("arguments")?,
            env: env.collect::<Result<_, _>>().when("environment")?,
        })
    }
}

/// Reads from standard input what to run; nothing is left to read there afterwards.
fn wait_for_start() -> Result<Run, Failed> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock().take(START_BYTES);
    io::BufRead::read_until(&mut input, b'\n', &mut line).when("read what to run")?;
    let start: WorkerStart = serde_json::from_slice(&line).when("what to run")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .when("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).when("redirect")?;
    Run::new(&start.program, &start.env)
}

/// Furnishes the root and goes in; the user namespace that it will live in.
fn enter(plan: &Plan) -> Result<OwnedFd, Failed> {
    if left_out(Layer::Root) {
        // The host's, but for a `/proc` that shows its own processes.
        sandbox::keep_mounts_private()?;
        let options = if left_out(Layer::Proc) { &[c""] } else { sandbox::PROCESSES_ALONE };
        sandbox::mount_proc(Path::new("/proc"), options)?;
        rustix::process::chdir("/").when("enter the root")?;
        return seal::user_namespace(plan.uid);
    }
    let options = "mode=0755,size=2m,nr_inodes=512";
    sandbox::enter_new_root(&plan.home, plan.order.worker.as_str(), options, |_| {
        sandbox::system()?;
        etc(plan.uid)?;
        sandbox::devices(if left_out(Layer::Sizes) { 0 } else { SHM_BYTES })?;
        for name in ["opt", "var", &TASK[1..], "var/lang", "var/runtime"] {
            dir(name)?;
        }
        if let Some(lang) = &plan.lang {
            sandbox::bound(lang, Path::new("var/lang"), MountFlags::RDONLY)?;
        }
        for (name, text) in &plan.order.files {
            fs::write(Path::new("var/runtime").join(name), text).when(name)?;
        }
        proc::mount()?;
        dir("tmp")?;
        let size = match left_out(Layer::Sizes) {
            false => format!("mode=1777,size={}", plan.order.limits.tmp_bytes),
            true => "mode=1777".into(),
        };
        sandbox::tmpfs(Path::new("tmp"), &size, MountFlags::NOSUID | MountFlags::NODEV)?;
        // While the root is still whole: from within a part of it the kernel makes no user namespace.
        seal::user_namespace(plan.uid)
    })
}

fn etc(uid: u32) -> Result<(), Failed> {
    let passwd =
        format!("root:x:0:0:root:/:/usr/sbin/nologin\nsbx_user:x:{uid}:{uid}::{TASK}:/usr/sbin/nologin\n");
    sandbox::etc(
        &["ssl/certs"],
        &[
            ("passwd", passwd.as_str()),
            ("group", &format!("root:x:0:\nsbx_user:x:{uid}:\n")),
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
            ("resolv.conf", "nameserver 127.0.0.1\n"),
            ("hosts", HOSTS),
        ],
    )
}
