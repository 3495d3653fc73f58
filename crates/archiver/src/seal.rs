//! Compressing and encrypting what is stored, and back.
//!
//! The key of an archive is a pair: who writes has the public half alone, so a process that only archives can read
//! no backup. `age` authenticates every 64 KiB: an object in which a bit was turned does not open.

use std::io::{Read, Write};
use std::iter;

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bech32::{ToBase32, Variant};
use secrecy::SecretString;

/// zstd's fastest ordinary level: half the time of the next for a tenth more bytes.
const LEVEL: i32 = 1;
/// No object holds more than this once it is unpacked.
const LARGEST: u64 = 1 << 30;

/// What a sealed object turned out to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// It was sealed for another key.
    #[error("it was sealed with another key")]
    OtherKey,
    /// It is not as it was stored.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// The public half of an archive's key.
#[derive(Clone)]
pub(crate) struct Sealer(Recipient);

/// The private half.
#[derive(Clone)]
pub(crate) struct Opener(Identity);

/// A new pair: public and private half as `age` writes them.
#[must_use]
pub fn new_key() -> (String, SecretString) {
    let identity = Identity::generate();
    (identity.to_public().to_string(), SecretString::from(identity.to_string().expose_secret().to_owned()))
}

/// The installation's own pair, which seals the private halves of all archives' keys. It is made of 32 secret bytes
/// that follow from the installation key, so nothing has to be kept of it.
#[derive(Clone)]
pub struct Wrapping(Identity);

impl Wrapping {
    /// Of its secret bytes; any 32 will do.
    ///
    /// # Panics
    /// Never: every such text is a key.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Self {
        let text = bech32::encode("age-secret-key-", secret.to_base32(), Variant::Bech32).unwrap_or_default();
        #[expect(clippy::expect_used, reason = "32 bytes are a key")]
        Self(text.to_uppercase().parse().expect("32 bytes are a key"))
    }

    /// Seals an archive's private key.
    ///
    /// # Errors
    /// Never in practice: it is written to memory.
    pub fn seal(&self, key: &SecretString) -> std::io::Result<String> {
        use secrecy::ExposeSecret as _;
        let sealed = Sealer(self.0.to_public()).encrypt(key.expose_secret().as_bytes())?;
        Ok(BASE64_STANDARD.encode(sealed))
    }

    /// Undoes [`Self::seal`]; `None` where another key sealed it.
    #[must_use]
    pub fn unseal(&self, sealed: &str) -> Option<SecretString> {
        let key = Opener(self.0.clone()).decrypt(&BASE64_STANDARD.decode(sealed).ok()?).ok()?;
        String::from_utf8(key).ok().map(SecretString::from)
    }
}

impl Sealer {
    /// From `age1…`.
    pub(crate) fn parse(recipient: &str) -> Option<Self> {
        recipient.parse().ok().map(Self)
    }

    /// Encrypts.
    pub(crate) fn encrypt(&self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let encryptor = age::Encryptor::with_recipients(iter::once(&self.0 as &dyn age::Recipient))
            .map_err(std::io::Error::other)?;
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / 1024 + 512);
        let mut writer = encryptor.wrap_output(&mut sealed)?;
        writer.write_all(plain)?;
        writer.finish()?;
        Ok(sealed)
    }

    /// Compresses and encrypts.
    pub(crate) fn seal(&self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        self.encrypt(&zstd::bulk::compress(plain, LEVEL)?)
    }
}

impl Opener {
    /// From `AGE-SECRET-KEY-1…`.
    pub(crate) fn parse(key: &SecretString) -> Option<Self> {
        use secrecy::ExposeSecret as _;
        key.expose_secret().parse().ok().map(Self)
    }

    /// Decrypts.
    pub(crate) fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let damaged = |error: std::io::Error| Unreadable::Damaged(error.to_string());
        let decryptor = age::Decryptor::new_buffered(sealed).map_err(opening)?;
        let mut reader = decryptor.decrypt(iter::once(&self.0 as &dyn age::Identity)).map_err(opening)?;
        let mut plain = Vec::with_capacity(sealed.len());
        reader.read_to_end(&mut plain).map_err(damaged)?;
        Ok(plain)
    }

    /// Decrypts and decompresses what [`Sealer::seal`] made.
    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let packed = self.decrypt(sealed)?;
        let mut plain = Vec::new();
        let mut reader = zstd::stream::read::Decoder::new(packed.as_slice())
            .map_err(|error| Unreadable::Damaged(error.to_string()))?
            .take(LARGEST);
        reader.read_to_end(&mut plain).map_err(|error| Unreadable::Damaged(error.to_string()))?;
        Ok(plain)
    }
}

fn opening(error: age::DecryptError) -> Unreadable {
    match error {
        age::DecryptError::NoMatchingKeys => Unreadable::OtherKey,
        other => Unreadable::Damaged(other.to_string()),
    }
}

/// A compressor whose output is taken in parts.
pub(crate) struct Packer(zstd::stream::write::Encoder<'static, Vec<u8>>);

impl Packer {
    pub(crate) fn new() -> std::io::Result<Self> {
        zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map(Self)
    }

    pub(crate) fn write(&mut self, plain: &[u8]) -> std::io::Result<()> {
        self.0.write_all(plain)
    }

    /// What there is so far, if that is at least `least` bytes.
    pub(crate) fn take(&mut self, least: usize) -> Option<Vec<u8>> {
        let out = self.0.get_mut();
        (out.len() >= least).then(|| std::mem::take(out))
    }

    /// The rest.
    pub(crate) fn finish(self) -> std::io::Result<Vec<u8>> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_bit_anywhere_does_not_open() {
        let (public, private) = new_key();
        let (sealer, opener) = (Sealer::parse(&public).unwrap(), Opener::parse(&private).unwrap());
        let plain: Vec<u8> = (0..70_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let sealed = sealer.seal(&plain).unwrap();
        assert_eq!(opener.open(&sealed).unwrap(), plain);
        for at in (0..sealed.len()).step_by(9_973) {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(opener.open(&bent).is_err(), "byte {at} of {}", sealed.len());
        }
        for length in [0, 10, sealed.len() / 2, sealed.len() - 1] {
            assert!(opener.open(&sealed[..length]).is_err(), "cut at {length}");
        }
        let wrapping = Wrapping::of(&[7; 32]);
        let wrapped = wrapping.seal(&private).unwrap();
        use secrecy::ExposeSecret as _;
        assert_eq!(wrapping.unseal(&wrapped).unwrap().expose_secret(), private.expose_secret());
        assert!(Wrapping::of(&[8; 32]).unseal(&wrapped).is_none());
        let (_, other) = new_key();
        assert!(matches!(Opener::parse(&other).unwrap().open(&sealed), Err(Unreadable::OtherKey)));
    }
}
