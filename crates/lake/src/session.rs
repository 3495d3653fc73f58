//! A session's statements.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arrow_pg::datatypes::arrow_schema_to_pg_fields;
use arrow_pg::datatypes::df::encode_dataframe;
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::Statement;
use futures::{Sink, SinkExt, StreamExt};
use pgwire::api::cancel::CancelHandler;
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler, send_execution_response};
use pgwire::api::results::{FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::extendedquery::{Execute, PortalSuspended};
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pgwire::messages::startup::SecretKey;
use pgwire::types::format::FormatOptions;
use scram::Exchange;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::allowed::{Kind, allowed};
use crate::copy::{self, Copy};
use crate::cursor::{self, Order};
use crate::door::Service;
use crate::file::File;
use crate::refusal::{Refusal, fatal, plain};
use crate::work::Work;
use crate::{depth, parameters, question, settings, travel};

/// A prepared statement.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    /// It is planned: its columns and parameters are known.
    Planned(Statement, LogicalPlan),
    /// A setting, or a transaction's end.
    Said(Statement),
    /// An answer as a file.
    Copy(Statement),
    /// What the gateway asks.
    Verifier,
}

/// Who a session is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Person,
}

/// A session, from its connection on.
pub(crate) struct Session {
    pub(crate) service: Arc<Service>,
    /// The user at the other end of the socket.
    pub(crate) peer: u32,
    /// A sign-in under way.
    pub(crate) exchange: Mutex<Option<Exchange>>,
    signed_in: OnceLock<(Role, i32, Option<OwnedSemaphorePermit>)>,
    bell: Arc<watch::Sender<u64>>,
}

impl Session {
    pub(crate) fn new(service: Arc<Service>, peer: u32) -> Self {
        let (exchange, signed_in) = (Mutex::new(None), OnceLock::new());
        Self { service, peer, exchange, signed_in, bell: Arc::new(watch::Sender::new(0)) }
    }

    /// Lets it in. The gateway's own questions take nobody's place.
    pub(crate) fn take_seat(&self, role: Role, pid: i32, secret: SecretKey) -> PgWireResult<()> {
        let seat = match role {
            Role::Gateway => None,
            Role::Person => {
                let seat = self.service.seats.clone().try_acquire_owned();
                Some(seat.map_err(|_| fatal(Refusal::Full))?)
            }
        };
        self.service.cancels.enter(pid, secret, self.bell.clone());
        let _ = self.signed_in.set((role, pid, seat));
        Ok(())
    }

    fn role(&self) -> PgWireResult<Role> {
        let role = self.signed_in.get().map(|(role, ..)| *role);
        role.ok_or_else(|| fatal(Refusal::Protocol("a statement before the sign-in")))
    }

    /// A statement's work; a client may wish for less time than there is.
    fn work(&self, client: &impl ClientInfo) -> Work {
        let most = Duration::from_millis(self.service.settings.timeout_ms);
        Work::new(&self.bell, settings::timeout(client).map_or(most, |wanted| wanted.min(most)))
    }

    fn parse(&self, sql: &str) -> PgWireResult<Vec<Statement>> {
        depth::check(sql).map_err(plain)?;
        let sql = travel::quoted(sql).map_err(plain)?;
        self.service.parser.parse(&sql).map_err(|error| plain(Refusal::Syntax(error.to_string())))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((_, pid, _)) = self.signed_in.get() {
            self.service.cancels.leave(*pid);
        }
    }
}

/// A session's handler of statements.
pub(crate) struct Statements(pub(crate) Arc<Session>);

#[async_trait]
impl SimpleQueryHandler for Statements {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if self.0.role()? == Role::Gateway {
            return Err(plain(Refusal::NotTheQuestion));
        }
        let work = self.0.work(&*client);
        let mut answers = Vec::new();
        let statements = self.0.parse(query)?;
        let alone = statements.len() == 1;
        for statement in statements {
            let mut work = work.clone();
            if allowed(&statement).map_err(plain)? == Kind::Copy {
                // It is sent now, and what the others answer behind all of them.
                if !alone {
                    return Err(plain(Refusal::NotDone("COPY beside other statements".to_owned())));
                }
                return Ok(vec![self.copy(client, work, &statement).await?]);
            }
            let answer = work.run(self.answer(client, &statement)).await??;
            answers.push(match answer {
                Response::Query(rows) => Response::Query(work.guard(rows)),
                other => other,
            });
        }
        if answers.is_empty() {
            answers.push(Response::EmptyQuery);
        }
        Ok(answers)
    }
}

impl Statements {
    async fn answer<C>(&self, client: &mut C, statement: &Statement) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let kind = allowed(statement).map_err(plain)?;
        if kind == Kind::Said || client.transaction_status() == TransactionStatus::Error {
            return settings::answer(client, statement).await;
        }
        let context = self.0.service.engine.context();
        match kind {
            Kind::Said | Kind::Copy => Err(plain(Refusal::NotDone(statement.to_string()))),
            Kind::Cursor => match cursor::order(statement)? {
                Order::Declare { name, question } => {
                    let (plan, rows) = self.ask(&*client, &context, &question).await?;
                    cursor::declare(&*client, name, Prepared::Planned(*question, plan), rows).await
                }
                Order::Fetch { name, most } => cursor::fetch(&*client, name, most).await,
                Order::Close { name } => cursor::close(&*client, name),
            },
            Kind::Question => Ok(Response::Query(self.ask(&*client, &context, statement).await?.1)),
        }
    }

    /// Sends an answer as a file.
    async fn copy<C>(&self, client: &mut C, mut work: Work, statement: &Statement) -> PgWireResult<Response>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if client.transaction_status() == TransactionStatus::Error {
            return Err(plain(Refusal::Aborted));
        }
        let Copy { question, form } = Copy::of(statement).map_err(plain)?;
        let service = &self.0.service;
        let context = service.engine.context();
        let rows = work.run(async {
            let plan = service.engine.plan(&context, &service.parser.rewrite(question)).await?;
            let frame = context.execute_logical_plan(plan).await.map_err(failed)?;
            frame.execute_stream().await.map_err(failed)
        });
        let rows = rows.await??;
        let memory = MemoryConsumer::new("a file").register(&context.runtime_env().memory_pool);
        let options = FormatOptions::from_client_metadata(client.metadata());
        let file = File::new(&form, &rows.schema(), options, memory)?;
        copy::send(client, work, rows, file).await
    }

    async fn ask(
        &self,
        client: &(impl ClientInfo + Sync),
        context: &SessionContext,
        question: &Statement,
    ) -> PgWireResult<(LogicalPlan, QueryResponse)> {
        let plan = self.0.service.engine.plan(context, question).await?;
        let rows = rows(client, context, plan.clone(), &Format::UnifiedText).await?;
        Ok((plan, rows))
    }
}

/// Begins a plan.
async fn rows(
    client: &(impl ClientInfo + Sync),
    context: &SessionContext,
    plan: LogicalPlan,
    format: &Format,
) -> PgWireResult<QueryResponse> {
    let frame = context.execute_logical_plan(plan).await.map_err(failed)?;
    let options = FormatOptions::from_client_metadata(client.metadata());
    encode_dataframe(frame, format, Some(Arc::new(options))).await
}

fn failed(error: DataFusionError) -> PgWireError {
    PgWireError::ApiError(Box::new(error))
}

#[async_trait]
impl ExtendedQueryHandler for Statements {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser(self.0.clone()))
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Prepared>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (statement, described) = match &portal.statement.statement {
            Prepared::Planned(statement, plan) => (statement, plan),
            Prepared::Said(statement) => return settings::answer(client, statement).await,
            Prepared::Copy(statement) => {
                let work = self.0.work(&*client);
                return self.copy(client, work, statement).await;
            }
            Prepared::Verifier => return question::answer(portal, |role| self.0.service.verifier_text(role)),
        };
        if client.transaction_status() == TransactionStatus::Error {
            return Err(plain(Refusal::Aborted));
        }
        let mut work = self.0.work(&*client);
        let asked = work.run(async {
            let context = self.0.service.engine.context();
            // As the tables are now, not as they were when it was prepared.
            let plan = self.0.service.engine.plan(&context, statement).await?;
            if plan.schema().as_arrow() != described.schema().as_arrow() {
                return Err(plain(Refusal::Changed));
            }
            let values = parameters::values(portal, &plan)?;
            let plan = plan.replace_params_with_values(&values).map_err(failed)?;
            rows(&*client, &context, plan, &portal.result_column_format).await
        });
        let answer = asked.await??;
        Ok(Response::Query(work.guard(answer)))
    }

    /// Sends rows as they are made. `pgwire` would gather all that are asked for first.
    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
                return Ok(());
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        let state = portal.state();
        let mut state = state.lock().await;
        let most = usize::try_from(message.max_rows).unwrap_or_default();
        let mut rows = match std::mem::replace(&mut *state, PortalExecutionState::Finished) {
            PortalExecutionState::Suspended(rows) => rows,
            PortalExecutionState::Finished => QueryResponse::new(Arc::default(), futures::stream::empty()),
            PortalExecutionState::Initial => {
                match ExtendedQueryHandler::do_query(self, client, &portal, most).await? {
                    Response::Query(rows) => rows,
                    other => {
                        *state = PortalExecutionState::Initial;
                        return short(client, other).await;
                    }
                }
            }
        };
        let mut sent = 0;
        while most == 0 || sent < most {
            let Some(row) = rows.data_rows().next().await else {
                let tag = Tag::new(rows.command_tag()).with_rows(sent);
                client.feed(PgWireBackendMessage::CommandComplete(tag.into())).await?;
                return Ok(());
            };
            client.feed(PgWireBackendMessage::DataRow(row?)).await?;
            sent += 1;
        }
        *state = PortalExecutionState::Suspended(rows);
        client.feed(PgWireBackendMessage::PortalSuspended(PortalSuspended::new())).await?;
        Ok(())
    }
}

/// Sends an answer that has no rows.
async fn short<C>(client: &mut C, answer: Response) -> PgWireResult<()>
where
    C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::PortalStore: PortalStore<Statement = Prepared>,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let status = client.transaction_status();
    match answer {
        Response::EmptyQuery => {
            client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        Response::Execution(tag) => send_execution_response(client, tag).await?,
        Response::TransactionStart(tag) => {
            send_execution_response(client, tag).await?;
            client.set_transaction_status(status.to_in_transaction_state());
        }
        Response::TransactionEnd(tag) => {
            send_execution_response(client, tag).await?;
            client.set_transaction_status(status.to_idle_state());
        }
        Response::Error(error) => return Err(PgWireError::UserError(error)),
        _ => return Err(plain(Refusal::NotDone("this".to_owned()))),
    }
    Ok(())
}

/// What prepares a session's statements.
pub(crate) struct Parser(Arc<Session>);

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        if self.0.role()? == Role::Gateway {
            return question::prepare(sql);
        }
        let mut statements = self.0.parse(sql)?;
        let Some(statement) = statements.pop() else { return Ok(None) };
        if !statements.is_empty() {
            let why = "cannot insert multiple commands into a prepared statement".to_owned();
            return Err(plain(Refusal::Syntax(why)));
        }
        Ok(Some(match allowed(&statement).map_err(plain)? {
            Kind::Question => {
                let context = self.0.service.engine.context();
                let planning = self.0.service.engine.plan(&context, &statement);
                let plan = self.0.work(client).run(planning).await??;
                Prepared::Planned(statement, plan)
            }
            // What a fetch gives would have to be told before it is known which cursor is meant.
            Kind::Cursor => {
                return Err(plain(Refusal::NotDone("a cursor by the extended protocol".to_owned())));
            }
            Kind::Copy => Prepared::Copy(statement),
            Kind::Said => Prepared::Said(statement),
        }))
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        match statement {
            Prepared::Planned(_, plan) => parameters::types(plan),
            Prepared::Said(_) | Prepared::Copy(_) => Ok(Vec::new()),
            Prepared::Verifier => Ok(question::parameters()),
        }
    }

    fn get_result_schema(
        &self,
        statement: &Prepared,
        column_format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        match statement {
            Prepared::Planned(_, plan) => {
                let format = column_format.unwrap_or(&Format::UnifiedText);
                arrow_schema_to_pg_fields(plan.schema().as_arrow(), format, None)
            }
            Prepared::Said(statement) => Ok(settings::fields(statement)),
            Prepared::Copy(_) => Ok(Vec::new()),
            Prepared::Verifier => Ok(question::fields(column_format)),
        }
    }
}

/// Requests to cancel, which come by connections of their own.
pub(crate) struct Canceller(pub(crate) Arc<Session>);

#[async_trait]
impl CancelHandler for Canceller {
    async fn on_cancel_request(&self, request: CancelRequest) {
        self.0.service.cancels.cancel(request.pid, &request.secret_key);
    }
}
