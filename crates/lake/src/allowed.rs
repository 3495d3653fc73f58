//! Which statements are done here: questions, and what drivers say besides.

use datafusion::sql::sqlparser::ast::{CopyTarget, Statement};

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
    /// `COPY … TO STDOUT`.
    Copy,
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
        Statement::Copy { to: true, target: CopyTarget::Stdout, .. } => Ok(Kind::Copy),
        Statement::Copy { to: true, target: CopyTarget::Program { .. }, .. } => {
            Err(Refusal::ReadOnly("COPY TO PROGRAM".to_owned()))
        }
        Statement::Copy { to: true, .. } => Err(Refusal::ReadOnly("COPY TO a file".to_owned())),
        Statement::Copy { .. } => Err(Refusal::ReadOnly("COPY FROM".to_owned())),
        other => Err(Refusal::ReadOnly(verb(other))),
    }
}

/// `INSERT`, `CREATE`: its first word.
fn verb(statement: &Statement) -> String {
    statement.to_string().split_whitespace().next().unwrap_or_default().to_uppercase()
}
