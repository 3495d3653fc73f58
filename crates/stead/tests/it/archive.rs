//! The archive: what a server wrote is in the store, whoever is killed and whatever the store does.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use test_support::{Fault, S3};

use crate::backups::{EVERYTHING, load, pgbench, witnessed};
use crate::installation::{Installation, text, until};
use crate::story::{Story, Writer, ask, kill};

#[test]
fn a_data_directory_that_is_lost_costs_what_was_not_stored_yet() {
    let mut stead = Installation::new();
    stead.environment.push(("STEAD_BACKUP_AGE".into(), "1s".into()));
    stead.start();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    ask(&url, "create table written (n int)").unwrap();
    story.backed_up("postgres.main");
    let writer = Writer::start(&url, 0);
    until("the writer to write", || (writer.acknowledged() > 20).then_some(()));
    // What is stored by now is stored for good.
    let stored = writer.acknowledged();
    let moment = ask(&url, "select (extract(epoch from clock_timestamp()) * 1000)::int8").unwrap();
    let archive = story.archive();
    until("that to be stored", || newest_piece(&archive).filter(|at| *at > moment));
    // The archiver is killed as well, and what it had in its hands is gone with the server.
    for pid in stead.pids("archiver --home") {
        kill(pid);
    }
    stead.kill_server_of(&story.tree());
    let data = story.tree().join("data");
    until("the data to be gone", || {
        stead.kill_server_of(&story.tree());
        std::fs::remove_dir_all(&data).is_ok().then_some(())
    });
    let acknowledged = writer.stop();
    let said = story.condition("data_lost");
    assert!(said.contains("restore a backup"), "{said}");
    story.ok(&["restore", "postgres.main", "--at", "0s"]);
    story.ok(&["swap", "postgres.main", "postgres.main-restored", "--yes"]);
    let kept: i64 = ask(&url, "select count(distinct n) from written").unwrap().parse().unwrap();
    eprintln!("of {acknowledged} acknowledged {} were lost", acknowledged - kept);
    assert!(kept >= stored, "{kept} of {stored}");
    assert!(kept <= acknowledged + 1);
    let gaps = "select max(n) - count(distinct n) from written";
    assert_eq!(ask(&url, gaps).unwrap(), "0", "without a hole");
    stead.finish();
}

#[test]
fn killed_and_refused_all_the_while_the_archive_has_no_hole() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    story.backed_up("postgres.main");
    assert!(pgbench(&url, &["-i", "-q", "-s", "2"]).status().unwrap().success());
    let mut clients = load(&url);
    let archive = story.archive();
    for _ in 0..6 {
        let before = newest_piece(&archive);
        for pid in stead.pids("archiver --home") {
            kill(pid);
        }
        until("the archive to go on", || newest_piece(&archive).filter(|_| newest_piece(&archive) > before));
    }
    // A store that takes nothing, as a full one: the server goes on, and its log waits for it.
    let wal = archive.join("wal/00000001");
    let closed = |mode: u32| {
        std::fs::set_permissions(&wal, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    closed(0o500);
    let before = newest_piece(&archive);
    let count = || ask(&url, "select count(*) from pgbench_history").unwrap().parse::<i64>().unwrap();
    let then = count();
    until("the server to go on without its store", || (count() > then + 500).then_some(()));
    until("that to be told", || {
        let log = std::fs::read_to_string(stead.home.join("logs/archiver.log")).unwrap();
        log.contains("an archive does not go on").then_some(())
    });
    assert_eq!(newest_piece(&archive), before);
    closed(0o700);
    let (at, sum) = witnessed(&url);
    clients.kill().unwrap();
    clients.wait().unwrap();
    story.ok(&["restore", "postgres.main", "--at", &at]);
    assert_eq!(ask(&story.url_of("postgres.main-restored"), EVERYTHING).unwrap(), sum);
    stead.finish();
}

/// Every third request goes wrong, and each takes its time; then there is no room; then the host is lost.
#[test]
fn on_s3_whatever_the_network_does() {
    let s3 = S3::start();
    let mut stead = Installation::new();
    let settings = [("STEAD_BACKUPS", "s3://bucket/some/where"), ("STEAD_BACKUP_AGE", "1s")];
    let all = settings.into_iter().chain(s3.environment());
    stead.environment.extend(all.map(|(name, value)| (name.to_owned(), value.to_owned())));
    s3.fail_every(3);
    s3.slow(Duration::from_millis(20));
    stead.start();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    story.backed_up("postgres.main");
    assert!(pgbench(&url, &["-i", "-q", "-s", "1"]).status().unwrap().success());
    let mut clients = load(&url);
    let count = || ask(&url, "select count(*) from pgbench_history").unwrap().parse::<i64>().unwrap();
    let further = || {
        let then = count();
        until("the load to go on", || (count() > then + 300).then_some(()));
    };
    further();
    let first = witnessed(&url);
    for pid in stead.pids("archiver --home") {
        kill(pid);
    }
    // Slower than the log is written.
    s3.slow(Duration::from_secs(2));
    further();
    s3.slow(Duration::from_millis(20));
    further();
    s3.fail(Fault::Full, u32::MAX);
    let second = witnessed(&url);
    further();
    let handle = story.handle();
    until("that to be told", || {
        let trouble = archiver(&stead, "server", &handle)?["trouble"]["why"].as_str()?.to_owned();
        trouble.contains("507").then_some(())
    });
    further();
    let third = witnessed(&url);
    s3.fail(Fault::Full, 0);
    for (name, (at, sum)) in [("first", first), ("second", second), ("third", third)] {
        story.ok(&["restore", "postgres.main", "--at", &at, "--as", name]);
        assert_eq!(ask(&story.url_of(&format!("postgres.{name}")), EVERYTHING).unwrap(), sum, "{name}");
        story.ok(&["drop", &format!("postgres.{name}"), "--yes"]);
    }
    clients.kill().unwrap();
    clients.wait().unwrap();
    let sum = ask(&url, EVERYTHING).unwrap();
    let key = stead.folder().join("installation.key");
    std::fs::copy(stead.home.join("keys/installation.key"), &key).unwrap();
    let folder = story.folder;
    stead.ok(&["server", "stop", "--all"]);
    let mut stead = stead.lost();
    let recovered = stead.run(&["recover", "--backups", settings[0].1, "--key", key.to_str().unwrap()]);
    assert!(recovered.status.success(), "{}", text(&recovered.stderr));
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.settled();
    assert_eq!(ask(&url, EVERYTHING).unwrap(), sum);
    stead.finish();
}

/// When the newest piece of an archive's log came, milliseconds.
pub(crate) fn newest_piece(archive: &std::path::Path) -> Option<String> {
    let pieces = std::fs::read_dir(archive.join("wal/00000001")).ok()?;
    let times = pieces.flatten().filter_map(|piece| {
        Some(piece.file_name().to_str()?.strip_suffix(".zst.age")?.rsplit('-').next()?.to_owned())
    });
    times.max()
}

/// Points that the archiver passes: how many are let pass, so that each process of it gets a little further.
const ARCHIVER: [(&str, u32); 8] = [
    ("archiver::introduced", 0),
    ("archiver::slot-made", 0),
    ("archiver::base-part-stored", 0),
    ("archiver::base-stored", 0),
    ("archiver::base-listed", 0),
    ("archiver::piece-stored", 2),
    ("archiver::prune-unlisted", 0),
    ("archiver::pruned", 0),
];

#[test]
fn every_fail_point_of_the_archiver_is_driven() {
    let mut found = std::collections::BTreeSet::new();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../archiver/src");
    crate::crash::fail_points(&source, &mut found);
    let driven: std::collections::BTreeSet<_> =
        ARCHIVER.iter().map(|(point, _)| (*point).to_owned()).collect();
    assert_eq!(found, driven);
}

#[test]
fn the_archiver_killed_at_each_of_its_points() {
    killed_at(&ARCHIVER[..4]);
}

#[test]
fn the_archiver_killed_at_each_of_its_later_points() {
    killed_at(&ARCHIVER[4..]);
}

/// Whoever dies at whatever point: what comes back is what was there, and what is no longer kept goes.
fn killed_at(points: &[(&str, u32)]) {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "backup = { keep = 2 }\n");
    let (url, folder, handle) = (story.url(), story.folder.clone(), story.handle());
    story.backed_up("postgres.main");
    let archive = story.archive();
    ask(&url, "create table t (n int)").unwrap();
    for (number, &(point, passed)) in points.iter().enumerate() {
        stead.kill_server();
        if point == "archiver::introduced" {
            // As of a server that is new to the store.
            std::fs::remove_file(archive.join("archive.json")).unwrap();
        }
        stead.spawn(&[("STEAD_ARCHIVER_FAILPOINTS", &format!("{point}={passed}*off->return"))]);
        until("the control plane", || stead.running());
        let spool = stead.home.join("spool/keeper.jsonl");
        let deaths = || {
            let spool = std::fs::read_to_string(&spool).unwrap();
            spool.lines().filter(|line| line.contains("\"archiver\"") && line.contains("signal 6")).count()
        };
        let before = deaths();
        until(&format!("the archiver to die at {point}"), || {
            let _ = ask(&url, &format!("insert into t values ({number})"));
            if point == "archiver::slot-made" {
                // As after a log that was longer than a slot may keep it. Another archiver may be quicker with a new one.
                for pid in stead.pids("archiver --home") {
                    kill(pid);
                }
                let tree = stead.home.join("servers").join(&handle);
                let _ =
                    stead.ask_server(&tree, "postgres", "select pg_drop_replication_slot('stead_archive')");
            }
            // Also of a backup, where it comes so far.
            let _ = archiver(&stead, "backup", &handle);
            (deaths() > before).then_some(())
        });
        stead.kill_server();
        stead.start();
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.settled();
        let sum = "select count(*), sum(n), max(n) from t";
        let was = ask(&url, sum).unwrap();
        // What was written while there was no slot is in no log: it takes a backup that is made after it.
        let now = jiff::Timestamp::now();
        until("a complete backup", || {
            let status = archiver(&stead, "backup", &handle)?;
            let newest = status["bases"].as_array()?.last()?["stopped_at"].as_str()?.parse().ok();
            (status["streaming"] == true && newest > Some(now)).then_some(())
        });
        let name = format!("copy{number}");
        story.ok(&["clone", "postgres.main", "--as", &name]);
        assert_eq!(ask(&story.url_of(&format!("postgres.{name}")), sum).unwrap(), was, "{point}");
        story.ok(&["drop", &format!("postgres.{name}"), "--yes"]);
    }
    // Two of those that were not made just now are kept, and what was left of others is removed with the next.
    until("what is not kept to be gone", || {
        let bases = std::fs::read_dir(archive.join("base")).unwrap().flatten();
        let listed: Vec<_> =
            bases.map(|base| base.path().join("backup.json")).filter(|path| path.exists()).collect();
        if listed.len() <= 3 {
            return Some(());
        }
        // As if they had been made long ago.
        for path in listed {
            let mut base: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            base["stopped_at"] = "2001-01-01T00:00:00Z".into();
            let _ = std::fs::write(&path, base.to_string());
        }
        archiver(&stead, "backup", &handle);
        None
    });
    stead.finish();
}

/// Asks the archiver something of a server; how the archive stood just then.
fn archiver(stead: &Installation, asked: &str, handle: &str) -> Option<Value> {
    use std::io::{BufRead, BufReader, Write};
    let mut stream =
        std::os::unix::net::UnixStream::connect(stead.home.join("archiver/archiver.sock")).ok()?;
    writeln!(stream, "{{\"op\": \"{asked}\", \"name\": \"{handle}\"}}").ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    Some(serde_json::from_str::<Value>(&answer).ok()?["server"].clone()).filter(Value::is_object)
}
