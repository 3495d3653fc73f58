//! A server's life: made, started, asked, stopped, removed; and what survives the keeper.

use crate::home::*;
use keeper::wire::*;

fn lives(major: u32) {
    let home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, major);
    assert_eq!(home.sql(&tree, "show server_version_num").parse::<u32>().unwrap() / 10000, major);
    home.stop(&unit);
    home.client.remove_unit(&unit.name).unwrap();
    home.client.remove_tree(&tree).unwrap();
    home.finish();
}

#[test]
fn a_server_lives_on_debians_engine() {
    lives(15);
}

#[test]
fn a_server_lives_on_an_engine_of_its_own_folder() {
    lives(18);
}

#[test]
fn a_killed_keeper_leaves_servers_running_and_takes_them_up_again() {
    let mut home = Home::new();
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    let started = home.sql(&tree, "select pg_postmaster_start_time()");
    home.kill_keeper();
    assert_eq!(home.sql(&tree, "select pg_postmaster_start_time()"), started);
    home.start();
    assert_eq!(home.pid("pg-one"), pid);
    assert_eq!(home.apply(&unit).unwrap().state, UnitState::Running);
    assert_eq!(home.sql(&tree, "select pg_postmaster_start_time()"), started);
    home.stop(&unit);
    home.finish();
}
