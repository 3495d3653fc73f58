//! A claim: what is done to a worker from the outside, inside its namespaces.
//!
//! The keeper stays where it is; a child that it forks goes in, and the keeper waits for it, not for long. The child
//! touches nothing that the worker could have changed: mount points are the keeper's own, made before the worker ran.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;

use super::{control, launch::TASK, network, proc};
use crate::layers::{Layer, left_out};
use crate::sandbox::{self, Failed, INNER, While};
use crate::sys::{self, Forked};
use crate::wire::{WorkerClaim, WorkerMessage};
use crate::{fail_point, files};

/// It takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Does it, or says why it could not be done.
pub(super) fn claim(
    root: &OwnedFd,
    worker: &OwnedFd,
    socket: &OwnedFd,
    claim: &WorkerClaim,
) -> Result<(), Failed> {
    let (errors, failed) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).when("make a pipe")?;
    match sys::fork(0, None).when("fork")? {
        Forked::Child => {
            let keep = [root, worker, socket, &failed].map(AsRawFd::as_raw_fd);
            let done = sys::close_all_but(&keep).when("close descriptors");
            match done.and_then(|()| inside(root, worker, socket, claim)) {
                Ok(()) => sys::exit_now(0),
                Err(error) => {
                    let _ = File::from(failed).write_all(error.as_bytes());
                    sys::exit_now(1)
                }
            }
        }
        Forked::Parent { pid, pidfd } => {
            drop(failed);
            if !ends_in_time(&pidfd) {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            }
            let status = rustix::process::waitpid(Some(pid), WaitOptions::empty()).when("wait")?;
            if status.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
                return Ok(());
            }
            let mut why = String::new();
            let _ = File::from(errors).take(4096).read_to_string(&mut why);
            Err(if why.is_empty() { format!("it was not done within {PATIENCE:?}") } else { why })
        }
    }
}

fn ends_in_time(process: &OwnedFd) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Ok(left) = Timespec::try_from(deadline.saturating_duration_since(Instant::now())) else {
            return false;
        };
        match rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended.is_ok_and(|n| n > 0),
        }
    }
}

fn inside(root: &OwnedFd, worker: &OwnedFd, socket: &OwnedFd, claim: &WorkerClaim) -> Result<(), Failed> {
    let package = package(root, &claim.package)?;
    let both = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::NETWORK;
    rustix::thread::move_into_thread_name_spaces(worker.as_fd(), both).when("enter its namespaces")?;
    let inner = Path::new("/").join(INNER);
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let target = inner.join(&TASK[1..]);
    rustix::mount::move_mount(&package, "", rustix::fs::CWD, &target, flags).when("mount the package")?;
    fail_point!("keeper::worker.mounted");
    if !left_out(Layer::Sizes) {
        let size = CString::new(format!("size={}", claim.limits.tmp_bytes)).when("size")?;
        let flags = sandbox::allowed(MountFlags::NOSUID | MountFlags::NODEV);
        rustix::mount::mount_remount(inner.join("tmp"), flags, size.as_c_str()).when("resize /tmp")?;
    }
    proc::tell(claim.limits.memory_bytes)?;
    if !claim.egress.is_empty() {
        listeners(socket, claim)?;
    }
    if let Some(sockets) = claim.sockets {
        let made = (0..sockets.get()).map(|_| network::unconnected().when("make a socket"));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        control::say(socket, &WorkerMessage::Sockets, &made).when("hand sockets on")?;
    }
    Ok(())
}

fn listeners(socket: &OwnedFd, claim: &WorkerClaim) -> Result<(), Failed> {
    let listen = |port: &u16| {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
        network::listener(address).when(format!("listen at port {port}"))
    };
    let listeners = claim.egress.iter().map(listen).collect::<Result<Vec<_>, _>>()?;
    control::say(socket, &WorkerMessage::Egress(claim.egress.clone()), &listeners).when("hand listeners on")
}

/// The package as a mount that is not yet anywhere: read-only, without programs that change users, and without devices.
fn package(root: &OwnedFd, name: &str) -> Result<OwnedFd, Failed> {
    let folder = files::open_dir(root, Path::new("packages").join(name)).when("open the package")?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&folder, "", flags).when("take the package")?;
    let flags = [
        (Layer::ReadOnly, libc::MOUNT_ATTR_RDONLY),
        (Layer::NoSuid, libc::MOUNT_ATTR_NOSUID),
        (Layer::NoDev, libc::MOUNT_ATTR_NODEV),
    ];
    let flags = flags.iter().filter(|(layer, _)| !left_out(*layer)).fold(0, |all, (_, flag)| all | flag);
    sys::protect_mount(tree.as_fd(), flags).when("protect the package")?;
    Ok(tree)
}
