//! How long a server is left alone before it sleeps: read, written, refused.

use std::time::Duration;

use component::postgres::{BadIdle, Idle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn idle(text: &str) -> Idle {
    text.parse().unwrap_or_else(|bad: BadIdle| panic!("{text:?}: {bad}"))
}

#[test]
fn every_usual_way_to_write_it_has_one_short_form() {
    for (text, seconds, short) in [
        ("1s", 1, "1s"),
        ("59s", 59, "59s"),
        ("60s", 60, "1m"),
        ("90s", 90, "1m30s"),
        ("5m", 300, "5m"),
        ("300s", 300, "5m"),
        ("5 minutes", 300, "5m"),
        ("+5m", 300, "5m"),
        (" 5m\n", 300, "5m"),
        ("1h", 3_600, "1h"),
        ("1h30m", 5_400, "1h30m"),
        ("1h 30m", 5_400, "1h30m"),
        ("1 hour, 30 min", 5_400, "1h30m"),
        ("1.5h", 5_400, "1h30m"),
        ("01:30:00", 5_400, "1h30m"),
        ("90m1s", 5_401, "1h30m1s"),
        ("2d", 172_800, "2d"),
        ("36h", 129_600, "1d12h"),
        ("1w", 604_800, "7d"),
        ("2000ms", 2, "2s"),
        ("29d23h59m59s", 2_591_999, "29d23h59m59s"),
        ("30d", 2_592_000, "30d"),
        ("2592000s", 2_592_000, "30d"),
    ] {
        let read = idle(text);
        assert_eq!(Duration::from(read), Duration::from_secs(seconds), "{text:?}");
        assert_eq!(read.as_millis(), seconds * 1_000, "{text:?}");
        assert_eq!(read.to_string(), short, "{text:?}");
        assert_eq!(idle(short), read);
        let json = serde_json::to_string(&read).expect("JSON");
        assert_eq!(json, format!("\"{short}\""));
        assert_eq!(serde_json::from_str::<Idle>(&json).expect("a length"), read);
    }
    assert_eq!(format!("{:>6}|{:<4}|", idle("90s"), idle("5m")), " 1m30s|5m  |", "it stands in columns");
}

#[test]
fn every_length_writes_and_reads_back_the_same() {
    let mut dice = StdRng::seed_from_u64(13);
    let anywhere: Vec<u32> = (0..5_000).map(|_| dice.random_range(1..=2_592_000)).collect();
    for seconds in (1..=4_000).chain(anywhere) {
        let read = idle(&format!("{seconds}s"));
        assert_eq!(read.as_millis(), u64::from(seconds) * 1_000);
        assert_eq!(idle(&read.to_string()), read, "{seconds}");
    }
}

#[test]
fn lengths_are_ordered_as_time_is() {
    assert!(idle("59s") < idle("1m") && idle("1h") < idle("2h") && idle("10h") < idle("1d"));
}

#[test]
fn no_text_makes_the_reader_panic_or_means_two_things() {
    const SCRAPS: [&str; 22] = [
        "0",
        "1",
        "9",
        "30",
        "99999",
        "9223372036854775807",
        "s",
        "m",
        "h",
        "d",
        "w",
        "mo",
        "ms",
        "µs",
        " ",
        "-",
        "+",
        ".",
        ",",
        ":",
        "ago",
        "\u{1b}",
    ];
    let mut dice = StdRng::seed_from_u64(17);
    let mut read = 0;
    for _ in 0..20_000 {
        let scraps = dice.random_range(0..7);
        let text: String = (0..scraps).map(|_| SCRAPS[dice.random_range(0..SCRAPS.len())]).collect();
        match text.parse::<Idle>() {
            Ok(found) => {
                read += 1;
                assert!((1_000..=2_592_000_000).contains(&found.as_millis()), "{text:?} is {found}");
                assert_eq!(idle(&found.to_string()), found, "{text:?}");
            }
            Err(bad) => {
                let said = bad.to_string();
                assert!(said.contains("; ") && !said.contains(char::is_control), "{text:?}: {said:?}");
            }
        }
    }
    assert!((100..10_000).contains(&read), "{read} of 20000 were read: the scraps are too tame or too wild");
}

#[test]
fn refusals_say_how_to_write_it() {
    let long = "1h".repeat(1_000_000);
    let texts = [
        "",
        "m",
        "a while",
        "never",
        "Off",
        "0",
        "300",
        "-300",
        "5.5",
        "0s",
        "0h 0m",
        "-5m",
        "5m ago",
        "5x",
        "5M",
        "5 Minuten",
        "1h 30",
        "30m1h",
        "1h1h",
        "5m;",
        "5mm",
        "PT5M",
        "1mo",
        "1y",
        "500ms",
        "1.5s",
        "1s 1ns",
        "30d1s",
        "30d1ns",
        "721h",
        "99999999999d",
        "99999999999999999999999d",
        "5\u{1b}[31mm",
        "５m",
        &long,
    ];
    let said: Vec<String> = texts
        .iter()
        .map(|text| match text.parse::<Idle>() {
            Ok(idle) => format!("{text:?} is {idle}"),
            Err(bad) => bad.to_string(),
        })
        .collect();
    insta::assert_yaml_snapshot!(said);
}
