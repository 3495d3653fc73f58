//! What was removed and is still to be deleted. Deleting a server's files can take long, so that a child
//! of the keeper does it; a keeper that finds something at its start begins again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::process::Pid;

use crate::{fail_point, files, sys};

const FOLDER: &str = "keeper/trash";

/// Moves something to the trash. Its name there keeps the user id that its files belong to, which must
/// not be given to anybody before they are gone.
pub(crate) fn throw(root: impl AsFd, dir: BorrowedFd<'_>, name: &str, uid: u32) -> io::Result<()> {
    let trash = files::open_dir(root, FOLDER)?;
    let there = files::list(&trash)?;
    let free = (0u32..).map(|n| format!("{uid}.{n}")).find(|name| there.binary_search(name).is_err());
    let free = free.ok_or(io::ErrorKind::StorageFull)?;
    fail_point!("keeper::trash.before");
    rustix::fs::renameat(dir, name, &trash, &free)?;
    fail_point!("keeper::trash.thrown");
    Ok(())
}

/// User ids that something in the trash belongs to.
pub(crate) fn uids(root: impl AsFd) -> io::Result<BTreeSet<u32>> {
    let names = files::list(files::open_dir(root, FOLDER)?)?;
    Ok(names.iter().filter_map(|name| name.split('.').next()?.parse().ok()).collect())
}

/// Whether there is nothing to delete.
pub(crate) fn is_empty(root: impl AsFd) -> bool {
    files::open_dir(root, FOLDER).and_then(files::list).map_or(true, |names| names.is_empty())
}

/// Moves what a killed keeper left half made to the trash.
pub(crate) fn sweep_new(root: impl AsFd, uid: u32) -> io::Result<()> {
    let root = root.as_fd();
    let new = files::open_dir(root, "keeper/new")?;
    for name in files::list(&new)? {
        throw(root, new.as_fd(), &name, uid)?;
    }
    Ok(())
}

/// Begins to delete, in a child whose end SIGCHLD tells.
pub(crate) fn empty(home: &Path) -> io::Result<Pid> {
    match sys::fork(0, None)? {
        sys::Forked::Parent { pid, .. } => Ok(pid),
        sys::Forked::Child => {
            // It must not hold the keeper's lock or sockets.
            let closed = sys::close_all_but(&[]);
            let deleted = closed.and_then(|()| delete_all(&home.join(FOLDER)));
            sys::exit_now(i32::from(deleted.is_err()))
        }
    }
}

fn delete_all(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // `remove_dir_all` follows no link, neither below the folder nor in its place.
        let deleted = if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())
        } else {
            std::fs::remove_file(entry.path())
        };
        match deleted {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fail_point!("keeper::trash.deleted"),
        }
    }
    Ok(())
}
