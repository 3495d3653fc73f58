//! Sessions of people in a browser.
//!
//! A session is told by a cookie of 256 random bits, of which only the hash is kept. It ends by itself (unused for a
//! while, or after some days), by its owner, with a change of password, and when a cookie turns up that was replaced
//! long ago: somebody has a copy then, and nobody can say who of the two is the owner.

use jiff::Timestamp;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::journal::{Actor, Entry, Outcome};
use crate::person::{self, Person};
use crate::{Error, Store};

/// How long a session lasts at most, days.
pub const LASTS_DAYS: i32 = 7;
/// How long it lasts unused, hours.
const UNUSED_HOURS: i32 = 12;
/// How often its cookie is replaced, minutes.
const ROTATES_MINUTES: i32 = 15;
/// How long the replaced cookie still holds, seconds: for requests that were on their way.
const FORMER_HOLDS_S: i32 = 60;

/// A session in force.
#[derive(Debug, Clone)]
pub struct Session {
    /// Identity.
    pub id: Uuid,
    /// Whose.
    pub person: Person,
    /// Whether its cookie has been in use long enough.
    pub rotates: bool,
}

/// A session as its owner sees it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Identity.
    pub id: Uuid,
    /// From where it was begun.
    pub source: String,
    /// When.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub seen_at: Timestamp,
}

/// 256 random bits as text, for cookies and links.
pub(crate) fn random_secret() -> SecretString {
    let rng = rand::rng();
    SecretString::from(
        rng.sample_iter(rand::distr::Alphanumeric).take(43).map(char::from).collect::<String>(),
    )
}

pub(crate) fn hash(secret: &SecretString) -> Vec<u8> {
    Sha256::digest(secret.expose_secret()).to_vec()
}

fn whose(session: Uuid) -> String {
    format!("session/{session}/id_token")
}

/// Begins a session inside the caller's transaction, with its line.
pub(crate) async fn begin(
    conn: &mut PgConnection,
    store: &Store,
    person: &Person,
    source: &str,
    how: &str,
    id_token: Option<&SecretString>,
) -> Result<SecretString, Error> {
    let (id, secret) = (Uuid::now_v7(), random_secret());
    let id_token = id_token.map(|token| store.key.seal(&whose(id), token)).transpose()?;
    sqlx::query!(
        "insert into sessions (id, person_id, hash, source, id_token, expires_at)
         values ($1, $2, $3, $4, $5, now() + make_interval(days => $6))",
        id,
        person.id,
        hash(&secret),
        source,
        id_token,
        LASTS_DAYS
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "update people set signed_in_at = now(), failures = 0, locked_until = null where id = $1",
        person.id
    )
    .execute(&mut *conn)
    .await?;
    let actor = Actor { name: person.name.clone(), source: source.to_owned() };
    let line = Entry { reason: Some(how.to_owned()), ..Entry::new(&actor, "sign_in.done", Outcome::Done) };
    person::journal_everywhere(conn, person, &line).await?;
    Ok(secret)
}

impl Store {
    /// Begins a session of somebody who proved who they are; `how` says by what, for the record.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_session(
        &self,
        person: Uuid,
        source: &str,
        how: &str,
        id_token: Option<&SecretString>,
    ) -> Result<SecretString, Error> {
        let mut tx = self.pool.begin().await?;
        let person = person::find(&mut tx, person).await?.ok_or(Error::BadName("person"))?;
        let secret = begin(&mut tx, self, &person, source, how, id_token).await?;
        tx.commit().await?;
        Ok(secret)
    }

    /// The session that a cookie is of; `None` where it has ended or never was.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn session(&self, secret: &SecretString) -> Result<Option<Session>, Error> {
        let hash = hash(secret);
        let mut conn = self.pool.acquire().await?;
        let row = sqlx::query!(
            r#"select id, person_id, hash = $1 as "current!", seen_at < now() - interval '1 minute' as "unseen!",
                      rotated_at < now() - make_interval(mins => $2) as "rotates!",
                      rotated_at < now() - make_interval(secs => $3::int4) as "replaced_long_ago!"
               from sessions where (hash = $1 or former = $1) and expires_at > now()
                 and seen_at > now() - make_interval(hours => $4)"#,
            hash,
            ROTATES_MINUTES,
            FORMER_HOLDS_S,
            UNUSED_HOURS
        )
        .fetch_optional(&mut *conn)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let Some(person) = person::find(&mut conn, row.person_id).await? else { return Ok(None) };
        if !row.current && row.replaced_long_ago {
            drop(conn);
            self.end_copied(row.id, &person).await?;
            return Ok(None);
        }
        if row.unseen {
            sqlx::query!("update sessions set seen_at = now() where id = $1", row.id)
                .execute(&mut *conn)
                .await?;
        }
        Ok(Some(Session { id: row.id, person, rotates: row.current && row.rotates }))
    }

    /// Ends a session of which somebody has a copy.
    async fn end_copied(&self, id: Uuid, person: &Person) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let ended = sqlx::query_scalar!("delete from sessions where id = $1 returning source", id);
        if let Some(source) = ended.fetch_optional(&mut *tx).await? {
            let actor = Actor { name: person.name.clone(), source };
            let why = "a cookie of this session came back that was replaced long ago; the session was ended";
            let line = Entry {
                reason: Some(why.into()),
                ..Entry::new(&actor, "sign_in.session_copied", Outcome::Refused)
            };
            person::journal_everywhere(&mut tx, person, &line).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Replaces the cookie of a session; `None` where another request just did.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rotate_session(&self, old: &SecretString) -> Result<Option<SecretString>, Error> {
        let secret = random_secret();
        let rotated = sqlx::query!(
            "update sessions set former = hash, hash = $2, rotated_at = now() where hash = $1",
            hash(old),
            hash(&secret)
        )
        .execute(&self.pool)
        .await?;
        Ok((rotated.rows_affected() == 1).then_some(secret))
    }

    /// Sessions of somebody in force, the newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sessions(&self, person: Uuid) -> Result<Vec<Listed>, Error> {
        let rows = sqlx::query!(
            r#"select id, source, created_at as "created_at: jiff_sqlx::Timestamp",
                      seen_at as "seen_at: jiff_sqlx::Timestamp"
               from sessions where person_id = $1 and expires_at > now()
                 and seen_at > now() - make_interval(hours => $2) order by created_at desc, id desc"#,
            person,
            UNUSED_HOURS
        )
        .fetch_all(&self.pool)
        .await?;
        let listed = rows.into_iter().map(|row| Listed {
            id: row.id,
            source: row.source,
            created_at: row.created_at.to_jiff(),
            seen_at: row.seen_at.to_jiff(),
        });
        Ok(listed.collect())
    }

    /// Ends a session of somebody's; answers what the identity provider wants to hear of it. `Ok(None)` also where
    /// there is no such session.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_session(
        &self,
        actor: &Actor,
        person: &Person,
        id: Uuid,
    ) -> Result<Option<SecretString>, Error> {
        let mut tx = self.pool.begin().await?;
        let ended = sqlx::query!(
            "delete from sessions where id = $1 and person_id = $2 returning id_token, source",
            id,
            person.id
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(ended) = ended else { return Ok(None) };
        let line = Entry {
            before: serde_json::json!({ "session": id, "source": ended.source }),
            ..Entry::new(actor, "sign_in.ended", Outcome::Done)
        };
        person::journal_everywhere(&mut tx, person, &line).await?;
        tx.commit().await?;
        ended.id_token.map(|sealed| self.key.open(&whose(id), &sealed)).transpose()
    }

    /// Removes sessions and invitations that are over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sweep_sessions(&self) -> Result<(), Error> {
        sqlx::query!(
            "delete from sessions where expires_at < now() or seen_at < now() - make_interval(hours => $1)",
            UNUSED_HOURS
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!("delete from invitations where expires_at < now() - interval '30 days'")
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
