//! The few system calls that have no safe form: everything `unsafe` of this crate.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, Signal};

/// Ends this process at once, without running anything.
#[expect(unsafe_code, reason = "_exit has no safe form")]
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// Dies as by `kill -9`; what a fail point does.
#[allow(dead_code, reason = "used only where fail points are compiled in")]
pub(crate) fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    // The first process of a namespace cannot kill itself by signal.
    exit_now(137)
}

/// Larger than the type that the `libc` crate gives its flags.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What `clone` came back as.
pub(crate) enum Forked {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// `fork`, into new namespaces (`CLONE_NEW…`) and a cgroup of version 2 (its folder), with a pidfd of
/// the child for the parent.
///
/// The caller must have one thread: then the child may go on with everything, allocation included.
#[expect(unsafe_code, reason = "clone3 has no safe form")]
pub(crate) fn fork(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let flags = u64::from(namespaces.unsigned_abs()) | u64::from(libc::CLONE_PIDFD.unsigned_abs());
    // SAFETY: all zeroes is a valid `clone_args`: every field is an integer and zero means "none".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    // SAFETY: `args` and `pidfd` live through the call and have the sizes the kernel is told. Without
    // CLONE_VM and without a stack of its own the child goes on from here in a copy of this memory, as
    // after `fork`; this process has one thread, so no lock is left behind held.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel has just put a new descriptor there, which nothing else owns.
            Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Replaces this process by the program behind a descriptor (`path` empty) or at a path.
#[expect(unsafe_code, reason = "execveat has no safe form")]
pub(crate) fn exec(
    program: BorrowedFd<'_>,
    path: &CStr,
    args: &[CString],
    env: &[CString],
    flags: i32,
) -> io::Error {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const libc::c_char>>()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null pointer and point to strings that live through the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            path.as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            flags,
        )
    };
    io::Error::last_os_error()
}

/// Closes every descriptor from 3 on but those given.
#[expect(unsafe_code, reason = "close_range has no safe form")]
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from = 3u32;
    for end in keep.into_iter().map(Some).chain([None]) {
        let last = end.map_or(u32::MAX, |fd| fd.saturating_sub(1));
        if from <= last {
            // SAFETY: closes descriptors of the calling process, which is a child that owns none of them
            // in a value that would be dropped: it ends by `exec` or `_exit`.
            if unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        from = from.max(end.map_or(u32::MAX, |fd| fd + 1));
    }
    Ok(())
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    #[expect(unsafe_code, reason = "signal sets have no safe form")]
    // SAFETY: a zeroed set is made valid by `sigemptyset` before use, and signal numbers are valid ones.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        set
    }
}

/// Blocks exactly these signals for this thread.
#[expect(unsafe_code, reason = "sigprocmask has no safe form")]
pub(crate) fn block_only(signals: &[Signal]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: `set` is valid and the old mask is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives every signal its default action again, since `exec` inherits what is ignored: SIGPIPE by Rust's start-up
/// code, others by whoever started the keeper (a shell's job in the background ignores SIGINT).
#[expect(unsafe_code, reason = "signal has no safe form")]
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: installs no handler. It refuses what cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A descriptor that becomes readable when one of these signals, which must be blocked, has arrived.
#[expect(unsafe_code, reason = "signalfd has no safe form")]
pub(crate) fn signal_fd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: `set` is valid; -1 asks for a new descriptor, which nothing else owns.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the signals that have arrived from [`signal_fd`].
pub(crate) fn arrived(fd: &OwnedFd) -> Vec<Signal> {
    let mut signals = Vec::new();
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    while let Ok(n) = rustix::io::read(fd, &mut buffer) {
        if n < buffer.len() {
            break;
        }
        // The first field is the signal's number.
        let number = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        signals.extend(i32::try_from(number).ok().and_then(Signal::from_named_raw));
    }
    signals
}

/// Leaves for a new cgroup namespace, so that the host's cgroup paths are not seen.
#[expect(unsafe_code, reason = "unshare has no safe form")]
pub(crate) fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: a new cgroup namespace changes nothing that memory safety depends on.
    match unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a mount that is nowhere yet these attributes (`MOUNT_ATTR_…`), and makes it the namespace's own.
#[expect(unsafe_code, reason = "mount_setattr has no safe form")]
pub(crate) fn protect_mount(mount: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: flags, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the empty path and the attributes live through the call and have the size that the kernel is told.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_process_is_born_in_a_group_of_version_2() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let Some(mount) = line.and_then(|line| line.split(' ').nth(4)) else {
            // Nothing to be born in: a host with version 1 alone.
            return;
        };
        let folder = format!("{mount}/stead-born-{}", std::process::id());
        if std::fs::create_dir(&folder).is_err() {
            assert!(!rustix::process::geteuid().is_root(), "root can make groups");
            return;
        }
        let group = std::fs::File::open(&folder).unwrap();
        let (until, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        match fork(0, Some(group.as_fd())).unwrap() {
            Forked::Child => {
                drop(end);
                let _ = std::fs::File::from(until).read(&mut [0]);
                exit_now(0);
            }
            Forked::Parent { pid, .. } => {
                let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
                drop(end);
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
                std::fs::remove_dir(&folder).unwrap();
                assert!(groups.contains("/stead-born-"), "{groups}");
            }
        }
    }
}
