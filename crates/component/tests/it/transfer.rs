//! Transfers: wishes that cannot be granted, and the way from nothing to a lake and back.

use std::collections::{BTreeMap, BTreeSet};

use component::postgres::{Route, Unit};
use component::transfer::{
    Asked, Bucket, Elsewhere, Inside, Leaving, Mode, Observed, Origin, Overlap, Process, Progress, Seen,
    Server, Spec, Step, Unknown, Wish, amend, plan, resolve,
};
use component::{ComponentName, ConditionKind, Decision, Offer, Standing};

fn name(text: &str) -> ComponentName {
    text.parse().expect("a name")
}

fn wish() -> Wish {
    Wish { from: Some(name("postgres.main").into()), ..Wish::default() }
}

fn spec() -> Spec {
    resolve(&wish(), None, &Offer::default()).expect("a spec")
}

#[test]
fn a_wish_needs_a_server_that_is_there_and_stays_the_same() {
    let refused =
        |wish: &Wish, current: Option<&Spec>| resolve(wish, current, &Offer::default()).unwrap_err().field;
    let there = spec();
    assert_eq!(refused(&Wish::default(), None), "from");
    assert_eq!(refused(&Wish { from: Some(name("postgres.other").into()), ..wish() }, Some(&there)), "from");
    assert_eq!(refused(&Wish { mode: Some(Mode::Snapshot), ..wish() }, Some(&there)), "mode");
    assert_eq!((spec().mode, spec().every.as_secs(), spec().tables.len()), (Mode::Stream, 60, 1));
    let query = Wish { mode: Some(Mode::Query), ..wish() };
    assert_eq!(refused(&query, None), "cursor");
    assert_eq!(refused(&Wish { cursor: Some("at".parse().unwrap()), ..wish() }, None), "cursor");
    assert_eq!(refused(&Wish { overlap: Some("10m".parse().unwrap()), ..wish() }, None), "overlap");
    let by_at = Wish { cursor: Some("at".parse().unwrap()), overlap: Some("5".parse().unwrap()), ..query };
    let by_at = resolve(&by_at, None, &Offer::default()).unwrap();
    assert_eq!(
        (by_at.mode, by_at.every.as_secs(), by_at.overlap),
        (Mode::Query, 60, Some(Overlap::Count(5)))
    );
    let fits = |from: &str| {
        let spec = Spec { from: name(from).into(), ..spec() };
        let stead = BTreeMap::from([(name("transfer.lake"), component::Spec::Transfer(spec))]);
        component::fit(&stead).unwrap_err().1.message
    };
    assert_eq!(fits("postgres.main"), "there is no `postgres.main` in this stead");
    assert!(fits("function.api").contains("cannot be read by a transfer"));
}

#[test]
fn an_amendment_changes_what_it_names() {
    let current = Spec { resyncs: 3, owner: Some("me".into()), ..spec() };
    let asked = Wish { every: Some("5m".parse().unwrap()), owner: Some("you".into()), ..Wish::default() };
    let after = amend(&asked, &BTreeSet::from(["every"]), &current, &Offer::default()).unwrap();
    assert_eq!((after.every.as_secs(), after.resyncs, after.owner.as_deref()), (300, 3, Some("me")));
}

/// Everything as it should be.
fn well() -> Observed {
    let process = || Process { declared: Seen::Same, unit: Unit::Running };
    Observed {
        tree: true,
        server: Server::Up,
        inside: Some(Inside { role: Seen::Same, slot: true }),
        files: Seen::Same,
        copier: process(),
        lake: process(),
        route: Route { declared: Seen::Same, in_force: true, ..Route::default() },
        progress: Some(Progress::default()),
        unknown: None,
        leaving: Leaving::Unasked,
    }
}

fn next(observed: &Observed, standing: Standing) -> String {
    match plan(&spec(), observed, standing) {
        Decision::Act(step) => step.label(),
        Decision::Wait { reason, .. } => reason,
        Decision::Blocked(condition) => format!("{:?}", condition.kind),
        Decision::Settled => "settled".into(),
        Decision::Gone => "gone".into(),
    }
}

#[test]
fn each_step_comes_before_what_needs_it() {
    let after = |change: fn(&mut Observed)| {
        let mut observed = well();
        change(&mut observed);
        next(&observed, Standing::default())
    };
    assert_eq!(after(|_| ()), "settled");
    assert_eq!(after(|o| o.tree = false), "create");
    assert_eq!(after(|o| o.inside = Some(Inside::default())), "role");
    assert_eq!(after(|o| o.server = Server::Asleep), "wake");
    assert_eq!(after(|o| (o.server, o.inside) = (Server::Down, None)), "waiting for postgres.main");
    assert_eq!(after(|o| o.files = Seen::Differs), "configure");
    assert_eq!(after(|o| o.copier.declared = Seen::Differs), "copier");
    assert_eq!(after(|o| o.lake.unit = Unit::Stopped), "lake");
    assert_eq!(after(|o| o.route.declared = Seen::Absent), "open");
    let crashing = |o: &mut Observed| o.copier.unit = Unit::Failing("no".into());
    assert_eq!(after(crashing), "the process that copies is being tried again");
    let stopped = |o: &mut Observed| {
        o.progress =
            Some(Progress { trouble: Some("its slot is gone".into()), stopped: true, ..Progress::default() });
    };
    assert_eq!(after(stopped), format!("{:?}", ConditionKind::TransferStopped));
    // What it said before it was asked to begin anew counts no more.
    let mut observed = well();
    stopped(&mut observed);
    let asked = Asked::Resync.of(&spec());
    assert_eq!(plan(&asked, &observed, Standing::default()), Decision::Settled);
}

#[test]
fn one_that_is_paused_does_not_copy_and_is_asked_all_the_same() {
    let paused = Asked::Pause.of(&spec());
    let next = |observed: &Observed| match plan(&paused, observed, Standing::default()) {
        Decision::Act(step) => step.label(),
        Decision::Wait { reason, .. } => reason,
        other => format!("{other:?}"),
    };
    // Its declaration says that it is to run.
    let copier = Process { declared: Seen::Differs, unit: Unit::Running };
    assert_eq!(next(&Observed { copier, ..well() }), "copier");
    assert_eq!(next(&well()), "the process that copies is stopping");
    let copier = Process { declared: Seen::Same, unit: Unit::Stopped };
    assert_eq!(next(&Observed { copier: copier.clone(), ..well() }), "Settled");
    let lake = Process { declared: Seen::Same, unit: Unit::Stopped };
    assert_eq!(next(&Observed { copier, lake, ..well() }), "lake");
    assert_eq!(Asked::Resume.of(&paused), spec());
}

#[test]
fn tables_are_asked_for_by_their_names_until_all_are() {
    let table = Asked::table("public.items").unwrap();
    let twice = table.of(&table.of(&spec()));
    assert_eq!((twice.table_resyncs.values().copied().collect::<Vec<_>>(), twice.asked), (vec![2], 2));
    let all = Asked::Resync.of(&twice);
    assert_eq!((all.table_resyncs.len(), all.resyncs, all.asked), (0, 1, 3));
    for bad in ["items", "public.*", "", "a.b.c"] {
        assert!(Asked::table(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_server_that_sleeps_or_is_down_leaves_a_settled_transfer_alone() {
    let settled = Standing { settled: true, provisioned: true, ..Standing::default() };
    for server in [Server::Asleep, Server::Down] {
        assert_eq!(next(&Observed { server, inside: None, ..well() }, settled), "settled");
    }
    assert_eq!(next(&Observed { tree: false, ..well() }, settled), "DataLost");
}

#[test]
fn nothing_is_left_of_one_that_goes() {
    let going = Standing { deleting: true, provisioned: true, ..Standing::default() };
    let mut observed = well();
    let mut steps = Vec::new();
    loop {
        let step = next(&observed, going);
        match step.as_str() {
            "close" => observed.route = Route::default(),
            "stop" => (observed.copier.unit, observed.lake.unit) = (Unit::Stopped, Unit::Stopped),
            "forget" => observed.inside = Some(Inside::default()),
            "remove" => {
                let inside = observed.inside;
                observed = Observed { server: Server::Up, inside, ..Observed::default() };
            }
            _ => {}
        }
        let is_last = step == "gone" || steps.len() > 9;
        steps.push(step);
        if is_last {
            break;
        }
    }
    assert_eq!(steps, ["close", "stop", "forget", "remove", "gone"]);
    // One whose server goes too leaves nothing in it.
    let gone = Observed { server: Server::Gone, inside: None, route: Route::default(), ..well() };
    assert_eq!(next(&gone, going), "stop");
    let stopped = Process { declared: Seen::Same, unit: Unit::Stopped };
    assert_eq!(next(&Observed { copier: stopped.clone(), lake: stopped, ..gone }, going), "remove");
}

/// A stream from elsewhere, and all of it as it should be.
fn elsewhere() -> (Spec, Observed) {
    let from = Origin::Elsewhere(Elsewhere { secret: "LEGACY_URL".parse().expect("a name"), ca: None });
    let wish = Wish { from: Some(from), ..Wish::default() };
    let spec = resolve(&wish, None, &Offer::default()).expect("a spec");
    (spec, Observed { server: Server::Elsewhere, inside: None, ..well() })
}

#[test]
fn one_from_elsewhere_waits_for_its_secret() {
    let (spec, observed) = elsewhere();
    assert_eq!(plan(&spec, &observed, Standing::default()), Decision::Settled);
    let url = "LEGACY_URL".parse::<component::function::Variable>().unwrap();
    for (unknown, said) in [
        (Unknown::Unset(url.clone()), "there is no secret LEGACY_URL; set it with"),
        (
            Unknown::Unfit(url, "names no host".into()),
            "the secret LEGACY_URL names no host; set it again with",
        ),
    ] {
        let observed = Observed { unknown: Some(unknown), ..observed.clone() };
        match plan(&spec, &observed, Standing::default()) {
            Decision::Blocked(condition) => {
                assert_eq!(condition.kind, ConditionKind::SecretMissing);
                assert!(
                    condition.message.contains(said)
                        && condition.message.contains("stead secret set LEGACY_URL")
                );
            }
            other => panic!("{other:?}"),
        }
    }
    // The same server with another authority is the same; another secret is another server.
    let with = |secret: &str, ca: Option<&str>| {
        let ca = ca.map(|ca| ca.parse().unwrap());
        let from = Origin::Elsewhere(Elsewhere { secret: secret.parse().unwrap(), ca });
        resolve(&Wish { from: Some(from), ..Wish::default() }, Some(&spec), &Offer::default())
    };
    assert_eq!(with("LEGACY_URL", Some("CA")).unwrap().from.secrets().count(), 2);
    assert_eq!(with("OTHER_URL", None).unwrap_err().field, "from");
    assert_eq!(resolve(&wish(), Some(&spec), &Offer::default()).unwrap_err().field, "from");
}

#[test]
fn what_is_left_elsewhere_is_taken_away_or_told() {
    let going = Standing { deleting: true, provisioned: true, ..Standing::default() };
    let (spec, observed) = elsewhere();
    let observed = Observed { route: Route::default(), ..observed };
    let after = |leaving: Leaving, unit: Unit| {
        let copier = Process { declared: Seen::Differs, unit };
        plan(&spec, &Observed { leaving, copier, ..observed.clone() }, going)
    };
    let label = |decision: Decision| match decision {
        Decision::Act(step) => step.label(),
        other => format!("{other:?}"),
    };
    assert_eq!(label(after(Leaving::Unasked, Unit::Running)), "leave");
    assert!(matches!(after(Leaving::UnderWay, Unit::Running), Decision::Wait { .. }));
    // Whoever ended it meanwhile.
    assert_eq!(label(after(Leaving::UnderWay, Unit::Stopped)), "leave");
    assert_eq!(label(after(Leaving::Done, Unit::Running)), "stop");
    let left = Leaving::Remains("a slot".into());
    assert_eq!(label(after(left.clone(), Unit::Running)), "stop");
    let stopped = Process { declared: Seen::Same, unit: Unit::Stopped };
    let ended = Observed { leaving: left, copier: stopped.clone(), lake: stopped, ..observed.clone() };
    assert_eq!(
        plan(&spec, &ended, going),
        Decision::Act(component::Step::Transfer(Step::Remove(Some("a slot".into()))))
    );
    // One that never ran, and one that is no stream, leave nothing there.
    let never = Process { declared: Seen::Absent, unit: Unit::Absent };
    assert_eq!(label(plan(&spec, &Observed { copier: never, ..observed.clone() }, going)), "stop");
    assert_eq!(label(plan(&Spec { mode: Mode::Snapshot, ..spec }, &observed, going)), "stop");
}

fn into_a_bucket(place: &str) -> Wish {
    Wish {
        to: Some(Bucket {
            bucket: place.parse().expect("a place"),
            region: "eu-central-1".parse().ok(),
            endpoint: None,
            key: "LAKE_KEY".parse().expect("a name"),
            secret: "LAKE_SECRET".parse().expect("a name"),
            ca: None,
        }),
        ..wish()
    }
}

#[test]
fn a_bucket_stays_where_it_is_and_is_nobody_elses() {
    let resolved = |wish: &Wish, current: Option<&Spec>| resolve(wish, current, &Offer::default());
    let spec = resolved(&into_a_bucket("s3://acme/a"), None).unwrap();
    assert_eq!(spec.secrets().map(ToString::to_string).collect::<Vec<_>>(), ["LAKE_KEY", "LAKE_SECRET"]);
    assert!(spec.allow.is_empty() && spec.memory_mib() < self::spec().memory_mib());
    let mut mirror = into_a_bucket("s3://acme/a");
    mirror.to.as_mut().unwrap().endpoint = "https://minio".parse().ok();
    for (wish, current, said) in [
        (wish(), &spec, "writes to s3://acme/a and cannot write elsewhere later"),
        (mirror, &spec, "writes to s3://acme/a and cannot write elsewhere later"),
        (into_a_bucket("s3://acme/b"), &spec, "writes to s3://acme/a and cannot write elsewhere later"),
        (
            into_a_bucket("s3://acme/a"),
            &self::spec(),
            "writes to the stead's own lake and cannot write elsewhere",
        ),
    ] {
        let refused = resolved(&wish, Some(current)).unwrap_err();
        assert!(refused.field == "to" && refused.message.contains(said), "{}", refused.message);
    }
    // How it is reached may change, and what is not named stays.
    let mut again = into_a_bucket("s3://acme/a");
    let to = again.to.as_mut().unwrap();
    (to.key, to.region) = ("OTHER".parse().unwrap(), "eu-west-1".parse().ok());
    assert_eq!(resolved(&again, Some(&spec)).unwrap().to, again.to);
    let asked = Wish { every: Some("5m".parse().unwrap()), ..Wish::default() };
    let amended = amend(&asked, &BTreeSet::from(["every"]), &spec, &Offer::default()).unwrap();
    assert_eq!((amended.every.as_secs(), &amended.to), (300, &spec.to));

    let mut without = into_a_bucket("s3://acme/a");
    without.to.as_mut().unwrap().region = None;
    assert!(resolved(&without, None).unwrap_err().message.contains("names no region"));
    let allows = Wish { allow: Some(Vec::new()), ..into_a_bucket("s3://acme/a") };
    assert_eq!(resolved(&allows, None).unwrap_err().field, "allow");

    let fit = |places: &[&str]| {
        let transfers = places.iter().zip(["a", "b", "c"]).map(|(place, local)| {
            let spec = resolved(&into_a_bucket(place), None).unwrap();
            let from = Origin::Elsewhere(Elsewhere { secret: "URL".parse().unwrap(), ca: None });
            (name(&format!("transfer.{local}")), component::Spec::Transfer(Spec { from, ..spec }))
        });
        component::fit(&transfers.collect()).map_err(|(name, refused)| format!("{name} {}", refused.message))
    };
    assert_eq!(fit(&["s3://acme/a", "s3://acme/b", "s3://acme-2/a"]), Ok(()));
    let said = fit(&["s3://acme/a", "s3://acme/b", "s3://acme/a/c"]).unwrap_err();
    assert_eq!(
        said,
        "transfer.c is in a place of transfer.a, which writes to s3://acme/a; name another, beside it"
    );
}

#[test]
fn a_transfer_into_a_bucket_has_no_lake_to_be_asked() {
    let spec = resolve(&into_a_bucket("s3://acme/a"), None, &Offer::default()).unwrap();
    let without = Observed { lake: Process::default(), route: Route::default(), ..well() };
    let settled = Standing { provisioned: true, settled: true, ..Standing::default() };
    assert_eq!(plan(&spec, &without, settled), Decision::Settled);
    assert!(
        component::drift(
            &component::Spec::Transfer(spec.clone()),
            &component::Observed::Transfer(without.clone())
        )
        .is_empty()
    );
    let gone = Process { declared: Seen::Same, unit: Unit::Stopped };
    let ended = Observed { copier: gone, server: Server::Gone, inside: None, ..without };
    let going = Standing { deleting: true, provisioned: true, ..Standing::default() };
    let left = Step::Remove(Some("its tables are left in s3://acme/a".into()));
    assert_eq!(plan(&spec, &ended, going), Decision::Act(component::Step::Transfer(left)));
}
