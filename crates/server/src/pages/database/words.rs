//! Figures and ends of queries, in words.

use client::wire::QuerySummary;

use crate::sql::Format;

/// A number as people read it: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many rows, where that is known.
pub(super) fn rows(count: Option<u64>) -> String {
    match count {
        None => "Rows".to_owned(),
        Some(1) => "1 row".to_owned(),
        Some(count) => format!("{} rows", grouped(count)),
    }
}

/// How long; milliseconds.
pub(super) fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        ms => format!("{}.{} s", grouped(ms / 1_000), ms % 1_000 / 100),
    }
}

/// What a file is called.
pub(super) fn called(file: &Format) -> &'static str {
    match file {
        Format::Json => "JSON",
        Format::Csv => "CSV",
        Format::Arrow => "Arrow",
        Format::Parquet => "Parquet",
    }
}

/// How a query ended, in a word or two.
pub(super) fn outcome(outcome: &str) -> &str {
    match outcome {
        "cut_off" => "ended by a limit",
        other => other,
    }
}

/// How a query ended, in a line.
pub(super) fn ended(summary: &QuerySummary) -> String {
    let took = took(summary.duration_ms);
    let mut line = match summary.outcome.as_str() {
        "done" => format!("{} in {took}", rows(Some(summary.rows))),
        "failed" => format!("Failed after {took}"),
        "cancelled" => format!("Cancelled after {took}"),
        other => format!("It was {} after {took}", outcome(other)),
    };
    if summary.truncated {
        line.push_str(&format!("; {} shown", grouped(summary.rows_shown)));
    }
    if summary.notices_left_out > 0 {
        line.push_str(&format!("; {} notices left out", summary.notices_left_out));
    }
    if let Some(message) = &summary.message {
        line.push_str(&format!(": {message}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1000, 61_980].map(took), ["0 ms", "999 ms", "1.0 s", "61.9 s"]);
        assert_eq!([None, Some(1), Some(2000)].map(rows), ["Rows", "1 row", "2,000 rows"]);
    }

    #[test]
    fn an_end_is_a_line() {
        let mut summary = QuerySummary {
            outcome: "done".into(),
            duration_ms: 12,
            rows: 5000,
            rows_shown: 1000,
            bytes: 1,
            truncated: true,
            notices_left_out: 2,
            message: None,
        };
        assert_eq!(ended(&summary), "5,000 rows in 12 ms; 1,000 shown; 2 notices left out");
        summary = QuerySummary { outcome: "cut_off".into(), message: Some("late".into()), ..summary };
        assert_eq!(
            ended(&summary),
            "It was ended by a limit after 12 ms; 1,000 shown; 2 notices left out: late"
        );
    }
}
