//! `stead logs`.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use client::wire::LogLine;
use client::{Client, LogNext, LogPart};
use component::Kind;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::history::moment;
use crate::cli::{Count, LogsArgs, SaidBy};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// Before asking a server again that does not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Lines that are shown once although they come twice: so many are remembered.
const REMEMBERED: usize = 20_000;
/// A line may be stored so much later than one that was said after it.
const LATE: SignedDuration = SignedDuration::from_secs(10);

pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<(), Failure> {
    let mut part = LogPart { q: query(args), ..LogPart::default() };
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let time = |option: &str, text: &Option<String>| {
        text.as_deref().map(|text| moment(option, text, now, &zone)).transpose()
    };
    part.since = time("--since", &args.since)?;
    part.until = time("--until", &args.until)?;
    let tenant = match (args.installation, args.all) {
        (true, _) => None,
        (false, true) => Some(args.which.tenant()?),
        (false, false) => Some(args.which.named()?.tenant),
    };
    let client = context.client().await?;
    if !args.installation && !args.all {
        let named = args.which.named()?;
        part.component = match args.component.as_deref() {
            Some(name) => Some(named.component(&client, Some(name), Kind::Postgres).await?.name),
            None => named.get(&client).await.map(|_| None)?,
        };
        part.stead = Some(named.stead.into());
    }
    let tenant = tenant.as_ref().map(|tenant| tenant.as_str());
    match (args.lines, tenant) {
        (Count::All, Some(tenant)) if !args.follow => stream(context, &client, tenant, &part).await,
        (count, _) => {
            let most = match count {
                Count::All => usize::MAX,
                Count::Most(most) => usize::try_from(most).unwrap_or(usize::MAX),
            };
            let newest = newest(&client, tenant, &part, most).await?;
            for line in &newest {
                show(context, line)?;
            }
            if args.follow { follow(context, client, tenant, part, newest).await } else { Ok(()) }
        }
    }
}

/// The query of all that was said on the command line.
fn query(args: &LogsArgs) -> Option<String> {
    let by = match args.by {
        SaidBy::Components if args.installation => None,
        SaidBy::Components => Some("-source:gateway -source:keeper"),
        SaidBy::Function => Some("source:function"),
        SaidBy::Postgres => Some("source:postgres"),
        SaidBy::Gateway => Some("source:gateway"),
        SaidBy::Keeper => Some("source:keeper"),
        SaidBy::All => None,
    };
    let grep = args.grep.as_ref().map(|pattern| format!("/{}/", escaped(pattern)));
    let request = args.request.map(|id| format!("request_id:{id}"));
    let terms: Vec<String> =
        by.map(str::to_owned).into_iter().chain(grep).chain(request).chain(args.query.clone()).collect();
    Some(terms.join(" ")).filter(|query| !query.is_empty())
}

/// A pattern between slashes: a slash that is not escaped already is.
fn escaped(pattern: &str) -> String {
    let mut text = String::new();
    let mut after_backslash = false;
    for c in pattern.chars() {
        if c == '/' && !after_backslash {
            text.push('\\');
        }
        text.push(c);
        after_backslash = c == '\\' && !after_backslash;
    }
    text
}

/// The newest lines, oldest first.
async fn newest(
    client: &Client,
    tenant: Option<&str>,
    part: &LogPart,
    most: usize,
) -> Result<Vec<LogLine>, Failure> {
    let mut lines = Vec::new();
    let mut part = part.clone();
    loop {
        part.limit = Some(u32::try_from((most - lines.len()).min(500)).unwrap_or(500));
        let page = client.logs(tenant, &part).await?;
        lines.extend(page.items);
        page.damaged.iter().for_each(|what| output::remark(format!("a part of the logs is damaged: {what}")));
        match page.next {
            Some(next) if lines.len() < most => part.cursor = Some(next),
            _ => break,
        }
    }
    lines.reverse();
    Ok(lines)
}

/// Every line, newest first, as they are found.
async fn stream(context: &Context, client: &Client, tenant: &str, part: &LogPart) -> Result<(), Failure> {
    let mut lines = client.logs_stream(tenant, part).await?;
    loop {
        match lines.next().await? {
            Some(LogNext::Line(line)) => show(context, &line)?,
            Some(LogNext::Behind) => {}
            Some(LogNext::End(end)) => {
                let remark = |what: &String| output::remark(format!("a part of the logs is damaged: {what}"));
                end.damaged.iter().for_each(remark);
                return end.error.map_or(Ok(()), |error| Err(Failure::Failed(error)));
            }
            None => return Err(Failure::Failed("the server ended before the lines did; try again".into())),
        }
    }
}

/// Shows what is added; goes on where it was when the server comes back.
async fn follow(
    context: &Context,
    mut client: Client,
    tenant: Option<&str>,
    mut part: LogPart,
    newest: Vec<LogLine>,
) -> Result<(), Failure> {
    let mut shown = Shown::default();
    let start = Timestamp::now();
    let mut last = newest.iter().filter_map(|line| line.at.parse().ok()).max().unwrap_or(start);
    for line in &newest {
        shown.is_new(&line.id);
    }
    let mut away = false;
    loop {
        part.since = Some(last.checked_sub(LATE).unwrap_or(last).to_string());
        // What was shown at first is the end of what there was: older lines are not new.
        let old = newest.first().and_then(|line| line.at.parse::<Timestamp>().ok()).unwrap_or(start);
        let ended = match client.follow_logs(tenant, &part).await {
            Ok(mut lines) => {
                away = false;
                loop {
                    match lines.next().await {
                        Ok(Some(LogNext::Line(line))) => {
                            let at = line.at.parse().unwrap_or(last);
                            last = last.max(at);
                            if at >= old && shown.is_new(&line.id) {
                                show(context, &line)?;
                            }
                        }
                        Ok(Some(LogNext::Behind | LogNext::End(_)) | None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            }
            Err(error) => Err(error),
        };
        match ended.map_err(Failure::from) {
            Ok(()) => {}
            // The server being followed goes on while the control plane restarts.
            Err(Failure::Unreachable(_)) => {
                if !std::mem::replace(&mut away, true) {
                    output::remark("the Stead server does not answer; trying again");
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(AGAIN).await;
        if let Ok(back) = context.client().await {
            client = back;
        }
    }
}

/// Ids of lines that were shown.
#[derive(Default)]
struct Shown {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Shown {
    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

fn show(context: &Context, line: &LogLine) -> Result<(), Failure> {
    if context.json {
        // A line each, so that `--follow` can be piped.
        return output::line(serde_json::to_string(line).map_err(Failure::failed)?);
    }
    let at = line.at.parse::<Timestamp>().map_or_else(
        |_| line.at.clone(),
        |at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    );
    let rest = if line.cut { " ..." } else { "" };
    let component = line.component.as_deref().unwrap_or_default();
    let who = match line.source.as_str() {
        "postgres" => String::new(),
        "function" => format!("{}: ", component.trim_start_matches("function.")),
        other => format!("{other}: "),
    };
    output::line(format!("{at}  {:<7}  {who}{}{rest}", line.severity, line.message))?;
    for name in ["detail", "hint", "context", "statement"] {
        if let Some(text) = line.fields.get(name).and_then(|value| value.as_str()) {
            output::line(format!("    {name}: {text}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_in_a_pattern_is_a_slash() {
        assert_eq!(escaped("a/b"), "a\\/b");
        assert_eq!(escaped("a\\/b"), "a\\/b");
        assert_eq!(escaped("a\\\\/b"), "a\\\\\\/b");
    }
}
