//! From what is wanted and what is, to the one next step.
//!
//! The order is the order of need: data before configuration, configuration before the process, the
//! process before anything said in SQL, and the front door *before* the migrations, so that a person can
//! sign in and look when a migration fails or an extension is missing. Each step assumes nothing that the observation did not show,
//! so a server that was tampered with, half made or half removed is brought on from wherever it is.

use serde_json::json;

use super::{
    ADMIN_ROLE, GATEWAY_ROLE, Migration, MigrationName, OWNER_ROLE, Observed, READER_ROLE, Role, Seen,
    Session, Spec, Unit, settings,
};
use crate::{Condition, ConditionKind, Decision, Difference, Standing};

/// Until it is looked again whether a server is still used, milliseconds: long enough to be asked anew.
const USERS_MS: u64 = 100;

/// The one thing to do next to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take a prepared cluster (or prepare one) as this server's.
    Claim,
    /// Bring its data back from where they come from, as they were then.
    Restore,
    /// Write its configuration files.
    WriteFiles,
    /// Declare its unit and have it running.
    Start,
    /// Have it run although it sleeps.
    Wake,
    /// Have it read its files again.
    Reload,
    /// Stop it; it is started again by what follows.
    Restart,
    /// Put right what is wrong of roles, database and password.
    Roles(Wrong),
    /// Create an extension.
    Extension(String),
    /// Run a migration.
    Migrate(Migration),
    /// Have it backed up, as the spec says.
    Archive,
    /// Begin a drill of its backups.
    Drill,
    /// Open, or change, the front door.
    OpenRoute,
    /// Move it, process and data, to its other place, while clients wait.
    Move,
    /// Take away what is left of it at the place that it left.
    Leave,
    /// Close the front door.
    CloseRoute,
    /// Stop the process for good.
    Stop,
    /// Remove data, configuration and everything else.
    Remove,
}

/// What of Stead's own inside a server is not as it shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrong {
    /// The roles, or the gateway's way to the verifiers.
    pub roles: bool,
    /// The tenant's database.
    pub database: bool,
    /// The owner's password, or the reader's.
    pub password: bool,
}

impl Step {
    /// Name in store, log and progress line.
    pub fn label(&self) -> String {
        match self {
            Self::Claim => "claim".into(),
            Self::Restore => "restore".into(),
            Self::WriteFiles => "configure".into(),
            Self::Start => "start".into(),
            Self::Wake => "wake".into(),
            Self::Reload => "reload".into(),
            Self::Restart => "restart".into(),
            Self::Roles(_) => "roles".into(),
            Self::Extension(name) => format!("extension {name}"),
            Self::Migrate(migration) => format!("migrate {}", migration.name),
            Self::Archive => "archive".into(),
            Self::Drill => "drill".into(),
            Self::OpenRoute => "open".into(),
            Self::Move => "move".into(),
            Self::Leave => "leave".into(),
            Self::CloseRoute => "close".into(),
            Self::Stop => "stop".into(),
            Self::Remove => "remove".into(),
        }
    }

    /// What runs the tenant's own SQL, or an extension's.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self, Self::Migrate(_) | Self::Extension(_) | Self::Restore)
    }

    /// A migration that ran, a restart and a move are events; the other steps are only the way there.
    pub(crate) fn on_record(&self) -> Option<serde_json::Value> {
        match self {
            Self::Migrate(migration) => {
                Some(json!({ "migration": migration.name, "sha256": migration.sha256 }))
            }
            Self::Restart => Some(json!({ "restarted": true })),
            Self::Restore => Some(json!({ "restored": true })),
            Self::Move => Some(json!({ "moved": true })),
            _ => None,
        }
    }
}

/// Decides; see [`crate::plan`].
pub fn plan(spec: &Spec, observed: &Observed, standing: Standing) -> Decision {
    if standing.deleting && standing.used {
        return Decision::Wait {
            reason: "waiting for the functions that use it to go".into(),
            again_ms: USERS_MS,
            condition: None,
        };
    }
    if standing.deleting {
        return removal(observed);
    }
    ground(spec, observed, standing.provisioned)
        .or_else(|| process(observed, standing.settled))
        .or_else(|| observed.session.as_ref().and_then(|session| inside(spec, session)))
        .or_else(|| front_door(observed))
        .or_else(|| (observed.archive != Seen::Same).then(|| act(Step::Archive)))
        .or_else(|| place(observed))
        .or_else(|| observed.session.as_ref().and_then(|session| extensions(spec, session)))
        .or_else(|| observed.session.as_ref().and_then(|session| schema(spec, session)))
        .or_else(|| drill(observed, standing.drill_due))
        .unwrap_or(Decision::Settled)
}

/// One at a time on a host, and only where there is something to be tried.
fn drill(observed: &Observed, due: bool) -> Option<Decision> {
    let backed_up = observed.backups.as_ref().is_some_and(|backups| backups.oldest.is_some());
    (due && backed_up && !observed.drilling).then(|| act(Step::Drill))
}

fn act(step: Step) -> Decision {
    Decision::Act(crate::Step::Postgres(step))
}

fn blocked(kind: ConditionKind, message: String) -> Decision {
    Decision::Blocked(Condition { kind, message })
}

fn removal(observed: &Observed) -> Decision {
    if observed.route.declared != Seen::Absent {
        return act(Step::CloseRoute);
    }
    // Nobody may be let in to a server that is going, and closing again would not hurry the gateway.
    if observed.route.in_force {
        let reason = "the gateway lets go of the route".into();
        return Decision::Wait { reason, again_ms: 10, condition: None };
    }
    match observed.unit {
        Unit::Running | Unit::Failing(_) => act(Step::Stop),
        Unit::Stopping => {
            Decision::Wait { reason: "the server is stopping".into(), again_ms: 20, condition: None }
        }
        Unit::Absent if observed.tree || observed.leftovers || observed.declared != Seen::Absent => {
            act(Step::Remove)
        }
        Unit::Stopped | Unit::Asleep => act(Step::Remove),
        Unit::Absent => Decision::Gone,
    }
}

/// Engine, data, files.
fn ground(spec: &Spec, observed: &Observed, provisioned: bool) -> Option<Decision> {
    if !observed.engine_present {
        return Some(blocked(
            ConditionKind::EngineMissing,
            format!(
                "engine {} is not on this host any more; install it again with script/setup",
                spec.engine
            ),
        ));
    }
    if provisioned && !(observed.tree && observed.data) {
        // Another one takes its place: its address has to be free for that.
        if observed.route.declared == Seen::Differs {
            return Some(act(Step::OpenRoute));
        }
        return Some(blocked(
            ConditionKind::DataLost,
            "the data directory is gone from the host; nothing was put in its place: \
             put it back, restore a backup, or remove the server with `stead down`"
                .into(),
        ));
    }
    // A tree without data is what an `initdb` that was killed leaves behind: nothing in it is anybody's yet.
    if !(observed.tree && observed.data) {
        return Some(act(if spec.origin.is_some() { Step::Restore } else { Step::Claim }));
    }
    (observed.files != Seen::Same).then(|| act(Step::WriteFiles))
}

/// The process. One that sleeps is left alone: an edit wakes it, a look does not.
fn process(observed: &Observed, settled: bool) -> Option<Decision> {
    if observed.declared != Seen::Same {
        return Some(act(Step::Start));
    }
    match &observed.unit {
        Unit::Absent | Unit::Stopped => Some(act(Step::Start)),
        Unit::Asleep => (!settled).then(|| act(Step::Wake)),
        Unit::Stopping => {
            Some(Decision::Wait { reason: "the server is stopping".into(), again_ms: 20, condition: None })
        }
        Unit::Failing(last_error) => Some(Decision::Wait {
            reason: "the server ends by itself and is being tried again".into(),
            again_ms: 1_000,
            condition: Some(Condition {
                kind: ConditionKind::Crashing,
                message: format!(
                    "the server ends by itself; it is tried again and again. It said: {}",
                    last_error.trim()
                ),
            }),
        }),
        Unit::Running if observed.session.is_none() => Some(Decision::Wait {
            reason: "the server is starting".into(),
            again_ms: 20,
            condition: observed.unreachable.as_ref().map(|why| Condition {
                kind: ConditionKind::Unreachable,
                message: format!("the server runs but does not answer: {why}"),
            }),
        }),
        Unit::Running => None,
    }
}

/// Settings, roles, database.
fn inside(spec: &Spec, session: &Session) -> Option<Decision> {
    if let Some(error) = &session.config_error {
        return Some(blocked(
            ConditionKind::Crashing,
            format!("the server refuses its configuration: {error}"),
        ));
    }
    // `pending_restart` first: a reload cannot bring those values, and would be asked for for ever.
    if session.pending_restart {
        return Some(act(Step::Restart));
    }
    if settings(spec).iter().any(|s| session.settings.get(s.name) != Some(&s.value)) {
        return Some(act(Step::Reload));
    }
    let wrong = Wrong {
        roles: !(roles_right(session) && session.helpers),
        database: !database_right(session),
        password: !session.password_set,
    };
    (wrong != Wrong::default()).then(|| act(Step::Roles(wrong)))
}

/// The first extension that is missing. One that the database has and the spec does not name stays: taking
/// it away would take the tenant's columns and indexes with it.
fn extensions(spec: &Spec, session: &Session) -> Option<Decision> {
    spec.extensions
        .iter()
        .find(|wanted| !session.extensions.contains(wanted))
        .map(|missing| act(Step::Extension(missing.clone())))
}

/// The roles that a server has besides Stead's own superuser, with exactly these attributes.
#[must_use]
pub fn roles() -> [(&'static str, Role); 3] {
    let login = Role { login: true, ..Role::default() };
    [
        (OWNER_ROLE, Role { member_of: vec!["pg_read_all_stats".into()], ..login.clone() }),
        (READER_ROLE, Role { member_of: vec!["pg_read_all_data".into()], ..login.clone() }),
        (GATEWAY_ROLE, login),
    ]
}

fn roles_right(session: &Session) -> bool {
    roles().iter().all(|(name, role)| session.roles.get(*name) == Some(role))
        && session.roles.iter().all(|(name, role)| name == ADMIN_ROLE || !role.superuser)
}

fn database_right(session: &Session) -> bool {
    session.databases.values().any(|owner| owner == OWNER_ROLE)
}

fn front_door(observed: &Observed) -> Option<Decision> {
    if observed.route.declared != Seen::Same {
        return Some(act(Step::OpenRoute));
    }
    if let Some(error) = &observed.route.error {
        return Some(Decision::Wait {
            reason: "the front door cannot open".into(),
            again_ms: 1_000,
            condition: Some(Condition { kind: ConditionKind::PortTaken, message: error.clone() }),
        });
    }
    (!observed.route.in_force).then(|| Decision::Wait {
        reason: "the gateway takes up the route".into(),
        again_ms: 10,
        condition: None,
    })
}

/// Where it lives. It is moved when all but the tenant's own affairs is well, and not while it sleeps.
fn place(observed: &Observed) -> Option<Decision> {
    if observed.leftovers {
        return Some(act(Step::Leave));
    }
    (observed.elsewhere && observed.session.is_some()).then(|| act(Step::Move))
}

/// The next migration, or why there is none.
fn schema(spec: &Spec, session: &Session) -> Option<Decision> {
    let find = |name: &MigrationName| spec.schema.iter().find(|wanted| wanted.name == *name);
    for ran in &session.applied {
        match find(&ran.name) {
            None => {
                return Some(blocked(
                    ConditionKind::MigrationEdited,
                    format!(
                        "migration {} ran on this server but is not in the schema folder any more; \
                         put the file back (to undo it, add a new migration)",
                        ran.name
                    ),
                ));
            }
            Some(wanted) if wanted.sha256 != ran.sha256 => {
                return Some(blocked(
                    ConditionKind::MigrationEdited,
                    format!(
                        "migration {} was edited after it ran; put its text back as it was \
                         and write the difference as a new migration",
                        ran.name
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    let last = session.applied.iter().map(|ran| &ran.name).max();
    let next =
        spec.schema.iter().find(|wanted| !session.applied.iter().any(|ran| ran.name == wanted.name))?;
    match last {
        Some(last) if next.name < *last => Some(blocked(
            ConditionKind::MigrationEdited,
            format!(
                "migration {} comes before {last}, which ran already; give it a name that sorts after {last}",
                next.name
            ),
        )),
        _ => Some(act(Step::Migrate(next.clone()))),
    }
}

/// What differs though nobody asked: looked at only for a server that was settled at this spec.
pub fn drift(spec: &Spec, observed: &Observed) -> Vec<Difference> {
    let mut found = Vec::new();
    if !(observed.engine_present && observed.tree && observed.data) {
        // Not drift but loss, which is told as a condition of its own.
        return found;
    }
    let mut differs = |field: String, before, after| found.push(Difference { field, before, after });
    if observed.files != Seen::Same {
        differs("files".into(), json!("changed by hand"), json!("as the spec renders them"));
    }
    match observed.declared {
        Seen::Same => {}
        Seen::Absent => differs("unit".into(), json!(null), json!("as the spec renders it")),
        Seen::Differs => differs("unit".into(), json!("changed by hand"), json!("as the spec renders it")),
    }
    if let Some(session) = &observed.session {
        for setting in settings(spec) {
            let is = session.settings.get(setting.name);
            if is != Some(&setting.value) {
                differs(format!("settings.{}", setting.name), json!(is), json!(setting.value));
            }
        }
        for (name, wanted) in roles() {
            let is = session.roles.get(name);
            if is != Some(&wanted) {
                differs(format!("roles.{name}"), is.map_or(json!(null), role_words), role_words(&wanted));
            }
        }
        for (name, role) in &session.roles {
            if role.superuser && !OWN_ROLES.contains(&name.as_str()) {
                differs(format!("roles.{name}"), json!("superuser"), json!("no superuser"));
            }
        }
        if !database_right(session) {
            differs(
                "database".into(),
                json!(session.databases),
                json!(format!("one that {OWNER_ROLE} owns")),
            );
        }
        if !session.helpers {
            differs("helpers".into(), json!("changed by hand"), json!("as Stead makes them"));
        }
        if !session.password_set {
            differs("password".into(), json!("changed by hand"), json!("the one that Stead keeps"));
        }
        for missing in spec.extensions.iter().filter(|wanted| !session.extensions.contains(wanted)) {
            differs(format!("extensions.{missing}"), json!(null), json!("present"));
        }
    }
    match observed.archive {
        Seen::Same => {}
        Seen::Absent => differs("backup".into(), json!(null), json!(spec.backup)),
        Seen::Differs => differs("backup".into(), json!("changed by hand"), json!(spec.backup)),
    }
    match observed.route.declared {
        Seen::Same => {}
        Seen::Absent => differs("allow".into(), json!(null), json!(spec.allow)),
        Seen::Differs if observed.route.allow != spec.allow => {
            differs("allow".into(), json!(observed.route.allow), json!(spec.allow));
        }
        Seen::Differs => differs("route".into(), json!("changed by hand"), json!("as the spec renders it")),
    }
    found
}

/// The roles that Stead makes; every other is the tenant's affair, but may not be a superuser.
const OWN_ROLES: [&str; 4] = [ADMIN_ROLE, OWNER_ROLE, READER_ROLE, GATEWAY_ROLE];

fn role_words(role: &Role) -> serde_json::Value {
    let flags = [
        (role.superuser, "superuser"),
        (role.login, "login"),
        (role.createrole, "createrole"),
        (role.createdb, "createdb"),
        (role.replication, "replication"),
        (role.bypassrls, "bypassrls"),
    ];
    let words = flags.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned());
    json!(words.chain(role.member_of.iter().map(|of| format!("in {of}"))).collect::<Vec<_>>())
}
