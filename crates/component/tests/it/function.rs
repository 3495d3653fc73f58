//! Functions: wishes that cannot be granted, and the way from one release to the next.

use std::collections::{BTreeMap, BTreeSet};

use component::function::{Canary, Digest, Engine, Observed, Seen, Spec, Step, Wish, plan, resolve};
use component::{ComponentName, ConditionKind, Decision, Offer, Standing, manifest};
use serde_json::json;

const CODE: Digest = Digest::new([1; 32]);

fn offer() -> Offer {
    Offer { runtimes: ["nodejs24.x".to_owned()].into(), ..Offer::default() }
}

fn wish() -> Wish {
    Wish {
        code: Some(CODE),
        runtime: Some("nodejs24.x".parse().expect("a runtime")),
        handler: Some("index.handler".into()),
        ..Wish::default()
    }
}

fn spec() -> Spec {
    resolve(&wish(), None, &offer()).expect("a spec")
}

#[test]
fn a_wish_needs_code_a_runtime_that_is_there_and_a_handler() {
    let refused = |wish: &Wish, offer: &Offer| resolve(wish, None, offer).unwrap_err().field;
    assert_eq!(refused(&Wish { code: None, ..wish() }, &offer()), "code");
    assert_eq!(refused(&Wish { runtime: None, ..wish() }, &offer()), "runtime");
    assert_eq!(refused(&wish(), &Offer { runtimes: BTreeSet::new(), ..offer() }), "runtime");
    assert_eq!(refused(&Wish { handler: None, ..wish() }, &offer()), "handler");
    let provided = Wish { runtime: Some("provided.al2023".parse().unwrap()), handler: None, ..wish() };
    assert_eq!(resolve(&provided, None, &offer()).unwrap().handler, "");
    // An interpreter that was taken away does not keep a function from being edited.
    let gone = Offer { runtimes: BTreeSet::new(), ..offer() };
    assert!(resolve(&wish(), Some(&spec()), &gone).is_ok());
}

#[test]
fn a_function_uses_servers_that_are_there() {
    let name = |text: &str| text.parse::<ComponentName>().unwrap();
    let using = |used: &str| component::Spec::Function(Spec { uses: [name(used)].into(), ..spec() });
    let stead = |used: &str| BTreeMap::from([(name("function.api"), using(used))]);
    let message = |used: &str| component::fit(&stead(used)).unwrap_err().1.message;
    assert_eq!(message("postgres.main"), "there is no `postgres.main` in this stead, which has no server");
    assert!(message("function.api").contains("cannot be used by a function"));
}

#[test]
fn what_is_no_release_changes_none() {
    let before = spec();
    let after = Spec { url: None, concurrency: 3, owner: Some("me".into()), ..before.clone() };
    assert_eq!(before.release(), after.release());
    let other = Spec { memory_mib: 512, ..before.clone() };
    assert_ne!(before.release(), other.release());
    let back = other.with_release_of(&after);
    assert_eq!((back.memory_mib, back.concurrency), (before.memory_mib, before.concurrency));
}

#[test]
fn a_release_is_brought_up_beside_the_one_that_answers() {
    let settled = Observed {
        runtime_present: true,
        unpacked: true,
        declared: Seen::Same,
        wanted: 2,
        live: Some(2),
        known: [2].into(),
        engine: Engine::Serves,
        ..Observed::default()
    };
    let decide = |observed: &Observed| plan(&spec(), observed, Standing::default());
    let act = |step| Decision::Act(component::Step::Function(step));
    assert_eq!(decide(&settled), Decision::Settled);
    let table = [
        (Observed { unpacked: false, ..settled.clone() }, Step::Unpack),
        (Observed { declared: Seen::Absent, ..settled.clone() }, Step::Declare),
        (Observed { declared: Seen::Differs, engine: Engine::Down, ..settled.clone() }, Step::Declare),
        (Observed { live: Some(1), known: [1, 2].into(), ..settled.clone() }, Step::Release(2)),
        (Observed { live: None, ..settled.clone() }, Step::Release(2)),
        (Observed { known: [1, 2].into(), ..settled.clone() }, Step::Retire),
    ];
    for (observed, step) in table {
        assert_eq!(decide(&observed), act(step), "{observed:?}");
    }
    let blocked = |observed: &Observed| match decide(observed) {
        Decision::Blocked(condition) => condition.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        blocked(&Observed { runtime_present: false, ..settled.clone() }),
        ConditionKind::RuntimeMissing
    );
    let unset = Observed { unset: ["KEY".parse().unwrap()].into(), live: Some(1), ..settled.clone() };
    assert_eq!(blocked(&unset), ConditionKind::SecretMissing);
    // What answers is told of everything else all the same.
    assert_eq!(decide(&Observed { declared: Seen::Differs, ..unset }), act(Step::Declare));
    let taken = Engine::NoPort("port 1 is taken".into());
    assert_eq!(blocked(&Observed { engine: taken, ..settled.clone() }), ConditionKind::PortTaken);
    assert!(matches!(decide(&Observed { engine: Engine::Down, ..settled.clone() }), Decision::Wait { .. }));
    let deleting = Standing { deleting: true, ..Standing::default() };
    assert_eq!(plan(&spec(), &settled, deleting), act(Step::Remove));
    let gone = Observed { declared: Seen::Absent, ..settled };
    assert_eq!(plan(&spec(), &gone, deleting), Decision::Gone);
}

#[test]
fn a_release_is_tried_until_it_is_promoted_returned_or_replaced() {
    let tried = Observed {
        runtime_present: true,
        unpacked: true,
        declared: Seen::Same,
        wanted: 1,
        wanted_canary: Some((2, 10)),
        live: Some(1),
        canary: Some(Canary { release: 2, percent: 10, returned: None }),
        known: [1, 2].into(),
        engine: Engine::Serves,
        ..Observed::default()
    };
    let decide = |observed: &Observed| plan(&spec(), observed, Standing::default());
    let act = |step| Decision::Act(component::Step::Function(step));
    assert_eq!(decide(&tried), Decision::Settled);
    let why = "11 of its 20 calls failed".to_owned();
    let table = [
        // What goes on answering comes first, as on a host that has neither.
        (Observed { live: None, canary: None, ..tried.clone() }, Step::Release(1)),
        (Observed { canary: None, ..tried.clone() }, Step::Canary(2, 10)),
        (Observed { wanted_canary: Some((2, 50)), ..tried.clone() }, Step::Canary(2, 50)),
        (Observed { wanted_canary: Some((3, 10)), ..tried.clone() }, Step::Canary(3, 10)),
        (Observed { returned: Some(why.clone()), ..tried.clone() }, Step::Return(why.clone())),
        (Observed { wanted: 2, wanted_canary: None, ..tried.clone() }, Step::Release(2)),
        (Observed { wanted_canary: None, ..tried.clone() }, Step::Retire),
        (Observed { known: [1, 2, 3].into(), ..tried.clone() }, Step::Retire),
    ];
    for (observed, step) in table {
        assert_eq!(decide(&observed), act(step), "{observed:?}");
    }
    let told = Canary { release: 2, percent: 10, returned: Some(why.clone()) };
    let returned = Observed { canary: Some(told), returned: Some(why), ..tried };
    // It stands in nobody's way; that it was returned its status tells.
    assert_eq!(decide(&returned), Decision::Settled);
    // Tried again, on another share.
    assert_eq!(decide(&Observed { wanted_canary: Some((2, 20)), ..returned }), act(Step::Canary(2, 20)));
}

#[test]
fn what_is_wrong_with_a_function_is_told_by_its_field() {
    let app = "shop".parse().unwrap();
    let wrong = |function: serde_json::Value| {
        let body = json!({ "function": { "api": function } });
        let errors = manifest::from_json(&body, &app).unwrap_err();
        errors.into_iter().map(|error| format!("{}: {}", error.pointer, error.message)).collect::<Vec<_>>()
    };
    let all = wrong(json!({
        "code": "api/", "runtime": "nodejs42.x", "handler": "../index", "memory": 64, "timeout": "9s",
        "concurrency": 0, "environment": {"AWS_REGION": "x", "1A": "x", "A": 1}, "secrets": ["1A", "AWS_REGION", "A"],
        "uses": ["main"], "url": "everybody", "schedule": "daily", "egress": ["10.0.0.1"], "env": {},
    }));
    insta::assert_snapshot!(all.join("\n"));
}
