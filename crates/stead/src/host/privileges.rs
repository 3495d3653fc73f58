//! Giving up root.

use rustix::fs::{Gid, Uid};

/// Becomes `uid` and `gid` for good, with no other groups. Must be called while the process has one thread:
/// these system calls are of a thread, not of the process.
pub(super) fn become_user(uid: u32, gid: u32) -> std::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_no_new_privs(true)?;
    // The kernel cleared "dumpable" with the change; the process may read its own /proc again.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    Ok(())
}
