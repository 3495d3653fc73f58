//! What happened in a tenant, newest first, and each line at a place of its own. The audit ([`super::audit`]) is the
//! same search with the record to take along.

use std::borrow::Cow;

use askama::Template;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use client::wire::{Difference, HistoryLine, HistoryPage};
use component::TenantName;
use uuid::Uuid;

use super::Site;
use super::api::{Api, Refused};
use super::asked::Asked;
use super::failure::{At, shown};
use super::frame::Frame;
use super::settings::value;
use super::words;
use crate::sign_in::Signed;

/// Lines a page.
const A_PAGE: u16 = 50;
/// Fields that differ, in a list; the line's own page shows all.
const SOME_FIELDS: usize = 6;
/// Longest value in a list, characters; the line's own page shows all of it.
const SHORT: usize = 120;

/// Which lines: the fields of the form, as the API has them too.
pub(crate) const FILTERS: [&str; 10] =
    ["q", "category", "outcome", "stead", "component", "actor", "action", "operation", "since", "until"];
/// Those of them that are not asked for at first sight.
const MORE: [&str; 6] = ["stead", "component", "actor", "action", "since", "until"];
/// Which page, beside them: a cursor, and `newer` where it leads towards now.
const PLACE: [&str; 2] = ["cursor", "way"];

/// What a search of the journal shows.
#[derive(Template)]
#[template(path = "timeline.html", blocks = ["rows"])]
pub(crate) struct Timeline {
    frame: Frame,
    asked: Asked,
    found: HistoryPage,
    /// Why nothing was looked for: something in the form is not right.
    wrong: Option<String>,
    /// The path of this page.
    path: String,
    /// Whether it is the audit.
    audit: bool,
}

impl Timeline {
    fn is_filtered(&self) -> bool {
        self.asked.any(&FILTERS)
    }

    fn shows_more(&self) -> bool {
        self.asked.any(&MORE)
    }

    /// Whether it is the page that new lines come to.
    fn is_newest(&self) -> bool {
        !self.asked.any(&PLACE)
    }

    fn is_towards_now(&self) -> bool {
        self.asked.get("way") == "newer"
    }

    /// What its lines are kept fresh by: new ones come to the newest page of a timeline. A record that is being looked
    /// through for an audit stays as it was when it was asked for.
    fn live(&self) -> Option<&str> {
        self.frame.tenant.as_deref().filter(|_| self.is_newest() && !self.audit && self.wrong.is_none())
    }

    /// Where newer lines are, unless it was just seen that there are none.
    fn newer(&self) -> Option<&str> {
        let more = !self.found.items.is_empty() || self.found.looked_to.is_some();
        self.found.newer.as_deref().filter(|_| more)
    }

    fn has_pages(&self) -> bool {
        self.found.next.is_some() || !self.is_newest()
    }

    /// Whether the action that is looked for is none of those in the list.
    fn is_other_action(&self) -> bool {
        let action = self.asked.get("action");
        !action.is_empty() && words::actions().all(|(name, _)| name != action)
    }

    /// The address of this very page.
    fn here(&self) -> String {
        format!("{}?{}", self.path, self.asked.with(&[], &[]))
    }

    /// The address of the page beyond a cursor.
    fn at(&self, cursor: &str, way: &str) -> String {
        format!("{}?{}", self.path, self.asked.with(&PLACE, &[("cursor", cursor), ("way", way)]))
    }

    /// The address of the newest page.
    fn newest(&self) -> String {
        format!("{}?{}", self.path, self.asked.with(&PLACE, &[]))
    }

    /// The address without being of one run.
    fn of_all_runs(&self) -> String {
        format!("{}?{}", self.path, self.asked.with(&["operation", PLACE[0], PLACE[1]], &[]))
    }

    /// Whether this is what is looked for.
    fn is(&self, field: &str, value: &str) -> bool {
        self.asked.get(field) == value
    }

    /// The address of the record as a file.
    fn file(&self, format: &str) -> String {
        format!("{}/export?{}", self.path, self.asked.with(&PLACE, &[("format", format)]))
    }

    /// Lines of the same day, in UTC.
    fn days(&self) -> Vec<(String, Vec<Shown<'_>>)> {
        let day = |line: &HistoryLine| line.at.strftime("%-d %B %Y").to_string();
        let days = self.found.items.chunk_by(|one, other| day(one) == day(other));
        let shown = |lines: &'_ [HistoryLine]| lines.first().map(day).unwrap_or_default();
        days.map(|lines| (shown(lines), lines.iter().map(|line| Shown::new(line, &self.frame)).collect()))
            .collect()
    }
}

/// A line as it is shown.
pub(crate) struct Shown<'a> {
    pub(crate) line: &'a HistoryLine,
    frame: &'a Frame,
    /// The run whose page it is shown on.
    within: Option<Uuid>,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(line: &'a HistoryLine, frame: &'a Frame) -> Self {
        Self { line, frame, within: None }
    }

    /// On the page of a run.
    pub(crate) fn within(run: Uuid, line: &'a HistoryLine, frame: &'a Frame) -> Self {
        Self { within: Some(run), ..Self::new(line, frame) }
    }

    /// What happened, in plain words.
    pub(crate) fn words(&self) -> String {
        words::line(self.line)
    }

    /// Where the tenant's pages are; none for a line of no tenant.
    fn tenant(&self) -> Option<String> {
        self.line.tenant.as_ref().map(|tenant| format!("{}/tenants/{tenant}", self.frame.base))
    }

    /// The run that it is of, where that is not the page it stands on.
    pub(crate) fn other_run(&self) -> Option<String> {
        self.run().filter(|_| self.within != self.line.operation)
    }

    /// Whether it has to be said whose it is.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.frame.tenant.is_none()
    }

    /// The line's own page.
    pub(crate) fn place(&self) -> Option<String> {
        self.tenant().map(|at| format!("{at}/timeline/{}", self.line.id))
    }

    /// What happened in the same stead.
    pub(crate) fn beside(&self) -> Option<String> {
        self.tenant().zip(self.line.stead.as_ref()).map(|(at, stead)| format!("{at}/timeline?stead={stead}"))
    }

    /// From where, in short: which browser somebody has is on the line's own page.
    pub(crate) fn source(&self) -> Cow<'a, str> {
        match self.line.source.split_once(" Mozilla/") {
            Some((address, _)) => Cow::Owned(format!("{address}, a browser")),
            None => Cow::Borrowed(&self.line.source),
        }
    }

    /// The run that it is of.
    pub(crate) fn run(&self) -> Option<String> {
        self.tenant().zip(self.line.operation).map(|(at, id)| format!("{at}/runs/{id}"))
    }

    /// What differs, in short. Hashes and moments that a host wrote down are for programs, and what the reason says is
    /// said.
    pub(crate) fn differences(&self) -> Vec<(&'a str, String, String)> {
        self.told()
            .take(SOME_FIELDS)
            .map(|one| (one.field.as_str(), short(&one.before), short(&one.after)))
            .collect()
    }

    pub(crate) fn has_differences(&self) -> bool {
        self.told().next().is_some()
    }

    /// How many fields are left out of that.
    pub(crate) fn left_out(&self) -> usize {
        self.told().count().saturating_sub(SOME_FIELDS)
    }

    fn told(&self) -> impl Iterator<Item = &'a Difference> + use<'a> {
        let line = self.line;
        let said = |text: &str| line.reason.as_deref().is_some_and(|reason| reason.contains(text));
        line.differences.iter().filter(move |one| {
            let for_programs = matches!(one.field.as_str(), "sha256" | "at" | "kind");
            let again = line.outcome == "noted" && one.after.as_str().is_some_and(said);
            let same = value(&one.before) == value(&one.after);
            !(for_programs || again || same)
        })
    }
}

fn short(shown: &serde_json::Value) -> String {
    let text = value(shown);
    match text.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `GET /tenants/{tenant}/timeline`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(tenant): At<TenantName>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "timeline").in_tenant(&signed.caller, tenant.as_str());
    let path = format!("{}/timeline", frame.of_tenant());
    let asked = asked(query.as_deref());
    let from = format!("/v1/tenants/{tenant}/history");
    match search(&site, &signed, &from, &asked).await {
        Ok((found, wrong)) => {
            let timeline = Timeline { frame, asked, found, wrong, path, audit: false };
            if headers.contains_key("hx-request") { shown(&timeline.as_rows()) } else { timeline.shown() }
        }
        Err(refused) => frame.failure(refused).into_response(),
    }
}

impl Timeline {
    /// The audit.
    pub(crate) fn audit(
        frame: Frame,
        asked: Asked,
        (found, wrong): (HistoryPage, Option<String>),
        path: String,
    ) -> Self {
        Self { frame, asked, found, wrong, path, audit: true }
    }

    pub(crate) fn shown(&self) -> Response {
        let mut response = shown(self);
        if self.wrong.is_some() {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }
}

/// What a form of a search holds.
pub(crate) fn asked(query: Option<&str>) -> Asked {
    Asked::of(query, &[&FILTERS[..], &PLACE].concat())
}

/// Asks the API; what is wrong in the form is told beside it, so that it can be put right.
pub(crate) async fn search(
    site: &Site,
    signed: &Signed,
    from: &str,
    asked: &Asked,
) -> Result<(HistoryPage, Option<String>), Refused> {
    let query = asked.with(&["way"], &[("limit", &A_PAGE.to_string())]);
    match Api::new(site, &signed.caller).get(&format!("{from}?{query}")).await {
        Ok(found) => Ok((found, None)),
        Err(refused) if refused.0.status == StatusCode::BAD_REQUEST.as_u16() => {
            let nothing = HistoryPage { items: Vec::new(), next: None, newer: None, looked_to: None };
            Ok((nothing, Some(refused.0.detail)))
        }
        Err(refused) => Err(refused),
    }
}

/// One line.
#[derive(Template)]
#[template(path = "line.html")]
struct Line {
    frame: Frame,
    line: HistoryLine,
}

impl Line {
    fn shown(&self) -> Shown<'_> {
        Shown::new(&self.line, &self.frame)
    }

    fn category(&self) -> &str {
        let known = words::CATEGORIES.iter().find(|(name, _)| *name == self.line.category);
        known.map_or(self.line.category.as_str(), |(_, words)| words)
    }

    fn outcome(&self) -> &str {
        let known = words::OUTCOMES.iter().find(|(name, _)| *name == self.line.outcome);
        known.map_or(self.line.outcome.as_str(), |(_, words)| words)
    }
}

/// `GET /tenants/{tenant}/timeline/{id}`
pub(crate) async fn line(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, id)): At<(TenantName, i64)>,
) -> Response {
    let frame = Frame::of(&site, &signed.caller, "timeline").in_tenant(&signed.caller, tenant.as_str());
    let path = format!("/v1/tenants/{tenant}/history/{id}");
    match Api::new(&site, &signed.caller).get(&path).await {
        Ok(line) => shown(&Line { frame, line }),
        Err(refused) => frame.failure(refused).into_response(),
    }
}
