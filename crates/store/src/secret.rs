//! Secrets at rest: sealed with the installation key, bound to whose they are.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use component::ComponentId;
use hmac::{Hmac, Mac};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;
use sqlx::PgConnection;

use crate::{Error, Store};

/// The key that seals secrets. It lives in a file outside the database, so that a copy of the database
/// (a backup, for one) opens nothing.
pub struct InstallationKey(SecretBox<[u8; 32]>);

impl InstallationKey {
    /// Reads the key, or makes it where there is none.
    ///
    /// # Errors
    /// [`Error::Key`] when the file cannot be read or written, or is not 32 bytes.
    pub fn read_or_make(path: &Path) -> Result<Self, Error> {
        let wrong = |source| Error::Key { path: path.to_owned(), source };
        match std::fs::read(path) {
            Ok(bytes) => {
                let key: [u8; 32] = bytes.try_into().map_err(|_| {
                    wrong(std::io::Error::other("is not 32 bytes long; put the right file back"))
                })?;
                Ok(Self(SecretBox::new(Box::new(key))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key: [u8; 32] = rand::rng().random();
                // Written whole under another name first: a kill half way leaves no short key behind.
                let draft = path.with_extension("new");
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&draft)
                    .map_err(wrong)?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(wrong)?;
                std::fs::rename(&draft, path).map_err(wrong)?;
                Ok(Self(SecretBox::new(Box::new(key))))
            }
            Err(error) => Err(wrong(error)),
        }
    }

    /// A key for another purpose, from which this one cannot be told: HMAC-SHA-256 of the purpose.
    #[must_use]
    pub fn derived(&self, purpose: &str) -> [u8; 32] {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).expect("a key of any length");
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.0.expose_secret().into())
    }

    /// Seals: a random nonce, then the sealed text. `whose` must be given again to open it.
    pub(crate) fn seal(&self, whose: &str, plain: &SecretString) -> Result<Vec<u8>, Error> {
        let nonce: [u8; 24] = rand::rng().random();
        let payload = Payload { msg: plain.expose_secret().as_bytes(), aad: whose.as_bytes() };
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), payload).map_err(|_| Error::Sealed)?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) fn open(&self, whose: &str, sealed: &[u8]) -> Result<SecretString, Error> {
        let (nonce, sealed) = sealed.split_first_chunk::<24>().ok_or(Error::Sealed)?;
        let payload = Payload { msg: sealed, aad: whose.as_bytes() };
        let plain = self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| Error::Sealed)?;
        String::from_utf8(plain).map(SecretString::from).map_err(|_| Error::Sealed)
    }
}

/// Whose password of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// The owner's, which the tenant's people are shown.
    Owner,
    /// The reader's, which nobody is: it stays with the data when two components change names.
    Reader,
}

impl Account {
    /// What password and verifier are called among the secrets of a component.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Owner => ["password", "verifier"],
            Self::Reader => ["reader/password", "reader/verifier"],
        }
    }
}

/// A component's password and its verifier in PostgreSQL's notation.
#[derive(Clone)]
pub struct Password {
    /// The password.
    pub password: SecretString,
    /// Its SCRAM-SHA-256 verifier, made once so that what a server has can be compared with it.
    pub verifier: SecretString,
    /// Counts rotations.
    pub version: i64,
}

/// 32 characters of letters and digits: 190 bits, safe in URLs and shells.
fn random_password() -> SecretString {
    let rng = rand::rng();
    let text: String = rng.sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect();
    SecretString::from(text)
}

fn whose(component: ComponentId, name: &str) -> String {
    format!("{component}/{name}")
}

/// Makes (or replaces) the password of a component inside the caller's transaction; answers its version.
pub(crate) async fn new_password(
    conn: &mut PgConnection,
    key: &InstallationKey,
    component: ComponentId,
    account: Account,
) -> Result<i64, Error> {
    let password = random_password();
    let verifier =
        SecretString::from(postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes()));
    let mut version = 0;
    for (name, secret) in account.names().into_iter().zip([&password, &verifier]) {
        let sealed = key.seal(&whose(component, name), secret)?;
        version = sqlx::query_scalar!(
            "insert into secrets (component_id, name, sealed) values ($1, $2, $3)
             on conflict (component_id, name)
             do update set sealed = excluded.sealed, version = secrets.version + 1
             returning version",
            component.0,
            name,
            sealed,
        )
        .fetch_one(&mut *conn)
        .await?;
    }
    Ok(version)
}

/// Whether a component's reader role has a password.
pub(crate) async fn has_reader(conn: &mut PgConnection, component: ComponentId) -> Result<bool, Error> {
    let [_, verifier] = Account::Reader.names();
    let found = sqlx::query_scalar!(
        r#"select exists (select from secrets where component_id = $1 and name = $2) as "found!""#,
        component.0,
        verifier
    )
    .fetch_one(conn)
    .await?;
    Ok(found)
}

/// Has two components change passwords. Each is sealed for whose it is, so it is sealed anew.
pub(crate) async fn swap_passwords(
    conn: &mut PgConnection,
    key: &InstallationKey,
    one: ComponentId,
    other: ComponentId,
) -> Result<(), Error> {
    let rows = sqlx::query!(
        "select component_id, name, sealed from secrets
         where component_id in ($1, $2) and name in ('password', 'verifier')",
        one.0,
        other.0
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        let (from, to) = if row.component_id == one.0 { (one, other) } else { (other, one) };
        let secret = key.open(&whose(from, &row.name), &row.sealed)?;
        let sealed = key.seal(&whose(to, &row.name), &secret)?;
        sqlx::query!(
            "update secrets set sealed = $3, version = version + 1 where component_id = $1 and name = $2",
            to.0,
            row.name,
            sealed
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// What is sealed to know the key again.
const WITNESS: &str = "the installation key";

impl Store {
    /// Makes sure that the key is the one that this state was sealed with; the first key ever seen is.
    ///
    /// # Errors
    /// [`Error::WrongKey`] when it is another.
    pub async fn check_key(&self) -> Result<(), Error> {
        let sealed = self.key.seal(WITNESS, &SecretString::from(WITNESS))?;
        sqlx::query!("insert into installation (sealed) values ($1) on conflict do nothing", sealed)
            .execute(&self.pool)
            .await?;
        let first = sqlx::query_scalar!("select sealed from installation").fetch_one(&self.pool).await?;
        self.key.open(WITNESS, &first).map(|_| ()).map_err(|_| Error::WrongKey)
    }

    /// Seals a text that somebody else keeps for a while and brings back, like a browser: only this installation reads
    /// it, and only for that purpose.
    ///
    /// # Errors
    /// [`Error::Sealed`] where the cipher fails.
    pub fn seal_for(&self, purpose: &str, text: &SecretString) -> Result<Vec<u8>, Error> {
        self.key.seal(&format!("lent/{purpose}"), text)
    }

    /// Opens what was sealed for a purpose.
    ///
    /// # Errors
    /// [`Error::Sealed`] for anything else.
    pub fn open_for(&self, purpose: &str, sealed: &[u8]) -> Result<SecretString, Error> {
        self.key.open(&format!("lent/{purpose}"), sealed)
    }

    /// Keeps something that lies outside the database, so that it comes back with it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn keep(&self, name: &str, secret: &SecretString) -> Result<(), Error> {
        let known = self.kept(name).await?;
        if known.is_some_and(|known| known.expose_secret() == secret.expose_secret()) {
            return Ok(());
        }
        let sealed = self.key.seal(&format!("kept/{name}"), secret)?;
        sqlx::query!(
            "insert into kept (name, sealed) values ($1, $2) on conflict (name) do update set sealed = $2",
            name,
            sealed
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What was kept.
    ///
    /// # Errors
    /// [`Error::Sealed`] when the installation key is not the one it was sealed with.
    pub async fn kept(&self, name: &str) -> Result<Option<SecretString>, Error> {
        let sealed = sqlx::query_scalar!("select sealed from kept where name = $1", name)
            .fetch_optional(&self.pool)
            .await?;
        sealed.map(|sealed| self.key.open(&format!("kept/{name}"), &sealed)).transpose()
    }

    /// The password of a component; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Sealed`] when the installation key is not the one it was sealed with.
    pub async fn password(&self, component: ComponentId) -> Result<Option<Password>, Error> {
        self.password_of(component, Account::Owner).await
    }

    /// That of its reader role; `None` where nobody has needed it yet: [`Store::open_reader`] makes it.
    ///
    /// # Errors
    /// As [`Store::password`].
    pub async fn reader(&self, component: ComponentId) -> Result<Option<Password>, Error> {
        self.password_of(component, Account::Reader).await
    }

    async fn password_of(&self, component: ComponentId, account: Account) -> Result<Option<Password>, Error> {
        let names = account.names();
        let rows = sqlx::query!(
            "select name, sealed, version from secrets where component_id = $1 and name = any($2)",
            component.0,
            &names.map(str::to_owned)
        )
        .fetch_all(&self.pool)
        .await?;
        let find = |wanted: &str| {
            rows.iter()
                .find(|row| row.name == wanted)
                .map(|row| self.key.open(&whose(component, wanted), &row.sealed))
                .transpose()
        };
        let version = rows.iter().map(|row| row.version).max().unwrap_or(0);
        let [password, verifier] = names;
        Ok(match (find(password)?, find(verifier)?) {
            (Some(password), Some(verifier)) => Some(Password { password, verifier, version }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_for_whom_it_was_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = InstallationKey::read_or_make(&path).unwrap();
        let again = InstallationKey::read_or_make(&path).unwrap();
        let sealed = key.seal("a/password", &SecretString::from("s3cret")).unwrap();
        assert_eq!(again.open("a/password", &sealed).unwrap().expose_secret(), "s3cret");
        assert!(matches!(again.open("b/password", &sealed), Err(Error::Sealed)));
        let mut bent = sealed.clone();
        *bent.last_mut().unwrap() ^= 1;
        assert!(matches!(again.open("a/password", &bent), Err(Error::Sealed)));
        assert!(matches!(again.open("a/password", &sealed[..10]), Err(Error::Sealed)));
    }
}
