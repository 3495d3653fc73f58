//! No input whatever makes the reader panic, and no report is unfit to be printed.

use component::manifest;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::manifest::{FULL, app};

const SCRAPS: [&str; 24] = [
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\"",
    "'''",
    "=",
    ".",
    ",",
    "\n",
    "\r",
    "\0",
    "\u{1b}[2J",
    "\u{202e}",
    "ß",
    "👩‍🚀",
    "-1",
    "9999999999999999999999",
    "nan",
    "[postgres.main]\n",
    "postgres.main.size = 1\n",
    "app = 'x'\n",
    "\u{feff}",
];

/// Cuts, doubles and splices a manifest.
fn mutated(dice: &mut StdRng) -> String {
    let mut text = FULL.to_owned();
    for _ in 0..dice.random_range(1..4) {
        let mut place = || text.floor_char_boundary(dice.random_range(0..=text.len()));
        let (a, b) = (place(), place());
        let (a, b) = (a.min(b), a.max(b).min(a.min(b) + 40));
        let b = text.ceil_char_boundary(b);
        match dice.random_range(0..4) {
            0 => text.replace_range(a..b, ""),
            1 => text.insert_str(a, SCRAPS[dice.random_range(0..SCRAPS.len())]),
            2 => text = [&text[..a], &text[a..b], &text[a..]].concat(),
            _ => text.replace_range(a..b, SCRAPS[dice.random_range(0..SCRAPS.len())]),
        }
    }
    text
}

/// Reads a text and, where it is refused, renders the report.
fn survive(text: &str) -> bool {
    let Err(error) = manifest::parse("stead.toml", text) else { return true };
    assert!(error.problems().count() > 0, "a refusal without a reason: {text:?}");
    for problem in error.problems() {
        assert!(!problem.message.is_empty() && problem.message.len() < 2_000, "{problem:?}");
    }
    let mut out = String::new();
    miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none())
        .with_width(100)
        .render_report(&mut out, &error)
        .expect("a report");
    let unprintable = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    assert!(!out.contains(unprintable) && !out.contains('\u{202e}'), "{out:?} for {text:?}");
    assert!(!out.contains("Failed to read contents"), "a place outside the file: {out} for {text:?}");
    false
}

#[test]
fn mutated_manifests_are_read_or_refused() {
    let mut dice = StdRng::seed_from_u64(7);
    let read = (0..2_000).filter(|_| survive(&mutated(&mut dice))).count();
    assert!((20..1_000).contains(&read), "{read} of 2000 were read: the mutations are too tame or too wild");
}

#[test]
fn bombs_are_refused() {
    let deep = 60_000;
    for text in [
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
        format!("{}1", "a.".repeat(deep)),
        format!("[{}x]", "a.".repeat(deep)),
        "[[postgres]]\n".repeat(10_000),
        format!("app = \"{}\"", "x".repeat(900_000)),
        "x = 1\n".repeat(100_000),
        format!("x = {{{}}}", "a=1,".repeat(200_000)),
        (0..50_000).map(|n| format!("x{n} = 1\n")).collect(),
        format!("app = 'a'\n[postgres.main]\nallow = [{}]", "\"1.2.3.4/0\",".repeat(60_000)),
        "\u{0}".repeat(1_000),
        "#".repeat(manifest::LARGEST + 1),
    ] {
        assert!(!survive(&text), "{} ... was read", &text[..20]);
    }
}

/// Replaces a random value somewhere in a body by something else.
fn disturb(value: &mut Value, dice: &mut StdRng) {
    let other = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("\u{1b}"),
        json!([]),
        json!({}),
        json!([[[]]]),
        json!({"a/b~c": 1}),
    ];
    match value {
        Value::Object(map) if !map.is_empty() && dice.random_bool(0.8) => {
            let index = dice.random_range(0..map.len());
            if let Some(inner) = map.values_mut().nth(index) {
                disturb(inner, dice);
            }
        }
        Value::Array(list) if !list.is_empty() && dice.random_bool(0.8) => {
            let index = dice.random_range(0..list.len());
            disturb(&mut list[index], dice);
        }
        place => *place = other[dice.random_range(0..other.len())].clone(),
    }
}

#[test]
fn disturbed_bodies_are_read_or_refused_at_a_place_that_is_there() {
    let mut dice = StdRng::seed_from_u64(11);
    let body = json!({"app": "flights", "postgres": {"main": {
        "engine": 18, "size": "nano", "allow": ["10.0.0.0/8"], "maintenance": "sun 03:00-05:00 UTC", "idle": "5m",
        "protect": false, "schema": [{"name": "0001_a.sql", "sql": "select 1"}], "extensions": ["citext"], "owner": "a", "runbook": "b",
    }}});
    assert!(manifest::from_json(&body, &app()).is_ok());
    for _ in 0..4_000 {
        let mut body = body.clone();
        disturb(&mut body, &mut dice);
        match manifest::from_json(&body, &app()) {
            Ok(manifest) => {
                assert_eq!(manifest::from_json(&manifest::to_json(&manifest), &app()), Ok(manifest))
            }
            Err(errors) => {
                for error in errors {
                    assert!(body.pointer(&error.pointer).is_some(), "{error:?} in {body}");
                }
            }
        }
    }
}
