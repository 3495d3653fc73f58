//! What a page that searches was asked for: the fields of its form, as they were typed.

use jiff::civil::{Date, DateTime};

use super::api::escaped;

/// Longest value that is kept, characters: more than anything that is looked for may have, so that the API says so.
const LONGEST: usize = 1_000;

/// Fields of a form that searches, by name. What is not known or not filled in is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked(Vec<(&'static str, String)>);

impl Asked {
    /// Reads the fields of these names. Of one that stands twice the last counts, as in a form that was edited by hand.
    pub(crate) fn of(query: Option<&str>, names: &[&'static str]) -> Self {
        let mut fields: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let Some(name) = names.iter().find(|known| **known == name) else { continue };
            fields.retain(|(known, _)| known != name);
            if !value.trim().is_empty() {
                fields.push((name, value.chars().take(LONGEST).collect()));
            }
        }
        Self(fields)
    }

    /// A field; empty where it is not filled in.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Whether any of these is filled in.
    pub(crate) fn any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| !self.get(name).is_empty())
    }

    /// Everything but these, with `more` behind it: a query for a link, or for the API.
    pub(crate) fn with(&self, without: &[&str], more: &[(&str, &str)]) -> String {
        let kept = self.0.iter().filter(|(name, _)| !without.contains(name));
        let kept = kept.map(|(name, value)| (*name, moment(name, value)));
        let more = more.iter().filter(|(_, value)| !value.is_empty());
        let all = kept.chain(more.map(|(name, value)| (*name, (*value).to_owned())));
        all.map(|(name, value)| format!("{name}={}", escaped(&value))).collect::<Vec<_>>().join("&")
    }
}

/// A day or a minute as people write it is one of UTC; anything else is for the API to judge.
pub(crate) fn moment(name: &str, value: &str) -> String {
    let text = value.trim();
    if !matches!(name, "since" | "until") {
        return value.to_owned();
    }
    let plain = text.len() <= 19 && !text.ends_with(['Z', 'z']);
    let read = || match text.len() {
        10 => text.parse::<Date>().ok().map(|day| day.to_datetime(jiff::civil::Time::midnight())),
        _ => text.parse::<DateTime>().ok(),
    };
    match plain.then(read).flatten() {
        Some(read) => format!("{read}Z"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written() {
        let asked = Asked::of(
            Some("q=a%26b&q=c+d&x=1&stead=&since=2026-11-21&actor=%ff"),
            &["q", "stead", "since", "actor"],
        );
        assert_eq!((asked.get("q"), asked.get("stead"), asked.get("x")), ("c d", "", ""));
        assert_eq!(
            asked.with(&["actor"], &[("cursor", "a&b"), ("none", "")]),
            "q=c%20d&since=2026-11-21T00%3A00%3A00Z&cursor=a%26b"
        );
        assert!(asked.any(&["stead", "q"]) && !asked.any(&["stead"]));
        assert_eq!(Asked::of(None, &["q"]).with(&[], &[]), "");
        let long = Asked::of(Some(&format!("q={}", "x".repeat(5_000))), &["q"]);
        assert_eq!(long.get("q").len(), LONGEST);
    }

    #[test]
    fn moments_are_written_as_people_do() {
        for (typed, asked) in [
            ("2026-11-21", "2026-11-21T00:00:00Z"),
            ("2026-11-21 09:30", "2026-11-21T09:30:00Z"),
            (" 2026-11-21T09:30:15 ", "2026-11-21T09:30:15Z"),
            ("2026-11-21T09:30:15Z", "2026-11-21T09:30:15Z"),
            ("2026-11-21T09:30:15+09:00", "2026-11-21T09:30:15+09:00"),
            ("7d", "7d"),
            ("2026-13-45", "2026-13-45"),
            ("yesterday", "yesterday"),
            ("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}"),
        ] {
            assert_eq!(moment("since", typed), asked, "{typed:?}");
        }
        assert_eq!(moment("q", " 2026-11-21"), " 2026-11-21");
    }
}
