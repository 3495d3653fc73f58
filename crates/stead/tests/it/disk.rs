//! A disk that fills up, and an engine that goes away.

use std::process::Command;

use crate::installation::{Installation, until};
use crate::story::Story;

/// A small file system of the test's own; unmounted at the end, whatever happens.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("st-").tempdir_in("/tmp").unwrap();
        let options = format!("size={size},mode=755");
        let mut mount = Command::new("mount");
        let made = mount.args(["-t", "tmpfs", "-o", &options, "stead-test"]).arg(folder.path()).status();
        assert!(made.unwrap().success());
        Self(folder)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

#[test]
fn a_disk_that_fills_up_and_is_emptied_again() {
    // Declared first, because it has to go last.
    let mount = Mount::new("600m");
    let mut stead = Installation::new();
    stead.home = mount.0.path().join("h");
    stead.start();
    let story = Story::up(&stead, "shop", "");
    let filler = stead.home.join("filler");
    let disk = rustix::fs::statvfs(&stead.home).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let fill = Command::new("fallocate").args(["-l", &(free - (20 << 20)).to_string()]).arg(&filler).status();
    assert!(fill.unwrap().success());
    until("the server to be read-only", || {
        let said = story.sql("insert into ran values ('more')").err()?;
        said.contains("read-only transaction").then_some(())
    });
    assert!(story.sql("select count(*) from ran").unwrap().parse::<i64>().unwrap() >= 2);
    story.look();
    let said = story.condition("disk_full");
    assert!(
        said.contains("nearly full") && said.contains("read-only") && said.contains("free some space"),
        "{said}"
    );
    // A new server is refused, with the reason; the control plane itself goes on.
    let other = Story::new(&stead, "other", "");
    let said = other.refused(&["up", "--yes"]);
    assert!(said.contains("bytes free") && said.contains("free some"), "{said}");
    other.condition("disk_full");
    std::fs::remove_file(&filler).unwrap();
    until("the server to be writable", || story.sql("insert into ran values ('after')").ok());
    until("the condition to go", || {
        stead.look();
        let conditions = story.component()["conditions"].as_array().unwrap().len();
        (conditions + other.component()["conditions"].as_array().unwrap().len() == 0).then_some(())
    });
    other.settled();
    assert_eq!(other.sql("select count(*) from ran").unwrap(), "2");
    let raised = story.lines("condition.raised");
    assert!(raised.iter().any(|line| line.to_string().contains("disk_full")), "{raised:#?}");
    stead.finish();
}

#[test]
fn an_engine_that_is_gone_from_the_host() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "engine = 16\n");
    let (url, folder) = (story.url(), story.folder.clone());
    stead.kill_server();
    // Only the control plane sees it gone; what runs goes on.
    let engine = std::env::var("STEAD_ENGINES").unwrap_or_else(|_| "/var/lib/stead/engines".into());
    stead.spawn_in(&[
        "unshare",
        "-m",
        "sh",
        "-c",
        &format!("mount -t tmpfs none {engine}/16 && exec \"$@\""),
        "-",
    ]);
    stead.await_server();
    let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
    story.look();
    let said = story.condition("engine_missing");
    assert!(
        said.contains("engine 16 is not on this host any more") && said.contains("script/setup"),
        "{said}"
    );
    assert_eq!(crate::story::ask(&url, "select count(*) from ran").unwrap(), "2");
    assert!(story.lines("drift.found").is_empty());
    stead.kill_server();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    until("the condition to go", || {
        story.look();
        story.component()["conditions"].as_array().unwrap().is_empty().then_some(())
    });
    stead.finish();
}
