//! Running a migration: once, whole, as the owner.
//!
//! The text is run by PL/pgSQL's `execute`, and its line in the ledger is written, in one transaction. `execute`
//! is what makes "whole" hold whatever the text says: PostgreSQL itself refuses `commit`, `rollback` and
//! `begin` inside it, so a migration cannot end its own transaction and leave half of itself behind.
//! The ledger, `stead.migrations`, is the owner's own table: it is read and written in the owner's sessions
//! only, and it travels in a dump like any other table.

use component::postgres::Migration;
use component::{Condition, ConditionKind, DriverError};
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, ErrorPosition};

use crate::act::unavailable;
use crate::fail_point;
use crate::session::describe;

const LEDGER: &str = "
create schema if not exists stead;
create table if not exists stead.migrations (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default clock_timestamp()
);
comment on table stead.migrations is 'Migrations that ran on this database; kept by Stead.';
";

/// Runs it, unless it ran already.
pub(crate) async fn run(client: &Client, migration: &Migration, text: &str) -> Result<(), DriverError> {
    client.batch_execute("begin").await.map_err(unavailable)?;
    match transaction(client, migration, text).await {
        Ok(()) => {
            fail_point!("driver-local::migration-before-commit");
            // A deferred constraint may still refuse here.
            client.batch_execute("commit").await.map_err(|error| refused(migration, text, error))?;
            fail_point!("driver-local::migration-committed");
            Ok(())
        }
        Err(error) => {
            let _ = client.batch_execute("rollback").await;
            Err(refused(migration, text, error))
        }
    }
}

async fn transaction(
    client: &Client,
    migration: &Migration,
    text: &str,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(LEDGER).await?;
    // Two workers at once: the second waits here and finds the line.
    client.batch_execute("lock table stead.migrations in share row exclusive mode").await?;
    let name = migration.name.as_str();
    if !client
        .query("select from stead.migrations where name operator(pg_catalog.=) $1", &[&name])
        .await?
        .is_empty()
    {
        return Ok(());
    }
    client.execute("select pg_catalog.set_config('stead.migration', $1, true)", &[&text]).await?;
    client.batch_execute("do $$ begin execute pg_catalog.current_setting('stead.migration'); end $$").await?;
    client
        .execute("insert into stead.migrations (name, sha256) values ($1, $2)", &[&name, &migration.sha256])
        .await?;
    Ok(())
}

fn refused(migration: &Migration, text: &str, error: tokio_postgres::Error) -> DriverError {
    let Some(db) = error.as_db_error() else { return unavailable(error) };
    let line = position(db).and_then(|position| line_of(text, position));
    let place =
        line.map_or_else(|| migration.name.to_string(), |line| format!("{} line {line}", migration.name));
    // Other causes inside PL/pgSQL's execute sound odd to who wrote a plain SQL file.
    let message = match db.message() {
        said if said.contains("of transaction commands is not implemented") => {
            "begin, commit, rollback and savepoint cannot be used in a migration, which is one transaction; \
             take them out"
                .to_owned()
        }
        said if said.contains("cannot COPY to/from client") => {
            "copy from stdin cannot be used in a migration; use insert".to_owned()
        }
        said if said.contains("SELECT ... INTO is not implemented") => {
            "select into cannot be used in a migration; use create table as".to_owned()
        }
        _ => describe(&error),
    };
    DriverError::Refused(Condition {
        kind: ConditionKind::MigrationFailed,
        message: format!(
            "migration {place}: {message} (SQLSTATE {}); it was rolled back, what ran before it is in place; \
             correct the file and apply again",
            db.code().code()
        ),
    })
}

/// Where in the migration the error is, characters from 1.
fn position(db: &DbError) -> Option<u32> {
    match db.position()? {
        // Of the `do` block, which says nothing.
        ErrorPosition::Original(_) => None,
        ErrorPosition::Internal { position, .. } => Some(*position),
    }
}

fn line_of(text: &str, position: u32) -> Option<usize> {
    let before = usize::try_from(position).ok()?.checked_sub(1)?;
    Some(text.chars().take(before).filter(|c| *c == '\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn a_position_is_a_line() {
        assert_eq!(line_of("a\nb\nc", 1), Some(1));
        assert_eq!(line_of("a\nb\nc", 3), Some(2));
        assert_eq!(line_of("ä\nb", 3), Some(2));
        assert_eq!(line_of("a", 0), None);
    }
}
