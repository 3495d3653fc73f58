//! A tiny model of a host: what a server is, what each step does to it, and what happens by itself.

use component::postgres::{
    ADMIN_ROLE, Backup, Major, Migration, OWNER_ROLE, Observed, Role, Route, Seen, Session, Size, Spec, Step,
    Unit, roles, settings,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A migration whose text is its name.
pub(crate) fn migration(name: &str) -> Migration {
    Migration { name: name.parse().expect("a name"), sha256: format!("hash of {name}") }
}

/// A spec with some of everything.
pub(crate) fn spec() -> Spec {
    Spec {
        engine: Major::new(18),
        size: Size::Small,
        allow: vec!["10.0.0.0/8".parse().expect("a network")],
        maintenance: None,
        idle: None,
        backup: Backup::default(),
        beside: false,
        origin: None,
        until: None,
        schema: vec![migration("0001_a.sql"), migration("0002_b.sql"), migration("0003_c.sql")],
        extensions: vec!["citext".into(), "pg_trgm".into()],
        protect: true,
        owner: None,
        runbook: None,
    }
}

/// A session of a server in which everything is as the spec wants it.
pub(crate) fn session(spec: &Spec) -> Session {
    let admin = Role { superuser: true, login: true, ..Role::default() };
    Session {
        version: "18.6".into(),
        settings: settings(spec).into_iter().map(|s| (s.name.to_owned(), s.value)).collect(),
        roles: roles()
            .into_iter()
            .map(|(name, role)| (name.to_owned(), role))
            .chain([(ADMIN_ROLE.to_owned(), admin)])
            .collect(),
        password_set: true,
        helpers: true,
        databases: [("main".to_owned(), OWNER_ROLE.to_owned())].into(),
        extensions: spec.extensions.clone(),
        applied: spec.schema.clone(),
        ..Session::default()
    }
}

/// A server that is as the spec wants it.
pub(crate) fn settled(spec: &Spec) -> Observed {
    Observed {
        engine_present: true,
        tree: true,
        elsewhere: false,
        leftovers: false,
        data: true,
        files: Seen::Same,
        declared: Seen::Same,
        unit: Unit::Running,
        session: Some(session(spec)),
        unreachable: None,
        archive: Seen::Same,
        backups: None,
        drilling: false,
        route: Route { declared: Seen::Same, allow: spec.allow.clone(), in_force: true, error: None },
    }
}

/// The model.
pub(crate) struct World {
    pub(crate) spec: Spec,
    pub(crate) seen: Observed,
    pub(crate) provisioned: bool,
    /// What the server says once it answers.
    inner: Session,
    /// Whether a reload leaves something for a restart.
    needs_restart: bool,
}

impl World {
    /// A world in any state whatever, the same for the same seed.
    pub(crate) fn random(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let spec = spec();
        let mut seen = settled(&spec);
        let inner = random_session(&spec, &mut dice);
        seen.engine_present = !dice.random_bool(0.05);
        seen.tree = dice.random_bool(0.8);
        seen.data = seen.tree && dice.random_bool(0.9);
        seen.elsewhere = seen.tree && dice.random_bool(0.2);
        seen.leftovers = !seen.elsewhere && dice.random_bool(0.2);
        seen.files = random_seen(&mut dice);
        seen.declared = random_seen(&mut dice);
        seen.unit = match dice.random_range(0..6) {
            0 => Unit::Absent,
            1 => Unit::Stopped,
            2 => Unit::Stopping,
            3 => Unit::Failing("FATAL:  could not open file".into()),
            4 => Unit::Asleep,
            _ => Unit::Running,
        };
        seen.session = (seen.unit == Unit::Running && dice.random_bool(0.7)).then(|| inner.clone());
        seen.archive = random_seen(&mut dice);
        seen.route = Route {
            declared: random_seen(&mut dice),
            allow: Vec::new(),
            in_force: dice.random_bool(0.5),
            error: dice.random_bool(0.2).then(|| "port 6001 is in use".into()),
        };
        Self { spec, seen, provisioned: dice.random_bool(0.5), inner, needs_restart: dice.random_bool(0.5) }
    }

    /// Does a step.
    pub(crate) fn act(&mut self, step: &Step) {
        match step {
            Step::Claim | Step::Restore => {
                self.seen.tree = true;
                self.seen.data = true;
                self.seen.files = Seen::Absent;
                self.seen.archive = Seen::Absent;
                self.inner = Session { helpers: false, ..Session::default() };
            }
            Step::WriteFiles => {
                self.seen.files = Seen::Same;
                self.said(|session| session.config_error = None);
            }
            Step::Start => {
                self.seen.declared = Seen::Same;
                if matches!(self.seen.unit, Unit::Absent | Unit::Stopped | Unit::Failing(_)) {
                    self.boot();
                }
            }
            Step::Wake => self.boot(),
            Step::Reload => {
                let settings = session(&self.spec).settings;
                let restart = std::mem::take(&mut self.needs_restart);
                self.said(|session| match restart {
                    true => session.pending_restart = true,
                    false => session.settings = settings,
                });
            }
            Step::Restart => {
                self.seen.unit = Unit::Stopping;
                self.seen.session = None;
            }
            Step::Roles(wrong) => {
                let (right, wrong) = (session(&self.spec), *wrong);
                self.said(|session| {
                    if wrong.roles {
                        session.roles = right.roles;
                        session.helpers = true;
                    }
                    if wrong.database {
                        session.databases = right.databases;
                    }
                    session.password_set |= wrong.password;
                });
            }
            Step::Extension(name) => self.said(|session| session.extensions.push(name.clone())),
            Step::Migrate(migration) => self.said(|session| session.applied.push(migration.clone())),
            Step::Drill => self.seen.drilling = true,
            Step::Archive => self.seen.archive = Seen::Same,
            Step::OpenRoute => {
                self.seen.route.declared = Seen::Same;
                self.seen.route.allow = self.spec.allow.clone();
            }
            Step::Move => {
                self.seen.elsewhere = false;
                self.seen.leftovers = self.needs_restart;
                self.boot();
            }
            Step::Leave => self.seen.leftovers = false,
            Step::CloseRoute => self.seen.route.declared = Seen::Absent,
            Step::Stop => {
                self.seen.unit = Unit::Stopping;
                self.seen.session = None;
            }
            Step::Remove => {
                self.seen = Observed { engine_present: self.seen.engine_present, ..Observed::default() }
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self) {
        self.seen.route.error = None;
        self.seen.route.in_force = self.seen.route.declared != Seen::Absent;
        match self.seen.unit {
            Unit::Stopping => self.seen.unit = Unit::Stopped,
            Unit::Failing(_) => self.boot(),
            Unit::Running => self.seen.session = Some(self.inner.clone()),
            Unit::Absent | Unit::Stopped | Unit::Asleep => {}
        }
    }

    /// What the server would refuse its configuration for.
    pub(crate) fn config_error(&self) -> bool {
        self.inner.config_error.is_some()
    }

    /// Migrations that ran.
    pub(crate) fn applied(&self) -> &[Migration] {
        &self.inner.applied
    }

    fn said(&mut self, change: impl FnOnce(&mut Session)) {
        change(&mut self.inner);
        if self.seen.session.is_some() {
            self.seen.session = Some(self.inner.clone());
        }
    }

    fn boot(&mut self) {
        if !self.seen.data {
            self.seen.unit = Unit::Failing("FATAL:  data directory does not exist".into());
            return;
        }
        self.seen.unit = Unit::Running;
        self.seen.session = None;
        self.inner.settings = session(&self.spec).settings;
        self.inner.pending_restart = false;
    }
}

fn random_seen(dice: &mut StdRng) -> Seen {
    match dice.random_range(0..4) {
        0 => Seen::Absent,
        1 => Seen::Differs,
        _ => Seen::Same,
    }
}

fn random_session(spec: &Spec, dice: &mut StdRng) -> Session {
    let mut session = session(spec);
    if dice.random_bool(0.3) {
        session.settings.insert("work_mem".into(), "1GB".into());
    }
    if dice.random_bool(0.1) {
        session.settings.remove("jit");
    }
    session.pending_restart = dice.random_bool(0.2);
    session.config_error = dice.random_bool(0.1).then(|| "invalid value for parameter".into());
    if dice.random_bool(0.2) {
        session.roles.insert("eve".into(), Role { superuser: true, ..Role::default() });
    }
    for (name, _) in roles() {
        if dice.random_bool(0.1) {
            session.roles.remove(name);
        } else if dice.random_bool(0.1) {
            session.roles.insert(name.to_owned(), Role { createrole: true, ..Role::default() });
        }
    }
    session.password_set = dice.random_bool(0.8);
    session.helpers = dice.random_bool(0.8);
    if dice.random_bool(0.1) {
        session.databases.clear();
    }
    session.extensions.retain(|_| dice.random_bool(0.6));
    session.applied.truncate(dice.random_range(0..=3));
    match dice.random_range(0..10) {
        0 => session.applied.push(migration("0009_gone.sql")),
        1 if !session.applied.is_empty() => session.applied[0].sha256 = "another".into(),
        2 if session.applied.len() == 3 => {
            session.applied.remove(1);
        }
        _ => {}
    }
    session
}
