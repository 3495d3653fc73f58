//! For each thing that can be seen of a server, the step that follows; and what of it is drift.

use component::postgres::{GATEWAY_ROLE, OWNER_ROLE, Observed, Role, Seen, Session, Spec, Unit, drift, plan};
use component::{ConditionKind, Decision, Standing};

use crate::world::{migration, settled, spec};

/// The decision in few words: `start`, `wait: the server is stopping`, `blocked: DataLost`.
fn words(decision: Decision) -> String {
    match decision {
        Decision::Act(step) => step.label(),
        Decision::Wait { reason, condition: None, .. } => format!("wait: {reason}"),
        Decision::Wait { reason, condition: Some(condition), .. } => {
            format!("wait: {reason} ({:?})", condition.kind)
        }
        Decision::Blocked(condition) => format!("blocked: {:?}", condition.kind),
        Decision::Settled => "settled".into(),
        Decision::Gone => "gone".into(),
    }
}

/// Of a server that was brought to its spec before.
const SETTLED: Standing =
    Standing { deleting: false, used: false, provisioned: true, drill_due: false, settled: true };
const DELETING: Standing = Standing { deleting: true, ..SETTLED };

/// What follows when a settled server, real before, differs in one thing.
fn after(change: impl FnOnce(&mut Observed)) -> String {
    let mut observed = settled(&spec());
    change(&mut observed);
    words(plan(&spec(), &observed, SETTLED))
}

fn after_saying(change: impl FnOnce(&mut Session)) -> String {
    after(|o| change(o.session.as_mut().expect("a session")))
}

fn deleting(change: impl FnOnce(&mut Observed)) -> String {
    let mut observed = settled(&spec());
    change(&mut observed);
    words(plan(&spec(), &observed, DELETING))
}

#[test]
fn each_observation_has_its_step() {
    assert_eq!(after(|_| {}), "settled");
    assert_eq!(after(|o| o.engine_present = false), "blocked: EngineMissing");
    assert_eq!(after(|o| o.tree = false), "blocked: DataLost");
    assert_eq!(after(|o| o.data = false), "blocked: DataLost");
    assert_eq!(after(|o| o.files = Seen::Absent), "configure");
    assert_eq!(after(|o| o.files = Seen::Differs), "configure");
    assert_eq!(after(|o| o.declared = Seen::Absent), "start");
    assert_eq!(after(|o| o.declared = Seen::Differs), "start");
    assert_eq!(after(|o| o.unit = Unit::Absent), "start");
    assert_eq!(after(|o| o.elsewhere = true), "move");
    assert_eq!(after(|o| o.leftovers = true), "leave");
    assert_eq!(after(|o| (o.elsewhere, o.route.declared) = (true, Seen::Differs)), "open");
    assert_eq!(
        after(|o| (o.elsewhere, o.unit, o.session) = (true, Unit::Asleep, None)),
        "settled",
        "it is moved when an edit wakes it"
    );
    assert_eq!(after(|o| o.unit = Unit::Stopped), "start");
    assert_eq!(after(|o| o.unit = Unit::Stopping), "wait: the server is stopping");
    assert_eq!(
        after(|o| o.unit = Unit::Failing("PANIC".into())),
        "wait: the server ends by itself and is being tried again (Crashing)"
    );
    assert_eq!(after(|o| o.session = None), "wait: the server is starting");
    assert_eq!(
        after(|o| {
            o.session = None;
            o.unreachable = Some("too many clients".into());
        }),
        "wait: the server is starting (Unreachable)"
    );
    assert_eq!(after(|o| o.route.declared = Seen::Absent), "open");
    assert_eq!(after(|o| o.route.declared = Seen::Differs), "open");
    assert_eq!(after(|o| o.route.in_force = false), "wait: the gateway takes up the route");
    assert_eq!(
        after(|o| o.route.error = Some("in use".into())),
        "wait: the front door cannot open (PortTaken)"
    );
}

#[test]
fn what_is_backed_up_is_archived_tried_and_brought_back() {
    assert_eq!(after(|o| o.archive = Seen::Absent), "archive");
    assert_eq!(after(|o| (o.archive, o.unit, o.session) = (Seen::Differs, Unit::Asleep, None)), "archive");
    assert_eq!(after(|o| (o.archive, o.route.declared) = (Seen::Absent, Seen::Absent)), "open");
    // What is lost gives up an address that another one takes over, and nothing else.
    assert_eq!(after(|o| (o.tree, o.route.declared) = (false, Seen::Differs)), "open");
    let due = |change: &dyn Fn(&mut Observed)| {
        let mut observed = settled(&spec());
        let backups = component::status::Backups {
            archive: "a".into(),
            oldest: Some(jiff::Timestamp::UNIX_EPOCH),
            newest: None,
            count: 1,
            last: None,
            bytes: 1,
            behind_bytes: 0,
            trouble: None,
        };
        observed.backups = Some(backups);
        change(&mut observed);
        words(plan(&spec(), &observed, Standing { drill_due: true, ..SETTLED }))
    };
    assert_eq!(due(&|_| {}), "drill");
    assert_eq!(due(&|o| (o.unit, o.session) = (Unit::Asleep, None)), "drill", "it needs no process for that");
    assert_eq!(due(&|o| o.drilling = true), "settled");
    assert_eq!(due(&|o| o.backups = None), "settled");
    assert_eq!(due(&|o| o.backups.as_mut().expect("backups").oldest = None), "settled");
    assert_eq!(due(&|o| o.files = Seen::Absent), "configure");
    let mut copy = spec();
    let at = jiff::Timestamp::UNIX_EPOCH;
    let (component, id) = ("postgres.main".parse().expect("a name"), component::ComponentId::random());
    copy.origin = Some(component::postgres::Origin { component, id, archive: "a".into(), at });
    let new = Standing { provisioned: false, settled: false, ..SETTLED };
    let nothing = Observed { engine_present: true, ..Observed::default() };
    assert_eq!(words(plan(&copy, &nothing, new)), "restore");
    assert_eq!(words(plan(&spec(), &nothing, new)), "claim");
    assert_eq!(words(plan(&copy, &nothing, SETTLED)), "blocked: DataLost");
}

#[test]
fn each_answer_of_the_server_has_its_step() {
    assert_eq!(after_saying(|s| s.config_error = Some("unrecognized".into())), "blocked: Crashing");
    assert_eq!(after_saying(|s| s.pending_restart = true), "restart");
    assert_eq!(after_saying(|s| drop(s.settings.remove("jit"))), "reload");
    assert_eq!(after_saying(|s| drop(s.settings.insert("work_mem".into(), "1GB".into()))), "reload");
    assert_eq!(after_saying(|s| drop(s.roles.remove(OWNER_ROLE))), "roles");
    assert_eq!(after_saying(|s| drop(s.roles.remove(GATEWAY_ROLE))), "roles");
    assert_eq!(after_saying(|s| s.roles.get_mut(OWNER_ROLE).expect("owner").superuser = true), "roles");
    assert_eq!(
        after_saying(|s| drop(s.roles.insert("eve".into(), Role { superuser: true, ..Role::default() }))),
        "roles"
    );
    assert_eq!(after_saying(|s| drop(s.roles.insert("reader".into(), Role::default()))), "settled");
    assert_eq!(after_saying(|s| s.password_set = false), "roles");
    assert_eq!(after_saying(|s| s.helpers = false), "roles");
    assert_eq!(after_saying(|s| s.databases.clear()), "roles");
    assert_eq!(after_saying(|s| drop(s.extensions.remove(0))), "extension citext");
    assert_eq!(after_saying(|s| s.extensions.push("hstore".into())), "settled");
    assert_eq!(after_saying(|s| drop(s.applied.pop())), "migrate 0003_c.sql");
    assert_eq!(after_saying(|s| s.applied.clear()), "migrate 0001_a.sql");
    assert_eq!(after_saying(|s| s.applied.push(migration("0009_gone.sql"))), "blocked: MigrationEdited");
    assert_eq!(after_saying(|s| s.applied[1].sha256 = "other".into()), "blocked: MigrationEdited");
    assert_eq!(after_saying(|s| drop(s.applied.remove(1))), "blocked: MigrationEdited");
}

#[test]
fn a_look_wakes_nobody_and_an_edit_does() {
    let asleep = |standing: Standing, change: fn(&mut Observed)| {
        let mut observed = settled(&spec());
        (observed.unit, observed.session) = (Unit::Asleep, None);
        change(&mut observed);
        words(plan(&spec(), &observed, standing))
    };
    let edited = Standing { settled: false, ..SETTLED };
    assert_eq!(asleep(SETTLED, |_| {}), "settled");
    assert_eq!(asleep(SETTLED, |o| o.files = Seen::Differs), "configure");
    assert_eq!(asleep(SETTLED, |o| o.route.declared = Seen::Absent), "open");
    assert_eq!(asleep(edited, |_| {}), "wake");
    assert_eq!(asleep(edited, |o| o.declared = Seen::Differs), "start");
}

#[test]
fn what_never_was_real_is_made() {
    let made = |tree, data| {
        words(plan(
            &spec(),
            &Observed { engine_present: true, tree, data, ..Observed::default() },
            Standing::default(),
        ))
    };
    assert_eq!(made(false, false), "claim");
    assert_eq!(made(true, false), "claim", "an initdb that was killed");
    assert_eq!(made(true, true), "configure");
}

/// A person can sign in and look while an extension is missing or a migration fails.
#[test]
fn the_front_door_comes_before_the_tenants_own_things() {
    let both = |change: fn(&mut Session)| {
        after(|o| {
            o.route.declared = Seen::Absent;
            change(o.session.as_mut().expect("a session"));
        })
    };
    assert_eq!(both(|s| s.extensions.clear()), "open");
    assert_eq!(both(|s| s.applied.clear()), "open");
    assert_eq!(both(|s| s.password_set = false), "roles");
}

#[test]
fn deletion_shuts_the_door_first_and_removes_last() {
    assert_eq!(deleting(|_| {}), "close");
    let closed = |o: &mut Observed| {
        o.route.declared = Seen::Absent;
        o.route.in_force = false;
    };
    assert_eq!(deleting(|o| o.route.declared = Seen::Absent), "wait: the gateway lets go of the route");
    assert_eq!(deleting(closed), "stop");
    let with = |unit: Unit| {
        deleting(|o| {
            closed(o);
            o.unit = unit;
        })
    };
    assert_eq!(with(Unit::Failing(String::new())), "stop");
    assert_eq!(with(Unit::Stopping), "wait: the server is stopping");
    assert_eq!(with(Unit::Stopped), "remove");
    assert_eq!(with(Unit::Asleep), "remove");
    assert_eq!(with(Unit::Absent), "remove");
    assert_eq!(deleting(|o| *o = Observed { tree: true, ..Observed::default() }), "remove");
    assert_eq!(deleting(|o| *o = Observed { declared: Seen::Differs, ..Observed::default() }), "remove");
    assert_eq!(deleting(|o| *o = Observed { unit: Unit::Stopped, ..Observed::default() }), "remove");
    assert_eq!(deleting(|o| *o = Observed::default()), "gone", "even without an engine");
}

#[test]
fn messages_say_what_to_do() {
    let spec = spec();
    let mut said = Vec::new();
    let mut note = |change: &dyn Fn(&mut Observed)| {
        let mut observed = settled(&spec);
        change(&mut observed);
        match plan(&spec, &observed, SETTLED) {
            Decision::Blocked(condition) | Decision::Wait { condition: Some(condition), .. } => {
                said.push(condition)
            }
            other => panic!("{other:?}"),
        }
    };
    note(&|o| o.engine_present = false);
    note(&|o| o.data = false);
    note(&|o| o.unit = Unit::Failing("  FATAL:  could not map anonymous shared memory\n".into()));
    note(&|o| {
        o.session = None;
        o.unreachable = Some("timed out after 5 s".into());
    });
    note(&|o| o.route.error = Some("port 6001 is in use by another program; free it".into()));
    let session =
        |change: &dyn Fn(&mut Session), o: &mut Observed| change(o.session.as_mut().expect("a session"));
    note(&|o| session(&|s| s.config_error = Some("line 3: syntax error".into()), o));
    note(&|o| session(&|s| s.applied.push(migration("0009_gone.sql")), o));
    note(&|o| session(&|s| s.applied[0].sha256 = "other".into(), o));
    note(&|o| session(&|s| drop(s.applied.remove(0)), o));
    insta::assert_yaml_snapshot!(said);
    assert!(said.iter().any(|condition| condition.kind == ConditionKind::PortTaken));
}

#[test]
fn drift_has_a_before_and_an_after() {
    let spec: Spec = spec();
    assert_eq!(drift(&spec, &settled(&spec)), []);
    let mut observed = settled(&spec);
    observed.files = Seen::Differs;
    observed.declared = Seen::Differs;
    observed.route.declared = Seen::Differs;
    observed.route.allow = vec!["0.0.0.0/0".parse().expect("a network")];
    let session = observed.session.as_mut().expect("a session");
    session.settings.insert("work_mem".into(), "1GB".into());
    session.settings.remove("jit");
    session.roles.get_mut(OWNER_ROLE).expect("owner").createrole = true;
    session.roles.remove(GATEWAY_ROLE);
    session.roles.insert("eve".into(), Role { superuser: true, ..Role::default() });
    session.password_set = false;
    session.helpers = false;
    session.databases = [("main".to_owned(), "eve".to_owned())].into();
    session.extensions.remove(1);
    insta::assert_yaml_snapshot!(drift(&spec, &observed));
    for (route, field) in [(Seen::Absent, "allow"), (Seen::Differs, "route")] {
        let mut observed = settled(&spec);
        observed.route.declared = route;
        let found = drift(&spec, &observed);
        assert_eq!(found.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), [field]);
    }
}
