//! Steads and their components, as read.

use std::collections::BTreeMap;

use component::{ComponentId, ComponentName, Health, Spec, Status, SteadId, SteadName, TenantId, TenantName};
use jiff::Timestamp;
use sqlx::{Postgres, Transaction};

use crate::error::unreadable;
use crate::{Error, Store};

/// A stead.
#[derive(Debug, Clone)]
pub struct Stead {
    /// Identity.
    pub id: SteadId,
    /// Whose.
    pub tenant: TenantName,
    /// Name.
    pub name: SteadName,
    /// The app it is an installation of.
    pub app: SteadName,
    /// Counts edits: the entity tag.
    pub generation: i64,
    /// Since when.
    pub created_at: Timestamp,
    /// Its components, by name.
    pub components: Vec<Component>,
}

/// A component as stored.
#[derive(Debug, Clone)]
pub struct Component {
    /// Identity.
    pub id: ComponentId,
    /// Name.
    pub name: ComponentName,
    /// What is wanted.
    pub spec: Spec,
    /// Counts edits.
    pub generation: i64,
    /// The last generation that was brought about.
    pub observed_generation: i64,
    /// What is observed.
    pub status: Status,
    /// Where it lives.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is being done.
    pub step: Option<String>,
    /// Why the last look failed.
    pub last_error: Option<String>,
    /// Since when it is to be removed.
    pub deletion_requested_at: Option<Timestamp>,
}

impl Component {
    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::of(&self.status, self.last_error.is_some())
    }
}

impl Stead {
    /// How it is doing: as its worst component.
    #[must_use]
    pub fn health(&self) -> Health {
        self.components.iter().map(Component::health).max().unwrap_or(Health::Ready)
    }
}

/// Which steads.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of these tenants; all where there is none said.
    pub tenants: Option<Vec<TenantId>>,
    /// Only those whose `tenant/stead app` contains each of these, in any case of letters.
    pub words: Vec<String>,
    /// Only those that are doing like this.
    pub health: Option<Health>,
}

impl Filter {
    fn tenants(&self) -> Option<Vec<uuid::Uuid>> {
        self.tenants.as_ref().map(|tenants| tenants.iter().map(|tenant| tenant.0).collect())
    }

    fn patterns(&self) -> Vec<String> {
        self.words.iter().map(|word| crate::containing(word)).collect()
    }
}

pub(crate) struct ComponentRow {
    pub(crate) stead_id: uuid::Uuid,
    pub(crate) id: uuid::Uuid,
    pub(crate) name: String,
    pub(crate) spec: serde_json::Value,
    pub(crate) generation: i64,
    pub(crate) observed_generation: i64,
    pub(crate) status: serde_json::Value,
    pub(crate) host: String,
    pub(crate) port: i32,
    pub(crate) step: Option<String>,
    pub(crate) last_error: Option<String>,
    pub(crate) deletion_requested_at: Option<jiff_sqlx::Timestamp>,
}

impl ComponentRow {
    pub(crate) fn component(self) -> Result<Component, Error> {
        Ok(Component {
            id: ComponentId(self.id),
            name: self.name.parse().map_err(|_| Error::BadName("component name"))?,
            spec: serde_json::from_value(self.spec).map_err(unreadable("spec"))?,
            generation: self.generation,
            observed_generation: self.observed_generation,
            status: serde_json::from_value(self.status).map_err(unreadable("status"))?,
            host: self.host,
            port: u16::try_from(self.port).map_err(|_| Error::BadName("port"))?,
            step: self.step,
            last_error: self.last_error,
            deletion_requested_at: self.deletion_requested_at.map(jiff_sqlx::Timestamp::to_jiff),
        })
    }
}

impl Store {
    /// Steads by tenant and name, with their components (a stead has at least one): after the cursor `(tenant, stead)`, at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn steads(
        &self,
        filter: &Filter,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Vec<Stead>, Error> {
        let (after_tenant, after_stead) = after.unwrap_or(("", ""));
        let (tenants, mut tx) = (filter.tenants(), self.planned().await?);
        let rows = sqlx::query!(
            r#"select s.id, t.name as tenant, s.name, s.app, s.generation,
                      s.created_at as "created_at: jiff_sqlx::Timestamp"
               from steads s join tenants t on t.id = s.tenant_id
               where ($1::uuid[] is null or s.tenant_id = any($1)) and (t.name, s.name) > ($2, $3)
                 and (cardinality($5::text[]) = 0 or t.name || '/' || s.name || ' ' || s.app ilike all($5))
                 and ($6::text is null or s.id in (
                      select c.stead_id from components c group by c.stead_id having max(c.health) = $6::text::health))
               order by t.name, s.name limit $4"#,
            tenants.as_deref(),
            after_tenant,
            after_stead,
            limit,
            &filter.patterns(),
            filter.health.map(Health::as_str),
        )
        .fetch_all(&mut *tx)
        .await?;
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let components = sqlx::query_as!(
            ComponentRow,
            r#"select stead_id, id, name, spec, generation, observed_generation, status, host, port, step, last_error,
                      deletion_requested_at as "deletion_requested_at: jiff_sqlx::Timestamp"
               from components where stead_id = any($1) order by name"#,
            &ids,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut steads = rows
            .into_iter()
            .map(|row| {
                Ok(Stead {
                    id: SteadId(row.id),
                    tenant: row.tenant.parse().map_err(|_| Error::BadName("tenant name"))?,
                    name: row.name.parse().map_err(|_| Error::BadName("stead name"))?,
                    app: row.app.parse().map_err(|_| Error::BadName("app name"))?,
                    generation: row.generation,
                    created_at: row.created_at.to_jiff(),
                    components: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        for row in components {
            let owner = row.stead_id;
            if let Some(stead) = steads.iter_mut().find(|stead| stead.id.0 == owner) {
                stead.components.push(row.component()?);
            }
        }
        Ok(steads)
    }

    /// A transaction in which queries are planned for their very values: a plan for any expects one stead where there
    /// are ten thousand.
    async fn planned(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query_scalar!("select set_config('plan_cache_mode', 'force_custom_plan', true)")
            .fetch_one(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// How many steads of each health a filter lets through, its own health left aside; those that are none of it
    /// are not named.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn health(&self, filter: &Filter) -> Result<BTreeMap<Health, i64>, Error> {
        let (tenants, mut tx) = (filter.tenants(), self.planned().await?);
        let rows = sqlx::query!(
            r#"select h.health::text as "health!", count(*) as "steads!"
               from (select max(c.health) as health
                     from steads s join tenants t on t.id = s.tenant_id join components c on c.stead_id = s.id
                     where ($1::uuid[] is null or s.tenant_id = any($1))
                       and (cardinality($2::text[]) = 0 or t.name || '/' || s.name || ' ' || s.app ilike all($2))
                     group by s.id) h
               group by 1"#,
            tenants.as_deref(),
            &filter.patterns(),
        )
        .fetch_all(&mut *tx)
        .await?;
        let known = |word: &str| Health::ALL.into_iter().find(|health| health.as_str() == word);
        rows.into_iter()
            .map(|row| Ok((known(&row.health).ok_or(Error::BadName("health"))?, row.steads)))
            .collect()
    }

    /// One stead.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn stead(&self, tenant: TenantId, name: &SteadName) -> Result<Option<Stead>, Error> {
        let row = sqlx::query!(
            r#"select s.id, t.name as tenant, s.app, s.generation, s.created_at as "created_at: jiff_sqlx::Timestamp"
               from steads s join tenants t on t.id = s.tenant_id where s.tenant_id = $1 and s.name = $2"#,
            tenant.0,
            name.as_str()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let components = sqlx::query_as!(
            ComponentRow,
            r#"select stead_id, id, name, spec, generation, observed_generation, status, host, port, step, last_error,
                      deletion_requested_at as "deletion_requested_at: jiff_sqlx::Timestamp"
               from components where stead_id = $1 order by name"#,
            row.id,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Some(Stead {
            id: SteadId(row.id),
            tenant: row.tenant.parse().map_err(|_| Error::BadName("tenant name"))?,
            name: name.clone(),
            app: row.app.parse().map_err(|_| Error::BadName("app name"))?,
            generation: row.generation,
            created_at: row.created_at.to_jiff(),
            components: components.into_iter().map(ComponentRow::component).collect::<Result<_, _>>()?,
        }))
    }

    /// Engines that a new component could have.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn engines(&self) -> Result<std::collections::BTreeSet<component::postgres::Major>, Error> {
        let chosen = crate::host::choose(&mut *self.pool.acquire().await?).await?;
        Ok(chosen.map(|(_, offer)| offer.engines).unwrap_or_default())
    }
}
