//! `stead history`.

use client::Part;
use client::wire::HistoryLine;
use component::TenantName;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::cli::{Search, Which};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// Whose history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    /// None: all tenants', and what is no tenant's.
    tenant: Option<TenantName>,
    /// None: all of the tenant's.
    stead: Option<String>,
}

impl Scope {
    pub(super) fn of(which: &Which, all: bool, installation: bool) -> Result<Self, Failure> {
        if installation {
            return Ok(Self { tenant: None, stead: None });
        }
        let tenant = which.tenant()?;
        // Where no stead is named, not even by a stead.toml, the tenant is all that is meant.
        let stead = which.named().ok().filter(|_| !all).map(|named| named.stead.into());
        Ok(Self { tenant: Some(tenant), stead })
    }
}

pub(super) async fn run(
    context: &Context,
    scope: Scope,
    since: Option<String>,
    search: Search,
    lines: u32,
) -> Result<(), Failure> {
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let since = since.map(|text| moment("--since", &text, now, &zone)).transpose()?;
    let until = search.until.map(|text| moment("--until", &text, now, &zone)).transpose()?;
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let client = context.client().await?;
    let mut found = Vec::new();
    let mut part = Part {
        stead: scope.stead.clone(),
        since,
        until,
        actor: search.actor,
        action: search.action,
        category: search.category,
        outcome: search.outcome,
        q: search.grep,
        operation: search.operation,
        limit: Some(lines.clamp(1, 500)),
        ..Part::default()
    };
    loop {
        // A page may well be empty and have a next: the search goes on where it stopped.
        let page = match &scope.tenant {
            Some(tenant) => client.history(tenant.as_str(), &part).await?,
            None => client.whole_history(&part).await?,
        };
        found.extend(page.items);
        match page.next {
            Some(next) if found.len() < wanted => part.cursor = Some(next),
            _ => break,
        }
    }
    found.truncate(wanted);
    if context.json {
        return output::json(&found);
    }
    found.reverse();
    let groups: Vec<&[HistoryLine]> = found.chunk_by(alike).collect();
    let heads: Vec<Vec<String>> = groups.iter().filter_map(|group| head(group, &scope)).collect();
    for (group, head) in groups.iter().zip(output::columns(&heads)) {
        output::line(head)?;
        for text in group.first().map(details).unwrap_or_default() {
            output::line(text)?;
        }
    }
    if found.is_empty() {
        output::remark("nothing is on record");
    }
    Ok(())
}

/// Whether two lines say the same of different moments: they are shown as one.
fn alike(left: &HistoryLine, right: &HistoryLine) -> bool {
    let bare = left.differences.is_empty() && left.reason.is_none() && right.differences.is_empty();
    let what = |line: &HistoryLine| (line.actor.clone(), line.action.clone(), line.outcome.clone());
    let where_ = |line: &HistoryLine| {
        (line.tenant.clone(), line.stead.clone(), line.component.clone(), line.source.clone())
    };
    bare && right.reason.is_none() && what(left) == what(right) && where_(left) == where_(right)
}

/// When, who, where (as far as the scope does not say it), what.
fn head(group: &[HistoryLine], scope: &Scope) -> Option<Vec<String>> {
    let (line, last) = (group.first()?, group.last()?);
    let tenant = line.tenant.as_deref().filter(|_| scope.tenant.is_none());
    let stead = line.stead.as_deref().filter(|_| scope.stead.is_none());
    let place =
        [tenant, stead, line.component.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let mut action = line.action.clone();
    if let Some(kind) = condition(line) {
        action += &format!(" {kind}");
    }
    if line.outcome == "refused" {
        action += ", REFUSED";
    }
    if group.len() > 1 {
        let until = output::moment(last.at);
        let until = until.split_once(' ').map_or(until.as_str(), |(_, time)| time);
        action += &format!(" {} times, last {until}", group.len());
    }
    Some(vec![output::moment(line.at), line.actor.clone(), place, action])
}

/// The kind of a condition that came or went.
fn condition(line: &HistoryLine) -> Option<&str> {
    let difference = line.differences.first().filter(|_| line.action.starts_with("condition."))?;
    difference.after.as_str().or(difference.before.as_str())
}

/// Why, and from what to what.
fn details(line: &HistoryLine) -> Vec<String> {
    if line.action == "condition.cleared" {
        // What was wrong was told when it came.
        return Vec::new();
    }
    let mut lines: Vec<String> = line.reason.iter().map(|reason| format!("    {reason}")).collect();
    // Hashes and the moment that a host wrote down are for programs (`--json`), and what the reason says is said.
    let told = |value: &serde_json::Value| {
        value.as_str().is_some_and(|text| line.reason.as_deref().is_some_and(|reason| reason.contains(text)))
    };
    let known = condition(line).is_some();
    let shown: Vec<_> = line
        .differences
        .iter()
        .filter(|_| !known)
        .filter(|difference| !matches!(difference.field.as_str(), "sha256" | "at" | "kind"))
        .filter(|difference| line.outcome != "noted" || !told(&difference.after))
        .cloned()
        .collect();
    lines.extend(output::differences(&shown, 4));
    lines
}

/// What the server understands as `since`: a span goes as it is, a day or a local time as its moment.
pub(super) fn moment(option: &str, text: &str, now: Timestamp, zone: &TimeZone) -> Result<String, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "{option} `{text}` is no time; write a span back from now like 7d, 2h or 30m, a day like 2026-11-21, \
             or a moment like \"2026-11-21 09:00\""
        ))
    };
    let span = text.strip_suffix(['d', 'h', 'm', 's']).is_some_and(|n| n.parse::<u32>().is_ok());
    if span || text.parse::<Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    let local: DateTime = match text {
        "today" => now.to_zoned(zone.clone()).start_of_day().map_err(|_| wrong())?.datetime(),
        "yesterday" => {
            let day = now.to_zoned(zone.clone()).yesterday().and_then(|day| day.start_of_day());
            day.map_err(|_| wrong())?.datetime()
        }
        _ => text.parse().map_err(|_| wrong())?,
    };
    Ok(local.to_zoned(zone.clone()).map_err(|_| wrong())?.timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_written_as_people_write_it() {
        let now: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        for (text, meant) in [
            ("7d", "7d"),
            ("30m", "30m"),
            ("2026-11-21T09:00:00Z", "2026-11-21T09:00:00Z"),
            ("2026-11-21", "2026-11-20T15:00:00Z"),
            ("2026-11-21 09:00", "2026-11-21T00:00:00Z"),
            ("today", "2026-11-21T15:00:00Z"),
            ("yesterday", "2026-11-20T15:00:00Z"),
        ] {
            assert_eq!(moment("--since", text, now, &zone).unwrap(), meant, "{text}");
        }
        for text in ["", "soon", "d", "-1d", "2026-13-01", "1.5h", "7d; drop table x"] {
            assert!(moment("--since", text, now, &zone).is_err(), "{text}");
        }
    }
}
