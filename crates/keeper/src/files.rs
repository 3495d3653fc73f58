//! Files in folders that somebody less trusted may write to: nothing here follows a link.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::fail_point;

/// Who owns a file or folder, and its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// Opens a folder below another, following no link on the way.
pub(crate) fn open_dir(base: impl AsFd, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        base,
        path.as_ref(),
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Opens a regular file for what `flags` say; a link, pipe, device or folder is refused.
pub(crate) fn open_file(
    dir: impl AsFd,
    name: impl AsRef<Path>,
    flags: OFlags,
    mode: u32,
) -> io::Result<std::fs::File> {
    let fd = rustix::fs::openat(
        dir,
        name.as_ref(),
        flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::from_raw_mode(mode),
    )?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(fd.into())
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(dir: impl AsFd, name: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(dir, name, OFlags::RDONLY, 0)?.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|n| n > limit) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Puts a whole file in place of whatever has that name, so that a reader sees the old or the new one.
/// Not flushed to the disk: what it holds is rebuilt after a crash of the machine.
pub(crate) fn write_atomic(dir: impl AsFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = dir.as_fd();
    let temporary = format!(".{name}.new");
    remove_file(dir, &temporary)?;
    let mut file = open_file(dir, &temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)?;
    fail_point!("keeper::files.temporary_made");
    file.write_all(bytes)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    fail_point!("keeper::files.temporary_written");
    rustix::fs::renameat(dir, &temporary, dir, name)?;
    Ok(())
}

/// Removes a file; absent is fine.
pub(crate) fn remove_file(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name.as_ref(), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether something, of whatever type, has that name.
pub(crate) fn exists(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<bool> {
    match rustix::fs::statat(dir, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a folder unless it is there; true where it was made.
pub(crate) fn make_dir(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<bool> {
    match rustix::fs::mkdirat(dir, name.as_ref(), Mode::RWXU) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Owner and mode of what is open.
pub(crate) fn access(fd: impl AsFd) -> io::Result<Access> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Access { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 })
}

/// Gives what is open this owner and mode; what it had, where that was another.
pub(crate) fn set_access(fd: impl AsFd, wanted: Access) -> io::Result<Option<Access>> {
    let fd = fd.as_fd();
    let had = access(fd)?;
    if had == wanted {
        return Ok(None);
    }
    if (had.uid, had.gid) != (wanted.uid, wanted.gid) {
        rustix::fs::fchown(fd, Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)))?;
    }
    // After the owner: a change of owner may take the set-group-id bit away.
    rustix::fs::fchmod(fd, Mode::from_raw_mode(wanted.mode))?;
    Ok(Some(had))
}

/// Names in a folder, without `.` and `..`.
pub(crate) fn list(dir: impl AsFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
