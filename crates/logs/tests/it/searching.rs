//! Searching: what is found is what matches, whatever way the blocks lie; what is withheld is found by nobody.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use logs::{Query, Search, Severity, Store, View};
use serde_json::json;

use crate::home::{ACME, Home, asked, find, line, look, messages, tenant};

/// Many lines, as big blocks with filters.
fn large() -> (Home, Arc<Store>) {
    let home = Home::new();
    let severities = ["LOG", "WARNING", "ERROR", "FATAL"];
    let lines = (0..6_000_i64).map(|n| {
        let message = format!("duration: {n} ms of \"orders\" by worker{} token{:x}", n % 7, n * 7919);
        line(6_000 - n, severities[usize::try_from(n % 4).unwrap()], &message)
    });
    home.write(ACME, lines);
    let (store, _) = home.collected();
    store.checkpoint(Timestamp::now() + SignedDuration::from_hours(48)).unwrap();
    let day = (Timestamp::now() + SignedDuration::from_hours(48)).to_zoned(jiff::tz::TimeZone::UTC).date();
    store.tidy(vec![tenant(ACME)], day, |_| Some(30)).unwrap();
    (home, store)
}

#[test]
fn a_search_finds_what_looking_at_every_line_finds() {
    let (_home, store) = large();
    let all = find(&store, &Search::all(tenant(ACME)));
    assert_eq!(all.len(), 6_000);
    for text in [
        "worker3",
        "WORKER3",
        "worker",
        "work*",
        "\"of \\\"orders\\\" by\"",
        "token7918",
        "token1eef",
        "/token1e.f/",
        "/^duration: 599\\d ms/",
        "severity:error worker5",
        "-worker1 -worker2 -severity:info",
        "pid:42 5000",
        "nothing",
        "pid:43",
        "component:postgres.main 7",
        "stead:other",
    ] {
        let query: Query = text.parse().unwrap();
        let expected: Vec<_> = all.iter().filter(|line| query.matches(line)).cloned().collect();
        assert_eq!(find(&store, &asked(ACME, text)), expected, "{text}");
    }
    // The control: they are not all alike.
    assert_eq!(messages(&store, ACME, "token1eef").len(), 1);
    assert!(messages(&store, ACME, "worker3").len() > 800);
}

#[test]
fn times_pages_and_counts_agree() {
    let (_home, store) = large();
    let all = find(&store, &Search::all(tenant(ACME)));
    let (since, until) = (all[4_500].at, all[1_500].at);
    let part = Search { since, until, ..asked(ACME, "severity:error") };
    let expected: Vec<_> = all
        .iter()
        .filter(|line| line.at >= since && line.at < until && line.severity == Severity::Error)
        .cloned()
        .collect();
    assert_eq!(find(&store, &part), expected);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let before = paged.len();
        store
            .search(&Search { after, ..part.clone() }, 77, |line| {
                paged.push(line);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        if paged.len() == before {
            break;
        }
        after = paged.last().map(|line| (line.at, line.id));
    }
    assert_eq!(paged, expected);
    let counted = store.histogram(&part, 50).unwrap();
    assert_eq!((counted.total(), counted.buckets.len()), (expected.len() as u64, 50));
    let whole = store.histogram(&Search { since, until, ..Search::all(tenant(ACME)) }, 13).unwrap();
    let lines = |from: i64| {
        all.iter().filter(|line| line.at >= from && line.at < (from + whole.width).min(until)).count()
    };
    for bucket in &whole.buckets {
        assert_eq!(bucket.severities.iter().sum::<u64>(), lines(bucket.from) as u64);
    }
}

#[test]
fn what_is_withheld_is_neither_shown_nor_found() {
    let home = Home::new();
    home.write(ACME, [
        json!({"timestamp": line(2, "", "")["timestamp"], "error_severity": "ERROR", "user": "owner",
               "state_code": "23505", "backend_type": "client backend", "message": "duplicate key",
               "detail": "Key (email)=(alice@example.com) already exists.", "statement": "insert into people values ('alice')"}),
        json!({"timestamp": line(1, "", "")["timestamp"], "error_severity": "LOG", "backend_type": "checkpointer",
               "message": "checkpoint starting: time"}),
    ]);
    home.file(ACME);
    home.append(&format!("servers/{ACME}/log/postgresql-Sun.json"), "alice as plain text\n");
    let (store, mut collector) = home.collected();
    look(&mut collector);
    let withheld = |text: &str| find(&store, &Search { view: View::Withheld, ..asked(ACME, text) });
    let shown = withheld("");
    assert_eq!(shown.len(), 3);
    assert!(!shown.iter().any(|line| line.fields.to_string().contains("alice")));
    for text in [
        "alice",
        "/alice/",
        "message:duplicate*",
        "detail:/./",
        "statement:/insert/",
        "duplicate",
        "text:/./",
    ] {
        assert_eq!(withheld(text), [], "{text}");
        // What is not there and what is withheld cannot be told apart the other way round either.
        assert_eq!(withheld(&format!("-{text}")).len(), 3, "{text}");
    }
    assert_eq!(withheld("sqlstate:23505 user:owner").len(), 1);
    assert_eq!(withheld("checkpoint").len(), 1);
    let counted = Search { view: View::Withheld, since: 0, until: i64::MAX, ..asked(ACME, "alice") };
    assert_eq!(store.histogram(&counted, 1).unwrap().total(), 0);
    // The control: who may read them finds them.
    assert_eq!(find(&store, &asked(ACME, "alice")).len(), 2);
}

#[test]
fn who_follows_is_told_at_once_and_only_of_his_own() {
    let home = Home::new();
    home.write(ACME, [line(3, "LOG", "before")]);
    let (store, mut collector) = home.collected();
    let mut followers: Vec<_> = (0..200).map(|_| store.follow(tenant(ACME))).collect();
    let mut others = store.follow(tenant(crate::home::BOLT));
    home.write(ACME, [line(2, "LOG", "one"), line(1, "LOG", "two")]);
    look(&mut collector);
    for follower in &mut followers {
        let lines = follower.try_recv().unwrap();
        let said: Vec<&str> = lines.iter().map(|line| line.message()).collect();
        assert_eq!(said, ["one", "two"]);
        assert!(follower.try_recv().is_err());
    }
    assert!(others.try_recv().is_err());
}
