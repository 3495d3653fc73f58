//! What the server's catalog says of the tables that are read.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::Error;
use crate::change::{Catalog, Column, Facts, Relation, Storage};
use crate::lists;
use crate::parts::Parts;
use crate::source::{Texts, Which};

/// The tables that are read, as SQL has their names.
pub(crate) async fn names(client: &Client, which: &Which) -> Result<Vec<String>, Error> {
    let names = format!("select format('%I.%I', p.schemaname, p.tablename) from {which} p order by 1");
    Ok(client.query(names.as_str(), &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// The tables that are read and what of them is, by name.
pub(crate) async fn tables(
    client: &Client,
    which: &Which,
    texts: &Texts,
    parts: &Parts,
) -> Result<Vec<Relation>, Error> {
    // What identifies a row is what the replica identity says, and the primary key where that is the whole row.
    let columns = format!(
        "select c.oid, p.schemaname::text, p.tablename::text, a.attname::text,
            (with recursive base (id, next) as (
                 select t.oid, t.typbasetype from pg_type t where t.oid = a.atttypid
                 union all select t.oid, t.typbasetype from base join pg_type t on t.oid = base.next)
             select id from base where next = 0),
            a.atttypmod, coalesce(a.attnum = any(i.indkey), false),
            a.attnum, a.xmin::text,
            case when c.relkind <> 'p' then case when a.atthasmissing then a.attmissingval::text end else (
                 select l.attmissingval::text from pg_partition_tree(c.oid) t
                 join pg_attribute l on l.attrelid = t.relid and l.attname = a.attname and l.atthasmissing
                 limit 1) end,
            c.relnatts, p.rowfilter
        from {which} p
        join pg_namespace n on n.nspname = p.schemaname
        join pg_class c on c.relname = p.tablename and c.relnamespace = n.oid
        join pg_attribute a on a.attrelid = c.oid and a.attname = any(p.attnames) and not a.attisdropped
        left join pg_index i on i.indrelid = c.oid
            and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
        order by 2, 3, a.attnum"
    );
    let mut files = files(client, which).await?;
    let mut tables: Vec<Relation> = Vec::new();
    for row in client.query(columns.as_str(), &[]).await? {
        let oid: u32 = row.get(0);
        let column =
            Column { name: row.get(3), type_id: row.get(4), modifier: row.get(5), is_key: row.get(6) };
        let before: Option<String> = row.get(9);
        // It is the only element of an array.
        let before = before.map(|text| lists::elements(&text)).transpose().map_err(Error::Strange)?;
        let facts = Facts {
            number: row.get(7),
            declared: row.get(8),
            before: before.and_then(|elements| elements.into_iter().next().flatten()),
        };
        match tables.last_mut().filter(|table| table.oid == oid) {
            Some(table) => {
                table.columns.push(column);
                if let Some(catalog) = &mut table.catalog {
                    catalog.columns.push(facts);
                }
            }
            None => tables.push(Relation {
                schema: row.get(1),
                name: row.get(2),
                oid,
                columns: vec![column],
                catalog: Some(Catalog {
                    columns: vec![facts],
                    width: row.get(10),
                    filter: row.get(11),
                    files: files.remove(&oid).unwrap_or_default(),
                }),
            }),
        }
    }
    for table in &mut tables {
        texts.apply(table);
        parts.apply(table);
    }
    Ok(tables)
}

/// The files of each of them.
async fn files(client: &Client, which: &Which) -> Result<HashMap<u32, Vec<Storage>>, Error> {
    // A partition that was made as one has been so since the transaction that made it.
    let files = format!(
        "with published as (
            select c.oid, c.relkind from {which} p
            join pg_namespace n on n.nspname = p.schemaname
            join pg_class c on c.relname = p.tablename and c.relnamespace = n.oid)
        select p.oid, leaf.oid, leaf.relfilenode, coalesce(own.xmin::text <> i.xmin::text, false)
        from published p
        cross join lateral (
            select p.oid as relid where p.relkind <> 'p'
            union all select t.relid from pg_partition_tree(p.oid) t where p.relkind = 'p' and t.isleaf) t
        join pg_class leaf on leaf.oid = t.relid
        left join pg_inherits i on i.inhrelid = leaf.oid and p.relkind = 'p'
        left join pg_attribute own on own.attrelid = leaf.oid and own.attnum = -1
        order by 1, 2"
    );
    let mut found: HashMap<u32, Vec<Storage>> = HashMap::new();
    for row in client.query(files.as_str(), &[]).await? {
        let storage = Storage { oid: row.get(1), file: row.get(2), was_attached: row.get(3) };
        found.entry(row.get(0)).or_default().push(storage);
    }
    Ok(found)
}
