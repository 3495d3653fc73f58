//! Second factors: codes that change with time (RFC 6238), and codes that stand in for a lost phone.

use jiff::Timestamp;
use qrcode::QrCode;
use qrcode::render::svg;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use totp_rs::{Builder, Secret, Totp};

/// Seconds of a step.
const STEP_S: u64 = 30;
/// Recovery codes that are made at once.
const CODES: usize = 8;
/// Letters of a recovery code: none that looks like another.
const LETTERS: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";

/// Why a second factor cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret is none.
    #[error("the secret of the second factor cannot be read: {0}")]
    Secret(String),
    /// It cannot be drawn.
    #[error("the code cannot be drawn: {0}")]
    Drawing(String),
}

/// A new secret, in base 32.
#[must_use]
pub fn secret() -> SecretString {
    SecretString::from(Secret::generate().to_base32())
}

fn totp(secret: &SecretString, name: &str) -> Result<Totp, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Secret(error.to_string());
    let secret = Secret::try_from_base32(secret.expose_secret()).map_err(|error| wrong(&error))?;
    // A colon parts issuer and account in the address that is drawn.
    let account = name.replace(':', " ");
    let builder = Builder::new().with_secret(secret).with_step_duration(STEP_S).with_skew(1);
    let builder = builder.with_account_name(account).with_issuer(Some("Stead"));
    builder.build().map_err(|error| wrong(&error))
}

/// The time step that a code is of, if it is one of now or of half a minute before or after.
///
/// # Errors
/// [`Error::Secret`].
pub fn step_of(secret: &SecretString, code: &str, now: Timestamp) -> Result<Option<i64>, Error> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    let totp = totp(secret, "")?;
    Ok(totp.check(&code, now).and_then(|step| i64::try_from(step).ok()))
}

/// The secret as a picture that a phone reads: SVG.
///
/// # Errors
/// [`Error`].
pub fn picture(secret: &SecretString, name: &str) -> Result<String, Error> {
    let url = totp(secret, name)?.to_url().map_err(|error| Error::Drawing(error.to_string()))?;
    let code = QrCode::new(url).map_err(|error| Error::Drawing(error.to_string()))?;
    Ok(code.render::<svg::Color<'_>>().min_dimensions(220, 220).build())
}

/// New recovery codes, and their hashes.
#[must_use]
pub fn recovery_codes() -> (Vec<SecretString>, Vec<Vec<u8>>) {
    let mut rng = rand::rng();
    let mut code = || {
        let letters: String =
            (0..10).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect();
        format!("{}-{}", &letters[..5], &letters[5..])
    };
    let codes: Vec<String> = (0..CODES).map(|_| code()).collect();
    let hashes = codes.iter().map(|code| recovery_hash(code)).collect();
    (codes.into_iter().map(SecretString::from).collect(), hashes)
}

/// The hash by which a recovery code is known: of its letters, however they were typed. 49 random bits, each account
/// of which is guessed at a few times an hour, need no slow hash.
#[must_use]
pub fn recovery_hash(code: &str) -> Vec<u8> {
    let letters: String = code.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    Sha256::digest(letters.to_ascii_lowercase()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_of_its_time() {
        let secret = secret();
        let now: Timestamp = "2026-11-22T12:00:10Z".parse().unwrap();
        let at = |seconds: i64| Timestamp::from_second(now.as_second() + seconds).unwrap();
        let code = |at: Timestamp| {
            totp(&secret, "").unwrap().generate(u64::try_from(at.as_second()).unwrap()).to_string()
        };
        let step = step_of(&secret, &code(now), now).unwrap().unwrap();
        assert_eq!(step_of(&secret, &code(now), at(30)).unwrap(), Some(step), "a slow typist");
        assert_eq!(step_of(&secret, &code(at(30)), now).unwrap(), Some(step + 1));
        assert_eq!(step_of(&secret, &code(now), at(120)).unwrap(), None);
        let typed = code(now);
        let typed = format!(" {} {}", &typed[..3], &typed[3..]);
        assert_eq!(step_of(&secret, &typed, now).unwrap(), Some(step));
        for wrong in ["", "abc", "12345678901234567890", "\u{0}"] {
            assert_eq!(step_of(&secret, wrong, now).unwrap(), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_is_drawn() {
        let drawn = picture(&secret(), "ann@acme.example").unwrap();
        assert!(drawn.contains("<svg") && !drawn.contains("style="));
    }

    #[test]
    fn a_recovery_code_is_known_however_it_is_typed() {
        let (codes, hashes) = recovery_codes();
        assert_eq!(codes.len(), hashes.len());
        let typed = codes[0].expose_secret().to_uppercase().replace('-', " ");
        assert_eq!(recovery_hash(&typed), hashes[0]);
        assert_ne!(hashes[0], hashes[1]);
    }
}
