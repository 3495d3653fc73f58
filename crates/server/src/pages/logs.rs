//! Logs of a tenant: looked through, counted over time beside what was changed, and followed.
//!
//! Who follows asks again each second, and is mostly told that nothing is new: that costs a look at the newest lines
//! and no stream a tab.

use std::sync::LazyLock;

use askama::Template;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use client::wire::{LogHistogram, LogLine, LogPage};
use component::TenantName;
use jiff::Timestamp;
use serde_json::Value;

use super::Site;
use super::api::{Api, Refused, escaped};
use super::asked::{Asked, moment};
use super::chart::{Chart, Mark, SEVERITIES, told};
use super::failure::{At, shown};
use super::frame::Frame;
use super::settings::value;
use crate::access::Action;
use crate::sign_in::Signed;

/// Lines a page, and where they are so long that a page of them is more than is carried.
const A_PAGE: &str = "100";
const A_PAGE_OF_LONG: &str = "10";
/// Parts that the time is counted in.
const BUCKETS: &str = "60";
/// Longest message in the list, and longest value of a line that was opened, characters.
const SHORT: usize = 600;
const LONG: usize = 4_000;
/// Time that is looked through where none is named.
const USUAL: &str = "1h";
/// How far to look back: what the API takes, and in words.
const SPANS: [(&str, &str); 6] = [
    ("15m", "15 minutes"),
    ("1h", "hour"),
    ("6h", "6 hours"),
    ("24h", "24 hours"),
    ("7d", "7 days"),
    ("30d", "30 days"),
];

/// Which lines: fields of the form. `from` is `since` as a moment, and counts before it.
const FILTERS: [&str; 6] = ["q", "since", "from", "until", "stead", "component"];
/// Which page of them, whether it is followed, and which line somebody who follows has seen.
const PLACE: [&str; 3] = ["cursor", "follow", "seen"];

static FIELDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| [&FILTERS[..], &PLACE].concat());

/// What a search of the logs shows.
#[derive(Template)]
#[template(path = "logs.html", blocks = ["counts", "rows"])]
struct Logs {
    frame: Frame,
    asked: Asked,
    found: LogPage,
    chart: Chart,
    wrong: Option<Wrong>,
    /// Whether the person sees what sessions said.
    reads: bool,
    /// When the lines were asked for.
    at: Timestamp,
}

/// Why nothing was looked for.
struct Wrong {
    /// Where in the form it is; empty where it is none of its fields.
    field: &'static str,
    detail: String,
}

impl Wrong {
    fn new(detail: String, asked: &Asked) -> Self {
        let named = ["q", "since", "until", "stead", "component"];
        let named = named.into_iter().find(|name| detail.contains(&format!("`{name}`")));
        let Some(named) = named else { return Self { field: "", detail } };
        // Where it stands says of which field it is.
        let told = detail.find(&format!("`{named}`")).and_then(|at| detail.get(at..)).unwrap_or_default();
        let told = told.strip_prefix("`q`: ").unwrap_or(told);
        match named {
            "since" if !asked.get("from").is_empty() => {
                Self { field: "from", detail: told.replacen("`since`", "`from`", 1) }
            }
            field => Self { field, detail: told.to_owned() },
        }
    }
}

impl Logs {
    fn path(&self) -> String {
        format!("{}/logs", self.frame.of_tenant())
    }

    fn link(&self, without: &[&str], more: &[(&str, &str)]) -> String {
        format!("{}?{}", self.path(), self.asked.with(&[without, &PLACE].concat(), more))
    }

    fn wrong(&self, field: &str) -> Option<&str> {
        self.wrong.as_ref().filter(|wrong| wrong.field == field).map(|wrong| wrong.detail.as_str())
    }

    /// How a field says that it is wrong.
    fn invalid(&self, field: &str) -> bool {
        self.wrong(field).is_some()
    }

    fn since(&self) -> &str {
        Some(self.asked.get("since")).filter(|since| !since.is_empty()).unwrap_or(USUAL)
    }

    /// Whether the span that is looked for is none of those in the list.
    fn is_other_span(&self) -> bool {
        SPANS.iter().all(|(span, _)| *span != self.since())
    }

    fn shows_more(&self) -> bool {
        self.asked.any(&["from", "until", "stead", "component"])
    }

    /// Whether lines are picked by anything but their time.
    fn is_filtered(&self) -> bool {
        self.asked.any(&["q", "stead", "component"])
    }

    fn is_newest(&self) -> bool {
        self.asked.get("cursor").is_empty()
    }

    /// Whether lines are kept fresh.
    fn follows(&self) -> bool {
        !self.asked.get("follow").is_empty() && self.is_newest() && self.wrong.is_none()
    }

    /// Where the lines are asked for that are new since this page was made.
    fn fresh(&self) -> String {
        let newest = self.found.items.first();
        let seen = newest.map_or_else(|| format!("{}/", self.at), |line| format!("{}/{}", line.at, line.id));
        self.link(&[], &[("follow", "1"), ("seen", &seen)])
    }

    /// Where the counts are asked for anew.
    fn fresh_counts(&self) -> String {
        self.link(&[], &[("follow", "1")])
    }

    /// The newest lines, followed; that has no end.
    fn follow(&self) -> String {
        self.link(&["until"], &[("follow", "1")])
    }

    fn newest(&self) -> String {
        self.link(&[], &[])
    }

    fn older(&self, cursor: &str) -> String {
        self.link(&[], &[("cursor", cursor)])
    }

    /// Everything of the same time.
    fn of_all(&self) -> String {
        self.link(&["q", "stead", "component"], &[])
    }

    /// Links that look further back, nearest first; none where the time is named by its moments.
    fn further(&self) -> Vec<(&'static str, String)> {
        if self.asked.any(&["from", "until"]) {
            return SPANS.iter().rev().take(1).map(|span| self.back(span)).collect();
        }
        let now = SPANS.iter().position(|(span, _)| *span == self.since()).unwrap_or(0);
        SPANS.iter().skip(now + 1).map(|span| self.back(span)).collect()
    }

    fn back(&self, (span, words): &(&'static str, &'static str)) -> (&'static str, String) {
        (words, self.link(&["since", "from", "until"], &[("since", span)]))
    }

    /// The lines of a part of the time.
    fn within(&self, from: &Timestamp, until: &Timestamp) -> String {
        self.link(&["since", "from", "until"], &[("from", &from.to_string()), ("until", &until.to_string())])
    }

    /// Where a mark leads: to its line, or to all of that time.
    fn marked(&self, mark: &Mark) -> String {
        if let Some(change) = mark.only() {
            return self.change(&change.id);
        }
        let (from, until) = (mark.from.to_string(), mark.until.to_string());
        let query =
            [("since", from.as_str()), ("until", &until)].map(|(name, at)| format!("{name}={}", escaped(at)));
        let of = ["stead", "component"].map(|name| (name, self.asked.get(name)));
        let of = of.into_iter().filter(|(_, value)| !value.is_empty());
        let of = of.map(|(name, value)| format!("&{name}={}", escaped(value)));
        format!("{}/timeline?{}{}", self.frame.of_tenant(), query.join("&"), of.collect::<String>())
    }

    /// The place of a line of the journal.
    fn change(&self, id: &i64) -> String {
        format!("{}/timeline/{id}", self.frame.of_tenant())
    }

    fn lines(&self) -> Vec<Shown<'_>> {
        self.found.items.iter().map(Shown).collect()
    }

    /// What cannot be read, each once.
    fn damaged(&self) -> Vec<&str> {
        let mut damaged: Vec<&str> =
            self.found.damaged.iter().chain(&self.chart.damaged).map(String::as_str).collect();
        damaged.sort_unstable();
        damaged.dedup();
        damaged
    }
}

/// A line as it is shown.
struct Shown<'a>(&'a LogLine);

impl Shown<'_> {
    /// The word that colours its severity.
    fn colour(&self) -> &'static str {
        match self.0.level.as_str() {
            "fatal" | "error" => "bad",
            "warning" => "warn",
            _ => "",
        }
    }

    /// Whether what it says is data that the person may not read.
    fn is_withheld(&self) -> bool {
        self.0.fields.get("withheld").is_some()
    }

    fn message(&self) -> String {
        short(&self.0.message, SHORT)
    }

    /// All that it holds, as the program wrote it.
    fn fields(&self) -> Vec<(&str, String)> {
        let Value::Object(fields) = &self.0.fields else { return Vec::new() };
        fields.iter().map(|(name, of)| (name.as_str(), short(&value(of), LONG))).collect()
    }
}

/// So many characters of a text, and how many more there are.
fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => {
            let (kept, rest) = text.split_at(end);
            format!("{kept}… ({} more characters)", rest.chars().count())
        }
        None => text.to_owned(),
    }
}

/// `GET /tenants/{tenant}/logs`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "logs").in_tenant(&signed.caller, tenant.as_str());
    let asked = Asked::of(query.as_deref(), &FIELDS);
    let search =
        Search { api: Api::new(&site, &signed.caller), at: format!("/v1/tenants/{tenant}/logs"), asked };
    let part = headers.contains_key("hx-request");
    let counts = part && headers.get("hx-target").is_some_and(|target| target == "counts");
    if part && !counts && search.has_nothing_new().await {
        return StatusCode::NO_CONTENT.into_response();
    }
    let at = Timestamp::now();
    let empty = LogPage { items: Vec::new(), next: None, damaged: Vec::new() };
    let answers = async {
        // A part is made of one answer, and the page of both.
        let lines = async { if counts { Ok(empty.clone()) } else { search.lines().await } };
        let chart = async { if part && !counts { Ok(Chart::default()) } else { search.chart().await } };
        let (lines, chart) = futures::join!(lines, chart);
        Ok::<_, Refused>((lines?, chart?))
    };
    let (found, chart, wrong) = match answers.await {
        Ok((found, chart)) => (found, chart, None),
        Err(refused) if refused.0.status == StatusCode::BAD_REQUEST.as_u16() => {
            (empty.clone(), Chart::default(), Some(Wrong::new(refused.0.detail, &search.asked)))
        }
        Err(refused) => return frame.failure(refused).into_response(),
    };
    let reads = signed.caller.may_by_name(tenant.as_str(), Action::ReadData);
    let logs = Logs { frame, asked: search.asked, found, chart, wrong, reads, at };
    let mut response = match (part, counts) {
        (true, true) => shown(&logs.as_counts()),
        (true, false) => shown(&logs.as_rows()),
        (false, _) => shown(&logs),
    };
    if logs.wrong.is_some() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

/// What the API is asked.
struct Search<'a> {
    api: Api<'a>,
    at: String,
    asked: Asked,
}

impl Search<'_> {
    /// The question, with more behind it.
    fn query(&self, without: &[&str], more: &[(&str, &str)]) -> String {
        let from = moment("since", self.asked.get("from"));
        let since =
            [from.as_str(), self.asked.get("since"), USUAL].into_iter().find(|since| !since.is_empty());
        let since = since.map(|since| moment("since", since)).unwrap_or_default();
        let more = [&[("since", since.as_str())], more].concat();
        self.asked.with(&[&["since", "from", "follow", "seen"], without].concat(), &more)
    }

    async fn lines(&self) -> Result<LogPage, Refused> {
        let ask = async |limit| {
            self.api.get(&format!("{}?{}", self.at, self.query(&[], &[("limit", limit)]))).await
        };
        match ask(A_PAGE).await {
            // Each of them may be as long as a line can be.
            Err(refused) if refused.0.status >= 500 => ask(A_PAGE_OF_LONG).await,
            answer => answer,
        }
    }

    async fn chart(&self) -> Result<Chart, Refused> {
        let query = self.query(&["cursor"], &[("buckets", BUCKETS)]);
        let found: LogHistogram = self.api.get(&format!("{}/histogram?{query}", self.at)).await?;
        Ok(Chart::new(found))
    }

    /// Whether somebody who follows has seen the newest line. Only what is newer than that is looked through, so that
    /// what is rare does not have the whole time searched each second.
    async fn has_nothing_new(&self) -> bool {
        let Some((at, id)) = self.asked.get("seen").split_once('/') else { return false };
        let newest =
            self.asked.with(&["since", "from", "follow", "seen", "cursor"], &[("since", at), ("limit", "1")]);
        let found: Result<LogPage, Refused> = self.api.get(&format!("{}?{newest}", self.at)).await;
        found.is_ok_and(|found| found.items.first().is_none_or(|line| line.id == id))
    }
}
