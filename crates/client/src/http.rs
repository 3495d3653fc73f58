//! The client: one method a route.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::wire::{
    Component, Credentials, FleetHealth, Health, HistoryLine, HistoryPage, Invitation, InvitationRequest,
    LogEnd, LogHistogram, LogLine, LogPage, LogSum, Member, Operation, Page, Plan, Problem, StaffRequest,
    Stead, Tenant, TenantRequest, Token, TokenRequest,
};

/// Why a call did not come back with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// No server answers.
    #[error("no Stead server answers at {url}: {why}")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// The server answered something that this version does not understand.
    #[error("the server's answer is not understood ({0}); use the same version of `stead` on both sides")]
    Strange(String),
}

impl Error {
    /// The problem, where the server refused.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}

/// How an edit of a stead is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edit<'a> {
    /// Only if the stead is at this generation; 0: only if it is not there.
    pub generation: Option<i64>,
    /// Why, for the record.
    pub reason: Option<&'a str>,
    /// How long to wait for the end of it: `30s`.
    pub wait: Option<&'a str>,
    /// Per cent of the calls on which releases are tried that it makes; all where absent.
    pub canary: Option<u8>,
}

/// Which part of a list.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Part {
    /// Only of this stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// Only of this component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Only by this actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Only this action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Only of this category.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Only with this outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Only of this operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Uuid>,
    /// Only with all of these words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Only of this health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only before then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which lines of logs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LogPart {
    /// What must be true of a line; docs/logs.md has the language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Only since then: a moment (RFC 3339) or a span back from now (`7d`, `2h`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only before then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Only of this stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stead: Option<String>,
    /// Only of this component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// At most so many a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Parts of the time, for counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
}

/// Lines as they come.
pub struct LogLines {
    answer: reqwest::Response,
    url: String,
    bytes: Vec<u8>,
}

/// What comes with lines.
#[derive(Debug, Clone, PartialEq)]
pub enum LogNext {
    /// A line.
    Line(Box<LogLine>),
    /// A stream is complete.
    End(LogSum),
    /// Lines were left out, because they were read too slowly.
    Behind,
}

impl LogLines {
    /// The next; `None` where there is nothing more.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the connection ends before the answer does.
    pub async fn next(&mut self) -> Result<Option<LogNext>, Error> {
        loop {
            while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                if let Some(next) = parse(&line)? {
                    return Ok(Some(next));
                }
            }
            match self.answer.chunk().await {
                Ok(Some(part)) => self.bytes.extend_from_slice(&part),
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(Error::Unreachable { url: self.url.clone(), why: innermost(&error) });
                }
            }
        }
    }
}

/// A line of a stream, or of an event; what is neither is left out.
fn parse(line: &[u8]) -> Result<Option<LogNext>, Error> {
    let strange = |error: serde_json::Error| Error::Strange(error.to_string());
    if line.starts_with(b"event: behind") {
        return Ok(Some(LogNext::Behind));
    }
    let text = line.strip_prefix(b"data: ").unwrap_or(line);
    if text.starts_with(b"{\"end\":") {
        let end: LogEnd = serde_json::from_slice(text).map_err(strange)?;
        return Ok(Some(LogNext::End(end.end)));
    }
    if !text.starts_with(b"{") {
        return Ok(None);
    }
    serde_json::from_slice(text).map(|line| Some(LogNext::Line(Box::new(line)))).map_err(strange)
}

/// What an answer says that is no success.
pub(crate) fn refused(status: StatusCode, body: &str) -> Error {
    match serde_json::from_str(body) {
        Ok(problem) => Error::Refused(Box::new(problem)),
        Err(_) => Error::Strange(format!("HTTP {status}")),
    }
}

fn logs_path(tenant: Option<&str>, what: &str) -> String {
    tenant.map_or_else(|| format!("logs{what}"), |tenant| format!("tenants/{tenant}/logs{what}"))
}

/// Talks to a Stead server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: SecretString,
}

impl Client {
    /// A client of the server at `url` (`http://127.0.0.1:7878`), signed in by `token`.
    ///
    /// # Errors
    /// [`Error::Strange`] when the system's certificates cannot be read.
    pub fn new(url: &str, token: SecretString) -> Result<Self, Error> {
        // Once a process; a second call finds it done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("stead/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Strange(error.to_string()))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/v1/{path}", self.url))
            .bearer_auth(self.token.expose_secret())
            .timeout(Duration::from_secs(120))
    }

    pub(crate) async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let body = self.text(request).await?;
        serde_json::from_str(&body).map_err(|error| Error::Strange(error.to_string()))
    }

    pub(crate) async fn text(&self, request: RequestBuilder) -> Result<String, Error> {
        let unreachable = |error| self.unreachable(&error);
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.text().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refused(status, &body))
    }

    /// Whether the server is there.
    pub async fn health(&self) -> Result<Health, Error> {
        self.send(self.request(Method::GET, "health").timeout(Duration::from_secs(5))).await
    }

    /// The certificate authority's certificate, PEM.
    pub async fn ca(&self) -> Result<String, Error> {
        self.text(self.request(Method::GET, "ca")).await
    }

    /// All tenants that the token may see.
    pub async fn tenants(&self, part: &Part) -> Result<Page<Tenant>, Error> {
        self.send(self.request(Method::GET, "tenants").query(part)).await
    }

    /// One tenant.
    pub async fn tenant(&self, tenant: &str) -> Result<Tenant, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}"))).await
    }

    /// Makes a tenant, or sets its quota.
    pub async fn put_tenant(&self, tenant: &str, wanted: &TenantRequest) -> Result<Tenant, Error> {
        self.send(self.request(Method::PUT, &format!("tenants/{tenant}")).json(wanted)).await
    }

    /// Removes a tenant without steads.
    pub async fn delete_tenant(&self, tenant: &str) -> Result<(), Error> {
        self.text(self.request(Method::DELETE, &format!("tenants/{tenant}"))).await.map(|_| ())
    }

    /// Every stead that the token may see.
    pub async fn fleet(&self, part: &Part) -> Result<Page<Stead>, Error> {
        self.send(self.request(Method::GET, "steads").query(part)).await
    }

    /// How many of the steads that the token may see are doing how; of those with all the words of `q`.
    pub async fn fleet_health(&self, tenant: Option<&str>, q: Option<&str>) -> Result<FleetHealth, Error> {
        self.send(self.request(Method::GET, "steads/health").query(&[("tenant", tenant), ("q", q)])).await
    }

    /// A tenant's steads.
    pub async fn steads(&self, tenant: &str, part: &Part) -> Result<Page<Stead>, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/steads")).query(part)).await
    }

    /// One stead; `None` where there is none.
    pub async fn stead(&self, tenant: &str, stead: &str) -> Result<Option<Stead>, Error> {
        match self.send(self.request(Method::GET, &format!("tenants/{tenant}/steads/{stead}"))).await {
            Err(Error::Refused(problem)) if problem.status == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            other => other.map(Some),
        }
    }

    /// What an edit would do.
    pub async fn plan(&self, tenant: &str, stead: &str, wanted: &Value) -> Result<Plan, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/plan");
        self.send(self.request(Method::POST, &path).json(wanted)).await
    }

    /// Makes or edits a stead.
    pub async fn put_stead(
        &self,
        tenant: &str,
        stead: &str,
        wanted: &Value,
        how: &Edit<'_>,
    ) -> Result<Stead, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}");
        let mut request = self.request(Method::PUT, &path).json(wanted).query(&[("wait", how.wait)]);
        request = match how.generation {
            Some(0) => request.header("if-none-match", "*"),
            Some(generation) => request.header("if-match", format!("\"{generation}\"")),
            None => request,
        };
        self.send(request.query(&[("reason", how.reason)]).query(&[("canary", how.canary)])).await
    }

    /// Has a stead removed.
    pub async fn delete_stead(
        &self,
        tenant: &str,
        stead: &str,
        unprotect: bool,
        reason: Option<&str>,
        wait: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}");
        let request = self.request(Method::DELETE, &path).query(&[("unprotect", unprotect)]);
        self.send(request.query(&[("wait", wait), ("reason", reason)])).await
    }

    /// One component.
    pub async fn component(&self, tenant: &str, stead: &str, component: &str) -> Result<Component, Error> {
        self.send(
            self.request(Method::GET, &format!("tenants/{tenant}/steads/{stead}/components/{component}")),
        )
        .await
    }

    /// How to sign in to a server; that it was asked is on record.
    pub async fn credentials(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
    ) -> Result<Credentials, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/credentials");
        self.send(self.request(Method::GET, &path)).await
    }

    /// Gives a server a new password.
    pub async fn rotate(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        reason: Option<&str>,
        wait: Option<&str>,
    ) -> Result<Operation, Error> {
        self.edit_component(tenant, stead, component, "rotate", reason, wait).await
    }

    /// Moves a server, process and data, to its other place on its host.
    pub async fn move_component(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        reason: Option<&str>,
        wait: Option<&str>,
    ) -> Result<Operation, Error> {
        self.edit_component(tenant, stead, component, "move", reason, wait).await
    }

    /// Has a transfer copy everything anew, or one table.
    pub async fn resync(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        table: Option<&str>,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/resync");
        self.send(self.request(Method::POST, &path).query(&[("table", table), ("reason", reason)])).await
    }

    /// Has a transfer read nothing until it is to go on.
    pub async fn pause(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        self.edit_component(tenant, stead, component, "pause", reason, None).await
    }

    /// Has a paused transfer go on.
    pub async fn resume(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        self.edit_component(tenant, stead, component, "resume", reason, None).await
    }

    /// Makes a server of another's data; `asked` is the rest of the query: `as`, `at`, `ttl`.
    pub async fn clone_component(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        asked: &[(&str, Option<&str>)],
        wait: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/clone");
        self.send(self.request(Method::POST, &path).query(asked).query(&[("wait", wait)])).await
    }

    /// Puts a server that was made of another's data in its place.
    pub async fn swap_component(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        with: &str,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/swap");
        self.send(self.request(Method::POST, &path).query(&[("with", Some(with)), ("reason", reason)])).await
    }

    /// Removes a server that was made of another's data.
    pub async fn remove_component(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}");
        self.send(self.request(Method::DELETE, &path).query(&[("reason", reason)])).await
    }

    pub(crate) async fn edit_component(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        verb: &str,
        reason: Option<&str>,
        wait: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/{verb}");
        self.send(self.request(Method::POST, &path).query(&[("wait", wait), ("reason", reason)])).await
    }

    /// The newest lines of a server's log, oldest first.
    pub async fn component_logs(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        part: &Part,
    ) -> Result<Page<LogLine>, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/logs");
        self.send(self.request(Method::GET, &path).query(part)).await
    }

    /// A page of lines of a tenant's logs, newest first; of those that are no tenant's without `tenant`.
    pub async fn logs(&self, tenant: Option<&str>, part: &LogPart) -> Result<LogPage, Error> {
        self.send(self.request(Method::GET, &logs_path(tenant, "")).query(part)).await
    }

    /// All lines of a tenant's logs that are meant, newest first, as they are found.
    pub async fn logs_stream(&self, tenant: &str, part: &LogPart) -> Result<LogLines, Error> {
        self.lines(&logs_path(Some(tenant), "/stream"), part).await
    }

    /// Lines from now on, those since `since` before them; ends now and then, and is then asked for again.
    pub async fn follow_logs(&self, tenant: Option<&str>, part: &LogPart) -> Result<LogLines, Error> {
        self.lines(&logs_path(tenant, "/tail"), part).await
    }

    /// Counts of lines over time.
    pub async fn logs_histogram(&self, tenant: &str, part: &LogPart) -> Result<LogHistogram, Error> {
        self.send(self.request(Method::GET, &logs_path(Some(tenant), "/histogram")).query(part)).await
    }

    async fn lines(&self, path: &str, part: &LogPart) -> Result<LogLines, Error> {
        // Of a stream nobody knows how long it takes.
        let request = self.request(Method::GET, path).query(part).timeout(Duration::from_secs(86_400));
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() {
            return Ok(LogLines { answer, url: self.url.clone(), bytes: Vec::new() });
        }
        let status = answer.status();
        let body = answer.text().await.map_err(|error| self.unreachable(&error))?;
        Err(refused(status, &body))
    }

    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable { url: self.url.clone(), why: innermost(error) }
    }

    /// One operation, waited for up to `wait`.
    pub async fn operation(&self, tenant: &str, id: Uuid, wait: Option<&str>) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/operations/{id}");
        self.send(self.request(Method::GET, &path).query(&[("wait", wait)])).await
    }

    /// The newest operations of a tenant.
    pub async fn operations(&self, tenant: &str, part: &Part) -> Result<Page<Operation>, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/operations")).query(part)).await
    }

    /// Lines of a tenant's journal, newest first.
    pub async fn history(&self, tenant: &str, part: &Part) -> Result<HistoryPage, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/history")).query(part)).await
    }

    /// Lines of the journal of the whole installation, newest first.
    pub async fn whole_history(&self, part: &Part) -> Result<HistoryPage, Error> {
        self.send(self.request(Method::GET, "history").query(part)).await
    }

    /// Members of a tenant.
    pub async fn members(&self, tenant: &str) -> Result<Page<Member>, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/members"))).await
    }

    /// Ends a membership.
    pub async fn remove_member(&self, tenant: &str, person: Uuid) -> Result<(), Error> {
        let path = format!("tenants/{tenant}/members/{person}");
        self.text(self.request(Method::DELETE, &path)).await.map(|_| ())
    }

    /// Invitations into a tenant that are still open.
    pub async fn invitations(&self, tenant: &str) -> Result<Page<Invitation>, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/invitations"))).await
    }

    /// Invites somebody into a tenant.
    pub async fn invite(&self, tenant: &str, wanted: &InvitationRequest) -> Result<Invitation, Error> {
        let path = format!("tenants/{tenant}/invitations");
        self.send(self.request(Method::POST, &path).json(wanted)).await
    }

    /// Invites one of the platform's own people, or signs them in once.
    pub async fn invite_staff(&self, wanted: &StaffRequest) -> Result<Invitation, Error> {
        self.send(self.request(Method::POST, "invitations").json(wanted)).await
    }

    /// One line of a tenant's journal.
    pub async fn history_line(&self, tenant: &str, line: i64) -> Result<HistoryLine, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/history/{line}"))).await
    }

    /// Tokens that the token may see.
    pub async fn tokens(&self) -> Result<Page<Token>, Error> {
        self.send(self.request(Method::GET, "tokens")).await
    }

    /// Makes a token.
    pub async fn create_token(&self, wanted: &TokenRequest) -> Result<Token, Error> {
        self.send(self.request(Method::POST, "tokens").json(wanted)).await
    }

    /// Ends a token.
    pub async fn revoke_token(&self, id: Uuid) -> Result<(), Error> {
        self.text(self.request(Method::DELETE, &format!("tokens/{id}"))).await.map(|_| ())
    }
}

/// reqwest says "error sending request for url (…)"; what a person needs is underneath.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
