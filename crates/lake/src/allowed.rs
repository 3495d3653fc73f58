//! Which statements are done here: questions, and what drivers say besides.

use datafusion::sql::sqlparser::ast::Statement;

use crate::refusal::Refusal;

/// What to do with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Plan and run it.
    Question,
    /// A setting, a look at one, or a transaction.
    Said,
    /// `DECLARE`, `FETCH` or `CLOSE`.
    Cursor,
}

/// Decides; plans are looked at once more when they are made.
pub(crate) fn allowed(statement: &Statement) -> Result<Kind, Refusal> {
    match statement {
        Statement::Query(_)
        | Statement::Explain { .. }
        | Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowFunctions { .. } => Ok(Kind::Question),
        Statement::Set(_)
        | Statement::ShowVariable { .. }
        | Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { savepoint: None, .. }
        | Statement::Reset(_)
        | Statement::Discard { .. }
        | Statement::Deallocate { .. } => Ok(Kind::Said),
        Statement::Declare { .. } | Statement::Fetch { .. } | Statement::Close { .. } => Ok(Kind::Cursor),
        other => Err(Refusal::ReadOnly(verb(other))),
    }
}

/// `INSERT`, `COPY`, `CREATE`: its first word.
fn verb(statement: &Statement) -> String {
    statement.to_string().split_whitespace().next().unwrap_or_default().to_uppercase()
}
