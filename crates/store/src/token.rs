//! Tokens: who may ask, and for what.

use component::{Role, TenantId, TenantName};
use jiff::Timestamp;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store};

/// A token, without its secret.
#[derive(Debug, Clone)]
pub struct Token {
    /// Identity.
    pub id: Uuid,
    /// What it is called in the journal.
    pub name: String,
    /// Whose; absent for the platform's own.
    pub tenant: Option<(TenantId, TenantName)>,
    /// What it allows.
    pub scope: Role,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when.
    pub expires_at: Option<Timestamp>,
}

/// Every token begins with this, so that a leaked one can be recognised.
pub const PREFIX: &str = "stead_";

fn hash(secret: &SecretString) -> Vec<u8> {
    Sha256::digest(secret.expose_secret()).to_vec()
}

struct Row {
    id: Uuid,
    name: String,
    tenant_id: Option<Uuid>,
    tenant: Option<String>,
    scope: String,
    created_at: jiff_sqlx::Timestamp,
    expires_at: Option<jiff_sqlx::Timestamp>,
}

impl Row {
    fn token(self) -> Result<Token, Error> {
        let tenant = match (self.tenant_id, self.tenant) {
            (Some(id), Some(name)) => {
                Some((TenantId(id), name.parse().map_err(|_| Error::BadName("tenant name"))?))
            }
            _ => None,
        };
        Ok(Token {
            id: self.id,
            name: self.name,
            tenant,
            scope: self.scope.parse().map_err(|_| Error::BadName("token scope"))?,
            created_at: self.created_at.to_jiff(),
            expires_at: self.expires_at.map(jiff_sqlx::Timestamp::to_jiff),
        })
    }
}

impl Store {
    /// Makes a token. Its secret is answered once and not kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_token(
        &self,
        actor: &Actor,
        name: &str,
        tenant: Option<(TenantId, &TenantName)>,
        scope: Role,
        expires_at: Option<Timestamp>,
    ) -> Result<(Token, SecretString), Error> {
        let body: String = {
            let mut rng = rand::rng();
            (0..43).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
        };
        let secret = SecretString::from(format!("{PREFIX}{body}"));
        let token = self.put_token(actor, name, tenant, scope, expires_at, &secret).await?;
        Ok((token, secret))
    }

    /// Makes a token of a secret that is already there: the operator's, which is kept in a file.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_token(
        &self,
        actor: &Actor,
        name: &str,
        tenant: Option<(TenantId, &TenantName)>,
        scope: Role,
        expires_at: Option<Timestamp>,
        secret: &SecretString,
    ) -> Result<Token, Error> {
        let mut tx = self.pool.begin().await?;
        let id = Uuid::new_v4();
        let made = sqlx::query!(
            "insert into tokens (id, name, hash, tenant_id, scope, expires_at) values ($1, $2, $3, $4, $5, $6)
             on conflict (hash) do nothing",
            id,
            name,
            hash(secret),
            tenant.map(|(id, _)| id.0),
            scope.as_str(),
            expires_at.map(jiff_sqlx::Timestamp::from) as _,
        )
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 1 {
            let line = Entry {
                tenant: tenant.map(|(id, name)| (id, name.to_string())),
                after: serde_json::json!({ "id": id, "name": name, "scope": scope, "expires_at": expires_at }),
                ..Entry::new(actor, "token.created", Outcome::Done)
            };
            journal::write(&mut tx, &line).await?;
        }
        tx.commit().await?;
        self.token(secret).await?.ok_or(Error::BadName("token"))
    }

    /// The token that a secret is; `None` where there is none, or it has ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn token(&self, secret: &SecretString) -> Result<Option<Token>, Error> {
        sqlx::query_as!(
            Row,
            r#"select k.id, k.name, k.tenant_id, t.name as "tenant?", scope,
                      k.created_at as "created_at: jiff_sqlx::Timestamp",
                      expires_at as "expires_at: jiff_sqlx::Timestamp"
               from tokens k left join tenants t on t.id = k.tenant_id
               where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())"#,
            hash(secret)
        )
        .fetch_optional(&self.pool)
        .await?
        .map(Row::token)
        .transpose()
    }

    /// Tokens in force, of these tenants or all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tokens(&self, tenants: Option<&[TenantId]>) -> Result<Vec<Token>, Error> {
        sqlx::query_as!(
            Row,
            r#"select k.id, k.name, k.tenant_id, t.name as "tenant?", scope,
                      k.created_at as "created_at: jiff_sqlx::Timestamp",
                      expires_at as "expires_at: jiff_sqlx::Timestamp"
               from tokens k left join tenants t on t.id = k.tenant_id
               where revoked_at is null and (expires_at is null or expires_at > now())
                 and ($1::uuid[] is null or tenant_id = any($1)) order by k.created_at, k.id"#,
            crate::tenant::uuids(tenants) as _
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Row::token)
        .collect()
    }

    /// Ends a token. False where there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke_token(&self, actor: &Actor, id: Uuid) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query!(
            r#"update tokens k set revoked_at = now() where id = $1 and revoked_at is null
               returning name, tenant_id, (select t.name from tenants t where t.id = k.tenant_id) as tenant"#,
            id
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let line = Entry {
            tenant: row.tenant_id.map(TenantId).zip(row.tenant),
            before: serde_json::json!({ "id": id, "name": row.name }),
            ..Entry::new(actor, "token.revoked", Outcome::Done)
        };
        journal::write(&mut tx, &line).await?;
        tx.commit().await?;
        Ok(true)
    }
}
