//! Collecting: every line once, whatever happens to its file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use jiff::Timestamp;
use logs::{Collector, LONGEST_LINE, Owner, Owners, Search, Severity};
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::home::{ACME, BOLT, Home, asked, counted, find, line, look, messages, owners, tenant};

#[test]
fn what_is_written_is_found_by_its_tenant_alone() {
    let home = Home::new();
    home.write(ACME, [line(2, "LOG", "first"), line(1, "ERROR", "second")]);
    home.write(BOLT, [line(1, "LOG", "of bolt")]);
    let (store, mut collector) = home.collected();
    assert_eq!(messages(&store, ACME, ""), ["second", "first"]);
    assert_eq!(messages(&store, BOLT, ""), ["of bolt"]);
    let found = find(&store, &asked(ACME, "severity:error"));
    assert_eq!((found.len(), found[0].severity), (1, Severity::Error));
    assert_eq!(look(&mut collector).bytes, 0);
    home.write(ACME, [line(0, "LOG", "third")]);
    look(&mut collector);
    assert_eq!(messages(&store, ACME, ""), ["third", "second", "first"]);
}

#[test]
fn a_line_counts_when_it_is_whole() {
    let home = Home::new();
    let text = format!("{}\n", line(1, "LOG", "in two parts"));
    let (one, two) = text.split_at(30);
    home.file(ACME).write_all(one.as_bytes()).unwrap();
    let (store, mut collector) = home.collected();
    assert_eq!(messages(&store, ACME, ""), [""; 0]);
    home.file(ACME).write_all(two.as_bytes()).unwrap();
    look(&mut collector);
    assert_eq!(messages(&store, ACME, ""), ["in two parts"]);
}

/// Any bytes in lines come out as they were, in order, once: through small blocks, new starts, and being put together.
#[test]
fn any_lines_come_out_as_they_went_in() {
    for seed in 0..6 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let home = Home::new();
        let mut written: Vec<String> = Vec::new();
        for _ in 0..random.random_range(1..8) {
            let mut text = Vec::new();
            for _ in 0..random.random_range(0..100) {
                let line: Vec<u8> = match random.random_range(0..4) {
                    0 => {
                        let length = random.random_range(1..300);
                        (0..length).map(|_| random.random::<u8>()).filter(|b| *b != b'\n').collect()
                    }
                    1 => format!("plain text {}", random.random::<u64>()).into_bytes(),
                    _ => {
                        let words =
                            format!("says \"{}\" \\ \u{e9}\n{}", random.random::<u32>(), written.len());
                        line(random.random_range(0..300_000), "LOG", &words).to_string().into_bytes()
                    }
                };
                if !line.is_empty() {
                    text.extend_from_slice(&line);
                    text.push(b'\n');
                    written.push(String::from_utf8_lossy(&line).replace('\0', "\u{fffd}"));
                }
            }
            home.file(ACME).write_all(&text).unwrap();
            let (store, _) = home.collected();
            if random.random() {
                store.checkpoint(Timestamp::now()).unwrap();
            }
            if random.random() {
                let later = Timestamp::now() + jiff::SignedDuration::from_hours(48);
                store.checkpoint(later).unwrap();
                let day = later.to_zoned(jiff::tz::TimeZone::UTC).date();
                store.tidy(vec![tenant(ACME)], day, |_| Some(30)).unwrap();
            }
        }
        let (store, _) = home.collected();
        let mut lines = find(&store, &Search::all(tenant(ACME)));
        let newest_first = lines.is_sorted_by(|left, right| (left.at, left.id) > (right.at, right.id));
        assert!(newest_first, "seed {seed}");
        lines.sort_by_key(|line| line.id.offset);
        let read: Vec<String> = lines
            .iter()
            .map(|line| {
                line.fields
                    .get("text")
                    .map_or_else(|| line.fields.to_string(), |text| text.as_str().unwrap().to_owned())
            })
            .collect();
        let same = |written: &String| {
            serde_json::from_str::<serde_json::Value>(written)
                .ok()
                .filter(serde_json::Value::is_object)
                .map_or_else(|| written.clone(), |value| value.to_string())
        };
        let written: Vec<String> = written.iter().map(same).collect();
        assert_eq!(read, written, "seed {seed}");
    }
}

#[test]
fn a_file_that_is_emptied_and_used_again_is_another() {
    let home = Home::new();
    home.write(ACME, (0..50).map(|n| line(100 - n, "LOG", &format!("week one {n}"))));
    let (store, mut collector) = home.collected();
    let path = home.folder(ACME).join("postgresql-Sun.json");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    look(&mut collector);
    // Longer than it was, so that its length alone would not tell.
    home.write(ACME, (0..80).map(|n| line(40, "LOG", &format!("week two {n}"))));
    look(&mut collector);
    assert_eq!(counted(&store, tenant(ACME)).values().copied().collect::<Vec<_>>(), vec![1; 130]);
    drop((store, collector));
    let (store, _) = home.collected();
    assert_eq!(counted(&store, tenant(ACME)).len(), 130);
}

#[test]
fn a_file_that_is_renamed_is_the_same() {
    let home = Home::new();
    let gateway = |n: usize, server: &str| {
        let line = json!({"at": Timestamp::now(), "event": "close", "server": server, "message": format!("line {n}")});
        format!("{line}\n")
    };
    home.append("logs/gateway.jsonl", gateway(1, ACME) + &gateway(2, BOLT) + &gateway(3, ""));
    let (store, mut collector) = home.collected();
    let at = |name: &str| home.path().join("logs").join(name);
    // Rotated, with a last line that was written before the collector looked.
    home.append("logs/gateway.jsonl", gateway(4, ACME));
    fs::rename(at("gateway.jsonl"), at("gateway.jsonl.1")).unwrap();
    home.append("logs/gateway.jsonl", gateway(5, ACME));
    look(&mut collector);
    assert_eq!(messages(&store, ACME, "source:gateway"), ["line 5", "line 4", "line 1"]);
    assert_eq!(messages(&store, BOLT, ""), ["line 2"]);
    let own = counted(&store, Owner::Installation);
    assert_eq!(own.keys().collect::<Vec<_>>(), ["line 3"]);
    assert!(own.values().all(|count| *count == 1));
}

#[test]
fn a_line_waits_until_it_is_known_whose_it_is() {
    let home = Home::new();
    home.append(
        "spool/keeper.jsonl",
        format!(
            "{}\n",
            json!({"at": Timestamp::now(), "unit": format!("pg-{ACME}-2"),
        "action": "unit.killed", "message": "out of memory"})
        ),
    );
    home.write(ACME, [line(1, "LOG", "one")]);
    let store = home.store();
    let mut collector = Collector::new(home.path(), store.clone());
    let round = collector.round(&Owners::new(), Timestamp::now()).unwrap();
    assert!(round.unknown.contains(ACME));
    assert_eq!(messages(&store, ACME, ""), [""; 0]);
    assert_eq!(counted(&store, Owner::Installation).len(), 0);
    collector.round(&owners(), Timestamp::now()).unwrap();
    assert_eq!(messages(&store, ACME, "severity:warning"), ["out of memory"]);
    assert_eq!(messages(&store, ACME, "source:postgres"), ["one"]);
}

#[test]
fn a_line_of_ten_megabytes_is_cut_and_the_next_is_whole() {
    let home = Home::new();
    let said = line(2, "ERROR", "");
    // As PostgreSQL orders it: what may be long comes late.
    let long = format!(
        "{{\"timestamp\":{},\"error_severity\":\"ERROR\",\"message\":\"{}\"}}",
        said["timestamp"],
        "x".repeat(10_000_000)
    );
    let mut file = home.file(ACME);
    let (one, two) = long.split_at(6_000_000);
    file.write_all(one.as_bytes()).unwrap();
    let (store, mut collector) = home.collected();
    file.write_all(two.as_bytes()).unwrap();
    look(&mut collector);
    file.write_all(format!("\n{}\n", line(1, "LOG", "after it")).as_bytes()).unwrap();
    look(&mut collector);
    let found = find(&store, &asked(ACME, ""));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].message(), "after it");
    assert!(found[1].cut && found[1].message().len() == LONGEST_LINE);
    assert_eq!(found[1].severity, Severity::Error);
}

#[test]
fn links_and_pipes_are_no_logs() {
    let home = Home::new();
    home.write(BOLT, [line(1, "LOG", "secret of bolt")]);
    home.write(ACME, [line(1, "LOG", "own")]);
    let theirs = home.folder(BOLT).join("postgresql-Sun.json");
    symlink(&theirs, home.folder(ACME).join("postgresql-Mon.json")).unwrap();
    fs::create_dir(home.folder(ACME).join("postgresql-Tue.json")).unwrap();
    let pipe = home.folder(ACME).join("postgresql-Wed.json");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    // The control: who follows links reads it.
    assert!(fs::read_to_string(home.folder(ACME).join("postgresql-Mon.json")).unwrap().contains("secret"));
    let (store, _) = home.collected();
    assert_eq!(messages(&store, ACME, ""), ["own"]);
}

#[test]
fn a_time_that_cannot_be_is_not_believed() {
    let home = Home::new();
    for at in ["1970-01-01 00:00:00.000 UTC", "2999-01-01 00:00:00.000 UTC", "yesterday"] {
        home.write(ACME, [json!({"timestamp": at, "message": at})]);
    }
    let (store, _) = home.collected();
    let now = Timestamp::now().as_microsecond();
    let found = find(&store, &asked(ACME, ""));
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|line| (now - line.at).abs() < 60_000_000));
    let days = fs::read_dir(home.path().join("logs/store").join(tenant(ACME).to_string())).unwrap().count();
    assert!(days <= 2, "{days}");
}

#[test]
fn what_is_too_old_goes_and_so_does_a_tenant() {
    let home = Home::new();
    let day = 86_400;
    home.write(ACME, [line(20 * day, "LOG", "old"), line(day, "LOG", "new")]);
    home.write(BOLT, [line(1, "LOG", "of bolt")]);
    let (store, mut collector) = home.collected();
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let keep = |owner: Owner| (owner == tenant(ACME)).then_some(7);
    store.tidy(store.owners().unwrap(), today, keep).unwrap();
    assert_eq!(messages(&store, ACME, ""), ["new"]);
    assert_eq!(messages(&store, BOLT, ""), [""; 0]);
    assert!(!home.path().join("logs/store").join(tenant(BOLT).to_string()).exists());
    // What comes later is kept again.
    home.write(ACME, [line(0, "LOG", "newer")]);
    look(&mut collector);
    assert_eq!(messages(&store, ACME, ""), ["newer", "new"]);
}

#[test]
fn the_folder_of_somebody_else_is_not_taken() {
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), home.path().join("logs/store")).unwrap();
    let opened = logs::Store::open(&home.path().join("logs/store"), logs::Options::default());
    assert!(matches!(opened, Err(logs::Error::Foreign(_))));
}
