//! What a worker gives up before anything of a stranger runs in it.
//!
//! The order is given by what each step needs. The user namespace is made while the process is root in a whole root,
//! since the kernel makes none from within a part of it, and entered only after the mounts and the network stand,
//! which belong to the host's: so whatever capability somebody may find in there is none over them. Then it becomes
//! its user, which ends every capability. Landlock and the filter of system calls need none, and come last because
//! the steps before need what they forbid.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;
use rustix::thread::LinkNameSpaceType;

use super::syscalls::Filters;
use crate::launch;
use crate::layers::{Layer, left_out};
use crate::sandbox::{DEVICES, Failed, While};
use crate::sys::{self, Forked};

/// What is asked of Landlock where the kernel has it: this much is tested.
const RULES: ABI = ABI::V6;

/// Folders to read and run from; where an interpreter and the package lie is below `/var`.
const READ: &[&str] =
    &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/var", "/etc"];

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
            let folder = PathBuf::from(format!("proc/{pid}"));
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
    if !left_out(Layer::UserNamespace) {
        rustix::thread::move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))
            .when("enter the user namespace")?;
    }
    drop(users);
    if left_out(Layer::User) {
        return Ok(());
    }
    launch::become_user(id, id)
}

/// Nothing that is run from here on can have, reach or ask for more than this allows.
pub(super) fn confine(filters: &Filters) -> Result<(), Failed> {
    if !left_out(Layer::NoNewPrivs) {
        rustix::thread::set_no_new_privs(true).when("forbid new privileges")?;
    }
    if !left_out(Layer::Landlock) {
        restrict_files().when("restrict files")?;
    }
    if !left_out(Layer::Seccomp) {
        filters.apply().when("filter system calls")?;
    }
    Ok(())
}

/// Why this kernel cannot do all that is asked of Landlock; a worker gets what there is.
pub(super) fn landlock_lacks() -> Option<String> {
    ruleset(CompatLevel::HardRequirement).and_then(Ruleset::create).err().map(|error| error.to_string())
}

fn ruleset(level: CompatLevel) -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(RULES))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)
}

/// Which of the files that it sees may be used for what, and no way to what is outside by a socket's name or a signal.
fn restrict_files() -> Result<(), RulesetError> {
    let (list, read) = (BitFlags::from(AccessFs::ReadDir), AccessFs::ReadFile | AccessFs::ReadDir);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let mut ruleset = ruleset(CompatLevel::BestEffort)?
        .create()?
        .add_rules(path_beneath_rules(READ, AccessFs::from_read(RULES)))?
        .add_rules(path_beneath_rules(["/proc", "/dev"], read))?
        .add_rules(path_beneath_rules(["/tmp", "/dev/shm"], AccessFs::from_all(RULES)))?
        .add_rules(path_beneath_rules(["/"], list))?;
    for name in DEVICES {
        if let Ok(file) = PathFd::new(format!("/dev/{name}")) {
            ruleset = ruleset.add_rule(PathBeneath::new(file, device))?;
        }
    }
    ruleset.restrict_self().map(drop)
}
