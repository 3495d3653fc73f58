//! SQL for a person: run it, cancel it, look at one's own, and see what there is in the database.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use client::wire::{self, Page, QueryEvent, QueryRequest};
use component::{ComponentName, SteadName, TenantName};
use futures::StreamExt;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use store::query::{End, Ended, NewQuery, Wanted};
use store::stead::Component;
use store::tenant::Tenant;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use utoipa::IntoParams;
use uuid::Uuid;

use super::ComponentPath;
use super::components::{asked_here, find};
use crate::App;
use crate::access::{Action, Caller};
use crate::extract::{Path, Query, Sent, parse, text_of};
use crate::paging::{Cursor, Limit, key_of, page};
use crate::problem::{Kind, Problem};
use crate::refusals::Attempt;
use crate::sql::{
    Broken, DatabaseRole, Failed, Format, Limits, Run, Session, SignIn, person_of, role_of, schema,
};

/// Longest text, bytes.
const LONGEST_SQL: usize = 1024 * 1024;
/// Longest filter, characters.
const LONGEST_FILTER: usize = 100;
/// The longest that a query may take.
const LONGEST_TIME: Duration = Duration::from_secs(300);
/// How long a role that has just got its password may take to come in.
const READER: Duration = Duration::from_secs(10);
/// Between two attempts of it.
const AGAIN: Duration = Duration::from_millis(200);
/// Pieces of an answer that wait for their reader.
const AHEAD: usize = 2;
/// An export that is refused in this time is answered with a problem, and not with an export that breaks off.
const FIRST_ROW: Duration = Duration::from_secs(60);

/// Names the query in the answer.
const QUERY_ID: HeaderName = HeaderName::from_static("x-query-id");

/// The limits of a query, those asked for within those that there are.
fn limits(request: &QueryRequest, format: Format) -> Result<Limits, Problem> {
    let (usual, most, bytes, row, time) = match format {
        Format::Json => (1_000, 10_000, 64 << 20, 1 << 20, Duration::from_secs(30)),
        Format::Csv | Format::Arrow | Format::Parquet => {
            (1_000_000, 5_000_000, 1 << 30, 16 << 20, LONGEST_TIME)
        }
    };
    let mut wrong = Vec::new();
    if request.rows.is_some() && format.is_copied() {
        wrong
            .push(("/rows".to_owned(), "counts no rows of such a file; write a limit in the SQL".to_owned()));
    }
    if request.rows.is_some_and(|rows| !(1..=most).contains(&rows)) {
        wrong.push(("/rows".to_owned(), format!("is a number from 1 to {most}")));
    }
    let longest = u64::try_from(LONGEST_TIME.as_millis()).unwrap_or(u64::MAX);
    if request.timeout_ms.is_some_and(|ms| !(1..=longest).contains(&ms)) {
        wrong.push(("/timeout_ms".to_owned(), format!("is a number from 1 to {longest}")));
    }
    if request.sql.trim().is_empty() {
        wrong.push(("/sql".to_owned(), "is empty; write a statement".to_owned()));
    }
    if request.sql.contains('\0') {
        wrong.push(("/sql".to_owned(), "holds a NUL, which PostgreSQL takes in no text".to_owned()));
    }
    if request.sql.len() > LONGEST_SQL {
        wrong.push(("/sql".to_owned(), format!("is longer than {LONGEST_SQL} bytes; use `stead sql`")));
    }
    if !wrong.is_empty() {
        return Err(Problem::fields(wrong));
    }
    let time = request.timeout_ms.map_or(time, Duration::from_millis);
    Ok(Limits { rows: request.rows.unwrap_or(usual), bytes, row, time })
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let accepted = text_of(headers, ACCEPT)?.unwrap_or_default().to_ascii_lowercase();
    let mut kinds = accepted.split([',', ';']).map(str::trim);
    let file = kinds.find_map(|kind| Format::FILES.into_iter().find(|file| file.media_type() == kind));
    Ok(file.unwrap_or(Format::Json))
}

/// Run SQL
///
/// As the database role that belongs to who asks: viewers look, developers own. A transfer's lake is asked in the same
/// way, and changed by nobody. The answer comes as it is read: each line is JSON, a row as an array of texts, everything
/// else as an object (`QueryEvent`). With `Accept: text/csv` it is the rows of one result, and a lake has them as Arrow
/// (a stream) and Parquet too; a file that is not whole breaks off. Not to be repeated by `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/query", tag = "queries",
    operation_id = "run_query", params(ComponentPath), request_body = QueryRequest,
    responses((status = 200, description = "What comes of it",
               headers(("x-query-id" = String, description = "By which it can be cancelled")),
               content((QueryEvent = "application/x-ndjson"), (String = "text/csv"),
                       (String = "application/vnd.apache.arrow.stream"), (String = "application/vnd.apache.parquet")))))]
pub(crate) async fn run(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    headers: HeaderMap,
    sent: Sent,
) -> Result<Response, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let begin = async {
        // Who may not even look is told so, whatever the body holds.
        let role = role_of(&caller, &tenant, &at.component)?;
        if headers.contains_key("idempotency-key") {
            let detail = "a query is not repeated by `Idempotency-Key`; leave it out";
            return Err(Problem::bad_request(detail));
        }
        let format = format(&headers)?;
        if format.is_copied() && role != DatabaseRole::Lake {
            let detail = format!(
                "{} answers with JSON or CSV; a transfer's lake has {} too",
                at.component,
                format.name()
            );
            return Err(Problem::new(Kind::Invalid, detail));
        }
        let request: QueryRequest = parse(sent.required()?)?;
        let limits = limits(&request, format)?;
        let sign_in = sign_in(&app, &caller, &tenant, &at, role, request.read_only, limits.time).await?;
        Ok((format, request, limits, sign_in))
    };
    let attempt = Attempt::new(&caller, "sql.run", Some(&tenant)).stead(&at.stead).component(&at.component);
    let (format, request, limits, sign_in) = attempt.of(&app.store, begin).await?;
    let (id, person) = (Uuid::new_v4(), person_of(&caller));
    let place = app.running.begin(id, tenant.id, &person)?;
    let new = NewQuery {
        id,
        tenant: tenant.id,
        stead: &at.stead,
        component: &at.component,
        person: &person,
        actor: &caller.actor,
        role: sign_in.role,
        read_only: sign_in.read_only,
        sql: &request.sql,
        // Signing in, and ending, take their time as well.
        within_seconds: (limits.time + Duration::from_secs(120)).as_secs_f64(),
    };
    app.store.begin_query(&new).await?;
    let session = match open(&app, &sign_in).await {
        Ok(session) => session,
        Err(failed) => {
            end(&app, id, &never_began(&failed)).await;
            return Err(unreachable(failed));
        }
    };
    let (to, from) = mpsc::channel(AHEAD);
    let started = QueryEvent::Started { id, role: sign_in.role.to_owned(), read_only: sign_in.read_only };
    let (read_only, stopping) = (sign_in.read_only, app.stopping.clone());
    let run = Run { session, sql: request.sql, read_only, limits, format, place, stopping, to };
    let ending = app.clone();
    tokio::spawn(async move {
        let (ended, last_word) = run.run().await;
        // Before the last word: who has heard it finds the query in the history.
        end(&ending, id, &ended).await;
        last_word.say().await;
    });
    answer(id, format, &started, from).await
}

async fn end(app: &App, id: Uuid, ended: &Ended) {
    if let Err(error) = app.store.end_query(id, ended).await {
        tracing::error!(%error, %id, "how a query ended could not be put on record; it will stand there as lost");
    }
}

fn never_began(failed: &Failed) -> Ended {
    let sqlstate = match failed {
        Failed::Server(said) => Some(said.code.chars().take(5).collect()),
        Failed::Io(_) | Failed::Late => None,
    };
    Ended { end: End::Failed, sqlstate, duration_ms: 0, rows: 0, bytes: 0 }
}

fn unreachable(failed: Failed) -> Problem {
    let what = match failed {
        Failed::Server(said) => format!("the server did not let the session in: {}", said.message),
        failed => failed.to_string(),
    };
    Problem::new(Kind::Unavailable, format!("{what}; retry in a few seconds"))
}

/// Who signs in, with what.
async fn sign_in(
    app: &App,
    caller: &Caller,
    tenant: &Tenant,
    at: &ComponentPath,
    role: DatabaseRole,
    read_only: bool,
    statement: Duration,
) -> Result<SignIn, Problem> {
    let component = find(app, tenant, at).await?;
    asked_here(&component)?;
    let password = password(app, caller, tenant, at, &component, role).await?;
    let not_ready =
        || Problem::new(Kind::NotReady, format!("{} is not ready yet; wait until it is", at.component));
    let endpoint = component.status.endpoint.ok_or_else(not_ready)?;
    Ok(SignIn {
        component: component.id,
        database: endpoint.database,
        role: role.name(),
        password: password.ok_or_else(not_ready)?,
        who: caller.actor.name.clone(),
        read_only: read_only || !role.writes(),
        statement: statement + Duration::from_secs(5),
    })
}

/// The role's password; that of the reader is made when it is first needed.
async fn password(
    app: &App,
    caller: &Caller,
    tenant: &Tenant,
    at: &ComponentPath,
    component: &Component,
    role: DatabaseRole,
) -> Result<Option<SecretString>, Problem> {
    let store = &app.store;
    let mut found = match role {
        DatabaseRole::Owner | DatabaseRole::Lake => store.password(component.id).await?,
        DatabaseRole::Reader => store.reader(component.id).await?,
    };
    if found.is_none() && role == DatabaseRole::Reader && component.status.endpoint.is_some() {
        let opened = store.open_reader(&caller.actor, &at.tenant, &at.stead, &at.component).await?;
        if let Some(operation) = opened {
            app.seen.end_of(store, tenant.id, operation, READER).await?;
        }
        found = store.reader(component.id).await?;
    }
    Ok(found.map(|found| found.password))
}

/// A session, past whatever makes it read-only. A role that has just got its password may be a moment late.
async fn open(app: &App, sign_in: &SignIn) -> Result<Session, Failed> {
    let until = Instant::now() + READER;
    let mut session = loop {
        match Session::open(&app.sessions, sign_in).await {
            Err(Failed::Server(said))
                if said.code == "28P01"
                    && sign_in.role == DatabaseRole::Reader.name()
                    && Instant::now() < until =>
            {
                sleep(AGAIN).await;
            }
            opened => break opened?,
        }
    };
    if sign_in.read_only {
        session.begin_read_only().await?;
    }
    Ok(session)
}

async fn answer(
    id: Uuid,
    format: Format,
    started: &QueryEvent,
    mut from: mpsc::Receiver<Result<Bytes, Broken>>,
) -> Result<Response, Problem> {
    let first = match format {
        Format::Json => {
            let mut line = serde_json::to_vec(started).map_err(|error| Problem::internal(&error))?;
            line.push(b'\n');
            Some(Ok(Bytes::from(line)))
        }
        Format::Csv | Format::Arrow | Format::Parquet => match timeout(FIRST_ROW, from.recv()).await {
            Ok(Some(Err(broken))) => {
                let code = broken.code.map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
                return Err(Problem::new(Kind::Invalid, format!("{}{code}", broken.message)));
            }
            Ok(first) => first,
            Err(_) => None,
        },
    };
    let kind = if format == Format::Csv { "text/csv; charset=utf-8" } else { format.media_type() };
    let rest = futures::stream::unfold(from, |mut from| async move { Some((from.recv().await?, from)) });
    // Who compresses it asks once more at its end.
    let body = futures::stream::iter(first).chain(rest).fuse();
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(QUERY_ID, id);
    }
    Ok(response)
}

/// A query.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct QueryPath {
    /// Name of the tenant.
    #[param(value_type = String, example = "acme")]
    tenant: TenantName,
    /// Name of the stead.
    #[param(value_type = String, example = "flights")]
    stead: SteadName,
    /// Kind and name of the component.
    #[param(value_type = String, example = "postgres.main")]
    component: ComponentName,
    /// Identity of the query.
    id: Uuid,
}

/// Cancel a query
///
/// One's own; operators may cancel anybody's. What it had changed and not committed is undone.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/queries/{id}",
    tag = "queries", operation_id = "cancel_query", params(QueryPath),
    responses((status = 204, description = "It is being cancelled"),
              (status = 404, description = "No such query runs", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<QueryPath>,
) -> Result<StatusCode, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadData).await?;
    let QueryPath { tenant: name, stead, component, id } = at;
    find(&app, &tenant, &ComponentPath { tenant: name, stead, component }).await?;
    let person = person_of(&caller);
    let own = if caller.is_operator() { None } else { Some(person.as_str()) };
    if app.running.cancel(id, tenant.id, own) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(Kind::NotFound, format!("no query {id} of yours is running")))
}

/// Which part of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct QueriesQuery {
    /// `next` of the last page.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// At most so many.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 100)]
    limit: Limit,
}

/// One's own queries, newest first
///
/// Nobody else sees their texts. The newest 500 are kept, for 90 days.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/queries", tag = "queries",
    operation_id = "queries", params(ComponentPath, QueriesQuery),
    responses((status = 200, description = "The queries", body = Page<wire::QueryRecord>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<QueriesQuery>,
) -> Result<Json<Page<wire::QueryRecord>>, Problem> {
    let tenant = caller.tenant(&app.store, &at.tenant, Action::ReadData).await?;
    find(&app, &tenant, &at).await?;
    let before: Option<(Timestamp, Uuid)> = key_of(query.cursor.as_ref())?;
    let wanted = Wanted {
        tenant: tenant.id,
        person: &person_of(&caller),
        at: (&at.stead, &at.component),
        before,
        limit: query.limit.and_one(),
    };
    let found = app.store.queries(&wanted).await?;
    let show = |query: store::query::Query| wire::QueryRecord {
        id: query.id,
        sql: query.sql.expose_secret().to_owned(),
        cut: query.cut,
        role: query.role,
        read_only: query.read_only,
        started_at: query.started_at,
        outcome: query.outcome,
        sqlstate: query.sqlstate,
        duration_ms: query.duration_ms,
        rows: query.rows,
    };
    Ok(Json(page(found, query.limit, |query| (query.started_at, query.id), show)))
}

/// Which part of the schema.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SchemaQuery {
    /// Only what has this in its name, like `public.flights`; capitals do not matter.
    #[serde(default)]
    #[param(value_type = Option<String>, max_length = 100)]
    filter: String,
}

/// What there is in the database
///
/// Tables, views and functions with their columns, keys and indexes, as the role sees them that belongs to who asks;
/// 500 of each at most. What extensions brought is told to who asks for it by a part of its name. Of a transfer's lake:
/// its tables with their columns.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/steads/{stead}/components/{component}/schema", tag = "queries",
    operation_id = "database_schema", params(ComponentPath, SchemaQuery),
    responses((status = 200, description = "What there is", body = wire::DatabaseSchema),
              (status = 403, description = "The token does not allow this", body = wire::Problem,
               content_type = "application/problem+json"),
              (status = 409, description = "It is not ready yet", body = wire::Problem,
               content_type = "application/problem+json")))]
pub(crate) async fn schema(
    State(app): State<App>,
    caller: Caller,
    Path(at): Path<ComponentPath>,
    Query(query): Query<SchemaQuery>,
) -> Result<Json<wire::DatabaseSchema>, Problem> {
    let tenant = caller.visible(&app.store, &at.tenant).await?;
    let role = role_of(&caller, &tenant, &at.component)?;
    if query.filter.contains('\0') || query.filter.chars().count() > LONGEST_FILTER {
        let detail = format!("`filter` is at most {LONGEST_FILTER} characters without NUL");
        return Err(Problem::bad_request(detail));
    }
    let place = app.running.begin(Uuid::new_v4(), tenant.id, &person_of(&caller))?;
    let sign_in = sign_in(&app, &caller, &tenant, &at, role, true, Duration::from_secs(10)).await?;
    let look = async {
        let mut session = open(&app, &sign_in).await?;
        let found = match role {
            DatabaseRole::Owner | DatabaseRole::Reader => {
                schema::of_server(&mut session, &query.filter).await?
            }
            DatabaseRole::Lake => schema::of_lake(&mut session, &query.filter).await?,
        };
        session.close().await;
        Ok::<_, Failed>(found)
    };
    let found = look.await.map_err(unreachable)?;
    drop(place);
    Ok(Json(found))
}
