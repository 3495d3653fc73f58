//! Cursors: an answer that is fetched in parts, as psql does with `FETCH_COUNT`.
//!
//! A cursor is a portal that has been begun. It sees the lake as it was when it was declared.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{CloseCursor, Declare, DeclareType, FetchDirection, Statement, Value};
use futures::{StreamExt, stream};
use pgwire::api::ClientPortalStore;
use pgwire::api::portal::{Portal, PortalExecutionState};
use pgwire::api::results::{QueryResponse, Response, Tag};
use pgwire::api::stmt::StoredStatement;
use pgwire::api::store::{MemPortalStore, PortalStore};
use pgwire::error::PgWireResult;

use crate::refusal::{Refusal, plain};
use crate::session::Prepared;

/// What is to be done with a cursor.
pub(crate) enum Order<'s> {
    Declare { name: &'s str, question: Box<Statement> },
    Fetch { name: &'s str, most: usize },
    Close { name: Option<&'s str> },
}

/// Reads a statement; what goes back, or jumps, is not done.
pub(crate) fn order(statement: &Statement) -> PgWireResult<Order<'_>> {
    let not_done = || plain(Refusal::NotDone(statement.to_string()));
    match statement {
        Statement::Declare { stmts } => match stmts.as_slice() {
            [Declare { names, declare_type: Some(DeclareType::Cursor), for_query: Some(query), .. }] => {
                let name = names.first().map(|name| name.value.as_str()).ok_or_else(not_done)?;
                Ok(Order::Declare { name, question: Box::new(Statement::Query(query.clone())) })
            }
            _ => Err(not_done()),
        },
        Statement::Fetch { name, direction, into: None, .. } => {
            let most = match direction {
                FetchDirection::Next | FetchDirection::Forward { limit: None } => Some(1),
                FetchDirection::All | FetchDirection::ForwardAll => Some(usize::MAX),
                FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => {
                    match &limit.value {
                        Value::Number(number, _) => number.parse().ok(),
                        _ => None,
                    }
                }
                _ => None,
            };
            Ok(Order::Fetch { name: &name.value, most: most.ok_or_else(not_done)? })
        }
        Statement::Close { cursor: CloseCursor::All } => Ok(Order::Close { name: None }),
        Statement::Close { cursor: CloseCursor::Specific { name } } => {
            Ok(Order::Close { name: Some(&name.value) })
        }
        _ => Err(not_done()),
    }
}

/// Keeps an answer to be fetched.
pub(crate) async fn declare<C>(
    client: &C,
    name: &str,
    prepared: Prepared,
    rows: QueryResponse,
) -> PgWireResult<Response>
where
    C: ClientPortalStore + Sync,
    C::PortalStore: PortalStore,
{
    let statement = StoredStatement::new(name.to_owned(), prepared, Vec::new());
    let portal = Portal::new_cursor(name.to_owned(), Arc::new(statement));
    portal.start(rows).await;
    store(client)?.put_portal(Arc::new(portal));
    Ok(Response::Execution(Tag::new("DECLARE CURSOR")))
}

/// The next rows, which are made as they are sent.
pub(crate) async fn fetch<C>(client: &C, name: &str, most: usize) -> PgWireResult<Response>
where
    C: ClientPortalStore + Sync,
    C::PortalStore: PortalStore,
{
    let found = store(client)?.get_portal(name);
    let portal = found.as_ref().and_then(|found| found.value()).cloned();
    let portal = portal.ok_or_else(|| plain(Refusal::NoCursor(name.to_owned())))?;
    let state = portal.state().lock_owned().await;
    let PortalExecutionState::Suspended(rows) = &*state else {
        return Err(plain(Refusal::NoCursor(name.to_owned())));
    };
    let fields = rows.row_schema();
    let rows = stream::unfold((state, most), |(mut state, left)| async move {
        let left = left.checked_sub(1)?;
        let PortalExecutionState::Suspended(rows) = &mut *state else { return None };
        let row = rows.data_rows().next().await?;
        Some((row, (state, left)))
    });
    let mut answer = QueryResponse::new(fields, rows);
    answer.set_command_tag("FETCH");
    Ok(Response::Query(answer))
}

/// Forgets one, or all.
pub(crate) fn close<C>(client: &C, name: Option<&str>) -> PgWireResult<Response>
where
    C: ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let store = store(client)?;
    match name {
        None => store.clear_portals(),
        Some(name) if store.get_portal(name).is_none() => {
            return Err(plain(Refusal::NoCursor(name.to_owned())));
        }
        Some(name) => store.rm_portal(name),
    }
    Ok(Response::Execution(Tag::new("CLOSE CURSOR")))
}

fn store<C>(client: &C) -> PgWireResult<&MemPortalStore<Prepared>>
where
    C: ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let store = client.portal_store().as_any().downcast_ref();
    store.ok_or_else(|| plain(Refusal::NotDone("a cursor".to_owned())))
}
