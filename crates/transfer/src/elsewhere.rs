//! A server in which nothing of Stead's is: tables are those of its catalog that the role may read, and what a stream needs
//! beside is made where the role may make it, and asked for where it may not.

use tokio_postgres::error::SqlState;

use crate::publish::{self, literal};
use crate::slot::Unpublished;
use crate::source::quoted;
use crate::wire::{Elsewhere, Mode};
use crate::{Error, Publication, Source};

/// The oldest engine that is read.
const OLDEST: i32 = 15;
/// How a publication is told that was made here.
const MADE: &str = "made by a transfer of Stead's";
const PUBLISHES: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";

/// What is meant to be read of it, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Meant {
    user: String,
    mode: Mode,
    /// Tables by patterns of `like`, of schema and of name.
    tables: Vec<publish::Like>,
}

/// What a publication is.
struct Published {
    is_ours: bool,
    /// All changes, and of partitioned tables by the root.
    is_whole: bool,
}

/// A table that is meant.
struct Table {
    name: String,
    schema: String,
    /// As SQL has it.
    named: String,
    why: Option<String>,
    may_use: bool,
    may_select: bool,
    has_policies: bool,
    is_partitioned: bool,
    is_ours: bool,
    is_published: bool,
}

impl Meant {
    pub(crate) fn new(elsewhere: &Elsewhere, mode: &Mode) -> Self {
        Self { user: elsewhere.user.clone(), mode: mode.clone(), tables: elsewhere.tables.clone() }
    }

    /// Whether a table is meant.
    pub(crate) fn has(&self, schema: &str, table: &str) -> bool {
        self.tables.iter().any(|(schemas, tables)| fits(schemas, schema) && fits(tables, table))
    }

    /// Schema, name, columns and row filter of the tables that are read, as SQL.
    pub(crate) fn tables(&self, publication: &Publication) -> String {
        let readable = format!(
            "{} and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
             and not row_security_active(c.oid) and ({}) is null",
            self.meant(),
            publish::unfit(&self.mode)
        );
        match self.mode {
            Mode::Stream => format!(
                "(select t.schemaname, t.tablename, t.attnames, t.rowfilter from pg_publication_tables t
                  join pg_namespace n on n.nspname = t.schemaname
                  join pg_class c on c.relname = t.tablename and c.relnamespace = n.oid
                  where t.pubname = '{publication}' and {readable})"
            ),
            Mode::Snapshot | Mode::Query(_) => format!(
                "(select n.nspname as schemaname, c.relname as tablename,
                         array(select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
                               and not a.attisdropped and a.attgenerated = '' order by a.attnum) as attnames,
                         null::text as rowfilter
                  from pg_class c join pg_namespace n on n.oid = c.relnamespace where {readable})"
            ),
        }
    }

    /// Whether a table (`c`, of schema `n`) is meant, as SQL.
    fn meant(&self) -> String {
        let names: Vec<_> = self
            .tables
            .iter()
            .map(|(schema, table)| {
                format!("(n.nspname like {} and c.relname like {})", literal(schema), literal(table))
            })
            .collect();
        format!(
            "c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^pg_'
             and n.nspname <> 'information_schema' and ({})",
            if names.is_empty() { "false".to_owned() } else { names.join(" or ") }
        )
    }
}

impl Source {
    /// Whether the server is one that can be read like this.
    pub(crate) async fn check(&self, meant: &Meant) -> Result<(), Error> {
        let ask = "select current_setting('server_version_num')::int4 / 10000, pg_is_in_recovery(),
                current_setting('wal_level'),
                (select rolreplication or rolsuper from pg_roles where rolname = current_user)
                    or exists (select from pg_roles r where r.rolname = 'rds_replication'
                               and pg_has_role(r.oid, 'member')),
                exists (select from pg_roles where rolname = 'rds_replication')";
        let row = self.client.query_one(ask, &[]).await?;
        let unready = |why: String| Err(Error::Unready(why));
        let engine: i32 = row.get(0);
        if engine < OLDEST {
            return unready(format!("it is PostgreSQL {engine}; {OLDEST} and later are read"));
        }
        if meant.mode != Mode::Stream {
            return Ok(());
        }
        if row.get(1) {
            return unready(
                "it is a standby, which tells no changes; name its primary in the URL, or read it by mode = \"query\" or \
                 \"snapshot\""
                    .to_owned(),
            );
        }
        let level: &str = row.get(2);
        if level != "logical" {
            return unready(format!(
                "its `wal_level` is {level}, and changes are told only by `logical`: `alter system set wal_level = logical`, \
                 and restart it (on Amazon RDS: `rds.logical_replication = 1` in its parameter group)"
            ));
        }
        if !row.get::<_, Option<bool>>(3).unwrap_or(false) {
            let user = quoted(&meant.user);
            let grant = if row.get(4) {
                format!("grant rds_replication to {user}")
            } else {
                format!("alter role {user} replication")
            };
            return unready(format!("the role {} may not read its log: `{grant}`", meant.user));
        }
        Ok(())
    }

    /// Has the tables that are meant published, where they are to be and the role may; answers those that are not read.
    pub(crate) async fn prepare(&self, meant: &Meant) -> Result<Vec<Unpublished>, Error> {
        let tables = self.meant_tables(meant).await?;
        let publishes = meant.mode == Mode::Stream;
        let may_add = publishes && self.publication(meant, &tables).await?;
        let mut left = Vec::new();
        for table in tables {
            let mut why = table.unreadable(&meant.user).or(table.why.clone());
            if publishes && !table.is_published && why.is_none() {
                why = match may_add && table.is_ours {
                    true => self.add(&table).await?,
                    false => Some(format!(
                        "it is not published; whoever owns it and the publication has to run `{}`",
                        self.adding(&table)
                    )),
                };
            } else if table.is_published && table.is_ours && may_add && table.why.is_some() {
                // PostgreSQL refuses the application's own updates of what is published and has nothing that identifies rows.
                let drop = format!("alter publication {} drop table {}", self.publication, table.named);
                self.client.batch_execute(&drop).await?;
            }
            let Table { schema, name, .. } = table;
            left.extend(why.map(|why| Unpublished { schema, name, why }));
        }
        Ok(left)
    }

    async fn meant_tables(&self, meant: &Meant) -> Result<Vec<Table>, Error> {
        let ask = format!(
            "select c.relname::text, n.nspname::text, format('%I.%I', n.nspname, c.relname),
                    {}, has_schema_privilege(n.oid, 'usage'), has_table_privilege(c.oid, 'select'),
                    row_security_active(c.oid), c.relkind = 'p', pg_has_role(c.relowner, 'usage'),
                    exists (select from pg_publication_tables p where p.pubname = '{}'
                            and p.schemaname = n.nspname and p.tablename = c.relname)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace where {} order by 2, 1",
            publish::unfit(&meant.mode),
            self.publication,
            meant.meant()
        );
        let rows = self.client.query(ask.as_str(), &[]).await?;
        let tables = rows.iter().map(|row| Table {
            name: row.get(0),
            schema: row.get(1),
            named: row.get(2),
            why: row.get(3),
            may_use: row.get(4),
            may_select: row.get(5),
            has_policies: row.get(6),
            is_partitioned: row.get(7),
            is_ours: row.get(8),
            is_published: row.get(9),
        });
        Ok(tables.collect())
    }

    /// Makes the publication where there is none; whether tables can be added to it.
    async fn publication(&self, meant: &Meant, tables: &[Table]) -> Result<bool, Error> {
        let name = &self.publication;
        let ask = "select pg_has_role(pubowner, 'usage') and not puballtables,
                          pubinsert and pubupdate and pubdelete and pubtruncate and pubviaroot
                   from pg_publication where pubname = $1";
        let found = self.client.query_opt(ask, &[&name.to_string()]).await?;
        let found = found.map(|row| Published { is_ours: row.get(0), is_whole: row.get(1) });
        match found {
            Some(Published { is_whole: false, .. }) => Err(Error::Unready(format!(
                "its publication {name} does not tell all: whoever owns it has to run `alter publication {name} set ({PUBLISHES})`"
            ))),
            Some(Published { is_ours, .. }) => Ok(is_ours),
            None => {
                let may = "select has_database_privilege(current_database(), 'create')";
                if !self.client.query_one(may, &[]).await?.get::<_, bool>(0) {
                    let fit = tables.iter().filter(|table| table.why.is_none());
                    let names: Vec<_> = fit.map(Table::published).collect();
                    let names = if names.is_empty() {
                        String::new()
                    } else {
                        format!(" for table {}", names.join(", "))
                    };
                    return Err(Error::Unready(format!(
                        "the role {} may make no publication; whoever owns the tables has to run `create publication \
                         {name}{names} with ({PUBLISHES})`, or `grant create on database … to {}`",
                        meant.user,
                        quoted(&meant.user)
                    )));
                }
                let make = format!(
                    "begin; create publication {name} with ({PUBLISHES});
                     comment on publication {name} is {}; commit",
                    literal(MADE)
                );
                self.whole(&make).await?;
                Ok(true)
            }
        }
    }

    fn adding(&self, table: &Table) -> String {
        format!("alter publication {} add table {}", self.publication, table.published())
    }

    /// Adds a table of the role's own; why not, where somebody else holds it.
    async fn add(&self, table: &Table) -> Result<Option<String>, Error> {
        let add = format!("begin; set local lock_timeout = '1s'; {}; commit", self.adding(table));
        match self.whole(&add).await {
            Ok(()) => Ok(None),
            Err(Error::Source(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                Ok(Some("somebody holds a lock on it; it is tried again".to_owned()))
            }
            Err(Error::Source(error)) if error.as_db_error().is_some() => Ok(Some(format!(
                "it cannot be published: {}; `{}`",
                error.as_db_error().map_or("", |said| said.message()),
                self.adding(table)
            ))),
            Err(error) => Err(error),
        }
    }

    /// Runs a transaction, and leaves none open behind one that failed.
    async fn whole(&self, transaction: &str) -> Result<(), Error> {
        if let Err(error) = self.client.batch_execute(transaction).await {
            let _ = self.client.batch_execute("rollback").await;
            return Err(error.into());
        }
        Ok(())
    }

    /// Takes away what was made in the server, and waits for nobody.
    pub(crate) async fn leave(&self) -> Result<(), Error> {
        self.drop_slot().await?;
        let name = &self.publication;
        let ours =
            "select from pg_publication where pubname = $1 and obj_description(oid, 'pg_publication') = $2";
        if self.client.query_opt(ours, &[&name.to_string(), &MADE]).await?.is_some() {
            self.client.batch_execute(&format!("drop publication if exists {name}")).await?;
        }
        Ok(())
    }
}

impl Table {
    /// As a publication has it.
    fn published(&self) -> String {
        if self.is_partitioned { self.named.clone() } else { format!("only {}", self.named) }
    }

    /// Why the role does not see all of it.
    fn unreadable(&self, user: &str) -> Option<String> {
        let Self { schema, named, .. } = self;
        let role = quoted(user);
        let mut grants = Vec::new();
        if !self.may_use {
            grants.push(format!("grant usage on schema {} to {role}", quoted(schema)));
        }
        if !self.may_select {
            grants.push(format!("grant select on {named} to {role}"));
        }
        if !grants.is_empty() {
            return Some(format!("the role {user} may not read it: `{}`", grants.join("; ")));
        }
        self.has_policies.then(|| {
            format!(
                "row security hides rows of it from the role {user}; `alter role {role} bypassrls`, or leave it out of `tables`"
            )
        })
    }
}

/// Whether a name is one of a pattern of `like`.
fn fits(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('%') => name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .any(|at| fits(rest.as_str(), name.get(at..).unwrap_or_default())),
        Some(c) => {
            let c = if c == '\\' { rest.next().unwrap_or(c) } else { c };
            name.strip_prefix(c).is_some_and(|name| fits(rest.as_str(), name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_by_patterns_as_the_server_does() {
        for (pattern, name, does) in [
            ("%", "", true),
            ("%", "a", true),
            ("order\\_%", "order_1", true),
            ("order\\_%", "orders", false),
            ("%s", "orders", true),
            ("%ä%", "bär", true),
            ("a", "ab", false),
            ("50\\%", "50%", true),
        ] {
            assert_eq!(fits(pattern, name), does, "{pattern} {name}");
        }
    }
}
