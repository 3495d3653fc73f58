//! What the sandbox costs: a start through the keeper beside a bare spawn of the same program.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::home::*;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Prints its figures (`cargo nextest run -p keeper launch --no-capture`); asserts only what no busy
/// machine can miss.
#[test]
fn a_start_costs_little_more_than_a_bare_spawn() {
    const ROUNDS: u64 = 20;
    let home = Home::new();
    let tree = server("one");
    let mut unit = home.running("pg-one", &tree, 15);
    let (mut kept, mut bare, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        home.stop(&unit);
        unit.generation += 2;
        home.client.declare(&unit).unwrap();
        let began = Instant::now();
        home.client.apply(&unit.name).unwrap();
        kept.push(began.elapsed());
        let began = Instant::now();
        home.client.unit(&unit.name).unwrap();
        calls.push(began.elapsed());
        let began = Instant::now();
        let mut child =
            Command::new(bin(15).join("postgres")).arg("--version").stdout(Stdio::null()).spawn().unwrap();
        bare.push(began.elapsed());
        child.wait().unwrap();
        assert!(round <= ROUNDS);
    }
    let (kept, bare, call) = (median(kept), median(bare), median(calls));
    println!("start through the keeper {kept:?}, of which the call {call:?}; bare spawn {bare:?}");
    assert!(kept < bare + Duration::from_millis(250), "{kept:?} {bare:?}");
    home.finish();
}
