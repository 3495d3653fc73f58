//! One step at a server, each harmless when done twice.

use std::time::{Duration, Instant};

use component::postgres::{ADMIN_ROLE, OWNER_ROLE, READER_ROLE, Spec, Step, Wrong, roles};
use component::{Condition, ConditionKind, DriverError, Target};
use futures::TryFutureExt;
use keeper::ClientError;
use keeper::wire::{Reason, Refusal, Wanted};
use secrecy::ExposeSecret;
use tokio_postgres::error::SqlState;

use crate::session::{admin, describe, owner};
use crate::{Engine, Local, Place, fail_point, lock, observe};

/// A start is waited for this long inside the step, because it mostly takes less; what takes longer is seen
/// by the next look.
const START: Duration = Duration::from_millis(400);
/// How often those who were on their way into a database that gets another name are sent off.
const RENAMES: u32 = 3;
/// A reload is waited for this long.
const RELOAD: Duration = Duration::from_secs(2);

impl Local {
    pub(crate) async fn act_postgres(
        &self,
        target: &Target,
        spec: &Spec,
        step: &Step,
    ) -> Result<(), DriverError> {
        let places = self.places(target)?;
        let place = places.here.clone();
        if !matches!(step, Step::OpenRoute | Step::CloseRoute) {
            self.look_again(&place.handle);
        }
        match step {
            Step::Claim => self.claim(spec.engine, &place).await,
            Step::Restore => self.restore(spec, &place).await,
            Step::WriteFiles => {
                let read_only = self.read_only(&place.handle, spec);
                let texts = self.texts(&place.tree, spec, self.engine(spec)?, read_only);
                self.write_texts(&place.tree, &texts)?;
                // One that runs goes by what it has read; one that does not is told so by its start.
                let unit = place.unit.clone();
                let _ = self.keeper(move |keeper| keeper.reload(&unit)).await;
                Ok(())
            }
            Step::Start => self.start(spec, &place).await,
            Step::Wake => self.wake(&place).await,
            Step::Reload => self.reload(&place).await,
            Step::Restart => self.restart(spec, &place).await,
            Step::Roles(wrong) => self.roles(target, &place, *wrong).await,
            Step::Extension(name) => self.extension(target, spec.engine, &place, name).await,
            Step::Migrate(migration) => {
                let text = target.files.read(&migration.sha256).await?;
                let session =
                    owner(&self.socket_dir(&place.tree), target.name.local.as_str(), &target.password)
                        .await
                        .map_err(unavailable)?;
                crate::migrate::run(&session, migration, &text).await
            }
            Step::Archive => self.archive(target, spec, &place).await,
            Step::Drill => self.begin_drill(&place),
            Step::OpenRoute => self.open_route(target, spec, &place).await,
            Step::Move => self.relocate(target, spec, &places).await,
            Step::Leave => {
                self.leave(&places.there).await?;
                // Left by a move that was killed behind its switch.
                self.release_hold(&place.handle).await;
                Ok(())
            }
            Step::CloseRoute => self.close_route(&place).await,
            Step::Stop => self.stop(&place).await,
            Step::Remove => {
                self.leave(&places.there).await?;
                self.remove(&place).await
            }
        }
    }

    pub(crate) fn engine(&self, spec: &Spec) -> Result<&Engine, DriverError> {
        self.0.engines.get(spec.engine).ok_or_else(|| {
            DriverError::Unavailable(format!("engine {} is not on this host any more", spec.engine))
        })
    }

    async fn start(&self, spec: &Spec, place: &Place) -> Result<(), DriverError> {
        let mut unit = self.server_unit(&place.unit, &place.tree, spec, self.engine(spec)?);
        unit.generation = self.declaration(&unit).1;
        self.declare(&unit)?;
        fail_point!("driver-local::unit-declared");
        let name = place.unit.clone();
        self.keeper(move |keeper| keeper.apply(&name)).await?;
        fail_point!("driver-local::unit-applied");
        self.first_session(place).await;
        Ok(())
    }

    async fn wake(&self, place: &Place) -> Result<(), DriverError> {
        let name = place.unit.clone();
        self.keeper(move |keeper| keeper.wake(&name, "an edit has to be made in it")).await?;
        fail_point!("driver-local::woken");
        self.first_session(place).await;
        Ok(())
    }

    async fn first_session(&self, place: &Place) {
        // The session that answers first is dropped: the next look makes its own, when it needs one.
        if let Ok(client) = self.await_ready(&place.unit, &self.socket_dir(&place.tree), START).await {
            lock(&self.0.sessions).insert(place.handle.clone(), crate::session::Kept::new(client));
        }
    }

    async fn restart(&self, spec: &Spec, place: &Place) -> Result<(), DriverError> {
        let client = self.admin(&place.handle, &self.socket_dir(&place.tree)).await.map_err(unavailable)?;
        self.clear_stray_settings(&client, place).await?;
        drop(client);
        let mut unit = self.server_unit(&place.unit, &place.tree, spec, self.engine(spec)?);
        unit.generation = self.declared(&place.unit).map_or(1, |declared| declared.generation + 1);
        self.declare(&unit)?;
        self.forget_session(&place.handle);
        fail_point!("driver-local::restart-declared");
        let name = place.unit.clone();
        self.keeper(move |keeper| keeper.apply(&name)).await.map(|_| ())
    }

    /// Signals, and waits until the server has read its files: otherwise the next look would see the old
    /// values and signal again.
    async fn reload(&self, place: &Place) -> Result<(), DriverError> {
        let client = self.admin(&place.handle, &self.socket_dir(&place.tree)).await.map_err(unavailable)?;
        self.clear_stray_settings(&client, place).await?;
        let loaded = || {
            client
                .query_one("select extract(epoch from pg_conf_load_time())::float8", &[])
                .map_ok(|row| row.get::<_, f64>(0))
                .map_err(unavailable)
        };
        let before = loaded().await?;
        let name = place.unit.clone();
        self.keeper(move |keeper| keeper.reload(&name)).await?;
        let until = Instant::now() + RELOAD;
        while loaded().await? <= before && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Takes away what `alter system` wrote, which would hold against the spec's own files for ever. Engines
    /// from 17 on are told to refuse `alter system` itself, so the file is written over.
    async fn clear_stray_settings(
        &self,
        client: &tokio_postgres::Client,
        place: &Place,
    ) -> Result<(), DriverError> {
        let stray = "select from pg_file_settings
                     where sourcefile = current_setting('data_directory') || '/postgresql.auto.conf'";
        if client.query(stray, &[]).await.map_err(unavailable)?.is_empty() {
            return Ok(());
        }
        let file = self.0.host.seen_at(&self.0.home, &place.tree).join("data/postgresql.auto.conf");
        let file = file.display().to_string().replace('\'', "''");
        let clear = format!("copy (select '# Emptied by Stead: settings follow from the spec.') to '{file}'");
        client.batch_execute(&clear).await.map_err(unavailable)?;
        fail_point!("driver-local::settings-cleared");
        Ok(())
    }

    /// What is wrong of Stead's own inside the server. A server made from a spare lacks the password only, or
    /// its database has another name, and people are waiting for it.
    async fn roles(&self, target: &Target, place: &Place, wrong: Wrong) -> Result<(), DriverError> {
        let socket = self.socket_dir(&place.tree);
        let client = self.admin(&place.handle, &socket).await.map_err(unavailable)?;
        if wrong.roles {
            helpers(&client).await.map_err(unavailable)?;
            fail_point!("driver-local::helpers-made");
            for role in superusers(&client).await.map_err(unavailable)? {
                client
                    .batch_execute(&format!("alter role {} nosuperuser", quoted(&role)))
                    .await
                    .map_err(unavailable)?;
            }
        }
        let name = target.name.local.as_str();
        if wrong.database {
            database(&client, name).await.map_err(unavailable)?;
            fail_point!("driver-local::database-right");
        }
        if wrong.password {
            // PostgreSQL tries the verifier against an empty password, which takes as long as a sign-in: time
            // to open the session that the next look needs. That look tells what is wrong with it.
            let set = set_passwords(&client, target);
            let (set, _) = tokio::join!(set, self.inside(&place.handle, &socket, name));
            set.map_err(unavailable)?;
            fail_point!("driver-local::password-set");
        }
        Ok(())
    }

    /// As the owner where PostgreSQL trusts the extension, as Stead where it does not.
    async fn extension(
        &self,
        target: &Target,
        engine: component::postgres::Major,
        place: &Place,
        name: &str,
    ) -> Result<(), DriverError> {
        let socket = self.socket_dir(&place.tree);
        let database = target.name.local.as_str();
        let statement = format!("create extension if not exists {} cascade", quoted(name));
        let session = owner(&socket, database, &target.password).await.map_err(unavailable)?;
        let mut made = session.batch_execute(&statement).await;
        if made.as_ref().is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)) {
            let session = admin(&socket, database).await.map_err(unavailable)?;
            made = session.batch_execute(&format!("set search_path = public; {statement}")).await;
            if made.is_ok() {
                made = silence_extensions(&session).await;
            }
        }
        fail_point!("driver-local::extension-made");
        made.map_err(|error| match error.code() {
            Some(_) => DriverError::Refused(Condition {
                kind: ConditionKind::ExtensionMissing,
                message: format!(
                    "extension `{name}` could not be created on engine {engine}: {}; take it off the list or \
                     install it for the engine",
                    describe(&error)
                ),
            }),
            None => unavailable(error),
        })
    }

    pub(crate) async fn open_route(
        &self,
        target: &Target,
        spec: &Spec,
        place: &Place,
    ) -> Result<(), DriverError> {
        self.declare_route(&self.route(target, spec, place)).await
    }

    pub(crate) async fn declare_route(&self, route: &gateway::route::Route) -> Result<(), DriverError> {
        let text =
            serde_json::to_string(route).map_err(|error| DriverError::Unavailable(error.to_string()))?;
        crate::files::write_atomically(&self.route_path(&route.server), &text, 0o640)?;
        fail_point!("driver-local::route-written");
        // Asking makes the gateway read the file now rather than when its watch fires.
        self.route_status(&route.server)
            .await
            .map(|_| ())
            .map_err(|error| DriverError::Unavailable(error.to_string()))
    }

    async fn close_route(&self, place: &Place) -> Result<(), DriverError> {
        self.remove_route(&place.handle).await
    }

    pub(crate) async fn remove_route(&self, handle: &str) -> Result<(), DriverError> {
        let path = self.route_path(handle);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DriverError::Unavailable(format!("cannot remove {}: {error}", path.display())));
            }
            _ => {}
        }
        fail_point!("driver-local::route-removed");
        // A gateway that is down reads no removed route when it comes back.
        let _ = self.route_status(handle).await;
        Ok(())
    }

    async fn stop(&self, place: &Place) -> Result<(), DriverError> {
        self.forget_session(&place.handle);
        let Some(mut unit) = self.declared(&place.unit) else { return Ok(()) };
        if observe::runs(&unit) {
            self.catch_up(place).await;
            unit.wanted = Wanted::Stopped;
            // Nothing of it will be used again but its backups: one that has none is simply ended, without a checkpoint.
            if self.archive_of(&place.tree).is_none() {
                unit.stop.timeout_ms = 0;
            }
            self.declare(&unit)?;
        }
        fail_point!("driver-local::stop-declared");
        let name = place.unit.clone();
        self.keeper(move |keeper| keeper.apply(&name)).await.map(|_| ())
    }

    async fn remove(&self, place: &Place) -> Result<(), DriverError> {
        lock(&self.0.sizes).remove(&place.handle);
        self.last_backup(place).await;
        self.unarchive(place)?;
        self.forget_unit(&place.unit).await?;
        fail_point!("driver-local::unit-removed");
        if let Some(leaving) = self.0.leaving.get() {
            leaving().await;
        }
        let tree = place.tree.clone();
        self.keeper(move |keeper| absent_is_fine(keeper.remove_tree(&tree))).await?;
        fail_point!("driver-local::tree-removed");
        Ok(())
    }
}

/// What is gone already needs no removing.
pub(crate) fn absent_is_fine(answer: Result<(), ClientError>) -> Result<(), ClientError> {
    match answer {
        Err(ClientError::Refused(Refusal { reason: Reason::Absent, .. })) => Ok(()),
        other => other,
    }
}

pub(crate) fn unavailable(error: tokio_postgres::Error) -> DriverError {
    DriverError::Unavailable(format!("the server said: {}", describe(&error)))
}

/// Takes the comments off the extensions that are Stead's own. They come with each extension and say nothing
/// about this one, but `pg_dump` writes them out, and only the extension's owner may put them in again.
pub(crate) async fn silence_extensions(
    session: &tokio_postgres::Client,
) -> Result<(), tokio_postgres::Error> {
    session
        .batch_execute(
            "reset search_path;
             do $$ declare name text; begin
                 for name in select extname from pg_extension
                             where extowner = current_user::regrole and extname <> 'plpgsql'
                                   and obj_description(oid, 'pg_extension') is not null loop
                     execute format('comment on extension %I is null', name);
                 end loop;
             end $$",
        )
        .await
}

/// `"…"` as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn superusers(client: &tokio_postgres::Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query("select rolname::text from pg_roles where rolsuper and rolname <> $1", &[&ADMIN_ROLE])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Stead's roles, and the gateway's way to verifiers, in the database `postgres`, where no tenant may
/// connect. The comment at the end says that all of it is there.
pub(crate) async fn helpers(client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
    let mut script = String::from("begin;\nset local synchronous_commit = off;\n");
    for (name, role) in roles() {
        let (name, member_of) = (quoted(name), role.member_of);
        script += &format!(
            "do $$ begin create role {name}; exception when duplicate_object then null; end $$;\n\
             alter role {name} login nosuperuser nocreaterole nocreatedb noreplication nobypassrls connection limit -1 valid until 'infinity';\n\
             do $$ declare g text; begin
                 for g in select r.rolname from pg_auth_members m join pg_roles r on r.oid = m.roleid
                          where m.member = '{name}'::regrole and r.rolname <> all ('{{{wanted}}}') loop
                     execute format('revoke %I from {name}', g);
                 end loop;
             end $$;\n",
            wanted = member_of.join(","),
        );
        for group in member_of {
            script += &format!("grant {} to {name};\n", quoted(&group));
        }
    }
    script += &format!(
        "alter role {READER_ROLE} set default_transaction_read_only = on;
         revoke all on database postgres, template1 from public;
         grant connect on database postgres to stead_gateway;
         create schema if not exists stead authorization stead_admin;
         revoke all on schema stead from public;
         create or replace function stead.verifier(name text, out verifier text) returns setof text
             language sql stable strict security definer set search_path = pg_catalog, pg_temp as
             'select rolpassword from pg_catalog.pg_authid
              where rolname = $1::pg_catalog.name and octet_length($1) < 64 and rolcanlogin and not rolsuper
                and rolpassword is not null
                and (rolvaliduntil is null or rolvaliduntil > pg_catalog.now())';
         create or replace function stead.verifiers(out name text, out verifier text) returns setof record
             language sql stable security definer set search_path = pg_catalog, pg_temp as
             'select rolname::pg_catalog.text, rolpassword from pg_catalog.pg_authid
              where rolcanlogin and not rolsuper and rolpassword is not null
                and (rolvaliduntil is null or rolvaliduntil > pg_catalog.now())';
         create or replace function stead.at_rest(out at_rest boolean)
             language sql volatile security definer set search_path = pg_catalog, pg_temp as
             'select not exists (
                  select from pg_catalog.pg_stat_activity
                  where backend_type = ''client backend'' and state is distinct from ''idle''
                    and usename not in (''stead_admin'', ''stead_gateway'')
                    and usename !~ ''^stead_[0-9a-f]{{16}}$'')';
         revoke all on all functions in schema stead from public;
         grant usage on schema stead to stead_gateway;
         grant execute on all functions in schema stead to stead_gateway;
         comment on database postgres is '{}';
         commit;",
        observe::HELPERS
    );
    client.batch_execute(&script).await
}

/// One message each: `set local` has to hold until the statement that shall not be logged has ended.
async fn set_passwords(
    client: &tokio_postgres::Client,
    target: &Target,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("begin").await?;
    client.batch_execute("set local log_min_duration_statement = -1").await?;
    client.batch_execute("set local pg_stat_statements.track = 'none'").await?;
    for (role, verifier) in [(OWNER_ROLE, Some(&target.verifier)), (READER_ROLE, target.reader.as_ref())] {
        // The verifier is base64, digits, `$` and `:`; it cannot close the literal. A copy has come with the one of
        // its source.
        let password = verifier.map_or_else(
            || "null".to_owned(),
            |verifier| format!("'{}'", verifier.expose_secret().replace('\'', "")),
        );
        client.batch_execute(&format!("alter role {role} password {password}")).await?;
    }
    client.batch_execute("commit").await
}

/// Gives a database another name. Whoever is in it came for the old one, and is sent off (57P01).
async fn rename(
    client: &tokio_postgres::Client,
    from: &str,
    wanted: &str,
) -> Result<(), tokio_postgres::Error> {
    let other = quoted(from);
    client.batch_execute(&format!("alter database {other} allow_connections false")).await?;
    for _ in 0..RENAMES {
        let here = "select count(pg_terminate_backend(pid, 1000)) from pg_stat_activity where datname = $1";
        client.query_one(here, &[&from]).await?;
        match client.batch_execute(&format!("alter database {other} rename to {wanted}")).await {
            // Somebody was on the way in.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => {}
            renamed => return renamed,
        }
    }
    client.batch_execute(&format!("alter database {other} rename to {wanted}")).await
}

/// The tenant's database: the one that the prepared cluster came with is given the name, or a new one is
/// made. It belongs to the owner, and nobody else may connect. What an owner can do to its database so that
/// neither it nor Stead comes in any more is taken back.
pub(crate) async fn database(
    client: &tokio_postgres::Client,
    name: &str,
) -> Result<(), tokio_postgres::Error> {
    let databases: Vec<String> = client
        .query("select datname::text from pg_database where datname not in ('postgres', 'template0', 'template1')", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let wanted = quoted(name);
    if !databases.iter().any(|found| found == name) {
        let prepared = databases.iter().find(|found| *found == crate::spares::DATABASE);
        // One that was brought back has the name of then; one that was swapped that of its last place.
        match prepared.or(if databases.len() == 1 { databases.first() } else { None }) {
            Some(other) => rename(client, other, &wanted).await?,
            None => client.batch_execute(&format!("create database {wanted} owner owner")).await?,
        }
    }
    let mut script = format!(
        "begin; set local synchronous_commit = off;
         alter database {wanted} owner to owner; revoke all on database {wanted} from public, {READER_ROLE};
         grant connect on database {wanted} to {READER_ROLE};
         alter database {wanted} allow_connections true connection limit -1 is_template false;"
    );
    for setting in ["role", "session_authorization", "local_preload_libraries"] {
        for whose in
            [format!("database {wanted}"), "role owner".into(), format!("role owner in database {wanted}")]
        {
            script += &format!("alter {whose} reset {setting};");
        }
    }
    script += "commit;";
    client.batch_execute(&script).await
}
