//! The database: SQL, what came of it, what there is, and what one ran before. A transfer's lake has the same page, with
//! how the transfer stands ([`lake`]).
//!
//! With script an editor runs SQL and shows rows as they come (`assets/database.js`); without it a form does, and the
//! page is made with what came of it ([`outcome`]). Either way it is the API that runs it, for the person.

pub(crate) mod lake;
mod names;
mod outcome;
mod schema;
mod words;

use askama::Template;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::FormRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form};
use client::wire::{Component, Page, QueryRecord, QueryRequest};
use component::postgres::{OWNER_ROLE, READER_ROLE};
use component::{ComponentName, Kind as Sort, SteadName, TenantName};
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::Site;
use super::api::{Api, Refused, escaped};
use super::failure::{At, shown};
use super::frame::{Frame, unreadable};
use crate::access::Action;
use crate::problem::{Kind, MEDIA_TYPE, Problem};
use crate::sign_in::Signed;
use crate::sql::Format;
use lake::Lake;
use outcome::Outcome;
use schema::Tree;

/// Queries in one part of the history.
const A_PART: u16 = 30;
/// Rows that are shown without script.
const ROWS: u64 = 200;
/// What is taken of a form: the longest text, as a form writes it.
pub(crate) const LONGEST_FORM: usize = 4 * 1024 * 1024;
/// Characters of a text in the history.
const BEGINNING: usize = 160;

#[derive(Template)]
#[template(path = "database.html", blocks = ["schema", "history"])]
struct Database {
    frame: Frame,
    /// Name of the component.
    component: String,
    /// Where this page is.
    at: String,
    /// How the server is doing: a word, and the word that colours it.
    health: (String, &'static str),
    asleep: bool,
    /// Whether the person may change data.
    writes: bool,
    /// Whether it is a transfer's lake.
    is_lake: bool,
    /// How its transfer stands, where it is one.
    lake: Option<Lake>,
    /// Whether the person may have everything copied anew.
    edits: bool,
    /// Text of the editor.
    sql: String,
    read_only: bool,
    /// Why it was not run.
    refused: Option<Refused>,
    /// What came of it.
    outcome: Option<Outcome>,
    /// What there is in the database, once that was asked for.
    schema: Option<Result<Tree, Refused>>,
    /// What one ran before, once that was asked for.
    history: Option<Result<Page<QueryRecord>, Refused>>,
    filter: String,
}

impl Database {
    /// The bucket that the tables are in, when they are in no lake that could be asked here.
    fn bucket(&self) -> Option<&str> {
        self.lake.as_ref()?.bucket.as_deref()
    }

    /// As whom SQL runs.
    fn role(&self) -> &'static str {
        if self.writes { OWNER_ROLE } else { READER_ROLE }
    }

    /// As what results can be taken along.
    fn files(&self) -> &'static [Format] {
        if self.is_lake { &Format::FILES } else { &Format::FILES[..1] }
    }

    /// The first of a text, in one line.
    fn beginning(&self, query: &QueryRecord) -> String {
        let words = query.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(BEGINNING) {
            Some((end, _)) => format!("{} …", &words[..end]),
            None if query.cut => format!("{words} …"),
            None => words,
        }
    }

    /// How a query went, in words.
    fn about(&self, query: &QueryRecord) -> String {
        let mut about = match (query.outcome.as_deref(), query.rows) {
            (Some("done"), Some(rows)) => words::rows(u64::try_from(rows).ok()),
            _ => String::new(),
        };
        if let Some(ms) = query.duration_ms.and_then(|ms| u64::try_from(ms).ok()) {
            about.push_str(&format!(" in {}", words::took(ms)));
        }
        if query.read_only && self.writes && !self.is_lake {
            about.push_str(", read only");
        }
        about
    }
}

/// Which database, and what of it is shown without script.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct DatabaseQuery {
    /// `schema` or `history`.
    #[serde(default)]
    show: String,
    /// What of the schema.
    #[serde(default)]
    filter: String,
    /// Which part of the history.
    cursor: Option<String>,
    /// A query of the history, to be run again.
    query: Option<Uuid>,
}

/// What the form holds.
#[derive(Clone, Default, Deserialize)]
pub(crate) struct Sent {
    #[serde(default)]
    sql: String,
    /// A box that is not ticked is not sent.
    read_only: Option<String>,
    /// As what the result is to be taken along.
    #[serde(default)]
    format: String,
}

/// Where a database is.
type Place = (TenantName, SteadName, ComponentName);

/// Somebody at the page of a database.
struct Visit<'a> {
    api: Api<'a>,
    frame: Frame,
    /// The component in the API.
    path: String,
    name: String,
    is_lake: bool,
    writes: bool,
    edits: bool,
}

impl<'a> Visit<'a> {
    fn new(site: &'a Site, signed: &'a Signed, (tenant, stead, component): &Place) -> Self {
        let caller = &signed.caller;
        Self {
            api: Api::new(site, caller),
            frame: Frame::of(site, caller, "stead").in_stead(caller, tenant.as_str(), stead.as_str()),
            path: format!("/v1/tenants/{tenant}/steads/{stead}/components/{component}"),
            name: component.to_string(),
            is_lake: component.kind == Sort::Transfer,
            // Nobody changes a lake.
            writes: component.kind != Sort::Transfer
                && caller.may_by_name(tenant.as_str(), Action::WriteData),
            edits: caller.may_by_name(tenant.as_str(), Action::Edit),
        }
    }

    /// The page, for whoever may read data.
    async fn page(&self) -> Result<Database, Refused> {
        // Of all that the page is made of, this alone says who may read data.
        self.history(Some(1), None).await?;
        let component: Component = self.api.get(&self.path).await?;
        let (word, colour) = crate::pages::words::health(&component.health);
        let health = (word.to_owned(), colour);
        let asleep = component.asleep;
        let lake = self.is_lake.then(|| Lake::of(component));
        Ok(Database { health, asleep, lake, ..self.part() })
    }

    /// What parts of the page are made of, without a look at the component.
    fn part(&self) -> Database {
        Database {
            at: format!("{}/components/{}/database", self.frame.of_stead(), self.name),
            frame: self.frame.clone(),
            component: self.name.clone(),
            health: (String::new(), ""),
            asleep: false,
            writes: self.writes,
            is_lake: self.is_lake,
            lake: None,
            edits: self.edits,
            sql: String::new(),
            read_only: false,
            refused: None,
            outcome: None,
            schema: None,
            history: None,
            filter: String::new(),
        }
    }

    async fn history(&self, limit: Option<u16>, cursor: Option<&str>) -> Result<Page<QueryRecord>, Refused> {
        let limit = limit.unwrap_or(A_PART);
        let cursor = cursor.map(|cursor| format!("&cursor={}", escaped(cursor))).unwrap_or_default();
        self.api.get(&format!("{}/queries?limit={limit}{cursor}", self.path)).await
    }

    async fn schema(&self, filter: &str) -> Result<Tree, Refused> {
        let filter = filter.trim();
        let query = if filter.is_empty() { String::new() } else { format!("?filter={}", escaped(filter)) };
        self.api.get(&format!("{}/schema{query}", self.path)).await.map(Tree::new)
    }

    /// The text of a query of one's own.
    async fn text(&self, id: Uuid) -> Result<String, Refused> {
        let mut cursor = None;
        loop {
            let page = self.history(Some(100), cursor.as_deref()).await?;
            if let Some(found) = page.items.into_iter().find(|query| query.id == id) {
                return Ok(found.sql);
            }
            cursor = page.next;
            if cursor.is_none() {
                let detail = "this query is not in your history any more; it holds the newest 500";
                return Err(Problem::new(Kind::NotFound, detail).into());
            }
        }
    }

    /// Runs SQL.
    async fn run(&self, asked: &QueryRequest, format: Format) -> Result<Response, Refused> {
        let body = serde_json::to_vec(asked).map_err(|error| Problem::internal(&error))?;
        let mut request = self.request(Method::POST, "/query", Body::from(body))?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(format.media_type()));
        self.api.raw(request).await
    }

    fn request(&self, method: Method, below: &str, body: Body) -> Result<Request, Refused> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() =
            format!("{}{below}", self.path).parse().map_err(|error| Problem::internal(&error))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    /// The page once more, with what was typed and why it was not run.
    async fn again(&self, sent: Sent, refused: Refused) -> Response {
        let status = StatusCode::from_u16(refused.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self.page().await {
            Ok(page) => {
                let (sql, read_only) = (sent.sql, sent.read_only.is_some());
                let page = Database { sql, read_only, refused: Some(refused), ..page };
                (status, shown(&page)).into_response()
            }
            Err(_) => self.frame.failure(refused).into_response(),
        }
    }
}

impl Sent {
    /// The text as it was typed: forms end lines in their own way, and PostgreSQL counts characters.
    fn of(sent: Result<Form<Self>, FormRejection>) -> Result<Self, Problem> {
        let Form(sent) = sent.map_err(|error| unreadable(&error.body_text()))?;
        Ok(Self { sql: sent.sql.replace("\r\n", "\n"), ..sent })
    }

    fn request(&self, rows: Option<u64>) -> QueryRequest {
        QueryRequest { sql: self.sql.clone(), read_only: self.read_only.is_some(), rows, timeout_ms: None }
    }
}

/// A part of a page; script shows it whatever its status.
fn part<T>(page: &impl Template, refused: Option<&Result<T, Refused>>) -> Response {
    let status = refused.and_then(|made| made.as_ref().err()).map(|refused| refused.0.status);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    (status, shown(page)).into_response()
}

/// A refusal, for script.
fn problem(refused: &Refused) -> Response {
    let status = StatusCode::from_u16(refused.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match serde_json::to_vec(&refused.0) {
        Ok(body) => (status, [(CONTENT_TYPE, MEDIA_TYPE)], body).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// `GET /tenants/{tenant}/steads/{stead}/components/{component}/database`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    Query(query): Query<DatabaseQuery>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let page = async {
        let mut page = visit.page().await?;
        match query.show.as_str() {
            "schema" => page.schema = Some(visit.schema(&query.filter).await),
            "history" => page.history = Some(visit.history(None, query.cursor.as_deref()).await),
            _ => {}
        }
        if let Some(id) = query.query {
            page.sql = visit.text(id).await?;
        }
        page.filter = query.filter;
        Ok::<_, Refused>(page)
    };
    match page.await {
        Ok(page) => shown(&page),
        Err(refused) => visit.frame.failure(refused).into_response(),
    }
}

/// `POST` to the same: runs SQL and shows what came of it, for whoever has no script.
pub(crate) async fn submit(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    sent: Result<Form<Sent>, FormRejection>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let sent = match Sent::of(sent) {
        Ok(sent) => sent,
        Err(problem) => return visit.frame.failure(problem).into_response(),
    };
    let ran = async {
        let answer = visit.run(&sent.request(Some(ROWS)), Format::Json).await?;
        let outcome = Outcome::read(answer.into_body(), &sent.sql).await?;
        Ok::<_, Refused>((visit.page().await?, outcome))
    };
    match ran.await {
        Ok((page, outcome)) => {
            let (sql, read_only) = (sent.sql, sent.read_only.is_some());
            shown(&Database { sql, read_only, outcome: Some(outcome), ..page })
        }
        Err(refused) => visit.again(sent, refused).await,
    }
}

/// `POST …/database/query`: runs SQL for script; the API's answer as it comes.
pub(crate) async fn query(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    sent: Request,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let ran = async {
        let body = to_bytes(sent.into_body(), LONGEST_FORM).await;
        let body = body.map_err(|error| unreadable(&error))?;
        visit.api.raw(visit.request(Method::POST, "/query", Body::from(body))?).await
    };
    ran.await.unwrap_or_else(|refused| problem(&refused))
}

/// `POST …/database/export`: the rows as a file.
pub(crate) async fn export(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    sent: Result<Form<Sent>, FormRejection>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let sent = match Sent::of(sent) {
        Ok(sent) => sent,
        Err(problem) => return visit.frame.failure(problem).into_response(),
    };
    let named = Format::FILES.into_iter().find(|format| format.name() == sent.format);
    let format = named.unwrap_or(Format::Csv);
    let mut response = match visit.run(&sent.request(None), format).await {
        Ok(response) => response,
        Err(refused) => return visit.again(sent, refused).await,
    };
    let (tenant, stead, component) = &at;
    let moment = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let name = format!("{tenant}-{stead}-{component}-{moment}.{}", format.name());
    let disposition = format!("attachment; filename=\"{name}\"");
    match HeaderValue::from_str(&disposition) {
        Ok(disposition) => {
            response.headers_mut().insert(CONTENT_DISPOSITION, disposition);
            response
        }
        Err(error) => problem(&Problem::internal(&error).into()),
    }
}

/// `POST …/database/queries/{id}/cancel`
pub(crate) async fn cancel(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, stead, component, id)): At<(TenantName, SteadName, ComponentName, Uuid)>,
) -> Response {
    let visit = Visit::new(&site, &signed, &(tenant, stead, component));
    let path = format!("{}/queries/{id}", visit.path);
    match visit.api.send::<()>(Method::DELETE, &path, None, None).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => problem(&refused),
    }
}

/// `GET …/database/queries/{id}`: the text of one's own query.
pub(crate) async fn text(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, stead, component, id)): At<(TenantName, SteadName, ComponentName, Uuid)>,
) -> Response {
    let visit = Visit::new(&site, &signed, &(tenant, stead, component));
    match visit.text(id).await {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Err(refused) => problem(&refused),
    }
}

/// `GET …/database/schema`: the part of the page that shows what there is. It wakes a server that sleeps.
pub(crate) async fn tree(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    Query(query): Query<DatabaseQuery>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let schema = Some(visit.schema(&query.filter).await);
    let page = Database { schema, filter: query.filter, ..visit.part() };
    part(&page.as_schema(), page.schema.as_ref())
}

/// `GET …/database/history`: the part of the page that shows what one ran before.
pub(crate) async fn history(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    Query(query): Query<DatabaseQuery>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let history = Some(visit.history(None, query.cursor.as_deref()).await);
    let page = Database { history, ..visit.part() };
    part(&page.as_history(), page.history.as_ref())
}
