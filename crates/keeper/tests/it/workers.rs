//! Workers: made, claimed, ended, and nothing of them left.

use crate::home::*;
use crate::sandboxed::*;

#[test]
fn a_worker_waits_is_claimed_runs_and_ends() {
    let home = Home::new();
    let package = home.package(&[("hello.txt", "hello from the package")]);
    let mut worker = Started::waiting(&home, "w-1");
    worker.ready();
    worker.claim(&home, &package, &[8080]);
    let egress = worker.egress();
    assert_eq!(egress.len(), 1);
    worker.run(
        &["/bin/sh", "-c", "read line < /var/task/hello.txt; echo $line $WHO; id -u; exit 3"],
        &[("WHO", "you")],
    );
    assert_eq!(worker.ended(), (Some(3), None, false));
    let uid = home.host().uid_first + home.host().uid_count - 1024;
    assert_eq!(worker.output(), format!("hello from the package you\n{uid}\n"));
    home.finish();
}

#[test]
fn a_worker_is_stopped_whatever_it_does() {
    let home = Home::new();
    let mut sleeping =
        Started::running(&home, "w-1", &["/bin/sh", "-c", "trap '' TERM INT; sleep 600 & wait"]);
    sleeping.ready();
    let mut waiting = Started::waiting(&home, "w-2");
    waiting.ready();
    for worker in [&mut sleeping, &mut waiting] {
        home.client.stop_worker(&worker.name).unwrap();
        assert_eq!(worker.ended(), (None, Some(9), false));
    }
    home.client.stop_worker(&name("w-3")).unwrap();
    home.finish();
}
