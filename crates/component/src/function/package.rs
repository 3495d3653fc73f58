//! Packages: the code of a function as one zip, known by the hash of its bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest zip, bytes: what Lambda takes by direct upload.
pub const LARGEST_ZIP: u64 = 50 * 1024 * 1024;
/// Largest package once unpacked, bytes: Lambda's limit, layers included.
pub const LARGEST_UNPACKED: u64 = 250 * 1024 * 1024;

/// SHA-256 of a package's zip.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the hash of a package; write sha256: and 64 hexadecimal digits")]
pub struct BadDigest(String);

impl Digest {
    /// Of a hash that was computed.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Digest {
    type Err = BadDigest;
    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(crate::manifest::shown(text));
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(bad());
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let value = |digit: u8| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            };
            let [high, low] = digits else { return Err(bad()) };
            *byte = value(*high).zip(value(*low)).map(|(high, low)| high << 4 | low).ok_or_else(bad)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;
    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_small_hexadecimal_digits() {
        let hex = "0f".repeat(32);
        let digest: Digest = hex.parse().unwrap();
        assert_eq!(digest, Digest::new([0x0f; 32]));
        assert_eq!(digest.to_string(), format!("sha256:{hex}"));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "sha256:", &hex[1..], &hex.to_uppercase(), &format!("{hex}0"), &"g0".repeat(32)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
