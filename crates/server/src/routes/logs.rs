//! Logs: pages, streams, counts over time, and following.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use client::wire::{self, Page};
use component::{ComponentName, SteadName, TenantId};
use jiff::{SignedDuration, Timestamp};
use logs::{Line, LineId, Owner, Search, View};
use serde::Deserialize;
use store::journal::search::{Filter, Part};
use tokio::sync::{broadcast, mpsc};
use utoipa::IntoParams;

use super::{ComponentPath, TenantPath};
use crate::App;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query};
use crate::paging::{self, Cursor, Limit, Since, Until};
use crate::problem::Problem;
use crate::searching::{Key, damaged, micros, shown};

/// Time that is counted where none is named.
const LAST: SignedDuration = SignedDuration::from_hours(1);
/// Changes shown beside counts, at most.
const CHANGES: usize = 500;
/// Lines that were stored before, at most, that following begins with.
const BEFORE: usize = 10_000;
/// Following ends then, so that whoever lost the right to it does not follow for ever; clients begin again by themselves.
const LONGEST: Duration = Duration::from_secs(600);
/// A following that has nothing to say says so, so that whatever is in between keeps it.
const ALIVE: Duration = Duration::from_secs(15);

/// Whether the caller sees that something happened, but not the data that it happened to: one place for it, because
/// every way to lines asks here. Who may read logs and no data sees that much.
fn view(caller: &Caller, owner: Owner) -> View {
    let reads = match owner {
        Owner::Tenant(tenant) => caller.can(tenant, Action::ReadData),
        Owner::Installation => caller.may(Action::ReadData).is_ok(),
    };
    if reads { View::Whole } else { View::Withheld }
}

/// What to look for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Wanted(logs::Query);

impl TryFrom<String> for Wanted {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: logs::QueryError| format!("`q`: {error}"))
    }
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// What must be true of a line: words, "phrases", field:value, /expressions/, and - before what must not be.
    #[serde(default)]
    #[param(value_type = Option<String>, max_length = 4096, example = "severity:error \"duplicate key\"")]
    q: Wanted,
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`, `30m`).
    #[param(value_type = Option<String>)]
    since: Option<Since>,
    /// Only before then, written the same way.
    #[param(value_type = Option<String>)]
    until: Option<Until>,
    /// Only of this stead.
    #[param(value_type = Option<String>)]
    stead: Option<SteadName>,
    /// Only of this component, as it was called when the line was written.
    #[param(value_type = Option<String>)]
    component: Option<ComponentName>,
}

/// Which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsPart {
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// How finely to count.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct BucketsQuery {
    /// Parts of the time, each counted by itself.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    buckets: Limit,
}

/// Which part of a server's log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct NewestQuery {
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`, `30m`).
    #[param(value_type = Option<String>)]
    since: Option<Since>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

fn search(owner: Owner, query: LogsQuery, caller: &Caller) -> Search {
    let all = Search::all(owner);
    Search {
        query: query.q.0,
        since: query.since.map_or(all.since, |since| micros(since.0)),
        until: query.until.map_or(all.until, |until| micros(until.0)),
        stead: query.stead.map(String::from),
        component: query.component.map(String::from),
        view: view(caller, owner),
        ..all
    }
}

/// The newest lines of a server's log, oldest first
///
/// Whatever the server is called now or was called then.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/logs", tag = "logs",
    operation_id = "component_logs", params(ComponentPath, NewestQuery),
    responses((status = 200, description = "The lines", body = Page<wire::LogLine>)))]
pub(crate) async fn of_component(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<NewestQuery>,
) -> Result<Json<Page<wire::LogLine>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadLogs).await?;
    let component = super::components::find(&app, &tenant, &at).await?;
    let all = Search::all(Owner::Tenant(tenant.id));
    let search = Search {
        // What is called a component's log is what it says itself.
        query: format!("source:{}", at.component.kind).parse().map_err(|error| Problem::internal(&error))?,
        since: query.since.map_or(all.since, |since| micros(since.0).saturating_add(1)),
        server: Some(component.id.handle()),
        view: view(&caller, Owner::Tenant(tenant.id)),
        ..all
    };
    let (mut lines, damage) = app.logs.newest(search, query.limit.count()).await?;
    damaged(&damage);
    lines.reverse();
    Ok(Json(Page { items: lines.iter().map(shown).collect(), next: None }))
}

/// Lines of a tenant's logs, newest first
///
/// What its servers said, and what gateway and keeper said of them. Lines are found a moment after they were written.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/logs", tag = "logs", operation_id = "logs",
    params(TenantPath, LogsQuery, LogsPart),
    responses((status = 200, description = "A page of lines", body = wire::LogPage)))]
pub(crate) async fn of_tenant(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<LogsQuery>,
    Query(part): Query<LogsPart>,
) -> Result<Json<wire::LogPage>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadLogs).await?;
    page(&app, search(Owner::Tenant(tenant.id), query, &caller), &part).await
}

/// Lines that are no tenant's, newest first
///
/// What the control plane, the gateway, the archiver and the control plane's own server said. Takes a token of scope
/// operator.
#[utoipa::path(get, path = "/v1/logs", tag = "logs", operation_id = "own_logs", params(LogsQuery, LogsPart),
    responses((status = 200, description = "A page of lines", body = wire::LogPage),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn of_installation(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<LogsQuery>,
    Query(part): Query<LogsPart>,
) -> Result<Json<wire::LogPage>, Problem> {
    caller.may(Action::ReadWholeJournal)?;
    page(&app, search(Owner::Installation, query, &caller), &part).await
}

async fn page(app: &App, search: Search, part: &LogsPart) -> Result<Json<wire::LogPage>, Problem> {
    let after: Option<Key> = paging::key_of(part.cursor.as_ref())?;
    let most = part.limit.count();
    let (mut lines, damage) = app.logs.newest(Search { after, ..search }, most + 1).await?;
    let more = lines.len() > most;
    lines.truncate(most);
    let next = lines.last().filter(|_| more).map(|line| Cursor::new(&(line.at, line.id)).into());
    let items = lines.iter().map(shown).collect();
    Ok(Json(wire::LogPage { items, next, damaged: damaged(&damage) }))
}

/// All lines of a tenant's logs that are meant, newest first, as they are found
///
/// A JSON object a line; the last one has `end` and nothing else, and says that it is the last.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/logs/stream", tag = "logs", operation_id = "logs_stream",
    params(TenantPath, LogsQuery),
    responses((status = 200, description = "The lines, newline-delimited JSON", body = String,
               content_type = "application/x-ndjson")))]
pub(crate) async fn stream(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadLogs).await?;
    let lines = app.logs.stream(search(Owner::Tenant(tenant.id), query, &caller));
    let body =
        Body::from_stream(futures::StreamExt::fuse(futures::stream::unfold(lines, async |mut lines| {
            let part = lines.recv().await?;
            Some((Ok::<_, Infallible>(part), lines))
        })));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// How many lines there were over time, by severity, and what was changed meanwhile
///
/// Of the last hour, unless `since` and `until` say otherwise.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/logs/histogram", tag = "logs", operation_id = "logs_histogram",
    params(TenantPath, LogsQuery, BucketsQuery),
    responses((status = 200, description = "The counts", body = wire::LogHistogram)))]
pub(crate) async fn histogram(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<LogsQuery>,
    Query(how): Query<BucketsQuery>,
) -> Result<Json<wire::LogHistogram>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadLogs).await?;
    let until = query.until.map_or_else(Timestamp::now, |until| until.0);
    let since = query.since.map_or_else(|| until.checked_sub(LAST).unwrap_or(until), |since| since.0);
    if since >= until {
        return Err(Problem::bad_request("`since` has to be before `until`"));
    }
    let search = search(Owner::Tenant(tenant.id), query, &caller);
    let changes = changes(&app, tenant.id, &search, since, until).await?;
    let search = Search { since: micros(since), until: micros(until), ..search };
    let counts = app.logs.histogram(search, how.buckets.count()).await?;
    let buckets = counts.buckets.iter().map(|bucket| {
        let [debug, info, warning, error, fatal] = bucket.severities;
        let from = Timestamp::from_microsecond(bucket.from).unwrap_or(since);
        wire::LogBucket { from, debug, info, warning, error, fatal }
    });
    Ok(Json(wire::LogHistogram {
        width_ms: u64::try_from(counts.width / 1000).unwrap_or(0),
        buckets: buckets.collect(),
        total: counts.total(),
        changes,
        damaged: damaged(&counts.damage),
    }))
}

/// What is on record of the time, newest first.
async fn changes(
    app: &App,
    tenant: TenantId,
    search: &Search,
    since: Timestamp,
    until: Timestamp,
) -> Result<Vec<wire::LogChange>, Problem> {
    let filter = Filter {
        tenant: Some(tenant),
        stead: search.stead.clone(),
        component: search.component.clone(),
        since: Some(since),
        until: Some(until),
        ..Filter::default()
    };
    let found = app.store.history(&filter, Part::newest(CHANGES)).await?;
    let change = |line: store::journal::Line| wire::LogChange {
        id: line.id,
        at: line.at,
        action: line.action,
        stead: line.stead,
        component: line.component,
    };
    Ok(found.lines.into_iter().map(change).collect())
}

/// Lines of a tenant's logs from now on, as they are written
///
/// Server-sent events: `line` with a line as its data. With `since` it begins with the newest lines stored since then,
/// at most 10,000, oldest first. `behind` says that the client reads too slowly and lines were left out; `again` that
/// it is over after ten minutes. After either, ask again with `since`; `id` of a line tells which ones are known.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/logs/tail", tag = "logs", operation_id = "logs_tail",
    params(TenantPath, LogsQuery),
    responses((status = 200, description = "The lines, as events", body = String,
               content_type = "text/event-stream")))]
pub(crate) async fn tail(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<TenantPath>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadLogs).await?;
    follow(&app, search(Owner::Tenant(tenant.id), query, &caller)).await
}

/// Lines that are no tenant's from now on, as they are written
///
/// As a tenant's. Takes a token of scope operator.
#[utoipa::path(get, path = "/v1/logs/tail", tag = "logs", operation_id = "own_logs_tail", params(LogsQuery),
    responses((status = 200, description = "The lines, as events", body = String,
               content_type = "text/event-stream"),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn tail_of_installation(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    caller.may(Action::ReadWholeJournal)?;
    follow(&app, search(Owner::Installation, query, &caller)).await
}

async fn follow(app: &App, search: Search) -> Result<Response, Problem> {
    // Listen first, then look: what is stored in between comes twice, and is told by its id.
    let lines = app.logs.store.follow(search.owner);
    let mut first = Vec::new();
    if search.since > i64::MIN {
        let (found, damage) = app.logs.newest(search.clone(), BEFORE).await?;
        damaged(&damage);
        first = found;
        first.reverse();
    }
    let (sender, receiver) = mpsc::channel(64);
    let mut stopping = app.logs.stopping.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = pass_on(first, lines, search, &sender) => {}
            () = tokio::time::sleep(LONGEST) => drop(sender.send(Event::default().event("again").data("")).await),
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {}
            () = sender.closed() => {}
        }
    });
    let events = futures::stream::unfold(receiver, async |mut receiver| {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response())
}

async fn pass_on(
    first: Vec<Line>,
    mut lines: broadcast::Receiver<std::sync::Arc<Vec<Line>>>,
    search: Search,
    sender: &mpsc::Sender<Event>,
) {
    let known: HashSet<LineId> = first.iter().map(|line| line.id).collect();
    for line in &first {
        if sender.send(event(line)).await.is_err() {
            return;
        }
    }
    loop {
        match lines.recv().await {
            Ok(batch) => {
                for line in batch.iter().filter(|line| !known.contains(&line.id)) {
                    let mut line = line.clone();
                    if search.takes(&mut line) && sender.send(event(&line)).await.is_err() {
                        return;
                    }
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                drop(sender.send(Event::default().event("behind").data("")).await);
                return;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn event(line: &Line) -> Event {
    let text = serde_json::to_string(&shown(line)).unwrap_or_default();
    Event::default().event("line").id(line.id.to_string()).data(text)
}
