//! What there is in a database, as a tree.

use client::wire::{DatabaseSchema, Function, Relation};

use super::names::identifier;
use super::words;

/// Schemas with what is in them.
pub(super) struct Tree {
    pub(super) schemas: Vec<Schema>,
    /// Whether there is more.
    pub(super) truncated: bool,
}

/// A schema.
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) relations: Vec<Relation>,
    pub(super) functions: Vec<Function>,
}

impl Tree {
    pub(super) fn new(found: DatabaseSchema) -> Self {
        let mut schemas: Vec<Schema> = Vec::new();
        for relation in found.relations {
            schema(&mut schemas, &relation.schema).relations.push(relation);
        }
        for function in found.functions {
            schema(&mut schemas, &function.schema).functions.push(function);
        }
        schemas.sort_by(|a, b| a.name.cmp(&b.name));
        Self { schemas, truncated: found.truncated }
    }
}

fn schema<'a>(schemas: &'a mut Vec<Schema>, name: &str) -> &'a mut Schema {
    let n = schemas.iter().position(|schema| schema.name == name).unwrap_or_else(|| {
        schemas.push(Schema { name: name.to_owned(), relations: Vec::new(), functions: Vec::new() });
        schemas.len() - 1
    });
    &mut schemas[n]
}

impl Schema {
    /// What a statement calls something that is in it; `public` is on the search path.
    pub(super) fn called(&self, name: &str) -> String {
        if self.name == "public" {
            return identifier(name);
        }
        format!("{}.{}", identifier(&self.name), identifier(name))
    }

    /// What a statement calls a column.
    pub(super) fn column(&self, name: &str) -> String {
        identifier(name)
    }

    /// What a relation is, and about how large.
    pub(super) fn about(&self, relation: &Relation) -> String {
        let rows = relation.estimated_rows.and_then(|rows| u64::try_from(rows).ok());
        let rows = rows.map(|rows| format!("about {}", words::rows(Some(rows))));
        let kind = Some(relation.kind.clone()).filter(|kind| kind != "table");
        kind.into_iter().chain(rows).collect::<Vec<_>>().join(", ")
    }

    /// How many things are in it.
    pub(super) fn count(&self) -> usize {
        self.relations.len() + self.functions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_public_is_called_by_its_schema() {
        let of = |name: &str| Schema { name: name.into(), relations: Vec::new(), functions: Vec::new() };
        assert_eq!(of("public").called("flights"), "flights");
        assert_eq!(of("Sales").called("order"), "\"Sales\".\"order\"");
    }
}
