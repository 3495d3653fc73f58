//! Which mode is advised to whom, and what holds of the advice whatever is known.

use std::collections::BTreeSet;

use component::manifest;
use component::transfer::advice::{
    Advice, Changes, Column, Cursor, Cursors, Freshness, Grows, Largest, Mode, Server, Situation, Team,
    Volume, WalLevel, advise, cursor,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::manifest::app;

const MB: u64 = 1_000_000;
const GB: u64 = 1_000 * MB;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn fresh(text: &str) -> Option<Freshness> {
    Some(text.parse().expect("a freshness"))
}

fn volume(tables: u64, rows: u64, bytes: u64) -> Volume {
    Volume { tables: Some(tables), rows: Some(rows), bytes: Some(bytes), largest: None }
}

fn updated_at() -> Cursors {
    let column = "updated_at".to_owned();
    Cursors::Column(Cursor { column, grows: Grows::WithUpdates, without: set(&[]), unindexed: set(&[]) })
}

/// A server of one's own stead, of which everything was measured.
fn own(text: &str, volume: Volume) -> Situation {
    Situation {
        from: Some("postgres.main".parse().expect("a name")),
        fresh: fresh(text),
        history: Some(false),
        owner: Some(Team::Same),
        operator: Some(Team::Same),
        volume,
        changes: Changes {
            rows_a_day: Some(200_000),
            log_a_day: Some(100 * MB),
            updates: Some(true),
            deletes: Some(true),
        },
        keyless: Some(set(&[])),
        cursor: Cursors::Absent,
        server: Server {
            engine: Some(18),
            wal_level: Some(WalLevel::Logical),
            slots_free: Some(8),
            may_replicate: Some(true),
            sleeps: Some(false),
            log_room: Some(1_000 * MB),
        },
        ..Situation::default()
    }
}

/// A server of somebody else, of which only what one is told is known.
fn theirs(text: &str, team: Team, volume: Volume) -> Situation {
    Situation {
        fresh: fresh(text),
        history: Some(false),
        owner: Some(team),
        operator: Some(team),
        volume,
        ..Situation::default()
    }
}

/// The mode, and how often it reads.
fn advised(advice: &Advice) -> String {
    let Some(recommended) = &advice.recommended else { return "none".into() };
    let every = recommended.manifest.lines().find_map(|line| line.strip_prefix("every = "));
    let every = every.map_or_else(String::new, |every| format!(" {}", every.trim_matches('"')));
    format!("{}{every}", recommended.mode.as_str())
}

/// A shop of a few gigabytes whose own team wants figures.
fn shop(text: &str) -> Situation {
    own(text, volume(30, 20_000_000, 3 * GB))
}

/// Events of another team, 80 GB that only grow, with a column that says when.
fn events(text: &str) -> Situation {
    Situation {
        changes: Changes { rows_a_day: Some(5_000_000), deletes: Some(false), ..Changes::default() },
        cursor: updated_at(),
        ..theirs(text, Team::Other, volume(3, 400_000_000, 80 * GB))
    }
}

#[test]
fn each_is_advised_what_fits() {
    let cases: Vec<(&str, Situation, &str)> = vec![
        ("a small shop, figures of yesterday", shop("1d"), "snapshot 1d"),
        ("the same, within the hour", shop("1h"), "snapshot 1h"),
        ("the same, a dashboard that is watched", shop("1s"), "stream"),
        ("the same, every step of an order", Situation { history: Some(true), ..shop("1d") }, "stream"),
        (
            "a warehouse that a copy would read all day",
            own("1h", volume(200, 3_000 * MB, 900 * GB)),
            "stream",
        ),
        ("another team's events", events("5m"), "query 5m"),
        ("the same, with rows that are deleted", deleting(events("1h")), "stream"),
        ("the same, and a day is enough", deleting(events("1d")), "snapshot 1d"),
        (
            "a supplier's 5 GB, once a day",
            theirs("1d", Team::Outside, volume(40, 30 * MB, 5 * GB)),
            "snapshot 1d",
        ),
        (
            "a supplier's 300 GB, once a day",
            theirs("1d", Team::Outside, volume(40, 900 * MB, 300 * GB)),
            "snapshot 1d",
        ),
        ("the same, with a column", by_column("1d", 300 * GB), "query 1d"),
        ("a supplier who lets nobody replicate, a minute", closed("1m"), "snapshot 5m"),
        ("the same, every change", Situation { history: Some(true), ..closed("1m") }, "none"),
        ("an old engine, a second", old(shop("1s"), 13), "snapshot 5m"),
        ("a server without the log for it", no_log(shop("1s")), "snapshot 5m"),
        ("nothing is known at all", Situation::default(), "snapshot 1h"),
    ];
    for (what, situation, wanted) in cases {
        let advice = advise(&situation);
        assert_eq!(advised(&advice), wanted, "{what}: {advice:#?}");
    }
}

fn deleting(situation: Situation) -> Situation {
    Situation { changes: Changes { deletes: Some(true), ..situation.changes }, ..situation }
}

fn by_column(text: &str, bytes: u64) -> Situation {
    let changes = Changes { deletes: Some(false), updates: Some(true), ..Changes::default() };
    Situation { changes, cursor: updated_at(), ..theirs(text, Team::Outside, volume(40, 900 * MB, bytes)) }
}

fn closed(text: &str) -> Situation {
    let server = Server { may_replicate: Some(false), ..Server::default() };
    Situation { server, ..theirs(text, Team::Outside, volume(9, 20 * MB, 2_600 * MB)) }
}

fn old(situation: Situation, engine: u32) -> Situation {
    Situation { server: Server { engine: Some(engine), ..situation.server }, ..situation }
}

fn no_log(situation: Situation) -> Situation {
    Situation { server: Server { wal_level: Some(WalLevel::Replica), ..situation.server }, ..situation }
}

/// All that is said, as one text.
fn said(advice: &Advice) -> String {
    format!("{advice:#?}")
}

#[test]
fn what_stands_against_something_is_said_with_the_way_out() {
    let advice = advise(&old(no_log(shop("1s")), 14));
    let all = said(&advice);
    assert!(all.contains("this is 14; upgrade it") && all.contains("`wal_level` is `replica`"), "{all}");
    assert!(all.contains("have it upgraded"), "{all}");
    let keyless = Situation { keyless: Some(set(&["public.log"])), ..shop("1s") };
    let advice = advise(&keyless);
    assert!(advice.warnings.iter().any(|warning| warning.contains("`public.log`")), "{advice:?}");
    let beside = advice.recommended.expect("a mode").beside.expect("something beside it");
    assert!(beside.contains("snapshot transfer for `public.log`"), "{beside}");
    let none_has_one = Situation { volume: volume(1, 10, 10), ..keyless };
    assert_eq!(advised(&advise(&none_has_one)), "snapshot 5m");
    let Cursors::Column(cursor) = updated_at() else { unreachable!() };
    let unindexed = Cursors::Column(Cursor { unindexed: set(&["public.events"]), ..cursor });
    let advice = advise(&Situation { cursor: unindexed, ..events("5m") });
    assert_eq!(advised(&advice), "stream");
    assert!(said(&advice).contains("create index concurrently"), "{advice:?}");
    assert!(advice.warnings.iter().any(|warning| warning.contains("has no index")), "{advice:?}");
}

#[test]
fn the_one_table_that_stands_in_the_way_of_a_copy_is_named() {
    let largest = Largest { name: "public.clicks".into(), rows: 2_000 * MB, bytes: 400 * GB };
    let volume = Volume { largest: Some(largest), ..volume(20, 2_010 * MB, 402 * GB) };
    let reasons = advise(&own("1h", volume)).recommended.expect("a mode").reasons;
    assert!(reasons.iter().any(|reason| reason.contains("for `public.clicks` alone")), "{reasons:?}");
}

#[test]
fn a_reader_that_may_be_away_for_a_short_time_only_is_told() {
    let busy = Changes { log_a_day: Some(24 * GB), ..shop("1s").changes };
    let advice = advise(&Situation { changes: busy, ..shop("1s") });
    assert_eq!(advice.recommended.as_ref().expect("a mode").costs.log_lasts_s, Some(3_600));
    assert!(advice.warnings.iter().any(|warning| warning.contains("away for 1h ")), "{:?}", advice.warnings);
}

#[test]
fn what_is_not_known_and_would_change_the_advice_is_asked() {
    let advice = advise(&Situation::default());
    let would = |unknown: &str, mode: Mode| {
        let mut all = advice.would_change.iter();
        assert!(
            all.any(|change| change.unknown.contains(unknown) && change.mode == Some(mode)),
            "{unknown}: {:#?}",
            advice.would_change
        );
    };
    would("how old rows may be", Mode::Stream);
    would("whether every change", Mode::Stream);
    would("who owns", Mode::Stream);
    would("by which column", Mode::Query);
    assert_eq!(advice.assumed.len(), 5);
    // Whoever knows everything is asked nothing.
    let advice = advise(&shop("1s"));
    assert!(advice.would_change.is_empty() && advice.assumed.is_empty(), "{advice:?}");
}

#[test]
fn the_column_is_found_that_most_tables_have() {
    let column = |table: &str, name: &str, is_moment, counts_up, indexed| Column {
        table: table.into(),
        name: name.into(),
        is_moment,
        counts_up,
        indexed,
    };
    let tables = set(&["public.a", "public.b", "public.c"]);
    let columns = [
        column("public.a", "id", false, true, true),
        column("public.b", "id", false, true, true),
        column("public.c", "id", false, true, true),
        column("public.a", "updated_at", true, false, true),
        column("public.b", "updated_at", true, false, false),
        column("public.a", "born", true, false, true),
        column("public.x", "updated_at", true, false, true),
    ];
    let Cursors::Column(found) = cursor(&tables, &columns) else { panic!("no column") };
    // One that sees updates goes before one that more tables have.
    assert_eq!((found.column.as_str(), found.grows), ("updated_at", Grows::WithUpdates));
    assert_eq!((found.without, found.unindexed), (set(&["public.c"]), set(&["public.b"])));
    let Cursors::Column(found) = cursor(&tables, &columns[..3]) else { panic!("no column") };
    assert_eq!((found.column.as_str(), found.grows), ("id", Grows::WithInserts));
    assert_eq!(cursor(&tables, &columns[5..]), Cursors::Absent);
    // What counts up sees new rows alone.
    let counted = |updates| {
        let cursor = cursor(&tables, &columns[..3]);
        let changes = Changes { updates: Some(updates), deletes: Some(false), ..Changes::default() };
        advised(&advise(&Situation { cursor, changes, ..events("5m") }))
    };
    assert_eq!((counted(false).as_str(), counted(true).as_str()), ("query 5m", "stream"));
}

/// Anything that may be known, or not.
fn any(dice: &mut StdRng) -> Situation {
    fn maybe<T>(dice: &mut StdRng, some: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        dice.random_bool(0.7).then(|| some(dice))
    }
    fn amount(dice: &mut StdRng) -> u64 {
        let bits = dice.random_range(0..=64);
        if bits == 0 { 0 } else { dice.random::<u64>() >> (64 - bits) }
    }
    fn one<T: Copy>(dice: &mut StdRng, of: &[T]) -> T {
        of[dice.random_range(0..of.len())]
    }
    let some_tables = |dice: &mut StdRng| {
        let count = dice.random_range(0..4);
        (0..count).map(|n| format!("public.t{n}")).collect::<BTreeSet<String>>()
    };
    let cursor = match dice.random_range(0..4) {
        0 => Cursors::Unknown,
        1 => Cursors::Absent,
        _ => Cursors::Column(Cursor {
            column: one(dice, &["updated_at", "id", "a \"b\""]).to_owned(),
            grows: one(dice, &[Grows::WithUpdates, Grows::WithInserts]),
            without: if dice.random_bool(0.3) { some_tables(dice) } else { set(&[]) },
            unindexed: if dice.random_bool(0.3) { some_tables(dice) } else { set(&[]) },
        }),
    };
    let team = |dice: &mut StdRng| one(dice, &[Team::Same, Team::Other, Team::Outside]);
    Situation {
        from: maybe(dice, |_| "postgres.main".parse().expect("a name")),
        patterns: [].into(),
        fresh: maybe(dice, |dice| {
            format!("{}s", one(dice, &[1, 59, 60, 900, 3_600, 90_061, 2_592_000])).parse().expect("a time")
        }),
        history: maybe(dice, |dice| dice.random()),
        owner: maybe(dice, team),
        operator: maybe(dice, team),
        volume: Volume {
            tables: maybe(dice, |dice| dice.random_range(0..5)),
            rows: maybe(dice, amount),
            bytes: maybe(dice, amount),
            largest: maybe(dice, |dice| Largest {
                name: "public.t0".into(),
                rows: amount(dice),
                bytes: amount(dice),
            }),
        },
        changes: Changes {
            rows_a_day: maybe(dice, amount),
            log_a_day: maybe(dice, amount),
            updates: maybe(dice, |dice| dice.random()),
            deletes: maybe(dice, |dice| dice.random()),
        },
        keyless: maybe(dice, some_tables),
        cursor,
        server: Server {
            engine: maybe(dice, |dice| dice.random_range(9..21)),
            wal_level: maybe(dice, |dice| {
                one(dice, &[WalLevel::Minimal, WalLevel::Replica, WalLevel::Logical])
            }),
            slots_free: maybe(dice, |dice| dice.random_range(0..3)),
            may_replicate: maybe(dice, |dice| dice.random()),
            sleeps: maybe(dice, |dice| dice.random()),
            log_room: maybe(dice, amount),
        },
    }
}

/// How old rows get; nothing is older than that for which there is no mode.
fn reaches(advice: &Advice) -> u64 {
    advice.recommended.as_ref().map_or(u64::MAX, |recommended| recommended.costs.fresh_s)
}

#[test]
fn whatever_is_known_the_advice_holds() {
    let mut dice = StdRng::seed_from_u64(7);
    let mut seen = BTreeSet::new();
    for _ in 0..4_000 {
        let situation = any(&mut dice);
        let advice = advise(&situation);
        assert_eq!(advice, advise(&situation.clone()));
        let mode = advice.recommended.as_ref().map(|recommended| recommended.mode);
        seen.insert(mode);
        if situation.history == Some(true) {
            assert!(matches!(mode, None | Some(Mode::Stream)), "{situation:#?}");
        }
        let server = situation.server;
        let no_slot = server.may_replicate == Some(false)
            || server.slots_free == Some(0)
            || server.wal_level.is_some_and(|level| level != WalLevel::Logical)
            || server.engine.is_some_and(|engine| engine < 15);
        assert!(!(no_slot && mode == Some(Mode::Stream)), "{situation:#?}");
        let no_query =
            situation.changes.deletes != Some(false) || !matches!(situation.cursor, Cursors::Column(_));
        assert!(!(no_query && mode == Some(Mode::Query)), "{situation:#?}");
        // Every mode is there once, with why; and something is, unless the history cannot be had.
        assert_eq!(advice.others.len(), 3 - usize::from(mode.is_some()));
        assert!(advice.others.iter().all(|other| Some(other.mode) != mode && !other.why_not.is_empty()));
        assert!(mode.is_some() || situation.history == Some(true), "{situation:#?}");
        if let Some(recommended) = &advice.recommended {
            assert!(!recommended.reasons.is_empty());
            pasted(&recommended.manifest, recommended.mode);
        }
        sooner_is_never_later(&situation);
        // An answer that is said to change something does.
        assert!(advice.would_change.iter().all(|change| change.mode != mode));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// Whoever asks for fresher rows never gets older ones.
fn sooner_is_never_later(situation: &Situation) {
    let times = ["1s", "10s", "1m", "5m", "15m", "1h", "6h", "1d", "7d", "30d"];
    let reached = times.map(|text| reaches(&advise(&Situation { fresh: fresh(text), ..situation.clone() })));
    assert!(reached.is_sorted(), "{reached:?} {situation:#?}");
}

/// What is to be pasted is read by whatever reads manifests.
fn pasted(block: &str, mode: Mode) {
    let text = format!("app = \"shop\"\n[postgres.main]\n{block}");
    let read = manifest::parse("stead.toml", &text);
    assert!(read.is_ok(), "{text}\n{:?}", read.err());
    let read = read.expect("a manifest");
    let meant = read.transfer.values().map(|wish| wish.mode.unwrap_or(Mode::Stream));
    assert_eq!(meant.collect::<Vec<_>>(), [mode], "{text}");
    assert!(manifest::from_json(&manifest::to_json(&read), &app()).is_ok());
}
