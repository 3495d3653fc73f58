//! What is really there of a server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use component::postgres::{
    Migration, OWNER_ROLE, Observed, READER_ROLE, Role, Route, Seen, Session, Spec, Unit, settings,
};
use component::{DriverError, Target};
use keeper::wire::{Name, UnitState, Wanted};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio_postgres::error::SqlState;

use crate::session::{describe, owner_looking};
use crate::{Local, Place, Places, lock};

/// The state of the helpers that this version makes, as the comment on the database `postgres` tells it.
pub(crate) const HELPERS: &str = "helpers of Stead, version 4";

/// The bytes on disk are counted at most this often.
const SIZE_AGE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Facts {
    version: String,
    settings: BTreeMap<String, String>,
    pending_restart: bool,
    config_error: Option<String>,
    roles: BTreeMap<String, RoleFacts>,
    password_set: bool,
    reader_set: bool,
    helpers: bool,
    /// None where there is no such database, or one that its owner has barred, also against itself.
    database_owner: Option<String>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are PostgreSQL's own columns")]
struct RoleFacts {
    superuser: bool,
    login: bool,
    createrole: bool,
    createdb: bool,
    replication: bool,
    bypassrls: bool,
    member_of: Vec<String>,
}

const FACTS: &str = "
with known as materialized (select name, pending_restart from pg_show_all_settings())
select json_build_object(
  'version', split_part(current_setting('server_version'), ' ', 1),
  'settings', (select json_object_agg(name, current_setting(name)) from known where name = any($1)),
  'pending_restart', exists (select from known where pending_restart),
  'config_error', (select string_agg(format('%s line %s: %s', sourcefile, sourceline, error), '; ')
                   from pg_show_all_file_settings() where error is not null and error <> 'setting could not be applied'),
  'roles', (select json_object_agg(rolname, json_build_object(
              'superuser', rolsuper,
              'login', rolcanlogin and rolconnlimit <> 0 and (rolvaliduntil is null or rolvaliduntil > now()),
              'createrole', rolcreaterole, 'createdb', rolcreatedb,
              'replication', rolreplication, 'bypassrls', rolbypassrls,
              'member_of', (select coalesce(json_agg(g.rolname order by g.rolname), '[]')
                            from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid)))
            from pg_roles r where rolname !~ '^pg_'),
  'password_set', exists (select from pg_authid where rolname = $2 and rolpassword = $3),
  'reader_set', exists (select from pg_authid where rolname = $6 and rolpassword is not distinct from $7),
  'helpers', coalesce((select shobj_description(oid, 'pg_database') from pg_database where datname = 'postgres') = $4, false)
             and (select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                  where n.nspname = 'stead' and p.proname in ('verifier', 'verifiers', 'at_rest')
                    and p.prosecdef) = 3,
  'database_owner', (select rolname from pg_database d join pg_roles o on o.oid = d.datdba
                     where datname = $5 and datallowconn and datconnlimit = -1 and not datistemplate
                       and exists (select from pg_roles r
                                   where r.rolname = $6 and has_database_privilege(r.oid, d.oid, 'connect'))
                       and not exists (select from pg_db_role_setting, unnest(setconfig) setting
                                       where setting ~* '^(role|session_authorization|local_preload_libraries)='))
)::text";

impl Local {
    pub(crate) async fn observe_postgres(
        &self,
        target: &Target,
        spec: &Spec,
    ) -> Result<Observed, DriverError> {
        let Places { here: place, there, elsewhere } = self.places(target)?;
        if !elsewhere {
            lock(&self.0.busy).remove(&place.handle);
        }
        // A unit without a tree: what a move that was killed leaves.
        let leftovers = !elsewhere && self.declared(&there.unit).is_some();
        let Some(engine) = self.0.engines.get(spec.engine) else {
            // Enough is known to remove it even so.
            let unit = self.unit(&place).await?;
            let tree = self.tree_dir(&place.tree).is_dir();
            let route = self.observe_route(target, spec, &place).await;
            return Ok(Observed { unit, tree, route, elsewhere, leftovers, ..Observed::default() });
        };
        let dir = self.tree_dir(&place.tree);
        let (tree, data) = (dir.is_dir(), dir.join("data").is_dir());
        let declared = self.declaration(&self.server_unit(&place.unit, &place.tree, spec, engine)).0;
        let unit = self.unit(&place).await?;
        let (mut session, mut unreachable) = (None, None);
        if unit == Unit::Running && tree {
            let known = lock(&self.0.sessions).get(&place.handle).and_then(|kept| kept.seen.clone());
            let looked = match known {
                Some(found) => Ok(found),
                None => self.session(target, spec, &place).await,
            };
            match looked {
                Ok(found) => {
                    if let Some(kept) = lock(&self.0.sessions).get_mut(&place.handle) {
                        kept.seen = Some(found.clone());
                    }
                    session = Some(found);
                }
                Err(error) => {
                    self.forget_session(&place.handle);
                    unreachable = error;
                }
            }
        }
        let texts = self.texts(&place.tree, spec, engine, self.read_only(&place.handle, spec));
        let archive = if tree { self.archive_declared(target, spec, &place) } else { Seen::Same };
        let status = self.archive_status(&place).await;
        let backups = status.map(|status| crate::archives::told(&status, jiff::Timestamp::now()));
        Ok(Observed {
            engine_present: true,
            tree,
            elsewhere,
            leftovers,
            data,
            files: if tree { self.file_states(&place.tree, &texts) } else { Seen::Absent },
            declared,
            unit,
            session,
            unreachable,
            archive,
            backups,
            drilling: self.is_drilling(),
            route: self.observe_route(target, spec, &place).await,
        })
    }

    /// Whether the server has outgrown its share of the disk, as last counted.
    pub(crate) fn read_only(&self, handle: &str, spec: &Spec) -> bool {
        lock(&self.0.sizes).get(handle).is_some_and(|(_, bytes)| *bytes > crate::files::disk_limit(spec))
    }

    async fn unit(&self, place: &Place) -> Result<Unit, DriverError> {
        self.unit_seen(&place.unit).await
    }

    /// What a unit does.
    pub(crate) async fn unit_seen(&self, name: &Name) -> Result<Unit, DriverError> {
        let name = name.clone();
        let status = self.keeper(move |keeper| keeper.unit(&name)).await?;
        Ok(match status.map(|status| status.state) {
            None => Unit::Absent,
            Some(UnitState::Stopped) => Unit::Stopped,
            Some(UnitState::Asleep) => Unit::Asleep,
            Some(UnitState::Running) => Unit::Running,
            Some(UnitState::Stopping) => Unit::Stopping,
            Some(UnitState::Exited { code, signal }) => {
                Unit::Failing(format!("it ended with code {code:?}, signal {signal:?}"))
            }
            Some(UnitState::Backoff { last_error, .. }) => Unit::Failing(last_error),
        })
    }

    /// What the server says of itself; `Err(None)` where it is only just starting.
    async fn session(&self, target: &Target, spec: &Spec, place: &Place) -> Result<Session, Option<String>> {
        let socket = self.socket_dir(&place.tree);
        if !self.says_ready(&place.unit).await.map_err(|error| Some(error.to_string()))? {
            return Err(None);
        }
        let client = self.admin(&place.handle, &socket).await.map_err(|error| match error.code() {
            // Starting up, or no socket listening yet.
            Some(&SqlState::CANNOT_CONNECT_NOW) | None => None,
            Some(_) => Some(describe(&error)),
        })?;
        let told = |error: tokio_postgres::Error| Some(describe(&error));
        let names: Vec<&str> = settings(spec).iter().map(|setting| setting.name).collect();
        let database = target.name.local.as_str();
        let verifier = target.verifier.expose_secret();
        let reader = target.reader.as_ref().map(ExposeSecret::expose_secret);
        let row = client
            .query_one(FACTS, &[&names, &OWNER_ROLE, &verifier, &HELPERS, &database, &READER_ROLE, &reader])
            .await
            .map_err(told)?;
        let facts: Facts = serde_json::from_str(row.get(0)).map_err(|error| Some(error.to_string()))?;
        let disk_bytes = self.count_bytes(&client, &place.handle).await.map_err(told)?;
        let (mut extensions, mut applied) = (Vec::new(), Vec::new());
        // The owner's own sessions are needed for the rest: without them it is the roles' turn first.
        let enters = facts.password_set && facts.roles.get(OWNER_ROLE).is_some_and(|owner| owner.login);
        if enters && facts.database_owner.as_deref() == Some(OWNER_ROLE) {
            let inside = self.inside(&place.handle, &socket, database).await.map_err(told)?;
            let row = inside
                .query_one(
                    "select coalesce((select array_agg(extname::text) from pg_extension), '{}'),
                            to_regclass('stead.migrations') is not null",
                    &[],
                )
                .await
                .map_err(told)?;
            extensions = row.get(0);
            if row.get(1) {
                applied = ledger(&owner_looking(&socket, database, &target.password).await.map_err(told)?)
                    .await
                    .map_err(told)?;
            }
        }
        Ok(Session {
            version: facts.version,
            settings: facts.settings,
            pending_restart: facts.pending_restart,
            config_error: facts.config_error,
            roles: facts.roles.into_iter().map(|(name, role)| (name, role.into())).collect(),
            password_set: facts.password_set && facts.reader_set,
            helpers: facts.helpers,
            databases: facts.database_owner.map(|owner| (database.to_owned(), owner)).into_iter().collect(),
            extensions,
            applied,
            disk_bytes,
        })
    }

    /// Bytes of databases, WAL and logs; counted anew only when the last count is old, because it stats every file.
    async fn count_bytes(
        &self,
        client: &tokio_postgres::Client,
        handle: &str,
    ) -> Result<u64, tokio_postgres::Error> {
        if let Some((at, bytes)) = lock(&self.0.sizes).get(handle)
            && at.elapsed() < SIZE_AGE
        {
            return Ok(*bytes);
        }
        let row = client
            .query_one(
                "select ((select sum(pg_database_size(oid)) from pg_database)
                         + (select coalesce(sum(size), 0) from pg_ls_waldir())
                         + (select coalesce(sum(size), 0) from pg_ls_logdir()))::int8",
                &[],
            )
            .await?;
        let bytes = u64::try_from(row.get::<_, i64>(0)).unwrap_or_default();
        lock(&self.0.sizes).insert(handle.to_owned(), (Instant::now(), bytes));
        Ok(bytes)
    }

    async fn observe_route(&self, target: &Target, spec: &Spec, place: &Place) -> Route {
        self.route_seen(&self.route(target, spec, place)).await
    }

    /// A route against what it should be.
    pub(crate) async fn route_seen(&self, wanted: &gateway::route::Route) -> Route {
        let path = self.route_path(&wanted.server);
        let found: Option<gateway::route::Route> =
            std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let declared = match &found {
            Some(found) if found == wanted => Seen::Same,
            Some(_) => Seen::Differs,
            None if path.exists() => Seen::Differs,
            None => Seen::Absent,
        };
        let status = self.route_status(&wanted.server).await;
        let (in_force, error) = match status {
            Ok(None) => (false, None),
            // No two components are given one port: the other gives it up.
            Ok(Some(status)) if status.clashes => (false, None),
            Ok(Some(status)) if status.error.is_some() => (true, status.error),
            Ok(Some(status)) => (declared != Seen::Same || status.generation == wanted.generation, None),
            // With the gateway down nothing is in force; what is declared comes into force with it.
            Err(_) => (false, None),
        };
        Route { declared, allow: found.map(|route| route.allow).unwrap_or_default(), in_force, error }
    }

    pub(crate) async fn route_status(
        &self,
        handle: &str,
    ) -> Result<Option<gateway::route::RouteStatus>, gateway::ClientError> {
        let mut client = gateway::Client::connect(&self.0.home).await?;
        client.route(handle).await
    }
}

/// The migrations that ran, read as the owner. The table is the tenant's, who may have put anything in its
/// place: it is read with limits, and lines that Stead cannot have written are passed over.
async fn ledger(client: &tokio_postgres::Client) -> Result<Vec<Migration>, tokio_postgres::Error> {
    let rows = client
        .query(
            "select pg_catalog.left(name::pg_catalog.text, 256), pg_catalog.left(sha256::pg_catalog.text, 64)
             from stead.migrations order by applied_at, name limit 20000",
            &[],
        )
        .await?;
    let read = |row: &tokio_postgres::Row| {
        let name: Option<String> = row.try_get(0).ok()?;
        let sha256: Option<String> = row.try_get(1).ok()?;
        Some(Migration { name: name?.parse().ok()?, sha256: sha256? })
    };
    Ok(rows.iter().filter_map(read).collect())
}

impl From<RoleFacts> for Role {
    fn from(facts: RoleFacts) -> Self {
        let RoleFacts { superuser, login, createrole, createdb, replication, bypassrls, member_of } = facts;
        Self { superuser, login, createrole, createdb, replication, bypassrls, member_of }
    }
}

/// Whether a declared unit shall run.
pub(crate) fn runs(unit: &keeper::wire::Unit) -> bool {
    unit.wanted == Wanted::Running
}
