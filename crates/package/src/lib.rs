//! Packages of functions: a folder made a zip, a zip looked through, a zip unpacked.
//!
//! A package is known by the hash of its zip, so the same folder has to give the same bytes wherever it is packed:
//! names in order, no times, no owners, two modes. A zip that somebody else made is taken as it is, once it was looked
//! through from the first byte to the last: what it says of itself is not believed.

mod build;
mod read;

use component::function::Digest;
use sha2::{Digest as _, Sha256};

pub use build::{BuildError, build};
pub use read::{Contents, Refused, UnpackError, check, unpack};

/// File in a folder of code that says, in the syntax of `.gitignore`, what stays out of the package.
pub const IGNORE_FILE: &str = ".steadignore";

/// The hash that a package is known by.
#[must_use]
pub fn digest(zip: &[u8]) -> Digest {
    Digest::new(Sha256::digest(zip).into())
}
