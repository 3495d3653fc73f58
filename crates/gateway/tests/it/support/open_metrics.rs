//! OpenMetrics text, read as strictly as its specification asks of what is written (version 1.0.0).

use std::collections::{BTreeMap, BTreeSet};

/// Series by name and labels, as they stand: `a_total{b="c"}`.
pub(crate) type Series = BTreeMap<String, f64>;

/// Reads a whole text; fails a test where it is not what the specification allows.
pub(crate) fn read(text: &str) -> Series {
    let body = text.strip_suffix("# EOF\n").expect("the text must end with `# EOF`");
    let (mut series, mut families) = (Series::new(), BTreeSet::new());
    let (mut family, mut kind) = (String::new(), String::new());
    for line in body.lines() {
        if let Some(said) = line.strip_prefix("# ") {
            let mut words = said.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let rest = words.next().unwrap_or_default();
            match what {
                // HELP is what we write first: a family begins, and no other of its name.
                "HELP" => {
                    assert!(families.insert(name.to_owned()), "{name} comes twice");
                    assert!(!rest.is_empty() && !rest.contains('\\'), "{line}");
                    (family, kind) = (name.to_owned(), String::new());
                }
                "TYPE" => {
                    assert_eq!(name, family, "{line}");
                    assert!(["gauge", "counter", "histogram", "info"].contains(&rest), "{line}");
                    rest.clone_into(&mut kind);
                }
                "UNIT" => assert!(name == family && name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("no such comment: {line}"),
            }
            continue;
        }
        let (name, labels, value) = sample(line);
        let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let fits = match kind.as_str() {
            "gauge" => suffix.is_empty(),
            "counter" => suffix == "_total",
            "info" => suffix == "_info",
            _ => ["_bucket", "_sum", "_count"].contains(&suffix),
        };
        assert!(fits, "{line} in a {kind}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        assert!(series.insert(format!("{name}{labels}"), value).is_none(), "{line} comes twice");
    }
    buckets_add_up(&series);
    series
}

/// Name, labels as they stand (checked), value.
fn sample(line: &str) -> (&str, &str, &str) {
    let (id, value) = line.rsplit_once(' ').unwrap();
    let at = id.find('{').unwrap_or(id.len());
    let (name, labels) = id.split_at(at);
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'), "{line}");
    let mut rest = labels;
    let mut names = BTreeSet::new();
    while let Some(inner) = rest.strip_prefix('{').or_else(|| rest.strip_prefix(',')) {
        let (label, quoted) = inner.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(
            names.insert(label) && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{line}"
        );
        let mut escaped = false;
        let end = quoted.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &quoted[end.unwrap_or_else(|| panic!("{line}")) + 1..];
    }
    assert!(rest == "}" || labels.is_empty(), "{line}");
    (name, labels, value)
}

/// Buckets grow, and the last one holds all.
fn buckets_add_up(series: &Series) {
    let mut histograms: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (id, value) in series.iter().filter(|(id, _)| id.contains("_bucket{")) {
        let (before, rest) = id.split_once("le=\"").unwrap();
        let (end, after) = rest.split_once('"').unwrap();
        let end = if end == "+Inf" { f64::INFINITY } else { end.parse().unwrap() };
        histograms.entry(format!("{before}{after}")).or_default().push((end, *value));
    }
    for (id, mut buckets) in histograms {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{id}: {buckets:?}");
        let (end, all) = *buckets.last().unwrap();
        let count = id.replace("_bucket", "_count").replace("{,", "{").replace("{}", "");
        assert!(end.is_infinite() && series[&count] == all, "{id}: {buckets:?}");
    }
}
