//! Secrets of a stead: values that its functions find in their environment, under the secret's name, and addresses of
//! servers elsewhere that its transfers read.

use std::collections::{BTreeMap, BTreeSet};

use component::function::Variable;
use component::{ComponentName, OperationId, Spec, SteadName, TenantId, TenantName};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::rows::{finish_empty, open_operation};
use super::{EditError, Held, hold, touch};
use crate::journal::{self, Actor, Entry, Outcome};
use crate::{Error, Store, fail_point};

/// Most secrets of a stead.
const MOST: i64 = 200;

/// A secret, without its value.
#[derive(Debug, Clone)]
pub struct SteadSecret {
    /// Its name.
    pub name: Variable,
    /// Counts values that it had.
    pub version: i64,
    /// Who set it last.
    pub set_by: String,
    /// When.
    pub set_at: Timestamp,
    /// The components that use it.
    pub used_by: Vec<ComponentName>,
}

impl Store {
    /// Sets a secret of a stead. Components that use it have the new value once the operation has ended.
    ///
    /// # Errors
    /// When there is no such stead, or it has very many.
    pub async fn set_secret(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        name: &Variable,
        value: &SecretString,
        reason: Option<&str>,
    ) -> Result<OperationId, EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        let sealed = self.key.seal(&whose(stead_id, name), value)?;
        let version = sqlx::query_scalar!(
            "insert into stead_secrets (stead_id, name, sealed, set_by) values ($1, $2, $3, $4)
             on conflict (stead_id, name) do update
             set sealed = excluded.sealed, set_by = excluded.set_by, set_at = now(), version = stead_secrets.version + 1
             returning version",
            stead_id,
            name.as_str(),
            sealed,
            actor.name,
        )
        .fetch_one(&mut *tx)
        .await?;
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from stead_secrets where stead_id = $1"#,
            stead_id
        )
        .fetch_one(&mut *tx)
        .await?;
        if count > MOST {
            let tenant = tenant.to_string();
            return Err(EditError::Quota { tenant, what: "secrets in a stead", limit: MOST, wanted: count });
        }
        let operation = OperationId::random();
        open_operation(&mut tx, operation, &held.tenant, stead, "secret", actor).await?;
        let change = Change { actor, held: &held, stead, name, operation: Some(operation), reason };
        let before = if version == 1 { Value::Null } else { json!({ "version": version - 1 }) };
        let after = json!({ "version": version });
        let users = users(&mut tx, &held, stead_id, name).await?;
        for user in &users {
            change.write(&mut tx, "secret.set", Some(user), before.clone(), after.clone()).await?;
            if let Some(current) = held.current.get(user) {
                touch(&mut tx, operation, current.id, user).await?;
            }
        }
        if users.is_empty() {
            change.write(&mut tx, "secret.set", None, before, after).await?;
        }
        finish_empty(&mut tx, operation).await?;
        fail_point!("store::secret-before-commit");
        tx.commit().await?;
        Ok(operation)
    }

    /// Removes a secret of a stead.
    ///
    /// # Errors
    /// When there is none, or a component uses it.
    pub async fn remove_secret(
        &self,
        actor: &Actor,
        (tenant, stead): (&TenantName, &SteadName),
        name: &Variable,
        reason: Option<&str>,
    ) -> Result<(), EditError> {
        let mut tx = self.pool.begin().await?;
        let held = hold(&mut tx, actor, tenant, stead, false).await?;
        let (stead_id, _) = held.stead_of(tenant, stead)?;
        if let Some(user) = users(&mut tx, &held, stead_id, name).await?.pop_first() {
            return Err(EditError::SecretUsed(name.clone(), user));
        }
        let version = sqlx::query_scalar!(
            "delete from stead_secrets where stead_id = $1 and name = $2 returning version",
            stead_id,
            name.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| EditError::NoSecret(stead.clone(), name.clone()))?;
        let change = Change { actor, held: &held, stead, name, operation: None, reason };
        change.write(&mut tx, "secret.removed", None, json!({ "version": version }), Value::Null).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The secrets of a stead by name, without their values; `None` where there is no such stead.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secrets(
        &self,
        tenant: TenantId,
        stead: &SteadName,
    ) -> Result<Option<Vec<SteadSecret>>, Error> {
        let id = sqlx::query_scalar!(
            "select id from steads where tenant_id = $1 and name = $2",
            tenant.0,
            stead.as_str()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(id) = id else { return Ok(None) };
        let rows = sqlx::query!(
            r#"select name, version, set_by, set_at as "set_at: jiff_sqlx::Timestamp",
                      array(select c.name from components c where c.stead_id = $1
                            and (jsonb_exists(c.spec -> 'secrets', k.name)
                                 or k.name in (c.spec -> 'from' ->> 'secret', c.spec -> 'from' ->> 'ca', c.spec -> 'to' ->> 'key',
                                               c.spec -> 'to' ->> 'secret', c.spec -> 'to' ->> 'ca'))
                            order by c.name) as "used_by!"
               from stead_secrets k where stead_id = $1 order by name"#,
            id
        )
        .fetch_all(&self.pool)
        .await?;
        let secrets = rows.into_iter().map(|row| {
            let used =
                row.used_by.iter().map(|name| name.parse().map_err(|_| Error::BadName("component name")));
            Ok(SteadSecret {
                name: row.name.parse().map_err(|_| Error::BadName("name of a secret"))?,
                version: row.version,
                set_by: row.set_by,
                set_at: row.set_at.to_jiff(),
                used_by: used.collect::<Result<_, _>>()?,
            })
        });
        secrets.collect::<Result<_, _>>().map(Some)
    }

    /// The values of those secrets that a component of a stead uses and that are set.
    pub(crate) async fn secrets_of(
        &self,
        stead: uuid::Uuid,
        spec: &Spec,
    ) -> Result<BTreeMap<Variable, SecretString>, Error> {
        let names: Vec<String> = spec.secrets().map(ToString::to_string).collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = sqlx::query!(
            "select name, sealed from stead_secrets where stead_id = $1 and name = any($2)",
            stead,
            &names
        )
        .fetch_all(&self.pool)
        .await?;
        let opened = rows.into_iter().map(|row| {
            let name: Variable = row.name.parse().map_err(|_| Error::BadName("name of a secret"))?;
            let value = self.key.open(&whose(stead, &name), &row.sealed)?;
            Ok((name, value))
        });
        opened.collect()
    }
}

/// Whom a value is sealed for: one of another stead, or another name, does not open.
fn whose(stead: uuid::Uuid, name: &Variable) -> String {
    format!("stead/{stead}/{name}")
}

/// The components that find a secret in their environment, or shall: what answers may be an earlier release.
async fn users(
    tx: &mut PgConnection,
    held: &Held,
    stead: uuid::Uuid,
    name: &Variable,
) -> Result<BTreeSet<ComponentName>, EditError> {
    let wants = |spec: &Spec| spec.secrets().any(|wanted| wanted == name);
    let wanting = held.current.iter().filter(|(_, current)| wants(&current.spec) && !current.deleting);
    let mut users: BTreeSet<_> = wanting.map(|(name, _)| name.clone()).collect();
    let answering = sqlx::query_scalar!(
        "select c.name from components c join releases r on r.component_id = c.id
         where c.stead_id = $1 and c.deletion_requested_at is null and jsonb_exists(r.spec -> 'secrets', $2)
           and r.number in (c.canary_base, (c.status ->> 'live')::int8)",
        stead,
        name.as_str()
    )
    .fetch_all(tx)
    .await?;
    for user in answering {
        users.insert(user.parse().map_err(|_| Error::BadName("component name"))?);
    }
    Ok(users)
}

/// A line about a secret, for each component that uses it: its name and how often it was set, never what it is.
struct Change<'a> {
    actor: &'a Actor,
    held: &'a Held,
    stead: &'a SteadName,
    name: &'a Variable,
    operation: Option<OperationId>,
    reason: Option<&'a str>,
}

impl Change<'_> {
    async fn write(
        &self,
        tx: &mut PgConnection,
        action: &'static str,
        component: Option<&ComponentName>,
        before: Value,
        after: Value,
    ) -> Result<(), Error> {
        let named = |value: Value| match value {
            Value::Object(mut object) => {
                object.insert("secret".into(), json!(self.name));
                Value::Object(object)
            }
            other => other,
        };
        let entry = Entry {
            tenant: Some((self.held.tenant.id, self.held.tenant.name.to_string())),
            stead: Some(self.stead.to_string()),
            component: component.map(ToString::to_string),
            reason: self.reason.map(str::to_owned),
            operation: self.operation,
            before: named(before),
            after: named(after),
            ..Entry::new(self.actor, action, Outcome::Done)
        };
        journal::write(tx, &entry).await.map(|_| ())
    }
}
