//! A zip looked through, and unpacked.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use component::function::{LARGEST_UNPACKED, LARGEST_ZIP};
use zip::ZipArchive;
use zip::read::ZipFile;

use crate::build::stays_inside;

/// Files that a package may have; each costs an inode on every host that it comes to.
const MOST_FILES: usize = 100_000;
/// Longest target of a link, bytes; PATH_MAX.
const LONGEST_TARGET: u64 = 4096;
/// The bits of a Unix mode that say what a file is, and those values.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// What is in a package.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files and links.
    pub files: usize,
    /// Bytes of the files once they are unpacked.
    pub bytes: u64,
}

/// Why a zip is no package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many bytes before they are even looked at.
    #[error("the package has {0} bytes, and {LARGEST_ZIP} may be uploaded")]
    LargeZip(u64),
    /// More than Lambda takes.
    #[error("Unzipped size must be smaller than {LARGEST_UNPACKED} bytes")]
    Large,
    /// More files than a host likes.
    #[error("the package has more than {MOST_FILES} files")]
    Many,
    /// No zip, or a damaged one.
    #[error("Could not unzip uploaded file: {0}. Please check your file, then try to upload again.")]
    Damaged(String),
    /// A name that leads elsewhere, or nowhere.
    #[error("`{0}` in the package is not the name of a file in it")]
    Name(String),
    /// Twice the same.
    #[error("`{0}` is in the package more than once, or is both a file and a folder")]
    Twice(String),
    /// A link that leads out of the package, or through another link.
    #[error("`{0}` in the package is a link that leads out of it")]
    Link(String),
    /// A device, a socket, or a file with a password.
    #[error("`{0}` in the package is neither a plain file, a folder nor a link")]
    Odd(String),
    /// Nothing in it.
    #[error("there is nothing in the package")]
    Empty,
}

/// Why a package could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is none.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One thing in a zip.
enum Entry<'a, 'z> {
    Folder,
    File { executable: bool, contents: &'a mut dyn Read },
    Link { target: &'z Path },
}

/// Looks a package through: every byte is unpacked, and thrown away.
///
/// # Errors
/// [`Refused`].
pub fn check(zip: &[u8]) -> Result<Contents, Refused> {
    let ended = walk(zip, |_, entry| {
        match entry {
            Entry::File { contents, .. } => io::copy(contents, &mut io::sink()).map_err(Stopped::Read)?,
            Entry::Folder | Entry::Link { .. } => 0,
        };
        Ok(())
    });
    ended.map_err(|error| match error {
        UnpackError::Refused(refused) => refused,
        UnpackError::Write { source, .. } => Refused::Damaged(source.to_string()),
    })
}

/// Unpacks a package into a folder that is there and empty. What it writes can be read by everybody and written by its
/// owner; of the modes in the zip only the execute bit counts.
///
/// # Errors
/// [`UnpackError`]; what was written until then stays.
pub fn unpack(zip: &[u8], into: &Path) -> Result<Contents, UnpackError> {
    let folder = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    walk(zip, |name, entry| {
        let path = into.join(name);
        let unwritten = |source| Stopped::Write(path.clone(), source);
        if let Some(parent) = path.parent() {
            folder(parent).map_err(unwritten)?;
        }
        match entry {
            Entry::Folder => folder(&path).map_err(unwritten),
            Entry::Link { target } => symlink(target, &path).map_err(unwritten),
            Entry::File { executable, contents } => {
                let mode = if executable { 0o755 } else { 0o644 };
                let mut file = fs::OpenOptions::new();
                let mut file = file.write(true).create_new(true).mode(mode).open(&path).map_err(unwritten)?;
                let mut chunk = vec![0; 64 * 1024];
                loop {
                    let n = contents.read(&mut chunk).map_err(Stopped::Read)?;
                    if n == 0 {
                        return Ok(());
                    }
                    file.write_all(chunk.get(..n).unwrap_or_default()).map_err(unwritten)?;
                }
            }
        }
    })
}

/// Why somebody who was shown an entry does not go on.
enum Stopped {
    Read(io::Error),
    Write(PathBuf, io::Error),
}

/// Shows every entry in turn, once it was found to be harmless. Files are read through a limit of what a package may
/// have in all, whatever the zip says of their sizes.
fn walk(
    zip: &[u8],
    mut show: impl FnMut(&Path, Entry<'_, '_>) -> Result<(), Stopped>,
) -> Result<Contents, UnpackError> {
    let length = u64::try_from(zip.len()).unwrap_or(u64::MAX);
    if length > LARGEST_ZIP {
        return Err(Refused::LargeZip(length).into());
    }
    let damaged = |error: &dyn std::fmt::Display| Refused::Damaged(error.to_string());
    let mut archive = ZipArchive::new(Cursor::new(zip)).map_err(|error| damaged(&error))?;
    if archive.len() > MOST_FILES {
        return Err(Refused::Many.into());
    }
    let mut names = Names::default();
    let mut contents = Contents::default();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(|error| damaged(&error))?;
        let (shown, name, kind) = named(&file)?;
        names.take(&shown, &name, kind)?;
        let stopped = |stopped: Stopped| match stopped {
            Stopped::Read(error) if error.kind() == io::ErrorKind::FileTooLarge => Refused::Large.into(),
            Stopped::Read(error) => UnpackError::Refused(damaged(&error)),
            Stopped::Write(path, source) => UnpackError::Write { path, source },
        };
        match kind {
            What::Folder => show(&name, Entry::Folder).map_err(stopped)?,
            What::Link => {
                let mut target = String::new();
                (&mut file)
                    .take(LONGEST_TARGET)
                    .read_to_string(&mut target)
                    .map_err(|error| damaged(&error))?;
                let target = Path::new(&target);
                if target.as_os_str().is_empty() || !stays_inside(&name, target) {
                    return Err(Refused::Link(shown).into());
                }
                contents.files += 1;
                show(&name, Entry::Link { target }).map_err(stopped)?;
            }
            What::File { executable } => {
                contents.files += 1;
                let mut limited = Limited { file: &mut file, left: LARGEST_UNPACKED - contents.bytes };
                show(&name, Entry::File { executable, contents: &mut limited }).map_err(stopped)?;
                contents.bytes = LARGEST_UNPACKED - limited.left;
            }
        }
    }
    if contents.files == 0 { Err(Refused::Empty.into()) } else { Ok(contents) }
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Folder,
    File { executable: bool },
    Link,
}

/// The name of an entry, fit to be shown and as a path, and what it is.
fn named<R: Read>(file: &ZipFile<'_, R>) -> Result<(String, PathBuf, What), Refused> {
    let raw = String::from_utf8_lossy(file.name_raw());
    let shown: String = raw.chars().take(100).flat_map(char::escape_debug).collect();
    let bad = || Refused::Name(shown.clone());
    let name = std::str::from_utf8(file.name_raw()).map_err(|_| bad())?;
    let folder = name.ends_with('/');
    let trimmed = name.strip_suffix('/').unwrap_or(name);
    let path: PathBuf = trimmed.strip_prefix("./").unwrap_or(trimmed).into();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.as_os_str().is_empty() || name.contains(['\\', '\0']) || name.contains("//") {
        return Err(bad());
    }
    if file.encrypted() {
        return Err(Refused::Odd(shown));
    }
    let mode = file.unix_mode();
    let what = match mode.map(|mode| mode & KIND) {
        _ if folder => What::Folder,
        Some(LINK) => What::Link,
        // Zips made on Windows say nothing of it.
        None | Some(0 | REGULAR) => What::File { executable: mode.is_some_and(|mode| mode & 0o111 != 0) },
        Some(_) => return Err(Refused::Odd(shown)),
    };
    Ok((shown, path, what))
}

/// The names so far: none twice, and nothing below what is no folder. A link is no folder here: what lay below one
/// would be written wherever it leads.
#[derive(Default)]
struct Names {
    folders: BTreeSet<PathBuf>,
    others: BTreeSet<PathBuf>,
}

impl Names {
    fn take(&mut self, shown: &str, name: &Path, what: What) -> Result<(), Refused> {
        let twice = || Refused::Twice(shown.to_owned());
        for above in name.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if self.others.contains(above) {
                return Err(twice());
            }
            self.folders.insert(above.to_owned());
        }
        if what == What::Folder {
            self.folders.insert(name.to_owned());
            return if self.others.contains(name) { Err(twice()) } else { Ok(()) };
        }
        let new = !self.folders.contains(name) && self.others.insert(name.to_owned());
        if new { Ok(()) } else { Err(twice()) }
    }
}

/// Reads up to so many bytes, and fails rather than end early.
struct Limited<'a> {
    file: &'a mut dyn Read,
    left: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        let read = u64::try_from(n).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(read).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
