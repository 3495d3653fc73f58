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

#[test]
fn scratch() {
    let home = Home::new();
    for (n, program) in [
        vec!["/usr/bin/node", "-e", "const os=require('os');console.log(process.version, os.cpus().length, os.totalmem(), os.availableParallelism(), os.userInfo(), os.networkInterfaces(), os.tmpdir(), os.uptime(), os.freemem(), process.memoryUsage().rss)"],
        vec!["/usr/bin/python3", "-c", "import os,ssl,socket,multiprocessing;print(os.cpu_count(), os.getcwd(), os.listdir('/'), os.listdir('/proc'), ssl.get_default_verify_paths(), len(ssl.create_default_context().get_ca_certs())); multiprocessing.Lock(); print(open('/proc/self/status').read(), open('/proc/self/mountinfo').read(), open('/proc/self/uid_map').read())"],
    ].iter().enumerate() {
        let mut worker = Started::running(&home, &format!("w-{n}"), program);
        let began = std::time::Instant::now();
        worker.ready();
        println!("{:?}", began.elapsed());
        println!("{:?} {:?}", worker.groups(), worker.ended());
        println!("{}\n{}", worker.output(), worker.errors());
    }
    home.finish();
}
