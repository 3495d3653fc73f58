//! From any state whatever, the plan comes to an end, and to the right one.

use component::postgres::{Step, drift, plan};
use component::{ConditionKind, Decision, Standing};

use crate::world::World;

/// More steps than the longest way can have: every step of a creation, two rounds of restart, and a wait
/// after each.
const MOST: usize = 60;

/// Where a world came to, and the steps on the way.
fn run(world: &mut World, deleting: bool) -> (Decision, Vec<Step>) {
    let mut steps = Vec::new();
    for _ in 0..MOST {
        let standing = Standing { deleting, provisioned: world.provisioned, ..Standing::default() };
        match plan(&world.spec, &world.seen, standing) {
            Decision::Act(component::Step::Postgres(step)) => {
                let before = world.seen.clone();
                world.act(&step);
                assert_ne!(before, world.seen, "{step:?} changed nothing, and would be planned for ever");
                steps.push(step);
            }
            Decision::Wait { .. } => world.tick(),
            end => return (end, steps),
        }
    }
    panic!("no end after {steps:?}; now {:?}", world.seen);
}

/// What must be the end, judged by the state at the beginning.
fn expected(world: &World) -> Option<ConditionKind> {
    let lost = !(world.seen.tree && world.seen.data);
    if !world.seen.engine_present {
        return Some(ConditionKind::EngineMissing);
    }
    if lost {
        return world.provisioned.then_some(ConditionKind::DataLost);
    }
    if world.config_error() && world.seen.files == component::postgres::Seen::Same {
        return Some(ConditionKind::Crashing);
    }
    // What ran must be a beginning of what is wanted.
    let ran = world.applied();
    (ran.len() > world.spec.schema.len() || *ran != world.spec.schema[..ran.len()])
        .then_some(ConditionKind::MigrationEdited)
}

#[test]
fn every_state_converges() {
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..3_000 {
        let mut world = World::random(seed);
        let expected = expected(&world);
        let provisioned = world.provisioned;
        let (end, steps) = run(&mut world, false);
        assert!(
            !(provisioned && steps.contains(&Step::Claim)),
            "seed {seed} claimed anew what was lost: {steps:?}"
        );
        assert!(
            !steps.iter().any(|s| matches!(s, Step::CloseRoute | Step::Remove | Step::Stop)),
            "seed {seed}: {steps:?}"
        );
        let kind = match end {
            Decision::Settled => {
                assert_eq!(drift(&world.spec, &world.seen), [], "seed {seed} settled with drift");
                let session = world.seen.session.as_ref().expect("a session");
                assert_eq!(session.applied, world.spec.schema, "seed {seed}");
                assert!(world.seen.route.in_force, "seed {seed} settled with its door shut");
                None
            }
            Decision::Blocked(condition) => Some(condition.kind),
            other => panic!("seed {seed} ended in {other:?}"),
        };
        assert_eq!(kind, expected, "seed {seed}: {steps:?}");
        *ends.entry(format!("{kind:?}")).or_insert(0) += 1;
    }
    // A run in which an end never came about would prove nothing about it.
    assert_eq!(ends.len(), 5, "{ends:?}");
}

#[test]
fn every_state_can_be_deleted() {
    for seed in 0..3_000 {
        let mut world = World::random(seed);
        let (end, steps) = run(&mut world, true);
        assert_eq!(end, Decision::Gone, "seed {seed}: {steps:?}");
        let only = |s: &Step| matches!(s, Step::CloseRoute | Step::Stop | Step::Remove);
        assert!(steps.iter().all(only), "seed {seed}: {steps:?}");
        let door = steps.iter().position(|s| *s == Step::CloseRoute);
        assert!(door.is_none_or(|at| at == 0), "seed {seed} stopped before it shut the door: {steps:?}");
    }
}

#[test]
fn a_deletion_half_way_can_be_resumed_anywhere() {
    for seed in 0..300 {
        let mut world = World::random(seed);
        for _ in 0..seed % 5 {
            match plan(
                &world.spec,
                &world.seen,
                Standing { deleting: true, provisioned: true, settled: true, ..Standing::default() },
            ) {
                Decision::Act(component::Step::Postgres(step)) => {
                    world.act(&step);
                    world.act(&step);
                }
                _ => world.tick(),
            }
        }
        assert_eq!(run(&mut world, true).0, Decision::Gone, "seed {seed}");
    }
}
