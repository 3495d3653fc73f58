//! The advice as a person reads it.

use component::transfer::advice::{
    Advice, Costs, Cursors, Grows, NotRecommended, Recommended, Situation, bytes, time,
};

use crate::exit::Failure;
use crate::output;

/// Columns of a line, at most.
const WIDTH: usize = 100;

pub(super) fn all(situation: &Situation, remarks: &[String], advice: &Advice) -> Result<(), Failure> {
    output::line(about(situation))?;
    list(remarks)?;
    match &advice.recommended {
        Some(recommended) => show(recommended)?,
        None => output::line("\nno mode will do as it is")?,
    }
    if !advice.warnings.is_empty() {
        output::line("\nMind")?;
        list(&advice.warnings)?;
    }
    output::line("\nThe others")?;
    for other in &advice.others {
        not_recommended(other)?;
    }
    if !advice.assumed.is_empty() {
        output::line("\nAssumed, because nobody said")?;
        list(&advice.assumed)?;
    }
    if !advice.would_change.is_empty() {
        output::line("\nIt would be another if it were known")?;
        for change in &advice.would_change {
            let mode = change.mode.map_or("none will do", |mode| mode.as_str());
            item(&format!("{}: {} -> {mode}", change.unknown, change.answer))?;
        }
    }
    Ok(())
}

/// What is known of the server, in a sentence.
fn about(situation: &Situation) -> String {
    let volume = &situation.volume;
    let changes = &situation.changes;
    let mut parts = Vec::new();
    let counts = |count: u64, one: &str, many: &str| {
        format!("{} {}", grouped(count), if count == 1 { one } else { many })
    };
    parts.extend(volume.tables.map(|count| counts(count, "table", "tables")));
    parts.extend(volume.rows.map(|count| counts(count, "row", "rows")));
    parts.extend(volume.bytes.map(bytes));
    parts.extend(changes.rows_a_day.map(|count| format!("{} a day", counts(count, "change", "changes"))));
    parts.extend(changes.log_a_day.map(|size| format!("{} of log a day", bytes(size))));
    if let Cursors::Column(cursor) = &situation.cursor {
        let by = if cursor.grows == Grows::WithUpdates { "changes" } else { "inserts" };
        parts.push(format!("new rows by `{}`, which grows with {by}", cursor.column.escape_debug()));
    }
    let from = situation.from.as_ref().map_or_else(|| "a server".to_owned(), ToString::to_string);
    if parts.is_empty() {
        format!("{from}, of which nothing is known")
    } else {
        format!("{from}: {}", parts.join(", "))
    }
}

/// `1,000,000`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn show(recommended: &Recommended) -> Result<(), Failure> {
    output::line(format!("\n{}, because", recommended.mode.as_str()))?;
    list(&recommended.reasons)?;
    output::line("\nIn stead.toml")?;
    output::line("")?;
    for text in recommended.manifest.lines() {
        output::line(format!("    {text}"))?;
    }
    if let Some(beside) = &recommended.beside {
        output::line("\nBeside it")?;
        item(beside)?;
    }
    output::line("\nIt costs")?;
    let rows: Vec<Vec<String>> =
        costs(&recommended.costs).into_iter().map(|(what, text)| vec![format!("  {what}"), text]).collect();
    for text in output::columns(&rows) {
        output::line(text)?;
    }
    if !recommended.costs.not_seen.is_empty() {
        output::line("\nIt never sees")?;
        list(&recommended.costs.not_seen)?;
    }
    output::line("\nWho depends on whom")?;
    list(&recommended.sides.depends)?;
    output::line("\nTo operate at the server")?;
    list(&recommended.sides.server)?;
    output::line("\nTo operate at the lake")?;
    list(&recommended.sides.lake)
}

fn costs(costs: &Costs) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let files = match costs.files_fresh_s {
        same if same == costs.fresh_s => String::new(),
        other => format!("; {} for who reads the files without asking the lake", time(other)),
    };
    rows.push(("age of rows", format!("{} at most{files}", time(costs.fresh_s))));
    if let Some(seconds) = costs.copy_s {
        rows.push(("a whole copy", format!("{} at best", time(seconds))));
    }
    rows.push(("reads", a_day(costs.read_bytes_a_day)));
    let keeps = match costs.log_bytes_a_day {
        Some(0) => "nothing for it".to_owned(),
        size => {
            let until = costs
                .log_lasts_s
                .map_or_else(String::new, |seconds| format!(", and lets go of it after {}", time(seconds)));
            format!("its log while nobody reads, {}{until}", a_day(size))
        }
    };
    rows.push(("server keeps", keeps));
    rows.push(("memory", format!("{} MiB at most", costs.memory_mib)));
    let size = costs.disk_bytes.map_or_else(|| "what they take in the server".to_owned(), bytes);
    let more = match costs.disk_bytes_a_day {
        Some(0) => String::new(),
        Some(size) => format!("; changes take {} a day at most", bytes(size)),
        None => "; how much changes take is not known".to_owned(),
    };
    rows.push(("disk", format!("{size} at most for one version of the tables{more}")));
    rows
}

fn a_day(size: Option<u64>) -> String {
    size.map_or_else(|| "how much a day is not known".to_owned(), |size| format!("{} a day", bytes(size)))
}

fn not_recommended(other: &NotRecommended) -> Result<(), Failure> {
    let (name, costs) = (other.mode.as_str(), &other.costs);
    let reads = match costs.read_bytes_a_day {
        Some(size) => format!(", reading {} a day", bytes(size)),
        None => String::new(),
    };
    output::line(format!("  {name} (rows {} old{reads})", time(costs.fresh_s)))?;
    other.why_not.iter().try_for_each(|why| wrapped("    - ", why))
}

fn list(texts: &[String]) -> Result<(), Failure> {
    texts.iter().try_for_each(|text| item(text))
}

fn item(text: &str) -> Result<(), Failure> {
    wrapped("  - ", text)
}

/// A line, or as many as it takes; those that follow begin below the text.
fn wrapped(begin: &str, text: &str) -> Result<(), Failure> {
    let mut line = begin.to_owned();
    let indent = begin.chars().count();
    let mut is_first = true;
    for word in text.split(' ') {
        if !is_first && line.chars().count() + 1 + word.chars().count() > WIDTH {
            output::line(&line)?;
            line = " ".repeat(indent);
            is_first = true;
        }
        if !is_first {
            line.push(' ');
        }
        line.push_str(word);
        is_first = false;
    }
    output::line(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_said_in_groups() {
        for (count, said) in [(0, "0"), (999, "999"), (1_000, "1,000"), (60_000_000, "60,000,000")] {
            assert_eq!(grouped(count), said);
        }
    }
}
