//! People: who signs in to the console, and what they are in which tenant.

use std::time::Duration;

use component::{Role, TenantId, TenantName};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store};

/// Wrong passwords in a row after which an account waits.
pub const PATIENCE: i32 = 5;
/// How long an account waits after the first wrong password too many, seconds; twice as long after each further one.
const FIRST_WAIT_S: f64 = 30.0;
/// The longest that it waits, seconds.
const LONGEST_WAIT_S: f64 = 900.0;

/// How long a name waits after so many wrong passwords in a row; none as long as there is patience.
pub fn wait_after(failures: u32) -> Option<Duration> {
    let beyond = failures.checked_sub(PATIENCE.unsigned_abs())?;
    let doubled = FIRST_WAIT_S * f64::from(1_u32 << beyond.min(20));
    Some(Duration::from_secs_f64(doubled.min(LONGEST_WAIT_S)))
}

/// Somebody who may sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Identity.
    pub id: Uuid,
    /// What the journal calls them: an e-mail address.
    pub name: String,
    /// Whether the account is Stead's own, and not of the company's identity provider.
    pub local: bool,
    /// Their role in every tenant, for the platform's own people.
    pub staff: Option<Role>,
    /// What they are in which tenant, by name.
    pub memberships: Vec<Membership>,
    /// Whether they sign in with a second factor.
    pub second_factor: bool,
}

/// What somebody is in a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Where.
    pub tenant: TenantId,
    /// Its name.
    pub name: TenantName,
    /// What.
    pub role: Role,
}

/// A member as a tenant sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Whose identity.
    pub person: Uuid,
    /// What the journal calls them.
    pub name: String,
    /// What they are here.
    pub role: Role,
    /// Whether the identity provider says so, and Stead cannot change it.
    pub provided: bool,
    /// Whether they sign in with a second factor of Stead's.
    pub second_factor: bool,
    /// Since when.
    pub since: Timestamp,
    /// When they last signed in.
    pub signed_in_at: Option<Timestamp>,
}

/// A local account as signing in needs it.
pub struct Account {
    /// Whose.
    pub person: Uuid,
    /// Argon2id in PHC notation; absent before a password was chosen.
    pub password: Option<SecretString>,
    /// The secret of the second factor, where one is in force.
    pub totp: Option<SecretString>,
    /// Until when no password is looked at.
    pub locked_until: Option<Timestamp>,
}

/// What the company's identity provider says of somebody.
#[derive(Debug, Clone)]
pub struct Provided {
    /// Who says so.
    pub issuer: String,
    /// Who they are there; never given to somebody else.
    pub subject: String,
    /// What the journal calls them.
    pub name: String,
    /// Their role in every tenant.
    pub staff: Option<Role>,
    /// What they are in which tenant.
    pub memberships: Vec<(TenantName, Role)>,
}

fn role(text: &str) -> Result<Role, Error> {
    text.parse().map_err(|_| Error::BadName("role"))
}

fn whose(person: Uuid) -> String {
    format!("person/{person}/totp")
}

/// Reads a person inside the caller's transaction.
pub(crate) async fn find(conn: &mut PgConnection, id: Uuid) -> Result<Option<Person>, Error> {
    let row = sqlx::query!(
        r#"select name, issuer is null as "local!", staff, totp_confirmed from people where id = $1"#,
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let memberships = sqlx::query!(
        "select t.id, t.name, m.role from members m join tenants t on t.id = m.tenant_id
         where m.person_id = $1 order by t.name",
        id
    )
    .fetch_all(conn)
    .await?;
    let memberships = memberships.into_iter().map(|row| {
        let name = row.name.parse().map_err(|_| Error::BadName("tenant name"))?;
        Ok(Membership { tenant: TenantId(row.id), name, role: role(&row.role)? })
    });
    Ok(Some(Person {
        id,
        name: row.name,
        local: row.local,
        staff: row.staff.as_deref().map(role).transpose()?,
        memberships: memberships.collect::<Result<_, Error>>()?,
        second_factor: row.totp_confirmed,
    }))
}

/// Puts a line on record in every tenant that somebody is of, and in none's where they are of none.
pub(crate) async fn journal_everywhere(
    conn: &mut PgConnection,
    person: &Person,
    line: &Entry,
) -> Result<(), Error> {
    if person.memberships.is_empty() || person.staff.is_some() {
        journal::write(conn, line).await?;
        return Ok(());
    }
    for membership in &person.memberships {
        let tenant = Some((membership.tenant, membership.name.to_string()));
        journal::write(conn, &Entry { tenant, ..line.clone() }).await?;
    }
    Ok(())
}

/// Makes somebody a member, or gives a member another role, with its line.
pub(crate) async fn put_member(
    conn: &mut PgConnection,
    actor: &Actor,
    person: (Uuid, &str),
    tenant: (TenantId, &TenantName),
    role: Role,
    provided: bool,
) -> Result<(), Error> {
    let before = sqlx::query_scalar!(
        "select role from members where person_id = $1 and tenant_id = $2 for update",
        person.0,
        tenant.0.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    sqlx::query!(
        "insert into members (person_id, tenant_id, role, provided) values ($1, $2, $3, $4)
         on conflict (person_id, tenant_id) do update set role = excluded.role, provided = excluded.provided",
        person.0,
        tenant.0.0,
        role.as_str(),
        provided
    )
    .execute(&mut *conn)
    .await?;
    if before.as_deref() == Some(role.as_str()) {
        return Ok(());
    }
    let action = if before.is_some() { "member.edited" } else { "member.added" };
    let line = Entry {
        tenant: Some((tenant.0, tenant.1.to_string())),
        before: before.map(|role| json!({ "member": person.1, "role": role })).unwrap_or_default(),
        after: json!({ "member": person.1, "role": role }),
        ..Entry::new(actor, action, Outcome::Done)
    };
    journal::write(conn, &line).await?;
    Ok(())
}

async fn drop_member(
    conn: &mut PgConnection,
    actor: &Actor,
    person: (Uuid, &str),
    tenant: (TenantId, &TenantName),
) -> Result<bool, Error> {
    let role = sqlx::query_scalar!(
        "delete from members where person_id = $1 and tenant_id = $2 returning role",
        person.0,
        tenant.0.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(role) = role else { return Ok(false) };
    let line = Entry {
        tenant: Some((tenant.0, tenant.1.to_string())),
        before: json!({ "member": person.1, "role": role }),
        ..Entry::new(actor, "member.removed", Outcome::Done)
    };
    journal::write(conn, &line).await?;
    Ok(true)
}

impl Store {
    /// The local account of that name.
    ///
    /// # Errors
    /// When the database does not answer, or the installation key is another.
    pub async fn account(&self, name: &str) -> Result<Option<Account>, Error> {
        let row = sqlx::query!(
            r#"select id, password, totp, totp_confirmed,
                      case when locked_until > now() then locked_until end as "locked_until: jiff_sqlx::Timestamp"
               from people where issuer is null and name = $1"#,
            name
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let totp = row.totp.filter(|_| row.totp_confirmed);
        Ok(Some(Account {
            person: row.id,
            password: row.password.map(SecretString::from),
            totp: totp.map(|sealed| self.key.open(&whose(row.id), &sealed)).transpose()?,
            locked_until: row.locked_until.map(jiff_sqlx::Timestamp::to_jiff),
        }))
    }

    /// Counts an attempt at an account as failed, before it is looked at: so that of many at once none is free. False
    /// where the account waits, and the attempt must not be looked at.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn charge_attempt(&self, person: Uuid) -> Result<bool, Error> {
        let charged = sqlx::query!(
            "update people set failures = failures + 1,
                    locked_until = case when failures + 1 >= $2 then now() + make_interval(secs =>
                        least($3 * power(2, least(failures + 1 - $2, 20)), $4)) end
             where id = $1 and (locked_until is null or locked_until <= now())",
            person,
            PATIENCE,
            FIRST_WAIT_S,
            LONGEST_WAIT_S
        )
        .execute(&self.pool)
        .await?;
        Ok(charged.rows_affected() == 1)
    }

    /// Takes the code of a time step, once: false for one that was taken, or is older than one that was.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_totp_step(&self, person: Uuid, step: i64) -> Result<bool, Error> {
        let taken =
            sqlx::query!("update people set totp_step = $2 where id = $1 and totp_step < $2", person, step)
                .execute(&self.pool)
                .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Takes a recovery code, once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_recovery_code(&self, person: Uuid, hash: &[u8]) -> Result<bool, Error> {
        let taken = sqlx::query!(
            "update people set recovery = array_remove(recovery, $2) where id = $1 and $2 = any(recovery)",
            person,
            hash
        )
        .execute(&self.pool)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Puts on record that somebody was not let in. `name` is what they called themselves.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refuse_sign_in(
        &self,
        person: Option<Uuid>,
        name: &str,
        source: &str,
        why: &str,
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let person = match person {
            Some(id) => find(&mut tx, id).await?,
            None => None,
        };
        let actor = Actor { name: name.to_owned(), source: source.to_owned() };
        let line =
            Entry { reason: Some(why.to_owned()), ..Entry::new(&actor, "sign_in.refused", Outcome::Refused) };
        match &person {
            Some(person) => journal_everywhere(&mut tx, person, &line).await?,
            None => {
                journal::write(&mut tx, &line).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Sets a password. With it all sessions but `keep` end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn set_password(
        &self,
        actor: &Actor,
        person: &Person,
        phc: &SecretString,
        keep: Uuid,
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "update people set password = $2, failures = 0, locked_until = null where id = $1",
            person.id,
            phc.expose_secret()
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("delete from sessions where person_id = $1 and id <> $2", person.id, keep)
            .execute(&mut *tx)
            .await?;
        journal_everywhere(&mut tx, person, &Entry::new(actor, "sign_in.password_changed", Outcome::Done))
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Keeps the secret of a second factor that is not in force before it was confirmed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn offer_totp(&self, person: Uuid, secret: &SecretString) -> Result<(), Error> {
        let sealed = self.key.seal(&whose(person), secret)?;
        sqlx::query!(
            "update people set totp = $2, totp_step = 0 where id = $1 and not totp_confirmed",
            person,
            sealed
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The secret of a second factor that has yet to be confirmed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn offered_totp(&self, person: Uuid) -> Result<Option<SecretString>, Error> {
        let sealed =
            sqlx::query_scalar!("select totp from people where id = $1 and not totp_confirmed", person)
                .fetch_optional(&self.pool)
                .await?
                .flatten();
        sealed.map(|sealed| self.key.open(&whose(person), &sealed)).transpose()
    }

    /// Puts a second factor in force, with its recovery codes (as SHA-256), or takes it away.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn set_second_factor(
        &self,
        actor: &Actor,
        person: &Person,
        recovery: Option<&[Vec<u8>]>,
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let action =
            if recovery.is_some() { "sign_in.second_factor_added" } else { "sign_in.second_factor_removed" };
        sqlx::query!(
            "update people set totp_confirmed = $2, recovery = $3, totp = case when $2 then totp end where id = $1",
            person.id,
            recovery.is_some(),
            recovery.unwrap_or_default(),
        )
        .execute(&mut *tx)
        .await?;
        journal_everywhere(&mut tx, person, &Entry::new(actor, action, Outcome::Done)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes what the identity provider says of somebody true here, and answers who that is.
    ///
    /// Roles that it gave before and does not give any more are taken; those given here stay. Tenants that are not
    /// there give nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_provided(&self, source: &str, provided: &Provided) -> Result<Person, Error> {
        let actor = Actor { name: provided.name.clone(), source: source.to_owned() };
        let mut tx = self.pool.begin().await?;
        let id = sqlx::query_scalar!(
            "insert into people (id, name, issuer, subject) values ($1, $2, $3, $4)
             on conflict (issuer, subject) do update set name = excluded.name returning id",
            Uuid::now_v7(),
            provided.name,
            provided.issuer,
            provided.subject
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!("select id from people where id = $1 for update", id).fetch_one(&mut *tx).await?;
        let by_provider = Actor { name: "identity provider".into(), source: actor.source.clone() };
        provide_staff(&mut tx, &by_provider, id, provided).await?;
        let mut given = Vec::new();
        for (name, role) in &provided.memberships {
            let Some(tenant) = crate::tenant::find(&mut tx, name).await? else { continue };
            given.push(tenant.id.0);
            let local = sqlx::query_scalar!(
                "select true from members where person_id = $1 and tenant_id = $2 and not provided",
                id,
                tenant.id.0
            );
            if local.fetch_optional(&mut *tx).await?.is_none() {
                let who = (id, provided.name.as_str());
                put_member(&mut tx, &by_provider, who, (tenant.id, &tenant.name), *role, true).await?;
            }
        }
        let over = sqlx::query!(
            "select t.id, t.name from members m join tenants t on t.id = m.tenant_id
             where m.person_id = $1 and m.provided and t.id <> all($2)",
            id,
            &given
        )
        .fetch_all(&mut *tx)
        .await?;
        for row in over {
            let name: TenantName = row.name.parse().map_err(|_| Error::BadName("tenant name"))?;
            drop_member(&mut tx, &by_provider, (id, &provided.name), (TenantId(row.id), &name)).await?;
        }
        let person = find(&mut tx, id).await?.ok_or(Error::BadName("person"))?;
        tx.commit().await?;
        Ok(person)
    }

    /// Members of a tenant, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn members(&self, tenant: TenantId) -> Result<Vec<Member>, Error> {
        let rows = sqlx::query!(
            r#"select p.id, p.name, m.role, m.provided, p.totp_confirmed, m.since as "since: jiff_sqlx::Timestamp",
                      p.signed_in_at as "signed_in_at: jiff_sqlx::Timestamp"
               from members m join people p on p.id = m.person_id where m.tenant_id = $1 order by p.name, p.id"#,
            tenant.0
        )
        .fetch_all(&self.pool)
        .await?;
        let members = rows.into_iter().map(|row| {
            Ok(Member {
                person: row.id,
                name: row.name,
                role: role(&row.role)?,
                provided: row.provided,
                second_factor: row.totp_confirmed,
                since: row.since.to_jiff(),
                signed_in_at: row.signed_in_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        });
        members.collect()
    }

    /// Gives a member another role, or none (`None`: no member any more). False where there is no such member, or the
    /// identity provider says what they are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn edit_member(
        &self,
        actor: &Actor,
        tenant: (TenantId, &TenantName),
        person: Uuid,
        role: Option<Role>,
    ) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let name = sqlx::query_scalar!(
            "select p.name from members m join people p on p.id = m.person_id
             where m.person_id = $1 and m.tenant_id = $2 and not m.provided for update of m",
            person,
            tenant.0.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(name) = name else { return Ok(false) };
        let who = (person, name.as_str());
        match role {
            Some(role) => put_member(&mut tx, actor, who, tenant, role, false).await?,
            None => {
                drop_member(&mut tx, actor, who, tenant).await?;
            }
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Gives or takes the role in every tenant that the identity provider says.
async fn provide_staff(
    conn: &mut PgConnection,
    actor: &Actor,
    id: Uuid,
    provided: &Provided,
) -> Result<(), Error> {
    let row = sqlx::query!("select staff, staff_provided from people where id = $1", id)
        .fetch_one(&mut *conn)
        .await?;
    let wanted = provided.staff.map(Role::as_str);
    if row.staff.as_deref() == wanted || (row.staff.is_some() && !row.staff_provided) {
        return Ok(());
    }
    sqlx::query!(
        "update people set staff = $2, staff_provided = $2::text is not null where id = $1",
        id,
        wanted
    )
    .execute(&mut *conn)
    .await?;
    let line = Entry {
        before: json!({ "person": provided.name, "role": row.staff }),
        after: json!({ "person": provided.name, "role": wanted }),
        ..Entry::new(actor, "staff.edited", Outcome::Done)
    };
    journal::write(conn, &line).await?;
    Ok(())
}
