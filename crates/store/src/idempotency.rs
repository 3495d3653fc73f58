//! Requests that may be sent again: the first answer to an `Idempotency-Key` is kept for a day. It is sealed,
//! because an answer may hold a secret (that of a new token) which the database knows only as a hash.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use uuid::Uuid;

use crate::error::unreadable;
use crate::{Error, Store};

/// What is known of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// Nothing: the caller goes on, and it is noted that it has begun.
    New,
    /// Another request with the key is on its way.
    Running,
    /// The same request was answered.
    Answered {
        /// HTTP status.
        status: u16,
        /// Body.
        response: Value,
    },
    /// The key was used for another request.
    Other,
}

impl Store {
    /// Begins a request under a key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_idempotent(
        &self,
        token: Uuid,
        key: &str,
        request_hash: &[u8],
    ) -> Result<Known, Error> {
        let mut tx = self.pool.begin().await?;
        // A request that began and never answered was cut off (none takes longer than two minutes), and may be done again.
        sqlx::query!(
            "delete from idempotency_keys where created_at < now() - interval '1 day'
                or (token_id = $1 and key = $2 and status is null and created_at < now() - interval '2 minutes')",
            token,
            key
        )
        .execute(&mut *tx)
        .await?;
        let begun = sqlx::query!(
            "insert into idempotency_keys (token_id, key, request_hash) values ($1, $2, $3) on conflict do nothing",
            token,
            key,
            request_hash
        )
        .execute(&mut *tx)
        .await?;
        let known = if begun.rows_affected() == 1 {
            Known::New
        } else {
            let row = sqlx::query!(
                "select request_hash, status, response from idempotency_keys where token_id = $1 and key = $2",
                token,
                key
            )
            .fetch_one(&mut *tx)
            .await?;
            match (row.status, row.response) {
                _ if row.request_hash != request_hash => Known::Other,
                (Some(status), Some(sealed)) => Known::Answered {
                    status: u16::try_from(status).unwrap_or(200),
                    response: self.unseal_answer(token, key, &sealed)?,
                },
                _ => Known::Running,
            }
        };
        tx.commit().await?;
        Ok(known)
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_idempotent(
        &self,
        token: Uuid,
        key: &str,
        status: u16,
        response: &Value,
    ) -> Result<(), Error> {
        sqlx::query!(
            "update idempotency_keys set status = $3, response = $4 where token_id = $1 and key = $2",
            token,
            key,
            i32::from(status),
            self.seal_answer(token, key, response)?,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets a key whose request failed in a way that may be tried again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_idempotent(&self, token: Uuid, key: &str) -> Result<(), Error> {
        sqlx::query!("delete from idempotency_keys where token_id = $1 and key = $2", token, key)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    fn seal_answer(&self, token: Uuid, key: &str, response: &Value) -> Result<Value, Error> {
        let sealed = self.key.seal(&whose(token, key), &SecretString::from(response.to_string()))?;
        Ok(Value::String(STANDARD.encode(sealed)))
    }

    fn unseal_answer(&self, token: Uuid, key: &str, sealed: &Value) -> Result<Value, Error> {
        let sealed = sealed.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or(Error::Sealed)?;
        let text = self.key.open(&whose(token, key), &sealed)?;
        serde_json::from_str(text.expose_secret()).map_err(unreadable("kept answer"))
    }
}

fn whose(token: Uuid, key: &str) -> String {
    format!("answer/{token}/{key}")
}
