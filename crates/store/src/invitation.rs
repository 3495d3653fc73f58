//! Invitations: links that make a local account, or sign somebody in once.
//!
//! Whoever has the link is let in, once and for a while; so it is shown to its maker alone, once, and only its hash is
//! kept.

use component::{Role, TenantId, TenantName};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::person::{self, Person, put_member};
use crate::session::{self, hash, random_secret};
use crate::{Error, Store};

/// How long an invitation holds, hours.
pub const HOLDS_HOURS: i32 = 72;
/// How long a link holds that signs in by itself, minutes.
pub const ONCE_HOLDS_MINUTES: i32 = 5;

/// An invitation, without its secret.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Identity.
    pub id: Uuid,
    /// Whom: an e-mail address.
    pub name: String,
    /// Into which tenant; absent for the platform's own people.
    pub tenant: Option<(TenantId, TenantName)>,
    /// What they become.
    pub role: Role,
    /// Whether it signs in by itself.
    pub once: bool,
    /// Whether there is an account of that name already, which then keeps its password.
    pub known: bool,
    /// Who made it.
    pub made_by: String,
    /// Until when.
    pub expires_at: Timestamp,
}

struct Row {
    id: Uuid,
    name: String,
    tenant_id: Option<Uuid>,
    tenant: Option<String>,
    role: String,
    once: bool,
    known: bool,
    made_by: String,
    expires_at: jiff_sqlx::Timestamp,
}

impl Row {
    fn invitation(self) -> Result<Invitation, Error> {
        let name = |name: String| name.parse().map_err(|_| Error::BadName("tenant name"));
        let tenant = match (self.tenant_id, self.tenant) {
            (Some(id), Some(tenant)) => Some((TenantId(id), name(tenant)?)),
            _ => None,
        };
        Ok(Invitation {
            id: self.id,
            name: self.name,
            tenant,
            role: self.role.parse().map_err(|_| Error::BadName("role"))?,
            once: self.once,
            known: self.known,
            made_by: self.made_by,
            expires_at: self.expires_at.to_jiff(),
        })
    }
}

async fn find(conn: &mut PgConnection, secret: &SecretString) -> Result<Option<Invitation>, Error> {
    sqlx::query_as!(
        Row,
        r#"select i.id, i.name, i.tenant_id, t.name as "tenant?", i.role, once, made_by,
                  exists (select from people p where p.issuer is null and p.name = i.name
                          and p.password is not null) as "known!",
                  expires_at as "expires_at: jiff_sqlx::Timestamp"
           from invitations i left join tenants t on t.id = i.tenant_id
           where hash = $1 and expires_at > now() for update of i"#,
        hash(secret)
    )
    .fetch_optional(conn)
    .await?
    .map(Row::invitation)
    .transpose()
}

impl Store {
    /// Invites somebody. An invitation of the same person to the same place that is still open ends.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invite(
        &self,
        actor: &Actor,
        name: &str,
        tenant: Option<(TenantId, &TenantName)>,
        role: Role,
        once: bool,
    ) -> Result<(Invitation, SecretString), Error> {
        let secret = random_secret();
        let mut tx = self.pool.begin().await?;
        let tenant_id = tenant.map(|(id, _)| id.0);
        sqlx::query!(
            "delete from invitations where name = $1 and tenant_id is not distinct from $2 and once = $3",
            name,
            tenant_id,
            once
        )
        .execute(&mut *tx)
        .await?;
        let minutes = if once { ONCE_HOLDS_MINUTES } else { HOLDS_HOURS * 60 };
        sqlx::query!(
            "insert into invitations (id, hash, name, tenant_id, role, once, made_by, expires_at)
             values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(mins => $8))",
            Uuid::now_v7(),
            hash(&secret),
            name,
            tenant_id,
            role.as_str(),
            once,
            actor.name,
            minutes
        )
        .execute(&mut *tx)
        .await?;
        let line = Entry {
            tenant: tenant.map(|(id, name)| (id, name.to_string())),
            after: json!({ "person": name, "role": role }),
            ..Entry::new(actor, if once { "sign_in.link_made" } else { "member.invited" }, Outcome::Done)
        };
        journal::write(&mut tx, &line).await?;
        let made = find(&mut tx, &secret).await?.ok_or(Error::BadName("invitation"))?;
        tx.commit().await?;
        Ok((made, secret))
    }

    /// The invitation that a link is; `None` where it was used, taken back, or is over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitation(&self, secret: &SecretString) -> Result<Option<Invitation>, Error> {
        find(&mut *self.pool.begin().await?, secret).await
    }

    /// Invitations into a tenant (or, for `None`, of the platform's own people) that are still open.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitations(&self, tenant: Option<TenantId>) -> Result<Vec<Invitation>, Error> {
        sqlx::query_as!(
            Row,
            r#"select i.id, i.name, i.tenant_id, t.name as "tenant?", i.role, once, made_by, false as "known!",
                      expires_at as "expires_at: jiff_sqlx::Timestamp"
               from invitations i left join tenants t on t.id = i.tenant_id
               where i.tenant_id is not distinct from $1 and expires_at > now() and not once
               order by i.name, i.id"#,
            tenant.map(|id| id.0)
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Row::invitation)
        .collect()
    }

    /// Takes an invitation back. False where there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn withdraw_invitation(
        &self,
        actor: &Actor,
        tenant: Option<(TenantId, &TenantName)>,
        id: Uuid,
    ) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let gone = sqlx::query!(
            "delete from invitations where id = $1 and tenant_id is not distinct from $2 returning name, role",
            id,
            tenant.map(|(id, _)| id.0)
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(gone) = gone else { return Ok(false) };
        let line = Entry {
            tenant: tenant.map(|(id, name)| (id, name.to_string())),
            before: json!({ "person": gone.name, "role": gone.role }),
            ..Entry::new(actor, "member.invitation_withdrawn", Outcome::Done)
        };
        journal::write(&mut tx, &line).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Uses an invitation up: makes the account where there is none (with that password), gives it its role, and begins
    /// a session. `None` where the invitation does not hold any more.
    ///
    /// An account that is there keeps its password and its second factor, and so the link gives it the role, but no
    /// session: whoever has the link has yet to prove who they are. Only a link that signs in by itself does both.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn accept_invitation(
        &self,
        secret: &SecretString,
        phc: Option<&SecretString>,
        source: &str,
    ) -> Result<Option<Accepted>, Error> {
        let mut tx = self.pool.begin().await?;
        let Some(invitation) = find(&mut tx, secret).await? else { return Ok(None) };
        sqlx::query!("delete from invitations where id = $1", invitation.id).execute(&mut *tx).await?;
        let id = sqlx::query_scalar!(
            "insert into people (id, name) values ($1, $2)
             on conflict (name) where issuer is null do update set name = excluded.name returning id",
            Uuid::now_v7(),
            invitation.name
        )
        .fetch_one(&mut *tx)
        .await?;
        if let (Some(phc), false) = (phc, invitation.known) {
            sqlx::query!("update people set password = $2 where id = $1", id, phc.expose_secret())
                .execute(&mut *tx)
                .await?;
        }
        let actor = Actor { name: invitation.name.clone(), source: source.to_owned() };
        match (&invitation.tenant, Some(invitation.role).filter(|role| role.is_staff())) {
            (Some((tenant, name)), _) => {
                let who = (id, invitation.name.as_str());
                put_member(&mut tx, &actor, who, (*tenant, name), invitation.role, false).await?;
            }
            (None, Some(role)) => {
                sqlx::query!(
                    "update people set staff = $2, staff_provided = false where id = $1",
                    id,
                    role.as_str()
                )
                .execute(&mut *tx)
                .await?;
                let after = json!({ "person": invitation.name, "role": role });
                let line = Entry { after, ..Entry::new(&actor, "staff.edited", Outcome::Done) };
                journal::write(&mut tx, &line).await?;
            }
            (None, None) => {}
        }
        let person = person::find(&mut tx, id).await?.ok_or(Error::BadName("person"))?;
        let session = if invitation.known && !invitation.once {
            None
        } else {
            let how = if invitation.once { "a link that signs in once" } else { "an invitation" };
            Some(session::begin(&mut tx, self, &person, source, how, None).await?)
        };
        tx.commit().await?;
        Ok(Some(Accepted { person, session }))
    }
}

/// What came of an invitation.
pub struct Accepted {
    /// Whose it was.
    pub person: Person,
    /// The cookie of the session; none for an account that was there and has yet to sign in.
    pub session: Option<SecretString>,
}
