//! Which binary it is: two processes of the same one give the same stamp, and a release that was put in its
//! place gives another, also where both say the same version.

use std::io;
use std::os::fd::AsFd;

/// Of an open file. Device, inode, time and size: quicker than a digest, and a copy that is taken for another
/// binary costs no more than a hand-over.
pub(crate) fn stamp(program: impl AsFd) -> io::Result<String> {
    let found = rustix::fs::fstat(program)?;
    Ok(format!(
        "{}-{}-{}.{}-{}",
        found.st_dev, found.st_ino, found.st_mtime, found.st_mtime_nsec, found.st_size
    ))
}

/// Of the binary that runs in this process, also where it has been replaced on the disk since.
///
/// # Errors
/// Where `/proc` is not to be had.
pub fn own_program() -> io::Result<String> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    stamp(rustix::fs::open("/proc/self/exe", flags, rustix::fs::Mode::empty())?)
}
