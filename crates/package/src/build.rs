//! From a folder to a zip.

use std::fs;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use component::function::{LARGEST_UNPACKED, LARGEST_ZIP};
use ignore::WalkBuilder;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::IGNORE_FILE;

/// What is in no package, whatever the ignore file says: tools' own, and never code.
const LEFT_OUT: &[&str] = &[".git", ".stead", ".DS_Store", "__pycache__", IGNORE_FILE];

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The ignore file cannot be read.
    #[error("{0}")]
    Ignore(String),
    /// Neither a file, a folder nor a link.
    #[error("{0} is neither a file nor a folder; name it in {IGNORE_FILE}, or remove it")]
    Odd(PathBuf),
    /// A name that no zip can have.
    #[error("the name of {0} is not UTF-8; name it in {IGNORE_FILE}, or rename it")]
    Name(PathBuf),
    /// A link that leads out of the folder.
    #[error(
        "{0} is a link that leads out of the folder; put a copy in its place, or name it in {IGNORE_FILE}"
    )]
    Link(PathBuf),
    /// There is nothing in it.
    #[error("there is nothing in {0}")]
    Empty(PathBuf),
    /// More than a function may have.
    #[error(
        "its files have {is} bytes together, and a package may have {LARGEST_UNPACKED}; leave out what is not needed with {IGNORE_FILE}"
    )]
    Large {
        /// So many.
        is: u64,
    },
    /// The zip came out larger than may be uploaded.
    #[error(
        "the package has {is} bytes, and {LARGEST_ZIP} may be uploaded; leave out what is not needed with {IGNORE_FILE}"
    )]
    LargeZip {
        /// So many.
        is: u64,
    },
    /// Writing the zip.
    #[error("cannot write the package: {0}")]
    Zip(#[from] zip::result::ZipError),
}

/// Something to be packed.
struct Found {
    /// As in the zip, with `/`.
    name: String,
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    File { executable: bool, bytes: u64 },
    Link { target: String },
}

/// Packs a folder: the same bytes for the same names, contents and execute bits.
///
/// # Errors
/// [`BuildError`].
pub fn build(folder: &Path) -> Result<Vec<u8>, BuildError> {
    let mut found = look(folder)?;
    if found.is_empty() {
        return Err(BuildError::Empty(folder.to_owned()));
    }
    let is =
        found.iter().map(|found| if let Kind::File { bytes, .. } = found.kind { bytes } else { 0 }).sum();
    if is > LARGEST_UNPACKED {
        return Err(BuildError::Large { is });
    }
    // By bytes: an order of a language would be another one elsewhere.
    found.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    let options = |mode| {
        SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            // Packed again at every save: a second level costs more time than its bytes do.
            .compression_level(Some(1))
            .last_modified_time(DateTime::default())
            .unix_permissions(mode)
    };
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for Found { name, path, kind } in found {
        let unread = |source| BuildError::Read { path: path.clone(), source };
        match kind {
            Kind::Link { target } => zip.add_symlink(name, target, options(0o777))?,
            Kind::File { executable, .. } => {
                let contents = fs::read(&path).map_err(unread)?;
                zip.start_file(name, options(if executable { 0o755 } else { 0o644 }))?;
                zip.write_all(&contents).map_err(unread)?;
            }
        }
    }
    let zip = zip.finish()?.into_inner();
    let is = u64::try_from(zip.len()).unwrap_or(u64::MAX);
    if is > LARGEST_ZIP { Err(BuildError::LargeZip { is }) } else { Ok(zip) }
}

/// Everything in a folder that is to be packed.
fn look(folder: &Path) -> Result<Vec<Found>, BuildError> {
    let walk = WalkBuilder::new(folder)
        .standard_filters(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| !LEFT_OUT.iter().any(|name| entry.file_name() == *name))
        .build();
    let mut found = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|error| BuildError::Ignore(error.to_string()))?;
        if let Some(error) = entry.error() {
            return Err(BuildError::Ignore(error.to_string()));
        }
        let path = entry.into_path();
        let unread = |source| BuildError::Read { path: path.clone(), source };
        let meta = fs::symlink_metadata(&path).map_err(unread)?;
        if meta.is_dir() {
            continue;
        }
        let relative = path.strip_prefix(folder).unwrap_or(&path);
        let name = relative.to_str().ok_or_else(|| BuildError::Name(path.clone()))?.to_owned();
        let kind = if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(unread)?;
            if !stays_inside(relative, &target) {
                return Err(BuildError::Link(path));
            }
            let target = target.to_str().ok_or_else(|| BuildError::Name(path.clone()))?.to_owned();
            Kind::Link { target }
        } else if meta.is_file() {
            Kind::File { executable: meta.permissions().mode() & 0o111 != 0, bytes: meta.len() }
        } else {
            return Err(BuildError::Odd(path));
        };
        found.push(Found { name, path, kind });
    }
    Ok(found)
}

/// Whether a link at `name` with this target leads to a place in the folder that `name` is relative to.
pub(crate) fn stays_inside(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}
