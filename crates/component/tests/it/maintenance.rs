//! Windows of maintenance on the wall clock of the customer.

use component::postgres::MaintenanceWindow;
use jiff::Timestamp;

/// The window open at, or next after, `now`.
fn next(window: &str, now: &str) -> (String, String) {
    let window: MaintenanceWindow = window.parse().expect("a window");
    let now: Timestamp = now.parse().expect("a moment");
    let (start, end) = window.next(now).expect("a next window");
    assert!(start < end && now < end, "{start} {end}");
    (start.to_string(), end.to_string())
}

fn pair(start: &str, end: &str) -> (String, String) {
    (start.into(), end.into())
}

#[test]
fn the_next_one_on_the_customers_clock() {
    // 2026-03-06 is a Friday; Tokyo is nine hours ahead and has no daylight saving.
    assert_eq!(
        next("sun 03:00-05:00 Asia/Tokyo", "2026-03-06T12:00:00Z"),
        pair("2026-03-07T18:00:00Z", "2026-03-07T20:00:00Z")
    );
    assert_eq!(
        next("mon 00:00-01:00 UTC", "2026-12-31T23:59:59Z"),
        pair("2027-01-04T00:00:00Z", "2027-01-04T01:00:00Z"),
        "over the end of a year"
    );
}

#[test]
fn the_one_that_is_open_counts_until_its_last_moment() {
    let open = pair("2026-03-07T18:00:00Z", "2026-03-07T20:00:00Z");
    for now in ["2026-03-07T18:00:00Z", "2026-03-07T19:59:59Z"] {
        assert_eq!(next("sun 03:00-05:00 Asia/Tokyo", now), open, "{now}");
    }
    assert_eq!(next("sun 03:00-05:00 Asia/Tokyo", "2026-03-07T20:00:00Z").0, "2026-03-14T18:00:00Z");
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_it_begins() {
    let saturday_night = pair("2026-01-10T22:30:00Z", "2026-01-11T00:30:00Z");
    assert_eq!(
        next("sat 23:30-01:30 Europe/Zurich", "2026-01-11T00:00:00Z"),
        saturday_night,
        "open, on Sunday"
    );
    assert_eq!(next("sat 23:30-01:30 Europe/Zurich", "2026-01-09T00:00:00Z"), saturday_night);
}

#[test]
fn a_skipped_hour_moves_the_window_with_the_clock() {
    // On 2026-03-08 New York's clock goes from 02:00 EST (-5) to 03:00 EDT (-4), at 07:00Z.
    let now = "2026-03-07T00:00:00Z";
    assert_eq!(
        next("sun 02:30-04:30 America/New_York", now),
        pair("2026-03-08T07:30:00Z", "2026-03-08T08:30:00Z"),
        "02:30 is not there; 03:30 EDT is where it would have been"
    );
    assert_eq!(
        next("sun 01:30-02:15 America/New_York", now),
        pair("2026-03-08T06:30:00Z", "2026-03-08T07:15:00Z"),
        "an end in the gap: 03:15 EDT"
    );
    assert_eq!(
        next("sun 02:30-03:00 America/New_York", now),
        pair("2026-03-08T07:30:00Z", "2026-03-08T08:00:00Z"),
        "without length on the clock: it keeps its half hour"
    );
    assert_eq!(
        next("sun 02:00-03:00 America/New_York", now),
        pair("2026-03-08T07:00:00Z", "2026-03-08T08:00:00Z")
    );
    assert_eq!(next("sun 02:30-04:30 America/New_York", "2026-03-09T00:00:00Z").0, "2026-03-15T06:30:00Z");
}

#[test]
fn a_repeated_hour_means_its_first() {
    // On 2026-11-01 New York's clock goes from 02:00 EDT (-4) back to 01:00 EST (-5), at 06:00Z.
    let now = "2026-10-31T12:00:00Z";
    assert_eq!(
        next("sun 01:30-03:30 America/New_York", now),
        pair("2026-11-01T05:30:00Z", "2026-11-01T08:30:00Z"),
        "three hours pass between 01:30 EDT and 03:30 EST"
    );
    assert_eq!(
        next("sun 01:00-01:30 America/New_York", now),
        pair("2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z"),
        "open once, not twice"
    );
}

#[test]
fn the_southern_half_of_the_year_is_the_other_way_round() {
    // Santiago skips the first hour of Sunday 2026-09-06 (04:00Z); Sydney repeats 02:00 on 2026-04-05.
    assert_eq!(
        next("sun 00:30-02:00 America/Santiago", "2026-09-05T12:00:00Z"),
        pair("2026-09-06T04:30:00Z", "2026-09-06T05:00:00Z")
    );
    assert_eq!(
        next("sun 02:30-04:00 Australia/Sydney", "2026-04-04T00:00:00Z"),
        pair("2026-04-04T15:30:00Z", "2026-04-04T18:00:00Z")
    );
    assert_eq!(
        next("wed 03:00-05:00 Australia/Sydney", "2026-01-01T00:00:00Z").0,
        "2026-01-06T16:00:00Z",
        "eleven hours ahead in its summer"
    );
}

#[test]
fn a_day_that_a_country_left_out_still_has_an_answer() {
    // Samoa had no Friday 2011-12-30.
    let (start, _) = next("fri 03:00-05:00 Pacific/Apia", "2011-12-29T12:00:00Z");
    assert_eq!(start, "2011-12-30T13:00:00Z", "the clock says Saturday, 03:00");
}

#[test]
fn writes_and_reads_back_the_same() {
    for text in ["sun 03:00-05:00 Asia/Tokyo", "sat 23:30-01:30 Europe/Zurich", "mon 00:00-23:59 UTC"] {
        let window: MaintenanceWindow = text.parse().expect("a window");
        assert_eq!(window.to_string(), text);
        let json = serde_json::to_string(&window).expect("JSON");
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<MaintenanceWindow>(&json).expect("a window"), window);
    }
    let loose: MaintenanceWindow = " SUN  03:00-05:00  asia/tokyo ".parse().expect("a window");
    assert_eq!(loose.to_string(), "sun 03:00-05:00 Asia/Tokyo");
}

#[test]
fn every_zone_of_the_database_is_understood_or_refused() {
    for zone in jiff::tz::db().available() {
        let text = format!("sun 03:00-05:00 {zone}");
        if let Ok(window) = text.parse::<MaintenanceWindow>() {
            assert_eq!(window.to_string().parse::<MaintenanceWindow>().as_ref(), Ok(&window), "{zone}");
            next(&text, "2026-03-08T07:00:00Z");
        }
    }
}

#[test]
fn refusals_say_how_to_write_it() {
    let texts = [
        "",
        "sun",
        "sun 03:00-05:00",
        "sun 03:00 - 05:00 UTC",
        "sunday 03:00-05:00 UTC",
        "sun 3:00-5:00 UTC",
        "sun 03:00-24:00 UTC",
        "sun +3:00-05:00 UTC",
        "sun 03:00/05:00 UTC",
        "sun 03:00-03:00 UTC",
        "sun 03:00-05:00 Asia/Tokio",
        "sun 03:00-05:00 localtime",
        "sun 03:00-05:00 +09:00",
        "sun 03:00-05:00 Etc/Unknown",
        "sun 03:00-05:00 ../../etc/passwd",
    ];
    let said: Vec<String> = texts
        .iter()
        .map(|text| match text.parse::<MaintenanceWindow>() {
            Ok(window) => format!("{text:?} is {window}"),
            Err(bad) => bad.to_string(),
        })
        .collect();
    insta::assert_yaml_snapshot!(said);
}
