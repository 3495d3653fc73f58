//! Passwords: Argon2id, a few at a time.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// Shortest password, characters: NIST SP 800-63B asks for 15 where it is the only factor and 8 beside another; 12 is
/// what people still choose without writing it on the screen, and wrong ones are counted.
pub const SHORTEST: usize = 12;
/// Longest password, characters: longer ones cost only time.
pub const LONGEST: usize = 256;

/// Memory, KiB: the first choice of OWASP's cheat sheet for password storage.
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over it.
const PASSES: u32 = 2;
/// How many are worked at at once: what a crowd of guessers may take of the machine.
const AT_ONCE: usize = 2;
/// How many may wait for that.
const IN_LINE: usize = 64;

/// Why a password cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Too short.
    #[error("has {0} characters; choose at least {SHORTEST}, a few words do well")]
    Short(usize),
    /// Too long.
    #[error("has more than {LONGEST} characters; choose a shorter one")]
    Long,
    /// One that is guessed first.
    #[error("is too easy to guess; choose a few words that have nothing to do with your name")]
    Guessable,
}

/// Why nothing can be said of a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many at once.
    #[error("too many people sign in at the moment; try again in a few seconds")]
    Busy,
    /// The library failed.
    #[error("the password could not be worked with: {0}")]
    Hash(String),
}

/// Judges a password that somebody wants; `name` is what it must not be.
///
/// # Errors
/// [`Unfit`].
pub fn fits(password: &SecretString, name: &str) -> Result<(), Unfit> {
    let text = password.expose_secret();
    let length = text.chars().count();
    if length < SHORTEST {
        return Err(Unfit::Short(length));
    }
    if length > LONGEST {
        return Err(Unfit::Long);
    }
    let lower = text.to_lowercase();
    let own = name.split('@').next().unwrap_or_default();
    let kinds: std::collections::BTreeSet<char> = lower.chars().collect();
    // Of few different characters, a run along the keyboard, or mostly the own name.
    let runs = ["abcdefghijklmnopqrstuvwxyz", "01234567890123456789", "qwertyuiopasdfghjklzxcvbnm"];
    let named = own.len() >= 4 && lower.replace(own, "").chars().count() < SHORTEST / 2;
    let common = ["password", "passwort", "letmein", "welcome", "changeme"];
    let common = common.iter().any(|word| lower.replace(word, "").chars().count() < SHORTEST / 2);
    if kinds.len() < 5 || named || common || runs.iter().any(|run| run.contains(&lower)) {
        return Err(Unfit::Guessable);
    }
    Ok(())
}

/// Works with passwords, a few at a time.
pub struct Passwords {
    working: Semaphore,
    waiting: Semaphore,
    /// Of a password that nobody has, so that a name that is not there takes as long as one that is.
    nobodys: String,
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|error| Error::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &SecretString) -> Result<String, Error> {
    let hashed = argon2()?.hash_password(password.expose_secret().as_bytes());
    hashed.map(|hash| hash.to_string()).map_err(|error| Error::Hash(error.to_string()))
}

impl Passwords {
    /// With nobody waiting.
    ///
    /// # Errors
    /// [`Error::Hash`] where the library cannot work here.
    pub fn new() -> Result<Self, Error> {
        let rng = rand::RngExt::random::<[u8; 16]>(&mut rand::rng());
        let nobodys = hash(&SecretString::from(format!("{rng:?}")))?;
        Ok(Self { working: Semaphore::new(AT_ONCE), waiting: Semaphore::new(IN_LINE), nobodys })
    }

    /// The password in PHC notation.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hash(&self, password: SecretString) -> Result<SecretString, Error> {
        self.work(move || hash(&password)).await.map(SecretString::from)
    }

    /// Whether it is that password. Where there is none to compare with, it is not, and that takes as long.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn verify(&self, password: SecretString, phc: Option<SecretString>) -> Result<bool, Error> {
        let known = phc.is_some();
        let phc = phc.map_or_else(|| self.nobodys.clone(), |phc| phc.expose_secret().to_owned());
        let right = self.work(move || {
            let parsed = PasswordHash::new(&phc).map_err(|error| Error::Hash(error.to_string()))?;
            Ok(Argon2::default().verify_password(password.expose_secret().as_bytes(), &parsed).is_ok())
        });
        Ok(right.await? && known)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        let _working = self.working.acquire().await.map_err(|_| Error::Busy)?;
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::Hash(error.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other() {
        let passwords = Passwords::new().unwrap();
        let text = || SecretString::from("correct horse battery");
        let phc = passwords.hash(text()).await.unwrap();
        assert!(phc.expose_secret().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(passwords.verify(text(), Some(phc.clone())).await.unwrap());
        assert!(!passwords.verify(SecretString::from("correct horse"), Some(phc)).await.unwrap());
        assert!(!passwords.verify(text(), None).await.unwrap(), "nobody's");
    }

    #[test]
    fn what_is_guessed_first_is_no_password() {
        let judged = |text: &str| fits(&SecretString::from(text), "ann.miller@acme.example");
        assert_eq!(judged("correct horse battery"), Ok(()));
        assert_eq!(judged("短い文でも十二文字あれば足ります"), Ok(()));
        assert_eq!(judged("short"), Err(Unfit::Short(5)));
        assert_eq!(judged(&"long and longer ".repeat(20)), Err(Unfit::Long));
        for text in [
            "aaaaaaaaaaaaaaaa",
            "123456789012",
            "abcdefghijklm",
            "ann.miller2026",
            "passwordpassword",
            "Password1234",
        ] {
            assert_eq!(judged(text), Err(Unfit::Guessable), "{text}");
        }
    }
}
