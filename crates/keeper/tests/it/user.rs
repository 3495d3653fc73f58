//! A keeper that is not root: the same behaviour, without users, namespaces and limits.

use crate::home::*;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_keeper_that_is_not_root_runs_servers_as_its_own_user() {
    // A user that every Debian has and nobody uses: initdb wants one with a name.
    let uid = 34;
    let mut home = Home::of_user(uid);
    home.start();
    let host = home.host();
    assert!(!host.isolated && !home.client.host().unwrap().isolated);
    let tree = server("one");
    let unit = home.running("pg-one", &tree, 15);
    assert_eq!(home.uid(&tree), uid);
    home.sql(&tree, "create table t as select 1 as a; checkpoint");
    let pid = home.pid("pg-one");
    home.restart_keeper();
    assert_eq!(home.pid("pg-one"), pid);
    // Backends do not outlive their server, even when they are busy and the keeper is not its parent.
    let mut client = std::process::Command::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-U", "postgres", "-d", "postgres", "-c", "select pg_sleep(600)", "-h"])
        .arg(home.dir(&tree).join("run"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let sleeping =
        "select count(*) from pg_stat_activity where query like '%sleep(600)%' and pid <> pg_backend_pid()";
    until("the client sleeps", || (home.sql(&tree, sleeping) == "1").then_some(()));
    let before: Vec<i32> = home.processes().into_iter().map(|(pid, _)| pid).collect();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    until("its backends are gone", || {
        let now = home.processes();
        before.iter().all(|pid| now.iter().all(|(other, _)| other != pid)).then_some(())
    });
    client.wait().unwrap();
    home.until_answers(&tree);
    assert_eq!(home.sql(&tree, "select a from t"), "1");
    home.stop(&unit);
    home.client.remove_unit(&unit.name).unwrap();
    home.client.remove_tree(&tree).unwrap();
    home.finish();
}
