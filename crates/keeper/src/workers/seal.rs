//! What a worker gives up before anything of a stranger runs in it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;
use rustix::thread::LinkNameSpaceType;

use crate::launch;
use crate::sandbox::{Failed, While};
use crate::sys::{self, Forked};

/// A user namespace in which one user and its group exist, each as itself, and root does not.
///
/// Called in the new root's folder, with `proc` mounted there. A process is needed to make a namespace in, and another
/// one, with privilege outside of it, to say who exists there: so a helper is forked into it and ends.
pub(super) fn user_namespace(id: u32) -> Result<OwnedFd, Failed> {
    let (until, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).when("make a pipe")?;
    match sys::fork(libc::CLONE_NEWUSER, None).when("make a user namespace")? {
        Forked::Child => {
            drop(end);
            let _ = File::from(until).read(&mut [0u8]);
            sys::exit_now(0)
        }
        Forked::Parent { pid, .. } => {
            let folder = std::path::PathBuf::from(format!("proc/{pid}"));
            let map = format!("{id} {id} 1\n");
            fs::write(folder.join("setgroups"), "deny").when("forbid groups")?;
            fs::write(folder.join("gid_map"), &map).when("map the group")?;
            fs::write(folder.join("uid_map"), &map).when("map the user")?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let users = rustix::fs::open(folder.join("ns/user"), flags, Mode::empty());
            drop(end);
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).when("wait for a helper")?;
            users.when("open the user namespace")
        }
    }
}

/// Goes into the user namespace and becomes its user: no capability is left, in there or outside.
pub(super) fn become_user(users: OwnedFd, id: u32) -> Result<(), Failed> {
    rustix::thread::set_thread_groups(&[]).when("leave all groups")?;
    rustix::thread::move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))
        .when("enter the user namespace")?;
    launch::become_user(id, id)
}

/// Nothing that is run from here on can have more than this process has.
pub(super) fn confine() -> Result<(), Failed> {
    rustix::thread::set_no_new_privs(true).when("forbid new privileges")
}
