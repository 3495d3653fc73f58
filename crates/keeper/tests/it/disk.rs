//! A disk that fills up: servers become read-only before it is full, survive it being full, recover.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::home::*;
use keeper::ClientError;
use keeper::wire::*;

const MIB: u64 = 1024 * 1024;

fn free(path: &Path) -> u64 {
    let disk = rustix::fs::statvfs(path).unwrap();
    disk.f_bavail * disk.f_frsize
}

/// Writes zeros until this much is free, or nothing any more.
fn fill(home: &Path, leave: u64) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(home.join("fill")).unwrap();
    while free(home) > leave {
        let chunk = (free(home) - leave).min(MIB);
        if file.write_all(&vec![0; usize::try_from(chunk).unwrap()]).is_err() {
            return;
        }
    }
}

#[test]
fn servers_are_read_only_before_the_disk_is_full_and_survive_when_it_is() {
    let empty = Home::empty();
    rustix::mount::mount(
        "tmpfs",
        &empty.path,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        c"size=256m,mode=0755",
    )
    .unwrap();
    let (low, high, reserve) = (40 * MIB, 60 * MIB, 16 * MIB);
    let args = [low, high, reserve].map(|bytes| bytes.to_string());
    let mut home = empty.with(&["--low", &args[0], "--high", &args[1], "--reserve", &args[2]]);
    home.start();
    let (tree, other) = (server("one"), server("two"));
    home.running("pg-one", &tree, 15);
    home.client.create_tree(&other).unwrap();
    home.sql(&tree, "create table t (a int); insert into t values (1)");
    let reserve_there = || home.path.join("keeper/reserve").exists();
    let disk = || home.client.host().unwrap().disk;
    until("the reserve is there", || reserve_there().then_some(()));
    assert!(!disk().read_only);
    let read_only = || home.sql(&tree, "show default_transaction_read_only");

    // Almost full.
    fill(&home.path, low - 4 * MIB);
    until("it is read-only", || (read_only() == "on").then_some(()));
    assert!(disk().read_only && disk().free_bytes < low);
    let refused = home.psql(&tree, "insert into t values (2)");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("read-only transaction"));
    assert_eq!(home.sql(&tree, "select count(*) from t"), "1");
    assert!(reserve_there());
    let ClientError::Refused(refusal) = home.client.create_tree(&server("three")).unwrap_err() else {
        panic!("not refused")
    };
    assert_eq!(refusal.reason, Reason::DiskFull);
    assert!(refusal.message.contains("bytes free"), "{refusal}");
    // What exists already is found, full or not.
    home.client.create_tree(&other).unwrap();

    // Really full: the reserve is given up, and a killed server comes back.
    fill(&home.path, 0);
    until("the reserve is given up", || (!reserve_there()).then_some(()));
    assert_eq!(home.sql(&tree, "select count(*) from t"), "1");
    let pid = rustix::process::Pid::from_raw(home.pid("pg-one")).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("it has been started again", || {
        (home.client.unit(&name("pg-one")).unwrap()?.restarts > 0).then_some(())
    });
    home.until_answers(&tree);
    assert_eq!(read_only(), "on");

    // Room again.
    fs::remove_file(home.path.join("fill")).unwrap();
    until("it is writable", || (read_only() == "off").then_some(()));
    home.sql(&tree, "insert into t values (3)");
    until("the reserve is back", || reserve_there().then_some(()));
    assert!(!home.dir(&other).join("guard/read_only.conf").exists());
    let actions: Vec<_> = home.spool().into_iter().map(|line| line.action).collect();
    assert_eq!(actions.iter().filter(|action| *action == "disk.read_only").count(), 1);
    assert_eq!(actions.iter().filter(|action| *action == "disk.writable").count(), 1);
    home.finish();
}
